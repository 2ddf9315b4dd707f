/**
 * What an engine supplies, and {@link make}, which turns that into a `StorageBackend`. This page is for authors of
 * engines; applications need only the Layer.
 */
import type * as Schedule from "effect/Schedule"
import { type Attempts, makeAttempts } from "./engine/internal/attempts.ts"
import { makeCommit } from "./engine/internal/commit.ts"
import { makeHub } from "./engine/internal/hints.ts"
import type { Engine, LocalEngine } from "./engine/internal/model.ts"
import { makeReads } from "./engine/internal/reads.ts"
import { makeWriteIds } from "./engine/internal/records.ts"
import * as Telemetry from "./engine/internal/telemetry.ts"
import { makeRemovals, makeWrites } from "./engine/internal/writes.ts"
import { checkLimit } from "./internal/options.ts"
import { defaultMaxDataBytes, defaultRetrySchedule, type StorageBackend } from "./StorageBackend.ts"
import type * as StorageError from "./StorageError.ts"

export {
  type Absent,
  type Chunk,
  type Commit,
  type CommitFull,
  type CommitRefused,
  type Committed,
  type Engine,
  type Expectation,
  type Expired,
  type Full,
  isAsExpected,
  isExpired,
  isStepAsExpected,
  type Present,
  type Range,
  type Refused,
  type Removed,
  type Step,
  type StoredRecord,
  type Write,
  type Written
} from "./engine/internal/model.ts"

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
  readonly telemetry?:
    | {
        readonly system: string
        readonly collection: string
        /**
         * Whether the requests make spans of their own, or read the operation's. True by default.
         *
         * @internal
         */
        readonly isParent?: boolean
      }
    | undefined
}

/**
 * Makes the service out of an engine. It adds what all backends share: the clock, the checks of data and sizes, write
 * ids, the loop over lost answers, cursors, hints of its own changes, errors and telemetry.
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
    list: request(engine.list),
    ...(engine.commit === undefined ? {} : { commit: request(engine.commit) })
  }
  const service = makeService(readingClock(counted), makeAttempts(retries(retrySchedule)), maxDataBytes)
  return {
    get: (key) => operation("get", service.get(key)),
    getMany: (keys) => operation("getMany", service.getMany(keys)),
    put: (...args) => operation("put", service.put(...args)),
    putIfVersion: (...args) => operation("putIfVersion", service.putIfVersion(...args)),
    delete: (key) => operation("delete", service.delete(key)),
    deleteIfVersion: (...args) => operation("deleteIfVersion", service.deleteIfVersion(...args)),
    commit: (...args) => operation("commit", service.commit(...args)),
    listByPrefix: (...args) => operation("listByPrefix", service.listByPrefix(...args)),
    cleanupExpired: operation("cleanupExpired", service.cleanupExpired),
    hints: service.hints
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
const readingClock = ({ commit, ...engine }: Engine): LocalEngine => ({
  ...engine,
  ...(commit === undefined ? {} : { commit: (request, now) => commit(request, now.seconds) }),
  put: (key, write, now) => engine.put(key, write, now.seconds),
  swap: (key, write, expectation, now) => engine.swap(key, write, expectation, now.seconds),
  remove: (key, expectation, now) => engine.remove(key, expectation, now.seconds),
  list: (prefix, range, now) => engine.list(prefix, range, now.seconds),
  cleanup: (now) => engine.cleanup(now.seconds)
})

const makeService = (engine: LocalEngine, attempts: Attempts, maxDataBytes: number): StorageBackend["Service"] => {
  const nextWriteId = makeWriteIds()
  const hub = makeHub(engine.hints)
  const single = {
    ...makeWrites(engine, attempts, { maxDataBytes, nextWriteId, hub }),
    ...makeRemovals(engine, attempts, hub)
  }
  return {
    ...makeReads(engine, attempts),
    ...single,
    commit: makeCommit(engine, attempts, { maxDataBytes, nextWriteId, single, hub }),
    hints: hub.hints
  }
}
