/** Promises 2 and 3, by what stands on them: leases. */
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import * as Lease from "../../Lease.ts"
import { StorageBackend } from "../../StorageBackend.ts"
import * as Faults from "../Faults.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import { failsWith, keyOf } from "../internal/support.ts"

/** What the cases check: this library's leases, or others that a test breaks on purpose. */
export type Leases = Pick<typeof Lease, "acquire" | "tryAcquire" | "withLease">

type Backend = StorageBackend["Service"]

type FateOf = NonNullable<Parameters<typeof Faults.backend>[1]>

/** Another process on the engine, which knows nothing of what the others have seen. Its wall clock may be wrong. */
const newProcess = (backend: Backend, options: { readonly fateOf?: FateOf; readonly offsetMillis?: number } = {}) => {
  const faults = Faults.backend(backend, options.fateOf)
  let own: Clock.Clock | undefined
  return <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, Exclude<R, StorageBackend>> =>
    Effect.flatMap(Clock.Clock, (clock) => {
      own ??= shifted(clock, options.offsetMillis ?? 0)
      return effect.pipe(Effect.provideService(StorageBackend, faults.backend), Effect.provideService(Clock.Clock, own))
    })
}

const shifted = (clock: Clock.Clock, offsetMillis: number): Clock.Clock => {
  const currentTimeMillisUnsafe = () => clock.currentTimeMillisUnsafe() + offsetMillis
  return { ...clock, currentTimeMillisUnsafe, currentTimeMillis: Effect.sync(currentTimeMillisUnsafe) }
}

/** Adds one to a counter in two steps, which only a lease keeps together. */
const increment = Effect.fnUntraced(function* (backend: Backend, owner: string) {
  const key = keyOf(owner, "counter")
  const record = yield* Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined)
  yield* Effect.yieldNow
  yield* backend.put(key, String(Number(record?.data ?? 0) + 1))
})

const isRising = (tokens: ReadonlyArray<number>) =>
  tokens.every((token, index) => index === 0 || token > (tokens[index - 1] ?? 0))

/** The cases for an implementation of leases. */
export const leasesOf = ({ acquire, tryAcquire, withLease }: Leases): ReadonlyArray<Draft> => [
  example(
    2,
    "of several processes that take a lease, one holds it at a time, and its token rises with each grant",
    Effect.fnUntraced(function* (backend, owner) {
      const tokens: Array<number> = []
      let [holders, most] = [0, 0]
      const work = (lease: Lease.Lease) =>
        Effect.gen(function* () {
          most = Math.max(most, ++holders)
          tokens.push(lease.token)
          yield* increment(backend, owner)
          holders--
        })
      const one = withLease({ owner, id: "a" }, { ttl: "2 seconds" })(work)
      // Others run between a look and what follows it.
      const process = () => newProcess(backend, { fateOf: () => ({ before: Effect.yieldNow }) })
      const processes = [process(), process(), process()]
      const all = processes.flatMap((inProcess) => [inProcess(one), inProcess(one), inProcess(one)])
      yield* Effect.all(all, { concurrency: "unbounded" })
      assert.strictEqual(most, 1, "two held the lease")
      assert.strictEqual((yield* backend.get(keyOf(owner, "counter"))).data, "9")
      assert.isTrue(isRising(tokens), `the tokens do not rise: ${tokens.join(", ")}`)
    })
  ),

  example(
    2,
    "a dead holder is followed once its time has passed for who waits, and not before, whatever the wall clocks say",
    Effect.fnUntraced(function* (backend, owner) {
      for (const offsetMillis of [0, 5000, -5000, 5_000_000, -5_000_000]) {
        let isAlive = true
        const key = { owner, id: `offset ${offsetMillis}` }
        const first = newProcess(backend, { fateOf: () => (isAlive ? "pass" : "deny") })
        const second = newProcess(backend, { offsetMillis })
        const lease = yield* first(acquire(key, { ttl: "10 seconds", holder: "first" }))
        isAlive = false
        const attempt = second(Effect.scoped(tryAcquire(key, { ttl: "1 second" })))
        assert.strictEqual((yield* failsWith(attempt, "LeaseTaken")).holder, "first")
        yield* TestClock.adjust("9 seconds")
        yield* failsWith(attempt, "LeaseTaken")
        yield* TestClock.adjust("1 second")
        assert.isAbove((yield* attempt).token, lease.token)
        yield* failsWith(lease.check, "LeaseLost")
      }
    })
  ),

  example(
    2,
    "a lease is held as long as it is renewed, and is free for others at once when it is released",
    Effect.fnUntraced(function* (backend, owner) {
      const key = { owner, id: "a" }
      const [first, second] = [newProcess(backend), newProcess(backend)]
      const attempt = second(Effect.scoped(tryAcquire(key, { ttl: "1 second" })))
      yield* Effect.scoped(
        Effect.gen(function* () {
          const lease = yield* first(acquire(key, { ttl: "900 millis" }))
          const record = yield* backend.get(keyOf(owner, "lease/a"))
          for (let steps = 0; steps < 2; steps++) {
            yield* failsWith(attempt, "LeaseTaken")
            // The renewal is awaited, and time moves on after it.
            let renewed = record
            while (renewed.version < record.version + steps + 1) {
              yield* Effect.sleep("5 millis")
              renewed = yield* backend.get(record.key)
            }
            yield* TestClock.adjust("300 millis")
            yield* lease.check
          }
        })
      )
      yield* attempt
    })
  ),

  example(
    2,
    "a lease whose record is deleted is lost, is not made again by its holder, and is granted with a higher token",
    Effect.fnUntraced(function* (backend, owner) {
      const key = { owner, id: "a" }
      const record = keyOf(owner, "lease/a")
      const lost = yield* Deferred.make<Lease.Lease>()
      const holding = yield* newProcess(backend)(
        withLease(key, { ttl: "1 second" })((lease) => Effect.andThen(Deferred.succeed(lost, lease), Effect.never))
      ).pipe(Effect.flip, Effect.forkChild)
      const lease = yield* Deferred.await(lost)
      yield* backend.delete(record)
      const error = yield* Fiber.join(holding)
      assert.isTrue(error._tag === "LeaseLost" && error.reason === "Deleted", String(error))
      yield* failsWith(backend.get(record), "RecordNotFound")
      // A token after that of a deleted record is the wall time, which stands still in the suite.
      yield* TestClock.adjust("1 second")
      const next = yield* newProcess(backend)(acquire(key, { ttl: "1 second" }))
      assert.isAbove(next.token, lease.token)
    })
  ),

  example(
    3,
    "a lease stays held although every second answer to its writes is lost",
    Effect.fnUntraced(function* (backend, owner) {
      const key = { owner, id: "a" }
      let writes = 0
      const enough = yield* Deferred.make<void>()
      const first = newProcess(backend, {
        fateOf: ({ name }) => {
          if (name !== "putIfVersion") return "pass"
          if (++writes === 6) Deferred.doneUnsafe(enough, Effect.void)
          // Time passes, so a lease that does not see that it was renewed is lost.
          return { before: TestClock.adjust("250 millis"), outcome: writes % 2 === 1 ? "lose" : "pass" }
        }
      })
      const holding = first(withLease(key, { ttl: "900 millis" })(Effect.as(Deferred.await(enough), "held")))
      assert.strictEqual(yield* holding, "held")
      yield* newProcess(backend)(Effect.scoped(tryAcquire(key, { ttl: "1 second" })))
    })
  )
]

/** The cases that need commits of several records. */
export const fencedLeasesOf = ({ acquire }: Pick<Leases, "acquire">): ReadonlyArray<Draft> => [
  example(
    2,
    "a commit that is fenced by a lease writes nothing once another holds the lease",
    Effect.fnUntraced(function* (backend, owner) {
      const key = { owner, id: "a" }
      const lease = yield* newProcess(backend)(acquire(key, { ttl: "1 minute" }))
      yield* lease.commit([{ _tag: "Write", id: "b", expected: 0, data: "first" }])
      yield* backend.delete(keyOf(owner, "lease/a"))
      yield* newProcess(backend)(acquire(key, { ttl: "1 minute" }))
      yield* failsWith(lease.commit([{ _tag: "Write", id: "b", expected: 1, data: "second" }]), "LeaseLost")
      assert.strictEqual((yield* backend.get(keyOf(owner, "b"))).data, "first")
    })
  )
]

export const leases: ReadonlyArray<Draft> = leasesOf(Lease)

export const fencedLeases: ReadonlyArray<Draft> = fencedLeasesOf(Lease)
