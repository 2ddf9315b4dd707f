import { NodeRedis } from "@effect/platform-node"
import { assert, describe, layer, it as test } from "@effect/vitest"
import { DateTime, Effect, Layer, Metric, Queue, Schema } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { keysBelow, layerKeys, lossy, newKeyPrefix, plant, send, url } from "../support/redis.ts"
import { redisProxy } from "../support/redisProxy.ts"

const keyPrefix = newKeyPrefix()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

const clients = { "RedisClient.layer": RedisClient.layer, "NodeRedis.layer": NodeRedis.layer }

/** A backend on one of the clients, and what it sends, which is forgotten once it is read. */
const watched = (client: keyof typeof clients) =>
  Effect.gen(function* () {
    const proxy = yield* redisProxy(url ?? "", () => "pass")
    const service: Layer.Layer<EffectRedis.Redis, unknown> = clients[client]({ url: proxy.url })
    const context = yield* Layer.build(Layer.provide(Redis.layer({ keyPrefix }), service))
    const backend = yield* Effect.provide(StorageBackend, context)
    const sent = () => proxy.commands.splice(0).map(([name = ""]) => name)
    return { context, backend, sent }
  })

describe.skipIf(url === undefined)("Redis", () => {
  test.live("passes messages on, and reserves connections of their own, as Effect's service does", () =>
    Effect.gen(function* () {
      const redis = yield* EffectRedis.Redis
      const channel = `news ${crypto.randomUUID()}`
      const messages = yield* redis.subscribe(channel)
      yield* redis
        .send("PUBLISH", channel, "hello")
        .pipe(Effect.repeat({ until: (receivers) => Number(receivers) > 0 }))
      assert.deepStrictEqual(yield* Queue.take(messages), { channel, message: "hello" })
      const connection = yield* redis.reserve
      assert.strictEqual(yield* connection.send("PING"), "PONG")
      assert.notStrictEqual(yield* connection.send("CLIENT", "ID"), yield* redis.send("CLIENT", "ID"))
    }).pipe(Effect.scoped, Effect.provide(RedisClient.layer({ url: url ?? "" })))
  )

  StorageContract.suite("Redis", layerKeys({ keyPrefix }), {
    shared: true,
    plant: plant(keyPrefix),
    lossy: lossy(keyPrefix)
  })
  StorageContract.suite(
    "Redis, by NodeRedis.layer",
    Redis.layer({ keyPrefix }).pipe(Layer.provideMerge(NodeRedis.layer({ url: url ?? "" }))),
    { shared: true, plant: plant(keyPrefix), lossy: lossy(keyPrefix) }
  )

  layer(layerKeys({ keyPrefix }), { excludeTestServices: true })((it) => {
    describe("sends", () => {
      for (const client of ["RedisClient.layer", "NodeRedis.layer"] as const) {
        it.effect(`one command for each operation, whether it succeeds or meets a conflict, by ${client}`, () =>
          Effect.gen(function* () {
            const { backend, sent } = yield* watched(client)
            const all = Effect.gen(function* () {
              const counts: Record<string, ReadonlyArray<string>> = {}
              const count = <A, E>(name: string, operation: Effect.Effect<A, E>) =>
                Effect.ensuring(
                  operation,
                  Effect.sync(() => {
                    counts[name] = sent()
                  })
                )
              sent()
              const key = newKey()
              const created = yield* count("create", backend.putIfVersion(key, "one", 0))
              yield* count("create, lost", Effect.flip(backend.putIfVersion(key, "one", 0)))
              yield* count("get", backend.get(key))
              const put = yield* count("put", backend.put(key, "two"))
              yield* count("putIfVersion", backend.putIfVersion(key, "three", put))
              yield* count("putIfVersion, lost", Effect.flip(backend.putIfVersion(key, "four", created)))
              const others = Array.from({ length: 99 }, (_, i) => makeUnsafe({ owner: key.owner, id: `${i}` }))
              yield* count("getMany", backend.getMany([key, ...others]))
              yield* count("page", backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" })))
              yield* count("deleteIfVersion, lost", Effect.flip(backend.deleteIfVersion(key, created)))
              yield* count("deleteIfVersion", backend.deleteIfVersion(key, 3))
              yield* backend.put(key, "again")
              sent()
              yield* count("delete", backend.delete(key))
              yield* count("delete of nothing", backend.delete(key))
              return counts
            })
            // The first time, scripts are loaded.
            yield* all
            const counts = yield* all
            for (const [name, commands] of Object.entries(counts)) {
              assert.deepStrictEqual(commands, [name === "get" ? "HMGET" : "EVALSHA"], name)
            }
            console.log(
              `${client}: ${Object.entries(counts)
                .map(([name, { length }]) => `${name} ${length}`)
                .join("; ")}`
            )
          })
        )

        it.effect(`one command for the first retry of an update after a conflict, by ${client}`, () =>
          Effect.gen(function* () {
            const { backend, context, sent } = yield* watched(client)
            const other = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
            const key = { owner: newKey().owner, id: "a" }
            yield* other.create(key, 0)
            yield* backend.put(newKey(), "so that the script is loaded")
            sent()
            const counters = yield* Effect.provide(VersionedStore.make({ idPrefix: "", schema: Schema.Int }), context)
            let runs = 0
            const record = yield* counters.updateEffect(key, (n) =>
              Effect.as(runs++ === 0 ? Effect.orDie(other.update(key, (n) => n + 10)) : Effect.void, n + 1)
            )
            assert.strictEqual(record.value, 11)
            const commands = sent()
            assert.deepStrictEqual(commands, ["HMGET", "EVALSHA", "EVALSHA"])
            console.log(`${client}: an update with one conflict: ${commands.join(", ")}`)
          })
        )
      }
    })

    describe("is set up with", () => {
      it.effect("a limit of one record's data", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          yield* backend.put(newKey(), "1234")
          assert.strictEqual((yield* Effect.flip(backend.put(newKey(), "12345")))._tag, "CapacityExceeded")
        }).pipe(Effect.provide(Redis.layer({ keyPrefix, maxDataBytes: 4 })))
      )

      it.effect("counters of requests and conflicts, by its keyPrefix", () =>
        Effect.gen(function* () {
          const keyPrefix = newKeyPrefix()
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey()
            const record = yield* backend.put(key, "one")
            yield* backend.get(key)
            yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            yield* Effect.flip(backend.putIfVersion(key, "two", record.version + 1))
            yield* Effect.flip(backend.deleteIfVersion(key, record.version + 1))
            yield* backend.delete(key)
          }).pipe(Effect.provide(Redis.layer({ keyPrefix })))
          const counters = (yield* Metric.snapshot).flatMap((metric) =>
            metric.attributes?.["db.collection.name"] === keyPrefix && metric.type === "Counter"
              ? [[metric.id, metric.attributes["db.system.name"], metric.state.count]]
              : []
          )
          assert.deepStrictEqual(counters.sort(), [
            ["effect_versioned_store.conflicts", "redis", 2],
            ["effect_versioned_store.requests", "redis", 6]
          ])
        })
      )
    })

    describe("lists", () => {
      it.effect("large records in pages that end early", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const { owner } = newKey()
          const ids = Array.from({ length: 20 }, (_, i) => String(i).padStart(2, "0"))
          for (const id of ids) yield* backend.put(makeUnsafe({ owner, id }), "x".repeat(300_000))
          for (const order of ["ascending", "descending"] as const) {
            const found: Array<string> = []
            let cursor: string | undefined
            do {
              const page = yield* backend.listByPrefix(makePrefix({ owner, idPrefix: "" }), {
                cursor,
                order,
                limit: 1000
              })
              assert.isBelow(page.records.length, ids.length)
              found.push(...page.records.map(({ key }) => key.id))
              cursor = page.cursor
            } while (cursor !== undefined)
            assert.deepStrictEqual(found, order === "ascending" ? ids : ids.toReversed())
          }
        })
      )
    })

    describe("keeps", () => {
      it.effect("a hash for each record, and an index and an expiry index for each owner, under one hash tag", () =>
        Effect.gen(function* () {
          const keyPrefix = newKeyPrefix()
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = makeUnsafe({ owner: "a{b}%:c", id: "{d}:e" })
            const record = yield* backend.put(key, "data", { expiresAt: DateTime.makeUnsafe(4_000_000_000_001) })
            const base = "{a%7Bb%7D%25:c}"
            assert.deepStrictEqual(yield* keysBelow(keyPrefix), [
              `${base}:expiry`,
              `${base}:index`,
              `${base}:record:{d}:e`
            ])
            const hash = yield* send("HGETALL", `${keyPrefix}:${base}:record:{d}:e`)
            assert.deepStrictEqual(Object.entries(hash as Record<string, string>).sort(), [
              ["data", "data"],
              ["expires_at", "4000000001"],
              ["version", "1"],
              ["write_id", record.writeId ?? ""]
            ])
            const members = (name: string) => send("ZRANGE", `${keyPrefix}:${base}:${name}`, "0", "-1", "WITHSCORES")
            assert.deepStrictEqual(yield* members("index"), [["{d}:e", 0]])
            assert.deepStrictEqual(yield* members("expiry"), [["{d}:e", 4_000_000_001]])
            yield* backend.put(key, "data")
            assert.deepStrictEqual(yield* keysBelow(keyPrefix), [`${base}:index`, `${base}:record:{d}:e`])
            assert.isTrue(yield* backend.delete(key))
            assert.deepStrictEqual(yield* keysBelow(keyPrefix), [])
          }).pipe(Effect.provide(layerKeys({ keyPrefix })))
        })
      )

      it.effect("versions exact up to the last safe one", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const version = Number.MAX_SAFE_INTEGER - 3
          yield* plant(keyPrefix)(key, { data: "data", version, writeId: undefined, expiresAtSeconds: undefined })
          const name = `${keyPrefix}:{${key.owner}}:record:a`
          for (const next of ["9007199254740989", "9007199254740990", "9007199254740991"]) {
            const before = yield* backend.get(key)
            const stale = yield* Effect.flip(backend.putIfVersion(key, "data", before.version - 1))
            assert.strictEqual(stale._tag === "VersionConflict" && stale.actual, before.version)
            assert.strictEqual(String((yield* backend.putIfVersion(key, "data", before)).version), next)
            assert.strictEqual(yield* send("HGET", name, "version"), next)
          }
          for (const write of [backend.put(key, "data"), backend.putIfVersion(key, "data", Number.MAX_SAFE_INTEGER)]) {
            const error = yield* Effect.flip(write)
            assert.isTrue(error._tag === "CapacityExceeded" && error.resource === "Versions")
          }
          assert.strictEqual(yield* send("HGET", name, "version"), "9007199254740991")
        })
      )
    })

    describe("fails, without a retry,", () => {
      const assertFailure = (error: { readonly _tag: string }, reason: Backend["reason"]["_tag"], problem: RegExp) => {
        assert.strictEqual(error._tag, "Backend")
        const backend = error as Backend
        assert.deepStrictEqual(
          [backend.reason._tag, backend.outcome, backend.isRetryable],
          [reason, "not-applied", false]
        )
        assert.match(backend.message, problem)
      }

      it.effect("if a hash is damaged, until the hash is deleted, also by hand", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const remove = {
            "by delete": (key: ReturnType<typeof newKey>) =>
              Effect.map(backend.delete(key), (done) => assert.isTrue(done)),
            "by hand": (key: ReturnType<typeof newKey>) => send("DEL", `${keyPrefix}:{${key.owner}}:record:a`)
          }
          for (const [fields, problem] of [
            [{ data: "x" }, /version is not an integer from 1 up/],
            [{ version: "", data: "x" }, /version is not an integer/],
            [{ version: "x", data: "x" }, /version is not an integer/],
            [{ version: "1.5", data: "x" }, /version is not an integer/],
            [{ version: "0", data: "x" }, /version is not an integer/],
            [{ version: "-1", data: "x" }, /version is not an integer/],
            [{ version: "01", data: "x" }, /version is not an integer/],
            [{ version: "nan", data: "x" }, /version is not an integer/],
            [{ version: "9007199254740992", data: "x" }, /version is not an integer/],
            [{ version: "1", data: "x", expires_at: "soon" }, /expires_at is not an epoch second/],
            [{ version: "1", data: "x", expires_at: "inf" }, /expires_at is not an epoch second/],
            [{ version: "1", data: "x", expires_at: "4000000000.5" }, /expires_at is not an epoch second/]
          ] as const) {
            for (const removal of Object.values(remove)) {
              const key = newKey()
              const base = `${keyPrefix}:{${key.owner}}`
              yield* send("ZADD", `${base}:index`, "0", "a")
              yield* send("HSET", `${base}:record:a`, ...Object.entries(fields).flat())
              for (const operation of [
                Effect.flip(backend.get(key)),
                Effect.flip(backend.put(key, "y")),
                Effect.flip(backend.putIfVersion(key, "y", 0)),
                Effect.flip(backend.putIfVersion(key, "y", 1)),
                Effect.flip(backend.deleteIfVersion(key, 1)),
                Effect.flip(backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" })))
              ]) {
                const error = yield* operation
                assertFailure(error, "Corrupt", problem)
                assertFailure(error, "Corrupt", /Repair it in Redis, or delete the record/)
              }
              assert.strictEqual(yield* send("HGET", `${base}:record:a`, "data"), "x")
              yield* removal(key)
              assert.strictEqual((yield* backend.putIfVersion(key, "y", 0)).version, 1)
            }
          }
        })
      )

      it.effect("if a key holds something else, until the key is removed by hand", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const problem = /choose another keyPrefix, or remove that key/
          for (const part of ["record:a", "index", "expiry"]) {
            const key = newKey()
            const name = `${keyPrefix}:{${key.owner}}:${part}`
            yield* send("SET", name, "theirs")
            const expiresAt = DateTime.makeUnsafe(4_000_000_000_000)
            assertFailure(yield* Effect.flip(backend.put(key, "data", { expiresAt })), "Misconfigured", problem)
            if (part === "record:a") assertFailure(yield* Effect.flip(backend.get(key)), "Misconfigured", problem)
            else assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
            assert.strictEqual(yield* send("GET", name), "theirs")
            yield* send("DEL", name)
            assert.strictEqual((yield* backend.put(key, "data", { expiresAt })).version, 1)
          }
        })
      )

      it.effect("if the keyPrefix has braces", () =>
        Effect.gen(function* () {
          for (const keyPrefix of ["{a}", "a}", "{"]) {
            const error = yield* Effect.flip(Layer.build(Redis.layer({ keyPrefix })))
            assertFailure(error, "Misconfigured", /has braces/)
          }
        })
      )
    })
  })
})
