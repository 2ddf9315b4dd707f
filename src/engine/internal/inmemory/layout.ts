/** How records are stored in memory: each owner's entries by id and in order, and all entries by expiry. */
import type { Range, StoredRecord } from "../../../Engine.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import { SortedKeys } from "./sortedKeys.ts"

/** A stored record. A write replaces the entry, so a record that was read never changes. */
export interface Entry extends StoredRecord {
  readonly owner: Owner
  readonly id: string
}

interface Owner {
  readonly name: string
  readonly entries: Map<string, Entry>
  /** The entries' sort keys. Undefined until the owner has a second entry, since many owners never have one. */
  order: SortedKeys<string> | undefined
}

export type Store = ReturnType<typeof makeStore>

/** Makes a store. `bytesOf` says how much of the store's room in bytes an entry takes. */
export const makeStore = (bytesOf: (entry: Entry) => number) => {
  const owners = new Map<string, Owner>()
  const expiries = makeExpiries()
  const size = { records: 0, bytes: 0 }

  const find = (key: StorageKey): Entry | undefined => owners.get(key.owner)?.entries.get(key.id)

  const insert = (key: StorageKey): Owner => {
    let owner = owners.get(key.owner)
    if (owner === undefined) {
      owner = { name: key.owner, entries: new Map(), order: undefined }
      owners.set(key.owner, owner)
    } else {
      owner.order ??= orderOf(owner)
      owner.order.add(sortKey(key.id))
    }
    size.records++
    return owner
  }

  /** Writes a record over an entry, or as a new one. */
  const write = (
    key: StorageKey,
    old: Entry | undefined,
    { data, expiresAtSeconds, version, writeId }: StoredRecord
  ) => {
    const owner = old?.owner ?? insert(key)
    // The id of the old entry, so that the entry and the map share one string.
    const id = old?.id ?? key.id
    const entry: Entry = { owner, id, data, version, writeId, expiresAtSeconds }
    owner.entries.set(id, entry)
    size.bytes += bytesOf(entry) - (old === undefined ? 0 : bytesOf(old))
    if (old?.expiresAtSeconds !== undefined) expiries.remove(old, old.expiresAtSeconds)
    if (expiresAtSeconds !== undefined) expiries.add(entry, expiresAtSeconds)
  }

  const drop = (entry: Entry) => {
    const { expiresAtSeconds, id, owner } = entry
    owner.entries.delete(id)
    owner.order?.remove(sortKey(id))
    if (owner.entries.size === 0) owners.delete(owner.name)
    size.records--
    size.bytes -= bytesOf(entry)
    if (expiresAtSeconds !== undefined) expiries.remove(entry, expiresAtSeconds)
  }

  /** Drops expired entries, at most `limit` of them, and returns how many. */
  const dropExpired = (nowSeconds: number, limit: number): number => {
    let dropped = 0
    while (dropped < limit) {
      const entry = expiries.next(nowSeconds)
      if (entry === undefined) break
      drop(entry)
      dropped++
    }
    return dropped
  }

  /** An owner's entries whose ids begin with the prefix, in order: the first `limit` after the id `after`. */
  const list = (ownerName: string, idPrefix: string, { after, limit, order }: Range): Array<Entry> => {
    const owner = owners.get(ownerName)
    if (owner === undefined) return []
    const entries: Array<Entry> = []
    const start = sortKey(idPrefix)
    for (const key of sortKeysFrom(owner.order ?? orderOf(owner), start, { after, limit, order })) {
      const entry = key.startsWith(start) ? owner.entries.get(idOf(key)) : undefined
      if (entry === undefined) break
      entries.push(entry)
    }
    return entries
  }

  return { size, find, write, drop, dropExpired, list }
}

// -----------------------------------------------------------------------------

/** Entries by the epoch second of their expiry. A heap would not do, since a later write may change an expiry. */
const makeExpiries = () => {
  const seconds = new SortedKeys<number>()
  const entriesAt = new Map<number, Set<Entry>>()
  const none = new Set<Entry>()
  let walk = { entries: none, iterator: none.values() }
  return {
    add: (entry: Entry, expiresAtSeconds: number) => {
      const entries = entriesAt.get(expiresAtSeconds)
      if (entries !== undefined) {
        entries.add(entry)
        return
      }
      entriesAt.set(expiresAtSeconds, new Set([entry]))
      seconds.add(expiresAtSeconds)
    },

    remove: (entry: Entry, expiresAtSeconds: number) => {
      const entries = entriesAt.get(expiresAtSeconds)
      entries?.delete(entry)
      if (entries?.size !== 0) return
      entriesAt.delete(expiresAtSeconds)
      seconds.remove(expiresAtSeconds)
    },

    /** An entry that has expired, one of those that expired first. The caller removes it before it takes the next. */
    next: (nowSeconds: number): Entry | undefined => {
      const first = seconds.first
      if (first === undefined || first > nowSeconds) return undefined
      const entries = entriesAt.get(first)
      if (entries === undefined) return undefined
      // A new walk of a set would begin at the places of all entries that were removed from its start.
      if (walk.entries !== entries) walk = { entries, iterator: entries.values() }
      const next = walk.iterator.next()
      if (!next.done) return next.value
      walk = { entries, iterator: entries.values() }
      return walk.iterator.next().value
    }
  }
}

const orderOf = (owner: Owner): SortedKeys<string> => {
  const order = new SortedKeys<string>()
  for (const id of owner.entries.keys()) order.add(sortKey(id))
  return order
}

/** The sort keys from the prefix on, or after the last id of the page before. They continue past the prefix. */
const sortKeysFrom = (keys: SortedKeys<string>, start: string, { after, limit, order }: Range): Array<string> => {
  if (order === "ascending") {
    // No id has U+0000, so nothing is between a sort key and the same one with U+0000 at its end.
    return keys.ascending(after === undefined ? start : `${sortKey(after)}\0`, limit)
  }
  // No sort key has the code unit 0xffff directly after the prefix. In a sort key, 0xffff is the second half of a
  // character.
  return keys.descending(after === undefined ? `${start}\uffff` : sortKey(after), limit)
}

/** The UTF-16 code units that sort keys map: surrogates, and those code units that are above them. */
const highUnits = /[\ud800-\uffff]/

const mapHighUnits = (text: string, map: (code: number) => number): string =>
  highUnits.test(text)
    ? text.replace(new RegExp(highUnits, "g"), (unit) => String.fromCharCode(map(unit.charCodeAt(0))))
    : text

/**
 * A string that JavaScript compares as the given string's UTF-8 bytes compare. JavaScript compares UTF-16 code units,
 * in which surrogates, which make the highest characters, are below some others. So surrogates and those code units
 * change places.
 */
export const sortKey = (id: string): string =>
  mapHighUnits(id, (code) => (code < 0xe000 ? code + 0x2000 : code - 0x800))

/** The id of a sort key. */
export const idOf = (key: string): string => mapHighUnits(key, (code) => (code < 0xf800 ? code + 0x800 : code - 0x2000))
