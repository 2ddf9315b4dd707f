import { NodeRedis } from "@effect/platform-node"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Option, Schedule, Scope } from "effect"
import type * as EffectRedis from "effect/persistence/Redis"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { ambiguityCases, assertUnknown, type Fate, first, newKey } from "../support/ambiguity.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { isWrite, redisProxy } from "../support/redisProxy.ts"
import { until } from "../support/until.ts"

const keyPrefix = newKeyPrefix()
type Client = (options: Parameters<typeof RedisClient.layer>[0]) => Layer.Layer<EffectRedis.Redis, unknown>

const retrying = (times: number) => Schedule.upTo(Schedule.spaced("5 millis"), { times })
const quickly = { socket: { reconnectStrategy: () => 1 } }

/** What a client says of itself when it connects, and what the Layer asks first. */
const opening = ["HELLO", "CLIENT", "INFO", "PING"]

/** A backend whose commands go through a proxy, which decides their fate, and that proxy. */
const through = (fateOf: (isWrite: boolean) => Fate, options: Redis.Options = {}, client: Client = RedisClient.layer) =>
  Effect.gen(function* () {
    const proxy = yield* redisProxy(url ?? "", (command) => fateOf(isWrite(command)))
    const faulty = Redis.layer({ keyPrefix, retrySchedule: retrying(2000), ...options }).pipe(
      Layer.provide(client({ url: proxy.url, ...quickly })),
      Layer.provide(Logger.layer([]))
    )
    const backend = yield* Effect.provide(StorageBackend, yield* Layer.build(faulty))
    const requests = () => proxy.commands.map(([name = ""]) => name).filter((name) => !opening.includes(name))
    return { proxy, backend, requests }
  })

const pass = (): Fate => "pass"

describe.skipIf(url === undefined)("Redis, if answers are lost,", () => {
  layer(layerKeys({ keyPrefix }), { excludeTestServices: true })((it) => {
    ambiguityCases(it, {
      through: (fateOf, { isPatient } = { isPatient: true }) =>
        through(fateOf, isPatient ? {} : { retrySchedule: retrying(20) }),
      write: "EVALSHA",
      read: "HMGET"
    })

    it.effect("no client sends a command again by itself, whatever else was on its connection", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        yield* direct.put(newKey(), "so that Redis has the script")
        for (const client of [RedisClient.layer, NodeRedis.layer]) {
          let count = 0
          const { backend, proxy } = yield* through(
            (isWrite) => (isWrite && ++count === 20 ? "lose" : "pass"),
            {},
            client
          )
          // Effect's own service loads the script by a command of its own, which is not to be cut here.
          yield* Effect.flip(backend.putIfVersion(newKey(), "never", 7))
          const keys = Array.from({ length: 50 }, newKey)
          const results = yield* Effect.forEach(keys, (key) => Effect.result(backend.put(key, "once")), {
            concurrency: "unbounded"
          })
          const sentOf = (id: string) =>
            proxy.commands.filter((command) => isWrite(command) && command[3]?.includes(id)).length
          for (const [i, key] of keys.entries()) {
            assert.isAtMost(sentOf(key.owner), 1)
            const result = results[i]
            if (result?._tag === "Success") assert.strictEqual((yield* direct.get(key)).version, 1)
            else assertUnknown(result?.failure ?? assert.fail("no result"))
          }
          assert.strictEqual(proxy.connections(), 2)
        }
      })
    )

    it.effect("a request that hangs times out, and its connection is replaced", () =>
      Effect.gen(function* () {
        let hangs = false
        const { backend, proxy } = yield* through(() => (hangs ? "hang" : "pass"), {
          requestTimeout: "1 second",
          retrySchedule: Schedule.recurs(0)
        })
        hangs = true
        // Both at once: a second after the first has timed out, the client replaces the connection.
        const requests = [Effect.flip(backend.get(newKey())), Effect.flip(backend.put(newKey(), "data"))] as const
        const [read, write] = yield* Effect.all(requests, { concurrency: "unbounded" })
        assert.isTrue(read._tag === "Backend" && read.reason._tag === "Timeout" && read.isRetryable)
        assertUnknown(write)
        assert.include(write.message, "within 1s")
        hangs = false
        yield* Effect.eventually(backend.get(newKey()).pipe(Effect.catchTag("RecordNotFound", () => Effect.void)))
        // More than two if the second was opened while requests still hung.
        assert.isAtLeast(proxy.connections(), 2)
        yield* until(() => proxy.closed() > 0)
      })
    )

    it.effect(
      "a connection on which nothing answers is given up, when the Layer is built and when it is replaced",
      () =>
        Effect.gen(function* () {
          let hangs = true
          const fateOf = () => (hangs ? "hang" : "pass")
          const timing = { requestTimeout: "1 second", retrySchedule: Schedule.recurs(0) } as const
          const interrupted = Effect.timeoutOption(Effect.scoped(through(fateOf, timing)), "200 millis")
          assert.isTrue(Option.isNone(yield* interrupted))
          const error = yield* Effect.flip(through(fateOf, timing))
          assert.propertyVal(error, "_tag", "Backend")
          assert.include((error as Backend).message, "Redis can't be reached: Connection timeout")

          hangs = false
          const { backend, proxy } = yield* through(fateOf, timing)
          hangs = true
          const late = { until: (error: { readonly message: string }) => error.message.includes("can't be reached") }
          yield* Effect.repeat(Effect.flip(backend.get(newKey())), late)
          // The connection that takes the place of the first meets silence, too.
          yield* until(() => proxy.silent() >= 2)
          hangs = false
          yield* Effect.eventually(backend.put(newKey(), "data"))
          assert.isAtLeast(proxy.connections(), 3)
        })
    )

    it.effect("a request that hangs once is sent again if that is safe", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const key = newKey()
        const record = yield* direct.put(key, "before")
        const { backend, proxy } = yield* through(first("hang"), { requestTimeout: "1 second" })
        assert.strictEqual((yield* backend.putIfVersion(key, "after", record)).version, 2)
        // On a slow machine, the second connection may be too slow to answer, and be replaced as well.
        assert.isAtLeast(proxy.connections(), 2)
      })
    )

    it.effect("a write that is interrupted before it is sent is never sent", () =>
      Effect.gen(function* () {
        const { backend, requests } = yield* through(pass)
        const key = newKey()
        const fiber = yield* Effect.forkChild(backend.put(key, "data"), { startImmediately: true })
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
        assert.deepStrictEqual(requests(), ["HMGET"])
      })
    )

    it.effect("a write without a connection is not applied, neither now nor later", () =>
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
        const timing = { requestTimeout: "1 second", retrySchedule: Schedule.recurs(0) } as const
        const { backend, proxy } = yield* through(pass, timing, NodeRedis.layer)
        let timedOut = 0
        const retrySchedule = Schedule.tap(Schedule.setInputType<Backend>()(retrying(2000)), ({ input }) =>
          Effect.sync(() => {
            if (input.reason._tag === "Timeout") timedOut++
          })
        )
        const patient = yield* through(pass, { requestTimeout: "1 second", retrySchedule }, NodeRedis.layer)
        const [key, other] = [newKey(), newKey()]
        yield* direct.put(key, "before")
        const record = yield* direct.put(other, "before")
        // Effect's own service loads the script by a command of its own, which is not to be what it keeps for later.
        for (const { backend: warm } of [{ backend }, patient]) yield* Effect.eventually(warm.put(newKey(), "data"))
        proxy.close()
        patient.proxy.close()
        // Until the client has noticed that its connection is gone, it keeps nothing.
        const error = yield* Effect.flip(backend.put(key, "kept")).pipe(
          Effect.repeat({ until: (error) => error._tag === "Backend" && error.reason._tag === "Timeout" })
        )
        assertUnknown(error)
        const swap = yield* Effect.forkChild(patient.backend.putIfVersion(other, "kept", record))
        yield* until(() => timedOut > 0)
        yield* Effect.promise(proxy.open)
        yield* Effect.promise(patient.proxy.open)
        assert.strictEqual((yield* Fiber.join(swap)).version, 2)
        assert.strictEqual((yield* direct.get(other)).version, 2)
        const later = yield* direct.get(key).pipe(Effect.repeat({ until: ({ data }) => data === "kept" }))
        assert.strictEqual(later.version, 2)
      })
    )

    it.effect("the Layer closes even if Redis does not answer", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        let hangs = false
        const { backend } = yield* Scope.provide(
          through(() => (hangs ? "hang" : "pass"), { requestTimeout: "1 second", retrySchedule: Schedule.recurs(0) }),
          scope
        )
        hangs = true
        assertUnknown(yield* Effect.flip(backend.put(newKey(), "data")))
        yield* Scope.close(scope, Exit.void)
      })
    )
  })
})
