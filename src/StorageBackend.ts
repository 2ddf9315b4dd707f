/**
 * Versioned records with compare-and-set, time to live and owner isolation: the small service that every engine
 * supplies as a Layer, and that everything else here stands on.
 *
 * Applications mostly use `VersionedStore`, which puts Schemas and retries on top. Whoever writes a backend starts at
 * {@link make}, and runs `StorageContract` against it.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Base64Url from "effect/encoding/Base64Url"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import { backoff } from "./internal/backoff.ts"
import * as Cursor from "./internal/cursor.ts"
import { checkLimit } from "./internal/limit.ts"
import * as Telemetry from "./internal/telemetry.ts"
import { toDate, toExpirySeconds } from "./internal/time.ts"
import { byteLength, isLongerThan } from "./internal/utf8.ts"
import { withoutStack } from "./internal/withoutStack.ts"
import * as StorageError from "./StorageError.ts"
import * as StorageKey from "./StorageKey.ts"
import type { StoragePrefix } from "./StoragePrefix.ts"

/**
 * One version of a record.
 */
export interface VersionedRecord {
  readonly key: StorageKey.StorageKey
  readonly data: string
  /** A safe integer from 1 up, higher with each write of the record. */
  readonly version: number
  /** The write that made this version; undefined where another client wrote it without one. */
  readonly writeId: string | undefined
  /** From when on the record is absent, in whole seconds; undefined: never. */
  readonly expiresAt: DateTime.Utc | undefined
}

/**
 * What a compare-and-set expects to find: the record that was read, or a version, where 0 means that there must be no
 * record. A record is compared by its write as well, so that one deleted and created again meanwhile is a conflict.
 */
export type Expected = number | VersionedRecord

/** How a record is written. */
export interface WriteOptions {
  /** From when on the record is absent, rounded up to a whole second. Left out: never. */
  readonly expiresAt?: DateTime.Utc | undefined
}

/** Which page of a listing is asked for. */
export interface ListOptions {
  /** The most records of one page, from 1 to 1,000; 100 by default. */
  readonly limit?: number | undefined
  /** Where the page before ended. */
  readonly cursor?: string | undefined
  /** By the bytes of the ids' UTF-8; ascending by default. */
  readonly order?: Order | undefined
}

/** The direction of a listing. */
export type Order = "ascending" | "descending"

/** One page of a listing. */
export interface Page {
  readonly records: ReadonlyArray<VersionedRecord>
  /** Leads to the next page. A page may be short or even empty and have one: only its absence is the end. */
  readonly cursor: string | undefined
}

/**
 * The storage service.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const backend = yield* StorageBackend.StorageBackend
 *   const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 *   const first = yield* backend.put(key, "one")
 *   const second = yield* backend.putIfVersion(key, "two", first)
 *   const conflict = yield* Effect.flip(backend.putIfVersion(key, "three", first))
 *   return [second.version, conflict._tag]
 * })
 *
 * assert.deepStrictEqual(Effect.runSync(program.pipe(Effect.provide(InMemory.layer))), [2, "VersionConflict"])
 * ```
 */
export class StorageBackend extends Context.Service<
  StorageBackend,
  {
    /** The record as it now is; strongly consistent. One request. */
    readonly get: (
      key: StorageKey.StorageKey
    ) => Effect.Effect<VersionedRecord, StorageError.RecordNotFound | StorageError.Backend>

    /** Writes whatever is there, in one atomic step. Returns the record as written. One request. */
    readonly put: (
      key: StorageKey.StorageKey,
      data: string,
      options?: WriteOptions
    ) => Effect.Effect<VersionedRecord, StorageError.InvalidData | StorageError.CapacityExceeded | StorageError.Backend>

    /**
     * Writes only over exactly what is expected. Returns the record as written. One request, whether it writes or not.
     * An expected version that is no integer from 0 up to the largest safe one is a defect.
     */
    readonly putIfVersion: (
      key: StorageKey.StorageKey,
      data: string,
      expected: Expected,
      options?: WriteOptions
    ) => Effect.Effect<
      VersionedRecord,
      | StorageError.RecordNotFound
      | StorageError.VersionConflict
      | StorageError.InvalidData
      | StorageError.CapacityExceeded
      | StorageError.Backend
    >

    /** True where a live record was removed. One request. */
    readonly delete: (key: StorageKey.StorageKey) => Effect.Effect<boolean, StorageError.Backend>

    /** Removes only exactly what is expected. One request, whether it removes or not. */
    readonly deleteIfVersion: (
      key: StorageKey.StorageKey,
      expected: Expected
    ) => Effect.Effect<void, StorageError.RecordNotFound | StorageError.VersionConflict | StorageError.Backend>

    /**
     * One page of an owner's records whose id starts with a prefix, in id order. One request, and at most three more
     * to fill the page up where expired records were met. A limit that is no integer from 1 to 1,000 is a defect.
     */
    readonly listByPrefix: (
      prefix: StoragePrefix,
      options?: ListOptions
    ) => Effect.Effect<Page, StorageError.InvalidCursor | StorageError.Backend>

    /** Physically removes what has expired, where the engine does not do it by itself; returns how many. */
    readonly cleanupExpired: Effect.Effect<number, StorageError.Backend>
  }
>()("effect-versioned-store/StorageBackend") {}

/** The most bytes of UTF-8 that one record's data takes by default: DynamoDB's item limit less room for the key. */
export const defaultMaxDataBytes = 384 * 1024

/** The last version that a record can have. */
export const maxVersion = Number.MAX_SAFE_INTEGER

/**
 * How a transient failure of the engine is retried by default: exponentially from 25 ms, capped at 1 s before a jitter
 * of 20%, at most 10 times.
 *
 * @example
 * ```ts
 * import { StorageBackend } from "effect-versioned-store"
 * import { Schedule } from "effect"
 *
 * export const atMostThrice = StorageBackend.defaultRetrySchedule.pipe(Schedule.upTo({ times: 3 }))
 * ```
 */
export const defaultRetrySchedule: Schedule.Schedule<unknown> = backoff("25 millis", 10)

// -----------------------------------------------------------------------------
// Writing a backend
// -----------------------------------------------------------------------------

/**
 * A record as an engine holds it. Times are epoch seconds.
 */
export interface StoredRecord {
  readonly data: string
  readonly version: number
  readonly writeId: string | undefined
  readonly expiresAt: number | undefined
}

/**
 * What is to be written, and `now`, by which the engine's atomic step decides what has expired.
 */
export interface Write {
  readonly data: string
  readonly writeId: string
  readonly expiresAt: number | undefined
  readonly now: number
}

/** The write was made, and this is its version. */
export interface Written {
  readonly _tag: "Written"
  readonly version: number
}

/** The record was removed. */
export interface Removed {
  readonly _tag: "Removed"
}

/** Nothing was changed, and this is what is there, expired or not. */
export interface Refused {
  readonly _tag: "Refused"
  readonly current: StoredRecord | undefined
}

/** Nothing was written, for want of room. */
export interface Full {
  readonly _tag: "Full"
  readonly resource: StorageError.CapacityExceeded["resource"]
  readonly limit: number
  readonly actual: number
}

/** A part of a listing: at most `limit` stored records from `after` on, without it from the start. */
export interface Range {
  readonly after: string | undefined
  readonly limit: number
  readonly order: Order
  readonly now: number
}

/** What a `Range` held: the live records among those examined, and the last id examined unless the end was reached. */
export interface Chunk {
  readonly records: ReadonlyArray<StoredRecord & { readonly id: string }>
  readonly next: string | undefined
}

/**
 * What an engine does. Each is one request, one atomic step and one attempt; it fails with `Backend` alone, and says
 * by its `outcome` whether the engine may have applied it. A record is live unless its `expiresAt` is at or before
 * `now`.
 */
export interface Primitives {
  /** What is stored, expired or not; strongly consistent. */
  readonly read: (key: StorageKey.StorageKey) => Effect.Effect<StoredRecord | undefined, StorageError.Backend>

  /** What `get` reads instead, where that may be stale. */
  readonly readEventually?: (
    key: StorageKey.StorageKey
  ) => Effect.Effect<StoredRecord | undefined, StorageError.Backend>

  /** Writes one version above what is stored, expired or not; refuses where that has `maxVersion`. */
  readonly put: (
    key: StorageKey.StorageKey,
    write: Write
  ) => Effect.Effect<Written | Refused | Full, StorageError.Backend>

  /**
   * Writes one version above the expected one, if that is live: by version, and of a record by write id as well, or
   * by data where it has none. Expecting 0, it writes like `put`, unless a live record is there.
   */
  readonly swap: (
    key: StorageKey.StorageKey,
    write: Write,
    expected: Expected
  ) => Effect.Effect<Written | Refused | Full, StorageError.Backend>

  /** Removes what is live, if it is what is expected. */
  readonly remove: (
    key: StorageKey.StorageKey,
    now: number,
    expected: Expected | undefined
  ) => Effect.Effect<Removed | Refused, StorageError.Backend>

  /** Lists in the order of the ids' UTF-8. */
  readonly list: (prefix: StoragePrefix, range: Range) => Effect.Effect<Chunk, StorageError.Backend>

  /** Removes what has expired, and returns how many records that were. */
  readonly cleanup: (now: number) => Effect.Effect<number, StorageError.Backend>
}

/** What a backend may have its own way. */
export interface MakeOptions {
  /** The most bytes of UTF-8 that one record's data may take; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
  /** How a transient failure is retried. */
  readonly retrySchedule?: Schedule.Schedule<unknown, StorageError.Backend> | undefined
  /**
   * For an engine across a network: a span for each operation and counters of requests, retries, ambiguous attempts and
   * conflicts, named by OpenTelemetry's conventions for databases. In memory they would cost more than the operations.
   */
  readonly telemetry?: { readonly system: string; readonly collection: string } | undefined
}

/**
 * Whether a stored record has expired.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageBackend } from "effect-versioned-store"
 *
 * const stored = { data: "data", version: 1, writeId: "a", expiresAt: 1_700_000_000 }
 * assert.strictEqual(StorageBackend.isExpired(stored, 1_699_999_999), false)
 * assert.strictEqual(StorageBackend.isExpired(stored, 1_700_000_000), true)
 * ```
 */
export const isExpired = (stored: StoredRecord, now: number): boolean =>
  stored.expiresAt !== undefined && stored.expiresAt <= now

/**
 * Whether what is stored is what is expected: no live record where 0 is, and else a live one of the same version and,
 * if a record is expected, of the same write, or of the same data where it has no write id.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageBackend } from "effect-versioned-store"
 *
 * const stored = { data: "data", version: 2, writeId: "a", expiresAt: undefined }
 * assert.strictEqual(StorageBackend.isAsExpected(stored, 2, 1_700_000_000), true)
 * assert.strictEqual(StorageBackend.isAsExpected(stored, 0, 1_700_000_000), false)
 * assert.strictEqual(StorageBackend.isAsExpected(undefined, 0, 1_700_000_000), true)
 * ```
 */
export const isAsExpected = (current: StoredRecord | undefined, expected: Expected, now: number): boolean => {
  if (current === undefined || isExpired(current, now)) return expectedVersion(expected) === 0
  if (typeof expected === "number") return current.version === expected
  return (
    current.version === expected.version &&
    current.writeId === expected.writeId &&
    (expected.writeId !== undefined || current.data === expected.data)
  )
}

/**
 * Makes the service out of an engine's primitives. It adds what all backends share: the clock, the checks of data and
 * sizes, write ids, the loop over failed attempts, the recognition of one's own write in what comes back, cursors and
 * the errors.
 *
 * An attempt that failed with outcome `unknown` may have been applied. After one, only a compare-and-set on a record
 * with a write id is sent again, since it cannot apply twice; any other write is looked for by one read, and a delete,
 * which leaves nothing to look for, stays unknown.
 *
 * A primitive is only called while the operation runs, so it may do its work at once and return a finished Effect.
 *
 * @example
 * ```ts
 * import { StorageBackend } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * // One record an owner, in a variable of the process: as little as a backend can be.
 * export const layer = Layer.sync(StorageBackend.StorageBackend)(() => {
 *   const stored = new Map<string, StorageBackend.StoredRecord>()
 *   const refused = (current: StorageBackend.StoredRecord | undefined) => ({ _tag: "Refused" as const, current })
 *   const put = (key: string, { data, expiresAt, writeId }: StorageBackend.Write) => {
 *     const version = (stored.get(key)?.version ?? 0) + 1
 *     if (version > StorageBackend.maxVersion) return refused(stored.get(key))
 *     stored.set(key, { data, expiresAt, writeId, version })
 *     return { _tag: "Written" as const, version }
 *   }
 *   return StorageBackend.make({
 *     read: (key) => Effect.sync(() => stored.get(`${key}`)),
 *     put: (key, write) => Effect.sync(() => put(`${key}`, write)),
 *     swap: (key, write, expected) =>
 *       Effect.sync(() => {
 *         const current = stored.get(`${key}`)
 *         return StorageBackend.isAsExpected(current, expected, write.now) ? put(`${key}`, write) : refused(current)
 *       }),
 *     remove: (key, now, expected) =>
 *       Effect.sync(() => {
 *         const current = stored.get(`${key}`)
 *         if (current === undefined || StorageBackend.isExpired(current, now)) return refused(current)
 *         if (expected !== undefined && !StorageBackend.isAsExpected(current, expected, now)) return refused(current)
 *         stored.delete(`${key}`)
 *         return { _tag: "Removed" as const }
 *       }),
 *     list: () => Effect.succeed({ records: [], next: undefined }), // left out here
 *     cleanup: () => Effect.succeed(0)
 *   })
 * })
 * ```
 */
export const make = (primitives: Primitives, options: MakeOptions = {}): StorageBackend["Service"] => {
  const { retrySchedule = defaultRetrySchedule } = options
  if (options.telemetry === undefined) return makeService(primitives, { ...options, retrySchedule })
  const telemetry = Telemetry.make(options.telemetry)
  return telemetry.service(
    makeService(telemetry.primitives(primitives), { ...options, retrySchedule: telemetry.schedule(retrySchedule) })
  )
}

const makeService = (
  primitives: Primitives,
  {
    maxDataBytes = defaultMaxDataBytes,
    retrySchedule
  }: MakeOptions & { readonly retrySchedule: NonNullable<MakeOptions["retrySchedule"]> }
): StorageBackend["Service"] => {
  checkLimit("maxDataBytes", maxDataBytes)
  const nextWriteId = makeWriteIds()
  const readForGet = primitives.readEventually ?? primitives.read

  const checkData = (key: StorageKey.StorageKey, data: string) => {
    if (typeof data !== "string") return new StorageError.InvalidData({ key, description: "is not a string" })
    if (!data.isWellFormed()) return new StorageError.InvalidData({ key, description: "has a lone surrogate" })
    if (isLongerThan(data, maxDataBytes)) {
      const actual = byteLength(data)
      return new StorageError.CapacityExceeded({ key, resource: "RecordBytes", limit: maxDataBytes, actual })
    }
  }

  const makeWrite = (fiber: Fiber.Fiber<unknown, unknown>, data: string, options: WriteOptions | undefined): Write => ({
    data,
    writeId: nextWriteId(),
    expiresAt: toExpirySeconds(options?.expiresAt),
    now: nowSeconds(fiber)
  })

  const retry = <A>(
    first: Effect.Effect<A, StorageError.Backend>,
    attempt: () => Effect.Effect<A, StorageError.Backend>,
    again: (error: StorageError.Backend) => boolean
  ): Effect.Effect<A, StorageError.Backend> => {
    let next = () => {
      next = attempt
      return first
    }
    return Effect.retry(
      Effect.suspend(() => next()),
      { schedule: retrySchedule, while: again }
    )
  }

  /** Reads change nothing, so any transient failure is tried again. */
  const read = <A>(operation: string, attempt: () => Effect.Effect<A, StorageError.Backend>) => {
    const first = attempt()
    if (succeeded(first)) return first
    return Effect.mapError(retry(first, attempt, isTransient), (error) => failure(operation, "not-applied", error))
  }

  const readRefused = (key: StorageKey.StorageKey) => () =>
    Effect.mapEager(
      read("get", () => primitives.read(key)),
      refused
    )

  /**
   * Runs a write to its end. After an ambiguous attempt it is sent again, or `recover` looks for it, or, without
   * either, its outcome is unknown. `settle` is told of the ambiguity that its answer came after.
   */
  const write = <A, B, E>(
    operation: string,
    attempt: () => Effect.Effect<A, StorageError.Backend>,
    recover: "send again" | (() => Effect.Effect<A, StorageError.Backend>) | undefined,
    settle: (answer: A, ambiguity: StorageError.Backend | undefined) => Effect.Effect<B, E>
  ): Effect.Effect<B, E | StorageError.Backend> => {
    const first = attempt()
    if (succeeded(first)) return settle(first.value, undefined)
    let ambiguity: StorageError.Backend | undefined
    const noted = (effect: typeof first) =>
      Effect.mapError(effect, (error) => {
        if (error.outcome === "unknown") ambiguity = error
        return error
      })
    return retry(
      noted(first),
      () => noted(attempt()),
      (error) => isTransient(error) && (ambiguity === undefined || recover === "send again")
    ).pipe(
      Effect.catch((error) =>
        ambiguity !== undefined && typeof recover === "function"
          ? Effect.mapError(recover(), () => failure(operation, "unknown", error))
          : Effect.fail(failure(operation, ambiguity === undefined ? "not-applied" : "unknown", error))
      ),
      Effect.flatMap((answer) => settle(answer, ambiguity))
    )
  }

  /** One's own write id in what comes back is success, whatever else it says. */
  const settleWrite =
    <E>(
      operation: string,
      key: StorageKey.StorageKey,
      { data, expiresAt, writeId }: Write,
      refusal: (answer: Refused | Full) => E
    ) =>
    (answer: Written | Refused | Full, ambiguity: StorageError.Backend | undefined) => {
      if (answer._tag === "Written") {
        return Effect.succeed(toRecord(key, { data, version: answer.version, writeId, expiresAt }))
      }
      if (answer._tag === "Refused" && answer.current?.writeId === writeId) {
        return Effect.succeed(toRecord(key, answer.current))
      }
      return Effect.fail(ambiguity === undefined ? refusal(answer) : failure(operation, "unknown", ambiguity))
    }

  return StorageBackend.of({
    get: (key) =>
      Effect.withFiber((fiber) =>
        Effect.flatMapEager(
          read("get", () => readForGet(key)),
          (stored) =>
            stored === undefined || isExpired(stored, nowSeconds(fiber))
              ? Effect.fail(recordNotFound(key))
              : Effect.succeed(toRecord(key, stored))
        )
      ),

    put: (key, data, options) =>
      Effect.withFiber((fiber): ReturnType<StorageBackend["Service"]["put"]> => {
        const invalid = checkData(key, data)
        if (invalid !== undefined) return Effect.fail(invalid)
        const made = makeWrite(fiber, data, options)
        return write(
          "put",
          () => primitives.put(key, made),
          readRefused(key),
          settleWrite("put", key, made, (answer) => capacityExceeded(key, answer))
        )
      }),

    putIfVersion: (key, data, expected, options) =>
      Effect.withFiber((fiber): ReturnType<StorageBackend["Service"]["putIfVersion"]> => {
        const version = expectedVersion(expected)
        if (!isVersion(version)) return Effect.die(notAVersion(version))
        const invalid = checkData(key, data)
        if (invalid !== undefined) return Effect.fail(invalid)
        const made = makeWrite(fiber, data, options)
        return write(
          "putIfVersion",
          version === maxVersion ? readRefused(key) : () => primitives.swap(key, made, expected),
          hasWriteId(expected) ? "send again" : readRefused(key),
          settleWrite("putIfVersion", key, made, (answer) =>
            answer._tag === "Full" || isAsExpected(answer.current, expected, made.now)
              ? capacityExceeded(key, answer)
              : refusal(key, answer.current, expected, made.now)
          )
        )
      }),

    delete: (key) =>
      Effect.withFiber((fiber) => {
        const now = nowSeconds(fiber)
        return write(
          "delete",
          () => primitives.remove(key, now, undefined),
          undefined,
          (answer) => Effect.succeed(answer._tag === "Removed")
        )
      }),

    deleteIfVersion: (key, expected) =>
      Effect.withFiber((fiber) => {
        const version = expectedVersion(expected)
        if (!isVersion(version)) return Effect.die(notAVersion(version))
        const now = nowSeconds(fiber)
        return write(
          "deleteIfVersion",
          () => primitives.remove(key, now, expected),
          hasWriteId(expected) ? "send again" : undefined,
          (answer, ambiguity) => {
            if (answer._tag === "Removed") return Effect.void
            return Effect.fail(
              ambiguity === undefined
                ? refusal(key, answer.current, expected, now)
                : failure("deleteIfVersion", "unknown", ambiguity)
            )
          }
        )
      }),

    listByPrefix: Effect.fnUntraced(function* (prefix, { cursor, limit = 100, order = "ascending" } = {}) {
      if (!Number.isInteger(limit) || limit < 1 || limit > 1000) {
        return yield* Effect.die(new RangeError(`The limit of a page is an integer from 1 to 1,000, not ${limit}`))
      }
      if (order !== "ascending" && order !== "descending") {
        return yield* Effect.die(new RangeError(`The order of a listing is "ascending" or "descending", not ${order}`))
      }
      let after = cursor === undefined ? undefined : Cursor.decode(prefix, order, cursor)
      if (cursor !== undefined && after === undefined) return yield* new StorageError.InvalidCursor()
      const now = yield* Effect.withFiber((fiber) => Effect.succeed(nowSeconds(fiber)))
      const records: Array<VersionedRecord> = []
      for (let requests = 0; requests < maxRequestsPerPage; requests++) {
        const range = { after, limit: limit - records.length, order, now }
        const chunk = yield* read("listByPrefix", () => primitives.list(prefix, range))
        for (const stored of chunk.records) {
          records.push(toRecord(StorageKey.unchecked(prefix.owner, stored.id), stored))
        }
        after = chunk.next
        if (after === undefined || records.length === limit) break
      }
      return { records, cursor: after === undefined ? undefined : Cursor.encode(prefix, order, after) }
    }),

    cleanupExpired: Effect.withFiber((fiber) => read("cleanupExpired", () => primitives.cleanup(nowSeconds(fiber))))
  })
}

/**
 * Runs `cleanupExpired` at once and then on a schedule, every minute by default, for as long as the Layer lives: for
 * engines that do not collect what has expired by themselves. A run that fails is logged as a warning.
 *
 * @example
 * ```ts
 * import { InMemory, StorageBackend } from "effect-versioned-store"
 * import { Layer, Schedule } from "effect"
 *
 * export const Storage = StorageBackend.layerCleanup(Schedule.spaced("10 minutes")).pipe(
 *   Layer.provideMerge(InMemory.layer)
 * )
 * ```
 */
export const layerCleanup = (
  schedule: Schedule.Schedule<unknown> = Schedule.spaced("1 minute")
): Layer.Layer<never, never, StorageBackend> =>
  Layer.effectDiscard(
    Effect.flatMap(StorageBackend, (backend) =>
      backend.cleanupExpired.pipe(
        Effect.catch((error) => Effect.logWarning("Expired records were not cleaned up", error)),
        Effect.repeat(schedule),
        Effect.forkScoped
      )
    )
  )

// -----------------------------------------------------------------------------

const maxRequestsPerPage = 4

const nowSeconds = (fiber: Fiber.Fiber<unknown, unknown>): number =>
  Math.floor(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe() / 1000)

/** A random nonce of 128 bits and a counter: as unique as a random id for each write, and far cheaper. */
const makeWriteIds = (): (() => string) => {
  const nonce = Base64Url.encode(crypto.getRandomValues(new Uint8Array(16)))
  let count = 0
  return () => `${nonce}.${(count++).toString(36)}`
}

/** Whether an Effect has succeeded already, as those of an engine in this process do: then the rest runs at once. */
const succeeded = <A, E>(effect: Effect.Effect<A, E>): effect is Exit.Success<A, never> =>
  Exit.isExit(effect) && Exit.isSuccess(effect)

const toRecord = (key: StorageKey.StorageKey, stored: StoredRecord): VersionedRecord => ({
  key,
  data: stored.data,
  version: stored.version,
  writeId: stored.writeId,
  expiresAt: stored.expiresAt === undefined ? undefined : toDate(stored.expiresAt)
})

const refused = (current: StoredRecord | undefined): Refused => ({ _tag: "Refused", current })

const isTransient = (error: StorageError.Backend): boolean => StorageError.isTransient(error.reason._tag)

const failure = (operation: string, outcome: StorageError.Backend["outcome"], { reason }: StorageError.Backend) =>
  StorageError.backend({
    operation,
    outcome,
    reason: reason._tag,
    description: reason.description,
    cause: reason.cause
  })

const expectedVersion = (expected: Expected): number => (typeof expected === "number" ? expected : expected.version)

const isVersion = (version: number): boolean => Number.isSafeInteger(version) && version >= 0

const notAVersion = (version: number) =>
  new RangeError(`The expected version is an integer from 0 to ${maxVersion}, not ${version}`)

const hasWriteId = (expected: Expected): boolean => typeof expected !== "number" && expected.writeId !== undefined

/** A write that was refused though what it expected was there would have gone past the last version. */
const capacityExceeded = (key: StorageKey.StorageKey, answer: Refused | Full): StorageError.CapacityExceeded =>
  new StorageError.CapacityExceeded(
    answer._tag === "Full"
      ? { key, resource: answer.resource, limit: answer.limit, actual: answer.actual }
      : { key, resource: "Versions", limit: maxVersion, actual: maxVersion + 1 }
  )

const recordNotFound = (key: StorageKey.StorageKey): StorageError.RecordNotFound =>
  withoutStack(() => new StorageError.RecordNotFound({ key }))

const refusal = (
  key: StorageKey.StorageKey,
  current: StoredRecord | undefined,
  expected: Expected,
  now: number
): StorageError.RecordNotFound | StorageError.VersionConflict =>
  current === undefined || isExpired(current, now)
    ? recordNotFound(key)
    : withoutStack(
        () =>
          new StorageError.VersionConflict({
            key,
            expected: expectedVersion(expected),
            actual: current.version,
            current: toRecord(key, current)
          })
      )
