/**
 * Records in Redis, 6.2 or newer, or in a Redis Cluster, for applications that run Redis already.
 *
 * It is built on Effect's own Redis service. `effect-versioned-store/RedisClient` provides that service, and so does
 * `NodeRedis.layer` of `@effect/platform-node`. Each operation is one command or one Lua script, which is atomic and
 * one round trip. If the server does not know the script yet, it takes one more. `cleanupExpired` takes many.
 *
 * A record is a hash. Each owner has two sorted sets: an index of the ids in order, and one by expiry. The keys of one
 * owner share a hash tag, so they are on one node of a cluster. Redis's own expiry removes a hash five minutes after
 * its record has expired. The script decides whether a record has expired, by the time that the client gives it.
 *
 * Redis acknowledges a write before its replicas have it, and, unless `appendfsync` is `always`, before its disk has
 * it. So a failover or a crash may lose acknowledged writes. A server that evicts keys may drop records; the Layer logs
 * a warning if it finds one.
 *
 * Each write publishes the id of its record on a channel of the owner, `<keyPrefix>:{<owner>}:changes`, so that watches
 * in other processes see it at once. While records are watched, `RedisClient` keeps one connection more, and hears all
 * owners on it; `NodeRedis.layer` keeps one for each owner that is watched. In a Redis Cluster this needs Redis 7.0.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as EffectRedis from "effect/persistence/Redis"
import type * as Schedule from "effect/Schedule"
import * as Engine from "../Engine.ts"
import { checkLimit, checkSchedule, checkString } from "../internal/options.ts"
import { defaultMaxDataBytes, defaultRetrySchedule, StorageBackend } from "../StorageBackend.ts"
import type { Backend } from "../StorageError.ts"
import { misconfigured } from "./internal/failure.ts"
import { makeHints, publishBy } from "./internal/redis/hints.ts"
import { listenOf } from "./internal/redis/listen.ts"
import { makeEngine } from "./internal/redis/requests.ts"
import { asRead, makeCommands } from "./internal/redis/send.ts"

/**
 * The keys of the records, and how commands are sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The prefix of all keys; `evs` by default. Stores with different prefixes share no records. */
  readonly keyPrefix?: string | undefined
  /**
   * How long a command may wait for its answer; 5 seconds by default. It is measured by the time of the machine and not
   * by Effect's `Clock`, so a `TestClock` does not make a command time out.
   */
  readonly requestTimeout?: Duration.Input | undefined
  /** The most bytes of UTF-8 that one record's data may take; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
  /** How a transient failure is retried; `StorageBackend.defaultRetrySchedule` by default. */
  readonly retrySchedule?: Schedule.Schedule<unknown, Backend> | undefined
}

/** OpenTelemetry's name of the engine. */
const system = "redis"

/** Fails if the server is too old, and warns if it may drop records. */
const checkServer = Effect.fnUntraced(function* (info: string) {
  const [, major, minor] = /redis_version:(\d+)\.(\d+)/.exec(info) ?? []
  if (Number(major) < 6 || (major === "6" && Number(minor) < 2)) {
    return yield* misconfigured(`This is Redis ${major}.${minor}, and 6.2 or newer is needed: update it`)
  }
  const policy = /maxmemory_policy:(\S+)/.exec(info)?.[1]
  if (policy !== undefined && policy !== "noeviction") {
    yield* Effect.logWarning(`Redis may drop records: its maxmemory-policy is ${policy}, and should be noeviction`)
  }
})

/**
 * A store in the Redis that Effect's Redis service reaches. Building the Layer takes one request, which checks that the
 * server is new enough and does not evict keys.
 *
 * @example
 * ```ts
 * import { NodeRedis } from "@effect/platform-node"
 * import * as Redis from "effect-versioned-store/Redis"
 * import { Layer } from "effect"
 *
 * export const Storage = Redis.layer({ keyPrefix: "shop" }).pipe(
 *   Layer.provide(NodeRedis.layer({ url: "redis://localhost:6379", disableOfflineQueue: true }))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<StorageBackend, Backend, EffectRedis.Redis> =>
  Layer.effect(
    StorageBackend,
    Effect.gen(function* () {
      const {
        keyPrefix = "evs",
        maxDataBytes = defaultMaxDataBytes,
        requestTimeout = "5 seconds",
        retrySchedule = defaultRetrySchedule
      } = options
      checkString("keyPrefix", keyPrefix)
      checkSchedule("retrySchedule", retrySchedule)
      if (/[{}]/.test(keyPrefix)) {
        return yield* misconfigured(`The keyPrefix ${keyPrefix} has braces, which Redis Cluster takes for a hash tag`)
      }
      const redis = yield* EffectRedis.Redis
      const commands = makeCommands(redis, requestTimeout)
      checkLimit("maxDataBytes", maxDataBytes)
      const info = yield* commands.send("INFO").pipe(
        Effect.mapError((error) => asRead(error, "open")),
        Effect.retry({ schedule: retrySchedule, while: (error) => error.isRetryable }),
        // Without permission for INFO the check is skipped.
        Effect.catch((error) =>
          /NOPERM|unknown command/.test(error.message) ? Effect.succeed("") : Effect.fail(error)
        )
      )
      yield* checkServer(String(info))
      const publish = publishBy(String(info))
      const hints = makeHints(listenOf(redis), keyPrefix, publish)
      return Engine.make(
        { ...makeEngine(commands, keyPrefix, publish), hints },
        {
          maxDataBytes,
          retrySchedule,
          telemetry: { system, collection: keyPrefix }
        }
      )
    })
  )
