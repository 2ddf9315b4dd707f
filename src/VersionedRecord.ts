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
  /** The record's data: any well-formed text. A backend returns it byte for byte. */
  readonly data: string
  /** A safe integer from 1 up. Each write of the record makes it higher. */
  readonly version: number
  /** The write id of the write that made this version. Undefined if another client wrote the record without one. */
  readonly writeId: string | undefined
  /** When the record expires, in whole seconds. It is undefined if the record never expires. */
  readonly expiresAt: DateTime.Utc | undefined
}
