import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, it, layer } from "@effect/vitest"
import { Arbitrary, Context, Effect, Exit, Fiber, Layer, Schedule, Schema, type Scope } from "effect"
import { KeyValueStore, Persistence } from "effect/persistence"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as StorageKeyValueStore from "../../src/persistence/StorageKeyValueStore.ts"
import * as StoragePersistence from "../../src/persistence/StoragePersistence.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import { endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { counting, failing, hashOfEmpty, keys, newOwner, stored, storedIds } from "../support/persistence.ts"
import { layerPlantable } from "../support/plantable.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"

const run = promisify(execFile)

const newFile = newFiles()
const layerFile = Sqlite.layer({ filename: newFile(), synchronous: "NORMAL" })

type MakeLayer = (owner: string) => Layer.Layer<KeyValueStore.KeyValueStore, unknown, StorageBackend>
const ours: MakeLayer = (owner) => StorageKeyValueStore.layer({ owner })

const keyValueCases = (name: string, storage: Layer.Layer<StorageBackend, unknown>, layerOf: MakeLayer) =>
  layer(storage, { excludeTestServices: true })(`KeyValueStore, ${name}`, (it) => {
    const test = (
      title: string,
      f: (
        store: KeyValueStore.KeyValueStore
      ) => Effect.Effect<void, KeyValueStore.KeyValueStoreError | Schema.SchemaError>
    ) =>
      it.effect(title, () => KeyValueStore.KeyValueStore.use(f).pipe(Effect.provide(Layer.fresh(layerOf(newOwner())))))

    test("keeps any keys apart, and lists them", (store) =>
      Effect.gen(function* () {
        assert.isTrue(yield* store.isEmpty)
        for (const key of keys) {
          assert.isUndefined(yield* store.get(key))
          assert.isFalse(yield* store.has(key))
          yield* store.set(key, `value of ${key}`)
        }
        assert.strictEqual(yield* store.size, keys.length)
        assert.isFalse(yield* store.isEmpty)
        assert.deepStrictEqual(Array.from(yield* store.keys).sort(), keys.toSorted())
        for (const key of keys) {
          assert.strictEqual(yield* store.get(key), `value of ${key}`)
          assert.isTrue(yield* store.has(key))
          assert.strictEqual(yield* store.modify(key, (value) => `${value}, changed`), `value of ${key}, changed`)
          yield* store.remove(key)
          yield* store.remove(key)
          assert.isUndefined(yield* store.get(key))
        }
        assert.strictEqual(yield* store.size, 0)
      }))

    test("keeps any string and any bytes", (store) =>
      Effect.gen(function* () {
        for (const value of ["", "text", '{"a":1}', "\ud800", "\0", "\u{1f600}", "null", "x".repeat(300_000)]) {
          yield* store.set("a", value)
          assert.strictEqual(yield* store.get("a"), value)
        }
        for (const value of [[], [0], [255, 0, 128], Array.from({ length: 200_000 }, (_, i) => i % 256)]) {
          yield* store.set("a", Uint8Array.from(value))
          assert.deepStrictEqual(yield* store.getUint8Array("a"), Uint8Array.from(value))
        }
      }))

    test("reads a string as its UTF-8 and bytes as their base64, and keeps them apart", (store) =>
      Effect.gen(function* () {
        yield* store.set("string", "aGk=")
        yield* store.set("bytes", new Uint8Array([104, 105]))
        yield* store.set("lone surrogate", "\ud800")
        assert.strictEqual(yield* store.get("string"), "aGk=")
        assert.strictEqual(yield* store.get("bytes"), "aGk=")
        assert.deepStrictEqual(yield* store.getUint8Array("string"), new Uint8Array([97, 71, 107, 61]))
        assert.deepStrictEqual(yield* store.getUint8Array("bytes"), new Uint8Array([104, 105]))
        assert.deepStrictEqual(yield* store.getUint8Array("lone surrogate"), new Uint8Array([239, 191, 189]))
      }))

    test("modifies what is there, as a string or as bytes, and nothing else", (store) =>
      Effect.gen(function* () {
        assert.isUndefined(yield* store.modify("a", () => "created"))
        assert.isUndefined(yield* store.modifyUint8Array("a", () => new Uint8Array([1])))
        assert.isFalse(yield* store.has("a"))
        yield* store.set("a", "hi")
        assert.strictEqual(yield* store.modify("a", (value) => `${value}!`), "hi!")
        const doubled = yield* store.modifyUint8Array("a", (value) => value.map((byte) => byte * 2))
        assert.deepStrictEqual(doubled, new Uint8Array([208, 210, 66]))
        assert.deepStrictEqual(yield* store.getUint8Array("a"), new Uint8Array([208, 210, 66]))
        assert.strictEqual(yield* store.modify("a", (value) => value.toLowerCase()), "0njc")
        assert.deepStrictEqual(yield* store.getUint8Array("a"), new TextEncoder().encode("0njc"))
        const thrown = yield* Effect.exit(
          store.modify("a", () => {
            throw new Error("thrown")
          })
        )
        assert.isTrue(Exit.hasDies(thrown))
        assert.strictEqual(yield* store.get("a"), "0njc")
      }))

    test("clears all, or what starts with a prefix, over many pages", (store) =>
      Effect.gen(function* () {
        const many = Array.from({ length: 250 }, (_, i) => `many/${i}`)
        yield* Effect.forEach([...many, ...keys], (key) => store.set(key, ""), { concurrency: 16 })
        assert.strictEqual(yield* store.size, many.length + keys.length)
        yield* store.clearPrefix("many/")
        assert.deepStrictEqual(Array.from(yield* store.keys).sort(), keys.toSorted())
        let left = keys
        for (const prefix of [
          "#1",
          "x".repeat(511),
          "x".repeat(300),
          "a\0",
          "é".repeat(299),
          "\ud83d",
          "a",
          "nothing"
        ]) {
          yield* store.clearPrefix(prefix)
          left = left.filter((key) => !key.startsWith(prefix))
          assert.deepStrictEqual(Array.from(yield* store.keys).sort(), left.toSorted())
        }
        yield* Effect.forEach(many, (key) => store.set(key, ""), { concurrency: 16 })
        yield* store.clearPrefix("")
        assert.isTrue(yield* store.isEmpty)
        yield* Effect.forEach(many, (key) => store.set(key, ""), { concurrency: 16 })
        yield* store.clear
        assert.deepStrictEqual(yield* store.keys, [])
      }))

    test("has views by a prefix and by a Schema", (store) =>
      Effect.gen(function* () {
        const view = KeyValueStore.prefix(store, "orders/")
        const orders = KeyValueStore.toSchemaStore(view, Schema.Struct({ total: Schema.Number }))
        yield* orders.set("", { total: 1 })
        yield* store.set("orders", "not one of them")
        yield* orders.modify("", ({ total }) => ({ total: total + 1 }))
        assert.strictEqual(yield* store.get("orders/"), '{"total":2}')
        assert.strictEqual(yield* view.size, 1)
        yield* view.clear
        assert.deepStrictEqual(yield* store.keys, ["orders"])
      }))
  })

keyValueCases("Effect's own in memory", InMemory.layer, () => KeyValueStore.layerMemory)
keyValueCases("ours on InMemory", InMemory.layer, ours)
keyValueCases("ours on SQLite", layerFile, ours)
describe.skipIf(endpoint === undefined)("with DynamoDB", () => {
  keyValueCases("ours on DynamoDB", layerTable({ tableName: newTableName() }), ours)
})
describe.skipIf(url === undefined)("with Redis", () => {
  keyValueCases("ours on Redis", layerKeys({ keyPrefix: newKeyPrefix() }), ours)
})

const AnyKey = Schema.Literals(["", "a", "ab", "a\0", "#a", "\ud83d", "\u{1f600}", "x".repeat(509)])
const AnyPrefix = Schema.Literals(["", "a", "a\0", "#", "\ud83d", "x", "x".repeat(509), "b"])
const AnyValue = Schema.Union([
  Schema.Literals(["", "text", "dGV4dA==", "\ud800"]),
  Schema.Literals([0, 1, 4]) // so many bytes
])
const bytesOf = (length: number) => new Uint8Array(length).fill(200)

const KeyValueCommand = Schema.Union([
  Schema.TaggedStruct("get", { key: AnyKey }),
  Schema.TaggedStruct("getUint8Array", { key: AnyKey }),
  Schema.TaggedStruct("has", { key: AnyKey }),
  Schema.TaggedStruct("set", { key: AnyKey, value: AnyValue }),
  Schema.TaggedStruct("set", { key: AnyKey, value: AnyValue }),
  Schema.TaggedStruct("remove", { key: AnyKey }),
  Schema.TaggedStruct("modify", { key: AnyKey }),
  Schema.TaggedStruct("modifyUint8Array", { key: AnyKey }),
  Schema.TaggedStruct("clear", {}),
  Schema.TaggedStruct("clearPrefix", { key: AnyPrefix }),
  Schema.TaggedStruct("size", {}),
  Schema.TaggedStruct("isEmpty", {}),
  Schema.TaggedStruct("keys", {})
])

const keyValueCommands = Arbitrary.array(Arbitrary.schema(KeyValueCommand), { maxLength: 40 })

const runKeyValueCommand = (
  store: KeyValueStore.KeyValueStore,
  command: typeof KeyValueCommand.Type
): Effect.Effect<unknown, KeyValueStore.KeyValueStoreError> => {
  switch (command._tag) {
    case "set":
      return Effect.asVoid(
        store.set(command.key, typeof command.value === "string" ? command.value : bytesOf(command.value))
      )
    case "modify":
      return store.modify(command.key, (value) => `${value.length}${value}`)
    case "modifyUint8Array":
      return store.modifyUint8Array(command.key, (value) => Uint8Array.of(value.length, ...value))
    case "remove":
    case "clearPrefix":
      return Effect.asVoid(store[command._tag](command.key))
    case "clear":
      return Effect.asVoid(store.clear)
    case "keys":
      return Effect.map(store.keys, (keys) => Array.from(keys).sort())
    case "size":
    case "isEmpty":
      return store[command._tag]
    default:
      return store[command._tag](command.key)
  }
}

for (const [name, storage] of [
  ["InMemory", InMemory.layer],
  ["SQLite", layerFile]
] as const) {
  layer(storage)(`KeyValueStore, ours on ${name} beside Effect's own`, (it) => {
    it.effect.prop(
      "answers alike to any sequence of operations",
      [keyValueCommands],
      Effect.fnUntraced(function* ([sequence]) {
        const memory = Context.get(
          yield* Layer.build(Layer.fresh(KeyValueStore.layerMemory)),
          KeyValueStore.KeyValueStore
        )
        const store = Context.get(yield* Layer.build(ours(newOwner())), KeyValueStore.KeyValueStore)
        for (const command of [...sequence, { _tag: "keys" as const }]) {
          const expected = yield* runKeyValueCommand(memory, command)
          assert.deepStrictEqual(yield* runKeyValueCommand(store, command), expected)
        }
      }, Effect.scoped),
      { arbitrary: { size: 200 } }
    )
  })
}

describe("StorageKeyValueStore.layer", () => {
  const increment = (store: Pick<KeyValueStore.KeyValueStore, "modify">) =>
    store.modify("counter", (n) => String(Number(n) + 1))

  const incrementBy = (times: number) => (store: Pick<KeyValueStore.KeyValueStore, "modify">) =>
    Effect.forEach(Array.from({ length: times }), () => increment(store), { concurrency: "unbounded", discard: true })

  /** The store with the `modify` that Effect derives from `get` and `set`. */
  const withoutModify = ({ clear, get, getUint8Array, keys, remove, set, size }: KeyValueStore.KeyValueStore) =>
    KeyValueStore.make({ clear, get, getUint8Array, keys, remove, set, size })

  /** A store, and another as of another process. */
  const twoStores = Effect.gen(function* () {
    const build = Effect.map(Layer.build(StorageKeyValueStore.layer({ owner: "alice" })), (context) =>
      Context.get(context, KeyValueStore.KeyValueStore)
    )
    return [yield* build, yield* build] as const
  })

  it.effect("keeps a value readable under its key", () =>
    Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      yield* store.set("settings/theme", "dark")
      yield* store.set("icon", new Uint8Array([1, 2, 255]))
      yield* store.set("", "empty")
      assert.deepStrictEqual(yield* storedIds("alice"), [`!kv/${hashOfEmpty}`, "!kv/icon", "!kv/settings/theme"])
      assert.strictEqual(yield* stored("alice", "!kv/settings/theme"), '{"value":"dark"}')
      assert.strictEqual(yield* stored("alice", "!kv/icon"), '{"value":{"bytes":"AQL/"}}')
      assert.strictEqual(yield* stored("alice", `!kv/${hashOfEmpty}`), '{"value":"empty","key":""}')
    }).pipe(Effect.provide(Layer.provideMerge(ours("alice"), InMemory.layer)))
  )

  it.live("loses no increment of many fibers and two clients", () =>
    Effect.gen(function* () {
      const stores = yield* twoStores
      yield* stores[0].set("counter", "0")
      yield* Effect.forEach(stores, incrementBy(200), { concurrency: 2 })
      assert.strictEqual(yield* stores[0].get("counter"), "400")
      yield* Effect.forEach(stores.map(withoutModify), incrementBy(200), { concurrency: 2 })
      assert.isBelow(Number(yield* stores[0].get("counter")), 800, "what get and set alone would come to")
    }).pipe(Effect.scoped, Effect.provide(counting().storage))
  )

  it.live("loses none of 1,000 increments from two processes", () =>
    Effect.gen(function* () {
      const script = join(import.meta.dirname, "../support/kvIncrementer.ts")
      const incremented = Effect.fnUntraced(function* (how: string) {
        const filename = newFile()
        const file = ours("alice").pipe(Layer.provide(Sqlite.layer({ filename })))
        const store = Context.get(yield* Layer.build(file), KeyValueStore.KeyValueStore)
        yield* store.set("counter", "0")
        const child = Effect.promise(() => run("node", [script, filename, "alice", "500", "2", how]))
        yield* Effect.all([child, child], { concurrency: 2 })
        return Number(yield* store.get("counter"))
      }, Effect.scoped)
      assert.strictEqual(yield* incremented("modify"), 1000)
      assert.isBelow(yield* incremented("get and set"), 1000)
    })
  )

  it.effect("lets the modifies of one key from one process share writes, and those of others run beside them", () => {
    const { mostRunning, storage, taken } = counting()
    return Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      yield* store.set("counter", "0")
      taken()
      yield* incrementBy(20)(store)
      assert.deepStrictEqual(taken(), ["read", "swap", "swap"])
      assert.strictEqual(yield* store.get("counter"), "20")
      assert.strictEqual(mostRunning(), 1)
      yield* Effect.forEach(["a", "b", "c"], (key) => store.modify(key, (value) => value), { concurrency: 3 })
      assert.strictEqual(mostRunning(), 3)
    }).pipe(Effect.provide(Layer.provide(ours("alice"), storage)))
  })

  it.effect("frees a key whose modify is interrupted", () => {
    let isStuck = true
    const stuck = layerPlantable(({ read }) => ({
      read: (key) => Effect.suspend(() => (isStuck ? Effect.never : read(key)))
    }))
    return Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      yield* store.set("counter", "1")
      const fiber = yield* Effect.forkChild(increment(store), { startImmediately: true })
      isStuck = false
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* increment(store), "2")
    }).pipe(Effect.provide(Layer.provide(ours("alice"), stuck)))
  })

  it.effect("retries a conflict by the schedule given, and then fails with it", () => {
    let swaps = 0
    const overwritten = layerPlantable(({ put, swap }) => ({
      swap: (key, write, expectation, nowSeconds) => {
        swaps++
        return Effect.andThen(
          put(key, { ...write, writeId: `other ${swaps}` }, nowSeconds),
          swap(key, write, expectation, nowSeconds)
        )
      }
    }))
    return Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      yield* store.set("counter", "1")
      const error = yield* Effect.flip(increment(store))
      assert.strictEqual(swaps, 4)
      assert.strictEqual(error.method, "modify")
      assert.propertyVal(error.cause, "_tag", "VersionConflict")
      assert.match(
        error.message,
        /^Unable to modify item with key counter: Expected version \d at alice:!kv\/counter, found version \d$/
      )
    }).pipe(
      Effect.provide(StorageKeyValueStore.layer({ owner: "alice", retrySchedule: Schedule.recurs(3) })),
      Effect.provide(overwritten)
    )
  })

  it.effect("keeps owners apart, and what else an owner has", () =>
    Effect.gen(function* () {
      const [alice, bob] = yield* Effect.forEach(["alice", "bob"], (owner) =>
        Effect.map(Layer.build(ours(owner)), (context) => Context.get(context, KeyValueStore.KeyValueStore))
      )
      assert.isDefined(alice)
      assert.isDefined(bob)
      const cache = yield* Effect.flatMap(Layer.build(StoragePersistence.layer({ owner: "alice" })), (context) =>
        Context.get(context, Persistence.BackingPersistence).make("cache")
      )
      const tasks = Context.get(yield* Layer.build(TaskStore.layer), TaskStore.TaskStore)
      const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
      yield* cache.set("a", {}, undefined)
      yield* alice.set("a", "of alice")
      yield* alice.set("b", "of alice")
      yield* bob.set("a", "of bob")
      assert.strictEqual(yield* alice.get("a"), "of alice")
      assert.strictEqual(yield* bob.get("a"), "of bob")
      assert.isUndefined(yield* bob.get("b"))
      assert.deepStrictEqual(yield* alice.keys, ["a", "b"])
      assert.strictEqual((yield* tasks.list({ ownerId: "alice" })).tasks.length, 1)
      yield* alice.clear
      assert.strictEqual(yield* alice.size, 0)
      assert.strictEqual(yield* bob.get("a"), "of bob")
      assert.deepStrictEqual(yield* cache.get("a"), {})
      assert.strictEqual((yield* tasks.get({ ownerId: "alice", taskId: task.taskId })).task.status, "working")
    }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
  )

  it.effect("takes as many requests as it says", () => {
    const { mostRunning, storage, taken } = counting()
    return Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      const requests = (effect: Effect.Effect<unknown, unknown>) => Effect.map(effect, () => taken().join(" "))
      assert.strictEqual(yield* requests(store.isEmpty), "list")
      assert.strictEqual(yield* requests(store.set("key", "value")), "put")
      assert.strictEqual(yield* requests(store.get("key")), "read")
      assert.strictEqual(yield* requests(store.has("key")), "read")
      assert.strictEqual(yield* requests(store.modify("key", (value) => value)), "read swap")
      assert.strictEqual(yield* requests(store.modify("other", (value) => value)), "read")
      assert.strictEqual(yield* requests(store.remove("key")), "remove")
      yield* Effect.forEach(
        Array.from({ length: 120 }, (_, i) => `${i}`),
        (key) => store.set(key, "")
      )
      taken()
      assert.strictEqual(yield* requests(store.size), "list list")
      assert.strictEqual(yield* requests(store.keys), "list list")
      assert.strictEqual(yield* requests(store.isEmpty), "list")
      assert.strictEqual((yield* requests(store.clearPrefix("11"))).split(" ").length, 2 + 11)
      assert.strictEqual((yield* requests(store.clear)).split(" ").length, 2 + 109)
      assert.strictEqual(mostRunning(), 50)
    }).pipe(Effect.provide(Layer.provide(ours("alice"), storage)))
  })

  it.effect("tells which operation failed, on which key and why", () =>
    Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      const operations = {
        get: store.get("a"),
        getUint8Array: store.getUint8Array("a"),
        set: store.set("a", "value"),
        remove: store.remove("a"),
        modify: store.modify("a", (value) => value),
        modifyUint8Array: store.modifyUint8Array("a", (value) => value),
        clearPrefix: store.clearPrefix("a"),
        clear: store.clear,
        size: store.size,
        keys: store.keys,
        isEmpty: store.isEmpty
      }
      for (const [method, operation] of Object.entries(operations)) {
        const error = yield* Effect.flip<unknown, KeyValueStore.KeyValueStoreError, never>(operation)
        assert.strictEqual(error._tag, "KeyValueStoreError")
        assert.strictEqual(error.method, method)
        assert.strictEqual(error.key, ["clear", "size", "keys", "isEmpty"].includes(method) ? undefined : "a")
        assert.propertyVal(error.cause, "_tag", "Backend")
        assert.match(error.message, /^Unable to .* failed: no table$/)
      }
    }).pipe(Effect.provide(Layer.provide(ours("alice"), failing)))
  )

  it.effect("refuses a value that is too large, and writes nothing", () =>
    Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      for (const value of ["x".repeat(400_000), new Uint8Array(300_000)]) {
        const error = yield* Effect.flip(store.set("a", value))
        assert.propertyVal(error.cause, "_tag", "CapacityExceeded")
        assert.include(error.message, "Unable to set item with key a: The data for alice:!kv/a takes 4000")
      }
      assert.isFalse(yield* store.has("a"))
    }).pipe(Effect.provide(Layer.provide(ours("alice"), InMemory.layer)))
  )

  it.effect("does not read a record that is none of its own, but counts and clears it", () =>
    Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      const backend = yield* StorageBackend
      for (const id of ["a", "#a"]) yield* backend.put(makeUnsafe({ owner: "alice", id: `!kv/${id}` }), '{"value":5}')
      const error = yield* Effect.flip(store.get("a"))
      assert.isTrue(Schema.isSchemaError(error.cause))
      assert.include(error.message, "alice:!kv/a")
      assert.isTrue(Schema.isSchemaError((yield* Effect.flip(store.keys)).cause))
      assert.strictEqual(yield* store.size, 2)
      yield* store.clear
      assert.strictEqual(yield* store.size, 0)
    }).pipe(Effect.provide(Layer.provideMerge(ours("alice"), InMemory.layer)))
  )

  it.effect("refuses an owner that can't be, when the Layer is built", () =>
    Effect.gen(function* () {
      for (const build of [Layer.build(ours("")), Layer.build(ours(""))]) {
        const error = yield* Effect.flip<unknown, unknown, StorageBackend | Scope.Scope>(build)
        assert.propertyVal(error, "message", "Invalid key: the owner is empty")
      }
    }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
  )
})
