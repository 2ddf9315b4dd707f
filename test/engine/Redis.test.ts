import { NodeRedis } from "@effect/platform-node"
import { assert, describe, layer, it as test } from "@effect/vitest"
import { Clock, DateTime, Effect, Layer, Metric, Queue, Schema } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import { TestClock } from "effect/testing"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { layerKeys, newKeyPrefix, plant, url } from "../support/redis.ts"
import { redisProxy } from "../support/redisProxy.ts"

const keyPrefix = newKeyPrefix()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

const send = (command: string, ...args: ReadonlyArray<string>) =>
  EffectRedis.Redis.use((redis) => redis.send<unknown>(command, ...args))

/** The keys of a store, without its prefix. */
const keysBelow = (keyPrefix: string) =>
  Effect.map(send("KEYS", `${keyPrefix.replace(/[\\*?[\]]/g, "\\$&")}:*`), (keys) =>
    (keys as ReadonlyArray<string>).map((key) => key.slice(keyPrefix.length + 1)).sort()
  )

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

  StorageContract.suite("Redis", layerKeys({ keyPrefix }), { shared: true, plant: plant(keyPrefix) })
  StorageContract.suite(
    "Redis, by NodeRedis.layer",
    Redis.layer({ keyPrefix }).pipe(Layer.provideMerge(NodeRedis.layer({ url: url ?? "" }))),
    { shared: true, plant: plant(keyPrefix) }
  )

  layer(layerKeys({ keyPrefix }), { excludeTestServices: true })((it) => {
    describe("sends", () => {
      for (const client of ["RedisClient.layer", "NodeRedis.layer"] as const) {
        it.effect(`one command for each operation, won or lost, by ${client}`, () =>
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
      it.effect("a hash a record, an index an owner, and what expires, under one hash tag", () =>
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

    describe("tells of", () => {
      const assertFailure = (error: { readonly _tag: string }, reason: Backend["reason"]["_tag"], problem: RegExp) => {
        assert.strictEqual(error._tag, "Backend")
        const backend = error as Backend
        assert.deepStrictEqual(
          [backend.reason._tag, backend.outcome, backend.isRetryable],
          [reason, "not-applied", false]
        )
        assert.match(backend.message, problem)
      }

      it.effect("a hash that is damaged, which can be deleted, by hand too", () =>
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

      it.effect("a key that holds something else, which can be removed by hand", () =>
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

      it.effect("a keyPrefix with braces", () =>
        Effect.gen(function* () {
          for (const keyPrefix of ["{a}", "a}", "{"]) {
            const error = yield* Effect.flip(Layer.build(Redis.layer({ keyPrefix })))
            assertFailure(error, "Misconfigured", /has braces/)
          }
        })
      )
    })
  })

  describe("collects", () => {
    const layerAt = (keyPrefix: string) => Layer.provideMerge(layerKeys({ keyPrefix }), StorageContract.layerClock)

    /** An instant so many seconds from now. */
    const inSeconds = (seconds: number) => Effect.map(DateTime.now, DateTime.add({ seconds }))

    test.effect("a hash by Redis's own expiry, 300 seconds after its record has expired by both clocks", () => {
      const keyPrefix = newKeyPrefix()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = newKey()
        const name = `${keyPrefix}:{${key.owner}}:record:a`
        const assertLeft = Effect.fnUntraced(function* (seconds: number) {
          const left = Number(yield* send("PTTL", name))
          // Redis's own clock runs on meanwhile: a minute of it is more than this test may take.
          assert.isAtMost(left, (seconds + 1) * 1000)
          assert.isAbove(left, (seconds - 60) * 1000)
        })
        const record = yield* backend.put(key, "data", { expiresAt: yield* inSeconds(1000) })
        yield* assertLeft(1300)
        yield* TestClock.adjust("100 seconds")
        const later = yield* backend.putIfVersion(key, "data", record, { expiresAt: record.expiresAt })
        yield* assertLeft(1300)
        const sooner = yield* backend.putIfVersion(key, "data", later, { expiresAt: yield* inSeconds(10) })
        yield* assertLeft(410)
        const never = yield* backend.putIfVersion(key, "data", sooner)
        assert.strictEqual(yield* send("TTL", name), -1)
        yield* backend.putIfVersion(key, "data", never, { expiresAt: yield* inSeconds(-1000) })
        assert.isAtMost(Number(yield* send("PTTL", name)), 1000)
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })

    test.effect("nothing that is live by its hash, whatever the index by expiry says, which it mends", () => {
      const keyPrefix = newKeyPrefix()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const { owner } = newKey()
        const expiry = `${keyPrefix}:{${owner}}:expiry`
        const expiresAt = yield* inSeconds(1000)
        const lasting = yield* backend.put(makeUnsafe({ owner, id: "lasting" }), "data")
        const later = yield* backend.put(makeUnsafe({ owner, id: "later" }), "data", { expiresAt })
        yield* send("ZADD", expiry, "1", "lasting", "1", "later")
        assert.strictEqual(yield* backend.cleanupExpired, 0)
        for (const record of [lasting, later]) assert.deepStrictEqual(yield* backend.get(record.key), record)
        assert.deepStrictEqual(yield* send("ZRANGE", expiry, "0", "-1"), ["later"])
        yield* TestClock.adjust("1300 seconds")
        assert.strictEqual(yield* backend.cleanupExpired, 1)
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })

    test.effect("no id of a live hash when a page meets it, whatever the index by expiry says", () => {
      const keyPrefix = newKeyPrefix()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const { owner } = newKey()
        const lasting = yield* backend.put(makeUnsafe({ owner, id: "lasting" }), "data")
        const later = yield* backend.put(makeUnsafe({ owner, id: "later" }), "x", { expiresAt: yield* inSeconds(1000) })
        yield* send("ZADD", `${keyPrefix}:{${owner}}:expiry`, "1", "lasting", "1", "later")
        const list = backend.listByPrefix(makePrefix({ owner, idPrefix: "" }))
        for (let i = 0; i < 2; i++) assert.deepStrictEqual((yield* list).records, [lasting, later])
        assert.deepStrictEqual(yield* send("ZRANGE", `${keyPrefix}:{${owner}}:index`, "0", "-1"), ["lasting", "later"])
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })

    /** What an owner's page holds, where something is done before or after the first read of a hash by itself. */
    const listWhile = (
      keyPrefix: string,
      owner: string,
      {
        after = Effect.void,
        before = Effect.void
      }: Partial<Record<"after" | "before", Effect.Effect<unknown, unknown>>>
    ) =>
      Effect.gen(function* () {
        const redis = yield* EffectRedis.Redis
        let reads = 0
        const meddled = EffectRedis.Redis.of({
          ...redis,
          send: <A>(command: string, ...args: ReadonlyArray<string>) => {
            const sent = redis.send<A>(command, ...args)
            if (command !== "HMGET" || ++reads > 1) return sent
            return Effect.andThen(
              Effect.orDie(before),
              Effect.tap(sent, () => Effect.orDie(after))
            )
          }
        })
        const { records } = yield* StorageBackend.use((backend) =>
          backend.listByPrefix(makePrefix({ owner, idPrefix: "" }))
        ).pipe(Effect.provide(Redis.layer({ keyPrefix })), Effect.provideService(EffectRedis.Redis, meddled))
        return { records, reads }
      })

    test.effect("no id whose hash is written between the page that missed it and the removal of its id", () => {
      const keyPrefix = newKeyPrefix()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = newKey()
        const expiresAt = yield* inSeconds(1000)
        yield* backend.put(key, "old", { expiresAt })
        const base = `${keyPrefix}:{${key.owner}}`
        yield* send("DEL", `${base}:record:a`)
        const after = backend.put(key, "new", { expiresAt })
        assert.deepStrictEqual(yield* listWhile(keyPrefix, key.owner, { after }), { records: [], reads: 1 })
        const records = [yield* backend.get(key)]
        assert.deepStrictEqual(yield* listWhile(keyPrefix, key.owner, {}), { records, reads: 0 })
        for (const set of ["index", "expiry"]) {
          assert.deepStrictEqual(yield* send("ZRANGE", `${base}:${set}`, "0", "-1"), ["a"])
        }
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })

    test.effect(
      "no id of a hash that is written while a page looks for it, which lists that unless it has expired",
      () => {
        const keyPrefix = newKeyPrefix()
        return Effect.gen(function* () {
          const backend = yield* StorageBackend
          const { owner } = newKey()
          for (const [id, seconds] of [
            ["live", 10],
            ["expired", -10]
          ] as const) {
            const key = makeUnsafe({ owner: `${owner} ${id}`, id })
            const base = `${keyPrefix}:{${key.owner}}`
            yield* backend.put(key, "old")
            yield* send("DEL", `${base}:record:${id}`)
            const before = backend.put(key, "new", { expiresAt: yield* inSeconds(seconds) })
            const { records } = yield* listWhile(keyPrefix, key.owner, { before })
            assert.deepStrictEqual(
              records.map(({ data }) => data),
              id === "live" ? ["new"] : []
            )
            assert.deepStrictEqual(yield* send("ZRANGE", `${base}:index`, "0", "-1"), [id])
          }
        }).pipe(Effect.provide(layerAt(keyPrefix)))
      }
    )

    test.effect("the id of a hash that Redis has dropped after its expiry, by the page itself", () => {
      const keyPrefix = newKeyPrefix()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = newKey()
        yield* backend.put(key, "data", { expiresAt: yield* inSeconds(10) })
        yield* send("DEL", `${keyPrefix}:{${key.owner}}:record:a`)
        yield* TestClock.adjust("310 seconds") // with the five minutes for other clocks
        assert.deepStrictEqual(yield* listWhile(keyPrefix, key.owner, {}), { records: [], reads: 0 })
        assert.deepStrictEqual(yield* keysBelow(keyPrefix), [])
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })

    test.effect("the id of a hash that Redis has dropped, when a page meets it", () => {
      const keyPrefix = newKeyPrefix()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const { owner } = newKey()
        const expiresAt = yield* inSeconds(10)
        for (const id of ["a", "b", "c"]) yield* backend.put(makeUnsafe({ owner, id }), id, { expiresAt })
        const base = `{${owner}}`
        yield* send("DEL", `${keyPrefix}:${base}:record:b`)
        const list = backend.listByPrefix(makePrefix({ owner, idPrefix: "" }))
        assert.deepStrictEqual(
          (yield* list).records.map(({ data }) => data),
          ["a", "c"]
        )
        for (const set of ["index", "expiry"]) {
          assert.deepStrictEqual(yield* send("ZRANGE", `${keyPrefix}:${base}:${set}`, "0", "-1"), ["a", "c"])
        }
        yield* send("DEL", `${keyPrefix}:${base}:record:a`, `${keyPrefix}:${base}:record:c`)
        assert.deepStrictEqual(yield* list, { records: [], cursor: undefined })
        assert.deepStrictEqual(yield* keysBelow(keyPrefix), [])
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })

    test.effect("nothing for 300 seconds after its expiry, for clients whose clocks are behind", () => {
      const keyPrefix = newKeyPrefix()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = newKey()
        const expiresAt = yield* inSeconds(10)
        /** A cleanup by a client whose clock is so many seconds ahead. */
        const cleanupAheadBy = (seconds: number) =>
          Effect.gen(function* () {
            const clock = yield* Clock.Clock
            const millis = () => clock.currentTimeMillisUnsafe() + seconds * 1000
            const ahead = { ...clock, currentTimeMillisUnsafe: millis }
            return yield* Effect.provideService(backend.cleanupExpired, Clock.Clock, ahead)
          })
        const record = yield* backend.put(key, "data", { expiresAt })
        assert.strictEqual(yield* cleanupAheadBy(200), 0)
        assert.deepStrictEqual(yield* backend.get(key), record)
        assert.strictEqual((yield* backend.putIfVersion(key, "data", record, { expiresAt })).version, 2)
        assert.strictEqual(yield* cleanupAheadBy(309), 0)
        assert.strictEqual(yield* cleanupAheadBy(310), 1)
        assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
        assert.deepStrictEqual(yield* keysBelow(keyPrefix), [])
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })

    test.effect("all that has expired by cleanupExpired, of its own owners and prefix alone", () => {
      const name = newKeyPrefix()
      const keyPrefix = `${name}a*b?[c]\\`
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const expiresAt = yield* inSeconds(10)
        const owners = ["alice", "{", "}:expiry", "a*", "[x]", "é"]
        for (const owner of owners) {
          for (let i = 0; i < 120; i++)
            yield* backend.put(makeUnsafe({ owner, id: `}:expiry${i}` }), "x", { expiresAt })
        }
        const live = makeUnsafe({ owner: "bob", id: "live" })
        yield* backend.put(live, "live")
        const later = makeUnsafe({ owner: "alice", id: "later" })
        yield* backend.put(later, "later", { expiresAt: yield* inSeconds(1000) })
        yield* backend.put(makeUnsafe({ owner: "bob", id: "gone" }), "gone", { expiresAt })
        const others = [name, `${name}aXbYc`, `${name}a*b?[c]`, `${keyPrefix}:alice`]
        const written = yield* Effect.forEach(others, (keyPrefix) =>
          Effect.gen(function* () {
            const other = yield* StorageBackend
            return yield* other.put(makeUnsafe({ owner: "alice", id: "a" }), "theirs", { expiresAt })
          }).pipe(Effect.provide(Redis.layer({ keyPrefix })))
        )
        assert.strictEqual(yield* backend.cleanupExpired, 0)
        yield* TestClock.adjust("310 seconds")
        assert.strictEqual(yield* backend.cleanupExpired, owners.length * 120 + 1)
        assert.strictEqual(yield* backend.cleanupExpired, 0)
        assert.deepStrictEqual(yield* keysBelow(keyPrefix), [
          "alice:{alice}:expiry",
          "alice:{alice}:index",
          "alice:{alice}:record:a",
          "{alice}:expiry",
          "{alice}:index",
          "{alice}:record:later",
          "{bob}:index",
          "{bob}:record:live"
        ])
        assert.strictEqual((yield* backend.get(live)).data, "live")
        assert.strictEqual((yield* backend.get(later)).data, "later")
        for (const [i, keyPrefix] of others.entries()) {
          const name = `${keyPrefix}:{alice}:record:a`
          assert.strictEqual(yield* send("HGET", name, "write_id"), written[i]?.writeId)
        }
      }).pipe(Effect.provide(layerAt(keyPrefix)))
    })
  })
})
