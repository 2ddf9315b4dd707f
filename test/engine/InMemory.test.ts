import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { dies } from "../../src/testing/internal/support.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { layerPlantable, lossy, plant } from "../support/plantable.ts"

StorageContract.suite("InMemory", layerPlantable(), { plant, lossy })

const keyOf = (id: string, owner = "alice") => makeUnsafe({ owner, id })

const inSeconds = (seconds: number) => Effect.map(DateTime.now, DateTime.add({ seconds }))

describe("InMemory", () => {
  it.effect("is a fresh store for every build of the Layer", () =>
    Effect.gen(function* () {
      const write = StorageBackend.use((backend) => backend.put(keyOf("a"), "data"))
      const first = yield* Effect.provide(write, InMemory.layer, { local: true })
      const second = yield* Effect.provide(write, InMemory.layer, { local: true })
      assert.deepStrictEqual([first.version, second.version], [1, 1])
      assert.notStrictEqual(first.writeId, second.writeId)
    })
  )

  it.effect("is one store within one build, however often the Layer stands in it", () =>
    Effect.gen(function* () {
      const count = yield* Effect.provide(
        StorageBackend.use((backend) => backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: "" }))),
        Layer.effectDiscard(StorageBackend.use((backend) => backend.put(keyOf("a"), "data"))).pipe(
          Layer.provide(InMemory.layer),
          Layer.provideMerge(InMemory.layer)
        )
      )
      assert.strictEqual(count.records.length, 1)
    })
  )

  it.effect("refuses a write over its capacity in records, and takes one when there is room again", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      yield* backend.put(keyOf("a"), "data")
      yield* backend.put(keyOf("b", "bob"), "data")
      for (const write of [backend.put(keyOf("c"), "data"), backend.putIfVersion(keyOf("c"), "data", 0)]) {
        const error = yield* Effect.flip(write)
        assert.strictEqual(error._tag, "CapacityExceeded")
        if (error._tag !== "CapacityExceeded") return
        assert.deepStrictEqual([error.resource, error.limit, error.actual], ["StoreRecords", 2, 3])
      }
      assert.strictEqual((yield* Effect.flip(backend.get(keyOf("c"))))._tag, "RecordNotFound")
      assert.strictEqual((yield* backend.put(keyOf("a"), "changed")).version, 2)
      yield* backend.delete(keyOf("b", "bob"))
      yield* backend.put(keyOf("c"), "data")
    }).pipe(Effect.provide(InMemory.layerWith({ maxRecords: 2 })))
  )

  it.effect("refuses a bound that would never hold when the Layer is built", () =>
    Effect.gen(function* () {
      for (const bound of [Number.NaN, -1, "10", null] as ReadonlyArray<unknown> as ReadonlyArray<number>) {
        for (const name of ["maxRecords", "maxBytes", "maxDataBytes"]) {
          const built = Effect.scoped(Layer.build(InMemory.layerWith({ [name]: bound })))
          yield* dies(built, new RegExp(`${name} must be a number of zero or more`))
        }
      }
    })
  )

  it.effect("refuses a write over its capacity in bytes of owners, ids and data", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const first = yield* backend.put(keyOf("é"), "1234")
      assert.strictEqual((yield* Effect.flip(backend.put(keyOf("b"), "1234")))._tag, "CapacityExceeded")
      const error = yield* Effect.flip(backend.putIfVersion(keyOf("é"), "123456789012345", first))
      assert.strictEqual(error._tag, "CapacityExceeded")
      if (error._tag !== "CapacityExceeded") return
      assert.deepStrictEqual([error.resource, error.limit, error.actual], ["StoreBytes", 20, 22])
      assert.strictEqual((yield* backend.get(keyOf("é"))).data, "1234")
      yield* backend.putIfVersion(keyOf("é"), "", first)
      yield* backend.put(keyOf("b"), "1234567")
    }).pipe(Effect.provide(InMemory.layerWith({ maxBytes: 20 })))
  )

  it.effect("counts owners, ids and data in bytes of UTF-8", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const error = yield* Effect.flip(backend.put(keyOf("é", "é"), "é"))
      assert.ok(error._tag === "CapacityExceeded")
      assert.deepStrictEqual([error.resource, error.limit, error.actual], ["StoreBytes", 5, 6])
      yield* backend.put(keyOf("é", "é"), "e")
    }).pipe(Effect.provide(InMemory.layerWith({ maxBytes: 5 })))
  )

  it.effect("fails with the conflict, not with its capacity, if both apply", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      yield* backend.put(keyOf("a"), "1234")
      assert.strictEqual((yield* Effect.flip(backend.putIfVersion(keyOf("a"), "12345678", 7)))._tag, "VersionConflict")
      assert.strictEqual((yield* Effect.flip(backend.putIfVersion(keyOf("b"), "1", 7)))._tag, "RecordNotFound")
    }).pipe(Effect.provide(InMemory.layerWith({ maxBytes: 10, maxRecords: 1 })))
  )

  it.effect("collects what has expired before it refuses a write", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      yield* backend.put(keyOf("a"), "data", { expiresAt: yield* inSeconds(1) })
      yield* backend.put(keyOf("b"), "data", { expiresAt: yield* inSeconds(9) })
      yield* TestClock.adjust("2 seconds")
      yield* backend.put(keyOf("c"), "data")
      assert.strictEqual((yield* Effect.flip(backend.put(keyOf("d"), "data")))._tag, "CapacityExceeded")
      assert.strictEqual((yield* backend.put(keyOf("b"), "longer")).version, 2)
    }).pipe(Effect.provide(InMemory.layerWith({ maxRecords: 2 })))
  )

  it.effect(
    "keeps a record that is written over an expired one, though the write had to collect that to make room",
    () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const expiresAt = yield* inSeconds(1)
        for (const write of [
          backend.put(keyOf("a"), "12345678901234"),
          backend.putIfVersion(keyOf("a"), "12345678901234", 0)
        ]) {
          for (const id of ["a", "b"]) yield* backend.put(keyOf(id), "1234", { expiresAt })
          yield* TestClock.adjust("1 second")
          const written = yield* write
          assert.deepStrictEqual(yield* backend.get(keyOf("a")), written)
          const page = yield* backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: "" }))
          assert.deepStrictEqual(page.records, [written])
          // The 20 bytes of the record are counted once, and given back when it goes.
          assert.strictEqual((yield* Effect.flip(backend.put(keyOf("c"), "")))._tag, "CapacityExceeded")
          assert.isTrue(yield* backend.delete(keyOf("a")))
          yield* backend.put(keyOf("a"), "12345678901234")
          yield* backend.delete(keyOf("a"))
          yield* backend.cleanupExpired
        }
      }).pipe(Effect.provide(InMemory.layerWith({ maxBytes: 20 })))
  )

  it.effect("takes the limit of one record's data from its options", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      yield* backend.put(keyOf("a"), "1234")
      assert.strictEqual((yield* Effect.flip(backend.put(keyOf("a"), "12345")))._tag, "CapacityExceeded")
    }).pipe(Effect.provide(InMemory.layerWith({ maxDataBytes: 4 })))
  )

  it.effect("counts what a cleanup removed, by the expiry that each record has last been given", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      for (const id of ["a", "b", "c", "d"]) yield* backend.put(keyOf(id), "data", { expiresAt: yield* inSeconds(1) })
      yield* backend.put(keyOf("b"), "never")
      yield* backend.put(keyOf("c"), "later", { expiresAt: yield* inSeconds(5) })
      yield* backend.delete(keyOf("d"))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* backend.cleanupExpired, 1)
      assert.strictEqual(yield* backend.cleanupExpired, 0)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* backend.cleanupExpired, 1)
      assert.strictEqual((yield* backend.get(keyOf("b"))).data, "never")
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("continues the versions of an expired record that it still holds", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const expiresAt = yield* inSeconds(1)
      yield* backend.put(keyOf("a"), "one", { expiresAt })
      yield* backend.put(keyOf("a"), "two", { expiresAt })
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* backend.putIfVersion(keyOf("a"), "three", 0, { expiresAt })).version, 3)
      yield* backend.cleanupExpired
      assert.strictEqual((yield* backend.put(keyOf("a"), "four")).version, 1)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("examines no more than four times the limit for one page", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const expiresAt = yield* inSeconds(1)
      for (let i = 0; i < 100; i++) yield* backend.put(keyOf(`a${String(i).padStart(3, "0")}`), "data", { expiresAt })
      yield* backend.put(keyOf("b"), "data")
      yield* TestClock.adjust("1 second")
      const prefix = makePrefix({ owner: "alice", idPrefix: "" })
      const page = yield* backend.listByPrefix(prefix, { limit: 10 })
      assert.strictEqual(page.records.length, 0)
      assert.isDefined(page.cursor)
      const next = yield* backend.listByPrefix(prefix, { limit: 100, cursor: page.cursor })
      assert.deepStrictEqual(
        next.records.map((record) => record.key.id),
        ["b"]
      )
      assert.isUndefined(next.cursor)
    }).pipe(Effect.provide(InMemory.layer))
  )
})
