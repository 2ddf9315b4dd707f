/** A process that asks a circuit 16 times at once, and prints how many of the calls are to probe it. */
import { Effect, Layer } from "effect"
import { CircuitBreaker } from "effect/persistence"
import * as StorageCircuitBreaker from "../../src/persistence/StorageCircuitBreaker.ts"
import { storageOf, type Work } from "./queueWorker.ts"

export const key = "payments"

export const layerOf = (store: Work["store"]) =>
  StorageCircuitBreaker.layer({ owner: "alice", probeLease: "1 hour" }).pipe(Layer.provide(storageOf(store)))

if (process.argv[1] === import.meta.filename) {
  const admit = Effect.option(Effect.flatMap(CircuitBreaker.CircuitBreakerStore, (store) => store.admit(key)))
  const program = Effect.map(Effect.replicateEffect(admit, 16, { concurrency: "unbounded" }), (admitted) =>
    admitted.filter((admission) => admission._tag === "Some" && admission.value.probe)
  )
  const probes = await Effect.runPromise(
    Effect.scoped(program).pipe(Effect.provide(layerOf(JSON.parse(process.argv[2] ?? ""))))
  )
  console.log(probes.length)
}
