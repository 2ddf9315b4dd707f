import { assert, describe, layer } from "@effect/vitest"
import { DateTime, Effect } from "effect"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { counting, endpoint, getItem, layerTable, newTableName, putItem } from "../support/dynamoDb.ts"

const tableName = newTableName()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

const asBackend = (error: { readonly _tag: string }): Backend => {
  assert.strictEqual(error._tag, "Backend")
  return error as Backend
}
describe.skipIf(endpoint === undefined)("The records of DynamoDb", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    describe("expire", () => {
      it.effect("by whole seconds in the attribute of DynamoDB's Time to Live", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          yield* backend.put(key, "data", { expiresAt: DateTime.makeUnsafe(4_000_000_000_001) })
          assert.deepStrictEqual((yield* getItem(tableName, key.owner, "a"))?.expires_at, { N: "4000000001" })
          yield* backend.put(key, "data")
          assert.isUndefined((yield* getItem(tableName, key.owner, "a"))?.expires_at)
        })
      )

      it.effect("and one request creates over an expired record", () =>
        Effect.gen(function* () {
          const { backend, sent } = counting(tableName)
          const key = newKey()
          const expired = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, expires_at: { N: "1000000000" } }
          yield* putItem(tableName, { ...expired, version: { N: "7" }, data: { S: "old" } })
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
            assert.strictEqual((yield* Effect.flip(backend.putIfVersion(key, "new", 7)))._tag, "RecordNotFound")
            sent.length = 0
            const created = yield* backend.putIfVersion(key, "new", 0)
            assert.strictEqual(created.version, 8)
            assert.deepStrictEqual(sent, ["UpdateItemCommand"])
          }).pipe(Effect.provide(backend))
          assert.isUndefined((yield* getItem(tableName, key.owner, "a"))?.expires_at)
        })
      )

      it.effect("but not if the expiry is not a number, and such a record can be changed and deleted", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          for (const expiresAt of [{ S: "1000000000" }, { NULL: true }, { BOOL: false }] as const) {
            yield* putItem(tableName, { ...item, expires_at: expiresAt })
            const record = yield* backend.get(key)
            assert.isUndefined(record.expiresAt)
            const page = yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            assert.strictEqual(page.records.length, 1)
            assert.strictEqual((yield* Effect.flip(backend.putIfVersion(key, "y", 0)))._tag, "VersionConflict")
            assert.strictEqual((yield* backend.putIfVersion(key, "y", record)).version, 2)
            yield* putItem(tableName, { ...item, expires_at: expiresAt })
            assert.isTrue(yield* backend.delete(key))
          }
        })
      )

      it.effect("and any number that another program wrote is an expiry", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          for (const [expiry, live] of [
            ["4000000000.5", true],
            ["1e100", true],
            ["-1e100", false],
            ["0", false]
          ] as const) {
            yield* putItem(tableName, { ...item, expires_at: { N: expiry } })
            const exit = yield* Effect.result(backend.get(key))
            assert.strictEqual(exit._tag === "Success", live, expiry)
          }
        })
      )
    })

    describe("are listed to the end, if a page ends with the last id that the listing can have,", () => {
      const last = "\u{10FFFF}"
      for (const [order, idPrefix, id] of [
        ["descending", "a", "a"],
        ["ascending", "", last.repeat(128)],
        ["ascending", "aaaa", `aaaa${last.repeat(127)}`]
      ] as const) {
        it.effect(`${order}, with the prefix "${idPrefix}"`, () =>
          Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey(id)
            yield* backend.put(key, "data")
            const prefix = makePrefix({ owner: key.owner, idPrefix })
            const page = yield* backend.listByPrefix(prefix, { limit: 1, order })
            assert.deepStrictEqual(
              page.records.map((record) => record.key.id),
              [id]
            )
            assert.isString(page.cursor)
            const next = yield* backend.listByPrefix(prefix, { limit: 1, order, cursor: page.cursor })
            assert.deepStrictEqual(next, { records: [], cursor: undefined })
          })
        )
      }
    })

    describe("share a table with pmcp-tasks", () => {
      it.effect("whose records, without a write id, can be read and changed", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey("6f1c2e9a-7f0b-4a5e-9d1e-0c8a3a5b7d11")
          const item = {
            PK: { S: `OWNER#${key.owner}` },
            SK: { S: `TASK#${key.id}` },
            version: { N: "3" },
            data: { S: '{"task":{"status":"working"}}' },
            expires_at: { N: "4000000000" }
          }
          yield* putItem(tableName, item)
          const read = yield* backend.get(key)
          assert.deepStrictEqual([read.version, read.data, read.writeId], [3, item.data.S, undefined])
          const written = yield* backend.putIfVersion(key, "changed", read, { expiresAt: read.expiresAt })
          assert.deepStrictEqual(yield* getItem(tableName, key.owner, key.id), {
            ...item,
            version: { N: "4" },
            data: { S: "changed" },
            write_id: { S: written.writeId ?? "" }
          })
          yield* putItem(tableName, { ...item, version: { N: "5" } })
          const conflict = yield* Effect.flip(backend.putIfVersion(key, "ours", written))
          assert.isTrue(conflict._tag === "VersionConflict" && conflict.actual === 5)
        })
      )

      it.effect("and keep the attributes that other programs put into an item", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const foreign = { note: { S: "theirs" }, list: { L: [{ N: "1" }] } }
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          yield* putItem(tableName, { ...item, ...foreign })
          yield* backend.putIfVersion(key, "y", yield* backend.get(key))
          yield* backend.put(key, "z")
          const after = yield* getItem(tableName, key.owner, "a")
          assert.deepStrictEqual([after?.note, after?.list], [foreign.note, foreign.list])
        })
      )
    })

    describe("fail with an error", () => {
      const assertCorrupt = (error: { readonly _tag: string }, problem: RegExp) => {
        const backend = asBackend(error)
        assert.strictEqual(backend.reason._tag, "Corrupt")
        assert.strictEqual(backend.outcome, "not-applied")
        assert.isFalse(backend.isRetryable)
        assert.match(backend.message, problem)
        assert.include(backend.message, tableName)
      }

      it.effect("if an item is damaged or not a record, and such an item can be deleted", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          for (const [attributes, problem] of [
            [{ data: { S: "x" } }, /no version/],
            [{ data: { S: "x" }, version: { S: "1" } }, /no version/],
            [{ data: { S: "x" }, version: { N: "1.5" } }, /no version/],
            [{ data: { S: "x" }, version: { N: "0" } }, /no version/],
            [{ data: { S: "x" }, version: { N: "9007199254740992" } }, /no version/],
            [{ version: { N: "1" } }, /no data/],
            [{ data: { N: "1" }, version: { N: "1" } }, /no data/],
            [{ data: { S: "x" }, version: { N: "1" }, write_id: { N: "1" } }, /write_id that is not a string/]
          ] as const) {
            const key = newKey()
            yield* putItem(tableName, { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, ...attributes })
            assertCorrupt(yield* Effect.flip(backend.get(key)), problem)
            assertCorrupt(yield* Effect.flip(backend.putIfVersion(key, "y", 0)), problem)
            const listing = backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            assertCorrupt(yield* Effect.flip(listing), problem)
            assert.isTrue(yield* backend.delete(key))
            yield* backend.putIfVersion(key, "y", 0)
          }
        })
      )

      it.effect("if other programs' attributes push an item over DynamoDB's limit", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          yield* putItem(tableName, { ...item, theirs: { S: "y".repeat(300_000) } })
          const data = "z".repeat(200_000)
          for (const write of [backend.put(key, data), backend.putIfVersion(key, data, yield* backend.get(key))]) {
            const error = yield* Effect.flip(write)
            assert.isTrue(error._tag === "CapacityExceeded" && error.resource === "ItemBytes")
            assert.include(error.message, "its key and other attributes take the rest")
          }
          assert.strictEqual((yield* backend.get(key)).version, 1)
        })
      )
    })
  })
})
