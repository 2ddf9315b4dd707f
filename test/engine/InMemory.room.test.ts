import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"

const keyOf = (id: string) => makeUnsafe({ owner: "alice", id })

describe("the room in a memory store", () => {
  it.effect("in bytes is the same after any number of removals and expiries", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const data = "x".repeat(94) // with the owner and the id, 100 bytes
      for (let i = 0; i < 10; i++) {
        yield* backend.put(keyOf("a"), data)
        assert.isTrue(yield* backend.delete(keyOf("a")))
        const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 1 })
        yield* backend.put(keyOf("a"), data, { expiresAt })
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* backend.cleanupExpired, 1)
      }
      yield* backend.put(keyOf("a"), data)
      const error = yield* Effect.flip(backend.put(keyOf("b"), ""))
      assert.isTrue(error._tag === "CapacityExceeded" && error.actual === 106)
    }).pipe(Effect.provide(InMemory.layerWith({ maxBytes: 100 })))
  )

  it.effect("comes back from every record that expires in the same second, save one that was changed since", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 1 })
      for (const id of ["a", "b", "c", "d"]) yield* backend.put(keyOf(id), "data", { expiresAt })
      yield* backend.put(keyOf("b"), "kept")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* backend.cleanupExpired, 3)
      assert.strictEqual(yield* backend.cleanupExpired, 0)
      assert.strictEqual((yield* backend.get(keyOf("b"))).data, "kept")
      for (const id of ["e", "f", "g"]) yield* backend.put(keyOf(id), "data")
    }).pipe(Effect.provide(InMemory.layerWith({ maxRecords: 4 })))
  )
})
