import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Layer, Result } from "effect"
import { Base64Url } from "effect/encoding"
import * as InMemory from "../../src/backend/InMemory.ts"
import * as Cursor from "../../src/internal/cursor.ts"
import {
  type Expected,
  isExpired,
  maxVersion,
  type Primitives,
  type Refused,
  type StoredRecord
} from "../../src/StorageBackend.ts"
import { InvalidCursor } from "../../src/StorageError.ts"
import { makeUnsafe, type StorageKey } from "../../src/StorageKey.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { layerPlantable, plant } from "../support/plantable.ts"

/** Changes the record that a refusal carries. */
const refusedWith =
  (change: (current: StoredRecord) => StoredRecord | undefined) =>
  <A extends { readonly _tag: string }>(answer: A | Refused): A | Refused =>
    answer._tag === "Refused" && "current" in answer && answer.current !== undefined
      ? { ...answer, current: change(answer.current) }
      : answer

const versionOnly = (expected: Expected) => (typeof expected === "number" ? expected : expected.version)

/** A listing made of all the owner's records, sorted and cut here, with the id after which the next page starts. */
const listing =
  (
    { list }: Primitives,
    compare: (a: string, b: string) => number,
    next: (page: ReadonlyArray<string>, rest: ReadonlyArray<string>) => string | undefined
  ): Primitives["list"] =>
  (prefix, { after, limit, now, order }) =>
    Effect.map(list(prefix, { after: undefined, limit: 1_000_000, order: "ascending", now }), (all) => {
      const direction = order === "ascending" ? 1 : -1
      const left = all.records
        .toSorted((a, b) => direction * compare(a.id, b.id))
        .filter(({ id }) => after === undefined || direction * compare(id, after) > 0)
      const ids = left.map(({ id }) => id)
      const rest = ids.slice(limit)
      return { records: left.slice(0, limit), next: rest.length === 0 ? undefined : next(ids.slice(0, limit), rest) }
    })

const byUtf16 = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)
const byUtf8 = (a: string, b: string) => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** The same, but every instant is so many seconds later. */
const shifted =
  (seconds: number) =>
  ({ list, put, read, remove, swap }: Primitives): Partial<Primitives> => {
    const later = (stored: StoredRecord | undefined) =>
      stored?.expiresAt === undefined ? stored : { ...stored, expiresAt: stored.expiresAt - seconds }
    return {
      read: (key) => Effect.map(read(key), later),
      put: (key, write) => put(key, { ...write, now: write.now + seconds }),
      swap: (key, write, expected) =>
        Effect.map(swap(key, { ...write, now: write.now + seconds }, expected), refusedWith(later)),
      remove: (key, now, expected) => Effect.map(remove(key, now + seconds, expected), refusedWith(later)),
      list: (prefix, range) => list(prefix, { ...range, now: range.now + seconds })
    }
  }

const sharedEngine = InMemory.makeEngine()

/** Backends broken on purpose, and a case that must catch each. */
const broken = {
  "a compare-and-set that ignores the version": {
    layer: layerPlantable(({ put, read, swap }) => ({
      swap: (key, write, expected) =>
        Effect.flatMap(read(key), (current) =>
          current === undefined || isExpired(current, write.now) || expected === 0
            ? swap(key, write, expected)
            : put(key, write)
        )
    })),
    caughtBy: "fibers that retry on the conflict's record lose no increment"
  },
  "a compare-and-set that ignores the write id": {
    layer: layerPlantable(({ remove, swap }) => ({
      swap: (key, write, expected) => swap(key, write, versionOnly(expected)),
      remove: (key, now, expected) => remove(key, now, expected === undefined ? undefined : versionOnly(expected))
    })),
    caughtBy: "a record deleted and created again is a conflict for whoever read it before"
  },
  "a compare-and-set of a record without a write id that takes one with a write id": {
    layer: layerPlantable(({ read, remove, swap }) => {
      const withAnyWriteId = (key: StorageKey, expected: Expected) =>
        Effect.map(read(key), (current): Expected => {
          if (typeof expected === "number" || expected.writeId !== undefined || current === undefined) return expected
          const isSame = current.version === expected.version && current.data === expected.data
          return isSame ? { ...expected, writeId: current.writeId } : expected
        })
      return {
        swap: (key, write, expected) =>
          Effect.flatMap(withAnyWriteId(key, expected), (expected) => swap(key, write, expected)),
        remove: (key, now, expected) =>
          expected === undefined
            ? remove(key, now, expected)
            : Effect.flatMap(withAnyWriteId(key, expected), (expected) => remove(key, now, expected))
      }
    }),
    caughtBy:
      "a record that was read without a write id is in conflict with a write of the same version and data that has one"
  },
  "a compare-and-set in two steps": {
    layer: layerPlantable(({ read, swap }) => ({
      swap: (key, write, expected) =>
        Effect.flatMap(Effect.tap(read(key), Effect.yieldNow), (current) =>
          typeof expected !== "number" && current?.writeId === expected.writeId && current?.version === expected.version
            ? Effect.flatMap(read(key), (now) => swap(key, write, now?.version ?? 0))
            : swap(key, write, expected)
        )
    })),
    caughtBy: "of many writers that expect the same version exactly one wins"
  },
  "a conflict with the expected version as the actual one": {
    layer: layerPlantable(({ swap }) => ({
      swap: (key, write, expected) =>
        Effect.map(
          swap(key, write, expected),
          refusedWith((current) => ({ ...current, version: versionOnly(expected) }))
        )
    })),
    caughtBy: "a compare-and-set on an old version is a conflict that tells the true one"
  },
  "a missing record as a conflict": {
    layer: layerPlantable(({ swap }) => ({
      swap: (key, write, expected) =>
        Effect.map(swap(key, write, expected), (answer) =>
          answer._tag === "Refused" && answer.current === undefined
            ? { ...answer, current: { data: "", version: 0, writeId: undefined, expiresAt: undefined } }
            : answer
        )
    })),
    caughtBy: "a compare-and-set on a record that is not there is RecordNotFound"
  },
  "a create that overwrites": {
    layer: layerPlantable(({ put, swap }) => ({
      swap: (key, write, expected) => (expected === 0 ? put(key, write) : swap(key, write, expected))
    })),
    caughtBy: "a create makes version 1, and is a conflict where a record is"
  },
  "a put that starts versions again": {
    layer: layerPlantable(({ put, remove }) => ({
      put: (key, write) => Effect.flatMap(remove(key, write.now, undefined), () => put(key, write))
    })),
    caughtBy: "a put of a new key makes version 1, and each further write a higher one"
  },
  "a put that keeps the expiry that was there": {
    layer: layerPlantable(({ put, read }) => ({
      put: (key, write) =>
        Effect.flatMap(read(key), (current) => put(key, { ...write, expiresAt: write.expiresAt ?? current?.expiresAt }))
    })),
    caughtBy: "a write without an expiry takes it away, and one with another sets it"
  },
  "a delete that always says true": {
    layer: layerPlantable(undefined, (backend) => ({ delete: (key) => Effect.as(backend.delete(key), true) })),
    caughtBy: "a deleted key may be created again"
  },
  "an expiry a second late": {
    layer: layerPlantable(shifted(-1)),
    caughtBy: "a record is there until its expiry, rounded up to a second, and absent from then on"
  },
  "an expiry a second early": {
    layer: layerPlantable(shifted(1)),
    caughtBy: "a record is there until its expiry, rounded up to a second, and absent from then on"
  },
  "an expiry that is not an instant as never": {
    layer: layerPlantable(undefined, (backend) => ({
      put: (key, data, options) =>
        backend.put(key, data, Number.isNaN(options?.expiresAt?.epochMilliseconds) ? undefined : options)
    })),
    caughtBy: "an expiry that is not an instant is a defect, and nothing is written"
  },
  "an infinite expiry as the last date": {
    layer: layerPlantable(undefined, (backend) => ({
      put: (key, data, options) =>
        options?.expiresAt?.epochMilliseconds === Infinity
          ? backend.put(key, data, { expiresAt: DateTime.makeUnsafe(8.64e15) })
          : backend.put(key, data, options)
    })),
    caughtBy: "an expiry of positive infinity is never, and one beyond all dates is the last date"
  },
  "an expiry of zero that is taken for none": {
    layer: layerPlantable(({ put }) => ({
      put: (key, write) => put(key, { ...write, expiresAt: write.expiresAt || undefined })
    })),
    caughtBy: "an expiry at the start of 1970, or before it, has come"
  },
  "a create over an expired record that goes past the last version": {
    layer: layerPlantable(({ read, swap }) => ({
      swap: (key, write, expected) =>
        Effect.flatMap(read(key), (current) =>
          expected === 0 && current?.version === maxVersion && isExpired(current, write.now)
            ? Effect.succeed({ _tag: "Written", version: maxVersion + 1 })
            : swap(key, write, expected)
        )
    })),
    caughtBy: "no write goes past the last safe version of an expired record that the engine still holds"
  },
  "a listing that shows what has expired": {
    layer: layerPlantable(({ list }) => ({ list: (prefix, range) => list(prefix, { ...range, now: 0 }) })),
    caughtBy: "a record written with an expiry that has come is absent at once"
  },
  "a cleanup that removes what is live": {
    layer: layerPlantable(({ cleanup }) => ({ cleanup: (now) => cleanup(now + 1_000_000) })),
    caughtBy: "a cleanup removes nothing that is live"
  },
  "a listing in UTF-16 order": {
    layer: layerPlantable((primitives) => ({ list: listing(primitives, byUtf16, (page) => page.at(-1)) })),
    caughtBy: "a listing is in the order of the ids' UTF-8, which is not that of UTF-16"
  },
  "a page that skips a record": {
    layer: layerPlantable((primitives) => ({
      list: listing(primitives, byUtf8, (_, rest) => rest[0])
    })),
    caughtBy: "any ids are listed whole and in order, in pages of any size, by any prefix"
  },
  "a page that skips a record where the last one of the page before is gone": {
    layer: layerPlantable(({ list, read }) => ({
      list: (prefix, range) =>
        Effect.gen(function* () {
          const chunk = yield* list(prefix, range)
          if (range.after === undefined) return chunk
          const last = yield* read(makeUnsafe({ owner: prefix.owner, id: range.after }))
          return last === undefined ? { ...chunk, records: chunk.records.slice(1) } : chunk
        })
    })),
    caughtBy:
      "a page goes on where the one before ended, though the last record of that was deleted or expired meanwhile"
  },
  "a page whose limit is not reduced by what was found": {
    layer: layerPlantable(({ list }) => {
      let limit = 0
      return {
        list: (prefix, range) => {
          if (range.after === undefined) limit = range.limit
          return list(prefix, { ...range, limit })
        }
      }
    }),
    caughtBy: "a page that meets expired records is filled up to its limit and no further"
  },
  "a forged cursor that is taken": {
    layer: layerPlantable(undefined, (backend) => ({
      listByPrefix: (prefix, options = {}) => {
        const { cursor = "", order = "ascending" } = options
        const id = Buffer.from(cursor, "base64url").subarray(9).toString()
        const page = backend.listByPrefix(prefix, options)
        return Cursor.encode(prefix, order, id) === cursor
          ? Effect.catchTag(page, "InvalidCursor", () => Effect.succeed({ records: [], cursor: undefined }))
          : page
      }
    })),
    caughtBy: "a forged cursor for an id outside the listing, or for what is not an id, is InvalidCursor"
  },
  "a cursor that is not bound to its owner": {
    layer: layerPlantable(undefined, (backend) => ({
      listByPrefix: Effect.fnUntraced(function* (prefix, { cursor, limit = 100, ...options } = {}) {
        const after = cursor === undefined ? undefined : Result.getOrUndefined(Base64Url.decodeString(cursor))
        if (after === "" || (after !== undefined && Base64Url.encode(after) !== cursor)) {
          return yield* new InvalidCursor({})
        }
        const { records } = yield* backend.listByPrefix(prefix, { ...options, limit: 1000 })
        const rest = after === undefined ? records : records.slice(records.findIndex(({ key }) => key.id === after) + 1)
        const last = rest.length > limit ? rest[limit - 1]?.key.id : undefined
        return { records: rest.slice(0, limit), cursor: last === undefined ? undefined : Base64Url.encode(last) }
      })
    })),
    caughtBy: "a cursor that is damaged, cut or of another listing is InvalidCursor"
  },
  "owners and ids joined by a colon": {
    layer: layerPlantable(({ put, read }) => {
      const joined = (key: { readonly owner: string; readonly id: string }) =>
        makeUnsafe({ owner: "all", id: `${key.owner}:${key.id}`.replace(/::+/g, ":") })
      return { read: (key) => read(joined(key)), put: (key, write) => put(joined(key), write) }
    }),
    caughtBy: "no two owners and ids share a record, and listings stay within their owner"
  },
  "ids brought to a normal form": {
    layer: layerPlantable(({ put, read }) => {
      const normal = (key: { readonly owner: string; readonly id: string }) =>
        makeUnsafe({ owner: key.owner, id: key.id.normalize("NFC") })
      return { read: (key) => read(normal(key)), put: (key, write) => put(normal(key), write) }
    }),
    caughtBy: "tricky ids address their own record and no other"
  },
  "data cut at a null character": {
    layer: layerPlantable(({ put }) => ({
      put: (key, write) => put(key, { ...write, data: write.data.split("\0")[0] ?? "" })
    })),
    caughtBy: "any well-formed data comes back as it was"
  },
  "a store that all builds of the Layer share": {
    layer: layerPlantable(() => sharedEngine.primitives),
    caughtBy: "separate builds of the Layer are separate stores"
  }
}

describe("StorageContract catches", () => {
  for (const [name, { caughtBy, layer }] of Object.entries(broken)) {
    it.effect(name, () =>
      Effect.gen(function* () {
        const caught: Array<string> = []
        for (const { name, run } of StorageContract.cases(layer, { plant })) {
          if (run === undefined) continue
          const failed = yield* run.pipe(
            Effect.scoped,
            Effect.provide(Layer.provideMerge(layer, StorageContract.layerClock)),
            Effect.matchCause({ onFailure: () => true, onSuccess: () => false })
          )
          if (failed) caught.push(name)
        }
        assert.include(caught, caughtBy)
      })
    )
  }
})
