/** The operations on a store in memory. Each operation does its work at once, and returns a finished Effect. */
import * as Effect from "effect/Effect"
import {
  type Chunk,
  type Engine,
  type Full,
  isAsExpected,
  isExpired,
  type Refused,
  type StoredRecord,
  type Write
} from "../../../Engine.ts"
import { checkLimit } from "../../../internal/options.ts"
import { byteLength } from "../../../internal/utf8.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import { type Entry, makeStore, sortKey } from "./layout.ts"

export interface Bounds {
  readonly maxRecords?: number | undefined
  readonly maxBytes?: number | undefined
}

export const makeEngine = ({ maxBytes = Infinity, maxRecords = Infinity }: Bounds = {}) => {
  checkLimit("maxRecords", maxRecords)
  checkLimit("maxBytes", maxBytes)
  const store = makeStore()

  const excess = (old: Entry | undefined, bytes: number): Full | undefined => {
    const inRecords = store.size.records + (old === undefined ? 1 : 0)
    const inBytes = store.size.bytes + bytes - (old?.bytes ?? 0)
    if (inRecords > maxRecords) return { _tag: "Full", resource: "StoreRecords", limit: maxRecords, actual: inRecords }
    if (inBytes > maxBytes) return { _tag: "Full", resource: "StoreBytes", limit: maxBytes, actual: inBytes }
  }

  const put = (key: StorageKey, { increment, ...write }: Write, current: Entry | undefined, nowSeconds: number) => {
    const version = (current?.record.version ?? 0) + increment
    if (version > maxVersion) return refused(current)
    const bytes = maxBytes === Infinity ? 0 : byteLength(key.owner) + byteLength(key.id) + byteLength(write.data)
    let old = current
    // A full store first drops expired records. One of them may be this record, whose versions continue all the same.
    if (excess(old, bytes) !== undefined && store.dropExpired(nowSeconds) > 0) old = store.find(key)
    const full = excess(old, bytes)
    if (full !== undefined) return full
    store.write(key, old, { ...write, version }, bytes)
    return { _tag: "Written" as const, version }
  }

  const engine: Engine = {
    read: (key) => Effect.succeed(store.find(key)?.record),

    put: (key, write, nowSeconds) => Effect.succeed(put(key, write, store.find(key), nowSeconds)),

    swap: (key, write, expectation, nowSeconds) => {
      const current = store.find(key)
      return Effect.succeed(
        isAsExpected(current?.record, expectation, nowSeconds) ? put(key, write, current, nowSeconds) : refused(current)
      )
    },

    remove: (key, expectation, nowSeconds) => {
      const current = store.find(key)
      const isRemoved =
        current !== undefined &&
        (expectation === undefined
          ? !isExpired(current.record, nowSeconds)
          : isAsExpected(current.record, expectation, nowSeconds))
      if (!isRemoved) return Effect.succeed(refused(current))
      store.drop(current)
      return Effect.succeed({ _tag: "Removed" as const })
    },

    list: ({ idPrefix, owner }, { after, limit, order }, nowSeconds) => {
      const records: Array<Chunk["records"][number]> = []
      let last: string | undefined
      let examined = 0
      const start = sortKey(idPrefix)
      for (const [id, { key, record }] of store.entriesFrom(owner, start, after, order)) {
        if (!id.startsWith(start)) break
        if (examined++ === limit) return Effect.succeed({ records, next: last })
        last = key.id
        if (!isExpired(record, nowSeconds)) records.push({ id: key.id, ...record })
      }
      return Effect.succeed({ records, next: undefined })
    },

    // There is only one clock, so no expired record is kept for clients with other clocks (promise 4).
    cleanup: (nowSeconds) => Effect.succeed(store.dropExpired(nowSeconds))
  }

  /** Stores a record of any version, as another client of an engine could. */
  const plant = (key: StorageKey, record: StoredRecord) => store.write(key, store.find(key), record, 0)

  return { engine, plant }
}

const refused = (entry: Entry | undefined): Refused => ({ _tag: "Refused", current: entry?.record })
