import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, it, layer } from "@effect/vitest"
import {
  Arbitrary,
  Context,
  DateTime,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Schedule,
  Schema,
  type Scope
} from "effect"
import { Chat, LanguageModel } from "effect/ai"
import { KeyValueStore, Persistable, PersistedCache, Persistence } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/backend/InMemory.ts"
import * as Sqlite from "../../src/backend/Sqlite.ts"
import * as Bridge from "../../src/bridge/Bridge.ts"
import { make as makeBackend, type Primitives, StorageBackend } from "../../src/StorageBackend.ts"
import { backend as backendError } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import { endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { layerPlantable } from "../support/plantable.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"

const run = promisify(execFile)

const newFile = newFiles()
const newOwner = () => `owner-${crypto.randomUUID()}`

const layerFile = Sqlite.layer({ filename: newFile(), synchronous: "NORMAL" })

type KeyValueBridge = (owner: string) => Layer.Layer<KeyValueStore.KeyValueStore, unknown, StorageBackend>
type PersistenceBridge = (owner: string) => Layer.Layer<Persistence.BackingPersistence, unknown, StorageBackend>

const keyValueBridge: KeyValueBridge = (owner) => Bridge.layerKeyValueStore({ owner })
const persistenceBridge: PersistenceBridge = (owner) => Bridge.layerBackingPersistence({ owner })

/** A memory backend whose primitives are counted, and yield to other fibers. */
const counting = () => {
  const requests: Array<string> = []
  const { primitives } = InMemory.makeEngine()
  let [running, mostRunning] = [0, 0]
  const counted =
    <Args extends ReadonlyArray<unknown>, A, E>(name: string, primitive: (...args: Args) => Effect.Effect<A, E>) =>
    (...args: Args) =>
      Effect.suspend(() => {
        requests.push(name)
        mostRunning = Math.max(mostRunning, ++running)
        return Effect.andThen(
          Effect.yieldNow,
          Effect.suspend(() => primitive(...args))
        ).pipe(Effect.ensuring(Effect.sync(() => running--)))
      })
  const service = makeBackend({
    ...primitives,
    read: counted("read", primitives.read),
    put: counted("put", primitives.put),
    swap: counted("swap", primitives.swap),
    remove: counted("remove", primitives.remove),
    list: counted("list", primitives.list)
  })
  return {
    storage: Layer.succeed(StorageBackend, service),
    service,
    mostRunning: () => mostRunning,
    /** The requests since they were last asked for. */
    taken: () => requests.splice(0)
  }
}

/** A backend of which every request fails. */
const failing = (() => {
  const fail = () =>
    Effect.fail(backendError({ reason: "Misconfigured", outcome: "not-applied", description: "no table" }))
  const primitives: Primitives = { read: fail, put: fail, swap: fail, remove: fail, list: fail, cleanup: fail }
  return Layer.succeed(StorageBackend, makeBackend(primitives))
})()

const stored = (owner: string, id: string) =>
  StorageBackend.use((backend) => backend.get(makeUnsafe({ owner, id }))).pipe(Effect.map(({ data }) => data))

const storedIds = (owner: string) =>
  StorageBackend.use((backend) => backend.listByPrefix(makePrefix({ owner, idPrefix: "" }))).pipe(
    Effect.map(({ records }) => records.map(({ key }) => key.id))
  )

// -----------------------------------------------------------------------------
// KeyValueStore
// -----------------------------------------------------------------------------

/** The id that the empty key has. */
const hashOfEmpty = "#12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126"

/** Keys that an id can be, that one can't, and that could be taken for each other. */
const keys = [
  ...["", "a", "ab", "a/b", "a:b", "%", "!", "é", "\u{1f600}", "\ufffd", "__proto__", "constructor", " "],
  ...["\0", "a\0", "a\0b", "\ud83d", "\ude00", "\ud83dx", "#", "##", "#a", hashOfEmpty],
  ...["x".repeat(508), "x".repeat(509), "x".repeat(512), "x".repeat(513), "é".repeat(300), "x".repeat(10_000)]
]

const keyValueCases = (name: string, storage: Layer.Layer<StorageBackend, unknown>, bridge: KeyValueBridge) =>
  layer(storage, { excludeTestServices: true })(`KeyValueStore, ${name}`, (it) => {
    const test = (
      title: string,
      f: (
        store: KeyValueStore.KeyValueStore
      ) => Effect.Effect<void, KeyValueStore.KeyValueStoreError | Schema.SchemaError>
    ) =>
      it.effect(title, () => KeyValueStore.KeyValueStore.use(f).pipe(Effect.provide(Layer.fresh(bridge(newOwner())))))

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
keyValueCases("the bridge on InMemory", InMemory.layer, keyValueBridge)
keyValueCases("the bridge on SQLite", layerFile, keyValueBridge)
describe.skipIf(endpoint === undefined)("with DynamoDB", () => {
  keyValueCases("the bridge on DynamoDB", layerTable({ tableName: newTableName() }), keyValueBridge)
})
describe.skipIf(url === undefined)("with Redis", () => {
  keyValueCases("the bridge on Redis", layerKeys({ keyPrefix: newKeyPrefix() }), keyValueBridge)
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
  layer(storage)(`KeyValueStore, the bridge on ${name} beside Effect's own`, (it) => {
    it.effect.prop(
      "answers alike to any sequence of operations",
      [keyValueCommands],
      Effect.fnUntraced(function* ([sequence]) {
        const memory = Context.get(
          yield* Layer.build(Layer.fresh(KeyValueStore.layerMemory)),
          KeyValueStore.KeyValueStore
        )
        const bridge = Context.get(yield* Layer.build(keyValueBridge(newOwner())), KeyValueStore.KeyValueStore)
        for (const command of [...sequence, { _tag: "keys" as const }]) {
          const expected = yield* runKeyValueCommand(memory, command)
          assert.deepStrictEqual(yield* runKeyValueCommand(bridge, command), expected)
        }
      }, Effect.scoped),
      { arbitrary: { size: 200 } }
    )
  })
}

describe("Bridge.layerKeyValueStore", () => {
  const increment = (store: Pick<KeyValueStore.KeyValueStore, "modify">) =>
    store.modify("counter", (n) => String(Number(n) + 1))

  const incrementBy = (times: number) => (store: Pick<KeyValueStore.KeyValueStore, "modify">) =>
    Effect.forEach(Array.from({ length: times }), () => increment(store), { concurrency: "unbounded", discard: true })

  /** The store with the `modify` that Effect derives from `get` and `set`. */
  const withoutModify = ({ clear, get, getUint8Array, keys, remove, set, size }: KeyValueStore.KeyValueStore) =>
    KeyValueStore.make({ clear, get, getUint8Array, keys, remove, set, size })

  /** A store, and another as of another process. */
  const twoStores = Effect.gen(function* () {
    const build = Effect.map(Layer.build(Bridge.layerKeyValueStore({ owner: "alice" })), (context) =>
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
    }).pipe(Effect.provide(Layer.provideMerge(keyValueBridge("alice"), InMemory.layer)))
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
        const file = keyValueBridge("alice").pipe(Layer.provide(Sqlite.layer({ filename })))
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

  it.effect("lets the modifies of one key from one process take turns, and those of others run beside them", () => {
    const { mostRunning, storage, taken } = counting()
    return Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      yield* store.set("counter", "0")
      taken()
      yield* incrementBy(20)(store)
      assert.deepStrictEqual(taken(), Array.from({ length: 20 }, () => ["read", "swap"]).flat())
      assert.strictEqual(mostRunning(), 1)
      yield* Effect.forEach(["a", "b", "c"], (key) => store.modify(key, (value) => value), { concurrency: 3 })
      assert.strictEqual(mostRunning(), 3)
    }).pipe(Effect.provide(Layer.provide(keyValueBridge("alice"), storage)))
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
    }).pipe(Effect.provide(Layer.provide(keyValueBridge("alice"), stuck)))
  })

  it.effect("retries a conflict by the schedule given, and then fails with it", () => {
    let swaps = 0
    const overwritten = layerPlantable(({ put, swap }) => ({
      swap: (key, write, expected) => {
        swaps++
        return Effect.andThen(put(key, { ...write, writeId: `other ${swaps}` }), swap(key, write, expected))
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
      Effect.provide(Bridge.layerKeyValueStore({ owner: "alice", retrySchedule: Schedule.recurs(3) })),
      Effect.provide(overwritten)
    )
  })

  it.effect("keeps owners apart, and what else an owner has", () =>
    Effect.gen(function* () {
      const [alice, bob] = yield* Effect.forEach(["alice", "bob"], (owner) =>
        Effect.map(Layer.build(keyValueBridge(owner)), (context) => Context.get(context, KeyValueStore.KeyValueStore))
      )
      assert.isDefined(alice)
      assert.isDefined(bob)
      const cache = yield* Effect.flatMap(Layer.build(persistenceBridge("alice")), (context) =>
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
      assert.strictEqual(mostRunning(), 16)
    }).pipe(Effect.provide(Layer.provide(keyValueBridge("alice"), storage)))
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
    }).pipe(Effect.provide(Layer.provide(keyValueBridge("alice"), failing)))
  )

  it.effect("refuses what is too large, and writes nothing", () =>
    Effect.gen(function* () {
      const store = yield* KeyValueStore.KeyValueStore
      for (const value of ["x".repeat(400_000), new Uint8Array(300_000)]) {
        const error = yield* Effect.flip(store.set("a", value))
        assert.propertyVal(error.cause, "_tag", "CapacityExceeded")
        assert.include(error.message, "Unable to set item with key a: The data for alice:!kv/a takes 4000")
      }
      assert.isFalse(yield* store.has("a"))
    }).pipe(Effect.provide(Layer.provide(keyValueBridge("alice"), InMemory.layer)))
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
    }).pipe(Effect.provide(Layer.provideMerge(keyValueBridge("alice"), InMemory.layer)))
  )

  it.effect("refuses an owner that can't be, when the Layer is built", () =>
    Effect.gen(function* () {
      for (const build of [Layer.build(keyValueBridge("")), Layer.build(persistenceBridge(""))]) {
        const error = yield* Effect.flip<unknown, unknown, StorageBackend | Scope.Scope>(build)
        assert.propertyVal(error, "message", "Invalid key: the owner is empty")
      }
    }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
  )
})

// -----------------------------------------------------------------------------
// BackingPersistence
// -----------------------------------------------------------------------------

/** Ids of stores of which one could be taken for the other, or that no id can hold. */
const storeIds = [
  "",
  "a",
  "ab",
  "a:b",
  "a%3Ab",
  "%",
  "a/b",
  "#a",
  "\0",
  "\ud83d",
  "\ude00",
  "x".repeat(400),
  "x".repeat(490),
  "x".repeat(600)
]

const makeStore = (storeId: string) => Effect.flatMap(Persistence.BackingPersistence, ({ make }) => make(storeId))

const persistenceCases = (name: string, storage: Layer.Layer<StorageBackend, unknown>, bridge: PersistenceBridge) =>
  layer(storage, { excludeTestServices: true })(`BackingPersistence, ${name}`, (it) => {
    const test = (
      title: string,
      effect: Effect.Effect<void, Persistence.PersistenceError, Persistence.BackingPersistence | Scope.Scope>
    ) => it.effect(title, () => Effect.provide(effect, Layer.fresh(bridge(newOwner()))))

    test(
      "keeps the entries of stores apart, whatever their ids and keys",
      Effect.gen(function* () {
        const stores = yield* Effect.forEach(storeIds, makeStore)
        const some = [...["", "b", "b:c", ":", "c"], ...keys.slice(13)]
        const entry = (i: number, key: string) => ({
          store: i,
          key: key.slice(0, 20),
          list: [1, null, { a: "\ud800" }]
        })
        yield* Effect.forEach(stores, (store, i) =>
          store.setMany(some.map((key) => [key, entry(i, key), undefined]) as never)
        )
        const [first] = stores
        assert.isDefined(first)
        for (const [i, store] of stores.entries()) {
          assert.deepStrictEqual(yield* store.getMany(["none", ...some]), [
            undefined,
            ...some.map((key) => entry(i, key))
          ] as never)
        }
        for (const [i, store] of stores.entries()) {
          yield* store.clear
          assert.isUndefined(yield* store.get("b:c"))
          for (const [j, other] of stores.entries()) {
            if (j > i) assert.deepStrictEqual(yield* other.get("b:c"), entry(j, "b:c"))
          }
        }
      })
    )

    test(
      "shares the entries of a store between all that make it",
      Effect.gen(function* () {
        const [one, other] = [yield* makeStore("a"), yield* makeStore("a")]
        yield* one.set("key", { a: 1 }, undefined)
        assert.deepStrictEqual(yield* other.get("key"), { a: 1 })
        yield* other.remove("key")
        yield* other.remove("key")
        assert.isUndefined(yield* one.get("key"))
      })
    )

    test(
      "gets many in the order asked for, and lets the last of several entries for a key stay",
      Effect.gen(function* () {
        const store = yield* makeStore("a")
        const many = Array.from({ length: 120 }, (_, i) => [`${i % 60}`, { i }, undefined] as const)
        yield* store.setMany(many as never)
        const asked = ["59", "none", "0", "59"] as const
        assert.deepStrictEqual(yield* store.getMany([...asked]), [{ i: 119 }, undefined, { i: 60 }, { i: 119 }])
        yield* store.clear
        assert.deepStrictEqual(yield* store.getMany([...asked]), [undefined, undefined, undefined, undefined])
      })
    )

    test(
      "keeps for ever, or not at all, by the time to live",
      Effect.gen(function* () {
        const store = yield* makeStore("a")
        for (const ttl of [
          undefined,
          Duration.infinity,
          Duration.days(1_000_000),
          Duration.days(1e12),
          Duration.hours(1)
        ]) {
          yield* store.set("a", { ttl: String(ttl) }, ttl)
          assert.deepStrictEqual(yield* store.get("a"), { ttl: String(ttl) })
        }
        for (const ttl of [Duration.zero, Duration.millis(-1), Duration.days(-1_000_000), Duration.negativeInfinity]) {
          yield* store.set("a", { there: true }, undefined)
          yield* store.set("a", { ttl: String(ttl) }, ttl)
          assert.isUndefined(yield* store.get("a"))
        }
      })
    )
  })

persistenceCases("Effect's own in memory", InMemory.layer, () => Persistence.layerBackingMemory)
persistenceCases("the bridge on InMemory", InMemory.layer, persistenceBridge)
persistenceCases("the bridge on SQLite", layerFile, persistenceBridge)
describe.skipIf(endpoint === undefined)("with DynamoDB", () => {
  persistenceCases("the bridge on DynamoDB", layerTable({ tableName: newTableName() }), persistenceBridge)
})
describe.skipIf(url === undefined)("with Redis", () => {
  persistenceCases("the bridge on Redis", layerKeys({ keyPrefix: newKeyPrefix() }), persistenceBridge)
})

const Entry = {
  store: Schema.Literals([0, 1, 2]),
  key: Schema.Literals(["", "a", "a:b", "#a", "x".repeat(600)]),
  ttl: Schema.UndefinedOr(Schema.Literals([-5, 0, 0.5, 1, 250, 999, 1000, 1500, Number.MAX_SAFE_INTEGER]))
}

const PersistenceCommand = Schema.Union([
  Schema.TaggedStruct("get", Entry),
  Schema.TaggedStruct("getMany", Entry),
  Schema.TaggedStruct("set", Entry),
  Schema.TaggedStruct("set", Entry),
  Schema.TaggedStruct("setMany", Entry),
  Schema.TaggedStruct("remove", Entry),
  Schema.TaggedStruct("clear", Entry),
  Schema.TaggedStruct("advance", { ...Entry, millis: Schema.Literals([1, 249, 250, 999, 1000]) })
])

const persistenceCommands = Arbitrary.array(Arbitrary.schema(PersistenceCommand), { maxLength: 40 })

const runPersistenceCommand = (
  store: Persistence.BackingPersistenceStore,
  { _tag, key, ttl }: typeof PersistenceCommand.Type,
  step: number
): Effect.Effect<unknown, Persistence.PersistenceError> => {
  const timeToLive = ttl === undefined ? undefined : Duration.millis(ttl)
  switch (_tag) {
    case "get":
      return store.get(key)
    case "set":
      return Effect.asVoid(store.set(key, { step }, timeToLive))
    case "setMany":
      return Effect.asVoid(
        store.setMany([
          [key, { step }, undefined],
          ["a", [step], timeToLive]
        ])
      )
    case "remove":
      return Effect.asVoid(store.remove(key))
    case "clear":
      return store.clear
    default:
      return store.getMany(["a", key, "none", key, ""])
  }
}

for (const [name, storage] of [
  ["InMemory", InMemory.layer],
  ["SQLite", layerFile]
] as const) {
  layer(storage)(`BackingPersistence, the bridge on ${name} beside Effect's own`, (it) => {
    it.effect.prop(
      "answers alike to any sequence of operations, as time passes",
      [persistenceCommands],
      Effect.fnUntraced(function* ([sequence]) {
        const build = Effect.fnUntraced(function* (bridge: ReturnType<PersistenceBridge>) {
          const { make } = Context.get(yield* Layer.build(Layer.fresh(bridge)), Persistence.BackingPersistence)
          return yield* Effect.forEach(["a", "ab", "a:b"], make)
        })
        const [memory, bridge] = [
          yield* build(Persistence.layerBackingMemory),
          yield* build(persistenceBridge(newOwner()))
        ]
        for (const [step, command] of sequence.entries()) {
          if (command._tag === "advance") yield* TestClock.adjust(command.millis)
          const [expecting, store] = [memory[command.store], bridge[command.store]]
          assert.isDefined(expecting)
          assert.isDefined(store)
          const expected = yield* runPersistenceCommand(expecting, command, step)
          assert.deepStrictEqual(yield* runPersistenceCommand(store, command, step), expected)
        }
      }, Effect.scoped),
      { arbitrary: { size: 200 } }
    )

    it.effect("ends a time to live to the millisecond", () =>
      Effect.gen(function* () {
        const store = yield* makeStore("a")
        yield* TestClock.adjust("123 millis")
        yield* store.set("a", { a: 1 }, Duration.millis(1500))
        yield* TestClock.adjust("1499 millis")
        assert.deepStrictEqual(yield* store.get("a"), { a: 1 })
        assert.deepStrictEqual(yield* store.getMany(["a"]), [{ a: 1 }])
        yield* TestClock.adjust("1 millis")
        assert.isUndefined(yield* store.get("a"))
        assert.deepStrictEqual(yield* store.getMany(["a"]), [undefined])
      }).pipe(Effect.provide(persistenceBridge(newOwner())))
    )
  })
}

class GetName extends Persistable.Class<{ payload: { id: string } }>()("GetName", {
  primaryKey: ({ id }) => id,
  success: Schema.Struct({ name: Schema.String, at: Schema.DateTimeUtc }),
  error: Schema.String
}) {}

/** A cache that looks names up, which is counted, as one of a process that has just started. */
const newCache = (lookups: Array<string>) =>
  PersistedCache.make(
    ({ id }: GetName) =>
      Effect.suspend(() => {
        lookups.push(id.slice(0, 10))
        return id === "nobody"
          ? Effect.fail("no such name")
          : Effect.succeed({ name: `name of ${id}`, at: DateTime.makeUnsafe(1_700_000_000_123) })
      }),
    { storeId: "names", timeToLive: (exit) => (Exit.isSuccess(exit) ? "1500 millis" : "1 hour") }
  )

const persistedBy = <E>(storage: Layer.Layer<StorageBackend, E>, owner: string) =>
  Persistence.layer.pipe(Layer.provide(Bridge.layerBackingPersistence({ owner })), Layer.provide(storage))

describe("Bridge.layerBackingPersistence", () => {
  it.effect("keeps an entry readable, and lets the engine collect it from the next whole second on", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const store = yield* makeStore("a:b")
      yield* store.set("c:d", { a: 1 }, Duration.millis(1500))
      yield* store.set("for ever", { a: 1 }, undefined)
      assert.deepStrictEqual(yield* storedIds("alice"), ["!persistence/a%3Ab:c:d", "!persistence/a%3Ab:for ever"])
      assert.strictEqual(
        yield* stored("alice", "!persistence/a%3Ab:c:d"),
        '{"value":{"a":1},"expiresAt":"1970-01-01T00:00:01.500Z"}'
      )
      yield* TestClock.adjust("1999 millis")
      assert.strictEqual(yield* backend.cleanupExpired, 0)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* backend.cleanupExpired, 1)
      assert.deepStrictEqual(yield* storedIds("alice"), ["!persistence/a%3Ab:for ever"])
    }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(persistenceBridge("alice"), InMemory.layer)))
  )

  it.effect("takes as many requests as it says, 16 at a time", () => {
    const { mostRunning, storage, taken } = counting()
    return Effect.gen(function* () {
      const store = yield* makeStore("a")
      const requests = (effect: Effect.Effect<unknown, unknown>) => Effect.map(effect, () => taken().join(" "))
      assert.strictEqual(yield* requests(store.set("a", {}, undefined)), "put")
      assert.strictEqual(yield* requests(store.get("a")), "read")
      assert.strictEqual(yield* requests(store.remove("a")), "remove")
      assert.strictEqual(mostRunning(), 1)
      const many = Array.from({ length: 50 }, (_, i) => `${i}`)
      const entries = many.map((key) => [key, {}, undefined] as const)
      assert.strictEqual(yield* requests(store.setMany(entries as never)), many.fill("put").join(" "))
      assert.strictEqual(mostRunning(), 16)
      assert.strictEqual(yield* requests(store.getMany(many as never)), many.fill("read").join(" "))
      assert.strictEqual(yield* requests(store.clear), ["list", ...many.fill("remove")].join(" "))
      assert.strictEqual(mostRunning(), 16)
    }).pipe(Effect.scoped, Effect.provide(Layer.provide(persistenceBridge("alice"), storage)))
  })

  it.effect("keeps what JSON.stringify keeps, and tells what is no JSON", () =>
    Effect.gen(function* () {
      const store = yield* makeStore("a")
      const value = { kept: 1, left: undefined, at: new Date(0), none: [undefined, Number.NaN] }
      yield* store.set("a", value, undefined)
      assert.deepStrictEqual(yield* store.get("a"), JSON.parse(JSON.stringify(value)))
      const error = yield* Effect.flip(store.set("a", { a: 1n }, undefined))
      assert.isTrue(Schema.isSchemaError(error.cause))
      assert.include(error.message, "Failed to set key a in backing store: ")
    }).pipe(Effect.scoped, Effect.provide(Layer.provide(persistenceBridge("alice"), InMemory.layer)))
  )

  it.effect("tells which operation failed, on which key and why", () =>
    Effect.gen(function* () {
      const store = yield* makeStore("store")
      for (const [operation, message] of [
        [store.get("a"), "Failed to get key a from backing store: get failed: no table"],
        [store.getMany(["a"]), "Failed to get key a from backing store: get failed: no table"],
        [store.set("a", {}, undefined), "Failed to set key a in backing store: put failed: no table"],
        [store.setMany([["a", {}, undefined]]), "Failed to set key a in backing store: put failed: no table"],
        [store.remove("a"), "Failed to remove key a from backing store: delete failed: no table"],
        [store.clear, "Failed to clear backing store: listByPrefix failed: no table"]
      ] as const) {
        const error = yield* Effect.flip<unknown, Persistence.PersistenceError, never>(operation)
        assert.strictEqual(error._tag, "PersistenceError")
        assert.strictEqual(error.message, message)
        assert.propertyVal(error.cause, "_tag", "Backend")
      }
    }).pipe(Effect.scoped, Effect.provide(Layer.provide(persistenceBridge("alice"), failing)))
  )

  it.effect("fails to get a record that is none of its own, leaves it out of many, and clears it", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const store = yield* makeStore("a")
      yield* backend.put(makeUnsafe({ owner: "alice", id: "!persistence/a:bad" }), "not JSON")
      yield* store.set("good", {}, undefined)
      const error = yield* Effect.flip(store.get("bad"))
      assert.isTrue(Schema.isSchemaError(error.cause))
      assert.include(error.message, "alice:!persistence/a:bad")
      assert.deepStrictEqual(yield* store.getMany(["good", "bad"]), [{}, undefined])
      yield* store.clear
      assert.deepStrictEqual(yield* store.getMany(["good", "bad"]), [undefined, undefined])
    }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(persistenceBridge("alice"), InMemory.layer)))
  )

  it.effect("lets a PersistedCache outlive the process, by its times to live", () =>
    Effect.gen(function* () {
      const storage = Sqlite.layer({ filename: newFile() })
      const lookups: Array<string> = []
      const long = new GetName({ id: "x".repeat(2000) })
      const process = Effect.gen(function* () {
        const cache = yield* newCache(lookups)
        const { name } = yield* cache.get(new GetName({ id: "1" }))
        assert.strictEqual(name, "name of 1")
        assert.strictEqual((yield* cache.get(long)).at.epochMilliseconds, 1_700_000_000_123)
        assert.strictEqual(yield* Effect.flip(cache.get(new GetName({ id: "nobody" }))), "no such name")
        return cache
      })
      const newProcess = process.pipe(Effect.scoped, Effect.provide(Layer.fresh(persistedBy(storage, "alice"))))
      yield* newProcess
      yield* TestClock.adjust("1499 millis")
      yield* newProcess
      assert.deepStrictEqual(lookups.splice(0), ["1", "xxxxxxxxxx", "nobody"])
      yield* TestClock.adjust("1 millis")
      yield* newProcess
      assert.deepStrictEqual(lookups.splice(0), ["1", "xxxxxxxxxx"])
      yield* Effect.flatMap(process, (cache) => cache.invalidate(long)).pipe(
        Effect.scoped,
        Effect.provide(Layer.fresh(persistedBy(storage, "alice")))
      )
      yield* newProcess
      assert.deepStrictEqual(lookups, ["xxxxxxxxxx"])
    })
  )

  it.effect("lets a persisted chat go on", () => {
    const model = Layer.effect(
      LanguageModel.LanguageModel,
      LanguageModel.make({
        generateText: ({ prompt }) => Effect.succeed([{ type: "text", text: `${prompt.content.length} messages` }]),
        streamText: () => {
          throw new Error("not used")
        }
      })
    )
    const say = (prompt: string) =>
      Chat.Persistence.use((chats) => chats.getOrCreate("chat")).pipe(
        Effect.flatMap((chat) => chat.generateText({ prompt })),
        Effect.map(({ text }) => text),
        Effect.provide(
          Layer.fresh(Layer.provide(Chat.layerPersisted({ storeId: "chats" }), persistenceBridge("alice")))
        )
      )
    return Effect.gen(function* () {
      assert.strictEqual(yield* say("Hello"), "1 messages")
      assert.strictEqual(yield* say("Are you there?"), "3 messages")
    }).pipe(Effect.provide([model, InMemory.layer]))
  })
})

describe.skipIf(endpoint === undefined)("Bridge.layerBackingPersistence, on DynamoDB", () => {
  it.live("lets a PersistedCache outlive the process", () =>
    Effect.gen(function* () {
      const storage = layerTable({ tableName: newTableName() })
      const lookups: Array<string> = []
      const ask = Effect.flatMap(newCache(lookups), (cache) =>
        Effect.flip(cache.get(new GetName({ id: "nobody" })))
      ).pipe(Effect.scoped, Effect.provide(Layer.fresh(persistedBy(storage, "alice"))))
      assert.strictEqual(yield* ask, "no such name")
      assert.strictEqual(yield* ask, "no such name")
      assert.deepStrictEqual(lookups, ["nobody"])
    })
  )
})
