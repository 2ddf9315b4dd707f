/** A counter that 100 fibers increment at once. With `get` and `set` most increments are lost, with `update` none. */
import { Console, Effect, Schema } from "effect"
import { InMemory, VersionedStore } from "effect-versioned-store"

const atOnce = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.all(
    Array.from({ length: 100 }, () => effect),
    { concurrency: "unbounded", discard: true }
  )

const program = Effect.gen(function* () {
  const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
  const visits = { owner: "alice", id: "visits" }

  yield* counters.create(visits, 0)
  yield* atOnce(
    Effect.gen(function* () {
      const { value } = yield* counters.get(visits)
      yield* Effect.yieldNow // any wait between the two will do, for example for a database
      yield* counters.set(visits, value + 1)
    })
  )
  yield* Console.log(`get and set: ${(yield* counters.get(visits)).value} of 100`)

  yield* counters.set(visits, 0)
  yield* atOnce(counters.update(visits, (n) => n + 1))
  yield* Console.log(`update: ${(yield* counters.get(visits)).value} of 100`)
})

// Another Layer, for example that of DynamoDB, keeps the counter for other processes. The program stays as it is.
await Effect.runPromise(program.pipe(Effect.provide(InMemory.layer)))
