import { NodeRedis } from "@effect/platform-node"
import { assert, describe, layer, vi } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Schedule, Scope } from "effect"
import type * as EffectRedis from "effect/persistence/Redis"
import * as Redis from "../../src/backend/Redis.ts"
import * as RedisClient from "../../src/backend/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { newSeed, randomFrom } from "../support/faultyProxy.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { type Fate, isWrite, redisProxy } from "../support/redisProxy.ts"

vi.setConfig({ testTimeout: 30_000 })

const keyPrefix = newKeyPrefix()
type Command = ReadonlyArray<string>
type Client = (options: Parameters<typeof RedisClient.layer>[0]) => Layer.Layer<EffectRedis.Redis, unknown>

const retrying = (times: number) => Schedule.upTo(Schedule.spaced("5 millis"), { times })
const quickly = { socket: { reconnectStrategy: () => 1 } }

/** A backend whose commands go through a proxy, which decides their fate, and that proxy. */
const through = (fateOf: (command: Command) => Fate, options: Redis.Options = {}, client: Client = RedisClient.layer) =>
  Effect.gen(function* () {
    const proxy = yield* redisProxy(url ?? "", fateOf)
    const faulty = Redis.layer({ keyPrefix, retrySchedule: retrying(400), ...options }).pipe(
      Layer.provide(client({ url: proxy.url, ...quickly })),
      Layer.provide(Logger.layer([]))
    )
    const context = yield* Layer.build(faulty)
    return { proxy, backend: yield* Effect.provide(StorageBackend, context) }
  })

const newKey = () => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id: "a" })

/** What the backend sent, without what a client says of itself when it connects. */
const sent = (commands: ReadonlyArray<Command>) =>
  commands.map(([name = ""]) => name).filter((name) => !["HELLO", "CLIENT", "INFO", "PING"].includes(name))

const pass = (): Fate => "pass"

/** A fate for some of the writes. */
const writes = (fate: () => Fate) => (command: Command) => (isWrite(command) ? fate() : "pass")

/** A fate for the first write, and none for those after it. */
const first = (fate: Fate) => {
  let decided = false
  return writes(() => {
    if (decided) return "pass"
    decided = true
    return fate
  })
}

const assertUnknown = (error: { readonly _tag: string }) => {
  assert.strictEqual(error._tag, "Backend")
  assert.strictEqual((error as Backend).outcome, "unknown")
  assert.isFalse((error as Backend).isRetryable)
}

describe.skipIf(url === undefined)("Redis, where answers are lost", () => {
  layer(layerKeys({ keyPrefix }), { excludeTestServices: true })((it) => {
    for (const lost of [0.1, 0.3]) {
      it.effect(
        `a lone writer of 1,000 compare-and-sets sees no conflict with ${lost * 100}% lost`,
        () =>
          Effect.gen(function* () {
            const random = randomFrom(newSeed(`lone writer, ${lost} lost`))
            const { backend, proxy } = yield* through(writes(() => (random() < lost ? "lose" : "pass")))
            const key = newKey()
            let record = yield* (yield* StorageBackend).put(key, "0")
            for (let i = 1; i <= 1000; i++) record = yield* backend.putIfVersion(key, String(i), record)
            const final = yield* (yield* StorageBackend).get(key)
            assert.strictEqual(final.data, "1000")
            assert.strictEqual(final.version, 1001)
            const sent = proxy.commands.filter(isWrite).length
            console.log(
              `lone writer, ${lost} lost: 1000 written, ${sent} requests on ${proxy.connections()} connections, 0 conflicts, version ${final.version}`
            )
            assert.isAbove(sent, 1000)
          }),
        120_000
      )
    }

    it.effect(
      "8 writers with 10% lost: what is acknowledged is there, and no conflict is false",
      () =>
        Effect.gen(function* () {
          const random = randomFrom(newSeed("8 writers"))
          const { backend, proxy } = yield* through(writes(() => (random() < 0.1 ? "lose" : "pass")))
          const direct = yield* StorageBackend
          const key = newKey()
          yield* direct.put(key, "[]")
          const told = { acknowledged: new Set<string>(), unknown: new Set<string>(), conflict: new Set<string>() }
          const write = (name: string) =>
            Effect.gen(function* () {
              const record = yield* direct.get(key)
              const applied: Array<string> = JSON.parse(record.data)
              yield* backend.putIfVersion(key, JSON.stringify([...applied, name]), record)
              told.acknowledged.add(name)
            }).pipe(
              Effect.catchTag("VersionConflict", () => Effect.sync(() => told.conflict.add(name))),
              Effect.catchTag("Backend", (error) => {
                assertUnknown(error)
                return Effect.sync(() => told.unknown.add(name))
              })
            )
          yield* Effect.forEach(
            Array.from({ length: 8 }, (_, writer) => writer),
            (writer) =>
              Effect.forEach(Array.from({ length: 60 }), (_, i) => write(`${writer}.${i}`), { discard: true }),
            { concurrency: "unbounded", discard: true }
          )
          const final: Array<string> = JSON.parse((yield* direct.get(key)).data)
          const [acknowledged, unknown] = [told.acknowledged.size, told.unknown.size]
          console.log(
            `8 writers: ${acknowledged} acknowledged, ${told.conflict.size} conflicts, ${unknown} unknown, counter ${final.length}, ${proxy.connections()} connections`
          )
          assert.strictEqual(new Set(final).size, final.length, "a write was applied twice")
          assert.isAtLeast(final.length, acknowledged)
          assert.isAtMost(final.length, acknowledged + unknown)
          for (const name of told.acknowledged) assert.include(final, name)
          for (const name of told.conflict)
            assert.notInclude(final, name, "a conflict was told of a write that was applied")
        }),
      120_000
    )

    it.effect("no write after a lost answer wipes out what another wrote or removed since", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const operations = {
          put: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) => backend.put(key, "ours"),
          create: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) =>
            backend.putIfVersion(key, "ours", 0),
          byVersion: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) =>
            backend.putIfVersion(key, "ours", 1),
          delete: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) => backend.delete(key),
          deleteByVersion: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) =>
            backend.deleteIfVersion(key, 1)
        }
        for (const [name, operation] of Object.entries(operations)) {
          const overwritten = newKey()
          if (name !== "create") yield* direct.put(overwritten, "before")
          const put = { loseAfter: () => Effect.runPromise(direct.put(overwritten, "theirs")) }
          const first1 = yield* through(first(put))
          assertUnknown(yield* Effect.flip(operation(first1.backend, overwritten)))
          assert.strictEqual((yield* direct.get(overwritten)).data, "theirs", name)

          const removed = newKey()
          if (name !== "create") yield* direct.put(removed, "before")
          const remove = { loseAfter: () => Effect.runPromise(direct.delete(removed)) }
          const first2 = yield* through(first(remove))
          assertUnknown(yield* Effect.flip(operation(first2.backend, removed)))
          assert.strictEqual((yield* Effect.flip(direct.get(removed)))._tag, "RecordNotFound", name)
        }
      })
    )

    it.effect("a put or a create whose answer was lost is found by one read", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        yield* direct.put(newKey(), "so that Redis has the script")
        for (const expected of [undefined, 0] as const) {
          const key = newKey()
          const { backend, proxy } = yield* through(first("lose"))
          const written = yield* expected === undefined
            ? backend.put(key, "ours")
            : backend.putIfVersion(key, "ours", expected)
          assert.deepStrictEqual(yield* direct.get(key), written)
          assert.deepStrictEqual(sent(proxy.commands), ["EVALSHA", "HMGET"])
        }
      })
    )

    it.effect("where every answer is lost the outcome is unknown, and a read tells", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const key = newKey()
        const record = yield* direct.put(key, "before")
        const lost = yield* through(
          writes(() => "lose"),
          { retrySchedule: retrying(20) }
        )
        assertUnknown(yield* Effect.flip(lost.backend.putIfVersion(key, "after", record)))
        assert.strictEqual((yield* lost.backend.get(key)).data, "after")

        const dropped = yield* through(
          writes(() => "drop"),
          { retrySchedule: retrying(20) }
        )
        assertUnknown(yield* Effect.flip(dropped.backend.putIfVersion(key, "never", yield* direct.get(key))))
        assert.strictEqual((yield* dropped.backend.get(key)).data, "after")
      })
    )

    it.effect("a client sends no command again by itself, whatever else was on its connection", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        yield* direct.put(newKey(), "so that Redis has the script")
        for (const client of [RedisClient.layer, NodeRedis.layer]) {
          let count = 0
          const { backend, proxy } = yield* through(
            writes(() => (++count === 20 ? "lose" : "pass")),
            {},
            client
          )
          // Effect's own service loads the script by a command of its own, which is not to be cut here.
          yield* Effect.flip(backend.putIfVersion(newKey(), "never", 7))
          const keys = Array.from({ length: 50 }, newKey)
          const told = yield* Effect.forEach(keys, (key) => Effect.result(backend.put(key, "once")), {
            concurrency: "unbounded"
          })
          const sentOf = (id: string) =>
            proxy.commands.filter((command) => isWrite(command) && command[3]?.includes(id)).length
          for (const [i, key] of keys.entries()) {
            assert.isAtMost(sentOf(key.owner), 1)
            const result = told[i]
            if (result?._tag === "Success") assert.strictEqual((yield* direct.get(key)).version, 1)
            else assertUnknown(result?.failure ?? assert.fail("no result"))
          }
          assert.strictEqual(proxy.connections(), 2)
        }
      })
    )

    it.effect("a request that hangs ends, and its connection with it", () =>
      Effect.gen(function* () {
        let hangs = false
        const { backend, proxy } = yield* through(() => (hangs ? "hang" : "pass"), {
          requestTimeout: "200 millis",
          retrySchedule: Schedule.recurs(0)
        })
        hangs = true
        const read = yield* Effect.flip(backend.get(newKey()))
        assert.isTrue(read._tag === "Backend" && read.reason._tag === "Timeout" && read.isRetryable)
        const write = yield* Effect.flip(backend.put(newKey(), "data"))
        assertUnknown(write)
        assert.include(write.message, "within 200ms")
        hangs = false
        yield* Effect.eventually(backend.get(newKey()).pipe(Effect.catchTag("RecordNotFound", () => Effect.void)))
        assert.strictEqual(proxy.connections(), 2)
      })
    )

    it.effect("a request that hangs once is sent again where that is safe", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const key = newKey()
        const record = yield* direct.put(key, "before")
        const { backend, proxy } = yield* through(first("hang"), { requestTimeout: "200 millis" })
        assert.strictEqual((yield* backend.putIfVersion(key, "after", record)).version, 2)
        assert.strictEqual(proxy.connections(), 2)
      })
    )

    it.effect("a write that is interrupted before it is sent is never sent", () =>
      Effect.gen(function* () {
        const { backend, proxy } = yield* through(pass)
        const key = newKey()
        const fiber = yield* Effect.forkChild(backend.put(key, "data"), { startImmediately: true })
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
        assert.deepStrictEqual(sent(proxy.commands), ["HMGET"])
      })
    )

    it.effect("a write without a connection is not applied, then or later", () =>
      Effect.gen(function* () {
        const { backend, proxy } = yield* through(pass, { retrySchedule: Schedule.recurs(3) })
        const key = newKey()
        yield* backend.put(key, "before")
        proxy.close()
        // Until the client has noticed, the outcome is unknown.
        const error = yield* Effect.flip(backend.put(key, "after")).pipe(
          Effect.repeat({ until: (error) => error._tag === "Backend" && error.outcome === "not-applied" })
        )
        assert.isTrue(error._tag === "Backend" && error.reason._tag === "Unavailable" && error.isRetryable)
        assert.include(error.message, "can't be reached")
        yield* Effect.promise(proxy.open)
        assert.strictEqual((yield* Effect.eventually(backend.get(key))).data, "before")
        assert.strictEqual(proxy.commands.filter(isWrite).length, 1)
      })
    )

    it.effect("a write that another client keeps for later is of unknown outcome, and takes effect once", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const timing = { requestTimeout: "100 millis", retrySchedule: Schedule.recurs(0) } as const
        const { backend, proxy } = yield* through(pass, timing, NodeRedis.layer)
        const patient = yield* through(pass, { requestTimeout: "100 millis" }, NodeRedis.layer)
        const [key, other] = [newKey(), newKey()]
        yield* backend.put(key, "before")
        const record = yield* patient.backend.put(other, "before")
        proxy.close()
        patient.proxy.close()
        // Until the client has noticed that its connection is gone, it keeps nothing.
        const error = yield* Effect.flip(backend.put(key, "kept")).pipe(
          Effect.repeat({ until: (error) => error._tag === "Backend" && error.reason._tag === "Timeout" })
        )
        assertUnknown(error)
        const swap = yield* Effect.forkChild(patient.backend.putIfVersion(other, "kept", record))
        yield* Effect.sleep("500 millis")
        yield* Effect.promise(proxy.open)
        yield* Effect.promise(patient.proxy.open)
        assert.strictEqual((yield* Fiber.join(swap)).version, 2)
        assert.strictEqual((yield* direct.get(other)).version, 2)
        const later = yield* direct.get(key).pipe(Effect.repeat({ until: ({ data }) => data === "kept" }))
        assert.strictEqual(later.version, 2)
      })
    )

    it.effect("the Layer closes though Redis is silent", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        let hangs = false
        const { backend } = yield* Scope.provide(
          through(() => (hangs ? "hang" : "pass"), { requestTimeout: "100 millis", retrySchedule: Schedule.recurs(0) }),
          scope
        )
        hangs = true
        assertUnknown(yield* Effect.flip(backend.put(newKey(), "data")))
        yield* Scope.close(scope, Exit.void)
      })
    )
  })
})
