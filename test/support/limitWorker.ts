/** A process that consumes a limit with 16 fibers until it is refused, and prints how much it got. */
import { Effect, Layer } from "effect"
import { RateLimiter } from "effect/persistence"
import * as StorageRateLimiter from "../../src/persistence/StorageRateLimiter.ts"
import { storageOf } from "./queueWorker.ts"

export const limit = 1000

if (process.argv[1] === import.meta.filename) {
  const storage = storageOf(JSON.parse(process.argv[2] ?? ""))
  const layer = RateLimiter.layer.pipe(
    Layer.provide(StorageRateLimiter.layer({ owner: "alice" })),
    Layer.provide(storage)
  )
  let taken = 0
  const consume = RateLimiter.RateLimiter.use(({ consume }) => consume({ key: "hot", limit, window: "1 hour" }))
  const untilRefused = consume.pipe(
    Effect.andThen(Effect.sync(() => taken++)),
    Effect.forever,
    Effect.catchIf(
      ({ reason }) => reason._tag === "RateLimitExceeded",
      () => Effect.void
    )
  )
  await Effect.runPromise(
    Effect.replicateEffect(untilRefused, 16, { concurrency: "unbounded" }).pipe(Effect.provide(layer))
  )
  console.log(taken)
}
