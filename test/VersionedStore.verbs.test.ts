import { assert, describe, it } from "@effect/vitest"
import { Cause, DateTime, Deferred, Effect, Exit, Fiber, Option, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../src/engine/InMemory.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import * as Faults from "../src/testing/Faults.ts"
import * as VersionedStore from "../src/VersionedStore.ts"

const key = { owner: "alice", id: "a" }
const makeCounters = VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
const onMemory = Effect.provide(InMemory.layer)

/** A store of counters, and the requests that it makes. */
const counted = Effect.gen(function* () {
  const faults = Faults.backend(yield* StorageBackend)
  return { ...faults, counters: yield* Effect.provideService(makeCounters, StorageBackend, faults.backend) }
})

const millisOf = (record: { readonly expiresAt: DateTime.Utc | undefined }) => record.expiresAt?.epochMilliseconds

describe("getOption", () => {
  it.effect("is the record, or None where get fails with RecordNotFound, in one request", () =>
    Effect.gen(function* () {
      const { counters, taken } = yield* counted
      assert.deepStrictEqual(yield* counters.getOption(key), Option.none())
      const created = yield* counters.create(key, 1, { ttl: "1 minute" })
      taken()
      assert.deepStrictEqual(yield* counters.getOption(key), Option.some(created))
      assert.deepStrictEqual(taken(), ["get"])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* counters.getOption(key), Option.none())
      assert.strictEqual((yield* Effect.flip(counters.getOption({ owner: "", id: "a" })))._tag, "InvalidKey")
    }).pipe(onMemory)
  )
})

describe("a time to live", () => {
  it.effect("counts from the call on, rounded up to a second, for every write", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted
      yield* TestClock.setTime(10_300)
      const ttl = "1500 millis"
      const created = yield* counters.create(key, 1, { ttl })
      assert.strictEqual(millisOf(created), 12_000)
      assert.strictEqual(millisOf(yield* counters.set(key, 2, { ttl: "2 seconds" })), 13_000)
      const set = yield* counters.set(key, 2, { ttl })
      assert.strictEqual(millisOf(yield* counters.setIfVersion(set, 3, { ttl: "3 seconds" })), 14_000)
      for (const updated of [
        counters.update(key, (n) => n + 1, { ttl: "1 minute" }),
        counters.updateEffect(key, (n) => Effect.succeed(n + 1), { ttl: "1 minute" }),
        counters.updateSome(key, (n) => Option.some(n + 1), { ttl: "1 minute" }),
        counters.upsert(key, () => 1, { ttl: "1 minute" }),
        counters.upsertEffect(key, () => Effect.succeed(1), { ttl: "1 minute" })
      ]) {
        yield* counters.set(key, 1)
        assert.strictEqual(millisOf(yield* updated), 71_000)
      }
    }).pipe(onMemory)
  )

  it.effect("that is infinite is never, and none leaves the expiry as set and update say", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted
      yield* counters.set(key, 1, { ttl: "1 hour" })
      assert.strictEqual(millisOf(yield* counters.update(key, (n) => n)), 3_600_000)
      assert.isUndefined(millisOf(yield* counters.update(key, (n) => n, { ttl: "Infinity" })))
      assert.isUndefined(millisOf(yield* counters.set(key, 1, { ttl: "Infinity" })))
      yield* counters.set(key, 1, { ttl: "1 hour" })
      assert.isUndefined(millisOf(yield* counters.set(key, 1)))
    }).pipe(onMemory)
  )

  it.effect("that is no duration, or stands beside an expiry, is a defect, and nothing is sent", () =>
    Effect.gen(function* () {
      const { counters, requests } = yield* counted
      for (const options of [
        { ttl: "soon" as "1 hour" },
        { ttl: -1 },
        { ttl: Number.NaN },
        { ttl: "1 hour", expiresAt: DateTime.makeUnsafe(0) }
      ] as ReadonlyArray<VersionedStore.ExpiryOptions>) {
        for (const write of [
          counters.create(key, 1, options),
          counters.set(key, 1, options),
          counters.update(key, (n) => n, options),
          counters.upsert(key, () => 1, options)
        ]) {
          const exit = yield* Effect.exit<VersionedStore.Record<number>, unknown, never>(write)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        }
      }
      assert.deepStrictEqual(requests, [])
    }).pipe(onMemory)
  )
})

describe("touch", () => {
  it.effect("gives a record another expiry, and leaves its value, in two requests", () =>
    Effect.gen(function* () {
      const { counters, taken } = yield* counted
      const created = yield* counters.create(key, 7, { ttl: "1 minute" })
      yield* TestClock.adjust("30 seconds")
      taken()
      yield* counters.touch(key, "1 minute")
      assert.deepStrictEqual(taken(), ["get", "putIfVersion"])
      const touched = yield* counters.get(key)
      assert.deepInclude(touched, { value: 7, version: created.version + 1 })
      assert.strictEqual(millisOf(touched), 90_000)
      yield* counters.touch(key, "Infinity")
      assert.isUndefined(millisOf(yield* counters.get(key)))
      const missing = yield* Effect.flip(counters.touch({ ...key, id: "b" }, "1 minute"))
      assert.strictEqual(missing._tag, "RecordNotFound")
    }).pipe(onMemory)
  )

  it.effect("works on a value that no longer decodes", () =>
    Effect.gen(function* () {
      const { counters, other } = { ...(yield* counted), other: yield* StorageBackend }
      const stored = makeUnsafe({ owner: "alice", id: "counter/a" })
      yield* other.put(stored, '"text"')
      yield* counters.touch(key, "1 minute")
      assert.deepInclude(yield* other.get(stored), { data: '"text"', expiresAt: DateTime.makeUnsafe(60_000) })
    }).pipe(onMemory)
  )
})

describe("upsertEffect", () => {
  it.effect("creates or changes, runs again after a conflict, and fails as its function does", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const counters = yield* makeCounters
      const seen: Array<Option.Option<number>> = []
      const reached = yield* Deferred.make<void>()
      const opened = yield* Deferred.make<void>()
      const fiber = yield* Effect.forkChild(
        counters.upsertEffect(key, (n) => {
          seen.push(n)
          const wait = Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(opened))
          return Effect.as(wait, Option.getOrElse(n, () => 0) + 1)
        })
      )
      yield* Deferred.await(reached)
      yield* put(makeUnsafe({ owner: "alice", id: "counter/a" }), "41")
      yield* Deferred.succeed(opened, undefined)
      assert.deepInclude(yield* Fiber.join(fiber), { value: 42, version: 2 })
      assert.deepStrictEqual(seen, [Option.none(), Option.some(41)])
      assert.strictEqual(yield* Effect.flip(counters.upsertEffect(key, () => Effect.fail("no"))), "no")
    }).pipe(onMemory)
  )
})

describe("getMany", () => {
  it.effect("reads any number of records in the order of their ids, a hundred in one request", () =>
    Effect.gen(function* () {
      const { counters, taken } = yield* counted
      const ids = Array.from({ length: 250 }, (_, i) => `${i}`)
      yield* Effect.forEach(ids.slice(0, 200), (id) => counters.create({ owner: "alice", id }, Number(id)))
      taken()
      const found = yield* counters.getMany("alice", ids.toReversed())
      assert.deepStrictEqual(taken(), ["getMany", "getMany", "getMany"])
      const values = found.map(Option.map(({ value }) => value)).map(Option.getOrUndefined)
      assert.deepStrictEqual(values, ids.map((id) => (Number(id) < 200 ? Number(id) : undefined)).toReversed())
      assert.strictEqual((yield* Effect.flip(counters.getMany("alice", ["a", ""])))._tag, "InvalidKey")
      assert.deepStrictEqual(yield* counters.getMany("alice", []), [])
      assert.deepStrictEqual(taken(), [])
    }).pipe(onMemory)
  )
})

describe("removeAll", () => {
  it.effect("removes the records with a prefix, page by page, and tells how many", () =>
    Effect.gen(function* () {
      const { counters, taken } = yield* counted
      const others = yield* VersionedStore.make({ idPrefix: "other/", schema: Schema.Int })
      const ids = Array.from({ length: 150 }, (_, i) => `2026/${i}`)
      yield* Effect.forEach(ids, (id) => counters.create({ owner: "alice", id }, 1))
      yield* counters.create({ owner: "alice", id: "2027/0" }, 1)
      yield* counters.create({ owner: "bob", id: "2026/0" }, 1)
      yield* others.create({ owner: "alice", id: "2026/0" }, 1)
      taken()
      assert.strictEqual(yield* counters.removeAll({ owner: "alice", idPrefix: "2026/" }), 150)
      const requests = taken()
      assert.strictEqual(requests.filter((name) => name === "listByPrefix").length, 2)
      assert.strictEqual(requests.length, 152)
      assert.strictEqual(yield* counters.removeAll({ owner: "alice" }), 1)
      assert.strictEqual(yield* counters.removeAll({ owner: "alice" }), 0)
      assert.isTrue(Option.isSome(yield* counters.getOption({ owner: "bob", id: "2026/0" })))
      assert.isTrue(Option.isSome(yield* others.getOption({ owner: "alice", id: "2026/0" })))
    }).pipe(onMemory)
  )
})

describe("a record that does not decode", () => {
  it.effect("fails a listing, or is left out, or is seen by a function and left out", () =>
    Effect.gen(function* () {
      const { counters, other } = { ...(yield* counted), other: yield* StorageBackend }
      for (const id of ["a", "c"]) yield* counters.create({ owner: "alice", id }, 1)
      const bad = yield* other.put(makeUnsafe({ owner: "alice", id: "counter/b" }), '"text"')
      const options = { owner: "alice" }
      const idsOf = (records: ReadonlyArray<VersionedStore.Record<number>>) => records.map(({ key }) => key.id)
      assert.strictEqual((yield* Effect.flip(counters.list(options)))._tag, "SchemaError")
      const failed = yield* Effect.flip(Stream.runCollect(counters.stream({ ...options, onInvalid: "fail" })))
      assert.strictEqual(failed._tag, "SchemaError")
      assert.deepStrictEqual(idsOf((yield* counters.list({ ...options, onInvalid: "skip" })).records), ["a", "c"])
      const many = (onInvalid?: VersionedStore.OnInvalid) =>
        counters.getMany("alice", ["a", "b", "none"], { onInvalid })
      assert.strictEqual((yield* Effect.flip(many()))._tag, "SchemaError")
      assert.deepStrictEqual((yield* many("skip")).map(Option.isSome), [true, false, false])
      const seen: Array<unknown> = []
      const onInvalid: VersionedStore.OnInvalid = (stored, error) =>
        Effect.sync(() => seen.push([stored, error._tag, error.message.includes("counter/b")]))
      const all = yield* Stream.runCollect(counters.stream({ ...options, onInvalid }))
      assert.deepStrictEqual(idsOf(all), ["a", "c"])
      assert.deepStrictEqual(seen, [[bad, "SchemaError", true]])
      assert.deepStrictEqual((yield* many(onInvalid)).map(Option.isSome), [true, false, false])
      assert.strictEqual(seen.length, 2)
    }).pipe(onMemory)
  )
})
