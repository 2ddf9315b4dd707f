/** What an engine supplies, and what it is asked and answers. `Engine.ts` exports what is public here. */
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type { Order } from "../../StorageBackend.ts"
import type * as StorageError from "../../StorageError.ts"
import type * as StorageKey from "../../StorageKey.ts"
import type { StoragePrefix } from "../../StoragePrefix.ts"
import type { Instant } from "./instant.ts"

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
 * A record of this version and write that has expired and is still stored. Only a step of a commit that writes expects
 * one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Expired {
  readonly _tag: "Expired"
  readonly version: number
  readonly writeId: string | undefined
}

/**
 * A step of a commit. A write that expects `Absent` is refused also by a record that has expired and is still stored,
 * since that record's versions must continue. A write that expects `Expired` then follows.
 *
 * @category models
 * @since 0.1.0
 */
export type Step =
  | { readonly _tag: "Check"; readonly key: StorageKey.StorageKey; readonly expectation: Expectation }
  | { readonly _tag: "Remove"; readonly key: StorageKey.StorageKey; readonly expectation: Present }
  | {
      readonly _tag: "Write"
      readonly key: StorageKey.StorageKey
      readonly expectation: Expectation | Expired
      readonly data: string
      /** The version to store, which follows from what is expected. */
      readonly version: number
      readonly expiresAtSeconds: number | undefined
    }

/**
 * Two to 100 steps on records of one owner, each of another record.
 *
 * @category models
 * @since 0.1.0
 */
export interface Commit {
  readonly steps: ReadonlyArray<Step>
  /** The write id of all records that the commit writes. */
  readonly writeId: string
  /** The same if the same commit is sent again. At most 36 characters. */
  readonly token: string
}

/**
 * The whole commit was made.
 *
 * @category models
 * @since 0.1.0
 */
export interface Committed {
  readonly _tag: "Committed"
}

/**
 * Nothing was changed. `refusals` are all steps that were refused, in order and as of one moment: the step's index, and
 * the stored record, expired or not.
 *
 * @category models
 * @since 0.1.0
 */
export interface CommitRefused {
  readonly _tag: "CommitRefused"
  readonly refusals: ReadonlyArray<{ readonly index: number; readonly current: StoredRecord | undefined }>
}

/**
 * Nothing was changed, because there is no room for what a step writes.
 *
 * @category models
 * @since 0.1.0
 */
export interface CommitFull extends Full {
  readonly index: number
}

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

  /**
   * Runs all steps if each finds what it expects, and none otherwise. Without this function, only commits of one step
   * work.
   */
  readonly commit?: (
    commit: Commit,
    nowSeconds: number
  ) => Effect.Effect<Committed | CommitRefused | CommitFull, StorageError.Backend>

  /**
   * Whether a commit that was made and is sent again within ten minutes, with the same token, is answered as it was the
   * first time, and changes nothing.
   */
  readonly remembersCommits?: boolean

  /** Lists in the byte order of the ids' UTF-8. */
  readonly list: (prefix: StoragePrefix, range: Range, nowSeconds: number) => Effect.Effect<Chunk, StorageError.Backend>

  /** Removes expired records, and returns how many. */
  readonly cleanup: (nowSeconds: number) => Effect.Effect<number, StorageError.Backend>

  /**
   * Says which of an owner's records other clients may have changed: the record's id, or undefined if it may be any of
   * them. It runs only while someone watches a record of the owner, once for all who do. It gives undefined as soon as
   * it hears of changes, and again after each gap, such as a lost connection. It never fails, and retries by itself.
   *
   * Without this function, a watcher sees what other clients change at its next look.
   */
  readonly hints?: (owner: string) => Stream.Stream<string | undefined>
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

/**
 * Whether a stored record, or none, is what a step of a commit expects.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Engine, StorageKey } from "effect-versioned-store"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "a" })
 * const create: Engine.Step = {
 *   _tag: "Write", key, expectation: { _tag: "Absent" }, data: "data", version: 1, expiresAtSeconds: undefined
 * }
 * const expired = { data: "old", version: 2, writeId: "a", expiresAtSeconds: 1_600_000_000 }
 * assert.strictEqual(Engine.isStepAsExpected(undefined, create, 1_700_000_000), true)
 * assert.strictEqual(Engine.isStepAsExpected(expired, create, 1_700_000_000), false)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isStepAsExpected = (
  stored: StoredRecord | undefined,
  step: Pick<Step, "_tag" | "expectation">,
  nowSeconds: number
): boolean => isStepAsExpectedAt(stored, step, { seconds: nowSeconds })

/** @internal */
export const isStepAsExpectedAt = (
  stored: StoredRecord | undefined,
  { _tag, expectation }: Pick<Step, "_tag" | "expectation">,
  now: Instant
): boolean => {
  if (expectation._tag === "Expired") {
    const { version, writeId } = expectation
    return stored?.version === version && stored.writeId === writeId && isExpiredAt(stored, now)
  }
  if (expectation._tag === "Absent" && _tag === "Write") return stored === undefined
  return isAsExpectedAt(stored, expectation, now)
}

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
