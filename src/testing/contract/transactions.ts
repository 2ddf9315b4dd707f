/** Promise 11, as transactions show it. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { StorageBackend } from "../../StorageBackend.ts"
import * as Transaction from "../../Transaction.ts"
import * as VersionedStore from "../../VersionedStore.ts"
import * as Faults from "../Faults.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, losing } from "../internal/drafts.ts"
import { failsWith } from "../internal/support.ts"

const makeAccounts = VersionedStore.make({ idPrefix: "account/", schema: Schema.Int })

/** Retries that a broken backend uses up in little time. */
const retrySchedule = Schedule.exponential("1 millis").pipe(
  Schedule.modifyDelay(() => Effect.map(Random.next, (part) => Duration.millis(part * 20))),
  Schedule.upTo({ times: 100 })
)

const run = <A, E, R>(owner: string, f: (tx: Transaction.Transaction) => Effect.Effect<A, E, R>) =>
  Transaction.run(owner, f, { retrySchedule })

type Accounts = Effect.Success<typeof makeAccounts>

const ids = ["a", "b", "c", "d"] as const

/** Moves an amount from one account to another. Does nothing if there is too little. */
const transfer = (accounts: Accounts, owner: string, from: string, to: string, amount: number) =>
  run(
    owner,
    Effect.fnUntraced(function* (tx) {
      const balance = yield* tx.get(accounts, from)
      if (balance < amount) return
      yield* tx.set(accounts, from, balance - amount)
      yield* tx.update(accounts, to, (balance) => balance + amount)
    })
  )

/** Opens accounts with 100 each, runs 8 fibers with 5 transfers each, and returns the sum. */
const sumAfterTransfers = Effect.fnUntraced(function* (
  accounts: Accounts,
  owner: string,
  move: (from: string, to: string, amount: number) => Effect.Effect<unknown, unknown>
) {
  for (const id of ids) yield* accounts.create({ owner, id }, 100)
  yield* Effect.forEach(
    Array.from({ length: 8 }, (_, fiber) => fiber),
    (fiber) =>
      Effect.forEach([0, 1, 2, 3, 4], (i) => {
        const [from = "", to = ""] = [ids[(fiber + i) % 4], ids[(fiber + 2 * i + 1) % 4]]
        return from === to ? Effect.void : move(from, to, 1 + ((fiber * 7 + i) % 30))
      }),
    { concurrency: "unbounded" }
  )
  const found = yield* accounts.getMany(owner, ids)
  return found.flatMap(Option.toArray).reduce((sum, { value }) => sum + value, 0)
})

export const transactions: ReadonlyArray<Draft> = [
  example(
    11,
    "a transaction sees its own writes, and lands all of them or none",
    Effect.fnUntraced(function* (_, owner) {
      const accounts = yield* makeAccounts
      yield* accounts.create({ owner, id: "a" }, 1)
      const balances = Effect.map(accounts.getMany(owner, ids), (found) =>
        found.map((record) => Option.getOrUndefined(record)?.value)
      )
      const change = Effect.fnUntraced(function* (tx: Transaction.Transaction) {
        assert.strictEqual(yield* tx.update(accounts, "a", (n) => n + 1), 2)
        yield* tx.set(accounts, "b", 10)
        yield* tx.create(accounts, "c", 100)
        assert.strictEqual(yield* tx.get(accounts, "b"), 10)
        yield* failsWith(tx.create(accounts, "b", 0), "AlreadyExists")
        assert.isTrue(yield* tx.remove(accounts, "b"))
        assert.isFalse(yield* tx.remove(accounts, "b"))
        yield* failsWith(tx.get(accounts, "b"), "RecordNotFound")
        return yield* tx.getOption(accounts, "d")
      })
      const failing = run(owner, (tx) => Effect.andThen(change(tx), Effect.fail("on purpose")))
      assert.strictEqual(yield* Effect.flip(failing), "on purpose")
      assert.deepStrictEqual(yield* balances, [1, undefined, undefined, undefined])
      assert.isTrue(Option.isNone(yield* run(owner, change)))
      assert.deepStrictEqual(yield* balances, [2, undefined, 100, undefined])
      yield* run(owner, (tx) => tx.remove(accounts, "a"))
      assert.deepStrictEqual(yield* balances, [undefined, undefined, 100, undefined])
    })
  ),

  example(
    11,
    "of two transactions that each rely on what the other changes only one goes through as it was",
    Effect.fnUntraced(function* (_, owner) {
      const accounts = yield* makeAccounts
      for (let round = 0; round < 5; round++) {
        for (const id of ["a", "b"]) yield* accounts.set({ owner, id }, 1)
        // One of the two must stay at 1.
        const leave = (id: "a" | "b") =>
          run(
            owner,
            Effect.fnUntraced(function* (tx) {
              const sum = (yield* tx.get(accounts, "a")) + (yield* tx.get(accounts, "b"))
              yield* Effect.yieldNow
              if (sum > 1) yield* tx.set(accounts, id, 0)
            })
          )
        yield* Effect.all([leave("a"), leave("b")], { concurrency: "unbounded" })
        const found = yield* accounts.getMany(owner, ["a", "b"])
        assert.deepStrictEqual(found.map((record) => Option.getOrThrow(record).value).toSorted(), [0, 1])
      }
    })
  ),

  example(
    11,
    "a transaction runs again if a record that it read or missed has changed",
    Effect.fnUntraced(function* (_, owner) {
      const accounts = yield* makeAccounts
      yield* accounts.create({ owner, id: "read" }, 1)
      yield* accounts.create({ owner, id: "gone" }, 1)
      const changes: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        accounts.create({ owner, id: "missed" }, 1),
        accounts.update({ owner, id: "read" }, (n) => n + 1),
        accounts.remove({ owner, id: "gone" }),
        Effect.void
      ]
      let runs = 0
      const seen = yield* run(
        owner,
        Effect.fnUntraced(function* (tx) {
          const found = yield* Effect.forEach(["missed", "read", "gone"], (id) => tx.getOption(accounts, id))
          const change = changes[runs++] ?? Effect.void
          // The change comes from another fiber, which is not part of the transaction.
          yield* Effect.promise(() => Effect.runPromise(Effect.orDie(change)))
          yield* tx.set(accounts, "written", runs)
          return found.map(Option.getOrUndefined)
        })
      )
      assert.deepStrictEqual([runs, seen], [4, [1, 2, undefined]])
      assert.strictEqual((yield* accounts.get({ owner, id: "written" })).value, 4)
    })
  ),

  example(
    11,
    "a failure that comes from reads that never stood together is none",
    Effect.fnUntraced(function* (_, owner) {
      const accounts = yield* makeAccounts
      const both = (value: number) =>
        run(owner, (tx) => Effect.andThen(tx.set(accounts, "a", value), tx.set(accounts, "b", value)))
      yield* both(1)
      let runs = 0
      const same = yield* run(
        owner,
        Effect.fnUntraced(function* (tx) {
          const a = yield* tx.get(accounts, "a")
          if (runs++ === 0) yield* Effect.promise(() => Effect.runPromise(Effect.orDie(both(2))))
          const b = yield* tx.get(accounts, "b")
          return a === b ? a : yield* Effect.fail("a and b differ")
        })
      )
      assert.deepStrictEqual([runs, same], [2, 2])
      const failed = run(owner, (tx) =>
        Effect.andThen(Effect.all([tx.get(accounts, "a"), tx.get(accounts, "b")]), Effect.fail("on purpose"))
      )
      assert.strictEqual(yield* Effect.flip(failed), "on purpose")
    })
  ),

  example(
    11,
    "transfers by many fibers keep the sum",
    Effect.fnUntraced(function* (_, owner) {
      const accounts = yield* makeAccounts
      const sum = yield* sumAfterTransfers(accounts, owner, (...args) => transfer(accounts, owner, ...args))
      assert.strictEqual(sum, 400)
    })
  ),

  losing(
    11,
    "if answers are lost, transfers keep the sum, whatever becomes of each",
    Effect.fnUntraced(function* (_, owner, lossy) {
      const fateOf = Faults.chance(1, { lose: 0.3 })
      let lost = 0
      const backend = yield* lossy(() => fateOf() === "lose" && lost++ >= 0)
      const accounts = yield* makeAccounts
      const losing = yield* Effect.provideService(makeAccounts, StorageBackend, backend)
      const sum = yield* sumAfterTransfers(accounts, owner, (...args) =>
        Effect.catchIf(
          transfer(losing, owner, ...args),
          (error) => error._tag === "Backend" && error.outcome === "unknown",
          () => Effect.void
        )
      )
      assert.strictEqual(sum, 400)
      assert.isAbove(lost, 3)
    })
  )
]
