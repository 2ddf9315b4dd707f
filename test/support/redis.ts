import { Effect, Layer, Logger, Schedule } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import { inject } from "vitest"
import type { StoredRecord } from "../../src/Engine.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { StorageKey } from "../../src/StorageKey.ts"
import { isWrite, redisProxy } from "./redisProxy.ts"

export const url = inject("redisUrl")

export const newKeyPrefix = () => `test-${crypto.randomUUID()}`

export const layerClient = RedisClient.layer({ url: url ?? "" })

/** A backend on keys of its own, and its client. */
export const layerKeys = (options: Redis.Options) => Redis.layer(options).pipe(Layer.provideMerge(layerClient))

/** Stores a record in Redis as another client would. */
export const plant = (keyPrefix: string) => (key: StorageKey, record: StoredRecord) =>
  EffectRedis.Redis.use((redis) => {
    const base = `${keyPrefix}:{${key.owner.replace(/[%{}]/g, encodeURIComponent)}}`
    const expiresAtSeconds = record.expiresAtSeconds === undefined ? "" : String(record.expiresAtSeconds)
    return Effect.all([
      redis.send("ZADD", `${base}:index`, "0", key.id),
      redis.send("ZADD", `${base}:expiry`, expiresAtSeconds === "" ? "0" : expiresAtSeconds, key.id),
      ...(expiresAtSeconds === "" ? [redis.send("ZREM", `${base}:expiry`, key.id)] : []),
      redis.send(
        "HSET",
        `${base}:record:${key.id}`,
        ...["version", String(record.version), "data", record.data],
        ...["write_id", record.writeId ?? "", "expires_at", expiresAtSeconds]
      )
    ])
  })

/** A client of the keys that loses the answers to some writes. */
export const lossy = (keyPrefix: string) => (isLost: () => boolean) =>
  Effect.gen(function* () {
    const proxy = yield* redisProxy(url ?? "", (command) => (isWrite(command) && isLost() ? "lose" : "pass"))
    const retrySchedule = Schedule.upTo(Schedule.spaced("5 millis"), { times: 400 })
    const layer = Redis.layer({ keyPrefix, retrySchedule }).pipe(
      Layer.provide(RedisClient.layer({ url: proxy.url, socket: { reconnectStrategy: () => 1 } })),
      Layer.provide(Logger.layer([]))
    )
    return yield* Effect.provide(StorageBackend, yield* Layer.build(layer))
  })

/** Sends a command to Redis as another client would. */
export const send = (command: string, ...args: ReadonlyArray<string>) =>
  EffectRedis.Redis.use((redis) => redis.send<unknown>(command, ...args))

/** The keys of a store, without its prefix. */
export const keysBelow = (keyPrefix: string) =>
  Effect.map(send("KEYS", `${keyPrefix.replace(/[\\*?[\]]/g, "\\$&")}:*`), (keys) =>
    (keys as ReadonlyArray<string>).map((key) => key.slice(keyPrefix.length + 1)).sort()
  )
