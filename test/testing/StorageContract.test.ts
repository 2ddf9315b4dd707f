import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, type Exit, Layer, Queue, Result, Stream } from "effect"
import { Base64Url } from "effect/encoding"
import {
  type Commit,
  type Committed,
  type Engine,
  type Expectation,
  isAsExpected,
  isExpired,
  isStepAsExpected,
  type Refused,
  type StoredRecord
} from "../../src/Engine.ts"
import * as Cursor from "../../src/engine/internal/cursor.ts"
import { maxVersion, type StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import { type Backend as BackendError, InvalidCursor, RecordNotFound, VersionConflict } from "../../src/StorageError.ts"
import { makeUnsafe, type StorageKey } from "../../src/StorageKey.ts"
import { isStoragePrefix, makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { fencedLeases, leases } from "../../src/testing/contract/leases.ts"
import { PatienceMillis } from "../../src/testing/internal/support.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { makeEngine } from "../support/memoryEngine.ts"
import { layerPlantable, lossy, type Plantable, plant } from "../support/plantable.ts"

type Backend = StorageBackend["Service"]

/** Changes the record that a refusal carries. */
const refusedWith =
  (change: (current: StoredRecord) => StoredRecord | undefined) =>
  <A extends { readonly _tag: string }>(answer: A | Refused): A | Refused =>
    answer._tag === "Refused" && "current" in answer && answer.current !== undefined
      ? { ...answer, current: change(answer.current) }
      : answer

const versionOf = (expectation: Expectation) => (expectation._tag === "Absent" ? 0 : expectation.version)

/** The same expectation of the version alone. */
const versionOnly = <E extends Expectation>(expectation: E) =>
  expectation._tag === "Absent" ? expectation : ({ _tag: "Version", version: expectation.version } as const)

/** A listing made of all the owner's records, sorted and cut here, with the id after which the next page starts. */
const listing =
  (
    { list }: Engine,
    compare: (a: string, b: string) => number,
    next: (page: ReadonlyArray<string>, rest: ReadonlyArray<string>) => string | undefined
  ): Engine["list"] =>
  (prefix, { after, limit, order }, nowSeconds) =>
    Effect.map(list(prefix, { after: undefined, limit: 1_000_000, order: "ascending" }, nowSeconds), (all) => {
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
  ({ list, put, read, remove, swap }: Engine): Partial<Engine> => {
    const later = (stored: StoredRecord | undefined) =>
      stored?.expiresAtSeconds === undefined
        ? stored
        : { ...stored, expiresAtSeconds: stored.expiresAtSeconds - seconds }
    return {
      read: (key) => Effect.map(read(key), later),
      readMany: (keys) => Effect.forEach(keys, (key) => Effect.map(read(key), later)),
      put: (key, write, nowSeconds) => put(key, write, nowSeconds + seconds),
      swap: (key, write, expectation, nowSeconds) =>
        Effect.map(swap(key, write, expectation, nowSeconds + seconds), refusedWith(later)),
      remove: (key, expectation, nowSeconds) =>
        Effect.map(remove(key, expectation, nowSeconds + seconds), refusedWith(later)),
      list: (prefix, range, nowSeconds) => list(prefix, range, nowSeconds + seconds)
    }
  }

const sharedStore = makeEngine()

/** The engine with its keys changed, and its listing. */
const withKeys = (
  engine: Engine,
  change: (key: StorageKey) => StorageKey,
  list: (engine: Engine) => Engine["list"]
): Partial<Engine> => ({
  read: (key) => engine.read(change(key)),
  put: (key, ...rest) => engine.put(change(key), ...rest),
  swap: (key, ...rest) => engine.swap(change(key), ...rest),
  remove: (key, ...rest) => engine.remove(change(key), ...rest),
  list: list(engine),
  readMany: (keys) => Effect.forEach(keys, (key) => engine.read(change(key)))
})

const withoutWriteId = (current: StoredRecord): StoredRecord => ({ ...current, writeId: undefined })

const inTwoSteps =
  ({ read, swap }: Engine): Engine["swap"] =>
  (key, write, expectation, nowSeconds) =>
    Effect.flatMap(Effect.tap(read(key), Effect.yieldNow), (current) =>
      isAsExpected(current, expectation, nowSeconds) && current !== undefined
        ? Effect.flatMap(read(key), (newest) =>
            swap(key, write, { _tag: "Version", version: newest?.version ?? 0 }, nowSeconds)
          )
        : swap(key, write, expectation, nowSeconds)
    )

/** Makes the steps of a commit one by one, with something between them, without their checks. */
const stepByStep =
  ({ put, remove }: Engine, between: Effect.Effect<void> = Effect.yieldNow) =>
  ({ steps, writeId }: Commit, nowSeconds: number): Effect.Effect<Committed, BackendError> =>
    Effect.as(
      Effect.forEach(steps, (step) => {
        if (step._tag === "Check") return Effect.void
        const made: Effect.Effect<unknown, BackendError> =
          step._tag === "Remove"
            ? remove(step.key, undefined, nowSeconds)
            : put(step.key, { ...step, writeId, increment: 1 }, nowSeconds)
        return Effect.andThen(made, between)
      }),
      { _tag: "Committed" as const }
    )

/** Hints at a change, and makes it a little later. */
const withEarlyHints = ({ delete: remove, put }: Backend): Partial<Backend> => {
  const watchers = new Set<() => void>()
  const early = <A, E>(change: Effect.Effect<A, E>) =>
    Effect.suspend(() => {
      for (const tell of watchers) tell()
      return Effect.andThen(Effect.sleep("5 millis"), change)
    })
  return {
    put: (...args) => early(put(...args)),
    delete: (key) => early(remove(key)),
    hints: () =>
      Stream.callback<void>((queue) => {
        const tell = () => void Queue.offerUnsafe(queue, undefined)
        return Effect.acquireRelease(
          Effect.sync(() => watchers.add(tell)),
          () => Effect.sync(() => watchers.delete(tell))
        )
      })
  }
}

/** Answers each get with what the one before it found. */
const readingBehind = ({ get }: Backend): Partial<Backend> => {
  const found = new Map<string, Exit.Exit<VersionedRecord, RecordNotFound | BackendError>>()
  return {
    get: (key) =>
      Effect.flatMap(Effect.exit(get(key)), (newest) => {
        const before = found.get(`${key}`) ?? newest
        found.set(`${key}`, newest)
        return before
      })
  }
}

/** Answers each get with what the first one found. */
const remembering = ({ get }: Backend): Partial<Backend> => {
  const found = new Map<string, Exit.Exit<VersionedRecord, RecordNotFound | BackendError>>()
  return {
    get: (key) =>
      Effect.flatMap(Effect.exit(get(key)), (newest) => {
        const first = found.get(`${key}`) ?? newest
        found.set(`${key}`, first)
        return first
      })
  }
}

type CommitAnswer = ReturnType<NonNullable<Engine["commit"]>>

interface Broken {
  readonly layer: Layer.Layer<StorageBackend | Plantable>
  readonly caughtBy: string
  /** Whether all builds of the Layer are clients of one engine. */
  readonly shared?: boolean
}

/** Backends broken on purpose, and a case that must catch each. */
const broken: Record<string, Broken> = {
  "a compare-and-set that ignores the version": {
    layer: layerPlantable(({ put, read, swap }) => ({
      swap: (key, write, expectation, nowSeconds) =>
        Effect.flatMap(read(key), (current) =>
          current === undefined || isExpired(current, nowSeconds) || expectation._tag === "Absent"
            ? swap(key, write, expectation, nowSeconds)
            : put(key, write, nowSeconds)
        )
    })),
    caughtBy: "fibers that retry on the conflict's record lose no increment"
  },
  "a compare-and-set that raises the version by one, whatever its increment": {
    layer: layerPlantable(({ swap }) => ({
      swap: (key, write, expectation, nowSeconds) => swap(key, { ...write, increment: 1 }, expectation, nowSeconds)
    })),
    caughtBy: "a compare-and-set raises the version by its increment, over any record and none"
  },
  "an increment that goes past the last version": {
    layer: layerPlantable(({ swap }) => ({
      swap: (key, write, expectation, nowSeconds) => {
        const room = expectation._tag === "Absent" ? write.increment : maxVersion - expectation.version
        return swap(key, { ...write, increment: Math.min(write.increment, room) }, expectation, nowSeconds)
      }
    })),
    caughtBy: "no increment goes past the last safe version, and one that is not an integer from 1 is a defect"
  },
  "a compare-and-set that ignores the write id": {
    layer: layerPlantable(({ remove, swap }) => ({
      swap: (key, write, expectation, nowSeconds) => swap(key, write, versionOnly(expectation), nowSeconds),
      remove: (key, expectation, nowSeconds) => remove(key, expectation && versionOnly(expectation), nowSeconds)
    })),
    caughtBy: "a record deleted and created again is a conflict for whoever read it before"
  },
  "a compare-and-set of a record without a write id that takes one with a write id": {
    layer: layerPlantable(({ read, remove, swap }) => {
      const withAnyWriteId = <E extends Expectation>(key: StorageKey, expectation: E) =>
        Effect.map(read(key), (current) => {
          if (expectation._tag !== "Data" || current?.writeId === undefined) return expectation
          const isSame = current.version === expectation.version && current.data === expectation.data
          return isSame ? { _tag: "Write" as const, version: current.version, writeId: current.writeId } : expectation
        })
      return {
        swap: (key, write, expectation, nowSeconds) =>
          Effect.flatMap(withAnyWriteId(key, expectation), (any) => swap(key, write, any, nowSeconds)),
        remove: (key, expectation, nowSeconds) =>
          expectation === undefined
            ? remove(key, expectation, nowSeconds)
            : Effect.flatMap(withAnyWriteId(key, expectation), (any) => remove(key, any, nowSeconds))
      }
    }),
    caughtBy:
      "a record that was read without a write id is in conflict with a write of the same version and data that has one"
  },
  "a compare-and-set in two steps": {
    layer: layerPlantable((engine) => ({ swap: inTwoSteps(engine) })),
    caughtBy: "of many writers that expect the same version exactly one wins"
  },
  "a conflict with the expected version as the actual one": {
    layer: layerPlantable(({ swap }) => ({
      swap: (key, write, expectation, nowSeconds) =>
        Effect.map(
          swap(key, write, expectation, nowSeconds),
          refusedWith((current) => ({ ...current, version: versionOf(expectation) }))
        )
    })),
    caughtBy: "a compare-and-set on an old version is a conflict that tells the true one"
  },
  "a missing record as a conflict": {
    layer: layerPlantable(({ swap }) => ({
      swap: (key, write, expectation, nowSeconds) =>
        Effect.map(swap(key, write, expectation, nowSeconds), (answer) =>
          answer._tag === "Refused" && answer.current === undefined
            ? { ...answer, current: { data: "", version: 0, writeId: undefined, expiresAtSeconds: undefined } }
            : answer
        )
    })),
    caughtBy: "a compare-and-set on a record that is not there is RecordNotFound"
  },
  "a create that overwrites": {
    layer: layerPlantable(({ put, swap }) => ({
      swap: (key, write, expectation, nowSeconds) =>
        expectation._tag === "Absent" ? put(key, write, nowSeconds) : swap(key, write, expectation, nowSeconds)
    })),
    caughtBy: "a create makes version 1, and is a conflict where a record is"
  },
  "a put that starts versions again": {
    layer: layerPlantable(({ put, remove }) => ({
      put: (key, write, nowSeconds) =>
        Effect.flatMap(remove(key, undefined, nowSeconds), () => put(key, write, nowSeconds))
    })),
    caughtBy: "a put of a new key makes version 1, and each further write a higher one"
  },
  "a put that keeps the expiry that was there": {
    layer: layerPlantable(({ put, read }) => ({
      put: (key, write, nowSeconds) =>
        Effect.flatMap(read(key), (current) =>
          put(key, { ...write, expiresAtSeconds: write.expiresAtSeconds ?? current?.expiresAtSeconds }, nowSeconds)
        )
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
      put: (key, write, nowSeconds) =>
        put(key, { ...write, expiresAtSeconds: write.expiresAtSeconds || undefined }, nowSeconds)
    })),
    caughtBy: "an expiry at the start of 1970, or before it, has come"
  },
  "a create over an expired record that goes past the last version": {
    layer: layerPlantable(({ read, swap }) => ({
      swap: (key, write, expectation, nowSeconds) =>
        Effect.flatMap(read(key), (current) =>
          expectation._tag === "Absent" && current?.version === maxVersion && isExpired(current, nowSeconds)
            ? Effect.succeed({ _tag: "Written", version: maxVersion + 1 })
            : swap(key, write, expectation, nowSeconds)
        )
    })),
    caughtBy: "no write goes past the last safe version of an expired record that the engine still holds"
  },
  "a listing that shows what has expired": {
    layer: layerPlantable(({ list }) => ({ list: (prefix, range) => list(prefix, range, 0) })),
    caughtBy: "a record written with an expiry that has come is absent at once"
  },
  "a cleanup that removes what is live": {
    layer: layerPlantable(({ cleanup }) => ({ cleanup: (now) => cleanup(now + 1_000_000) })),
    caughtBy: "a cleanup removes nothing that is live"
  },
  "a listing in UTF-16 order": {
    layer: layerPlantable((engine) => ({ list: listing(engine, byUtf16, (page) => page.at(-1)) })),
    caughtBy: "a listing is in the order of the ids' UTF-8, which is not that of UTF-16"
  },
  "a page that skips a record": {
    layer: layerPlantable((engine) => ({
      list: listing(engine, byUtf8, (_, rest) => rest[0])
    })),
    caughtBy: "any ids are listed whole and in order, in pages of any size, by any prefix"
  },
  "a page that skips a record where the last one of the page before is gone": {
    layer: layerPlantable(({ list, read }) => ({
      list: (prefix, range, nowSeconds) =>
        Effect.gen(function* () {
          const chunk = yield* list(prefix, range, nowSeconds)
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
        list: (prefix, range, nowSeconds) => {
          if (range.after === undefined) limit = range.limit
          return list(prefix, { ...range, limit }, nowSeconds)
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
    layer: layerPlantable((engine) => {
      const join = (key: { readonly owner: string; readonly id: string }) => `${key.owner}:${key.id}`
      return withKeys(
        engine,
        (key) => makeUnsafe({ owner: "all", id: join(key) }),
        ({ list }) =>
          (prefix, range, now) =>
            Effect.map(
              list(
                makePrefix({ owner: "all", idPrefix: join({ owner: prefix.owner, id: prefix.idPrefix }) }),
                { ...range, after: range.after && join({ owner: prefix.owner, id: range.after }) },
                now
              ),
              ({ next, records }) => ({
                records: records.map((record) => ({ ...record, id: record.id.slice(prefix.owner.length + 1) })),
                next: next?.slice(prefix.owner.length + 1)
              })
            )
      )
    }),
    caughtBy: "no two owners and ids share a record, and listings stay within their owner"
  },
  "owners that are decoded as in a URL": {
    layer: layerPlantable((engine) => {
      const decoded = (owner: string) => owner.replaceAll("%3A", ":")
      return withKeys(
        engine,
        ({ id, owner }) => makeUnsafe({ owner: decoded(owner), id }),
        ({ list }) =>
          ({ idPrefix, owner }, range, now) =>
            list(makePrefix({ owner: decoded(owner), idPrefix }), range, now)
      )
    }),
    caughtBy: "tricky owners are kept apart"
  },
  "ids cut at 500 characters": {
    layer: layerPlantable((engine) =>
      withKeys(
        engine,
        ({ id, owner }) => makeUnsafe({ owner, id: id.slice(0, 500) }),
        ({ list }) => list
      )
    ),
    caughtBy: "owners and ids may be as long as the limits"
  },
  "ids brought to a normal form": {
    layer: layerPlantable(({ put, read }) => {
      const normal = (key: { readonly owner: string; readonly id: string }) =>
        makeUnsafe({ owner: key.owner, id: key.id.normalize("NFC") })
      return { read: (key) => read(normal(key)), put: (key, write, nowSeconds) => put(normal(key), write, nowSeconds) }
    }),
    caughtBy: "tricky ids address their own record and no other"
  },
  "data cut at a null character": {
    layer: layerPlantable(({ put }) => ({
      put: (key, write, nowSeconds) => put(key, { ...write, data: write.data.split("\0")[0] ?? "" }, nowSeconds)
    })),
    caughtBy: "any well-formed data comes back as it was"
  },
  "an expected version that is not checked": {
    layer: layerPlantable(undefined, (backend) => {
      const asNotFound = <A, E>(key: StorageKey, effect: Effect.Effect<A, E>) =>
        Effect.catchDefect(effect, () => Effect.fail(new RecordNotFound({ key })))
      return {
        putIfVersion: (key, ...rest) => asNotFound(key, backend.putIfVersion(key, ...rest)),
        deleteIfVersion: (key, expected) => asNotFound(key, backend.deleteIfVersion(key, expected))
      }
    }),
    caughtBy: "an expected version that can't be is a defect"
  },
  "a limit of pages that is brought into its range": {
    layer: layerPlantable(undefined, (backend) => ({
      listByPrefix: (prefix, options = {}) => {
        const { limit = 100 } = options
        const within = Number.isNaN(limit) ? 100 : Math.min(Math.max(Math.trunc(limit), 1), 1000)
        return backend.listByPrefix(prefix, { ...options, limit: within })
      }
    })),
    caughtBy: "a limit or an order that can't be is a defect"
  },
  "a page of 50 by default": {
    layer: layerPlantable(undefined, (backend) => ({
      listByPrefix: (prefix, options) => backend.listByPrefix(prefix, { limit: 50, ...options })
    })),
    caughtBy: "a page has 100 records unless another limit is given"
  },
  "a listing that ends where all that was examined has expired": {
    layer: layerPlantable(({ list }) => ({
      list: (...args) =>
        Effect.map(list(...args), (chunk) => (chunk.records.length === 0 ? { ...chunk, next: undefined } : chunk))
    })),
    caughtBy: "a few live records among thousands of expired ones are all found"
  },
  "a cursor that counts records": {
    layer: layerPlantable(({ list }) => ({
      list: (prefix, range, nowSeconds) =>
        Effect.map(list(prefix, { ...range, after: undefined, limit: 1_000_000 }, nowSeconds), ({ records }) => {
          const start = range.after === undefined ? 0 : Number(range.after.split("#")[1])
          const end = start + range.limit
          return {
            records: records.slice(start, end),
            next: end >= records.length ? undefined : `${prefix.idPrefix}#${end}`
          }
        })
    })),
    caughtBy: "walking pages while others insert and delete neither repeats nor skips a record that stays"
  },
  "a write past the last version": {
    layer: layerPlantable(({ put, remove }) => ({
      put: (key, write, nowSeconds) =>
        Effect.flatMap(put(key, write, nowSeconds), (answer) =>
          answer._tag !== "Refused"
            ? Effect.succeed(answer)
            : Effect.andThen(remove(key, undefined, nowSeconds), put(key, write, nowSeconds))
        )
    })),
    caughtBy: "no write goes past the last safe version"
  },
  "a write id that all writes share": {
    layer: layerPlantable(({ put, swap }) => ({
      put: (key, write, nowSeconds) => put(key, { ...write, writeId: "same" }, nowSeconds),
      swap: (key, write, expectation, nowSeconds) => swap(key, { ...write, writeId: "same" }, expectation, nowSeconds)
    })),
    caughtBy: "each write has a write id of its own, which is stored with the record"
  },
  "a write that returns another write id than it stores": {
    layer: layerPlantable(undefined, (backend) => ({
      put: (...args) => Effect.map(backend.put(...args), (record) => ({ ...record, writeId: crypto.randomUUID() }))
    })),
    caughtBy: "a write returns the record as a read then gives it"
  },
  "a refusal without the write id of what is there": {
    layer: layerPlantable(({ swap }) => ({
      swap: (...args) => Effect.map(swap(...args), refusedWith(withoutWriteId))
    })),
    caughtBy: "a put, a create and a compare-and-set whose answer is lost succeed, and take effect once"
  },
  "a delete that is sent again after its answer was lost": {
    layer: layerPlantable(undefined, (backend) => ({
      delete: (key) => Effect.catchTag(backend.delete(key), "Backend", () => backend.delete(key))
    })),
    caughtBy: "a delete whose answer is lost is of unknown outcome, and its record is gone"
  },
  "an unknown outcome that is told as a conflict": {
    layer: layerPlantable(
      ({ swap }) => ({ swap: (...args) => Effect.map(swap(...args), refusedWith(withoutWriteId)) }),
      (backend) => ({
        putIfVersion: (key, data, expected, options) =>
          Effect.catchTag(backend.putIfVersion(key, data, expected, options), "Backend", () =>
            Effect.flatMap(backend.get(key), (current) =>
              Effect.fail(
                new VersionConflict({
                  key,
                  expected: typeof expected === "number" ? expected : expected.version,
                  actual: current.version,
                  current: undefined
                })
              )
            )
          )
      })
    ),
    caughtBy: "if answers are lost, the history of a key is linearizable, writes of unknown outcome included"
  },
  "many records in the order of their ids": {
    layer: layerPlantable(undefined, (backend) => ({
      getMany: (keys) => backend.getMany(keys.toSorted((a, b) => byUtf8(a.id, b.id)))
    })),
    caughtBy: "records that are read at once come back as single reads give them, in the order asked"
  },
  "many records, without those that the engine left out": {
    layer: layerPlantable(undefined, (backend) => ({
      getMany: (keys) => {
        let length = 0
        return Effect.map(backend.getMany(keys), (found) =>
          found.map((record) => {
            length += record?.data.length ?? 0
            return length > 16 * 2 ** 20 ? undefined : record
          })
        )
      }
    })),
    caughtBy: "records that are larger together than one answer of the engine come back whole"
  },
  "many records, expired ones among them": {
    layer: layerPlantable(({ readMany = () => Effect.succeed([]) }) => ({
      readMany: (keys) =>
        Effect.map(readMany(keys), (found) =>
          found.map((stored) => (typeof stored === "object" ? { ...stored, expiresAtSeconds: undefined } : stored))
        )
    })),
    caughtBy: "a record is not among many from the second of its expiry on"
  },
  "many records that are found by the texts of owner and id together": {
    layer: layerPlantable(undefined, (backend) => ({
      getMany: (keys) =>
        Effect.map(backend.getMany(keys), (found) => {
          const byText = new Map(keys.map(({ id, owner }, i) => [`${owner}${id}`, found[i]]))
          return keys.map(({ id, owner }) => byText.get(`${owner}${id}`))
        })
    })),
    caughtBy: "records of several owners are read at once, each by its own owner and id"
  },
  "many records without a limit": {
    layer: layerPlantable(undefined, (backend) => ({
      getMany: (keys) =>
        Effect.map(Effect.all([backend.getMany(keys.slice(0, 100)), backend.getMany(keys.slice(100))]), (all) =>
          all.flat()
        )
    })),
    caughtBy: "no key reads nothing, and more than a hundred are a defect"
  },
  "a commit that checks first and writes later": {
    layer: layerPlantable((engine) => ({
      commit: (commit, nowSeconds) =>
        Effect.flatMap(Effect.all(commit.steps.map(({ key }) => engine.read(key))), (found): CommitAnswer => {
          const refusals = found.flatMap((current, index) => {
            const step = commit.steps[index]
            return step && isStepAsExpected(current, step, nowSeconds) ? [] : [{ index, current }]
          })
          if (refusals.length > 0) return Effect.succeed({ _tag: "CommitRefused", refusals })
          return Effect.andThen(Effect.yieldNow, stepByStep(engine, Effect.void)(commit, nowSeconds))
        })
    })),
    caughtBy: "of commits and single writes that change the same records exactly one wins"
  },
  "a commit that leaves out its checks": {
    layer: layerPlantable(({ commit = () => Effect.die("none") }) => ({
      commit: (request, nowSeconds) => {
        const steps = request.steps.filter(({ _tag }) => _tag !== "Check")
        return steps.length === 0 ? Effect.succeed({ _tag: "Committed" }) : commit({ ...request, steps }, nowSeconds)
      }
    })),
    caughtBy: "of two commits that each check what the other changes only one is made"
  },
  "a commit that stops half-way if it is interrupted": {
    layer: layerPlantable((engine) => ({ commit: stepByStep(engine) })),
    caughtBy: "an interrupted commit is made whole or not at all"
  },
  "a commit that undoes nothing if a step is refused": {
    layer: layerPlantable((engine) => ({
      commit: (request, nowSeconds) =>
        Effect.flatMap(
          engine.commit?.(request, nowSeconds) ?? Effect.die("none"),
          (answer): CommitAnswer =>
            answer._tag !== "CommitRefused"
              ? Effect.succeed(answer)
              : Effect.as(
                  stepByStep(engine)(
                    { ...request, steps: request.steps.slice(0, answer.refusals[0]?.index) },
                    nowSeconds
                  ),
                  answer
                )
        )
    })),
    caughtBy: "a commit changes nothing if one step is refused, and names the first one with the true record"
  },
  "a commit that names the last refused step": {
    layer: layerPlantable(({ commit = () => Effect.die("none") }) => ({
      commit: (request, nowSeconds) =>
        Effect.map(commit(request, nowSeconds), (answer) =>
          answer._tag === "CommitRefused" ? { ...answer, refusals: answer.refusals.toReversed() } : answer
        )
    })),
    caughtBy: "any sequence of commits and other operations agrees with the model"
  },
  "a commit that starts versions again over an expired record": {
    layer: layerPlantable(({ commit = () => Effect.die("none") }) => ({
      commit: (request, nowSeconds) => {
        const steps = request.steps.map((step) =>
          step._tag === "Write" && step.expectation._tag === "Expired" ? { ...step, version: 1 } : step
        )
        return commit({ ...request, steps }, nowSeconds)
      }
    })),
    caughtBy: "an expired record is absent for a commit, and a creation over it continues its versions"
  },
  "a commit of unknown outcome that is made again": {
    layer: layerPlantable(undefined, (backend) => ({
      commit: (owner, steps) =>
        Effect.catchTag(backend.commit(owner, steps), "Backend", () => backend.commit(owner, steps))
    })),
    caughtBy:
      "a commit that could apply twice succeeds if its answer is lost, or its outcome is unknown, and takes effect once"
  },
  "a commit of data that is cut": {
    layer: layerPlantable(undefined, (backend) => ({
      commit: (owner, steps) =>
        Effect.catchTag(backend.commit(owner, steps), "CapacityExceeded", () =>
          backend.commit(
            owner,
            steps.map((step) => (step._tag === "Write" ? { ...step, data: step.data.slice(0, 1000) } : step))
          )
        )
    })),
    caughtBy: "a commit with data that is too large or not well-formed writes nothing"
  },
  "data over the limit that is cut": {
    layer: layerPlantable(undefined, (backend) => ({
      put: (key, data, options) =>
        Effect.catchTag(backend.put(key, data, options), "CapacityExceeded", () =>
          backend.put(key, data.slice(0, 1000), options)
        )
    })),
    caughtBy: "data takes up to the limit in bytes of UTF-8, and one more is refused before anything is written"
  },
  "data that is made well-formed": {
    layer: layerPlantable(undefined, (backend) => ({
      put: (key, data, options) => backend.put(key, data.toWellFormed(), options),
      putIfVersion: (key, data, ...rest) => backend.putIfVersion(key, data.toWellFormed(), ...rest)
    })),
    caughtBy: "data with a lone surrogate is InvalidData, and nothing is written"
  },
  "a write that leaves half of its data when it is interrupted": {
    layer: layerPlantable(({ put }) => ({
      put: (key, write, nowSeconds) =>
        write.data.length !== 10_000
          ? put(key, write, nowSeconds)
          : Effect.onInterrupt(Effect.andThen(Effect.sleep("2 millis"), put(key, write, nowSeconds)), () =>
              put(key, { ...write, data: write.data.slice(5000) }, nowSeconds)
            )
    })),
    caughtBy: "an interrupted write leaves the record before it or the whole record"
  },
  "hints that come only once": {
    layer: layerPlantable(undefined, ({ hints }) => ({ hints: (key) => Stream.take(hints(key), 1) })),
    caughtBy: "a hint follows each write and removal of the same backend"
  },
  "hints for one of the records with a prefix": {
    layer: layerPlantable(undefined, ({ hints }) => ({
      hints: (target) =>
        hints(isStoragePrefix(target) ? makeUnsafe({ owner: target.owner, id: `${target.idPrefix}1` }) : target)
    })),
    caughtBy: "a hint follows each change of a record whose id starts with a prefix"
  },
  "a commit that is followed by no hint": {
    layer: layerPlantable(undefined, ({ commit, hints }) => {
      let isCommitting = false
      return {
        commit: (...args) =>
          Effect.suspend(() => {
            isCommitting = true
            return Effect.ensuring(
              commit(...args),
              Effect.andThen(
                Effect.sleep(0),
                Effect.sync(() => (isCommitting = false))
              )
            )
          }),
        hints: (key) => Stream.filter(hints(key), () => !isCommitting)
      }
    }),
    caughtBy: "a hint follows each commit of the same backend, for each record that it writes or removes"
  },
  "hints that come before the change": {
    layer: layerPlantable(undefined, withEarlyHints),
    caughtBy: "a watch emits what is there, and by hints alone the last of changes that follow each other closely"
  },
  "hints for the first watcher alone": {
    layer: layerPlantable(undefined, ({ hints }) => {
      const watched = new Set<string>()
      return {
        hints: (key) => {
          if (watched.has(`${key}`)) return Stream.never
          watched.add(`${key}`)
          return hints(key)
        }
      }
    }),
    caughtBy: "each of many watchers of a record sees its change, and watchers of other records do not"
  },
  "hints that end for all once one watcher has gone": {
    layer: layerPlantable(undefined, ({ hints }) => {
      let isOver = false
      return {
        hints: (key) =>
          isOver
            ? Stream.never
            : Stream.ensuring(
                hints(key),
                Effect.sync(() => (isOver = true))
              )
      }
    }),
    caughtBy: "a watch that is interrupted ends, and later ones see what changes then"
  },
  "a get that is one read behind": {
    layer: layerPlantable(undefined, readingBehind),
    caughtBy: "a slow watcher gets the newest state, and none of those before it"
  },
  "a get that remembers what it has found, by builds that share an engine": {
    shared: true,
    layer: layerPlantable(undefined, remembering, () => sharedStore),
    caughtBy: "a watch sees what another client of the engine changes"
  },
  "a compare-and-set in two steps, by builds that share an engine": {
    shared: true,
    layer: layerPlantable(
      (engine) => ({ swap: inTwoSteps(engine) }),
      undefined,
      () => sharedStore
    ),
    caughtBy: "separate builds of the Layer race on one record and lose no increment"
  },
  "a store that all builds of the Layer share": {
    layer: layerPlantable(undefined, undefined, () => sharedStore),
    caughtBy: "separate builds of the Layer are separate stores"
  }
}

/** The cases of leases take longer, and leases.test.ts has what they catch. */
const ofLeases = new Set([...leases, ...fencedLeases].map(({ name }) => name))

const casesOf = ({ layer, shared }: Pick<Broken, "layer" | "shared">) =>
  StorageContract.cases(layer, { plant, lossy, shared }).filter(({ name }) => !ofLeases.has(name))

/** The names of the cases that a backend fails. */
const failedBy = Effect.fnUntraced(function* (backend: Pick<Broken, "layer" | "shared">, patienceMillis = 10_000) {
  const failed: Array<string> = []
  for (const { name, run = Effect.die("skipped") } of casesOf(backend)) {
    const exit = yield* run.pipe(
      Effect.scoped,
      Effect.provideService(PatienceMillis, patienceMillis),
      Effect.provide(Layer.provideMerge(backend.layer, StorageContract.layerClock)),
      Effect.exit
    )
    if (exit._tag === "Failure") failed.push(name)
  }
  return failed
})

const intact = {
  "stores of their own": { layer: layerPlantable() },
  "builds that share an engine": { layer: layerPlantable(undefined, undefined, () => sharedStore), shared: true }
}

/** The cases that each broken backend fails, for all that has been run. */
const failed = new Map<string, ReadonlyArray<string>>()

describe("StorageContract", () => {
  it.effect("passes backends that are not broken", () =>
    Effect.forEach(Object.values(intact), (backend) =>
      Effect.map(failedBy(backend), (failed) => assert.deepStrictEqual(failed, []))
    )
  )

  for (const [name, backend] of Object.entries(broken)) {
    it.effect(`catches ${name}`, () =>
      Effect.map(failedBy(backend, 200), (cases) => {
        failed.set(name, cases)
        assert.include(cases, backend.caughtBy)
      })
    )
  }

  it("has a case for every promise, and every case catches a broken backend", ({ skip }) => {
    if (failed.size < Object.keys(broken).length) return skip("needs all the tests before it")
    const all = new Map(
      Object.values(intact)
        .flatMap(casesOf)
        .map((contractCase) => [contractCase.name, contractCase.promise])
    )
    const rows = Array.from(all, ([name, promise]) => ({
      name,
      promise,
      catches: Array.from(failed).flatMap(([broken, cases]) => (cases.includes(name) ? [broken] : []))
    })).sort((a, b) => a.promise - b.promise)
    console.log(
      rows
        .map(({ catches, name, promise }) => `promise ${promise}: ${name}\n  ${catches.length}: ${catches.join("; ")}`)
        .join("\n")
    )
    assert.deepStrictEqual(
      Array.from(new Set(rows.map(({ promise }) => promise))),
      [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    )
    assert.deepStrictEqual(
      rows.filter(({ catches }) => catches.length === 0),
      []
    )
  })
})
