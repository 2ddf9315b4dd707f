/** Records in memory, beside a Map, Effect's KeyValueStore and two libraries that store values by key. */
import { Context, Effect, Layer, Schema } from "effect"
import { KeyValueStore } from "effect/persistence"
import Keyv from "keyv"
import { createStorage } from "unstorage"
import { InMemory, StorageBackend, StorageKey, VersionedStore } from "../library.ts"
import {
  compare,
  exactly,
  type Figure,
  inEffect,
  inPlace,
  inProgram,
  inPromise,
  type Settings,
  type Step
} from "../measure.ts"
import { runJson } from "../processes.ts"
import { comparePages, idOf, ownersOf } from "./pages.ts"

const group = "memory"
const owner = "alice"

/** A text of 100 characters, different for each number, and not put together from parts that are shared. */
const textOf = (i: number) => Buffer.from(`${i}`.padEnd(100, "x")).toString("latin1")

/** Goes through all numbers below a count, and not in the order in which the records were made. */
const scattered = (count: number) => {
  const order = Uint32Array.from({ length: count }, (_, i) => (i * 7919) % count)
  return (i: number) => order[i % count] ?? 0
}

const services = Effect.gen(function* () {
  const context = yield* Layer.build(Layer.merge(Layer.fresh(InMemory.layer), Layer.fresh(KeyValueStore.layerMemory)))
  return {
    backend: Context.get(context, StorageBackend.StorageBackend),
    keyValueStore: Context.get(context, KeyValueStore.KeyValueStore)
  }
})

/** Every contender's store, with the same records. */
const makeStores = Effect.fnUntraced(function* (count: number) {
  const { backend, keyValueStore } = yield* services
  const map = new Map<string, string>()
  const keyv = new Keyv<string>()
  const storage = createStorage<string>()
  const ids = Array.from({ length: count }, (_, i) => idOf(i))
  const keys = ids.map((id) => StorageKey.makeUnsafe({ owner, id }))
  const records: Array<StorageBackend.VersionedRecord> = []
  for (const [i, id] of ids.entries()) {
    const text = textOf(i)
    map.set(id, text)
    yield* keyValueStore.set(id, text)
    records.push(yield* backend.put(StorageKey.makeUnsafe({ owner, id }), text))
    yield* Effect.promise(() => Promise.all([keyv.set(id, text), storage.setItem(id, text)]))
  }
  return { backend, keyValueStore, map, keyv, storage, ids, keys, records, next: scattered(count) }
})

type Stores = Effect.Success<ReturnType<typeof makeStores>>

const compareReads = (settings: Settings, setting: string, stores: Stores) => {
  const { backend, ids, keys, keyv, keyValueStore, map, next, storage } = stores
  const id = (i: number) => ids[next(i)] ?? ""
  return compare(settings, group, {
    operation: "get",
    setting,
    contenders: [
      inEffect("KeyValueStore", (i) => keyValueStore.get(id(i))),
      inPlace("Map", (i) => map.get(id(i))),
      inEffect("Map in Effect.sync", (i) => Effect.sync(() => map.get(id(i)))),
      inPromise("keyv", (i) => keyv.get(id(i))),
      inPromise("unstorage", (i) => storage.getItem(id(i))),
      inEffect("StorageBackend", (i) => backend.get(keys[next(i)] as StorageKey.StorageKey))
    ]
  })
}

const compareWrites = (settings: Settings, setting: string, stores: Stores) => {
  const { backend, ids, keys, keyv, keyValueStore, map, next, storage } = stores
  const id = (i: number) => ids[next(i)] ?? ""
  const text = textOf(0)
  return compare(settings, group, {
    operation: "put",
    setting,
    contenders: [
      inEffect("KeyValueStore", (i) => keyValueStore.set(id(i), text)),
      inPlace("Map", (i) => map.set(id(i), text)),
      inEffect("Map in Effect.sync", (i) => Effect.sync(() => map.set(id(i), text))),
      inPromise("keyv", (i) => keyv.set(id(i), text)),
      inPromise("unstorage", (i) => storage.setItem(id(i), text)),
      inEffect("StorageBackend", (i) => backend.put(keys[next(i)] as StorageKey.StorageKey, text))
    ]
  })
}

/** `KeyValueStore.modify` reads and writes, and may lose another's update. */
const compareSwaps = Effect.fnUntraced(function* (settings: Settings, setting: string, stores: Stores) {
  const { backend, ids, keys, keyValueStore, next } = stores
  const text = textOf(0)
  const key = (i: number) => keys[next(i)] as StorageKey.StorageKey
  const records: Array<StorageBackend.VersionedRecord> = []
  for (const key of keys) records.push(yield* backend.put(key, text))
  let turn = 0
  const won = inProgram(
    "won",
    Effect.fnUntraced(function* (times) {
      for (let i = 0; i < times; i++) {
        const place = next(turn++)
        const record = records[place] as StorageBackend.VersionedRecord
        records[place] = yield* backend.putIfVersion(record.key, text, record)
      }
    })
  )
  const lost = inEffect("lost", (i) => Effect.flip(backend.putIfVersion(key(i), text, 999_999_999)))
  const modify = inEffect("KeyValueStore.modify", (i) => keyValueStore.modify(ids[next(i)] ?? "", () => text))
  return yield* compare(settings, group, {
    operation: "compare-and-set",
    setting,
    contenders: [modify, won, lost]
  })
})

/** A record as an application has it. */
const Order = Schema.Struct({ customer: Schema.String, items: Schema.Array(Schema.String), total: Schema.Int })

const compareTyped = Effect.fnUntraced(function* <A>(
  settings: Settings,
  setting: string,
  { initial, next, schema }: { schema: Schema.Codec<A>; initial: A; next: (value: A) => A }
) {
  const { backend, keyValueStore } = yield* services
  const schemaStore = KeyValueStore.toSchemaStore(keyValueStore, schema)
  const store = yield* VersionedStore.make({ idPrefix: "typed/", schema }).pipe(
    Effect.provideService(StorageBackend.StorageBackend, backend)
  )
  const key = { owner, id: "one" }
  yield* schemaStore.set("one", initial)
  yield* store.set(key, initial)
  const pair = (operation: string, theirs: Effect.Effect<unknown, unknown>, ours: Effect.Effect<unknown, unknown>) =>
    compare(settings, group, {
      operation,
      setting,
      contenders: [inEffect("SchemaStore", () => theirs), inEffect("VersionedStore", () => ours)]
    })
  return [
    ...(yield* pair("typed get", schemaStore.get("one"), store.get(key))),
    ...(yield* pair("typed set", schemaStore.set("one", initial), store.set(key, initial))),
    ...(yield* pair("typed update", schemaStore.modify("one", next), store.update(key, next)))
  ]
})

const comparePagesInMemory = Effect.fnUntraced(function* (settings: Settings) {
  const { backend } = yield* services
  const owners = ownersOf(100, 100_000)
  for (const [name, count] of [
    [owners.few, owners.counts.few],
    [owners.many, owners.counts.many]
  ] as const) {
    for (let i = 0; i < count; i++) {
      yield* backend.put(StorageKey.makeUnsafe({ owner: name, id: idOf(i) }), textOf(i))
    }
  }
  return yield* comparePages(settings, group, backend, owners)
})

const heapContenders = ["Map", "StorageBackend, one owner", "StorageBackend, an owner each"]

/** The heap that a record takes, each time in a process of its own. */
const compareHeaps = Effect.fnUntraced(function* ({ quick }: Settings) {
  const bytes: Array<number> = []
  for (const contender of heapContenders) {
    const { bytesPerRecord } = yield* runJson<{ bytesPerRecord: number }>("worker/heap.ts", [
      contender,
      quick ? "20000" : "100000"
    ])
    bytes.push(bytesPerRecord)
  }
  return heapContenders.map(
    (contender, i): Figure => ({
      group,
      operation: "heap of a record of 100 characters",
      setting: "",
      contender,
      measure: "heap",
      unit: "bytes",
      value: exactly(bytes[i] ?? 0),
      ratio: { over: "Map", ...exactly((bytes[i] ?? 0) / (bytes[0] ?? 1)) }
    })
  )
})

const settingOf = (count: number) => (count === 1 ? "1 record" : `${count.toLocaleString("en")} records`)

const compareAt = Effect.fnUntraced(function* (settings: Settings, count: number) {
  const setting = settingOf(count)
  const stores = yield* makeStores(count)
  return [
    ...(yield* compareReads(settings, setting, stores)),
    ...(yield* compareWrites(settings, setting, stores)),
    ...(yield* compareSwaps(settings, setting, stores))
  ]
})

export const stepsOf = (settings: Settings): ReadonlyArray<Step> => [
  ...(settings.quick ? [1, 1000, 100_000] : [1, 100, 1000, 10_000, 100_000]).map((count) => ({
    label: settingOf(count),
    run: compareAt(settings, count)
  })),
  {
    label: "a typed number",
    run: compareTyped(settings, "a number", { schema: Schema.Int, initial: 1, next: (n) => n + 1 })
  },
  {
    label: "a typed struct",
    run: compareTyped(settings, "a struct", {
      schema: Order,
      initial: { customer: "alice", items: ["apple", "pear"], total: 1 },
      next: (order) => ({ ...order, total: order.total + 1 })
    })
  },
  { label: "pages", run: comparePagesInMemory(settings) },
  { label: "heap", run: compareHeaps(settings) }
]
