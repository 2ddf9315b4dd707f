import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, type Duration, Effect, Exit, Fiber, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../src/engine/InMemory.ts"
import * as Lease from "../src/Lease.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import * as StorageKey from "../src/StorageKey.ts"
import * as Faults from "../src/testing/Faults.ts"
import { dies, failsWith } from "../src/testing/internal/support.ts"
import * as VersionedStore from "../src/VersionedStore.ts"

const key = { owner: "jobs", id: "report" }
const stored = StorageKey.makeUnsafe({ owner: "jobs", id: "lease/report" })
const options = { ttl: "10 seconds" } as const

type FateOf = NonNullable<Parameters<typeof Faults.backend>[1]>

/** Another process on the same engine: it knows nothing of what this one has seen. */
const newProcess = (name: string, fateOf?: FateOf) =>
  Effect.map(StorageBackend, (backend) => {
    const faults = Faults.backend(backend, fateOf)
    const provided = Effect.provideService(StorageBackend, faults.backend)
    return {
      ...faults,
      acquire: Lease.acquire(key, { ...options, holder: name }).pipe(provided),
      tryAcquire: Lease.tryAcquire(key, { ...options, holder: name }).pipe(provided),
      withLease: <A, E, R>(effect: Effect.Effect<A, E, R> | ((lease: Lease.Lease) => Effect.Effect<A, E, R>)) =>
        Lease.withLease(key, { ...options, holder: name })(effect).pipe(provided)
    }
  })

/** Turns of the event loop, in which fibers that have nothing to wait for come to rest. */
const settle = Effect.forEach(Array.from({ length: 10 }), () => Effect.yieldNow, { discard: true })

/** Moves time on in small steps, as it passes. */
const pass = (seconds: number) => Effect.repeat(TestClock.adjust("50 millis"), { times: Math.round(seconds * 20) - 1 })

/** The clock of a machine whose wall clock is wrong by some time, which may change. */
const withOffset = (offsetMillis: () => number) =>
  Effect.map(Clock.Clock, (clock): Clock.Clock => {
    const currentTimeMillisUnsafe = () => clock.currentTimeMillisUnsafe() + offsetMillis()
    return {
      ...clock,
      currentTimeMillisUnsafe,
      currentTimeMillis: Effect.sync(currentTimeMillisUnsafe),
      monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
      sleep: (duration) => clock.sleep(duration)
    }
  })

const isReleased = (process: { readonly tryAcquire: Effect.Effect<Lease.Lease, unknown, Scope.Scope> }) =>
  Effect.map(Effect.exit(Effect.scoped(process.tryAcquire)), Exit.isSuccess)

describe("Lease", () => {
  it.effect("has one holder at a time, in the order in which they came, and its token rises with each grant", () =>
    Effect.gen(function* () {
      const process = yield* newProcess("alpha")
      let [holders, most] = [0, 0]
      const tokens: Array<number> = []
      const order: Array<number> = []
      const work = (n: number) =>
        process.withLease((lease) =>
          Effect.gen(function* () {
            most = Math.max(most, ++holders)
            tokens.push(lease.token)
            order.push(n)
            yield* Effect.yieldNow
            holders--
          })
        )
      const numbers = Array.from({ length: 100 }, (_, n) => n)
      const fiber = yield* Effect.forkChild(Effect.forEach(numbers, work, { concurrency: "unbounded" }))
      yield* pass(10)
      yield* Fiber.join(fiber)
      assert.strictEqual(most, 1)
      assert.deepStrictEqual(order, numbers)
      assert.deepStrictEqual(
        tokens,
        tokens.toSorted((a, b) => a - b)
      )
      assert.strictEqual(new Set(tokens).size, 100)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("is renewed every third of its time, so that others do not get it however long it is held", () =>
    Effect.gen(function* () {
      const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
      const lease = yield* alpha.acquire
      const waiting = yield* Effect.forkChild(Effect.scoped(beta.acquire))
      alpha.taken()
      yield* pass(100)
      yield* lease.check
      assert.isUndefined(waiting.pollUnsafe())
      assert.isAtLeast(alpha.taken().length, 28)
      const error = yield* failsWith(Effect.scoped(beta.tryAcquire), "LeaseTaken")
      assert.strictEqual(error.holder, "alpha")
    }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
  )

  it.effect("goes to a waiter of another process within 20 ms of its release if a hint comes", () =>
    Effect.gen(function* () {
      const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
      const scope = yield* Scope.make()
      yield* alpha.acquire.pipe(Scope.provide(scope))
      const waiting = yield* Effect.forkChild(beta.acquire)
      yield* settle
      yield* Scope.close(scope, Exit.void)
      yield* TestClock.adjust("20 millis")
      yield* Fiber.join(waiting)
      assert.deepStrictEqual(beta.requests, ["get", "get", "putIfVersion"])
    }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
  )

  it.effect("is left to another process by one that takes it again and again", () =>
    Effect.gen(function* () {
      const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
      const shares = { alpha: 0, beta: 0 }
      const work = (name: keyof typeof shares) =>
        Effect.andThen(
          Effect.sleep("2 millis"),
          Effect.sync(() => shares[name]++)
        )
      yield* Effect.forkChild(Effect.forever(alpha.withLease(work("alpha"))))
      yield* Effect.forkChild(Effect.forever(beta.withLease(work("beta"))))
      yield* Effect.repeat(TestClock.adjust("1 millis"), { times: 2000 })
      assert.isAbove(shares.alpha, 50)
      assert.isAbove(shares.beta, 50)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("does not wait for hints that do not end", () =>
    Effect.gen(function* () {
      const alpha = yield* newProcess("alpha")
      const scope = yield* Scope.make()
      yield* alpha.acquire.pipe(Scope.provide(scope))
      const hints = () => Stream.fromEffect(Effect.uninterruptible(Effect.never))
      const backend = { ...(yield* StorageBackend), hints }
      const waiting = yield* Effect.forkChild(
        Effect.provideService(Lease.withLease(key, options)(Effect.void), StorageBackend, backend)
      )
      yield* settle
      yield* Scope.close(scope, Exit.void)
      yield* pass(1)
      assert.isDefined(waiting.pollUnsafe())
    }).pipe(Effect.provide(InMemory.layer))
  )

  describe("of a holder that is gone", () => {
    /** Holds the lease for the rest of the test, without renewing it, as a process that was killed. */
    const killed = Effect.gen(function* () {
      let isAlive = true
      const process = yield* newProcess("killed", () => (isAlive ? "pass" : "deny"))
      const { token } = yield* process.acquire
      isAlive = false
      return token
    })

    it.effect("is taken over once its whole time to live has passed since it was first seen, and not before", () =>
      Effect.gen(function* () {
        const beta = yield* newProcess("beta")
        const token = yield* killed
        // However long ago the holder wrote, a first look can't tell whether it has died.
        yield* pass(60)
        const waiting = yield* Effect.forkChild(beta.acquire)
        yield* pass(9.9)
        assert.isUndefined(waiting.pollUnsafe())
        yield* pass(0.2)
        assert.isAbove((yield* Fiber.join(waiting)).token, token)
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("is taken over after the holder's time to live, and not after that of who waits", () =>
      Effect.gen(function* () {
        const beta = yield* newProcess("beta")
        yield* killed
        const waiting = yield* Effect.forkChild(
          Lease.acquire(key, { ttl: "2 seconds" }).pipe(Effect.provideService(StorageBackend, beta.backend))
        )
        yield* pass(9.9)
        assert.isUndefined(waiting.pollUnsafe())
        yield* pass(0.2)
        yield* Fiber.join(waiting)
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("is taken over by tryAcquire, which remembers what its process saw in other calls", () =>
      Effect.gen(function* () {
        const [beta, gamma] = [yield* newProcess("beta"), yield* newProcess("gamma")]
        const token = yield* killed
        assert.strictEqual((yield* failsWith(Effect.scoped(beta.tryAcquire), "LeaseTaken")).holder, "killed")
        yield* pass(9.9)
        yield* failsWith(Effect.scoped(beta.tryAcquire), "LeaseTaken")
        yield* pass(0.2)
        yield* failsWith(Effect.scoped(gamma.tryAcquire), "LeaseTaken")
        assert.isAbove((yield* beta.tryAcquire).token, token)
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )
  })

  describe("with clocks that are not right", () => {
    for (const seconds of [5, -5, 5000, -5000]) {
      it.effect(`trusts no other machine's clock: one is ${seconds} s apart`, () =>
        Effect.gen(function* () {
          let isAlive = true
          const [alpha, beta] = [
            yield* newProcess("alpha", () => (isAlive ? "pass" : "deny")),
            yield* newProcess("beta")
          ]
          const clock = yield* withOffset(() => seconds * 1000)
          const lease = yield* alpha.acquire
          const waiting = yield* Effect.forkChild(Effect.provideService(beta.acquire, Clock.Clock, clock))
          yield* pass(30)
          yield* lease.check
          assert.isUndefined(waiting.pollUnsafe())
          isAlive = false
          yield* pass(9)
          const hadExpired = yield* Effect.exit(lease.check)
          if (waiting.pollUnsafe() !== undefined) assert.isTrue(Exit.isFailure(hadExpired), "two hold the lease")
          yield* pass(2)
          yield* failsWith(lease.check, "LeaseLost")
          assert.isAbove((yield* Fiber.join(waiting)).token, lease.token)
        }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
      )
    }

    it.effect("ends by the wall clock if the monotonic one stood still, as on a suspended host", () =>
      Effect.gen(function* () {
        let offset = 0
        const clock = yield* withOffset(() => offset)
        const alpha = yield* newProcess("alpha")
        const lease = yield* Effect.provideService(alpha.acquire, Clock.Clock, clock)
        yield* lease.check
        offset = 9400
        yield* lease.check
        offset = 9501
        assert.strictEqual((yield* failsWith(lease.check, "LeaseLost")).reason, "Expired")
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("ends by the monotonic clock if the wall clock was set back", () =>
      Effect.gen(function* () {
        let offset = 0
        const clock = yield* withOffset(() => offset)
        const alpha = yield* newProcess("alpha", ({ index }) => (index < 2 ? "pass" : "deny"))
        const lease = yield* Effect.provideService(alpha.acquire, Clock.Clock, clock)
        offset = -3_600_000
        yield* TestClock.adjust("9400 millis")
        yield* lease.check
        yield* TestClock.adjust("100 millis")
        assert.strictEqual((yield* failsWith(lease.check, "LeaseLost")).reason, "Expired")
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )
  })

  describe("whose record an operator deletes", () => {
    it.effect("is lost, interrupts its holder, and is not made again by it", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const alpha = yield* newProcess("alpha")
        let isInterrupted = false
        const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => (isInterrupted = true)))
        const holding = yield* Effect.forkChild(Effect.flip(alpha.withLease(work)))
        yield* settle
        yield* backend.delete(stored)
        yield* pass(4)
        const error = yield* Fiber.join(holding)
        assert.isTrue(error._tag === "LeaseLost" && error.reason === "Deleted", String(error))
        assert.isTrue(isInterrupted)
        yield* failsWith(backend.get(stored), "RecordNotFound")
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("is granted with a higher token then, also by another process", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const tokens: Array<number> = []
        for (const name of ["alpha", "beta", "gamma"]) {
          const process = yield* newProcess(name)
          for (let n = 0; n < 3; n++) tokens.push(yield* process.withLease((lease) => Effect.succeed(lease.token)))
          yield* backend.delete(stored)
          yield* TestClock.adjust("1 millis")
        }
        assert.deepStrictEqual(
          tokens,
          Array.from(new Set(tokens)).sort((a, b) => a - b)
        )
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("is granted with a higher token by the same process, although its wall clock was set back", () =>
      Effect.gen(function* () {
        let offset = 0
        const [backend, clock] = [yield* StorageBackend, yield* withOffset(() => offset)]
        const alpha = yield* newProcess("alpha")
        const token = Effect.provideService(
          alpha.withLease((lease) => Effect.succeed(lease.token)),
          Clock.Clock,
          clock
        )
        const first = yield* token
        yield* backend.delete(stored)
        offset = -3_600_000
        assert.isAbove(yield* token, first)
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("is lost to another holder if that was first", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
        const lease = yield* alpha.acquire
        yield* backend.delete(stored)
        yield* beta.acquire
        yield* pass(4)
        assert.strictEqual((yield* Effect.flip(lease.lost)).reason, "Taken")
        yield* failsWith(alpha.tryAcquire, "LeaseTaken")
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )
  })

  describe("whose requests go wrong", () => {
    for (const fate of ["lose", "drop", "throttle"] as const) {
      it.effect(`stays held if every second write has the fate "${fate}"`, () =>
        Effect.gen(function* () {
          let writes = 0
          const alpha = yield* newProcess("alpha", ({ name }) =>
            name === "putIfVersion" && writes++ % 2 === 0 ? fate : "pass"
          )
          const [beta, tokens] = [yield* newProcess("beta"), [] as Array<number>]
          for (let n = 0; n < 3; n++) {
            const work = (lease: Lease.Lease) =>
              Effect.andThen(Effect.sleep("100 seconds"), Effect.succeed(lease.token))
            const fiber = yield* Effect.forkChild(Effect.retry(alpha.withLease(work), { times: 5 }))
            yield* pass(60)
            yield* failsWith(Effect.scoped(beta.tryAcquire), "LeaseTaken")
            yield* pass(41)
            tokens.push(yield* Fiber.join(fiber))
          }
          assert.isAbove(alpha.requests.length, 90)
          assert.deepStrictEqual(
            tokens,
            tokens.toSorted((a, b) => a - b)
          )
        }).pipe(Effect.provide(InMemory.layer))
      )
    }

    it.effect("stays held if the answers to all renewals are lost, since it knows its own writes again", () =>
      Effect.gen(function* () {
        let writes = 0
        const alpha = yield* newProcess("alpha", ({ name }) =>
          name === "putIfVersion" && writes++ > 0 ? "lose" : "pass"
        )
        const lease = yield* alpha.acquire
        yield* pass(60)
        yield* lease.check
        assert.isAtLeast(writes, 18)
        assert.isAtMost(writes, 20)
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("counts from before its write was sent, and for who waits from after its first look was answered", () =>
      Effect.gen(function* () {
        const slow = { before: Effect.sleep("1 seconds"), after: Effect.sleep("2 seconds") }
        const [alpha, beta] = [
          yield* newProcess("alpha", ({ index }) => (index < 2 ? slow : "deny")),
          yield* newProcess("beta", ({ index }) => (index === 0 ? slow : "pass"))
        ]
        const acquiring = yield* Effect.forkChild(alpha.acquire)
        yield* pass(6)
        const lease = yield* Fiber.join(acquiring)
        // Its write was sent at the third second.
        yield* pass(6.4)
        yield* lease.check
        yield* pass(0.2)
        yield* failsWith(lease.check, "LeaseLost")

        const waiting = yield* Effect.forkChild(beta.acquire)
        yield* pass(12.9)
        assert.isUndefined(waiting.pollUnsafe())
        yield* pass(0.2)
        yield* Fiber.join(waiting)
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("is lost within its time if the engine hangs, and its release ends as well", () =>
      Effect.gen(function* () {
        let hangs = false
        // Not even an interruption ends the request.
        const before = Effect.suspend(() => (hangs ? Effect.uninterruptible(Effect.never) : Effect.void))
        const alpha = yield* newProcess("alpha", () => ({ before }))
        const fiber = yield* Effect.forkChild(Effect.flip(alpha.withLease(() => Effect.never)))
        yield* settle
        hangs = true
        yield* pass(9.3)
        assert.isUndefined(fiber.pollUnsafe())
        yield* pass(0.3)
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error._tag === "LeaseLost" && error.reason === "Expired", String(error))

        const acquiring = yield* Effect.forkChild(Effect.flip(Effect.scoped(alpha.acquire)))
        yield* pass(10.1)
        assert.strictEqual((yield* Fiber.join(acquiring))._tag, "Backend")
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("is lost within its time if the backend dies, and the next fiber gets its turn", () =>
      Effect.gen(function* () {
        let isDead = false
        const before = Effect.suspend(() => (isDead ? Effect.die("the backend is dead") : Effect.void))
        const alpha = yield* newProcess("alpha", () => ({ before }))
        const fiber = yield* Effect.forkChild(Effect.flip(alpha.withLease(() => Effect.never)))
        yield* settle
        const waiting = yield* Effect.forkChild(Effect.exit(Effect.scoped(alpha.acquire)))
        yield* settle
        isDead = true
        yield* pass(9.6)
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error._tag === "LeaseLost" && error.reason === "Expired", String(error))
        assert.isTrue(Exit.isFailure(yield* Fiber.join(waiting)))

        isDead = false
        const scope = yield* Scope.make()
        const next = yield* Effect.forkChild(alpha.acquire.pipe(Scope.provide(scope)))
        yield* pass(10.1)
        yield* Fiber.join(next)
        const last = yield* Effect.forkChild(Effect.exit(Effect.scoped(alpha.acquire)))
        yield* settle
        isDead = true
        yield* Scope.close(scope, Exit.void)
        assert.isTrue(Exit.isFailure(yield* Fiber.join(last)))
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("does not hold up the release longer than its time", () =>
      Effect.gen(function* () {
        let hangs = false
        const before = Effect.suspend(() => (hangs ? Effect.never : Effect.void))
        const alpha = yield* newProcess("alpha", () => ({ before }))
        const fiber = yield* Effect.forkChild(alpha.withLease(() => Effect.sync(() => (hangs = true))))
        yield* pass(9.6)
        assert.isTrue(yield* Fiber.join(fiber))
      }).pipe(Effect.provide(InMemory.layer))
    )
  })

  describe("of a waiter that is interrupted", () => {
    for (const index of [0, 1, 2, 3]) {
      for (const moment of ["before", "after"] as const) {
        it.effect(`is not left behind ${moment} request ${index}`, () =>
          Effect.gen(function* () {
            const reached = yield* Deferred.make<void>()
            const resumed = yield* Deferred.make<void>()
            const pause = Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(resumed))
            const [alpha, beta] = [
              yield* newProcess("alpha", (request) => (request.index === index ? { [moment]: pause } : "pass")),
              yield* newProcess("beta")
            ]
            const scope = yield* Scope.make()
            yield* beta.acquire.pipe(Scope.provide(scope))
            const waiting = yield* Effect.forkChild(alpha.acquire)
            yield* settle
            yield* Scope.close(scope, Exit.void)
            yield* pass(1)
            // Alpha looks, looks again, and takes the lease. There is no fourth request within this time.
            if (index < 3) yield* Deferred.await(reached)
            const interrupting = yield* Effect.forkChild(Fiber.interrupt(waiting))
            yield* settle
            yield* Deferred.succeed(resumed, undefined)
            yield* Fiber.await(interrupting)
            const wasTaken = Exit.isSuccess(yield* Fiber.await(waiting))
            if (!wasTaken) assert.isTrue(yield* isReleased(beta), "a lease was left behind")
            assert.strictEqual(wasTaken, index === 3)
          }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
        )
      }
    }

    it.effect("is handed on by the process that hands it over", () =>
      Effect.gen(function* () {
        const reached = yield* Deferred.make<void>()
        const resumed = yield* Deferred.make<void>()
        const pause = Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(resumed))
        for (const others of [0, 1]) {
          const [alpha, beta] = [
            yield* newProcess("alpha", ({ index }) => (index === 2 ? { before: pause } : "pass")),
            yield* newProcess("beta")
          ]
          const release = yield* Deferred.make<void>()
          const holding = yield* Effect.forkChild(alpha.withLease(() => Deferred.await(release)))
          yield* settle
          const waiting = yield* Effect.forkChild(Effect.scoped(alpha.acquire))
          yield* settle
          const next = yield* Effect.forkChild(
            others === 0 ? Effect.void : alpha.withLease((lease) => Effect.succeed(lease.token))
          )
          yield* settle
          yield* Deferred.succeed(release, undefined)
          yield* Deferred.await(reached)
          yield* Fiber.interrupt(waiting)
          yield* Deferred.succeed(resumed, undefined)
          yield* Fiber.join(holding)
          yield* Fiber.join(next)
          assert.isTrue(yield* isReleased(beta))
        }
      }).pipe(Effect.provide(InMemory.layer))
    )
  })

  describe("in one process", () => {
    it.effect("lets only the first waiter look, every tenth of the time and at least every 250 ms", () =>
      Effect.gen(function* () {
        const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
        yield* alpha.acquire
        yield* Effect.forEach([1, 2, 3, 4, 5], () => Effect.forkChild(Effect.scoped(beta.acquire)))
        yield* pass(30)
        const looks = beta.taken().length
        assert.isAtLeast(looks, 90)
        assert.isAtMost(looks, 145)
        assert.deepStrictEqual(new Set(beta.requests), new Set())
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("asks the engine nothing while another fiber of the process holds it", () =>
      Effect.gen(function* () {
        const alpha = yield* newProcess("alpha")
        yield* alpha.acquire
        alpha.taken()
        yield* Effect.forkChild(Effect.scoped(alpha.acquire))
        assert.strictEqual((yield* failsWith(Effect.scoped(alpha.tryAcquire), "LeaseTaken")).holder, "alpha")
        yield* pass(3)
        assert.deepStrictEqual(alpha.taken(), [])
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("is handed over by one write, and released for other processes after 16 times", () =>
      Effect.gen(function* () {
        const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
        const order: Array<string> = []
        const turn = (name: string) =>
          Effect.andThen(
            Effect.sync(() => order.push(name)),
            Effect.sleep("10 millis")
          )
        const numbers = Array.from({ length: 40 }, (_, n) => n)
        const all = Effect.forEach(numbers, () => alpha.withLease(turn("alpha")), { concurrency: "unbounded" })
        const fiber = yield* Effect.forkChild(all)
        yield* settle
        const waiting = yield* Effect.forkChild(beta.withLease(turn("beta")))
        yield* pass(3)
        yield* Fiber.join(fiber)
        yield* Fiber.join(waiting)
        // The first one looked and took it.
        assert.strictEqual(order.indexOf("beta"), 17)
        const writes = alpha.requests.filter((name) => name === "putIfVersion").length
        assert.isAtMost(writes, 40 + 5)
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("goes to the next fiber if its holder has lost it, before that ends", () =>
      Effect.gen(function* () {
        let isDown = false
        const alpha = yield* newProcess("alpha", () => (isDown ? "deny" : "pass"))
        const lease = yield* alpha.acquire
        const scope = yield* Scope.make()
        const waiting = yield* Effect.forkChild(alpha.acquire.pipe(Scope.provide(scope)))
        yield* settle
        isDown = true
        yield* pass(9.6)
        yield* failsWith(lease.check, "LeaseLost")
        isDown = false
        // The waiter's look met the engine that was down.
        yield* failsWith(Fiber.join(waiting), "Backend")
        const next = yield* Effect.forkChild(alpha.acquire.pipe(Scope.provide(scope)))
        yield* pass(10)
        assert.isAbove((yield* Fiber.join(next)).token, lease.token)
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("is a defect within itself, but not once it is lost", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const alpha = yield* newProcess("alpha")
        const message = /The lease at jobs:lease\/report is held here already/
        yield* alpha.withLease(dies(alpha.withLease(Effect.void), message))
        yield* alpha.withLease(dies(Effect.scoped(alpha.tryAcquire), message))
        yield* Effect.scoped(Effect.andThen(alpha.acquire, dies(alpha.acquire, message)))
        yield* Effect.scoped(Effect.andThen(alpha.acquire, dies(alpha.withLease(Effect.void), message)))
        yield* Effect.scoped(Effect.andThen(alpha.acquire, failsWith(alpha.tryAcquire, "LeaseTaken")))

        const lease = yield* alpha.acquire
        yield* backend.delete(stored)
        yield* pass(4)
        yield* failsWith(lease.check, "LeaseLost")
        yield* alpha.acquire
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )
  })

  describe("withLease", () => {
    it.effect("releases the lease however the effect ends, and ends as it does", () =>
      Effect.gen(function* () {
        const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
        assert.strictEqual(yield* alpha.withLease(Effect.succeed("done")), "done")
        assert.isTrue(yield* isReleased(beta))
        assert.strictEqual(yield* Effect.flip(alpha.withLease(Effect.fail("wrong"))), "wrong")
        assert.isTrue(yield* isReleased(beta))
        const fiber = yield* Effect.forkChild(alpha.withLease(Effect.never))
        yield* settle
        assert.isFalse(yield* isReleased(beta))
        yield* Fiber.interrupt(fiber)
        assert.isTrue(yield* isReleased(beta))
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("fails with LeaseLost if the effect ended after the lease", () =>
      Effect.gen(function* () {
        let offset = 0
        const clock = yield* withOffset(() => offset)
        const alpha = yield* newProcess("alpha")
        // No timer fires before the effect ends, as in a process that was stopped.
        const work = Effect.sync(() => (offset = 10_000))
        yield* failsWith(Effect.provideService(alpha.withLease(work), Clock.Clock, clock), "LeaseLost")
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("leaves the effect its own scope", () =>
      Effect.gen(function* () {
        const alpha = yield* newProcess("alpha")
        let isClosed = false
        yield* alpha.withLease(Effect.addFinalizer(() => Effect.sync(() => (isClosed = true))))
        assert.isFalse(isClosed)
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )
  })

  describe("fenced", () => {
    it.effect("commits only while its lease stands, whatever the clocks say", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const alpha = yield* newProcess("alpha")
        const beta = yield* newProcess("beta")
        const write = (data: string, expected: number) => ({ _tag: "Write", id: "report", expected, data }) as const
        const lease = yield* alpha.acquire
        const written = yield* lease.commit([write("one", 0)])
        assert.deepStrictEqual(
          written.map((record) => record?.version),
          [1]
        )
        yield* failsWith(lease.commit([write("two", 7)]), "VersionConflict")
        // Alpha does not know of this, and its clocks say that it has the lease.
        yield* backend.delete(stored)
        yield* beta.acquire
        yield* lease.check
        assert.strictEqual((yield* failsWith(lease.commit([write("two", 1)]), "LeaseLost")).reason, "Taken")
        assert.strictEqual((yield* Effect.flip(lease.lost)).reason, "Taken")
        assert.strictEqual((yield* backend.get(StorageKey.makeUnsafe({ owner: "jobs", id: "report" }))).data, "one")
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("commits although a renewal lands meanwhile", () =>
      Effect.gen(function* () {
        let renewals = 0
        const renewed = yield* Deferred.make<void>()
        const alpha = yield* newProcess("alpha", ({ name }) => {
          if (name === "commit" && renewals === 0) return { before: Deferred.await(renewed) }
          if (name !== "putIfVersion" || renewals++ < 1) return "pass"
          return { after: Deferred.succeed(renewed, undefined) }
        })
        const lease = yield* alpha.acquire
        renewals = 0
        const committing = yield* Effect.forkChild(
          lease.commit([{ _tag: "Write", id: "report", expected: 0, data: "one" }])
        )
        yield* settle
        renewals = 1
        yield* pass(4)
        assert.strictEqual((yield* Fiber.join(committing)).length, 1)
        assert.deepStrictEqual(
          alpha.requests.filter((name) => name === "commit"),
          ["commit", "commit"]
        )
        yield* lease.check
      }).pipe(Effect.scoped, Effect.provide(InMemory.layer))
    )

    it.effect("commits nothing while its lease is handed over, which gives the turn to one fiber alone", () =>
      Effect.gen(function* () {
        const [committing, handedOver, resumed, done] = [
          yield* Deferred.make<void>(),
          yield* Deferred.make<void>(),
          yield* Deferred.make<void>(),
          yield* Deferred.make<void>()
        ]
        let writes = 0
        const alpha = yield* newProcess("alpha", ({ name }) => {
          if (name === "commit") return { before: Deferred.await(committing) }
          if (name !== "putIfVersion" || ++writes !== 2) return "pass"
          return { after: Effect.andThen(Deferred.succeed(handedOver, undefined), Deferred.await(resumed)) }
        })
        const scope = yield* Scope.make()
        const lease = yield* alpha.acquire.pipe(Scope.provide(scope))
        const write = yield* Effect.forkChild(
          Effect.flip(lease.commit([{ _tag: "Write", id: "report", expected: 0, data: "one" }]))
        )
        const next = yield* Effect.forkChild(alpha.withLease(() => Deferred.await(done)))
        const last = yield* Effect.forkChild(alpha.withLease(Effect.void))
        yield* settle
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
        yield* Deferred.await(handedOver)
        yield* Deferred.succeed(committing, undefined)
        assert.strictEqual((yield* Fiber.join(write))._tag, "LeaseLost")
        yield* Deferred.succeed(resumed, undefined)
        yield* Fiber.join(closing)
        alpha.taken()
        yield* pass(1)
        assert.deepStrictEqual(alpha.taken(), [])
        yield* Deferred.succeed(done, undefined)
        yield* Fiber.join(next)
        yield* Fiber.join(last)
        assert.deepStrictEqual(alpha.taken(), ["putIfVersion", "putIfVersion"])
      }).pipe(Effect.provide(InMemory.layer))
    )

    it.effect("has tokens that a protected record can refuse", () =>
      Effect.gen(function* () {
        const Report = Schema.Struct({ token: Schema.Int, text: Schema.String })
        const reports = yield* VersionedStore.make({ idPrefix: "", schema: Report })
        const write = (token: number, text: string) =>
          reports.upsertEffect(key, (current) =>
            current._tag === "Some" && current.value.token > token
              ? Effect.fail("a later holder has written")
              : Effect.succeed({ token, text })
          )
        const [alpha, beta] = [yield* newProcess("alpha"), yield* newProcess("beta")]
        const first = yield* alpha.withLease((lease) => Effect.succeed(lease.token))
        yield* beta.withLease((lease) => write(lease.token, "of beta"))
        assert.strictEqual(yield* Effect.flip(write(first, "of alpha")), "a later holder has written")
      }).pipe(Effect.provide(InMemory.layer))
    )
  })

  it.effect("is lost to its user once it is released", () =>
    Effect.gen(function* () {
      const alpha = yield* newProcess("alpha")
      const lease = yield* Effect.scoped(alpha.acquire)
      assert.strictEqual((yield* Effect.flip(lease.lost)).reason, "Released")
      yield* failsWith(lease.commit([]), "LeaseLost")
      const error = yield* failsWith(lease.check, "LeaseLost")
      assert.strictEqual(
        error.message,
        "The lease at jobs:lease/report was lost: it was released, since its scope was closed"
      )
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("says what is wrong with a key, a time to live, or a record that is no lease", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const take = (key: Lease.Key, ttl: Duration.Input) => Lease.withLease(key, { ttl })(Effect.void)
      for (const key of [
        { owner: "", id: "a" },
        { owner: "a", id: "" },
        { owner: "a", id: "a".repeat(507) }
      ]) {
        yield* failsWith(take(key, "1 second"), "InvalidKey")
      }
      yield* dies(take(key, 0), /ttl must be a finite duration above zero/)
      yield* dies(take(key, "Infinity"), /ttl must be a finite duration above zero/)
      yield* dies(take(key, Number.NaN), /ttl must be a duration/)
      for (const data of ["a secret", '{"holder":"a secret"}']) {
        yield* backend.put(stored, data)
        const error = yield* failsWith(take(key, "1 second"), "Backend")
        assert.strictEqual(error.reason._tag, "Corrupt")
        assert.include(error.message, "the record at jobs:lease/report is not a lease. Delete it")
        assert.notInclude(inspect(error, { depth: 9, showHidden: true }), "secret")
      }
    }).pipe(Effect.provide(InMemory.layer))
  )
})
