import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, it, layer } from "@effect/vitest"
import { Context, Duration, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { CircuitBreaker } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as StorageCircuitBreaker from "../../src/persistence/StorageCircuitBreaker.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { key, layerOf } from "../support/circuitWorker.ts"
import { counting, failing, keys, newOwner } from "../support/persistence.ts"
import type { Work } from "../support/queueWorker.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { newKeyPrefix, url } from "../support/redis.ts"
import { atRealTime, engines, orEmpty } from "../support/services.ts"
import { newFiles } from "../support/sqlite.ts"

type Store = CircuitBreaker.CircuitBreakerStore

const cases = (name: string, storage: Layer.Layer<Store, unknown>) =>
  layer(atRealTime(storage))(name, (it) => {
    let count = 0
    const newKey = () => `key ${count++}`
    const make = (tripPolicy: CircuitBreaker.TripPolicy, openDuration: Duration.Input = "10 seconds") =>
      CircuitBreaker.make({ tripPolicy, openDuration, onStoreError: "fail" })
    const test = (title: string, effect: Effect.Effect<void, unknown, Store | Scope.Scope>) =>
      it.effect(title, () => Effect.scoped(effect))

    /** What a call comes to: its own error, or the reason why it did not run. */
    const call = (breaker: CircuitBreaker.CircuitBreaker, key: string, effect: Effect.Effect<unknown, string>) =>
      breaker.execute(effect, { key }).pipe(
        Effect.as("success"),
        Effect.catch((error) => Effect.succeed(typeof error === "string" ? error : error.reason._tag))
      )
    const no = Effect.fail("no")

    test(
      "opens after failures in a row, lets one call probe after a time, and closes if that succeeds",
      Effect.gen(function* () {
        const breaker = yield* make(CircuitBreaker.consecutive(2))
        const key = newKey()
        for (const effect of [no, Effect.void, no, no]) yield* call(breaker, key, effect)
        const open = yield* breaker.state(key)
        assert.deepInclude(open, { _tag: "Open", retryAfter: Duration.seconds(10), consecutiveOpenings: 1 })
        assert.strictEqual(yield* call(breaker, key, Effect.void), "CircuitOpen")
        yield* TestClock.adjust("10 seconds")
        const probe = yield* Effect.forkChild(call(breaker, key, Effect.as(Effect.sleep("1 second"), "")))
        while ((yield* breaker.state(key))._tag !== "HalfOpen") yield* Effect.yieldNow
        assert.strictEqual(yield* call(breaker, key, Effect.void), "CircuitHalfOpen")
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(probe), "success")
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        assert.strictEqual(yield* call(breaker, key, no), "no")
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )

    test(
      "opens again if the probe fails, and lets another one probe if it was interrupted",
      Effect.gen(function* () {
        const breaker = yield* make(CircuitBreaker.consecutive(1))
        const key = newKey()
        yield* call(breaker, key, no)
        yield* TestClock.adjust("10 seconds")
        yield* call(breaker, key, no)
        assert.deepInclude(yield* breaker.state(key), { _tag: "Open", consecutiveOpenings: 2 })
        yield* TestClock.adjust("10 seconds")
        yield* call(breaker, key, Effect.interrupt).pipe(Effect.exit)
        assert.deepInclude(yield* breaker.state(key), { _tag: "HalfOpen", probing: false })
        assert.strictEqual(yield* call(breaker, key, Effect.void), "success")
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
      })
    )

    test(
      "counts openings until a circuit has been closed for as long as it was open",
      Effect.gen(function* () {
        const breaker = yield* make(CircuitBreaker.consecutive(1))
        for (const [seconds, consecutiveOpenings] of [
          [9, 2],
          [10, 1]
        ] as const) {
          const key = newKey()
          yield* call(breaker, key, no)
          yield* TestClock.adjust("10 seconds")
          yield* call(breaker, key, Effect.void)
          yield* TestClock.adjust(Duration.seconds(seconds))
          yield* call(breaker, key, no)
          assert.deepInclude(yield* breaker.state(key), { _tag: "Open", consecutiveOpenings })
        }
      })
    )

    test(
      "opens at a rate of failures among the last calls",
      Effect.gen(function* () {
        const breaker = yield* make(CircuitBreaker.rate({ threshold: 0.5, minimumCalls: 4, size: 5 }))
        const key = newKey()
        for (const effect of [no, Effect.void, Effect.void, Effect.void, Effect.void, Effect.void, no, no]) {
          assert.notStrictEqual(yield* call(breaker, key, effect), "CircuitOpen")
        }
        assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
        yield* call(breaker, key, no)
        assert.strictEqual((yield* breaker.state(key))._tag, "Open")
      })
    )

    test(
      "stays open without an end, and forgets a circuit that is idle",
      Effect.gen(function* () {
        const breaker = yield* make(CircuitBreaker.consecutive(1), "Infinity")
        const [forever, idle] = [newKey(), newKey()]
        yield* call(breaker, forever, no)
        assert.deepInclude(yield* breaker.state(forever), { _tag: "Open", retryAfter: Duration.infinity })
        const other = yield* make(CircuitBreaker.consecutive(2))
        yield* call(other, idle, no)
        yield* TestClock.adjust("2 hours")
        assert.strictEqual(yield* call(breaker, forever, Effect.void), "CircuitOpen")
        yield* call(other, idle, no)
        assert.strictEqual((yield* other.state(idle))._tag, "Closed")
      })
    )

    test(
      "keeps circuits of any key apart",
      Effect.gen(function* () {
        const breaker = yield* make(CircuitBreaker.consecutive(1))
        for (const key of keys) {
          assert.strictEqual((yield* breaker.state(key))._tag, "Closed")
          yield* call(breaker, key, no)
          assert.deepInclude(yield* breaker.state(key), { _tag: "Open", key })
        }
      })
    )
  })

cases("Effect's CircuitBreakerStore in memory", CircuitBreaker.layerStoreMemory())
for (const [name, storage] of Object.entries(engines())) {
  describe.skipIf(storage === undefined)("StorageCircuitBreaker", () => {
    cases(`on ${name}`, StorageCircuitBreaker.layer({ owner: newOwner() }).pipe(Layer.provide(orEmpty(storage))))
  })
}

// -----------------------------------------------------------------------------

/** Random operations on a store, and what they come to. Permits are opaque, and are not compared. */
const interpret = Effect.fnUntraced(function* (seed: number, count: number) {
  const store = yield* CircuitBreaker.CircuitBreakerStore
  const random = randomFrom(seed)
  const pick = <A>(...values: readonly [A, ...ReadonlyArray<A>]): A =>
    values[Math.floor(random() * values.length)] ?? values[0]
  const policies = {
    a: CircuitBreaker.consecutive(2),
    b: CircuitBreaker.rate({ threshold: 0.4, minimumCalls: 2, size: 4 })
  }
  const found: Array<string> = []
  const permits: Array<{ readonly key: "a" | "b"; readonly generation: number; readonly scope: Scope.Closeable }> = []

  const settle = Effect.fnUntraced(function* (index: number) {
    const [permit] = permits.splice(index, 1)
    if (permit === undefined) return
    const { generation, key, scope } = permit
    const outcome = pick("Success", "Failure", "Failure", "Ignored")
    const openFor = pick(Duration.seconds(5), Duration.seconds(40))
    const recorded = yield* store.record({ key, generation, outcome, tripPolicy: policies[key], openFor })
    yield* Scope.close(scope, Exit.void)
    found.push(`${outcome} of ${key}: ${JSON.stringify(recorded)}`)
  })

  for (let i = 0; i < count; i++) {
    const key = pick("a", "b")
    switch (pick("admit", "admit", "admit", "record", "record", "state", "pass")) {
      case "admit": {
        const scope = yield* Scope.make()
        const exit = yield* Effect.exit(Scope.provide(store.admit(key), scope))
        if (Exit.isSuccess(exit)) {
          const { generation, ...admission } = exit.value
          permits.push({ key, generation, scope })
          found.push(`${key} admitted: ${JSON.stringify(admission)}`)
        } else {
          const { reason } = yield* Effect.flip(exit)
          found.push(`${key}: ${JSON.stringify(reason)}`)
        }
        break
      }
      case "record":
        yield* settle(Math.floor(random() * permits.length))
        break
      case "state":
        found.push(JSON.stringify(yield* store.state(key)))
        break
      case "pass":
        yield* TestClock.adjust(pick("1 second", "5 seconds", "30 seconds", "3 hours"))
        break
    }
  }
  while (permits.length > 0) yield* settle(0)
  return found
})

describe("StorageCircuitBreaker, beside Effect's store in memory", () => {
  for (const [name, storage] of Object.entries(engines())) {
    it.effect.skipIf(storage === undefined)(`comes to the same by random operations, on ${name}`, () =>
      Effect.gen(function* () {
        const seed = newSeed(`StorageCircuitBreaker on ${name}`)
        // A probe in memory has no lease, and never ends by itself.
        const ours = StorageCircuitBreaker.layer({ owner: newOwner(), probeLease: "30 days" }).pipe(
          Layer.provide(orEmpty(storage))
        )
        const run = (layer: Layer.Layer<Store, unknown>) =>
          interpret(seed, 400).pipe(Effect.provide(atRealTime(layer)), Effect.provide(TestClock.layer()))
        const expected = yield* run(CircuitBreaker.layerStoreMemory())
        assert.deepStrictEqual(yield* run(ours), expected)
      })
    )
  }
})

// -----------------------------------------------------------------------------

describe("StorageCircuitBreaker, between processes", () => {
  const build = (service: StorageBackend["Service"]) =>
    Effect.map(
      Layer.build(
        Layer.fresh(StorageCircuitBreaker.layer({ owner: "alice" })).pipe(
          Layer.provide(Layer.succeed(StorageBackend, service))
        )
      ),
      Context.get(CircuitBreaker.CircuitBreakerStore)
    )
  const recorded = (generation: number, outcome: "Success" | "Failure") => ({
    key: "k",
    generation,
    outcome,
    tripPolicy: CircuitBreaker.consecutive(1),
    openFor: Duration.seconds(5)
  })

  /** Two processes whose circuit is half-open, with a probe of the first one. */
  const probing = Effect.gen(function* () {
    const { requests, service } = counting()
    let isStopped = false
    const faults = Faults.backend(service, () => (isStopped ? "drop" : "pass"))
    const [one, other] = [yield* build(faults.backend), yield* build(service)]
    yield* one.record(recorded((yield* one.admit("k")).generation, "Failure"))
    yield* TestClock.adjust("5 seconds")
    const probe = yield* one.admit("k")
    assert.isTrue(probe.probe)
    const stop = (value: boolean) => {
      isStopped = value
    }
    return { one, other, probe, requests, stop }
  })

  it.effect("keeps others from probing for as long as a probe runs", () =>
    Effect.gen(function* () {
      const { other, probe, one } = yield* probing
      for (let i = 0; i < 10; i++) {
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual((yield* Effect.flip(other.admit("k"))).reason._tag, "CircuitHalfOpen")
      }
      assert.deepInclude(yield* one.record(recorded(probe.generation, "Success")), { to: "Closed" })
      assert.isFalse((yield* other.admit("k")).probe)
    })
  )

  it.effect("lets another process probe if the first one was stopped, whose outcome then changes nothing", () =>
    Effect.gen(function* () {
      const { one, other, probe, stop } = yield* probing
      stop(true)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual((yield* Effect.flip(other.admit("k"))).reason._tag, "CircuitHalfOpen")
      yield* TestClock.adjust("1 second")
      const second = yield* other.admit("k")
      assert.isTrue(second.probe)
      stop(false)
      assert.isUndefined(yield* one.record(recorded(probe.generation, "Success")))
      yield* TestClock.adjust("1 minute")
      assert.deepInclude(yield* one.state("k"), { _tag: "HalfOpen", probing: true })
      assert.deepInclude(yield* other.record(recorded(second.generation, "Failure")), { to: "Open" })
    })
  )

  it.effect("lets a process that was stopped not renew the lease of another's probe", () =>
    Effect.gen(function* () {
      const { one, other, stop } = yield* probing
      stop(true)
      yield* TestClock.adjust("10 seconds")
      const scope = yield* Scope.make()
      assert.isTrue((yield* Scope.provide(other.admit("k"), scope)).probe)
      // The other process dies without a word.
      yield* Scope.close(scope, Exit.void)
      stop(false)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual((yield* Effect.flip(one.admit("k"))).reason._tag, "CircuitHalfOpen")
      yield* TestClock.adjust("1 second")
      assert.isTrue((yield* one.admit("k")).probe)
    })
  )

  it.effect("says so if it is unknown whether a probe was admitted, whose lease then ends by itself", () =>
    Effect.gen(function* () {
      const { service } = counting()
      let isLost = false
      const { backend } = Faults.backend(service, ({ name }) => (isLost && name === "putIfVersion" ? "lose" : "pass"))
      const store = yield* build(backend)
      yield* store.record(recorded((yield* store.admit("k")).generation, "Failure"))
      yield* TestClock.adjust("5 seconds")
      isLost = true
      const { reason } = yield* Effect.flip(store.admit("k"))
      assert.deepInclude((reason as CircuitBreaker.CircuitBreakerStoreError).cause, { outcome: "unknown" })
      isLost = false
      assert.deepInclude(yield* store.state("k"), { _tag: "HalfOpen", probing: true })
      yield* TestClock.adjust("10 seconds")
      assert.isTrue((yield* store.admit("k")).probe)
    })
  )

  it.effect("takes two requests for a call through a closed circuit", () =>
    Effect.gen(function* () {
      const { requests, service } = counting()
      const store = yield* build(service)
      yield* store.admit("k")
      requests.length = 0
      const { generation } = yield* store.admit("k")
      yield* store.record(recorded(generation, "Success"))
      assert.deepStrictEqual(requests, ["read", "read"])
    })
  )

  it.effect("names the error of the storage, and the owner if that is invalid", () =>
    Effect.gen(function* () {
      const store = yield* build(yield* Effect.provide(StorageBackend, failing))
      for (const operation of [store.admit("k"), store.record(recorded(1, "Success")), store.state("k")]) {
        const { message, reason } = yield* Effect.flip(
          operation as Effect.Effect<unknown, CircuitBreaker.CircuitBreakerError, Scope.Scope>
        )
        assert.strictEqual(reason._tag, "CircuitBreakerStoreError")
        assert.match(message, /^Failed to .*: .*no table/)
      }
      const invalid = StorageCircuitBreaker.layer({ owner: "" }).pipe(Layer.provide(failing))
      assert.strictEqual((yield* Effect.flip(Layer.build(invalid)))._tag, "InvalidKey")
    })
  )
})

describe("StorageCircuitBreaker, in two processes", () => {
  const stores: Record<string, Work["store"] | undefined> = {
    Sqlite: { filename: newFiles()() },
    Redis: url === undefined ? undefined : { url, keyPrefix: newKeyPrefix() }
  }
  for (const [name, store] of Object.entries(stores)) {
    it.live.skipIf(store === undefined)(`lets one call probe, on ${name}`, () =>
      Effect.gen(function* () {
        const opened = Effect.gen(function* () {
          const circuits = yield* CircuitBreaker.CircuitBreakerStore
          const { generation } = yield* circuits.admit(key)
          const tripPolicy = CircuitBreaker.consecutive(1)
          yield* circuits.record({ key, generation, outcome: "Failure", tripPolicy, openFor: Duration.zero })
        })
        yield* Effect.scoped(opened).pipe(Effect.provide(layerOf(store ?? { filename: "" })))
        const run = promisify(execFile)
        const worker = join(import.meta.dirname, "..", "support", "circuitWorker.ts")
        const one = Effect.promise(() => run("node", [worker, JSON.stringify(store)]))
        const outputs = yield* Effect.all([one, one], { concurrency: 2 })
        assert.deepStrictEqual(outputs.map(({ stdout }) => Number(stdout)).sort(), [0, 1])
      })
    )
  }
})
