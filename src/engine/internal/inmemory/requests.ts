/** The operations on a store in memory. Each operation does its work at once, and returns a finished Effect. */
import * as Effect from "effect/Effect"
import { checkLimit } from "../../../internal/options.ts"
import { byteLength } from "../../../internal/utf8.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import type { Instant } from "../instant.ts"
import { cleanupBatch } from "../limits.ts"
import {
  type Commit,
  type CommitFull,
  type CommitRefused,
  type Committed,
  type Full,
  isAsExpectedAt,
  isExpiredAt,
  isStepAsExpectedAt,
  type LocalEngine,
  type Refused,
  type Step,
  type StoredRecord,
  type Write
} from "../model.ts"
import { type Entry, makeStore } from "./layout.ts"

export interface Bounds {
  readonly maxRecords?: number | undefined
  readonly maxBytes?: number | undefined
}

export const makeLocalEngine = ({ maxBytes = Infinity, maxRecords = Infinity }: Bounds = {}) => {
  checkLimit("maxRecords", maxRecords)
  checkLimit("maxBytes", maxBytes)
  const bytesOf = (owner: string, id: string, data: string) =>
    maxBytes === Infinity ? 0 : byteLength(owner) + byteLength(id) + byteLength(data)
  const store = makeStore(({ data, id, owner }) => bytesOf(owner.name, id, data))

  const excess = (old: Entry | undefined, bytes: number): Full | undefined => {
    const inRecords = store.size.records + (old === undefined ? 1 : 0)
    const oldBytes = old === undefined ? 0 : bytesOf(old.owner.name, old.id, old.data)
    const inBytes = store.size.bytes + bytes - oldBytes
    if (inRecords > maxRecords) return { _tag: "Full", resource: "StoreRecords", limit: maxRecords, actual: inRecords }
    if (inBytes > maxBytes) return { _tag: "Full", resource: "StoreBytes", limit: maxBytes, actual: inBytes }
  }

  const put = (
    key: StorageKey,
    { data, expiresAtSeconds, increment, writeId }: Write,
    current: Entry | undefined,
    now: Instant
  ) => {
    const version = (current?.version ?? 0) + increment
    if (version > maxVersion) return refused(current)
    const bytes = bytesOf(key.owner, key.id, data)
    let old = current
    let full = excess(old, bytes)
    // A full store first drops expired records. One of them may be this record, whose versions continue all the same.
    while (full !== undefined && store.dropExpired(now.seconds, cleanupBatch) > 0) {
      old = store.find(key)
      full = excess(old, bytes)
    }
    if (full !== undefined) return full
    store.write(key, old, { data, version, writeId, expiresAtSeconds })
    return { _tag: "Written" as const, version }
  }

  /** What the writes and removals of a commit would add to the store, if that is too much. */
  const excessOf = (changes: ReadonlyArray<Change>): CommitFull | undefined => {
    let [records, bytes] = [store.size.records, store.size.bytes]
    for (const { current, step } of changes) {
      records += (step._tag === "Write" ? 1 : 0) - (current === undefined ? 0 : 1)
      bytes += step._tag === "Write" ? bytesOf(step.key.owner, step.key.id, step.data) : 0
      bytes -= current === undefined ? 0 : bytesOf(current.owner.name, current.id, current.data)
    }
    const writes = changes.filter(({ step }) => step._tag === "Write")
    const created = writes.find(({ current }) => current === undefined)
    if (records > maxRecords && created !== undefined) {
      return { _tag: "Full", index: created.index, resource: "StoreRecords", limit: maxRecords, actual: records }
    }
    const [first] = writes
    if (bytes > maxBytes && first !== undefined) {
      return { _tag: "Full", index: first.index, resource: "StoreBytes", limit: maxBytes, actual: bytes }
    }
  }

  const commit = ({ steps, writeId }: Commit, now: Instant): Committed | CommitRefused | CommitFull => {
    for (;;) {
      const found = steps.map((step, index) => ({ step, index, current: store.find(step.key) }))
      const refusals = found.filter(({ current, step }) => !isStepAsExpectedAt(current, step, now))
      if (refusals.length > 0) return { _tag: "CommitRefused", refusals }
      const changes = found.filter(({ step }) => step._tag !== "Check")
      const full = excessOf(changes)
      if (full === undefined) {
        for (const { current, step } of changes) {
          if (step._tag === "Write") store.write(step.key, current, { ...step, writeId })
          else if (current !== undefined) store.drop(current)
        }
        return { _tag: "Committed" }
      }
      // A full store first drops expired records. A step may expect one of them, so the steps are checked again.
      if (store.dropExpired(now.seconds, cleanupBatch) === 0) return full
    }
  }

  const engine = {
    read: (key) => Effect.succeed(store.find(key)),

    readMany: (keys) => Effect.succeed(keys.map(store.find)),

    put: (key, write, now) => Effect.succeed(put(key, write, store.find(key), now)),

    swap: (key, write, expectation, now) => {
      const current = store.find(key)
      return Effect.succeed(
        isAsExpectedAt(current, expectation, now) ? put(key, write, current, now) : refused(current)
      )
    },

    remove: (key, expectation, now) => {
      const current = store.find(key)
      const isRemoved =
        current !== undefined &&
        (expectation === undefined ? !isExpiredAt(current, now) : isAsExpectedAt(current, expectation, now))
      if (!isRemoved) return Effect.succeed(refused(current))
      store.drop(current)
      return Effect.succeed({ _tag: "Removed" as const })
    },

    commit: (request, now) => Effect.succeed(commit(request, now)),

    list: ({ idPrefix, owner }, range, now) => {
      // One entry more than the page has shows whether another page follows.
      const entries = store.list(owner, idPrefix, { ...range, limit: range.limit + 1 })
      const hasNext = entries.length > range.limit
      if (hasNext) entries.pop()
      return Effect.succeed({
        records: entries.filter((entry) => !isExpiredAt(entry, now)),
        next: hasNext ? entries.at(-1)?.id : undefined
      })
    },

    // In slices, between which other fibers run, and the event loop goes on. There is only one clock, so no expired
    // record is kept for clients with other clocks (promise 4).
    cleanup: Effect.fnUntraced(function* (now) {
      let removed = 0
      for (;;) {
        const dropped = store.dropExpired(now.seconds, cleanupBatch)
        removed += dropped
        if (dropped < cleanupBatch) return removed
        yield* Effect.yieldNow
      }
    })
  } satisfies LocalEngine

  /** Stores a record of any version, as another client of an engine could. */
  const plant = (key: StorageKey, record: StoredRecord) => store.write(key, store.find(key), record)

  return { engine, plant }
}

const refused = (current: Entry | undefined): Refused => ({ _tag: "Refused", current })

/** A step of a commit that changes the store, and the record that it changes. */
interface Change {
  readonly step: Step
  readonly index: number
  readonly current: Entry | undefined
}
