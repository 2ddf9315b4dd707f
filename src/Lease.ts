/**
 * Leases: one holder at a time, among all fibers, processes and machines that share a backend, with a fencing token.
 *
 * No clock of another machine is trusted. The time to live is the holder's, and stands in the lease's record. Others
 * take the lease over only if they have found it released, or if they have seen the same write of its record stand for
 * that whole time, by their own monotonic clocks. The holder renews the lease every third of the time, and counts by
 * the larger of the monotonic and the wall time that have passed since it sent its last renewal. It ends 5% early.
 *
 * That makes two holders at once improbable, not impossible. A process that was stopped may go on for one or two steps
 * before it notices that its lease is gone. What must not be done by two holders is fenced: it is written by the
 * lease's `commit`, or beside the highest token that was seen.
 *
 * The record of the lease `id` has the id `lease/<id>`, and is never removed: it keeps the last token.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Scope from "effect/Scope"
import { toMillis } from "./internal/time.ts"
import type { LeaseLost, LeaseTaken } from "./lease/errors.ts"
import * as Hold from "./lease/hold.ts"
import { type Claim, left, localOf, newClaim } from "./lease/local.ts"
import { type Restore, take } from "./lease/take.ts"
import { type Step, StorageBackend, type VersionedRecord } from "./StorageBackend.ts"
import type * as StorageError from "./StorageError.ts"
import * as StorageKey from "./StorageKey.ts"

export { LeaseLost, LeaseTaken } from "./lease/errors.ts"

/**
 * The name of a lease: an owner, and an id among the owner's leases.
 *
 * @category models
 * @since 0.1.0
 */
export interface Key {
  readonly owner: string
  readonly id: string
}

/**
 * How a lease is held.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /**
   * For how long the lease stands without a renewal. If its holder dies, others wait this long. It is renewed every
   * third of it, and must be longer than the engine ever takes to answer.
   */
  readonly ttl: Duration.Input
  /** A name of the holder, which `LeaseTaken` shows to others; by default the number of the process. */
  readonly holder?: string | undefined
}

/**
 * A lease that is held.
 *
 * @category models
 * @since 0.1.0
 */
export interface Lease {
  /**
   * The fencing token: higher than that of every grant of the lease before. Keep the highest token seen in the record
   * that the lease protects, and refuse a lower one.
   */
  readonly token: number
  /** Never succeeds, and fails as soon as the lease is lost. Race the work with it. */
  readonly lost: Effect.Effect<never, LeaseLost>
  /** Fails if the lease is lost. It sends nothing, and looks at this process's clocks. */
  readonly check: Effect.Effect<void, LeaseLost>
  /**
   * Commits steps on records of the lease's owner, as `StorageBackend.commit` does, if and only if the lease is still
   * held: the commit checks the lease's record as well. The engine decides, and no clock does. If the commit fails with
   * `LeaseLost`, nothing was written. It takes up to 99 steps, and one request; two more for each renewal that lands
   * meanwhile.
   */
  readonly commit: (
    steps: ReadonlyArray<Step>
  ) => Effect.Effect<
    ReadonlyArray<VersionedRecord | undefined>,
    | LeaseLost
    | StorageError.RecordNotFound
    | StorageError.VersionConflict
    | StorageError.InvalidData
    | StorageError.CapacityExceeded
    | StorageError.InvalidCommit
    | StorageError.Backend
  >
}

/**
 * What taking a lease fails with.
 *
 * @category errors
 * @since 0.1.0
 */
export type AcquireError = StorageKey.InvalidKey | StorageError.CapacityExceeded | StorageError.Backend

/**
 * Takes a lease, waits for it if another holds it, and holds it until the scope is closed, which releases it. The work
 * is not interrupted if the lease is lost: race it with `lost`, or use {@link withLease}.
 *
 * The waiters of one process queue, and only the first one looks: on average every tenth of the time to live, at least
 * every 250 ms, and on hints. A waiter that is interrupted leaves no lease behind. If a holder has died, it is followed
 * once its whole time to live has passed. So a process that gives up waiting should wait longer than the time to live.
 *
 * Two requests if the lease is free, one for each look, one for each renewal, and one for the release. If others of the
 * same process wait, the release hands the lease over in its one request. A process that got the lease 16 times in a
 * row, handed over or taken again at once, then leaves it to others for a moment.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Lease, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const lease = yield* Lease.acquire({ owner: "jobs", id: "report" }, { ttl: "30 seconds" })
 *   yield* lease.commit([{ _tag: "Write", id: "report", expected: 0, data: "done" }])
 *   yield* lease.check
 * }).pipe(Effect.scoped)
 *
 * const key = StorageKey.makeUnsafe({ owner: "jobs", id: "report" })
 * const read = StorageBackend.StorageBackend.use((backend) => backend.get(key))
 * const record = await Effect.runPromise(Effect.andThen(program, read).pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(record.data, "done")
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const acquire = (key: Key, options: Options): Effect.Effect<Lease, AcquireError, StorageBackend | Scope.Scope> =>
  inScope(key, options, true, takePatiently)

/**
 * Like {@link acquire}, but fails with `LeaseTaken` instead of waiting. Three requests in all if the lease is free, and
 * one if not.
 *
 * A first look can't tell that a holder is dead. The process remembers what it saw, so if it tries again after the
 * holder's time to live, and nothing has changed meanwhile, it takes the lease over. A short-lived process that runs
 * only once must use `acquire`, with a time-out longer than the time to live.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Lease } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const tryReport = Lease.tryAcquire({ owner: "jobs", id: "report" }, { ttl: "30 seconds" })
 * const program = Effect.gen(function* () {
 *   yield* tryReport
 *   return yield* Effect.scoped(tryReport).pipe(
 *     Effect.as("taken"),
 *     Effect.catchTag("LeaseTaken", () => Effect.succeed("another has it"))
 *   )
 * }).pipe(Effect.scoped)
 * assert.strictEqual(await Effect.runPromise(program.pipe(Effect.provide(InMemory.layer))), "another has it")
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const tryAcquire = (
  key: Key,
  options: Options
): Effect.Effect<Lease, AcquireError | LeaseTaken, StorageBackend | Scope.Scope> =>
  inScope(key, options, false, (claim, restore) => take(claim, restore, false))

/**
 * Runs an effect while this fiber holds a lease that nobody else does. If the lease is lost, the effect is interrupted
 * and fails with `LeaseLost`. If it succeeds, it held the lease from its start to its end, by the clocks of this
 * process. It may be a function that gets the lease, for its token and its commits.
 *
 * A lease within the same lease, or in a scope that holds it, would wait for itself, and is a defect. The rest is as
 * {@link acquire} says.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Lease } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const withReport = Lease.withLease({ owner: "jobs", id: "report" }, { ttl: "30 seconds" })
 * const program = Effect.gen(function* () {
 *   const first = yield* withReport((lease) => Effect.succeed(lease.token))
 *   const second = yield* withReport((lease) => Effect.succeed(lease.token))
 *   assert.ok(second > first)
 *   return yield* Effect.succeed("done").pipe(withReport)
 * })
 * assert.strictEqual(await Effect.runPromise(program.pipe(Effect.provide(InMemory.layer))), "done")
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const withLease =
  (key: Key, options: Options) =>
  <A, E, R>(
    effect: Effect.Effect<A, E, R> | ((lease: Lease) => Effect.Effect<A, E, R>)
  ): Effect.Effect<A, E | AcquireError | LeaseLost, R | StorageBackend> =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function* () {
        const outer = yield* HeldByFiber
        const inScope = Option.match(yield* Effect.serviceOption(Scope.Scope), { onNone: () => [], onSome: claimsOf })
        const claim = yield* makeClaim(key, options, [...outer, ...inScope])
        yield* takePatiently(claim, restore)
        const lease = toLease(claim)
        const work = Effect.suspend(() => (Effect.isEffect(effect) ? effect : effect(lease))).pipe(
          Effect.provideService(HeldByFiber, [...outer, claim]),
          Effect.raceFirst(lease.lost),
          Effect.tap(lease.check)
        )
        return yield* Effect.onExit(restore(work), () => Hold.release(claim))
      })
    )

// -----------------------------------------------------------------------------

/** The leases that the effects around the running one hold. */
const HeldByFiber = Context.Reference<ReadonlyArray<Claim>>("effect-versioned-store/Lease/HeldByFiber", {
  defaultValue: () => []
})

/** The leases that end with a scope. */
const heldByScope = new WeakMap<Scope.Scope, ReadonlyArray<Claim>>()

const claimsOf = (scope: Scope.Scope) => (heldByScope.get(scope) ?? []).filter(({ error }) => error === undefined)

const makeClaim = Effect.fnUntraced(function* (
  { id, owner }: Key,
  { holder = processName, ttl }: Options,
  outer: ReadonlyArray<Claim>
) {
  const key = yield* Effect.fromResult(
    Result.flatMap(StorageKey.make({ owner, id }), ({ id, owner }) => StorageKey.make({ owner, id: `lease/${id}` }))
  )
  const local = localOf(yield* StorageBackend, yield* Clock.Clock, key)
  if (outer.some((claim) => claim.local === local && claim.error === undefined && left(claim) > 0)) {
    return yield* Effect.die(new Error(`The lease at ${key} is held here already, and would wait for itself`))
  }
  return newClaim(local, holder, toTtlMillis(ttl))
})

/** The name of a holder that gives none. Not every runtime numbers its processes. */
const processName = `process ${globalThis.process?.pid ?? "without a number"}`

const toTtlMillis = (ttl: Duration.Input): number => {
  const millis = toMillis("ttl", ttl)
  if (millis > 0 && Number.isFinite(millis)) return millis
  throw new RangeError(`ttl must be a finite duration above zero, such as "30 seconds": it is ${millis} ms`)
}

/** Whoever waits meets no lease that is taken. */
const takePatiently = (claim: Claim, restore: Restore) =>
  Effect.catchTag(take(claim, restore, true), "LeaseTaken", Effect.die)

const inScope = <E>(
  key: Key,
  options: Options,
  waits: boolean,
  take: (claim: Claim, restore: Restore) => Effect.Effect<void, E>
) =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function* () {
      const scope = yield* Effect.scope
      // In one scope, a second claim would wait for the end of the scope, and so for itself.
      const outer = yield* HeldByFiber
      const claim = yield* makeClaim(key, options, waits ? [...outer, ...claimsOf(scope)] : outer)
      yield* take(claim, restore)
      heldByScope.set(scope, [...claimsOf(scope), claim])
      yield* Scope.addFinalizer(scope, Hold.release(claim))
      return toLease(claim)
    })
  )

const toLease = (claim: Claim): Lease => ({
  token: claim.held?.token ?? 0,
  lost: Deferred.await(claim.lost),
  check: Hold.check(claim),
  commit: (steps) => Hold.commit(claim, steps)
})
