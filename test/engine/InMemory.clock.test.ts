import { assert, describe, it } from "@effect/vitest"
import { Clock, DateTime, Effect } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"

const keyOf = (id: string) => makeUnsafe({ owner: "alice", id })
const expiring = { expiresAt: DateTime.makeUnsafe("2100-01-01T00:00:00Z") }

/** How often an operation reads the Clock, whether it succeeds or fails. */
const readsOf = Effect.fnUntraced(function* <A, E>(operation: Effect.Effect<A, E>) {
  let reads = 0
  const clock = yield* Clock.Clock
  const counting = {
    ...clock,
    currentTimeMillisUnsafe: () => {
      reads++
      return clock.currentTimeMillisUnsafe()
    }
  }
  yield* Effect.exit(Effect.provideService(operation, Clock.Clock, counting))
  return reads
})

/** Every operation on a record, the lost ones as well, by name. The record is "a" and its version is 1. */
const operations = (backend: StorageBackend["Service"]) => ({
  get: backend.get(keyOf("a")),
  "lost compare-and-set": backend.putIfVersion(keyOf("a"), "data", 7),
  "lost create": backend.putIfVersion(keyOf("a"), "data", 0),
  "lost removal": backend.deleteIfVersion(keyOf("a"), 7),
  "compare-and-set": backend.putIfVersion(keyOf("a"), "data", 1, { increment: 1 }),
  delete: backend.delete(keyOf("a"))
})

describe("the Clock in memory", () => {
  it.effect("is not read for a record that never expires", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      assert.strictEqual(yield* readsOf(backend.put(keyOf("a"), "data")), 0)
      yield* backend.put(keyOf("b"), "data", expiring)
      for (const [name, operation] of Object.entries(operations(backend))) {
        assert.strictEqual(yield* readsOf(operation), 0, name)
      }
      assert.strictEqual(yield* readsOf(backend.get(keyOf("nothing"))), 0)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("is read once for a record that expires", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      for (const name of Object.keys(operations(backend)) as Array<keyof ReturnType<typeof operations>>) {
        yield* backend.delete(keyOf("a"))
        yield* backend.put(keyOf("a"), "data", expiring)
        assert.strictEqual(yield* readsOf(operations(backend)[name]), 1, name)
      }
      for (const id of ["a", "b", "c"]) yield* backend.put(keyOf(id), "data", expiring)
      assert.strictEqual(yield* readsOf(backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: "" }))), 1)
      assert.strictEqual(yield* readsOf(backend.cleanupExpired), 1)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("is read once by a write that must make room", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      yield* backend.put(keyOf("a"), "data", expiring)
      assert.strictEqual(yield* readsOf(backend.put(keyOf("b"), "data")), 1)
      assert.strictEqual(yield* readsOf(backend.putIfVersion(keyOf("b"), "data", 0)), 1)
    }).pipe(Effect.provide(InMemory.layerWith({ maxRecords: 1 })))
  )
})

describe("a write id", () => {
  it.effect("is never given twice", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const ids = new Set<string | undefined>()
      for (let i = 0; i < 5000; i++) ids.add((yield* backend.put(keyOf("a"), "data")).writeId)
      assert.strictEqual(ids.size, 5000)
      for (const id of ids) assert.match(id ?? "", /^[\w-]{22}\.[\da-z]{3,}$/)
    }).pipe(Effect.provide(InMemory.layer))
  )
})
