/** Checks what callers ask for, and turns what is stored into records and errors. */
import * as Base64Url from "effect/encoding/Base64Url"
import { toDate } from "../../internal/time.ts"
import { byteLength, isLongerThan } from "../../internal/utf8.ts"
import { type Expected, maxVersion, type Order, type VersionedRecord } from "../../StorageBackend.ts"
import * as StorageError from "../../StorageError.ts"
import type * as StorageKey from "../../StorageKey.ts"
import type { Instant } from "./instant.ts"
import { type Expectation, type Full, isExpiredAt, type Refused, type StoredRecord, type Write } from "./model.ts"

/** Decodes what the caller expects. What can't be a version throws, and so is a defect. */
export const toExpectation = (expected: Expected): Expectation => {
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
export const checkIncrement = (increment: number): number => {
  if (Number.isSafeInteger(increment) && increment >= 1) return increment
  throw new RangeError(`The increment of a version is an integer from 1, not ${increment}`)
}

export const problemOfPage = (limit: number, order: Order): RangeError | undefined => {
  if (!Number.isInteger(limit) || limit < 1 || limit > 1000) {
    return new RangeError(`The limit of a page is an integer from 1 to 1,000, not ${limit}`)
  }
  if (order !== "ascending" && order !== "descending") {
    return new RangeError(`The order of a listing is "ascending" or "descending", not ${order}`)
  }
}

export const problemOfData = (key: StorageKey.StorageKey, data: string, maxDataBytes: number) => {
  if (typeof data !== "string") return new StorageError.InvalidData({ key, description: "is not a string" })
  if (!data.isWellFormed()) return new StorageError.InvalidData({ key, description: "has a lone surrogate" })
  if (isLongerThan(data, maxDataBytes)) {
    const actual = byteLength(data)
    return new StorageError.CapacityExceeded({ key, resource: "RecordBytes", limit: maxDataBytes, actual })
  }
}

export const toRecord = (key: StorageKey.StorageKey, stored: StoredRecord): VersionedRecord => ({
  key,
  data: stored.data,
  version: stored.version,
  writeId: stored.writeId,
  expiresAt: stored.expiresAtSeconds === undefined ? undefined : toDate(stored.expiresAtSeconds)
})

export const toWrittenRecord = (key: StorageKey.StorageKey, write: Write, version: number): VersionedRecord => ({
  key,
  data: write.data,
  version,
  writeId: write.writeId,
  expiresAt: write.expiresAtSeconds === undefined ? undefined : toDate(write.expiresAtSeconds)
})

/** If a write was refused although what it expected was there, it would have gone past the last version. */
export const capacityExceeded = (key: StorageKey.StorageKey, answer: Refused | Full): StorageError.CapacityExceeded =>
  new StorageError.CapacityExceeded(
    answer._tag === "Full"
      ? { key, resource: answer.resource, limit: answer.limit, actual: answer.actual }
      : { key, resource: "Versions", limit: maxVersion, actual: maxVersion + 1 }
  )

export const refusal = (
  key: StorageKey.StorageKey,
  stored: StoredRecord | undefined,
  expectation: Expectation,
  now: Instant
): StorageError.RecordNotFound | StorageError.VersionConflict => {
  if (stored === undefined || isExpiredAt(stored, now)) return StorageError.recordNotFound(key)
  const expected = expectation._tag === "Absent" ? 0 : expectation.version
  return StorageError.versionConflict(key, expected, stored.version, toRecord(key, stored))
}

/**
 * A random nonce of 128 bits and a counter: as unique as a random id for each write, and far cheaper. The last digits
 * of the counter come from a table, since each writing of a number would take a tenth of a write's time, and a string
 * more for each record.
 */
export const makeWriteIds = (): (() => string) => {
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
