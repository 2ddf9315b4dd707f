/**
 * Effect's `CircuitBreakerStore` on any backend, for a single owner. A `CircuitBreaker` runs on it unchanged, and all
 * processes and machines share its circuits.
 */
import * as Digest from "effect/crypto/Digest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import { toMillis } from "../internal/time.ts"
import type { StorageBackend } from "../StorageBackend.ts"
import type * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import { type Admitted, Circuit, makeRules } from "./internal/circuit.ts"
import { makeStates, type StateError } from "./internal/states.ts"

/**
 * The owner of the circuits' records, and their times.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The owner of the records. The owner may have tasks and other records as well. */
  readonly owner: string
  /**
   * How long after its last sign of life the probe of a half-open circuit is given up, and another call may probe; 10
   * seconds by default.
   */
  readonly probeLease?: Duration.Input | undefined
  /** After how long without a call a circuit is forgotten, and starts again as closed; 1 hour by default. */
  readonly idleTimeToLive?: Duration.Input | undefined
}

/** Ids of tasks do not start with `!`, so the owner may have tasks as well. */
const idPrefix = "!circuit/"

const toCircuitBreakerError = (action: string) =>
  Effect.mapError(
    (cause: StateError) =>
      new CircuitBreaker.CircuitBreakerError({
        reason: new CircuitBreaker.CircuitBreakerStoreError({ message: `Failed to ${action}: ${cause.message}`, cause })
      })
  )

const toAdmission = (key: string, admitted: Admitted) => {
  if (admitted._tag === "Admitted") return Effect.succeed(admitted.admission)
  const reason =
    admitted._tag === "Open"
      ? new CircuitBreaker.CircuitOpen({ key, retryAfter: Duration.millis(admitted.remainingMillis) })
      : new CircuitBreaker.CircuitHalfOpen({ key })
  return Effect.fail(new CircuitBreaker.CircuitBreakerError({ reason }))
}

/**
 * A `CircuitBreakerStore` in an owner's records: those whose ids start with `!circuit/`. The rest of an id is the key
 * of the circuit. A key that can't be part of an id is hashed, as a key of a `StorageKeyValueStore` is.
 *
 * It does what Effect's stores do, and each step is atomic for all processes together. The probe of a half-open circuit
 * holds a lease of `probeLease`, which is renewed while it runs. If the lease ends, another call takes over, and the
 * outcome of the old probe is dropped. The times are those of the processes' clocks, which should agree to within a
 * fraction of `probeLease`. A circuit that is in use is written at least every tenth of `idleTimeToLive`, so it may be
 * forgotten that much earlier.
 *
 * A call through a closed circuit takes two requests: one that admits it and one that records its outcome. Calls of one
 * circuit that run at the same time in one process share requests. Some engines remove expired records themselves, and
 * others need `StorageBackend.layerCleanup`.
 *
 * If the storage fails, the reason of the `CircuitBreakerError` is a `CircuitBreakerStoreError`, whose `cause` is the
 * error of the storage: `Backend`; `VersionConflict` if others have changed the circuit for 30 seconds; `SchemaError`
 * if a record does not belong to this store. If the owner is invalid, building the Layer fails with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageCircuitBreaker } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 * import { CircuitBreaker } from "effect/persistence"
 *
 * const program = Effect.gen(function* () {
 *   const breaker = yield* CircuitBreaker.CircuitBreaker
 *   const call = breaker.execute(Effect.fail("no answer"), { key: "payments" })
 *   yield* Effect.flip(call)
 *   yield* Effect.flip(call)
 *   assert.strictEqual((yield* breaker.state("payments"))._tag, "Open")
 * })
 *
 * const layer = CircuitBreaker.layer({ tripPolicy: CircuitBreaker.consecutive(2), openDuration: "1 minute" }).pipe(
 *   Layer.provide(StorageCircuitBreaker.layer({ owner: "shop" })),
 *   Layer.provide(InMemory.layer)
 * )
 * Effect.runSync(program.pipe(Effect.provide(layer)))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ({
  idleTimeToLive = "1 hour",
  owner,
  probeLease = "10 seconds"
}: Options): Layer.Layer<CircuitBreaker.CircuitBreakerStore, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    CircuitBreaker.CircuitBreakerStore,
    Effect.gen(function* () {
      yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix }))
      const leaseMillis = Math.max(toMillis("probeLease", probeLease), 1)
      const rules = makeRules({ leaseMillis, idleMillis: Math.max(toMillis("idleTimeToLive", idleTimeToLive), 1) })
      const circuits = yield* makeStates(owner, idPrefix, Circuit)

      /** Renews the lease of a probe until it is lost. */
      const renew = (key: string, generation: number) =>
        circuits.modify(key, rules.renew(generation)).pipe(
          Effect.catch((error) => Effect.as(Effect.logWarning("The lease of a probe was not renewed", error), true)),
          Effect.delay(leaseMillis / 3),
          Effect.repeat({ while: (isRenewed) => isRenewed })
        )

      return CircuitBreaker.CircuitBreakerStore.of({
        admit: Effect.fnUntraced(function* (key) {
          const admitted = yield* toCircuitBreakerError("admit a call through the circuit")(
            circuits.modify(key, rules.admit(key))
          )
          const admission = yield* toAdmission(key, admitted)
          if (admission.probe) yield* Effect.forkScoped(Effect.interruptible(renew(key, admission.generation)))
          return admission
        }),
        record: (options) =>
          toCircuitBreakerError("record an outcome")(circuits.modify(options.key, rules.record(options))),
        state: (key) => toCircuitBreakerError("read the circuit state")(circuits.modify(key, rules.state(key)))
      })
    })
  ).pipe(Layer.provide(Digest.layerWebCrypto))
