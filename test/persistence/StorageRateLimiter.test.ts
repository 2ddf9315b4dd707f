import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, it, layer } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Layer } from "effect"
import { RateLimiter } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as StorageRateLimiter from "../../src/persistence/StorageRateLimiter.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { limit } from "../support/limitWorker.ts"
import { counting, failing, keys, newOwner } from "../support/persistence.ts"
import type { Work } from "../support/queueWorker.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { newKeyPrefix, url } from "../support/redis.ts"
import { atRealTime, engines, orEmpty } from "../support/services.ts"
import { newFiles } from "../support/sqlite.ts"

type Store = RateLimiter.RateLimiterStore

const cases = (name: string, storage: Layer.Layer<Store, unknown>) =>
  layer(RateLimiter.layer.pipe(Layer.provideMerge(atRealTime(storage))))(name, (it) => {
    let count = 0
    const newKey = () => `key ${count++}`
    const test = (title: string, effect: Effect.Effect<void, unknown, RateLimiter.RateLimiter | Store>) =>
      it.effect(title, () => effect)

    test(
      "counts in a fixed window, refuses above the limit, and begins again when the window is over",
      Effect.gen(function* () {
        const { consume } = yield* RateLimiter.RateLimiter
        const options = { key: newKey(), limit: 5, window: "1 minute", tokens: 2 } as const
        assert.deepInclude(yield* consume(options), { remaining: 3, resetAfter: Duration.seconds(24) })
        yield* TestClock.adjust("10 seconds")
        assert.deepInclude(yield* consume(options), { remaining: 1, resetAfter: Duration.seconds(38) })
        const { reason } = yield* Effect.flip(consume(options))
        assert.deepInclude(reason, { _tag: "RateLimitExceeded", retryAfter: Duration.seconds(38), remaining: 0 })
        assert.deepInclude(yield* consume({ ...options, tokens: 1 }), { remaining: 0 })
        yield* TestClock.adjust("50 seconds")
        assert.deepInclude(yield* consume(options), { remaining: 3 })
      })
    )

    test(
      "delays what is above the limit of a fixed window",
      Effect.gen(function* () {
        const { consume } = yield* RateLimiter.RateLimiter
        const options = { key: newKey(), limit: 2, window: "10 seconds", onExceeded: "delay" } as const
        const delays = yield* Effect.forEach([1, 2, 3, 4, 5], () => consume(options))
        assert.deepStrictEqual(
          delays.map(({ delay }) => Duration.toSeconds(delay)),
          [0, 0, 10, 10, 20]
        )
      })
    )

    test(
      "refills a token bucket one by one, to the limit at most",
      Effect.gen(function* () {
        const { consume } = yield* RateLimiter.RateLimiter
        const options = { key: newKey(), limit: 3, window: "30 seconds", algorithm: "token-bucket" } as const
        for (const remaining of [2, 1, 0]) assert.deepInclude(yield* consume(options), { remaining })
        yield* TestClock.adjust("9 seconds")
        const { reason } = yield* Effect.flip(consume(options))
        assert.deepInclude(reason, { retryAfter: Duration.seconds(1) })
        yield* TestClock.adjust("1 second")
        assert.deepInclude(yield* consume(options), { remaining: 0 })
        yield* TestClock.adjust("1 hour")
        assert.deepInclude(yield* consume(options), { remaining: 2, resetAfter: Duration.seconds(10) })
        const ahead = yield* consume({ ...options, tokens: 4, onExceeded: "delay" })
        assert.deepInclude(ahead, { remaining: -2, delay: Duration.seconds(20) })
      })
    )

    test(
      "keeps keys of any form apart",
      Effect.gen(function* () {
        const { consume } = yield* RateLimiter.RateLimiter
        for (const [i, key] of keys.entries()) {
          for (const algorithm of ["fixed-window", "token-bucket"] as const) {
            const { remaining } = yield* consume({ key, algorithm, limit: 100, tokens: i, window: "1 hour" })
            assert.strictEqual(remaining, 100 - i)
          }
        }
      })
    )

    test(
      "lets exactly the limit through, however many ask at once",
      Effect.gen(function* () {
        const { consume } = yield* RateLimiter.RateLimiter
        for (const algorithm of ["fixed-window", "token-bucket"] as const) {
          const one = Effect.exit(consume({ key: newKey(), algorithm, limit: 20, window: "1 hour" }))
          const exits = yield* Effect.replicateEffect(one, 64, { concurrency: "unbounded" })
          assert.strictEqual(exits.filter(Exit.isSuccess).length, 20)
        }
      })
    )

    test(
      "waits, learns and keeps to what it has learned from responses",
      Effect.gen(function* () {
        const { adaptiveConsume, adaptiveFeedback } = yield* RateLimiter.RateLimiter
        const options = { key: newKey(), tokens: 1, fallbackLimit: 10, fallbackWindow: Duration.minutes(1) }
        const tooMany = (epoch: number, retryAfter: Duration.Duration | undefined) =>
          adaptiveFeedback({ key: options.key, epoch, tokens: 1, status: 429, retryAfter })
        assert.deepInclude(yield* adaptiveConsume(options), { phase: "inactive", epoch: 0 })
        yield* tooMany(0, undefined)
        assert.deepInclude(yield* adaptiveConsume(options), { phase: "inactive" })
        yield* tooMany(0, Duration.seconds(5))
        assert.deepInclude(yield* adaptiveConsume(options), { phase: "cooldown", delay: Duration.seconds(5) })
        yield* TestClock.adjust("5 seconds")
        for (let i = 0; i < 3; i++) assert.deepInclude(yield* adaptiveConsume(options), { phase: "learning", epoch: 1 })
        yield* tooMany(0, Duration.seconds(5))
        yield* TestClock.adjust("4 seconds")
        yield* tooMany(1, Duration.seconds(6))
        const learned = yield* Effect.forEach([1, 2, 3], () => adaptiveConsume(options))
        assert.deepStrictEqual(
          learned.map(({ delay, epoch, phase }) => [phase, epoch, Duration.toSeconds(delay)]),
          [
            ["learned", 2, 6],
            ["learned", 2, 6],
            ["learned", 2, 16]
          ]
        )
        yield* TestClock.adjust("10 minutes")
        assert.deepInclude(yield* adaptiveConsume(options), { phase: "inactive", epoch: 0 })
      })
    )
  })

cases("Effect's RateLimiterStore in memory", RateLimiter.layerStoreMemory)
for (const [name, storage] of Object.entries(engines())) {
  describe.skipIf(storage === undefined)("StorageRateLimiter", () => {
    cases(`on ${name}`, StorageRateLimiter.layer({ owner: newOwner() }).pipe(Layer.provide(orEmpty(storage))))
  })
}

// -----------------------------------------------------------------------------

/** Random operations on a store, and what they come to. */
const interpret = Effect.fnUntraced(function* (seed: number, count: number) {
  const store = yield* RateLimiter.RateLimiterStore
  const random = randomFrom(seed)
  const pick = <A>(...values: readonly [A, ...ReadonlyArray<A>]): A =>
    values[Math.floor(random() * values.length)] ?? values[0]
  const found: Array<ReadonlyArray<number | string>> = []
  let epoch = 0
  for (let i = 0; i < count; i++) {
    const [key, limit, millis] = pick(["a", 5, 1000] as const, ["b", 3, 1000 / 3] as const, ["c", 10, 100] as const)
    const refillRate = Duration.millis(millis)
    const tokens = pick(1, 1, 1, 2, 0.5, limit + 1)
    switch (pick("fixed", "fixed", "bucket", "bucket", "consume", "consume", "feedback", "pass", "pass")) {
      case "fixed":
        found.push(yield* store.fixedWindow({ key, tokens, refillRate, limit: key === "c" ? undefined : limit }))
        break
      case "bucket":
        found.push(yield* store.tokenBucket({ key, tokens, refillRate, limit, allowOverflow: key === "c" }))
        break
      case "consume": {
        const fallbackWindow = Duration.seconds(10)
        const consumed = yield* store.adaptiveConsume({ key, tokens, fallbackLimit: limit, fallbackWindow })
        epoch = consumed.epoch
        found.push([consumed.phase, consumed.epoch, Duration.toMillis(consumed.delay)])
        break
      }
      case "feedback": {
        const retryAfter = pick(undefined, Duration.millis(50), Duration.seconds(2), Duration.hours(2))
        yield* store.adaptiveFeedback({
          key,
          epoch: pick(epoch, epoch, 0),
          tokens: 1,
          status: pick(200, 429, 429),
          retryAfter
        })
        break
      }
      case "pass":
        yield* TestClock.adjust(pick(1, 50, 333, 1000, 1700, 30_000, 120_000))
        break
    }
  }
  return found
})

describe("StorageRateLimiter, beside Effect's store in memory", () => {
  for (const [name, storage] of Object.entries(engines())) {
    it.effect.skipIf(storage === undefined)(`comes to the same by random operations, on ${name}`, () =>
      Effect.gen(function* () {
        const seed = newSeed(`StorageRateLimiter on ${name}`)
        const ours = StorageRateLimiter.layer({ owner: newOwner() }).pipe(Layer.provide(orEmpty(storage)))
        const run = (layer: Layer.Layer<Store, unknown>) =>
          interpret(seed, 500).pipe(Effect.provide(atRealTime(layer)), Effect.provide(TestClock.layer()))
        const [expected, actual] = [yield* run(RateLimiter.layerStoreMemory), yield* run(ours)]
        assert.strictEqual(actual.length, expected.length)
        for (const [i, result] of expected.entries()) {
          for (const [j, value] of result.entries()) {
            const other = actual[i]?.[j]
            if (typeof value === "string") assert.strictEqual(other, value, `result ${i}`)
            else assert.closeTo(Number(other), value, 1e-3, `result ${i}`)
          }
        }
      })
    )
  }
})

// -----------------------------------------------------------------------------

describe("StorageRateLimiter, on a backend", () => {
  const build = (storage: Layer.Layer<StorageBackend>) =>
    Layer.build(RateLimiter.layer.pipe(Layer.provide(Layer.fresh(StorageRateLimiter.layer({ owner: "alice" }))))).pipe(
      Effect.provide(storage)
    )
  const hot = { key: "hot", limit: 10_000, window: "1 hour" } as const
  const consume = RateLimiter.RateLimiter.use((limiter) => limiter.consume(hot))

  it.effect("takes one request for a consumption, whether it is refused or not, and few for many at once", () =>
    Effect.gen(function* () {
      const { requests, storage } = counting()
      yield* Effect.gen(function* () {
        yield* consume
        requests.length = 0
        yield* consume
        assert.deepStrictEqual(requests, ["swap"])
        yield* Effect.replicateEffect(consume, 640, { concurrency: 64 })
        assert.isBelow(requests.length, 640 / 16)
        requests.length = 0
        yield* Effect.flip(RateLimiter.RateLimiter.use(({ consume }) => consume({ ...hot, tokens: 9999 })))
        assert.deepStrictEqual(requests, ["read"])
      }).pipe(Effect.provideContext(yield* build(storage)))
    })
  )

  it.effect("counts what another process has taken meanwhile", () =>
    Effect.gen(function* () {
      const { storage } = counting()
      const [one, other] = [yield* build(storage), yield* build(storage)]
      for (const remaining of [9999, 9997, 9995]) {
        assert.strictEqual((yield* Effect.provideContext(consume, one)).remaining, remaining)
        assert.strictEqual((yield* Effect.provideContext(consume, other)).remaining, remaining - 1)
      }
    })
  )

  it.effect("takes nothing for a consumption that was interrupted while it waited, and goes on", () =>
    Effect.gen(function* () {
      const { storage } = counting()
      const context = yield* build(storage)
      const fibers = yield* Effect.replicateEffect(Effect.forkChild(Effect.provideContext(consume, context)), 8)
      yield* Effect.yieldNow
      for (const fiber of fibers.slice(4)) yield* Fiber.interrupt(fiber)
      for (const fiber of fibers.slice(0, 4)) yield* Fiber.join(fiber)
      assert.isAtLeast((yield* Effect.provideContext(consume, context)).remaining, 10_000 - 9)
    })
  )

  it.effect("says so if it is unknown whether a consumption has landed, and counts it if it has", () =>
    Effect.gen(function* () {
      const { service } = counting()
      let isLost = false
      const { backend } = Faults.backend(service, ({ name }) => (isLost && name === "putIfVersion" ? "lose" : "pass"))
      const context = yield* build(Layer.succeed(StorageBackend, backend))
      yield* Effect.provideContext(consume, context)
      isLost = true
      const error = yield* Effect.flip(Effect.provideContext(consume, context))
      assert.instanceOf(error, RateLimiter.RateLimiterError)
      assert.deepInclude((error.reason as RateLimiter.RateLimitStoreError).cause, {
        _tag: "Backend",
        outcome: "unknown"
      })
      isLost = false
      assert.strictEqual((yield* Effect.provideContext(consume, context)).remaining, 10_000 - 3)
    })
  )

  it.effect("names the error of the storage, and the owner if that is invalid", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Effect.provideContext(consume, yield* build(failing)))
      assert.match(error.message, /Failed to execute fixedWindow rate limiting command: .*no table/)
      assert.strictEqual(error.reason._tag, "RateLimitStoreError")
      const invalid = StorageRateLimiter.layer({ owner: "" }).pipe(Layer.provide(failing))
      assert.strictEqual((yield* Effect.flip(Layer.build(invalid)))._tag, "InvalidKey")
    })
  )

  it.effect("works without group commit", () =>
    Effect.gen(function* () {
      const { storage } = counting()
      const context = yield* build(storage)
      const all = Effect.replicateEffect(consume, 20, { concurrency: "unbounded" })
      yield* Effect.provideContext(Effect.provideService(all, VersionedStore.GroupCommit, false), context)
      assert.strictEqual((yield* Effect.provideContext(consume, context)).remaining, 10_000 - 21)
    })
  )
})

describe("StorageRateLimiter, in two processes", () => {
  const stores: Record<string, Work["store"] | undefined> = {
    Sqlite: { filename: newFiles()() },
    Redis: url === undefined ? undefined : { url, keyPrefix: newKeyPrefix() }
  }
  for (const [name, store] of Object.entries(stores)) {
    it.live.skipIf(store === undefined)(`lets exactly the limit through, on ${name}`, () =>
      Effect.gen(function* () {
        const run = promisify(execFile)
        const worker = join(import.meta.dirname, "..", "support", "limitWorker.ts")
        const one = Effect.promise(() => run("node", [worker, JSON.stringify(store)]))
        const outputs = yield* Effect.all([one, one], { concurrency: 2 })
        const taken = outputs.map(({ stdout }) => Number(stdout))
        assert.strictEqual((taken[0] ?? 0) + (taken[1] ?? 0), limit)
      })
    )
  }
})
