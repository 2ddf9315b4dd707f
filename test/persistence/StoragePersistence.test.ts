import { assert, describe, it, layer } from "@effect/vitest"
import { Arbitrary, Context, DateTime, Duration, Effect, Exit, Layer, Schema, type Scope } from "effect"
import { Chat, LanguageModel } from "effect/ai"
import { Persistable, PersistedCache, Persistence } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as StoragePersistence from "../../src/persistence/StoragePersistence.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { counting, failing, keys, newOwner, stored, storedIds } from "../support/persistence.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"

const newFile = newFiles()
const layerFile = Sqlite.layer({ filename: newFile(), synchronous: "NORMAL" })

type MakeLayer = (owner: string) => Layer.Layer<Persistence.BackingPersistence, unknown, StorageBackend>
const ours: MakeLayer = (owner) => StoragePersistence.layer({ owner })

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

const persistenceCases = (name: string, storage: Layer.Layer<StorageBackend, unknown>, layerOf: MakeLayer) =>
  layer(storage, { excludeTestServices: true })(`BackingPersistence, ${name}`, (it) => {
    const test = (
      title: string,
      effect: Effect.Effect<void, Persistence.PersistenceError, Persistence.BackingPersistence | Scope.Scope>
    ) => it.effect(title, () => Effect.provide(effect, Layer.fresh(layerOf(newOwner()))))

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
persistenceCases("ours on InMemory", InMemory.layer, ours)
persistenceCases("ours on SQLite", layerFile, ours)
describe.skipIf(endpoint === undefined)("with DynamoDB", () => {
  persistenceCases("ours on DynamoDB", layerTable({ tableName: newTableName() }), ours)
})
describe.skipIf(url === undefined)("with Redis", () => {
  persistenceCases("ours on Redis", layerKeys({ keyPrefix: newKeyPrefix() }), ours)
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
  layer(storage)(`BackingPersistence, ours on ${name} beside Effect's own`, (it) => {
    it.effect.prop(
      "answers alike to any sequence of operations, as time passes",
      [persistenceCommands],
      Effect.fnUntraced(function* ([sequence]) {
        const build = Effect.fnUntraced(function* (stores: ReturnType<MakeLayer>) {
          const { make } = Context.get(yield* Layer.build(Layer.fresh(stores)), Persistence.BackingPersistence)
          return yield* Effect.forEach(["a", "ab", "a:b"], make)
        })
        const [memory, durable] = [yield* build(Persistence.layerBackingMemory), yield* build(ours(newOwner()))]
        for (const [step, command] of sequence.entries()) {
          if (command._tag === "advance") yield* TestClock.adjust(command.millis)
          const [expecting, store] = [memory[command.store], durable[command.store]]
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
      }).pipe(Effect.provide(ours(newOwner())))
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
  Persistence.layer.pipe(Layer.provide(StoragePersistence.layer({ owner })), Layer.provide(storage))

describe("StoragePersistence.layer", () => {
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
    }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(ours("alice"), InMemory.layer)))
  )

  it.effect("takes as many requests as it says, 50 at a time", () => {
    const { mostRunning, storage, taken } = counting()
    return Effect.gen(function* () {
      const store = yield* makeStore("a")
      const requests = (effect: Effect.Effect<unknown, unknown>) => Effect.map(effect, () => taken().join(" "))
      assert.strictEqual(yield* requests(store.set("a", {}, undefined)), "put")
      assert.strictEqual(yield* requests(store.get("a")), "read")
      assert.strictEqual(yield* requests(store.remove("a")), "remove")
      assert.strictEqual(mostRunning(), 1)
      const many = Array.from({ length: 80 }, (_, i) => `${i}`)
      const entries = many.map((key) => [key, {}, undefined] as const)
      assert.strictEqual(yield* requests(store.setMany(entries as never)), many.fill("put").join(" "))
      assert.strictEqual(mostRunning(), 50)
      const twice = Array.from({ length: 150 }, (_, i) => `${i % 50}`)
      assert.strictEqual(yield* requests(store.getMany(twice as never)), "readMany readMany")
      assert.strictEqual(yield* requests(store.clear), ["list", ...many.fill("remove")].join(" "))
      assert.strictEqual(mostRunning(), 50)
    }).pipe(Effect.scoped, Effect.provide(Layer.provide(ours("alice"), storage)))
  })

  it.effect("keeps what JSON.stringify keeps, and fails to set a value that has no JSON", () =>
    Effect.gen(function* () {
      const store = yield* makeStore("a")
      const value = { kept: 1, left: undefined, at: new Date(0), none: [undefined, Number.NaN] }
      yield* store.set("a", value, undefined)
      assert.deepStrictEqual(yield* store.get("a"), JSON.parse(JSON.stringify(value)))
      const error = yield* Effect.flip(store.set("a", { a: 1n }, undefined))
      assert.isTrue(Schema.isSchemaError(error.cause))
      assert.include(error.message, "Failed to set key a in backing store: ")
    }).pipe(Effect.scoped, Effect.provide(Layer.provide(ours("alice"), InMemory.layer)))
  )

  it.effect("tells which operation failed, on which key and why", () =>
    Effect.gen(function* () {
      const store = yield* makeStore("store")
      for (const [operation, message] of [
        [store.get("a"), "Failed to get key a from backing store: get failed: no table"],
        [store.getMany(["a"]), "Failed to getMany from backing store: getMany failed: no table"],
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
    }).pipe(Effect.scoped, Effect.provide(Layer.provide(ours("alice"), failing)))
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
    }).pipe(Effect.scoped, Effect.provide(Layer.provideMerge(ours("alice"), InMemory.layer)))
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
        Effect.provide(Layer.fresh(Layer.provide(Chat.layerPersisted({ storeId: "chats" }), ours("alice"))))
      )
    return Effect.gen(function* () {
      assert.strictEqual(yield* say("Hello"), "1 messages")
      assert.strictEqual(yield* say("Are you there?"), "3 messages")
    }).pipe(Effect.provide([model, InMemory.layer]))
  })
})

describe.skipIf(endpoint === undefined)("StoragePersistence.layer, on DynamoDB", () => {
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
