import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, type Scope } from "effect"
import { KeyValueStore, Persistence } from "effect/persistence"
import * as StorageKeyValueStore from "../../src/persistence/StorageKeyValueStore.ts"
import * as StoragePersistence from "../../src/persistence/StoragePersistence.ts"
import type { StorageBackend } from "../../src/StorageBackend.ts"
import { counting } from "../support/persistence.ts"

const keys = Array.from({ length: 80 }, (_, i) => `${i}`)

/** How many requests of an operation ran at once at most, after eighty entries were written one by one. */
const mostAtOnce = Effect.fnUntraced(function* <Store, E>(
  open: Effect.Effect<Store, E, StorageBackend | Scope.Scope>,
  fill: (store: Store, key: string) => Effect.Effect<void, unknown>,
  operation: (store: Store) => Effect.Effect<unknown, unknown>
) {
  const { mostRunning, storage } = counting()
  const run = Effect.gen(function* () {
    const store = yield* open
    yield* Effect.forEach(keys, (key) => fill(store, key))
    assert.strictEqual(mostRunning(), 1)
    yield* operation(store)
  })
  yield* Effect.scoped(Effect.provide(run, storage))
  return mostRunning()
})

describe("an operation on many entries runs 50 requests at once", () => {
  const openStore = Effect.provide(
    Persistence.BackingPersistence.use((persistence) => persistence.make("store")),
    Layer.fresh(StoragePersistence.layer({ owner: "alice" }))
  )
  for (const [name, operation] of [
    ["setMany", (store) => store.setMany(keys.map((key) => [key, {}, undefined]) as never)],
    ["clear", (store) => store.clear]
  ] as ReadonlyArray<
    readonly [string, (store: Persistence.BackingPersistenceStore) => Effect.Effect<unknown, unknown>]
  >) {
    it.effect(`in StoragePersistence: ${name}`, () =>
      Effect.gen(function* () {
        const most = yield* mostAtOnce(openStore, (store, key) => store.set(key, {}, undefined), operation)
        assert.strictEqual(most, 50)
      })
    )
  }

  it.effect("in StorageKeyValueStore: clear", () =>
    Effect.gen(function* () {
      const layer = Layer.fresh(StorageKeyValueStore.layer({ owner: "alice" }))
      const open = Effect.provide(KeyValueStore.KeyValueStore, layer)
      const most = yield* mostAtOnce(
        open,
        (store, key) => store.set(key, "value"),
        (store) => store.clear
      )
      assert.strictEqual(most, 50)
    })
  )
})
