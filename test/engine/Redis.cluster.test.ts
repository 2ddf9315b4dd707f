import { assert, describe, layer } from "@effect/vitest"
import { Clock, Context, DateTime, Effect, Layer, Logger, Option, Queue, Schedule, Schema, Stream } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import { TestClock } from "effect/testing"
import { createClient } from "redis"
import { inject } from "vitest"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import * as TaskContract from "../../src/testing/TaskContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import type { Fate } from "../support/ambiguity.ts"
import { newKeyPrefix, plant } from "../support/redis.ts"
import { addReplica, startCluster } from "../support/redisCluster.ts"
import { isWrite, redisProxy } from "../support/redisProxy.ts"
import { ask } from "../support/redisServer.ts"

/** The URLs of the masters. */
class Masters extends Context.Service<Masters, ReadonlyArray<string>>()("test/Masters") {}

const layerMasters = Layer.effect(Masters, TestClock.withLive(startCluster))

const layerKeys = (keyPrefix: string) =>
  Redis.layer({ keyPrefix, verify: true }).pipe(
    Layer.provideMerge(
      Layer.unwrap(
        Masters.use((urls) => Effect.succeed(RedisClient.layerCluster({ rootNodes: [{ url: urls[0] ?? "" }] })))
      )
    )
  )

/** What each master says. */
const askMasters = Effect.fnUntraced(function* (...command: ReadonlyArray<string>) {
  return yield* Effect.forEach(yield* Masters, (url) =>
    Effect.promise(async () => {
      const client = await createClient({ url }).connect()
      const reply = await client.sendCommand([...command])
      await client.close()
      return reply
    })
  )
})

describe.skipIf(!inject("hasRedisServer"))("Redis Cluster of three masters", () => {
  layer(layerMasters, { timeout: 240_000 })((it) => {
    const keyPrefix = newKeyPrefix()
    StorageContract.suiteWith("Redis Cluster", layerKeys(keyPrefix), it, { shared: true, plant: plant(keyPrefix) })
    TaskContract.suiteWith("Redis Cluster", layerKeys(keyPrefix), it)

    it.effect("spreads owners over the masters, and keeps the keys of one on one of them", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const owners = [
          "a",
          "{}b}x",
          "{}b}y",
          "{",
          "}",
          "%7B",
          "é",
          ...Array.from({ length: 30 }, (_, i) => `owner ${i}`)
        ]
        for (const owner of owners) {
          for (const id of ["1", "{2}", "}3{"]) yield* backend.put(makeUnsafe({ owner, id }), owner)
        }
        for (const keys of yield* askMasters("DBSIZE")) assert.isAbove(Number(keys), 0)
      }).pipe(Effect.provide(layerKeys(newKeyPrefix())))
    )

    it.effect("loads a script on each node that needs it, and again after its cache was flushed", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const writeAll = Effect.forEach(Array.from({ length: 30 }), (_, i) =>
          backend.put(makeUnsafe({ owner: `owner ${i}`, id: "a" }), "data")
        )
        yield* writeAll
        yield* askMasters("SCRIPT", "FLUSH")
        const written = yield* writeAll
        assert.deepStrictEqual(new Set(written.map(({ version }) => version)), new Set([2]))
      }).pipe(Effect.provide(layerKeys(newKeyPrefix())))
    )

    it.effect("cleans up on all masters", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 10 })
        for (let i = 0; i < 30; i++) {
          yield* backend.put(makeUnsafe({ owner: `owner ${i}`, id: "a" }), "data", { expiresAt })
        }
        assert.strictEqual(yield* backend.cleanupExpired, 0)
        yield* TestClock.adjust("310 seconds")
        assert.strictEqual(yield* backend.cleanupExpired, 30)
        assert.strictEqual(yield* backend.cleanupExpired, 0)
      }).pipe(Effect.provide(layerKeys(newKeyPrefix())), Effect.provide(StorageContract.layerClock))
    )

    it.effect(
      "tells watchers at once what another client changes, by the channels of shards, for owners on all nodes",
      () =>
        Effect.gen(function* () {
          const keyPrefix = newKeyPrefix()
          const build = Effect.map(Layer.build(Layer.fresh(layerKeys(keyPrefix))), (context) =>
            Effect.provide(VersionedStore.make({ idPrefix: "", schema: Schema.Int }), context)
          )
          const [watched, other] = [yield* yield* build, yield* yield* build]
          const events = yield* Queue.unbounded<readonly [owner: string, value: number]>()
          const owners = Array.from({ length: 20 }, (_, i) => `owner ${i}`)
          for (const owner of owners) {
            yield* watched.watch({ owner, id: "a" }, { schedule: Schedule.spaced("1 hour") }).pipe(
              Stream.runForEach(
                Option.match({
                  onNone: () => Queue.offer(events, [owner, 0]),
                  onSome: ({ value }) => Queue.offer(events, [owner, value])
                })
              ),
              Effect.forkScoped
            )
          }
          for (const _ of owners) assert.strictEqual((yield* Queue.take(events))[1], 0)
          for (const round of [1, 2]) {
            for (const owner of owners) {
              yield* other.set({ owner, id: "a" }, round)
              assert.deepStrictEqual(yield* Queue.take(events), [owner, round])
            }
          }
          const stats = (yield* askMasters("INFO", "commandstats")).map(String)
          for (const stat of stats) assert.match(stat, /cmdstat_spublish/)
        }).pipe(Effect.scoped)
    )

    it.effect("passes messages on, and reserves a connection, as Effect's service does", () =>
      Effect.gen(function* () {
        const redis = yield* EffectRedis.Redis
        const messages = yield* redis.subscribe("news")
        yield* redis
          .send("PUBLISH", "news", "hello")
          .pipe(Effect.repeat({ until: (receivers) => Number(receivers) > 0 }))
        assert.strictEqual((yield* Queue.take(messages)).message, "hello")
        const connection = yield* redis.reserve
        yield* connection.send("SET", "{a}key", "value")
        assert.strictEqual(yield* redis.send("GET", "{a}key"), "value")
      }).pipe(Effect.scoped, Effect.provide(layerKeys(newKeyPrefix())))
    )

    for (const first of ["records", "index"]) {
      it.effect(`lists and reads all while the slot of an owner moves, the ${first} first, and afterwards`, () => {
        const keyPrefix = newKeyPrefix()
        // A slot of its own: a node does not give up a slot in which it still holds the keys of another test.
        const owner = `owner whose ${first} move first`
        return Effect.gen(function* () {
          const backend = yield* StorageBackend
          const ids = Array.from({ length: 20 }, (_, i) => `${i}`.padStart(2, "0"))
          const expiresAt = DateTime.makeUnsafe(4_000_000_000_000)
          for (const id of ids) yield* backend.put(makeUnsafe({ owner, id }), "data", { expiresAt })
          const list = Effect.map(
            backend.listByPrefix(StoragePrefix.makeUnsafe({ owner, idPrefix: "" })),
            ({ records }) => records.map(({ key }) => key.id)
          )
          const asked = [...ids, "never there"].map((id) => makeUnsafe({ owner, id }))
          const many = Effect.map(backend.getMany(asked), (records) => records.map((record) => record?.key.id))
          const base = `${keyPrefix}:{${owner}}:`
          const sets = [`${base}index`, `${base}expiry`]
          const records = ids.map((id) => `${base}record:${id}`)

          const urls = yield* Masters
          const slot = yield* ask(urls[0] ?? "", "CLUSTER", "KEYSLOT", `${base}index`)
          const [source = "", target = ""] = (yield* Effect.forEach(urls, (url) =>
            Effect.map(ask(url, "CLUSTER", "COUNTKEYSINSLOT", slot), (keys) => ({ url, keys: Number(keys) }))
          ))
            .toSorted((a, b) => b.keys - a.keys)
            .map(({ url }) => url)
          const [from, to] = [yield* ask(source, "CLUSTER", "MYID"), yield* ask(target, "CLUSTER", "MYID")]
          const { hostname, port } = new URL(target)
          const move = (keys: ReadonlyArray<string>) =>
            ask(source, "MIGRATE", hostname, port, "", "0", "5000", "KEYS", ...keys)
          yield* ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", from)
          yield* ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", to)
          yield* move([...(first === "index" ? sets : []), ...records.slice(0, 5)])
          assert.deepStrictEqual(yield* list, ids)
          assert.deepStrictEqual(yield* many, [...ids, undefined])
          // For a client whose clock is ahead they have expired, and it must not take them out of the index.
          const clock = yield* Clock.Clock
          const ahead = { ...clock, currentTimeMillisUnsafe: () => 4_000_000_200_000 }
          assert.deepStrictEqual(yield* Effect.provideService(list, Clock.Clock, ahead), [])
          assert.deepStrictEqual(yield* list, ids)
          yield* move([...(first === "index" ? [] : sets), ...records.slice(5)])
          for (const url of urls) yield* ask(url, "CLUSTER", "SETSLOT", slot, "NODE", to)
          assert.deepStrictEqual(yield* list, ids)
          assert.deepStrictEqual(yield* many, [...ids, undefined])
        }).pipe(Effect.provide(layerKeys(keyPrefix)))
      })
    }

    it.effect("is what a client for one server is told to use instead", () =>
      Effect.gen(function* () {
        const [url = ""] = yield* Masters
        const single = Redis.layer({ keyPrefix: newKeyPrefix() }).pipe(Layer.provide(RedisClient.layer({ url })))
        const writeAll = StorageBackend.use((backend) =>
          Effect.forEach(Array.from({ length: 30 }), (_, i) =>
            backend.put(makeUnsafe({ owner: `owner ${i}`, id: "a" }), "data")
          )
        )
        const error = yield* Effect.flip(Effect.provide(writeAll, single))
        assert.ok(error._tag === "Backend")
        assert.deepStrictEqual([error.reason._tag, error.outcome], ["Misconfigured", "not-applied"])
        assert.include(error.message, "RedisClient.layerCluster")
      })
    )
  })
})

describe.skipIf(!inject("hasRedisServer"))("Redis Cluster, if a node fails,", () => {
  layer(Layer.effect(Masters, startCluster), { excludeTestServices: true, timeout: 240_000 })((it) => {
    const build = (cluster: RedisClient.ClusterOptions, options: Redis.Options = {}) =>
      Redis.layer(options).pipe(
        Layer.provide(RedisClient.layerCluster(cluster)),
        Layer.provide(Logger.layer([])),
        Layer.build,
        Effect.flatMap((context) => Effect.provide(StorageBackend, context))
      )

    it.effect("replaces the connection to a node that does not answer", () =>
      Effect.gen(function* () {
        const urls = yield* Masters
        let hang = false
        let hung = 0
        const fateOf = (command: ReadonlyArray<string>): Fate => {
          if (!hang || !isWrite(command)) return "pass"
          return hung++ === 0 ? "hang" : "pass"
        }
        const proxies = yield* Effect.forEach(urls, (url) => redisProxy(url, fateOf))
        const nodeAddressMap = (address: string) => {
          const port = new URL(proxies[urls.indexOf(`redis://${address}`)]?.url ?? "").port
          return { host: "127.0.0.1", port: Number(port) }
        }
        const backend = yield* build(
          { rootNodes: [{ url: urls[0] ?? "" }], nodeAddressMap },
          { requestTimeout: "1 second", retrySchedule: Schedule.upTo(Schedule.spaced("5 millis"), { times: 2000 }) }
        )
        const record = yield* backend.putIfVersion(makeUnsafe({ owner: "alice", id: "a" }), "one", 0)
        hang = true
        assert.strictEqual((yield* backend.putIfVersion(record.key, "two", record)).version, 2)
        assert.isAbove(hung, 1)
      })
    )

    it.effect("sends what a lost master had to the replica that takes its place", () =>
      Effect.gen(function* () {
        const urls = yield* startCluster
        const [first = "", , last = ""] = urls
        const replica = yield* addReplica(first, last)
        const backend = yield* build(
          { rootNodes: [{ url: first }] },
          { keyPrefix: newKeyPrefix(), retrySchedule: Schedule.recurs(0) }
        )
        const keys = Array.from({ length: 10 }, (_, i) => makeUnsafe({ owner: `owner ${i}`, id: "a" }))
        for (const key of keys) yield* backend.put(key, "before")
        const [, pid] = /process_id:(\d+)/.exec(yield* ask(last, "INFO", "server")) ?? []
        process.kill(Number(pid), "SIGKILL")
        yield* ask(replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        for (const key of keys) yield* Effect.eventually(backend.put(key, "after"))
        assert.isAbove(Number(yield* ask(replica, "DBSIZE")), 0)
      })
    )

    it.effect("fails for the keys of a lost master, and goes on with those of the others", () =>
      Effect.gen(function* () {
        const urls = yield* Masters
        const rootNodes = urls.map((url) => ({ url }))
        const once = { retrySchedule: Schedule.recurs(0) }
        const before = yield* build({ rootNodes }, once)
        const keys = Array.from({ length: 30 }, (_, i) => makeUnsafe({ owner: `owner ${i}`, id: "a" }))
        yield* Effect.forEach(keys, (key) => before.put(key, "data"))
        const [, pid] = /process_id:(\d+)/.exec(yield* ask(urls[2] ?? "", "INFO", "server")) ?? []
        process.kill(Number(pid), "SIGKILL")

        const lost = yield* Effect.filter(keys, (key) =>
          Effect.repeat(Effect.result(before.put(key, "more")), {
            // Until the client has noticed, the outcome is unknown.
            until: (result) => result._tag === "Success" || (result.failure as Backend).outcome === "not-applied"
          }).pipe(Effect.map((result) => result._tag === "Failure"))
        )
        assert.isAbove(lost.length, 0)
        assert.isBelow(lost.length, keys.length)
        // The Layer asks any of the nodes.
        const after = yield* Effect.eventually(build({ rootNodes }, once))
        for (const backend of [before, after]) {
          for (const key of keys) {
            const result = yield* Effect.result(backend.put(key, "data"))
            assert.strictEqual(result._tag === "Failure", lost.includes(key))
            if (result._tag === "Success") continue
            const error = result.failure as Backend
            assert.deepStrictEqual([error.reason._tag, error.outcome], ["Unavailable", "not-applied"], error.message)
          }
        }

        for (const url of urls.slice(0, 2)) yield* ask(url, "CONFIG", "SET", "cluster-node-timeout", "500")
        const down = yield* Effect.repeat(Effect.result(after.put(keys[0] ?? assert.fail("no key"), "data")), {
          until: (result) => result._tag === "Failure" && result.failure.message.includes("The Redis Cluster is down")
        })
        assert.isTrue(down._tag === "Failure" && down.failure._tag === "Backend" && down.failure.isRetryable)
      })
    )
  })
})
