import { assert, describe, it } from "@effect/vitest"
import { Clock, DateTime, Effect, Layer } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import { TestClock } from "effect/testing"
import * as Redis from "../../src/engine/Redis.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { keysBelow, layerKeys, newKeyPrefix, send, url } from "../support/redis.ts"

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

describe.skipIf(url === undefined)("Redis collects", () => {
  const layerAt = (keyPrefix: string) => Layer.provideMerge(layerKeys({ keyPrefix }), StorageContract.layerClock)

  /** An instant so many seconds from now. */
  const inSeconds = (seconds: number) => Effect.map(DateTime.now, DateTime.add({ seconds }))

  it.effect("a hash by Redis's own expiry, 300 seconds after its record has expired by both clocks", () => {
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

  it.effect("nothing that is live by its hash, whatever the expiry index says, and mends the index", () => {
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

  it.effect("no id of a live hash when a page meets it, whatever the expiry index says", () => {
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
    { after = Effect.void, before = Effect.void }: Partial<Record<"after" | "before", Effect.Effect<unknown, unknown>>>
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

  it.effect("no id whose hash is written between the page that missed it and the removal of its id", () => {
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

  it.effect(
    "no id of a hash that is written while a page looks for it, and the page lists that hash unless it has expired",
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

  it.effect("the id of a hash that Redis has dropped after its expiry, by the page itself", () => {
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

  it.effect("the id of a hash that Redis has dropped, when a page meets it", () => {
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

  it.effect("nothing for 300 seconds after its expiry, for clients whose clocks are behind", () => {
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

  it.effect("all that has expired by cleanupExpired, of its own owners and prefix alone", () => {
    const name = newKeyPrefix()
    const keyPrefix = `${name}a*b?[c]\\`
    return Effect.gen(function* () {
      const backend = yield* StorageBackend
      const expiresAt = yield* inSeconds(10)
      const owners = ["alice", "{", "}:expiry", "a*", "[x]", "é"]
      for (const owner of owners) {
        for (let i = 0; i < 120; i++) yield* backend.put(makeUnsafe({ owner, id: `}:expiry${i}` }), "x", { expiresAt })
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
