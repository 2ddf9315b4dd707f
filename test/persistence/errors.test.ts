import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { KeyValueStore } from "effect/persistence"
import * as StorageKeyValueStore from "../../src/persistence/StorageKeyValueStore.ts"
import { failing } from "../support/persistence.ts"

describe("an error of StorageKeyValueStore", () => {
  it.effect("has the key and names it if the operation is about one, and has none otherwise", () =>
    Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      for (const [operation, message] of [
        [store.clear, "Unable to clear storage: listByPrefix failed: no table"],
        [store.size, "Unable to get size: listByPrefix failed: no table"],
        [store.keys, "Unable to get keys: listByPrefix failed: no table"]
      ] as const) {
        const error = yield* Effect.flip<unknown, KeyValueStore.KeyValueStoreError, never>(operation)
        assert.strictEqual(error.message, message)
        assert.notProperty(error, "key")
      }
      const error = yield* Effect.flip(store.remove("a"))
      assert.strictEqual(error.message, "Unable to remove item with key a: delete failed: no table")
      assert.propertyVal(error, "key", "a")
    }).pipe(Effect.provide(Layer.provide(StorageKeyValueStore.layer({ owner: "alice" }), failing)))
  )
})
