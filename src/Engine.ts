/**
 * What an engine supplies, and {@link make}, which turns that into a `StorageBackend`. This page is for authors of
 * engines; applications need only the Layer.
 */
import * as Effect from "effect/Effect"
import * as Base64Url from "effect/encoding/Base64Url"
import type * as Schedule from "effect/Schedule"
import { type Attempts, failure, isSuccess, makeAttempts, type Recovery } from "./engine/internal/attempts.ts"
import * as Cursor from "./engine/internal/cursor.ts"
import { type Instant, makeInstant } from "./engine/internal/instant.ts"
import { makeReadMany } from "./engine/internal/readMany.ts"
import * as Telemetry from "./engine/internal/telemetry.ts"
import { checkLimit } from "./internal/options.ts"
import { toDate, toExpirySeconds } from "./internal/time.ts"
import { byteLength, isLongerThan } from "./internal/utf8.ts"
import {
  type CompareAndSetOptions,
  defaultMaxDataBytes,
  defaultRetrySchedule,
  type Expected,
  maxKeysAtOnce,
  maxVersion,
  type Order,
  type StorageBackend,
  type VersionedRecord
} from "./StorageBackend.ts"
import * as StorageError from "./StorageError.ts"
import * as StorageKey from "./StorageKey.ts"
import type { StoragePrefix } from "./StoragePrefix.ts"

/**
 * A record as an engine stores it.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoredRecord {
  readonly data: string
  /** A safe integer from 1 up. */
  readonly version: number
  /** Undefined if another client wrote the record without one. */
  readonly writeId: string | undefined
  /** The epoch second from which the record is expired; undefined is never. */
  readonly expiresAtSeconds: number | undefined
}

/**
 * What a write stores. The engine adds `increment` to the stored version, which is 0 if there is no record.
 *
 * @category models
 * @since 0.1.0
 */
export interface Write {
  readonly data: string
  readonly writeId: string
  readonly expiresAtSeconds: number | undefined
  /** How many versions the write is above the stored record, expired or not: an integer from 1 up, almost always 1. */
  readonly increment: number
}

/**
 * What a conditional operation expects to find. A live record is one that has not expired.
 *
 * @category models
 * @since 0.1.0
 */
export type Expectation = Absent | Present

/**
 * No live record.
 *
 * @category models
 * @since 0.1.0
 */
export interface Absent {
  readonly _tag: "Absent"
}

/**
 * A live record: of this version; of this version and write; or, for a record without a write id, of this version and
 * data, and still without a write id.
 *
 * @category models
 * @since 0.1.0
 */
export type Present =
  | { readonly _tag: "Version"; readonly version: number }
  | { readonly _tag: "Write"; readonly version: number; readonly writeId: string }
  | { readonly _tag: "Data"; readonly version: number; readonly data: string }

/**
 * The write was made. `version` is the one it made.
 *
 * @category models
 * @since 0.1.0
 */
export interface Written {
  readonly _tag: "Written"
  readonly version: number
}

/**
 * The record was removed.
 *
 * @category models
 * @since 0.1.0
 */
export interface Removed {
  readonly _tag: "Removed"
}

/**
 * Nothing was changed. `current` is the stored record, expired or not.
 *
 * @category models
 * @since 0.1.0
 */
export interface Refused {
  readonly _tag: "Refused"
  readonly current: StoredRecord | undefined
}

/**
 * Nothing was written, because there is no room.
 *
 * @category models
 * @since 0.1.0
 */
export interface Full {
  readonly _tag: "Full"
  readonly resource: StorageError.CapacityExceeded["resource"]
  readonly limit: number
  readonly actual: number
}

/**
 * A part of a listing: at most `limit` stored records, from after the id `after`, or from the start without it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Range {
  readonly after: string | undefined
  readonly limit: number
  readonly order: Order
}

/**
 * What a `Range` holds: the live records among those examined. `next` is the last id examined, or undefined if the
 * listing ends here.
 *
 * @category models
 * @since 0.1.0
 */
export interface Chunk {
  readonly records: ReadonlyArray<StoredRecord & { readonly id: string }>
  readonly next: string | undefined
}

/**
 * What an engine does. Each function is one request, one atomic step and one attempt. It fails with `Backend` alone,
 * and says by its `outcome` whether the engine may have applied the request; a refusal is a value. `nowSeconds` is the
 * instant, in epoch seconds, by which a record has expired or not: it has if its `expiresAtSeconds` is at or before it.
 *
 * A function is called only while the operation runs, so it may do its work at once and return a finished Effect.
 *
 * @category models
 * @since 0.1.0
 */
export interface Engine {
  /** Reads the stored record, expired or not; strongly consistent. */
  readonly read: (key: StorageKey.StorageKey) => Effect.Effect<StoredRecord | undefined, StorageError.Backend>

  /** Reads for `get`, if that may be out of date. */
  readonly readEventually?: (
    key: StorageKey.StorageKey
  ) => Effect.Effect<StoredRecord | undefined, StorageError.Backend>

  /**
   * Reads many records in one request: in the order asked, and undefined for each that is not there. Those that the
   * engine leaves out are `"Unread"`, and are asked for again. Without this function, `read` reads them one by one.
   */
  readonly readMany?: (
    keys: ReadonlyArray<StorageKey.StorageKey>
  ) => Effect.Effect<ReadonlyArray<StoredRecord | undefined | "Unread">, StorageError.Backend>

  /** Writes `increment` versions above the stored one, expired or not. Refuses if that is above `maxVersion`. */
  readonly put: (
    key: StorageKey.StorageKey,
    write: Write,
    nowSeconds: number
  ) => Effect.Effect<Written | Refused | Full, StorageError.Backend>

  /**
   * Writes like `put` if what is expected is there. Refuses if it is not, and if the version would be above
   * `maxVersion`.
   */
  readonly swap: (
    key: StorageKey.StorageKey,
    write: Write,
    expectation: Expectation,
    nowSeconds: number
  ) => Effect.Effect<Written | Refused | Full, StorageError.Backend>

  /** Removes the live record, if it is as expected or nothing is expected. */
  readonly remove: (
    key: StorageKey.StorageKey,
    expectation: Present | undefined,
    nowSeconds: number
  ) => Effect.Effect<Removed | Refused, StorageError.Backend>

  /** Lists in the byte order of the ids' UTF-8. */
  readonly list: (prefix: StoragePrefix, range: Range, nowSeconds: number) => Effect.Effect<Chunk, StorageError.Backend>

  /** Removes expired records, and returns how many. */
  readonly cleanup: (nowSeconds: number) => Effect.Effect<number, StorageError.Backend>
}

/**
 * An engine in this process, to which reading the Clock would cost much beside the operation. Its functions get the
 * instant unread.
 *
 * @internal
 */
export type LocalEngine = { readonly [Name in keyof Engine]: WithInstant<Engine[Name]> }

type WithInstant<F> = F extends (...args: [...infer Args, nowSeconds: number]) => infer A
  ? (...args: [...Args, now: Instant]) => A
  : F

/**
 * Settings that an engine may override.
 *
 * @category models
 * @since 0.1.0
 */
export interface MakeOptions {
  /** The most bytes of UTF-8 that one record's data may take; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
  /** How a transient failure is retried. */
  readonly retrySchedule?: Schedule.Schedule<unknown, StorageError.Backend> | undefined
  /**
   * For an engine across a network: a span for each operation, and counters of requests, retries, ambiguous attempts
   * and conflicts, named by OpenTelemetry's semantic conventions for databases. In memory they would cost more than the
   * operations.
   */
  readonly telemetry?: { readonly system: string; readonly collection: string } | undefined
}

/**
 * Whether a stored record has expired.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Engine } from "effect-versioned-store"
 *
 * const stored = { data: "data", version: 1, writeId: "a", expiresAtSeconds: 1_700_000_000 }
 * assert.strictEqual(Engine.isExpired(stored, 1_699_999_999), false)
 * assert.strictEqual(Engine.isExpired(stored, 1_700_000_000), true)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isExpired = (stored: StoredRecord, nowSeconds: number): boolean =>
  stored.expiresAtSeconds !== undefined && stored.expiresAtSeconds <= nowSeconds

/** @internal */
export const isExpiredAt = (stored: StoredRecord, now: Instant): boolean =>
  stored.expiresAtSeconds !== undefined && stored.expiresAtSeconds <= now.seconds

/**
 * Whether a stored record, or none, is what is expected.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Engine } from "effect-versioned-store"
 *
 * const stored = { data: "data", version: 2, writeId: "a", expiresAtSeconds: undefined }
 * const nowSeconds = 1_700_000_000
 * assert.strictEqual(Engine.isAsExpected(stored, { _tag: "Version", version: 2 }, nowSeconds), true)
 * assert.strictEqual(Engine.isAsExpected(stored, { _tag: "Write", version: 2, writeId: "b" }, nowSeconds), false)
 * assert.strictEqual(Engine.isAsExpected(undefined, { _tag: "Absent" }, nowSeconds), true)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isAsExpected = (stored: StoredRecord | undefined, expectation: Expectation, nowSeconds: number): boolean =>
  isLiveAsExpected(stored !== undefined && isExpired(stored, nowSeconds) ? undefined : stored, expectation)

/** @internal */
export const isAsExpectedAt = (stored: StoredRecord | undefined, expectation: Expectation, now: Instant): boolean =>
  isLiveAsExpected(stored !== undefined && isExpiredAt(stored, now) ? undefined : stored, expectation)

const isLiveAsExpected = (live: StoredRecord | undefined, expectation: Expectation): boolean => {
  if (live === undefined) return expectation._tag === "Absent"
  switch (expectation._tag) {
    case "Absent":
      return false
    case "Version":
      return live.version === expectation.version
    case "Write":
      return live.version === expectation.version && live.writeId === expectation.writeId
    case "Data":
      return live.version === expectation.version && live.writeId === undefined && live.data === expectation.data
  }
}

/**
 * Makes the service out of an engine. It adds what all backends share: the clock, the checks of data and sizes, write
 * ids, the loop over lost answers, cursors, errors and telemetry.
 *
 * @example
 * ```ts
 * import { Engine, StorageBackend } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * // Records in a variable of the process: as little as an engine can be.
 * export const layer = Layer.sync(StorageBackend.StorageBackend)(() => {
 *   const stored = new Map<string, Engine.StoredRecord>()
 *   const refused = (key: string) => ({ _tag: "Refused" as const, current: stored.get(key) })
 *   const put = (key: string, { increment, ...write }: Engine.Write) => {
 *     const version = (stored.get(key)?.version ?? 0) + increment
 *     if (version > StorageBackend.maxVersion) return refused(key)
 *     stored.set(key, { ...write, version })
 *     return { _tag: "Written" as const, version }
 *   }
 *   return Engine.make({
 *     read: (key) => Effect.sync(() => stored.get(`${key}`)),
 *     put: (key, write) => Effect.sync(() => put(`${key}`, write)),
 *     swap: (key, write, expectation, nowSeconds) =>
 *       Effect.sync(() =>
 *         Engine.isAsExpected(stored.get(`${key}`), expectation, nowSeconds) ? put(`${key}`, write) : refused(`${key}`)
 *       ),
 *     remove: (key, expectation, nowSeconds) =>
 *       Effect.sync(() => {
 *         const current = stored.get(`${key}`)
 *         if (current === undefined || Engine.isExpired(current, nowSeconds)) return refused(`${key}`)
 *         if (expectation && !Engine.isAsExpected(current, expectation, nowSeconds)) return refused(`${key}`)
 *         stored.delete(`${key}`)
 *         return { _tag: "Removed" as const }
 *       }),
 *     list: () => Effect.succeed({ records: [], next: undefined }), // left out here
 *     cleanup: () => Effect.succeed(0)
 *   })
 * })
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (engine: Engine, options: MakeOptions = {}): StorageBackend["Service"] => {
  const { maxDataBytes = defaultMaxDataBytes, retrySchedule = defaultRetrySchedule, telemetry } = options
  checkLimit("maxDataBytes", maxDataBytes)
  if (telemetry === undefined) return makeService(readingClock(engine), makeAttempts(retrySchedule), maxDataBytes)
  const { operation, request, retries } = Telemetry.make(telemetry)
  const counted: Engine = {
    ...engine,
    read: request(engine.read),
    ...(engine.readEventually === undefined ? {} : { readEventually: request(engine.readEventually) }),
    ...(engine.readMany === undefined ? {} : { readMany: request(engine.readMany) }),
    put: request(engine.put),
    swap: request(engine.swap),
    remove: request(engine.remove),
    list: request(engine.list)
  }
  const service = makeService(readingClock(counted), makeAttempts(retries(retrySchedule)), maxDataBytes)
  return {
    get: (key) => operation("get", service.get(key)),
    getMany: (keys) => operation("getMany", service.getMany(keys)),
    put: (...args) => operation("put", service.put(...args)),
    putIfVersion: (...args) => operation("putIfVersion", service.putIfVersion(...args)),
    delete: (key) => operation("delete", service.delete(key)),
    deleteIfVersion: (...args) => operation("deleteIfVersion", service.deleteIfVersion(...args)),
    listByPrefix: (...args) => operation("listByPrefix", service.listByPrefix(...args)),
    cleanupExpired: operation("cleanupExpired", service.cleanupExpired)
  }
}

/**
 * Makes the service out of an engine in this process.
 *
 * @internal
 */
export const makeLocal = (
  engine: LocalEngine,
  { maxDataBytes = defaultMaxDataBytes }: Pick<MakeOptions, "maxDataBytes"> = {}
): StorageBackend["Service"] =>
  makeService(engine, makeAttempts(defaultRetrySchedule), checkLimit("maxDataBytes", maxDataBytes))

// -----------------------------------------------------------------------------

/** An engine as one that gets the instant unread. The Clock is read before each request that needs the instant. */
const readingClock = (engine: Engine): LocalEngine => ({
  ...engine,
  put: (key, write, now) => engine.put(key, write, now.seconds),
  swap: (key, write, expectation, now) => engine.swap(key, write, expectation, now.seconds),
  remove: (key, expectation, now) => engine.remove(key, expectation, now.seconds),
  list: (prefix, range, now) => engine.list(prefix, range, now.seconds),
  cleanup: (now) => engine.cleanup(now.seconds)
})

const makeService = (engine: LocalEngine, attempts: Attempts, maxDataBytes: number): StorageBackend["Service"] => ({
  ...makeReads(engine, attempts),
  ...makeWrites(engine, attempts, maxDataBytes),
  ...makeRemovals(engine, attempts)
})

type Service = StorageBackend["Service"]

// An engine in this process does its work at once, and returns a finished `Exit`. The service then answers at once as
// well: `isSuccess` comes before all closures that only a request across a network needs. In memory, those closures and
// the fiber's steps between them would take longer than the operation.

const makeReads = (
  engine: LocalEngine,
  attempts: Attempts
): Pick<Service, "get" | "getMany" | "listByPrefix" | "cleanupExpired"> => {
  const { read } = attempts
  const readForGet = engine.readEventually ?? engine.read
  const readMany = makeReadMany(engine, attempts)
  return {
    get: (key) =>
      Effect.withFiber((fiber): ReturnType<Service["get"]> => {
        const first = readForGet(key)
        if (isSuccess(first)) return found(key, first.value, makeInstant(fiber))
        return Effect.flatMap(
          read("get", first, () => readForGet(key)),
          (stored) => found(key, stored, makeInstant(fiber))
        )
      }),

    getMany: (keys) =>
      Effect.withFiber((fiber): ReturnType<Service["getMany"]> => {
        if (keys.length > maxKeysAtOnce) {
          return Effect.die(new RangeError(`At most ${maxKeysAtOnce} records are read at once, not ${keys.length}`))
        }
        if (keys.length === 0) return Effect.succeed([])
        return Effect.map(readMany(keys), (stored) => {
          const now = makeInstant(fiber)
          return stored.map((record, i) =>
            record === undefined || isExpiredAt(record, now)
              ? undefined
              : toRecord(keys[i] as StorageKey.StorageKey, record)
          )
        })
      }),

    listByPrefix: Effect.fnUntraced(function* (prefix, { cursor, limit = 100, order = "ascending" } = {}) {
      const problem = problemOfPage(limit, order)
      if (problem !== undefined) return yield* Effect.die(problem)
      let after = cursor === undefined ? undefined : Cursor.decode(prefix, order, cursor)
      if (cursor !== undefined && after === undefined) return yield* new StorageError.InvalidCursor()
      const now = yield* Effect.withFiber((fiber) => Effect.succeed(makeInstant(fiber)))
      const records: Array<VersionedRecord> = []
      for (let requests = 0; requests < maxRequestsPerPage; requests++) {
        const range = { after, limit: limit - records.length, order }
        const list = () => engine.list(prefix, range, now)
        const chunk = yield* read("listByPrefix", list(), list)
        for (const stored of chunk.records) {
          records.push(toRecord(StorageKey.unchecked(prefix.owner, stored.id), stored))
        }
        after = chunk.next
        if (after === undefined || records.length === limit) break
      }
      return { records, cursor: after === undefined ? undefined : Cursor.encode(prefix, order, after) }
    }),

    cleanupExpired: Effect.withFiber((fiber) => {
      const now = makeInstant(fiber)
      const cleanup = () => engine.cleanup(now)
      return read("cleanupExpired", cleanup(), cleanup)
    })
  }
}

const found = (key: StorageKey.StorageKey, stored: StoredRecord | undefined, now: Instant) =>
  stored === undefined || isExpiredAt(stored, now)
    ? Effect.fail(StorageError.recordNotFound(key))
    : Effect.succeed(toRecord(key, stored))

/** A write as it was asked for. If nothing is expected, it is a `put`. */
interface Request {
  readonly operation: "put" | "putIfVersion"
  readonly key: StorageKey.StorageKey
  readonly write: Write
  readonly expectation: Expectation | undefined
  readonly now: Instant
}

const makeWrites = (
  engine: LocalEngine,
  { read, write }: Attempts,
  maxDataBytes: number
): Pick<Service, "put" | "putIfVersion"> => {
  const nextWriteId = makeWriteIds()

  const makeWrite = (data: string, options: CompareAndSetOptions | undefined): Write => ({
    data,
    writeId: nextWriteId(),
    expiresAtSeconds: toExpirySeconds(options?.expiresAt),
    increment: options?.increment === undefined ? 1 : checkIncrement(options.increment)
  })

  const send = ({ expectation, key, now, write }: Request) =>
    expectation === undefined ? engine.put(key, write, now) : engine.swap(key, write, expectation, now)

  const lookFor = (key: StorageKey.StorageKey): Recovery<Refused> => ({
    _tag: "LookFor",
    read: () =>
      Effect.map(
        read("get", engine.read(key), () => engine.read(key)),
        (current) => ({ _tag: "Refused", current })
      )
  })

  const run = <E>(request: Request, toRefusal: ToRefusal<E>) => {
    const first = send(request)
    if (isSuccess(first)) return settleWrite(request, toRefusal, first.value, undefined)
    return write(
      request.operation,
      first,
      () => send(request),
      request.expectation?._tag === "Write" ? { _tag: "SendAgain" } : lookFor(request.key),
      (answer, ambiguity) => settleWrite(request, toRefusal, answer, ambiguity)
    )
  }

  return {
    put: (key, data, options) =>
      Effect.withFiber((fiber): ReturnType<Service["put"]> => {
        const invalid = problemOfData(key, data, maxDataBytes)
        if (invalid !== undefined) return Effect.fail(invalid)
        const write = makeWrite(data, options)
        const request: Request = { operation: "put", key, write, expectation: undefined, now: makeInstant(fiber) }
        return run(request, putRefusal)
      }),

    putIfVersion: (key, data, expected, options) =>
      Effect.withFiber((fiber): ReturnType<Service["putIfVersion"]> => {
        const expectation = toExpectation(expected)
        const invalid = problemOfData(key, data, maxDataBytes)
        if (invalid !== undefined) return Effect.fail(invalid)
        const write = makeWrite(data, options)
        const request: Request = { operation: "putIfVersion", key, write, expectation, now: makeInstant(fiber) }
        return run(request, swapRefusal)
      })
  }
}

const makeRemovals = (engine: LocalEngine, { write }: Attempts): Pick<Service, "delete" | "deleteIfVersion"> => ({
  delete: (key) =>
    Effect.withFiber((fiber) => {
      const now = makeInstant(fiber)
      const remove = () => engine.remove(key, undefined, now)
      const first = remove()
      if (isSuccess(first)) return Effect.succeed(first.value._tag === "Removed")
      return write("delete", first, remove, undefined, (answer) => Effect.succeed(answer._tag === "Removed"))
    }),

  deleteIfVersion: (key, expected) =>
    Effect.withFiber((fiber): ReturnType<Service["deleteIfVersion"]> => {
      const decoded = toExpectation(expected)
      // No record that is there has version 0, so a removal that expects it is refused with the truth.
      const expectation: Present = decoded._tag === "Absent" ? { _tag: "Version", version: 0 } : decoded
      const now = makeInstant(fiber)
      const remove = () => engine.remove(key, expectation, now)
      const first = remove()
      if (isSuccess(first)) return settleRemoval(key, expectation, now, first.value, undefined)
      return write(
        "deleteIfVersion",
        first,
        remove,
        expectation._tag === "Write" ? { _tag: "SendAgain" } : undefined,
        (answer, ambiguity) => settleRemoval(key, expectation, now, answer, ambiguity)
      )
    })
})

/** Promise 3: if the record that comes back carries this write's id, the write succeeded, even if it was refused. */
const settleWrite = <E>(
  request: Request,
  toRefusal: ToRefusal<E>,
  answer: Written | Refused | Full,
  ambiguity: StorageError.Backend | undefined
): Effect.Effect<VersionedRecord, E | StorageError.Backend> => {
  const { key, operation, write } = request
  if (answer._tag === "Written") return Effect.succeed(toWrittenRecord(key, write, answer.version))
  if (answer._tag === "Refused" && answer.current?.writeId === write.writeId) {
    return Effect.succeed(toRecord(key, answer.current))
  }
  return Effect.fail(ambiguity === undefined ? toRefusal(request, answer) : failure(operation, "unknown", ambiguity))
}

type ToRefusal<E> = (request: Request, answer: Refused | Full) => E

const putRefusal = ({ key }: Request, answer: Refused | Full) => capacityExceeded(key, answer)

const swapRefusal = ({ expectation, key, now }: Request, answer: Refused | Full) =>
  answer._tag === "Full" || expectation === undefined || isAsExpectedAt(answer.current, expectation, now)
    ? capacityExceeded(key, answer)
    : refusal(key, answer.current, expectation, now)

const settleRemoval = (
  key: StorageKey.StorageKey,
  expectation: Present,
  now: Instant,
  answer: Removed | Refused,
  ambiguity: StorageError.Backend | undefined
): ReturnType<Service["deleteIfVersion"]> => {
  if (answer._tag === "Removed") return Effect.void
  if (ambiguity !== undefined) return Effect.fail(failure("deleteIfVersion", "unknown", ambiguity))
  return Effect.fail(refusal(key, answer.current, expectation, now))
}

// -----------------------------------------------------------------------------

/** Promise 6: a page examines a bounded number of stored records. */
const maxRequestsPerPage = 4

/**
 * A random nonce of 128 bits and a counter: as unique as a random id for each write, and far cheaper. The last digits
 * of the counter come from a table, since each writing of a number would take a tenth of a write's time, and a string
 * more for each record.
 */
const makeWriteIds = (): (() => string) => {
  const nonce = Base64Url.encode(crypto.getRandomValues(new Uint8Array(16)))
  let prefix = ""
  let count = 0
  return () => {
    const last = count % lastDigits.length
    if (last === 0) prefix = `${nonce}.${(count / lastDigits.length).toString(36)}`
    count++
    return prefix + lastDigits[last]
  }
}

const lastDigits = Array.from({ length: 36 ** 2 }, (_, number) => number.toString(36).padStart(2, "0"))

/** Decodes what the caller expects. What can't be a version throws, and so is a defect. */
const toExpectation = (expected: Expected): Expectation => {
  const version = typeof expected === "number" ? expected : expected.version
  if (!Number.isSafeInteger(version) || version < 0) {
    throw new RangeError(`The expected version is an integer from 0 to ${maxVersion}, not ${version}`)
  }
  if (version === 0) return { _tag: "Absent" }
  if (typeof expected === "number") return { _tag: "Version", version }
  return expected.writeId === undefined
    ? { _tag: "Data", version, data: expected.data }
    : { _tag: "Write", version, writeId: expected.writeId }
}

/** What can't be an increment throws, and so is a defect. */
const checkIncrement = (increment: number): number => {
  if (Number.isSafeInteger(increment) && increment >= 1) return increment
  throw new RangeError(`The increment of a version is an integer from 1, not ${increment}`)
}

const problemOfPage = (limit: number, order: Order): RangeError | undefined => {
  if (!Number.isInteger(limit) || limit < 1 || limit > 1000) {
    return new RangeError(`The limit of a page is an integer from 1 to 1,000, not ${limit}`)
  }
  if (order !== "ascending" && order !== "descending") {
    return new RangeError(`The order of a listing is "ascending" or "descending", not ${order}`)
  }
}

const problemOfData = (key: StorageKey.StorageKey, data: string, maxDataBytes: number) => {
  if (typeof data !== "string") return new StorageError.InvalidData({ key, description: "is not a string" })
  if (!data.isWellFormed()) return new StorageError.InvalidData({ key, description: "has a lone surrogate" })
  if (isLongerThan(data, maxDataBytes)) {
    const actual = byteLength(data)
    return new StorageError.CapacityExceeded({ key, resource: "RecordBytes", limit: maxDataBytes, actual })
  }
}

const toRecord = (key: StorageKey.StorageKey, stored: StoredRecord): VersionedRecord => ({
  key,
  data: stored.data,
  version: stored.version,
  writeId: stored.writeId,
  expiresAt: stored.expiresAtSeconds === undefined ? undefined : toDate(stored.expiresAtSeconds)
})

const toWrittenRecord = (key: StorageKey.StorageKey, write: Write, version: number): VersionedRecord => ({
  key,
  data: write.data,
  version,
  writeId: write.writeId,
  expiresAt: write.expiresAtSeconds === undefined ? undefined : toDate(write.expiresAtSeconds)
})

/** If a write was refused although what it expected was there, it would have gone past the last version. */
const capacityExceeded = (key: StorageKey.StorageKey, answer: Refused | Full): StorageError.CapacityExceeded =>
  new StorageError.CapacityExceeded(
    answer._tag === "Full"
      ? { key, resource: answer.resource, limit: answer.limit, actual: answer.actual }
      : { key, resource: "Versions", limit: maxVersion, actual: maxVersion + 1 }
  )

const refusal = (
  key: StorageKey.StorageKey,
  stored: StoredRecord | undefined,
  expectation: Expectation,
  now: Instant
): StorageError.RecordNotFound | StorageError.VersionConflict => {
  if (stored === undefined || isExpiredAt(stored, now)) return StorageError.recordNotFound(key)
  const expected = expectation._tag === "Absent" ? 0 : expectation.version
  return StorageError.versionConflict(key, expected, stored.version, toRecord(key, stored))
}
