import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import { type Step, StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"

const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })
const write = (id: string, expected: Step["expected"], data = "data") =>
  ({ _tag: "Write", id, expected, data }) as const
const remove = (id: string, expected: Step["expected"]) => ({ _tag: "Remove", id, expected }) as const

const ids = ["a", "b", "c", "d"]
const versions = StorageBackend.use((backend) =>
  Effect.map(backend.getMany(ids.map(keyOf)), (found) => found.map((record) => record?.version ?? 0))
)

describe("a commit in a store with bounds", () => {
  it.effect("changes nothing if it would have too many records, and names one that it creates", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      yield* backend.commit(owner, [write("a", 0), write("b", 0)])
      const error = yield* Effect.flip(backend.commit(owner, [write("a", 1), write("c", 0), write("d", 0)]))
      assert.deepInclude(error, { _tag: "CapacityExceeded", resource: "StoreRecords", key: keyOf("c"), actual: 4 })
      assert.deepStrictEqual(yield* versions, [1, 1, 0, 0])
      yield* backend.commit(owner, [write("c", 0), write("d", 0), remove("a", 1)])
      assert.deepStrictEqual(yield* versions, [0, 1, 1, 1])
    }).pipe(Effect.provide(InMemory.layerWith({ maxRecords: 3 })))
  )

  it.effect("changes nothing if it would have too many bytes in all, and may move bytes between records", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const size = (owner.length + 1 + 10) * 2
      yield* backend.commit(owner, [write("a", 0, "0123456789"), write("b", 0, "0123456789")])
      const error = yield* Effect.flip(backend.commit(owner, [remove("c", 1), write("a", 1, "0123456789+")]))
      assert.propertyVal(error, "_tag", "RecordNotFound")
      const full = yield* Effect.flip(
        backend.commit(owner, [write("b", 1, "012345678"), write("a", 1, "0123456789++")])
      )
      assert.deepInclude(full, { _tag: "CapacityExceeded", resource: "StoreBytes", limit: size, actual: size + 1 })
      assert.deepStrictEqual(yield* versions, [1, 1, 0, 0])
      yield* backend.commit(owner, [write("a", 1, "0123456789+"), write("b", 1, "012345678")])
      assert.deepStrictEqual(yield* versions, [2, 2, 0, 0])
    }).pipe(Effect.provide(InMemory.layerWith({ maxBytes: 32 })))
  )

  it.effect("drops expired records first, also one that it creates over", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const expiresAt = DateTime.makeUnsafe(0)
      for (const id of ["a", "b"]) yield* backend.put(keyOf(id), "data", { expiresAt })
      yield* backend.commit(owner, [write("a", 0), write("c", 0)])
      assert.deepStrictEqual(
        (yield* versions).map((version) => version > 0),
        [true, false, true, false]
      )
    }).pipe(Effect.provide(InMemory.layerWith({ maxRecords: 2 })))
  )
})
