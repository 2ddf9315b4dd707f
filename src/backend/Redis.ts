/**
 * Records in Redis, 6.2 or newer, or Redis Cluster: for fleets that already run it.
 *
 * It is built on Effect's own Redis service, which `effect-versioned-store/RedisClient` provides, or `NodeRedis.layer` of
 * `@effect/platform-node`. Each operation is one command or one Lua script: atomic, and one round trip. A script that the
 * server does not know yet takes one more, and `cleanupExpired` many.
 *
 * A record is a hash, and each owner has two sorted sets: an index of the ids in their order, and one by expiry. The keys
 * of one owner share a hash tag, so that they are on one node of a cluster. Redis's own expiry collects a hash somewhat
 * after its record has expired; whether a record has is decided by the script, at the time that the client gives it.
 *
 * Redis acknowledges a write before its replicas have it, and, unless `appendfsync` is `always`, before its disk does: a
 * failover or a crash may lose acknowledged writes. A server that evicts keys may drop records; a Layer that finds one
 * logs a warning.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as EffectRedis from "effect/persistence/Redis"
import type * as Schedule from "effect/Schedule"
import { checkLimit } from "../internal/limit.ts"
import { toMillis } from "../internal/time.ts"
import * as StorageBackend from "../StorageBackend.ts"
import { type Backend, backend as backendError } from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"
import { clockSlackSeconds } from "./internal/clockSlack.ts"
import { checkSchedule, checkString } from "./internal/options.ts"
import { failureOf } from "./internal/redisFailure.ts"

/** Where in Redis the records are, and how they are asked for. */
export interface Options {
  /** What all keys start with, `evs` by default. Stores of different prefixes share nothing. */
  readonly keyPrefix?: string | undefined
  /** After how long a command without an answer is given up; 5 seconds by default. */
  readonly requestTimeout?: Duration.Input | undefined
  /** The most bytes of UTF-8 that one record's data takes; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
  /** How a transient failure is retried; `StorageBackend.defaultRetrySchedule` by default. */
  readonly retrySchedule?: Schedule.Schedule<unknown, Backend> | undefined
}

/** OpenTelemetry's name of the engine. */
const system = "redis"

/** The bytes of data after which a page ends, so that no reply grows without bound. */
const maxPageBytes = 1024 * 1024

/** A cleanup removes so many at a time, so that no script blocks the server for long. */
const cleanupBatch = 100

// -----------------------------------------------------------------------------
// Scripts
// -----------------------------------------------------------------------------

const script = <Reply>(lua: string) =>
  EffectRedis.script((keys: ReadonlyArray<string>, args: ReadonlyArray<string | number>) => [...keys, ...args], {
    lua,
    numberOfKeys: (keys) => keys.length
  }).withReturnType<Reply>()

/** The fields of a hash. An empty `expires_at` is never. */
const fields = "'version', 'data', 'write_id', 'expires_at'"

/** What is there, whether it is sound and live, and whether it is what is expected. What is damaged can only be removed. */
const readRecord = `
  local key, index, expiry = KEYS[1], KEYS[2], KEYS[3]
  local id, now, expected, expected_version, expected_match = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
  local version, data, write_id, expires_at = unpack(redis.call('HMGET', key, ${fields}))
  local stored = version or data or write_id or expires_at
  if write_id == '' then write_id = false end
  if expires_at == '' then expires_at = false end
  local sound = string.find(version or '', '^[1-9]%d*$') and (not expires_at or string.find(expires_at, '^%-?%d+$'))
  local live = stored and not (sound and expires_at and tonumber(expires_at) <= now)
  local function as_expected()
    if expected == 'nothing' then return not live end
    if expected == 'live' then return live end
    if stored and not sound then return false end
    if expected == 'anything' then return true end
    if not live or version ~= expected_version then return false end
    if expected == 'write' then return write_id == expected_match end
    if expected == 'data' then return not write_id and data == expected_match end
    return true
  end
  local function refused()
    if not stored or expected == 'live' then return {} end
    return {version or '', data or '', write_id or '', expires_at or ''}
  end
`

/**
 * The new version alone where it was written, and else what is there, if anything. Numbers are exact up to 2^53. Redis
 * does not undo what a script did before it failed: the hash is written last, and then only its expiry, which may fail.
 */
const writeScript = script<ReadonlyArray<string>>(`
  ${readRecord}
  local new_data, new_write_id, new_expires_at, ttl = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
  local number = tonumber(version or 0) or 0
  if number >= ${StorageBackend.maxVersion} or not as_expected() then return refused() end
  local next = string.format('%.0f', number + 1)
  redis.call('ZADD', index, 0, id)
  if ttl == '' then redis.call('ZREM', expiry, id) else redis.call('ZADD', expiry, new_expires_at, id) end
  redis.call('PERSIST', key)
  redis.call('HSET', key, 'version', next, 'data', new_data, 'write_id', new_write_id, 'expires_at', new_expires_at)
  if ttl ~= '' then
    local at = math.max(tonumber(redis.call('TIME')[1]) + tonumber(ttl), tonumber(new_expires_at) + ${clockSlackSeconds})
    redis.pcall('EXPIREAT', key, string.format('%.0f', at))
  end
  return {next}
`)

const removeScript = script<ReadonlyArray<string>>(`
  ${readRecord}
  if not live or not as_expected() then return refused() end
  redis.call('ZREM', expiry, id)
  redis.call('ZREM', index, id)
  redis.call('DEL', key)
  return {'removed'}
`)

/**
 * Whether more follow, the last id examined, and the live records. An id whose hash is gone leaves the index, if
 * its expiry is so long ago that the record is live for nobody. Otherwise the id comes without fields: while a cluster
 * moves the slot, the hash may be on another node.
 */
const listScript = script<ReadonlyArray<string>>(`
  local index, expiry = KEYS[1], KEYS[2]
  local records, prefix, after, order, limit, now = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
  local first, last = '[' .. prefix, '(' .. prefix .. '\\255'
  local ids
  if order == 'ascending' then
    if after ~= '' then first = '(' .. after end
    ids = redis.call('ZRANGE', index, first, last, 'BYLEX', 'LIMIT', 0, limit + 1)
  else
    if after ~= '' then last = '(' .. after end
    ids = redis.call('ZRANGE', index, last, first, 'BYLEX', 'REV', 'LIMIT', 0, limit + 1)
  end
  local found, examined, bytes = {'', ''}, 0, 0
  for _, id in ipairs(ids) do
    if examined == limit or bytes >= ${maxPageBytes} then
      found[1] = 'more'
      break
    end
    examined = examined + 1
    found[2] = id
    local hash = redis.pcall('HMGET', records .. id, ${fields})
    if hash.err and not string.find(hash.err, 'non local key') then return hash end
    local version, data, write_id, expires_at = unpack(hash)
    local due = not (version or data or write_id or expires_at) and redis.call('ZSCORE', expiry, id)
    if due and tonumber(due) <= now - ${clockSlackSeconds} then
      redis.pcall('ZREM', index, id)
      redis.pcall('ZREM', expiry, id)
    elseif not ((tonumber(expires_at or '') or now + 1) <= now) then
      bytes = bytes + #(data or '')
      for _, value in ipairs({id, version or '', data or '', write_id or '', expires_at or ''}) do
        found[#found + 1] = value
      end
    end
  end
  return found
`)

/** An id whose hash is gone leaves the index. */
const forgetScript = script<number>(`
  local key, index, expiry = KEYS[1], KEYS[2], KEYS[3]
  if redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', expiry, ARGV[1])
    redis.call('ZREM', index, ARGV[1])
  end
  return 0
`)

/**
 * Returns how many ids the expiry index listed as due, and how many were removed. The index may be stale, so the expiry
 * in the record's hash decides.
 */
const cleanupScript = script<readonly [due: number, removed: number]>(`
  local index, expiry = KEYS[1], KEYS[2]
  local records, until_second = ARGV[1], tonumber(ARGV[2])
  local due, removed = redis.call('ZRANGE', expiry, '-inf', until_second, 'BYSCORE', 'LIMIT', 0, ${cleanupBatch}), 0
  for _, id in ipairs(due) do
    local key = records .. id
    local expires_at = redis.call('HGET', key, 'expires_at')
    local seconds = tonumber(expires_at or '')
    if redis.call('EXISTS', key) == 1 and not (seconds and seconds <= until_second) then
      if seconds then redis.call('ZADD', expiry, expires_at, id) else redis.call('ZREM', expiry, id) end
    else
      redis.call('DEL', key)
      redis.call('ZREM', index, id)
      redis.call('ZREM', expiry, id)
      removed = removed + 1
    end
  end
  return {#due, removed}
`)

// -----------------------------------------------------------------------------
// The backend
// -----------------------------------------------------------------------------

/** An owner as a hash tag, which ends at the first brace. */
const tagOf = (owner: string): string => owner.replace(/[%{}]/g, encodeURIComponent)

const keysOf = (keyPrefix: string, owner: string) => {
  const base = `${keyPrefix}:{${tagOf(owner)}}`
  return { record: `${base}:record:`, index: `${base}:index`, expiry: `${base}:expiry` }
}

const parse = (
  owner: string,
  id: string,
  [version = "", data = "", writeId = "", expiresAt = ""]: ReadonlyArray<string>
): Effect.Effect<StorageBackend.StoredRecord, Backend> => {
  const isVersion = /^[1-9]\d*$/.test(version) && Number.isSafeInteger(Number(version))
  const isExpiry = /^(-?\d+)?$/.test(expiresAt)
  if (!isVersion || !isExpiry) {
    const description =
      `The hash of the record ${id} of ${owner} is damaged: its field ${isVersion ? "expires_at" : "version"} is ` +
      `${isVersion ? "no epoch second" : "no integer from 1 up"}. Mend it in Redis, or delete the record`
    return Effect.fail(backendError({ reason: "Corrupt", outcome: "not-applied", description }))
  }
  return Effect.succeed({
    data,
    version: Number(version),
    writeId: writeId === "" ? undefined : writeId,
    expiresAt: expiresAt === "" ? undefined : Number(expiresAt)
  })
}

/** What the scripts are told of what is expected: of which kind, the version, and what else must match. */
const expectation = (expected: StorageBackend.Expected): readonly [string, number, string] => {
  if (typeof expected === "number") return [expected === 0 ? "nothing" : "version", expected, ""]
  const { data, version, writeId } = expected
  return writeId === undefined ? ["data", version, data] : ["write", version, writeId]
}

type Run = <A>(command: Effect.Effect<A, EffectRedis.RedisError>) => Effect.Effect<A, Backend>

/** An error of a command that changes nothing. */
const ofRead = ({ operation, reason: { _tag: reason, cause, description } }: Backend, as = operation): Backend =>
  backendError({ operation: as, outcome: "not-applied", reason, description, cause })

/** Runs one command, up to a time-out. */
const runner = (requestTimeout: Duration.Input): Run => {
  const timeout = Duration.millis(toMillis("requestTimeout", requestTimeout))
  const description = `Redis did not answer within ${Duration.format(timeout)}`
  const late = Effect.suspend(() => Effect.fail(backendError({ reason: "Timeout", outcome: "unknown", description })))
  return (command) =>
    Effect.timeoutOrElse(Effect.mapError(command, failureOf), { duration: timeout, orElse: () => late })
}

const makePrimitives = (
  redis: EffectRedis.Redis["Service"],
  run: Run,
  keyPrefix: string
): StorageBackend.Primitives => {
  const runRead: Run = (command) => Effect.mapError(run(command), (error) => ofRead(error))

  const evalRecord = <Reply>(
    recordScript: ReturnType<typeof script<Reply>>,
    { id, owner }: Pick<StorageKey, "id" | "owner">,
    args: ReadonlyArray<string | number>
  ) => {
    const { expiry, index, record } = keysOf(keyPrefix, owner)
    return run(redis.eval(recordScript)([record + id, index, expiry], [id, ...args]))
  }

  const refused = (key: StorageKey, reply: ReadonlyArray<string>): Effect.Effect<StorageBackend.Refused, Backend> =>
    reply.length === 0
      ? Effect.succeed({ _tag: "Refused", current: undefined })
      : Effect.map(parse(key.owner, key.id, reply), (current) => ({ _tag: "Refused", current }))

  const write = (
    key: StorageKey,
    { data, expiresAt, now, writeId }: StorageBackend.Write,
    expected: readonly [string, number, string]
  ): Effect.Effect<StorageBackend.Written | StorageBackend.Refused, Backend> => {
    const expiry = expiresAt === undefined ? ["", ""] : [expiresAt, Math.max(1, expiresAt - now + clockSlackSeconds)]
    return Effect.flatMap(
      evalRecord(writeScript, key, [now, ...expected, data, writeId, ...expiry]),
      (reply): Effect.Effect<StorageBackend.Written | StorageBackend.Refused, Backend> =>
        reply.length === 1 ? Effect.succeed({ _tag: "Written", version: Number(reply[0]) }) : refused(key, reply)
    )
  }

  const read = ({ id, owner }: Pick<StorageKey, "id" | "owner">) =>
    runRead(
      redis.send<ReadonlyArray<string | null>>(
        "HMGET",
        keysOf(keyPrefix, owner).record + id,
        ...["version", "data", "write_id", "expires_at"]
      )
    ).pipe(
      Effect.flatMap((values) =>
        values.every((value) => value === null)
          ? Effect.undefined
          : parse(
              owner,
              id,
              values.map((value) => value ?? "")
            )
      )
    )

  /** What a listing has found of an id: a record, or nothing where that was. */
  const listed = Effect.fnUntraced(function* (
    key: Pick<StorageKey, "id" | "owner">,
    fields: ReadonlyArray<string>,
    now: number
  ) {
    if (fields.some((field) => field !== "")) return yield* parse(key.owner, key.id, fields)
    const stored = yield* read(key)
    if (stored === undefined) yield* Effect.ignore(evalRecord(forgetScript, key, []))
    return stored === undefined || StorageBackend.isExpired(stored, now) ? undefined : stored
  })

  return {
    read,

    put: (key, made) => write(key, made, ["anything", 0, ""]),

    swap: (key, made, expected) => write(key, made, expectation(expected)),

    remove: (key, now, expected) =>
      Effect.flatMap(
        evalRecord(removeScript, key, [now, ...(expected === undefined ? ["live", 0, ""] : expectation(expected))]),
        (reply): Effect.Effect<StorageBackend.Removed | StorageBackend.Refused, Backend> =>
          reply.length === 1 ? Effect.succeed({ _tag: "Removed" }) : refused(key, reply)
      ),

    list: ({ idPrefix, owner }, { after = "", limit, now, order }) => {
      const { expiry, index, record } = keysOf(keyPrefix, owner)
      return Effect.flatMap(
        runRead(redis.eval(listScript)([index, expiry], [record, idPrefix, after, order, limit, now])),
        ([more, last, ...values]) =>
          Effect.map(
            Effect.forEach(
              Array.from({ length: values.length / 5 }),
              (_, i) => {
                const [id = "", ...fields] = values.slice(i * 5, i * 5 + 5)
                return Effect.map(listed({ owner, id }, fields, now), (stored) =>
                  stored === undefined ? [] : [{ id, ...stored }]
                )
              },
              { concurrency: 16 }
            ),
            (records) => ({ records: records.flat(), next: more === "more" ? last : undefined })
          )
      )
    },

    cleanup: Effect.fnUntraced(function* (now) {
      const pattern = `${keyPrefix.replace(/[\\*?[\]^-]/g, "\\$&")}:{*}:expiry`
      let [cursor, removed] = ["0", 0]
      do {
        const [next, found] = yield* run(
          redis.send<[string, ReadonlyArray<string>]>(
            "SCAN",
            cursor,
            ...["MATCH", pattern, "COUNT", "1000", "TYPE", "zset"]
          )
        )
        for (const expiry of found) {
          const base = expiry.slice(0, -"expiry".length)
          const clean = run(
            redis.eval(cleanupScript)([`${base}index`, expiry], [`${base}record:`, now - clockSlackSeconds])
          )
          for (let due = cleanupBatch; due === cleanupBatch; ) {
            const batch = yield* clean
            due = batch[0]
            removed += batch[1]
          }
        }
        cursor = next
      } while (cursor !== "0")
      return removed
    })
  }
}

const misconfigured = (description: string) =>
  backendError({ operation: "open", reason: "Misconfigured", outcome: "not-applied", description })

/** Looks at the server: fails where it is too old, warns where it may drop records. */
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
 * A store in the Redis that Effect's Redis service reaches. Building it takes one request, which sees that the server is
 * new enough and does not evict.
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
 */
export const layer = (options: Options = {}): Layer.Layer<StorageBackend.StorageBackend, Backend, EffectRedis.Redis> =>
  Layer.effect(
    StorageBackend.StorageBackend,
    Effect.gen(function* () {
      const {
        keyPrefix = "evs",
        maxDataBytes = StorageBackend.defaultMaxDataBytes,
        requestTimeout = "5 seconds",
        retrySchedule = StorageBackend.defaultRetrySchedule
      } = options
      checkString("keyPrefix", keyPrefix)
      checkSchedule("retrySchedule", retrySchedule)
      if (/[{}]/.test(keyPrefix)) {
        return yield* misconfigured(`The keyPrefix ${keyPrefix} has braces, which Redis Cluster takes for a hash tag`)
      }
      const run = runner(requestTimeout)
      checkLimit("maxDataBytes", maxDataBytes)
      const redis = yield* EffectRedis.Redis
      const info = yield* run(redis.send("INFO")).pipe(
        Effect.mapError((error) => ofRead(error, "open")),
        Effect.retry({ schedule: retrySchedule, while: (error) => error.isRetryable }),
        // Without permission for INFO the check is skipped.
        Effect.catch((error) =>
          /NOPERM|unknown command/.test(error.message) ? Effect.succeed("") : Effect.fail(error)
        )
      )
      yield* checkServer(String(info))
      return StorageBackend.make(makePrimitives(redis, run, keyPrefix), {
        maxDataBytes,
        retrySchedule,
        telemetry: { system, collection: keyPrefix }
      })
    })
  )
