import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { type Cause, Effect, Exit, Fiber, Layer, Logger, Option, Queue, Schedule, Scope, Stream } from "effect"
import type * as EffectRedis from "effect/persistence/Redis"
import { TestClock } from "effect/testing"
import { inject } from "vitest"
import * as RedisServer from "../../examples/RedisServer.ts"
import { publishBy } from "../../src/engine/internal/redis/hints.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import type * as VersionedStore from "../../src/VersionedStore.ts"
import { watch } from "../support/processes.ts"
import { newKeyPrefix, url as sharedUrl } from "../support/redis.ts"
import { newFolder } from "../support/redisCluster.ts"
import { redisProxy } from "../support/redisProxy.ts"
import { as, ask, newServer, steadyPort } from "../support/redisServer.ts"
import { until } from "../support/until.ts"
import { numbers } from "../support/watcher.ts"

const key = { owner: "alice", id: "a" }
const onHintsAlone = { schedule: Schedule.spaced("1 hour") }

const silentLogs = Logger.layer([])

/** A store of its own connection. */
const open = (
  url: string,
  keyPrefix = "evs",
  layerClient: Layer.Layer<EffectRedis.Redis, unknown> = RedisClient.layer({ url })
) =>
  Effect.flatMap(Layer.build(Redis.layer({ keyPrefix }).pipe(Layer.provide(layerClient))), (context) =>
    Effect.provide(Effect.all([numbers, StorageBackend]), context)
  )

/** Watches a record in a fiber of its own, and gives the values that come, -1 for none. */
const watching = Effect.fnUntraced(function* (
  store: VersionedStore.VersionedStore<number>,
  watched: VersionedStore.Key = key,
  options: VersionedStore.WatchOptions = onHintsAlone
) {
  const events = yield* Queue.unbounded<number, VersionedStore.ReadError | Cause.Done>()
  const values = Stream.map(
    store.watch(watched, options),
    Option.match({ onNone: () => -1, onSome: ({ value }) => value })
  )
  const fiber = yield* Effect.forkScoped(Stream.runIntoQueue(values, events), { startImmediately: true })
  return { next: Queue.take(events), fiber }
})

/** How many connections hear channels. */
const countSubscribers = (url: string) =>
  Effect.map(ask(url, "CLIENT", "LIST", "TYPE", "pubsub"), (list) => list.split("\n").filter(Boolean).length)

const noServer = !inject("hasRedisServer")

describe.skipIf(noServer)("a watch of a record in Redis", () => {
  it.live("sees by hints alone what another process writes, removes and commits", () =>
    Effect.gen(function* () {
      const [url, keyPrefix] = [sharedUrl ?? "", newKeyPrefix()]
      const [store, backend] = yield* open(url, keyPrefix)
      const watcher = yield* watch({ store: { url, keyPrefix }, key, everyMillis: 3_600_000 })
      assert.strictEqual(yield* watcher.value, "none")
      for (const n of [1, 2, 3]) {
        yield* store.set(key, n)
        assert.strictEqual(yield* watcher.value, `${n}`)
      }
      yield* store.remove(key)
      assert.strictEqual(yield* watcher.value, "none")
      yield* backend.commit(key.owner, [
        { _tag: "Write", id: "another", expected: 0, data: "1" },
        { _tag: "Write", id: key.id, expected: 0, data: "4" },
        { _tag: "Check", id: "never there", expected: 0 }
      ])
      assert.strictEqual(yield* watcher.value, "4")
      const stored = yield* backend.get(makeUnsafe(key))
      yield* backend.commit(key.owner, [
        { _tag: "Remove", id: key.id, expected: stored },
        { _tag: "Check", id: "another", expected: 1 }
      ])
      assert.strictEqual(yield* watcher.value, "none")
    })
  )

  it.live("sees what another process writes also through NodeRedis.layer", () =>
    Effect.gen(function* () {
      const [url, keyPrefix] = [sharedUrl ?? "", newKeyPrefix()]
      const [store] = yield* open(url, keyPrefix)
      const [watched] = yield* open(url, keyPrefix, NodeRedis.layer({ url }))
      const { next } = yield* watching(watched)
      assert.strictEqual(yield* next, -1)
      yield* store.set(key, 1)
      assert.strictEqual(yield* next, 1)
    })
  )

  it.live("sees after a lost connection what was written meanwhile, by the hint after it has connected again", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const proxy = yield* redisProxy(url, () => "pass")
      const [store] = yield* open(url)
      const [watched] = yield* open(proxy.url)
      yield* store.set(key, 1)
      const { next } = yield* watching(watched)
      assert.strictEqual(yield* next, 1)
      yield* until(() => proxy.commands.some(([name = ""]) => /^subscribe$/i.test(name)))
      proxy.close()
      yield* store.set(key, 2)
      yield* Effect.promise(proxy.open)
      assert.strictEqual(yield* next, 2)
      yield* store.set(key, 3)
      assert.strictEqual(yield* next, 3)
    }).pipe(Effect.provide(silentLogs))
  )

  it.live("goes on if the server kills its connection, again and again", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const [[store], [watched]] = [yield* open(url), yield* open(url)]
      const { next } = yield* watching(watched)
      assert.strictEqual(yield* next, -1)
      for (const n of [1, 2, 3]) {
        yield* Effect.repeat(countSubscribers(url), { until: (count) => count === 1 })
        assert.strictEqual(yield* ask(url, "CLIENT", "KILL", "TYPE", "pubsub"), "1")
        yield* store.set(key, n)
        assert.strictEqual(yield* next, n)
      }
    }).pipe(Effect.provide(silentLogs))
  )

  it.live("goes on if the server restarts", () =>
    Effect.gen(function* () {
      const [folder, port, scope] = [yield* newFolder, yield* steadyPort, yield* Scope.make()]
      const url = yield* Scope.provide(RedisServer.startIn(folder, port, "--save", ""), scope)
      const [store] = yield* open(url)
      yield* store.set(key, 1)
      const { next } = yield* watching(store, key, { schedule: Schedule.spaced("1 hour") })
      assert.strictEqual(yield* next, 1)
      yield* Scope.close(scope, Exit.void)
      yield* RedisServer.startIn(folder, port, "--save", "")
      // The server has kept nothing.
      assert.strictEqual(yield* next, -1)
      const [other] = yield* open(url)
      yield* other.set(key, 2)
      assert.strictEqual(yield* next, 2)
    }).pipe(Effect.provide(silentLogs))
  )

  it.effect("replaces a connection that gives no answers any more", () =>
    Effect.gen(function* () {
      let hangs = true
      const url = yield* TestClock.withLive(newServer())
      const proxy = yield* redisProxy(url, ([name = ""]) => {
        if (!hangs || !/^ping$/i.test(name)) return "pass"
        hangs = false
        return "hang"
      })
      const [store] = yield* open(url)
      const [watched] = yield* open(proxy.url)
      const { next } = yield* watching(watched)
      assert.strictEqual(yield* next, -1)
      yield* until(() => proxy.commands.some(([name = ""]) => /^subscribe$/i.test(name)))
      yield* TestClock.adjust("5 seconds")
      yield* until(() => proxy.silent() === 1)
      const connections = proxy.connections()
      yield* TestClock.adjust("1 second")
      yield* until(() => proxy.connections() > connections)
      yield* store.set(key, 1)
      assert.strictEqual(yield* next, 1)
    }).pipe(Effect.provide(silentLogs))
  )

  it.live("takes one connection more for all watchers of a client, and only while there are some", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const [[store], [other]] = [yield* open(url), yield* open(url)]
      yield* other.set(key, 0)
      assert.strictEqual(yield* countSubscribers(url), 0)
      const keys = ["alice", "alice", "bob", "{carol}"].map((owner) => ({ owner, id: "a" }))
      const watchers = yield* Effect.forEach(keys, (key) => watching(store, key))
      for (const [i, { next }] of watchers.entries()) assert.strictEqual(yield* next, i < 2 ? 0 : -1)
      for (const [i, { next }] of watchers.entries()) {
        if (i !== 1) yield* other.set(keys[i] ?? key, i + 1)
        assert.strictEqual(yield* next, i === 1 ? 1 : i + 1)
      }
      assert.strictEqual(yield* countSubscribers(url), 1)
      yield* Effect.forEach(watchers, ({ fiber }) => Fiber.interrupt(fiber))
      yield* Effect.repeat(countSubscribers(url), { until: (count) => count === 0 })
    })
  )

  it.live("warns once also through NodeRedis.layer, however often it tries to subscribe", () =>
    Effect.gen(function* () {
      const warnings: Array<string> = []
      const logger = Logger.make(({ message }) => void warnings.push(String(message)))
      const server = yield* newServer()
      yield* ask(server, "ACL", "SETUSER", "app", "on", ">pass-word", "~*", "+@all", "resetchannels")
      const proxy = yield* redisProxy(server, () => "pass")
      const countTries = () => proxy.commands.filter(([name = ""]) => /^subscribe$/i.test(name)).length
      yield* Effect.gen(function* () {
        const url = as(proxy.url, "app", "pass-word")
        const [store] = yield* open(url, "evs", NodeRedis.layer({ url }))
        yield* watching(store)
        yield* until(() => countTries() === 3)
      }).pipe(Effect.provide(Logger.layer([logger])))
      assert.strictEqual(warnings.length, 1)
    })
  )

  it.live("reads on its schedule and warns once, for a user who may not use channels, whose writes succeed", () =>
    Effect.gen(function* () {
      const warnings: Array<string> = []
      const logger = Logger.make(({ message }) => void warnings.push(String(message)))
      const url = yield* newServer()
      yield* ask(url, "ACL", "SETUSER", "app", "on", ">pass-word", "~*", "+@all", "resetchannels")
      yield* Effect.gen(function* () {
        const [store, backend] = yield* open(as(url, "app", "pass-word"))
        yield* store.set(key, 1)
        const { next } = yield* watching(store, key, { schedule: Schedule.spaced("10 millis") })
        assert.strictEqual(yield* next, 1)
        yield* until(() => warnings.length > 0)
        const [other] = yield* open(url)
        yield* other.set(key, 2)
        assert.strictEqual(yield* next, 2)
        const stored = yield* backend.get(makeUnsafe(key))
        yield* backend.commit(key.owner, [
          { _tag: "Write", id: key.id, expected: stored, data: "3" },
          { _tag: "Write", id: "b", expected: 0, data: "1" }
        ])
        assert.strictEqual(yield* next, 3)
        assert.isTrue(yield* backend.delete(makeUnsafe(key)))
        assert.strictEqual(yield* next, -1)
      }).pipe(Effect.provide(Logger.layer([logger])))
      assert.strictEqual(warnings.length, 1)
      assert.match(warnings[0] ?? "", /only when they next read.*has no permission/)
    })
  )
})

describe("the command that publishes changes", () => {
  it("is that of one shard in a cluster from Redis 7.0 on, and otherwise the one that all servers know", () => {
    const info = (version: string, mode: string) => `# Server\r\nredis_version:${version}\r\nredis_mode:${mode}\r\n`
    assert.strictEqual(publishBy(info("7.0.15", "cluster")), "SPUBLISH")
    assert.strictEqual(publishBy(info("10.1.0", "cluster")), "SPUBLISH")
    assert.strictEqual(publishBy(info("6.2.14", "cluster")), "PUBLISH")
    assert.strictEqual(publishBy(info("7.0.15", "standalone")), "PUBLISH")
    assert.strictEqual(publishBy(""), "PUBLISH")
  })
})
