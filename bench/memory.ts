/**
 * The time of one operation in memory, through the service, and the time of the same operation on Effect's
 * `KeyValueStore.layerMemory`, in one run. Each operation is yielded from a generator. "nothing" is the time of an
 * empty Effect in the generator.
 */
import { Context, Effect, Layer } from "effect"
import { KeyValueStore } from "effect/persistence"
import { bench, run, summary } from "mitata"
import { InMemory, StorageBackend, StorageKey } from "../src/index.ts"

const times = 1000
const key = StorageKey.makeUnsafe({ owner: "alice", id: "order/42" })
const data = "x".repeat(100)

const context = Effect.runSync(Effect.scoped(Layer.build(Layer.merge(InMemory.layer, KeyValueStore.layerMemory))))
const backend = Context.get(context, StorageBackend.StorageBackend)
const store = Context.get(context, KeyValueStore.KeyValueStore)

const thousand = (name: string, program: Effect.Effect<unknown, unknown>) =>
  bench(`${name} x ${times}`, () => Effect.runSync(program))

const repeat = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.gen(function* () {
    for (let i = 0; i < times; i++) yield* effect
  })

Effect.runSync(backend.put(key, data))
Effect.runSync(store.set("order/42", data))

summary(() => {
  thousand("nothing", repeat(Effect.void))
  thousand("KeyValueStore get", repeat(store.get("order/42")))
  thousand("KeyValueStore set", repeat(store.set("order/42", data)))
  thousand("KeyValueStore modify (loses updates)", repeat(store.modify("order/42", () => data)))
  thousand("StorageBackend get", repeat(backend.get(key)))
  thousand("StorageBackend put", repeat(backend.put(key, data)))
  thousand(
    "StorageBackend putIfVersion",
    Effect.gen(function* () {
      let record = yield* backend.get(key)
      for (let i = 0; i < times; i++) record = yield* backend.putIfVersion(key, data, record)
    })
  )
  thousand("StorageBackend putIfVersion, lost", repeat(Effect.flip(backend.putIfVersion(key, data, 1))))
})

await run()
