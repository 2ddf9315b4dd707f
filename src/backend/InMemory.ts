/**
 * Records in this process's memory: for tests, and for state that may go when the process ends.
 *
 * A get takes O(1), a write O(log n), a page O(page) and a cleanup O(expired). Expired records take memory until
 * `cleanupExpired` runs; a store at its capacity collects them by itself before it refuses a write.
 */
import * as Effect from "effect/Effect"
import * as Iterable from "effect/Iterable"
import * as Layer from "effect/Layer"
import sortedBTree from "sorted-btree"
import { checkLimit } from "../internal/limit.ts"
import { byteLength } from "../internal/utf8.ts"
import * as StorageBackend from "../StorageBackend.ts"
import type { StorageKey } from "../StorageKey.ts"

// A CommonJS module: Node imports its `module.exports`, and some bundlers its default export.
const BTree = "default" in sortedBTree ? sortedBTree.default : sortedBTree

/** The bounds of a store. */
export interface Options {
  /** The most records that the store holds; unbounded by default. */
  readonly maxRecords?: number | undefined
  /** The most bytes of UTF-8 that keys and data take together; unbounded by default. */
  readonly maxBytes?: number | undefined
  /** The most bytes of UTF-8 that one record's data takes; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
}

/**
 * A store without bounds, fresh for every build of the Layer.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * const program = StorageBackend.StorageBackend.use((backend) => backend.put(key, "data"))
 * const record = Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(record.version, 1)
 * ```
 */
export const layer: Layer.Layer<StorageBackend.StorageBackend> = Layer.sync(StorageBackend.StorageBackend)(() =>
  makeStore({})
)

/**
 * A store with bounds, fresh for every build of the Layer. A write that would go past one is `CapacityExceeded`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const backend = yield* StorageBackend.StorageBackend
 *   yield* backend.put(StorageKey.makeUnsafe({ owner: "alice", id: "1" }), "data")
 *   return yield* Effect.flip(backend.put(StorageKey.makeUnsafe({ owner: "alice", id: "2" }), "data"))
 * })
 * const error = Effect.runSync(program.pipe(Effect.provide(InMemory.layerWith({ maxRecords: 1 }))))
 * assert.strictEqual(error._tag, "CapacityExceeded")
 * ```
 */
export const layerWith = (options: Options): Layer.Layer<StorageBackend.StorageBackend> =>
  Layer.sync(StorageBackend.StorageBackend)(() => makeStore(options))

interface Entry {
  readonly key: StorageKey
  readonly owner: Owner
  record: StorageBackend.StoredRecord
  bytes: number
}

interface Owner {
  readonly entries: Map<string, Entry>
  readonly order: InstanceType<typeof BTree<string, Entry>>
}

const makeStore = (options: Options) => StorageBackend.make(makeEngine(options).primitives, options)

/** @internal */
export const makeEngine = ({ maxBytes = Infinity, maxRecords = Infinity }: Options = {}) => {
  checkLimit("maxRecords", maxRecords)
  checkLimit("maxBytes", maxBytes)
  const owners = new Map<string, Owner>()
  // An ordered map where a heap would do: it also lets go of an expiry that a later write has changed.
  const expiries = new BTree<number, Set<Entry>>(undefined, compare)
  let records = 0
  let bytes = 0

  const find = (key: StorageKey): Entry | undefined => owners.get(key.owner)?.entries.get(key.id)

  const schedule = (entry: Entry) => {
    const at = entry.record.expiresAt
    if (at === undefined) return
    const due = expiries.get(at)
    if (due === undefined) expiries.set(at, new Set([entry]))
    else due.add(entry)
  }

  const unschedule = (entry: Entry) => {
    const at = entry.record.expiresAt
    const due = at === undefined ? undefined : expiries.get(at)
    if (at === undefined || due === undefined) return
    due.delete(entry)
    if (due.size === 0) expiries.delete(at)
  }

  const drop = (entry: Entry) => {
    unschedule(entry)
    const { key, owner } = entry
    owner.entries.delete(key.id)
    owner.order.delete(sortKey(key.id))
    if (owner.entries.size === 0) owners.delete(key.owner)
    records--
    bytes -= entry.bytes
  }

  const collect = (now: number): number => {
    const before = records
    for (let at = expiries.minKey(); at !== undefined && at <= now; at = expiries.minKey()) {
      for (const entry of expiries.get(at) ?? []) drop(entry)
    }
    return before - records
  }

  const excess = (old: Entry | undefined, size: number): StorageBackend.Full | undefined => {
    const inRecords = records + (old === undefined ? 1 : 0)
    const inBytes = bytes + size - (old?.bytes ?? 0)
    if (inRecords > maxRecords) return { _tag: "Full", resource: "StoreRecords", limit: maxRecords, actual: inRecords }
    if (inBytes > maxBytes) return { _tag: "Full", resource: "StoreBytes", limit: maxBytes, actual: inBytes }
  }

  const insert = (key: StorageKey, record: StorageBackend.StoredRecord, size: number) => {
    let owner = owners.get(key.owner)
    if (owner === undefined) {
      owner = { entries: new Map(), order: new BTree<string, Entry>(undefined, compare) }
      owners.set(key.owner, owner)
    }
    const entry = { key, owner, record, bytes: size }
    owner.entries.set(key.id, entry)
    owner.order.set(sortKey(key.id), entry)
    records++
    bytes += size
    schedule(entry)
  }

  const overwrite = (entry: Entry, record: StorageBackend.StoredRecord, size: number) => {
    unschedule(entry)
    bytes += size - entry.bytes
    entry.record = record
    entry.bytes = size
    schedule(entry)
  }

  const put = (key: StorageKey, write: StorageBackend.Write, current: Entry | undefined) => {
    const { data, expiresAt, now, writeId } = write
    const version = (current?.record.version ?? 0) + 1
    if (version > StorageBackend.maxVersion) return refused(current)
    const size = maxBytes === Infinity ? 0 : byteLength(key.owner) + byteLength(key.id) + byteLength(data)
    let old = current
    if (excess(old, size) !== undefined && collect(now) > 0) old = find(key)
    const full = excess(old, size)
    if (full !== undefined) return full
    const record = { data, version, writeId, expiresAt }
    if (old === undefined) insert(key, record, size)
    else overwrite(old, record, size)
    return { _tag: "Written" as const, version }
  }

  const primitives: StorageBackend.Primitives = {
    read: (key) => Effect.succeed(find(key)?.record),

    put: (key, write) => Effect.succeed(put(key, write, find(key))),

    swap: (key, write, expected) => {
      const current = find(key)
      return Effect.succeed(
        StorageBackend.isAsExpected(current?.record, expected, write.now) ? put(key, write, current) : refused(current)
      )
    },

    remove: (key, now, expected) => {
      const current = find(key)
      if (
        current === undefined ||
        StorageBackend.isExpired(current.record, now) ||
        (expected !== undefined && !StorageBackend.isAsExpected(current.record, expected, now))
      ) {
        return Effect.succeed(refused(current))
      }
      drop(current)
      return Effect.succeed({ _tag: "Removed" as const })
    },

    list: (prefix, { after, limit, now, order }) => {
      const tree = owners.get(prefix.owner)?.order
      const start = sortKey(prefix.idPrefix)
      const found: Array<StorageBackend.StoredRecord & { readonly id: string }> = []
      let last: Entry | undefined
      let examined = 0
      for (const [id, entry] of tree === undefined ? [] : walk(tree, start, after, order)) {
        if (!id.startsWith(start)) break
        if (examined++ === limit) return Effect.succeed({ records: found, next: last?.key.id })
        last = entry
        if (!StorageBackend.isExpired(entry.record, now)) found.push({ id: entry.key.id, ...entry.record })
      }
      return Effect.succeed({ records: found, next: undefined })
    },

    cleanup: (now) => Effect.succeed(collect(now))
  }

  /** Puts in a record of any version, as another client of an engine might. */
  const plant = (key: StorageKey, record: StorageBackend.StoredRecord) => {
    const current = find(key)
    if (current === undefined) insert(key, record, 0)
    else overwrite(current, record, 0)
  }

  return { primitives, plant }
}

const refused = (entry: Entry | undefined): StorageBackend.Refused => ({ _tag: "Refused", current: entry?.record })

/** The entries on from a prefix, or on from the id after which a page starts. */
const walk = (tree: Owner["order"], start: string, after: string | undefined, order: StorageBackend.Order) => {
  if (order === "ascending") {
    if (after === undefined) return tree.entries(start)
    const entries = tree.entries(sortKey(after))
    return tree.has(sortKey(after)) ? Iterable.drop(entries, 1) : entries
  }
  // No id with the prefix has a code unit 0xffff next: in a sort key that is the second half of a character.
  return tree.entriesReversed(after === undefined ? `${start}\uffff` : sortKey(after), undefined, true)
}

/**
 * A string whose order by UTF-16 code units, which is JavaScript's, is the order of the given one by the bytes of its
 * UTF-8: surrogates, which stand for the highest characters, change places with the code units above them.
 */
const sortKey = (text: string): string =>
  /[\ud800-\uffff]/.test(text)
    ? text.replace(/[\ud800-\uffff]/g, (unit) => {
        const code = unit.charCodeAt(0)
        return String.fromCharCode(code < 0xe000 ? code + 0x2000 : code - 0x800)
      })
    : text

const compare = (a: string | number, b: string | number): number => (a < b ? -1 : a > b ? 1 : 0)
