import { DatabaseSync } from "node:sqlite"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { make } from "../../src/Engine.ts"
import { makeEngine } from "../../src/engine/internal/sqlite/requests.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import type { Step } from "../../src/StorageBackend.ts"
import { makeBackend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Bank from "../support/bank.ts"
import { killedWriter } from "../support/killedWriter.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { assertBackend, newFiles, on, withDatabase } from "../support/sqlite.ts"
import { until } from "../support/until.ts"

const newFile = newFiles()
const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })
const write = (id: string, expected: Step["expected"], data = `new ${id}`) =>
  ({ _tag: "Write", id, expected, data }) as const
const check = (id: string, expected: Step["expected"]) => ({ _tag: "Check", id, expected }) as const

/** Holds the lock for writes while an Effect runs, as another process would. */
const whileLocked = <A, E, R>(filename: string, effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      const db = new DatabaseSync(filename)
      db.exec("BEGIN IMMEDIATE")
      return db
    }),
    () => effect,
    (db) => Effect.sync(() => db.close())
  )

/** The ids below an owner, as another program reads them. */
const idsIn = (filename: string) =>
  withDatabase(filename, (db) =>
    db
      .prepare("SELECT id FROM records ORDER BY id")
      .all()
      .map(({ id }) => id)
  )

describe("a commit on SQLite", () => {
  it.live("of checks alone takes no lock for writes, and any other waits for it", () => {
    const filename = newFile()
    return on({ filename, retrySchedule: Schedule.spaced("1 millis") })((backend) =>
      Effect.gen(function* () {
        yield* backend.put(keyOf("a"), "one")
        const writing = yield* whileLocked(
          filename,
          Effect.gen(function* () {
            yield* backend.commit(owner, [check("a", 1), check("b", 0)])
            const error = yield* Effect.flip(backend.commit(owner, [check("a", 2), check("b", 0)]))
            assert.strictEqual(error._tag, "VersionConflict")
            const fiber = yield* Effect.forkChild(backend.commit(owner, [check("a", 1), write("b", 0)]), {
              startImmediately: true
            })
            assert.isUndefined(fiber.pollUnsafe())
            return fiber
          })
        )
        assert.strictEqual((yield* Fiber.join(writing))[1]?.version, 1)
      })
    )
  })

  it.live("fails if the file stays locked, and has changed nothing", () => {
    const filename = newFile()
    return on({ filename, retrySchedule: Schedule.recurs(1) })((backend) =>
      Effect.gen(function* () {
        yield* backend.put(keyOf("a"), "one")
        const error = yield* whileLocked(filename, Effect.flip(backend.commit(owner, [write("a", 1), write("b", 0)])))
        assertBackend(error, { reason: "Unavailable", retryable: true, says: "commit failed" })
        assert.deepStrictEqual(idsIn(filename), ["a"])
        yield* backend.commit(owner, [write("a", 1), write("b", 0)])
      })
    )
  })

  it.live("shares a transaction with writes that are refused and one that fails, and is whole", () => {
    const filename = newFile()
    return on({ filename })((backend) =>
      Effect.gen(function* () {
        yield* backend.put(keyOf("a"), "one")
        // The file refuses one record's data, as a full disk would refuse any.
        withDatabase(filename, (db) =>
          db.exec(`CREATE TRIGGER refuse BEFORE INSERT ON records WHEN new.data = 'refused'
            BEGIN SELECT RAISE(ABORT, 'refused by a trigger'); END`)
        )
        const operations: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
          backend.put(keyOf("before"), "data"),
          backend.commit(owner, [write("c1", 0), write("c2", 0)]),
          backend.commit(owner, [write("f1", 0), write("f2", 0, "refused"), write("f3", 0)]),
          backend.putIfVersion(keyOf("a"), "two", 7),
          backend.commit(owner, [write("a", 1), write("d", 0)]),
          backend.commit(owner, [write("a", 1), write("e", 0)]),
          backend.put(keyOf("g"), "refused"),
          backend.put(keyOf("z"), "data")
        ]
        const results = yield* Effect.forEach(
          operations,
          (operation) => Effect.result(Effect.andThen(Effect.yieldNow, operation)),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          results.map((result) => (result._tag === "Success" ? "made" : (result.failure as { _tag: string })._tag)),
          ["made", "made", "Backend", "VersionConflict", "made", "VersionConflict", "Backend", "made"]
        )
        assert.deepStrictEqual(idsIn(filename), ["a", "before", "c1", "c2", "d", "z"])
      })
    )
  })

  it.live("shares a transaction with one that the disk has no room for, and is whole", () => {
    const filename = newFile()
    return Effect.gen(function* () {
      yield* on({ filename })((backend) => backend.put(keyOf("a"), "one"))
      const db = yield* Effect.acquireRelease(
        Effect.sync(() => new DatabaseSync(filename)),
        (db) => Effect.sync(() => db.close())
      )
      db.exec("PRAGMA max_page_count = 40")
      const backend = make(
        makeEngine(db, {
          run: { read: Effect.sync, write: Effect.sync },
          retrySchedule: Schedule.recurs(0),
          toBackend: ({ message }) =>
            makeBackend({ reason: "Unavailable", outcome: "not-applied", description: message })
        })
      )
      const commits = [
        [write("b1", 0), write("b2", 0)],
        [write("c1", 0), write("c2", 0, "x".repeat(200_000)), write("c3", 0)],
        [write("a", 1), write("d", 0)]
      ]
      const results = yield* Effect.forEach(commits, (steps) => Effect.result(backend.commit(owner, steps)), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        results.map((result) => (result._tag === "Success" ? "made" : result.failure.message)),
        ["made", "commit failed: database or disk is full", "made"]
      )
      assert.deepStrictEqual(idsIn(filename), ["a", "b1", "b2", "d"])
    })
  })

  it.live("that is interrupted while it waits is left out", () => {
    const filename = newFile()
    return on({ filename, retrySchedule: Schedule.spaced("1 millis") })((backend) =>
      Effect.gen(function* () {
        const [first, second] = yield* whileLocked(
          filename,
          Effect.gen(function* () {
            const fibers = yield* Effect.forEach(["a", "b"], (id) =>
              Effect.forkChild(backend.commit(owner, [write(id, 0), write(`${id}2`, 0)]), { startImmediately: true })
            )
            yield* Fiber.interrupt(fibers[0] as (typeof fibers)[number])
            return fibers
          })
        )
        yield* until(() => second?.pollUnsafe() !== undefined)
        assert.isDefined(first?.pollUnsafe())
        assert.deepStrictEqual(idsIn(filename), ["b", "b2"])
      })
    )
  })

  const kills = 20
  it.live(`is whole if processes are killed in the middle of their commits, ${kills} times`, () =>
    Effect.gen(function* () {
      const filename = newFile()
      const random = randomFrom(newSeed("SQLite, commits, killed"))
      yield* Effect.provide(Effect.flatMap(Bank.open, Bank.openAccounts), Sqlite.layer({ filename }))
      let acknowledged = 0
      for (let i = 0; i < kills / 2; i++) {
        // Two processes at once, so that one of them goes on after the other one is killed.
        const told = yield* Effect.all(
          [1, 2].map(() => killedWriter("bankWriter.ts", ["sqlite", filename], random() * 60)),
          { concurrency: "unbounded" }
        )
        const { names, sum, wrong } = yield* Effect.provide(
          Effect.flatMap(Bank.open, Bank.audit),
          Sqlite.layer({ filename })
        )
        assert.deepStrictEqual([sum, wrong], [Bank.totalOpening, []])
        for (const name of told.flat()) assert.isTrue(names.has(name), "an acknowledged transfer is lost")
        acknowledged += told.flat().length
      }
      console.log(`SQLite: ${kills} kills, ${acknowledged} transfers acknowledged, none lost, none half made`)
      assert.isAtLeast(acknowledged, kills)
    })
  )
})
