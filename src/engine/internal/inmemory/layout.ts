/** How records are stored in memory: each owner's entries by id and in order, and all entries by expiry. */
import * as Iterable from "effect/Iterable"
import sortedBTree from "sorted-btree"
import type { StoredRecord } from "../../../Engine.ts"
import type { Order } from "../../../StorageBackend.ts"
import type { StorageKey } from "../../../StorageKey.ts"

// sorted-btree is a CommonJS module. Node.js imports its `module.exports`, and some bundlers import its default export.
const BTree = "default" in sortedBTree ? sortedBTree.default : sortedBTree

export interface Entry {
  readonly key: StorageKey
  readonly owner: Owner
  record: StoredRecord
  bytes: number
}

interface Owner {
  readonly entries: Map<string, Entry>
  readonly order: InstanceType<typeof BTree<string, Entry>>
}

export type Store = ReturnType<typeof makeStore>

export const makeStore = () => {
  const owners = new Map<string, Owner>()
  // An ordered map, since a later write may change an expiry, and a heap can't remove an entry from its middle.
  const expiries = new BTree<number, Set<Entry>>(undefined, compare)
  const size = { records: 0, bytes: 0 }

  const find = (key: StorageKey): Entry | undefined => owners.get(key.owner)?.entries.get(key.id)

  const schedule = (entry: Entry) => {
    const expiry = entry.record.expiresAtSeconds
    if (expiry === undefined) return
    const due = expiries.get(expiry)
    if (due === undefined) expiries.set(expiry, new Set([entry]))
    else due.add(entry)
  }

  const unschedule = (entry: Entry) => {
    const expiry = entry.record.expiresAtSeconds
    const due = expiry === undefined ? undefined : expiries.get(expiry)
    if (expiry === undefined || due === undefined) return
    due.delete(entry)
    if (due.size === 0) expiries.delete(expiry)
  }

  const drop = (entry: Entry) => {
    unschedule(entry)
    const { key, owner } = entry
    owner.entries.delete(key.id)
    owner.order.delete(sortKey(key.id))
    if (owner.entries.size === 0) owners.delete(key.owner)
    size.records--
    size.bytes -= entry.bytes
  }

  /** Drops all expired entries, and returns how many they were. */
  const dropExpired = (nowSeconds: number): number => {
    const before = size.records
    for (let expiry = expiries.minKey(); expiry !== undefined && expiry <= nowSeconds; expiry = expiries.minKey()) {
      for (const entry of expiries.get(expiry) ?? []) drop(entry)
    }
    return before - size.records
  }

  const insert = (key: StorageKey, record: StoredRecord, bytes: number) => {
    let owner = owners.get(key.owner)
    if (owner === undefined) {
      owner = { entries: new Map(), order: new BTree<string, Entry>(undefined, compare) }
      owners.set(key.owner, owner)
    }
    const entry = { key, owner, record, bytes }
    owner.entries.set(key.id, entry)
    owner.order.set(sortKey(key.id), entry)
    size.records++
    size.bytes += bytes
    schedule(entry)
  }

  const overwrite = (entry: Entry, record: StoredRecord, bytes: number) => {
    unschedule(entry)
    size.bytes += bytes - entry.bytes
    entry.record = record
    entry.bytes = bytes
    schedule(entry)
  }

  /** Writes a record over an entry, or as a new one. */
  const write = (key: StorageKey, entry: Entry | undefined, record: StoredRecord, bytes: number) => {
    if (entry === undefined) insert(key, record, bytes)
    else overwrite(entry, record, bytes)
  }

  /**
   * An owner's entries by their sort keys, in order. They begin at the prefix, or after the last id of the page before,
   * and continue past the prefix. The result is an iterator, since a generator would make a page cost a sixth more.
   */
  const entriesFrom = (owner: string, start: string, after: string | undefined, order: Order) => {
    const tree = owners.get(owner)?.order
    if (tree === undefined) return []
    if (order === "ascending") {
      if (after === undefined) return tree.entries(start)
      const entries = tree.entries(sortKey(after))
      return tree.has(sortKey(after)) ? Iterable.drop(entries, 1) : entries
    }
    // No sort key has the code unit 0xffff directly after the prefix. In a sort key, 0xffff is the second half of a
    // character.
    return tree.entriesReversed(after === undefined ? `${start}\uffff` : sortKey(after), undefined, true)
  }

  return { size, find, drop, dropExpired, write, entriesFrom }
}

/**
 * A string that JavaScript compares as the given string's UTF-8 bytes compare. JavaScript compares UTF-16 code units,
 * in which surrogates, which make the highest characters, are below some others. So surrogates and those code units
 * change places.
 */
export const sortKey = (text: string): string =>
  /[\ud800-\uffff]/.test(text)
    ? text.replace(/[\ud800-\uffff]/g, (unit) => {
        const code = unit.charCodeAt(0)
        return String.fromCharCode(code < 0xe000 ? code + 0x2000 : code - 0x800)
      })
    : text

const compare = (a: string | number, b: string | number): number => (a < b ? -1 : a > b ? 1 : 0)
