import type * as DateTime from "effect/DateTime"
import type { StorageKey } from "./StorageKey.ts"

/**
 * One version of a record.
 *
 * @category models
 * @since 0.1.0
 */
export interface VersionedRecord {
  readonly key: StorageKey
  readonly data: string
  /** A safe integer from 1 up, higher with each write of the record. */
  readonly version: number
  /** The id of the write that made this version; undefined if another client wrote it without one. */
  readonly writeId: string | undefined
  /** When the record expires, in whole seconds; undefined is never. */
  readonly expiresAt: DateTime.Utc | undefined
}
