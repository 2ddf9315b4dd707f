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
 * Each write publishes the id of its record on a channel of the owner, `<keyPrefix>:{<owner>}:index`, so that watches
 * in other processes see it at once. While records are watched, `RedisClient` keeps one connection more, and hears all
 * owners on it; `NodeRedis.layer` keeps one for each owner that is watched. In a Redis Cluster this needs Redis 7.0.
 */
import type * as Config from "effect/Config"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as EffectRedis from "effect/persistence/Redis"
import type * as Schedule from "effect/Schedule"
import * as Engine from "../Engine.ts"
import { makeFrom } from "../internal/config.ts"
import { checkBoolean, checkLimit, checkSchedule, checkString } from "../internal/options.ts"
import { defaultMaxDataBytes, defaultRetrySchedule, StorageBackend } from "../StorageBackend.ts"
import type { Backend } from "../StorageError.ts"
import { isWorthRepeating, misconfigured } from "./internal/failure.ts"
import { makeHints, publishBy } from "./internal/redis/hints.ts"
import { listenOf } from "./internal/redis/listen.ts"
import { makeEngine } from "./internal/redis/requests.ts"
import { asRead, makeCommands } from "./internal/redis/send.ts"
import { verify as verifyServer } from "./internal/redis/verify.ts"

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
  /**
   * Whether building the Layer also fails if the server is a replica, refuses writes, or does not permit the user the
   * commands and keys of the operations; false by default. It takes one script, which changes nothing. Redis before 7.0
   * can't be asked for permissions, so there the script shows only whether the user may write to a sorted set. If the
   * user is confined to some owners or to reads, leave it off.
   */
  readonly verify?: boolean | undefined
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

const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<StorageBackend["Service"], Backend, EffectRedis.Redis> {
  const {
    keyPrefix = "evs",
    maxDataBytes = defaultMaxDataBytes,
    requestTimeout = "5 seconds",
    verify = false
  } = options
  const { retrySchedule = defaultRetrySchedule } = options
  checkString("keyPrefix", keyPrefix)
  checkSchedule("retrySchedule", retrySchedule)
  checkBoolean("verify", verify)
  if (/[{}]/.test(keyPrefix)) {
    return yield* misconfigured(`The keyPrefix ${keyPrefix} has braces, which Redis Cluster takes for a hash tag`)
  }
  const redis = yield* EffectRedis.Redis
  const commands = makeCommands(redis, requestTimeout)
  checkLimit("maxDataBytes", maxDataBytes)
  const opening = <A>(request: Effect.Effect<A, Backend>) =>
    request.pipe(
      Effect.mapError((error) => asRead(error, "open")),
      Effect.retry({ schedule: retrySchedule, while: isWorthRepeating })
    )
  const info = yield* opening(commands.send("INFO")).pipe(
    // Without permission for INFO the check is skipped.
    Effect.catch((error) => (/NOPERM|unknown command/.test(error.message) ? Effect.succeed("") : Effect.fail(error)))
  )
  yield* checkServer(String(info))
  if (verify) yield* opening(verifyServer(commands, keyPrefix))
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

/**
 * A store in the Redis that Effect's Redis service reaches. Building the Layer takes one request, which checks that the
 * server is new enough and does not evict keys. With the option `verify`, it also fails if the server would refuse the
 * operations. If the server gives no answer within `requestTimeout`, building the Layer fails.
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
  Layer.effect(StorageBackend, make(options))

/**
 * A store in Redis, set up from configuration. `RedisClient.layerConfig` takes the client's options from configuration.
 *
 * @example
 * ```ts
 * import * as Redis from "effect-versioned-store/Redis"
 * import * as RedisClient from "effect-versioned-store/RedisClient"
 * import { Config, Layer } from "effect"
 *
 * export const Storage = Redis.layerConfig({
 *   keyPrefix: Config.NonEmptyString("RECORDS_PREFIX"),
 *   verify: Config.succeed(true)
 * }).pipe(Layer.provide(RedisClient.layerConfig({ url: Config.NonEmptyString("REDIS_URL") })))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<StorageBackend, Backend | Config.ConfigError, EffectRedis.Redis> =>
  Layer.effect(StorageBackend, makeFrom(options, make))
