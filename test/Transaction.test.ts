import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Option, Schedule, Schema, SchemaGetter } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../src/engine/InMemory.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import * as Transaction from "../src/Transaction.ts"
import * as Faults from "../src/testing/Faults.ts"
import * as VersionedStore from "../src/VersionedStore.ts"

const owner = "alice"
const makeCounters = VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })

/** A store of numbers whose codec takes turns of other fibers. */
const Slow = Schema.Int.pipe(
  Schema.decodeTo(Schema.Int, {
    decode: SchemaGetter.transformEffect((n: number) => Effect.as(Effect.yieldNow, n)),
    encode: SchemaGetter.transformEffect((n: number) => Effect.as(Effect.yieldNow, n))
  })
)
const makeSlow = VersionedStore.make({ idPrefix: "counter/", schema: Slow })

/** A store of numbers on a backend of its own, whose requests are counted and have these fates. */
const counted = Effect.fnUntraced(function* (
  fateOf?: (request: Faults.Request<keyof StorageBackend["Service"]>) => Faults.Fate
) {
  const faults = Faults.backend(yield* StorageBackend, fateOf)
  const counters = yield* Effect.provideService(makeCounters, StorageBackend, faults.backend)
  const others = yield* makeCounters
  for (const id of ["a", "b"]) yield* others.create({ owner, id }, 1)
  return { ...faults, counters, others }
})

const onMemory = <A, E>(effect: Effect.Effect<A, E, StorageBackend>) => Effect.provide(effect, InMemory.layer)

/** Runs what another process would do, outside of the transaction. */
const elsewhere = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.promise(() => Effect.runPromise(Effect.orDie(effect)))

const defectOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(effect), (exit) =>
    Exit.isFailure(exit) && Cause.hasDies(exit.cause) ? String(Cause.squash(exit.cause)) : "no defect"
  )

describe("a transaction takes", () => {
  const costs: ReadonlyArray<
    readonly [
      name: string,
      f: (
        tx: Transaction.Transaction,
        counters: VersionedStore.VersionedStore<number>
      ) => Effect.Effect<unknown, unknown>,
      requests: ReadonlyArray<string>
    ]
  > = [
    ["none for nothing", () => Effect.void, []],
    ["one to read a record", (tx, counters) => tx.get(counters, "a"), ["get"]],
    ["one to find none", (tx, counters) => tx.getOption(counters, "c"), ["get"]],
    [
      "one to read a record several times",
      (tx, counters) => Effect.all([tx.get(counters, "a"), tx.getOption(counters, "a"), tx.get(counters, "a")]),
      ["get"]
    ],
    [
      "three to read two records",
      (tx, counters) => Effect.all([tx.get(counters, "a"), tx.get(counters, "b")]),
      ["get", "get", "commit"]
    ],
    ["two to change a record", (tx, counters) => tx.update(counters, "a", (n) => n + 1), ["get", "commit"]],
    ["two to set a record that it has not read", (tx, counters) => tx.set(counters, "a", 7), ["get", "commit"]],
    [
      "three to change two records",
      (tx, counters) => Effect.all([tx.update(counters, "a", (n) => n - 1), tx.update(counters, "b", (n) => n + 1)]),
      ["get", "get", "commit"]
    ],
    ["one to remove nothing", (tx, counters) => tx.remove(counters, "c"), ["get"]],
    [
      "one to create and remove again",
      (tx, counters) => Effect.andThen(tx.create(counters, "c", 1), tx.remove(counters, "c")),
      ["get"]
    ]
  ]
  for (const [name, f, expected] of costs) {
    it.effect(`${name}`, () =>
      Effect.gen(function* () {
        const { counters, taken } = yield* counted()
        yield* Transaction.run(owner, (tx) => f(tx, counters))
        assert.deepStrictEqual(taken(), expected)
      }).pipe(onMemory)
    )
  }
})

describe("a transaction writes", () => {
  it.effect("an expiry as the store does: set and create from their options, update keeps it unless it gives one", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted()
      const ids = ["kept", "set", "changed", "created"]
      const found = Effect.map(counters.getMany(owner, ids), (records) =>
        records.flatMap(Option.toArray).map(({ key }) => key.id)
      )
      for (const id of ids.slice(0, 3)) yield* counters.create({ owner, id }, 1, { ttl: "10 seconds" })
      yield* Transaction.run(
        owner,
        Effect.fnUntraced(function* (tx) {
          yield* tx.update(counters, "kept", (n) => n + 1)
          yield* tx.set(counters, "set", 2)
          yield* tx.update(counters, "changed", (n) => n + 1, { ttl: "20 seconds" })
          yield* tx.update(counters, "changed", (n) => n + 1)
          yield* tx.create(counters, "created", 1, { ttl: "5 seconds" })
        })
      )
      assert.deepStrictEqual(yield* found, ids)
      yield* TestClock.adjust("6 seconds")
      assert.deepStrictEqual(yield* found, ["kept", "set", "changed"])
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* found, ["set", "changed"])
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* found, ["set"])
    }).pipe(onMemory)
  )

  it.effect("nothing if it is interrupted before its end", () =>
    Effect.gen(function* () {
      const { counters, taken } = yield* counted()
      const fiber = yield* Effect.forkChild(
        Transaction.run(owner, (tx) => Effect.andThen(tx.set(counters, "a", 7), Effect.never)),
        { startImmediately: true }
      )
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(taken(), ["get"])
      assert.strictEqual((yield* counters.get({ owner, id: "a" })).value, 1)
    }).pipe(onMemory)
  )
})

describe("after a conflict", () => {
  it.effect("a transaction runs again at once, and later after random waits, for 30 seconds", () =>
    Effect.gen(function* () {
      const { counters, others } = yield* counted()
      let runs = 0
      const fiber = yield* Effect.forkChild(
        Effect.flip(
          Transaction.run(
            owner,
            Effect.fnUntraced(function* (tx) {
              runs++
              yield* tx.update(counters, "a", (n) => n + 1)
              yield* elsewhere(others.update({ owner, id: "a" }, (n) => n + 10))
            })
          )
        )
      )
      while (runs < 2) yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      while (fiber.pollUnsafe() === undefined) {
        yield* TestClock.adjust("1 second")
        yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      }
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag, "VersionConflict")
      assert.isAbove(runs, 25)
    }).pipe(onMemory)
  )

  it.effect("a schedule of its own decides, and a record that is gone is a conflict with version 0", () =>
    Effect.gen(function* () {
      const { counters, others } = yield* counted()
      let runs = 0
      const error = yield* Effect.flip(
        Transaction.run(
          owner,
          Effect.fnUntraced(function* (tx) {
            runs++
            yield* tx.update(counters, "a", (n) => n + 1)
            yield* elsewhere(others.remove({ owner, id: "a" }))
            yield* elsewhere(runs < 3 ? others.create({ owner, id: "a" }, 1) : Effect.void)
          }),
          { retrySchedule: Schedule.recurs(2) }
        )
      )
      assert.isTrue(error._tag === "VersionConflict" && error.actual === 0 && error.expected === 1)
      assert.strictEqual(runs, 3)
    }).pipe(onMemory)
  )

  it.effect("of its function's own no transaction runs again", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted()
      const old = yield* counters.get({ owner, id: "b" })
      yield* counters.update({ owner, id: "b" }, (n) => n + 1)
      let runs = 0
      const error = yield* Effect.flip(
        Transaction.run(owner, (tx) =>
          Effect.suspend(() => {
            runs++
            return Effect.andThen(tx.set(counters, "a", 2), counters.setIfVersion(old, 3))
          })
        )
      )
      assert.deepStrictEqual([error._tag, runs], ["VersionConflict", 1])
      assert.strictEqual((yield* counters.get({ owner, id: "a" })).value, 1)
    }).pipe(onMemory)
  )
})

describe("a transaction within another", () => {
  it.effect("joins it, and takes back its own writes alone if it fails", () =>
    Effect.gen(function* () {
      const { counters, taken } = yield* counted()
      yield* Transaction.run(
        owner,
        Effect.fnUntraced(function* (tx) {
          yield* tx.set(counters, "a", 2)
          const inner = Transaction.run(owner, (inner) =>
            Effect.andThen(
              Effect.all([inner.set(counters, "a", 3), inner.set(counters, "b", 3)]),
              Effect.fail("inner" as const)
            )
          )
          assert.strictEqual(yield* Effect.flip(inner), "inner")
          assert.deepStrictEqual([yield* tx.get(counters, "a"), yield* tx.get(counters, "b")], [2, 1])
          yield* Transaction.run(owner, (inner) => inner.update(counters, "b", (n) => n + 5))
        })
      )
      assert.deepStrictEqual(taken(), ["get", "get", "commit"])
      const found = yield* counters.getMany(owner, ["a", "b"])
      assert.deepStrictEqual(
        found.map((record) => Option.getOrThrow(record).value),
        [2, 6]
      )
    }).pipe(onMemory)
  )

  it.effect("that fails takes back nothing that its outer one writes meanwhile", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted()
      yield* Transaction.run(
        owner,
        Effect.fnUntraced(function* (tx) {
          const [begun, written] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
          const inner = Transaction.run(
            owner,
            Effect.fnUntraced(function* (inner) {
              yield* inner.set(counters, "b", 9)
              yield* Deferred.succeed(begun, undefined)
              yield* Deferred.await(written)
              return yield* Effect.fail("inner")
            })
          )
          const outer = Effect.gen(function* () {
            yield* Deferred.await(begun)
            assert.strictEqual(yield* tx.get(counters, "b"), 1)
            yield* tx.set(counters, "a", 5)
            yield* Deferred.succeed(written, undefined)
          })
          yield* Effect.all([Effect.flip(inner), outer], { concurrency: "unbounded" })
        })
      )
      const found = yield* counters.getMany(owner, ["a", "b"])
      assert.deepStrictEqual(
        found.map((record) => Option.getOrThrow(record).value),
        [5, 1]
      )
    }).pipe(onMemory)
  )

  it.effect("runs again if another one within has changed what it saw", () =>
    Effect.gen(function* () {
      const { counters, taken } = yield* counted()
      let runs = 0
      const add = Transaction.run(
        owner,
        Effect.fnUntraced(function* (inner) {
          runs++
          const n = yield* inner.get(counters, "a")
          yield* Effect.yieldNow
          yield* inner.set(counters, "a", n + 1)
        })
      )
      yield* Transaction.run(owner, () =>
        Transaction.run(owner, () => Effect.all([add, add, add], { concurrency: "unbounded" }))
      )
      assert.strictEqual((yield* counters.get({ owner, id: "a" })).value, 4)
      assert.isAbove(runs, 3)
      assert.strictEqual(taken().filter((name) => name === "commit").length, 1)
    }).pipe(onMemory)
  )

  it.effect("takes back what it wrote by the outer one's tx as well", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted()
      yield* Transaction.run(
        owner,
        Effect.fnUntraced(function* (tx) {
          yield* tx.update(counters, "b", (n) => n + 1)
          const inner = Transaction.run(
            owner,
            Effect.fnUntraced(function* (inner) {
              yield* inner.update(counters, "a", (n) => n + 1)
              yield* tx.update(counters, "a", (n) => n + 1)
              assert.strictEqual(yield* inner.get(counters, "a"), 3)
              return yield* Effect.fail("inner")
            })
          )
          assert.strictEqual(yield* Effect.flip(inner), "inner")
          assert.strictEqual(yield* tx.get(counters, "a"), 1)
        })
      )
      const found = yield* counters.getMany(owner, ["a", "b"])
      assert.deepStrictEqual(
        found.map((record) => Option.getOrThrow(record).value),
        [1, 2]
      )
    }).pipe(onMemory)
  )

  it.effect("on records of another owner is a defect", () =>
    Effect.gen(function* () {
      const run = Transaction.run("alice", () => Transaction.run("bob", () => Effect.void))
      assert.include(yield* defectOf(run), "records of bob can't run within one on records of alice")
    })
  )
})

describe("a defect", () => {
  it.effect("is a store of another backend, and one that VersionedStore.make did not make", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted()
      const elsewhere = yield* Effect.provide(makeCounters, InMemory.layer)
      const both = Transaction.run(owner, (tx) => Effect.andThen(tx.get(counters, "a"), tx.getOption(elsewhere, "a")))
      assert.include(yield* defectOf(both), "this store was made with another one")
      const { get } = counters
      const foreign = { get } as unknown as typeof counters
      const run = Transaction.run(owner, (tx) => tx.get(foreign, "a"))
      assert.include(yield* defectOf(run), "was not made by VersionedStore.make")
      assert.strictEqual(yield* Transaction.run(owner, (tx) => tx.get({ ...counters }, "a")), 1)
    }).pipe(onMemory)
  )

  it.effect("is a write by the store itself of a record that the transaction has", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted()
      const key = { owner, id: "a" }
      const record = yield* counters.get(key)
      const writes: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        counters.update(key, (n) => n + 1),
        counters.updateEffect(key, Effect.succeed),
        counters.upsert(key, () => 1),
        counters.touch(key, "1 hour"),
        counters.set(key, 2),
        counters.create(key, 2),
        counters.setIfVersion(record, 2),
        counters.setIfMatch(key, record.etag, 2),
        counters.remove(key),
        counters.removeIfVersion(record),
        counters.removeIfMatch(key, record.etag),
        counters.removeAll({ owner })
      ]
      for (const write of writes) {
        const run = Transaction.run(owner, (tx) => Effect.andThen(tx.get(counters, "a"), write))
        assert.include(yield* defectOf(run), "alice:counter/a is part of this transaction: change it by tx")
      }
      yield* Transaction.run(owner, (tx) =>
        Effect.andThen(
          tx.get(counters, "a"),
          counters.update({ owner, id: "b" }, (n) => n + 1)
        )
      )
      assert.strictEqual((yield* counters.get({ owner, id: "b" })).value, 2)
    }).pipe(onMemory)
  )

  it.effect("is what a transaction that is over still reads or writes", () =>
    Effect.gen(function* () {
      const { counters } = yield* counted()
      const tx = yield* Transaction.run(owner, Effect.succeed)
      assert.include(yield* defectOf(tx.set(counters, "a", 2)), "The transaction on records of alice is over")
      const inner = yield* Transaction.run(owner, () =>
        Effect.flatMap(Transaction.run(owner, Effect.succeed), (inner) => defectOf(inner.set(counters, "a", 2)))
      )
      assert.include(inner, "The transaction on records of alice is over")
    }).pipe(onMemory)
  )

  it.effect("is a write that a transaction does not wait for", () =>
    Effect.gen(function* () {
      const counters = yield* makeSlow
      const writes: ReadonlyArray<(tx: Transaction.Transaction) => Effect.Effect<unknown, unknown>> = [
        (tx) => tx.set(counters, "a", 2),
        () => Transaction.run(owner, () => Effect.yieldNow)
      ]
      for (const write of writes) {
        const fiber = yield* Transaction.run(owner, (tx) => Effect.forkDetach(write(tx), { startImmediately: true }))
        assert.include(yield* defectOf(Fiber.join(fiber)), "The transaction on records of alice is over")
      }
    }).pipe(onMemory)
  )
})

describe("fibers of one transaction", () => {
  it.effect("lose none of the updates that they make of one record", () =>
    Effect.gen(function* () {
      const counters = yield* makeSlow
      yield* counters.create({ owner, id: "a" }, 1)
      yield* Transaction.run(owner, (tx) =>
        Effect.all(
          Array.from({ length: 10 }, () => tx.update(counters, "a", (n) => n + 1)),
          { concurrency: "unbounded" }
        )
      )
      assert.strictEqual((yield* counters.get({ owner, id: "a" })).value, 11)
    }).pipe(onMemory)
  )

  it.effect("create a record only once", () =>
    Effect.gen(function* () {
      const counters = yield* makeSlow
      const results = yield* Transaction.run(owner, (tx) =>
        Effect.all(
          [1, 2].map((n) => Effect.result(tx.create(counters, "a", n))),
          { concurrency: "unbounded" }
        )
      )
      assert.deepStrictEqual(results.map(({ _tag }) => _tag).toSorted(), ["Failure", "Success"])
    }).pipe(onMemory)
  )
})

it.effect("an interruption from within because of reads that never stood together is none", () =>
  Effect.gen(function* () {
    const { counters, others } = yield* counted()
    const both = Effect.andThen(others.set({ owner, id: "a" }, 2), others.set({ owner, id: "b" }, 2))
    let runs = 0
    const compare = Effect.fnUntraced(function* (tx: Transaction.Transaction) {
      const a = yield* tx.get(counters, "a")
      if (runs++ === 0) yield* elsewhere(both)
      return a === (yield* tx.get(counters, "b")) ? a : yield* Effect.interrupt
    })
    assert.deepStrictEqual([yield* Transaction.run(owner, compare), runs], [2, 2])
  }).pipe(onMemory)
)

it.effect("a value that is too large because of reads that never stood together is none", () =>
  Effect.gen(function* () {
    const texts = yield* VersionedStore.make({ idPrefix: "text/", schema: Schema.String })
    const half = "x".repeat(300_000)
    const both = (a: string, b: string) =>
      Transaction.run(owner, (tx) => Effect.andThen(tx.set(texts, "a", a), tx.set(texts, "b", b)))
    yield* both(half, "")
    let runs = 0
    const join = Transaction.run(
      owner,
      Effect.fnUntraced(function* (tx) {
        const a = yield* tx.get(texts, "a")
        if (runs++ === 0) yield* elsewhere(both("", half))
        const joined = `${a}${yield* tx.get(texts, "b")}`
        yield* tx.set(texts, "joined", joined)
        return joined.length
      })
    )
    assert.deepStrictEqual([yield* join, runs], [300_000, 2])
    yield* both(half, half)
    assert.strictEqual((yield* Effect.flip(join))._tag, "CapacityExceeded")
  }).pipe(onMemory)
)

it.effect("a transaction of more than a hundred records fails with InvalidCommit", () =>
  Effect.gen(function* () {
    const { counters } = yield* counted()
    const error = yield* Effect.flip(
      Transaction.run(owner, (tx) =>
        Effect.forEach(
          Array.from({ length: 101 }, (_, i) => `${i}`),
          (id) => tx.set(counters, id, 1)
        )
      )
    )
    assert.isTrue(error._tag === "InvalidCommit" && error.problem === "TooManySteps")
  }).pipe(onMemory)
)
