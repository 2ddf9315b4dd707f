import { assert, describe, it } from "@effect/vitest"
import { Effect, type Layer, Schema } from "effect"
import type { StoredRecord } from "../src/Engine.ts"
import * as Sqlite from "../src/engine/Sqlite.ts"
import * as ETag from "../src/internal/etag.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import { makeUnsafe, type StorageKey } from "../src/StorageKey.ts"
import * as Faults from "../src/testing/Faults.ts"
import * as VersionedStore from "../src/VersionedStore.ts"
import * as DynamoDbSupport from "./support/dynamoDb.ts"
import { layerPlantable, plant } from "./support/plantable.ts"
import * as PostgresSupport from "./support/postgres.ts"
import * as RedisSupport from "./support/redis.ts"
import * as SqliteSupport from "./support/sqlite.ts"

/** A store of numbers, the requests that it makes, and a key of its own. */
const counted = Effect.gen(function* () {
  const faults = Faults.backend(yield* StorageBackend)
  const counters = yield* Effect.provideService(
    VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int }),
    StorageBackend,
    faults.backend
  )
  return { ...faults, counters, key: { owner: crypto.randomUUID(), id: "a" } }
})

const suite = <R>(
  name: string,
  layer: Layer.Layer<R | StorageBackend, unknown>,
  plant: (key: StorageKey, record: StoredRecord) => Effect.Effect<unknown, unknown, R>
) =>
  describe(`An entity tag, on ${name}`, () => {
    const test = (title: string, effect: Effect.Effect<void, unknown, R | StorageBackend>) =>
      it.live(title, () => Effect.provide(effect, layer))

    test(
      "lets exactly the write that it names be overwritten or removed, in one request",
      Effect.gen(function* () {
        const { counters, key, taken } = yield* counted
        const first = yield* counters.create(key, 1, { ttl: "1 hour" })
        assert.match(first.etag, /^"[\x21\x23-\x7e]+"$/)
        assert.strictEqual((yield* counters.get(key)).etag, first.etag)
        taken()
        const second = yield* counters.setIfMatch(key, first.etag, 2)
        assert.deepStrictEqual(taken(), ["putIfVersion"])
        assert.isUndefined(second.expiresAt)
        assert.notStrictEqual(second.etag, first.etag)
        const overwrite = yield* Effect.flip(counters.setIfMatch(key, first.etag, 3))
        assert.isTrue(overwrite._tag === "VersionConflict" && overwrite.actual === second.version)
        const removal = yield* Effect.flip(counters.removeIfMatch(key, first.etag))
        assert.isTrue(removal._tag === "VersionConflict" && removal.actual === second.version)
        assert.deepStrictEqual(taken(), ["putIfVersion", "deleteIfVersion"])
        const third = yield* counters.setIfMatch(key, second.etag, 3, { ttl: "1 hour" })
        assert.isDefined(third.expiresAt)
        yield* counters.removeIfMatch(key, third.etag)
        assert.strictEqual((yield* Effect.flip(counters.setIfMatch(key, third.etag, 4)))._tag, "RecordNotFound")
        assert.strictEqual((yield* Effect.flip(counters.removeIfMatch(key, third.etag)))._tag, "RecordNotFound")
      })
    )

    test(
      "does not name a record of the same version and value that was created again",
      Effect.gen(function* () {
        const { counters, key } = yield* counted
        const before = yield* counters.create(key, 1)
        yield* counters.remove(key)
        const after = yield* counters.create(key, 1)
        assert.strictEqual((yield* Effect.flip(counters.setIfMatch(key, before.etag, 2)))._tag, "VersionConflict")
        assert.strictEqual((yield* Effect.flip(counters.removeIfMatch(key, before.etag)))._tag, "VersionConflict")
        assert.strictEqual((yield* counters.get(key)).etag, after.etag)
      })
    )

    test(
      "names a record that another program wrote without a write id by its version and data",
      Effect.gen(function* () {
        const { counters, key, taken } = yield* counted
        const stored = makeUnsafe({ owner: key.owner, id: "counter/a" })
        const foreign = { version: 7, writeId: undefined, expiresAtSeconds: undefined }
        yield* plant(stored, { ...foreign, data: "1" })
        const before = yield* counters.get(key)
        yield* plant(stored, { ...foreign, data: "2" })
        assert.strictEqual((yield* Effect.flip(counters.setIfMatch(key, before.etag, 3)))._tag, "VersionConflict")
        const { etag } = yield* counters.get(key)
        taken()
        assert.deepInclude(yield* counters.setIfMatch(key, etag, 3), { value: 3, version: 8 })
        assert.deepStrictEqual(taken(), ["get", "putIfVersion"])
      })
    )

    test(
      "that no record ever had is a conflict, or not found",
      Effect.gen(function* () {
        const { counters, key } = yield* counted
        const tags = ["", "*", '""', '"1"', 'W/"1-a"', '"0-a"', '"1-%"', "1-a", '"99999999999999999-a"']
        for (const etag of tags) {
          assert.strictEqual((yield* Effect.flip(counters.setIfMatch(key, etag, 1)))._tag, "RecordNotFound", etag)
        }
        const created = yield* counters.create(key, 1)
        for (const etag of tags) {
          const error = yield* Effect.flip(counters.removeIfMatch(key, etag))
          assert.isTrue(error._tag === "VersionConflict" && error.actual === created.version, etag)
          // A write that a tag guards does expect a record.
          assert.notInclude(error.message, "Expected no record", etag)
        }
        assert.strictEqual((yield* counters.get(key)).value, 1)
      })
    )
  })

suite("InMemory", layerPlantable(), plant)

const filename = SqliteSupport.newFiles()()
suite("Sqlite", Sqlite.layer({ filename }), SqliteSupport.plant(filename))

describe.skipIf(DynamoDbSupport.endpoint === undefined)("DynamoDb", () => {
  const tableName = DynamoDbSupport.newTableName()
  suite("DynamoDb", DynamoDbSupport.layerTable({ tableName }), DynamoDbSupport.plant(tableName))
})

describe.skipIf(PostgresSupport.url === undefined)("PostgreSQL", () => {
  const tableName = PostgresSupport.newTable()
  suite("PostgreSQL", PostgresSupport.layerTable({ tableName }), PostgresSupport.plant(tableName))
})

describe.skipIf(RedisSupport.url === undefined)("Redis", () => {
  const keyPrefix = RedisSupport.newKeyPrefix()
  suite("Redis", RedisSupport.layerKeys({ keyPrefix }), RedisSupport.plant(keyPrefix))
})

describe("ETag", () => {
  it.prop("comes back as the version and the write id, fit for HTTP", [Schema.String], ([writeId]) => {
    if (writeId === "" || !writeId.isWellFormed()) return
    const etag = ETag.make(7, writeId, "data")
    assert.match(etag, /^"[\x21\x23-\x7e]+"$/)
    assert.deepStrictEqual(ETag.parse(etag), { version: 7, writeId })
  })

  it("is another one for other data without a write id, however similar", () => {
    const letters = [..."abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"]
    const names = letters.flatMap((a) => letters.flatMap((b) => [`${a}${b}`, `${a}----${b}`, `{"n":"${a} ${b}${a}"}`]))
    const data = [...names, ...Array.from({ length: 100_000 }, (_, i) => JSON.stringify({ total: i, paid: false }))]
    const etags = new Set(data.map((data) => ETag.make(1, undefined, data)))
    assert.strictEqual(etags.size, data.length)
    for (const etag of etags) assert.match(etag, /^"[\x21\x23-\x7e]+"$/)
  })
})
