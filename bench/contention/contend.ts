/** Fibers that update one record, and what became of their updates. */
import { Context, Effect, Exit, Layer, Schema } from "effect"
import * as Sqlite from "../../dist/engine/Sqlite.js"
import * as DynamoDbGroup from "../group/dynamodb.ts"
import * as PostgresGroup from "../group/postgres.ts"
import * as RedisGroup from "../group/redis.ts"
import { InMemory, StorageBackend, VersionedStore } from "../library.ts"

type Backend = StorageBackend.StorageBackend["Service"]

export type EngineName = "InMemory" | "Sqlite" | "Redis" | "Postgres" | "DynamoDb"

/** What fibers do to one record. It is sent to other processes as JSON. */
export interface Load {
  readonly engine: EngineName
  /** The file, the URL or the endpoint of the engine. */
  readonly address: string
  readonly id: string
  readonly fibers: number
  /** No fiber begins another update after this time. */
  readonly millis: number
  /** How long updates that were begun in time may still take. After that they are given up. */
  readonly drainMillis: number
  /** No fiber does more updates than this. */
  readonly updatesEach: number
  readonly isGrouped: boolean
  /** Whether the function of an update is an Effect. */
  readonly isEffectful: boolean
}

export interface Outcome {
  readonly updates: number
  readonly failed: number
  /** How many updates were still waiting when the time was over, and were given up. */
  readonly unfinished: number
  readonly longestWaitMillis: number
  readonly requests: number
  /** How many writes have landed. One may carry the updates of several fibers. */
  readonly writes: number
  readonly seconds: number
}

export const makeBackend = (engine: EngineName, address: string) => {
  switch (engine) {
    case "InMemory":
      return makeFrom(InMemory.layer)
    case "Sqlite":
      return makeFrom(Sqlite.layer({ filename: address }))
    case "Redis":
      return RedisGroup.makeBackend(address)
    case "Postgres":
      return PostgresGroup.makeBackend(address)
    case "DynamoDb":
      return DynamoDbGroup.makeBackend(DynamoDbGroup.localConfig(address), true)
  }
}

const makeFrom = Effect.fnUntraced(function* <E>(layer: Layer.Layer<StorageBackend.StorageBackend, E>) {
  return Context.get(yield* Layer.build(Layer.fresh(layer)), StorageBackend.StorageBackend)
})

/** A backend that counts the operations of updates, each of which is one request, and the writes that land. */
const counted = (backend: Backend) => {
  const counts = { requests: 0, writes: 0 }
  const request = Effect.sync(() => {
    counts.requests++
  })
  const landed = Effect.sync(() => {
    counts.writes++
  })
  const counting: Backend = {
    ...backend,
    get: (key) => Effect.andThen(request, backend.get(key)),
    put: (...args) => Effect.andThen(request, Effect.tap(backend.put(...args), landed)),
    putIfVersion: (...args) => Effect.andThen(request, Effect.tap(backend.putIfVersion(...args), landed))
  }
  return { counting, counts }
}

export const contend = Effect.fnUntraced(function* (backend: Backend, load: Load) {
  const { counting, counts } = counted(backend)
  const store = yield* VersionedStore.make({ idPrefix: "contended/", schema: Schema.Int }).pipe(
    Effect.provideService(StorageBackend.StorageBackend, counting)
  )
  const key = { owner: "alice", id: load.id }
  yield* Effect.ignore(store.create(key, 0))
  const plain = load.isEffectful
    ? store.updateEffect(key, (n) => Effect.succeed(n + 1))
    : store.update(key, (n) => n + 1)
  const update = Effect.provideService(plain, VersionedStore.GroupCommit, load.isGrouped)

  Object.assign(counts, { requests: 0, writes: 0 })
  const result = { updates: 0, failed: 0, unfinished: 0, longestWaitMillis: 0 }
  const start = performance.now()
  let end = start
  const fiber = Effect.gen(function* () {
    for (let i = 0; i < load.updatesEach && performance.now() < start + load.millis; i++) {
      const before = performance.now()
      const waited = () => {
        end = performance.now()
        result.longestWaitMillis = Math.max(result.longestWaitMillis, end - before)
      }
      const gaveUp = Effect.sync(() => {
        waited()
        result.unfinished++
      })
      const exit = yield* Effect.onInterrupt(Effect.exit(update), () => gaveUp)
      waited()
      if (Exit.isSuccess(exit)) result.updates++
      else result.failed++
    }
  })
  yield* Effect.forEach(Array.from({ length: load.fibers }), () => fiber, {
    concurrency: "unbounded",
    discard: true
  }).pipe(Effect.timeoutOption(load.millis + load.drainMillis))
  return { ...result, ...counts, seconds: (end - start) / 1000 } satisfies Outcome
})
