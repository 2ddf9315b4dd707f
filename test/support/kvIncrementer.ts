/**
 * A separate process that increments one key of a store in an SQLite file, from a number of fibers at once. It uses the
 * store's own `modify`, or the `modify` that `KeyValueStore.make` derives from `get` and `set`. It starts when all
 * processes are ready.
 */
import { Effect, Layer } from "effect"
import { KeyValueStore } from "effect/persistence"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as StorageKeyValueStore from "../../src/persistence/StorageKeyValueStore.ts"

const [filename = "", owner = "", fibers, processes, method] = process.argv.slice(2)

const program = Effect.gen(function* () {
  const provided = yield* KeyValueStore.KeyValueStore
  const { clear, get, getUint8Array, keys, remove, set, size } = provided
  const store =
    method === "modify" ? provided : KeyValueStore.make({ clear, get, getUint8Array, keys, remove, set, size })
  yield* store.set(`ready/${process.pid}`, "")
  yield* Effect.repeat(Effect.delay(store.size, "5 millis"), { until: (ready) => ready > Number(processes) })
  const increment = store.modify("counter", (n) => String(Number(n) + 1))
  yield* Effect.all(
    Array.from({ length: Number(fibers) }, () => increment),
    { concurrency: "unbounded", discard: true }
  )
})

const layer = StorageKeyValueStore.layer({ owner }).pipe(Layer.provide(Sqlite.layer({ filename })))

await Effect.runPromise(Effect.provide(program, layer))
