/**
 * Versioned records with compare-and-set, time to live and owner isolation: the small service that every engine
 * supplies as a Layer, and that the rest of this library stands on.
 *
 * Applications mostly use `VersionedStore`, which adds Schemas and retries. To write a backend, start at `Engine.make`.
 */
import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import type * as Stream from "effect/Stream"
import { backoff } from "./internal/backoff.ts"
import type * as StorageError from "./StorageError.ts"
import type * as StorageKey from "./StorageKey.ts"
import type { StoragePrefix } from "./StoragePrefix.ts"
import type { VersionedRecord } from "./VersionedRecord.ts"

export type { VersionedRecord } from "./VersionedRecord.ts"

/**
 * What a compare-and-set expects to find: the record that was read, or a version. Version 0 means that there must be no
 * record. A record is compared by its write id as well, so if it was deleted and created again, that is a conflict.
 *
 * @category models
 * @since 0.1.0
 */
export type Expected = number | VersionedRecord

/**
 * How a record is written.
 *
 * @category models
 * @since 0.1.0
 */
export interface WriteOptions {
  /** When the record expires, rounded up to a whole second. If it is left out, the record never expires. */
  readonly expiresAt?: DateTime.Utc | undefined
}

/**
 * How a compare-and-set writes a record.
 *
 * @category models
 * @since 0.1.0
 */
export interface CompareAndSetOptions extends WriteOptions {
  /**
   * How many versions the write is above the record's: an integer from 1 up, 1 by default. If several updates land in
   * one write, each of them counts as a version, so that only the last one's record is current.
   */
  readonly increment?: number | undefined
}

/**
 * A step of a commit: a check, a write or a removal of one record of the owner. Each says what it expects to find, as a
 * compare-and-set does.
 *
 * @category models
 * @since 0.1.0
 */
export type Step = Check | Write | Remove

/**
 * Changes nothing, and has the whole commit refused if the record is not as expected.
 *
 * @category models
 * @since 0.1.0
 */
export interface Check {
  readonly _tag: "Check"
  readonly id: string
  readonly expected: Expected
}

/**
 * Writes a record over what is expected; version 0 creates one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Write extends WriteOptions {
  readonly _tag: "Write"
  readonly id: string
  readonly expected: Expected
  readonly data: string
}

/**
 * Removes a record that is as expected.
 *
 * @category models
 * @since 0.1.0
 */
export interface Remove {
  readonly _tag: "Remove"
  readonly id: string
  readonly expected: Expected
}

/**
 * Which page of a listing is read.
 *
 * @category models
 * @since 0.1.0
 */
export interface ListOptions {
  /** The most records in one page, from 1 to 1,000; 100 by default. */
  readonly limit?: number | undefined
  /** The cursor of the previous page. */
  readonly cursor?: string | undefined
  /** By the bytes of the ids' UTF-8; ascending by default. */
  readonly order?: Order | undefined
}

/**
 * The direction of a listing.
 *
 * @category models
 * @since 0.1.0
 */
export type Order = "ascending" | "descending"

/**
 * One page of a listing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Page {
  readonly records: ReadonlyArray<VersionedRecord>
  /** Leads to the next page. A page may be short or empty and still have a cursor. You are done when there is none. */
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
 *
 * @category services
 * @since 0.1.0
 */
export class StorageBackend extends Context.Service<
  StorageBackend,
  {
    /** Reads the record as it is now, strongly consistent. One request. */
    readonly get: (
      key: StorageKey.StorageKey
    ) => Effect.Effect<VersionedRecord, StorageError.RecordNotFound | StorageError.Backend>

    /**
     * Reads up to 100 records at once: in the order asked, and undefined for each that is not there. One request, or on
     * Redis one for each owner. If DynamoDB leaves out some of the records, those are asked for again: at once if some
     * were read, and otherwise under the retry schedule.
     *
     * Each record is as of its own read, so together they are no snapshot. More than 100 keys are a defect. Source:
     * `BatchGetItem` of DynamoDB's API, which sets the limit.
     */
    readonly getMany: (
      keys: ReadonlyArray<StorageKey.StorageKey>
    ) => Effect.Effect<ReadonlyArray<VersionedRecord | undefined>, StorageError.Backend>

    /** Writes a record, whatever is there, in one atomic step. Returns the record as written. One request. */
    readonly put: (
      key: StorageKey.StorageKey,
      data: string,
      options?: WriteOptions
    ) => Effect.Effect<VersionedRecord, StorageError.InvalidData | StorageError.CapacityExceeded | StorageError.Backend>

    /**
     * Writes only over exactly what is expected. Returns the record as written. One request, whether it writes or not.
     * An expected version that is not an integer from 0 to the largest safe one is a defect, and so is an increment
     * that is not an integer from 1.
     */
    readonly putIfVersion: (
      key: StorageKey.StorageKey,
      data: string,
      expected: Expected,
      options?: CompareAndSetOptions
    ) => Effect.Effect<
      VersionedRecord,
      | StorageError.RecordNotFound
      | StorageError.VersionConflict
      | StorageError.InvalidData
      | StorageError.CapacityExceeded
      | StorageError.Backend
    >

    /** Removes a record, whatever it holds. Returns true if there was one. One request. */
    readonly delete: (key: StorageKey.StorageKey) => Effect.Effect<boolean, StorageError.Backend>

    /** Removes only exactly what is expected. One request, whether it removes or not. */
    readonly deleteIfVersion: (
      key: StorageKey.StorageKey,
      expected: Expected
    ) => Effect.Effect<void, StorageError.RecordNotFound | StorageError.VersionConflict | StorageError.Backend>

    /**
     * Runs up to 100 steps on records of one owner in one atomic step: all of them, or none. Returns a record for each
     * step that wrote, as written, and undefined for the others.
     *
     * If some steps find something else than they expect, nothing is changed, and the error is that of the first of
     * them in order: `VersionConflict` or `RecordNotFound`. No other write of any client comes in between. The steps
     * are of different records, and take at most 4,000,000 bytes together: for each step 200, and the bytes of owner,
     * id and data. Otherwise the commit fails with `InvalidCommit` before anything is sent.
     *
     * One request, and on PostgreSQL one transaction of 3 to 5 statements. A step that creates a record takes one
     * request more if an expired record is still stored there. A commit of one step is a compare-and-set, a conditional
     * delete or a read, at the price of that. On DynamoDB each record of a commit costs twice the units of a single
     * write, also if it is only checked. A commit of checks alone costs twice the units of single reads. Source:
     * `TransactWriteItems` and `TransactGetItems` of DynamoDB's API, which set the limits of steps and bytes.
     */
    readonly commit: (
      owner: string,
      steps: ReadonlyArray<Step>
    ) => Effect.Effect<
      ReadonlyArray<VersionedRecord | undefined>,
      | StorageError.RecordNotFound
      | StorageError.VersionConflict
      | StorageError.InvalidData
      | StorageError.CapacityExceeded
      | StorageError.InvalidCommit
      | StorageError.Backend
    >

    /**
     * Reads one page of an owner's records whose ids start with a prefix, in id order. One request, and at most three
     * more to fill the page if it meets expired records. A limit that is not an integer from 1 to 1,000 is a defect.
     */
    readonly listByPrefix: (
      prefix: StoragePrefix,
      options?: ListOptions
    ) => Effect.Effect<Page, StorageError.InvalidCursor | StorageError.Backend>

    /**
     * Physically removes expired records if the engine does not do it by itself. Returns how many it removed. If
     * clients with other clocks may share the engine, a record stays for five minutes after its expiry. One request for
     * each batch of records.
     */
    readonly cleanupExpired: Effect.Effect<number, StorageError.Backend>

    /**
     * Signals that a record may have changed, or one of those whose ids start with a prefix. It is a hint, which may
     * come late, twice or never: read after each one, and from time to time in any case, as `VersionedStore.watch`
     * does. Subscribe before the first read.
     *
     * What this backend changes is signalled at once. What other clients change is signalled within milliseconds on
     * Redis and SQLite, on PostgreSQL only with its option `hints`, and never on DynamoDB. An expiry is not signalled.
     * Hints that are not taken yet are one hint. Without a watcher nothing is asked of the engine.
     */
    readonly hints: (target: StorageKey.StorageKey | StoragePrefix) => Stream.Stream<void>
  }
>()("effect-versioned-store/StorageBackend") {}

/**
 * The most bytes of UTF-8 that one record's data may take by default: DynamoDB's limit of an item, less room for its
 * key.
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaultMaxDataBytes = 384 * 1024

/**
 * The last version that a record can have.
 *
 * @category configuration
 * @since 0.1.0
 */
export const maxVersion = Number.MAX_SAFE_INTEGER

/**
 * How many records `getMany` reads at once at most.
 *
 * @category configuration
 * @since 0.1.0
 */
export const maxKeysAtOnce = 100

/**
 * How many steps a commit has at most.
 *
 * @category configuration
 * @since 0.1.0
 */
export const maxCommitSteps = 100

/**
 * How many bytes the steps of a commit take at most together: for each step 200, and the bytes of owner, id and data.
 *
 * @category configuration
 * @since 0.1.0
 */
export const maxCommitBytes = 4_000_000

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
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaultRetrySchedule: Schedule.Schedule<unknown> = backoff("25 millis", 10)

/**
 * Runs `cleanupExpired` at once and then on a schedule, every minute by default, for as long as the Layer lives. It is
 * for engines that do not remove expired records by themselves. If a run fails, it logs a warning and goes on.
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
 *
 * @category layers
 * @since 0.1.0
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
