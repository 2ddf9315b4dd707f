/** A process that handles messages of a queue with a number of fibers, and prints each message it has handled. */
import { writeSync } from "node:fs"
import { Effect, Layer, Redacted, Schema } from "effect"
import { PersistedQueue } from "effect/persistence"
import * as Postgres from "../../src/engine/Postgres.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as StoragePersistedQueue from "../../src/persistence/StoragePersistedQueue.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"

export interface Work {
  readonly store:
    | { readonly filename: string }
    | { readonly url: string; readonly keyPrefix: string }
    | { readonly postgresUrl: string; readonly tableName: string }
  readonly owner: string
  readonly lockExpiration: number
}

export const storageOf = (store: Work["store"]) => {
  if ("filename" in store) return Sqlite.layer(store)
  if ("keyPrefix" in store) {
    return Redis.layer({ keyPrefix: store.keyPrefix }).pipe(Layer.provide(RedisClient.layer({ url: store.url })))
  }
  const { postgresUrl, tableName } = store
  return Postgres.layer({ tableName, hints: true }).pipe(
    Layer.provide(Layer.effectDiscard(Postgres.ensureTable({ tableName }))),
    Layer.provide(Postgres.layerClient({ url: Redacted.make(postgresUrl) }))
  )
}

export const makeQueue = PersistedQueue.make({ name: "work", schema: Schema.Int, maxAttempts: 100 })

export const layerOf = ({ lockExpiration, owner, store }: Work) =>
  PersistedQueue.layer.pipe(
    Layer.provide(StoragePersistedQueue.layer({ owner, lockExpiration, pollInterval: 50 })),
    Layer.provideMerge(storageOf(store))
  )

if (process.argv[1] === import.meta.filename) {
  const work: Work = JSON.parse(process.argv[2] ?? "")
  const handle = (n: number) =>
    Effect.andThen(
      Effect.sleep(10),
      Effect.sync(() => writeSync(1, `${n}\n`))
    )
  const program = Effect.flatMap(makeQueue, (queue) =>
    Effect.replicateEffect(Effect.forever(queue.take(handle)), 4, { concurrency: "unbounded" })
  )
  Effect.runFork(Effect.provide(program, layerOf(work)))
}
