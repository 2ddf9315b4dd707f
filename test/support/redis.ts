import { Effect, Layer } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import { inject } from "vitest"
import * as Redis from "../../src/backend/Redis.ts"
import * as RedisClient from "../../src/backend/RedisClient.ts"
import type { StoredRecord } from "../../src/StorageBackend.ts"
import type { StorageKey } from "../../src/StorageKey.ts"

export const url = inject("redisUrl")

export const newKeyPrefix = () => `test-${crypto.randomUUID()}`

export const layerClient = RedisClient.layer({ url: url ?? "" })

/** A backend on keys of its own, and its client. */
export const layerKeys = (options: Redis.Options) => Redis.layer(options).pipe(Layer.provideMerge(layerClient))

/** Puts a record into Redis as another client would. */
export const plant = (keyPrefix: string) => (key: StorageKey, record: StoredRecord) =>
  EffectRedis.Redis.use((redis) => {
    const base = `${keyPrefix}:{${key.owner.replace(/[%{}]/g, encodeURIComponent)}}`
    const expiresAt = record.expiresAt === undefined ? "" : String(record.expiresAt)
    return Effect.all([
      redis.send("ZADD", `${base}:index`, "0", key.id),
      redis.send("ZADD", `${base}:expiry`, expiresAt === "" ? "0" : expiresAt, key.id),
      ...(expiresAt === "" ? [redis.send("ZREM", `${base}:expiry`, key.id)] : []),
      redis.send(
        "HSET",
        `${base}:record:${key.id}`,
        ...["version", String(record.version), "data", record.data],
        ...["write_id", record.writeId ?? "", "expires_at", expiresAt]
      )
    ])
  })
