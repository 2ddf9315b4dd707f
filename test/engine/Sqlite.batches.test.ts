import { DatabaseSync } from "node:sqlite"
import { setImmediate as nextTurn } from "node:timers/promises"
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import { TestClock } from "effect/testing"
import { maxBatchLength, maxBatchWrites } from "../../src/engine/internal/sqlite/batch.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"
import { assertBackend, newFiles, on, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const keyOf = (id: number | string) => makeUnsafe({ owner: "alice", id: String(id) })
const alices = StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "" })
const range = (length: number) => Array.from({ length }, (_, i) => i)

/** Waits until the event loop has turned, so that each write that came before has run. */
const turn = Effect.promise(() => nextTurn())

/** Starts an Effect in a fiber of its own, and runs it as far as it goes without waiting. */
const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** Starts a write that is alone, so that those that are started after it in this turn are gathered. */
const startFirst = (backend: StorageBackend["Service"]) => Effect.andThen(turn, start(backend.put(keyOf("first"), "")))

/** Runs an Effect while a function is called before each `exec` of SQL on a file. */
const beforeExec = <A, E, R>(called: (sql: string) => void, effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      const { exec } = DatabaseSync.prototype
      return vi.spyOn(DatabaseSync.prototype, "exec").mockImplementation(function (this: DatabaseSync, sql) {
        called(sql)
        exec.call(this, sql)
      })
    }),
    () => effect,
    (spy) => Effect.sync(() => spy.mockRestore())
  )

/** Runs an Effect while work takes no time, so that only counts end a transaction. */
const withoutTime = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => vi.spyOn(performance, "now").mockReturnValue(0)),
    () => effect,
    (spy) => Effect.sync(() => spy.mockRestore())
  )

/** An error of SQLite. */
const sqliteError = (errcode: number) => Object.assign(new Error("told to fail"), { code: "ERR_SQLITE_ERROR", errcode })

/** Lets the next `COMMIT` fail with a result code, with its transaction left open. */
const failCommit = (errcode: number) => {
  let failures = 1
  return (sql: string) => {
    if (sql === "COMMIT" && failures-- > 0) throw sqliteError(errcode)
  }
}

/** Stores a record whose version can't be read, so that a write of it throws. */
const plantUnreadable = (filename: string, id: string) =>
  withDatabase(filename, (db) => {
    db.exec("PRAGMA ignore_check_constraints = ON")
    db.exec(`INSERT INTO records VALUES ('alice', '${id}', ${2n ** 60n}, 'data', NULL, NULL)`)
  })

const versionOf = (backend: StorageBackend["Service"], id: number | string) =>
  Effect.match(backend.get(keyOf(id)), { onFailure: ({ _tag }) => _tag, onSuccess: ({ version }) => version })

describe("Sqlite, on writes that arrive together,", () => {
  it.effect("runs them in one transaction, and answers none before its COMMIT", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        const executed: Array<string> = []
        let answered = 0
        const answeredAtCommit: Array<number> = []
        const called = (sql: string) => {
          executed.push(sql)
          if (sql === "COMMIT") answeredAtCommit.push(answered)
        }
        yield* startFirst(backend)
        const writes = range(60).map((i) => {
          if (i % 3 === 0) return backend.put(keyOf(i), "data")
          return i % 3 === 1 ? backend.putIfVersion(keyOf(i), "data", 0) : backend.delete(keyOf(i))
        })
        const counted = writes.map((write) =>
          Effect.tap(write as Effect.Effect<unknown, unknown>, () => Effect.sync(() => answered++))
        )
        yield* withoutTime(beforeExec(called, Effect.all(counted, { concurrency: "unbounded" })))
        assert.deepStrictEqual(executed, ["BEGIN IMMEDIATE", "COMMIT"])
        assert.deepStrictEqual(answeredAtCommit, [0])
        assert.strictEqual(answered, 60)
        assert.strictEqual((yield* backend.listByPrefix(alices)).records.length, 41)
      })
    )
  )

  it.effect("gathers what fibers write next, after their writes have been answered", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        let answered = 0
        const answeredAtCommit: Array<number> = []
        const called = (sql: string) => {
          if (sql === "COMMIT") answeredAtCommit.push(answered)
        }
        yield* startFirst(backend)
        const put = (i: number) => Effect.tap(backend.put(keyOf(i), "data"), () => Effect.sync(() => answered++))
        const write = (i: number) => Effect.repeat(put(i), { times: 9 })
        yield* withoutTime(
          beforeExec(called, Effect.forEach(range(20), write, { concurrency: "unbounded", discard: true }))
        )
        assert.deepStrictEqual(
          answeredAtCommit,
          range(10).map((i) => i * 20)
        )
        assert.strictEqual(yield* versionOf(backend, 19), 10)
      })
    )
  )

  it.effect("gives each the answer that it has in the order of arrival", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* startFirst(backend)
        const results = yield* Effect.all(
          [
            backend.putIfVersion(keyOf("a"), "one", 0),
            Effect.flip(backend.putIfVersion(keyOf("a"), "two", 0)),
            backend.putIfVersion(keyOf("a"), "three", 1, { increment: 5 }),
            backend.deleteIfVersion(keyOf("a"), 6),
            backend.put(keyOf("a"), "four")
          ],
          { concurrency: "unbounded" }
        )
        const [one, conflict, three, , four] = results
        assert.deepStrictEqual([one.version, three.version, four.version], [1, 6, 1])
        assert.isTrue(conflict._tag === "VersionConflict" && conflict.actual === 1)
        if (conflict._tag === "VersionConflict") assert.deepStrictEqual(conflict.current, one)
      })
    )
  )

  it.effect("lets reads and listings go before them", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* startFirst(backend)
        const writes = yield* Effect.forEach(range(5), (i) => start(backend.put(keyOf(i), "data")))
        const reads = [
          yield* start(Effect.exit(backend.get(keyOf("first")))),
          yield* start(Effect.exit(backend.listByPrefix(alices)))
        ]
        for (const read of reads) assert.isDefined(read.pollUnsafe(), "the read waits")
        for (const write of writes) assert.isUndefined(write.pollUnsafe())
        yield* Fiber.awaitAll(writes)
      })
    )
  )

  it.effect("runs a write that is alone at once, and the next ones of its fiber", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* turn
        const alone = yield* withoutTime(start(Effect.repeat(backend.put(keyOf("a"), "data"), { times: 9 })))
        assert.isDefined(alone.pollUnsafe(), "the write waits")
        const second = yield* start(backend.put(keyOf("b"), "data"))
        assert.isUndefined(second.pollUnsafe(), "the write of another fiber does not wait")
        yield* Fiber.join(second)
        yield* turn
        const next = yield* start(backend.put(keyOf("c"), "data"))
        assert.isDefined(next.pollUnsafe(), "the write waits in the next turn")
      })
    )
  )

  it.effect("lets a fiber that wrote with others write at once when it has become the only one", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* startFirst(backend)
        let turns = 0
        const turning = yield* start(Effect.forever(Effect.tap(turn, () => Effect.sync(() => turns++))))
        yield* withoutTime(Effect.repeat(backend.put(keyOf("a"), "data"), { times: 99 }))
        yield* Fiber.interrupt(turning)
        assert.isAtMost(turns, 3)
      })
    )
  )

  it("runs them at once in Effect.runSync, which can't wait", () => {
    const put = (i: number) => StorageBackend.use((backend) => backend.put(keyOf(i), "data"))
    const program = Effect.forEach(range(5), put, { concurrency: "unbounded" })
    const records = Effect.runSync(Effect.provide(program, Sqlite.layer({ filename: ":memory:" })))
    assert.strictEqual(records.length, 5)
  })
})

describe("Sqlite, within the bounds of a transaction,", () => {
  /** How many writes each transaction has, and in which turn of the event loop it was. */
  const transactionsOf = Effect.fnUntraced(function* (writes: number, length: number) {
    const transactions: Array<{ turn: number; answered: number }> = []
    let [turns, answered] = [0, 0]
    const called = (sql: string) => {
      if (sql === "COMMIT") transactions.push({ turn: turns, answered })
    }
    yield* on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* startFirst(backend)
        let turning = setImmediate(function count() {
          turns++
          turning = setImmediate(count)
        })
        const put = (i: number) =>
          Effect.tap(backend.put(keyOf(i), "x".repeat(length)), () => Effect.sync(() => answered++))
        yield* beforeExec(called, Effect.forEach(range(writes), put, { concurrency: "unbounded", discard: true }))
        clearImmediate(turning)
      })
    )
    assert.strictEqual(answered, writes)
    return {
      sizes: transactions.map((transaction, i) => (transactions[i + 1]?.answered ?? writes) - transaction.answered),
      turns: new Set(transactions.map(({ turn }) => turn)).size
    }
  })

  it.effect("takes so many writes, and lets the event loop turn after each", () =>
    Effect.gen(function* () {
      const { sizes, turns } = yield* withoutTime(transactionsOf(256, 10))
      assert.deepStrictEqual(sizes, Array(256 / maxBatchWrites).fill(maxBatchWrites))
      assert.strictEqual(turns, sizes.length)
    })
  )

  it.effect("takes so much data", () =>
    Effect.gen(function* () {
      const { sizes } = yield* withoutTime(transactionsOf(12, maxBatchLength / 4))
      assert.deepStrictEqual(sizes, [4, 4, 4])
    })
  )

  it.effect("takes on no more writes after two milliseconds", () =>
    Effect.gen(function* () {
      let millis = 0
      const now = vi.spyOn(performance, "now").mockImplementation(() => ++millis)
      const { sizes } = yield* transactionsOf(12, 10)
      now.mockRestore()
      assert.deepStrictEqual(sizes, [3, 3, 3, 3])
    })
  )
})

describe("Sqlite, if a write of a transaction fails,", () => {
  it.effect("makes the other writes, and fails that one alone", () => {
    const filename = newFile()
    return on({ filename })(
      Effect.fnUntraced(function* (backend) {
        plantUnreadable(filename, "30")
        yield* startFirst(backend)
        const errorOf = (i: number) =>
          Effect.match(backend.put(keyOf(i), "data"), { onFailure: (error) => error, onSuccess: () => undefined })
        const errors = yield* Effect.forEach(range(64), errorOf, { concurrency: "unbounded" })
        assert.deepStrictEqual(
          range(64).filter((i) => errors[i] !== undefined),
          [30]
        )
        assertBackend(errors[30] as Backend, { reason: "Corrupt", says: "repair or delete that record" })
        for (const i of range(64)) if (i !== 30) assert.strictEqual(yield* versionOf(backend, i), 1)
      })
    )
  })

  for (const [name, errcode] of [
    ["a lock", 5],
    ["a full disk", 13],
    ["a page that can't be written", 778]
  ] as const) {
    it.live(`makes all writes after a COMMIT that met ${name}, each once`, () =>
      on({ filename: newFile() })(
        Effect.fnUntraced(function* (backend) {
          yield* startFirst(backend)
          const put = (i: number) => backend.put(keyOf(i), "data")
          const records = yield* beforeExec(
            failCommit(errcode),
            Effect.forEach(range(20), put, { concurrency: "unbounded" })
          )
          for (const record of records) assert.deepStrictEqual(yield* backend.get(record.key), record)
          for (const { version } of records) assert.strictEqual(version, 1)
        })
      )
    )
  }

  it.effect("does not know of them if the disk failed to confirm the COMMIT, and writes again after", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* startFirst(backend)
        const put = (i: number) => Effect.flip(backend.put(keyOf(i), "data"))
        const writes = Effect.forEach(range(5), put, { concurrency: "unbounded" })
        const errors = yield* withoutTime(beforeExec(failCommit(1034), writes))
        for (const error of errors) {
          assertBackend(error, { reason: "Unavailable", outcome: "unknown", says: "The disk failed" })
        }
        for (const i of range(5)) assert.strictEqual((yield* backend.put(keyOf(i), "data")).version, 1)
      })
    )
  )

  it.effect("fails each write if the file was closed before the transaction", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(Sqlite.layer({ filename: newFile() }), scope)
      const put = (i: number) => Effect.flip(StorageBackend.use((backend) => backend.put(keyOf(i), "data")))
      yield* turn
      yield* Effect.provide(
        StorageBackend.use((backend) => backend.put(keyOf("a"), "data")),
        context
      )
      const writes = yield* Effect.forEach(range(3), (i) => start(Effect.provide(put(i), context)))
      for (const write of writes) assert.isUndefined(write.pollUnsafe())
      yield* Scope.close(scope, Exit.void)
      for (const write of writes) {
        assertBackend(yield* Fiber.join(write), { reason: "Misconfigured", says: "was closed with the scope" })
      }
    })
  )
})

describe("Sqlite, if a write is interrupted,", () => {
  it.effect("leaves it out of the transaction", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* startFirst(backend)
        const writes = yield* Effect.forEach(range(10), (i) => start(backend.put(keyOf(i), "data")))
        yield* Effect.forEach(writes, (write, i) => (i % 2 === 0 ? Fiber.interrupt(write) : Effect.void))
        yield* Fiber.awaitAll(writes)
        const versions = yield* Effect.forEach(range(10), (i) => versionOf(backend, i))
        assert.deepStrictEqual(
          versions,
          range(10).map((i) => (i % 2 === 0 ? "RecordNotFound" : 1))
        )
      })
    )
  )

  it.effect("leaves it out while it waits for a lock", () => {
    const filename = newFile()
    return on({ filename })(
      Effect.fnUntraced(function* (backend) {
        const other = new DatabaseSync(filename)
        other.exec("BEGIN IMMEDIATE")
        const writes = yield* Effect.forEach(range(4), (i) => start(backend.put(keyOf(i), "data")))
        yield* turn
        yield* TestClock.adjust("1 second")
        for (const write of writes) assert.isUndefined(write.pollUnsafe())
        yield* Fiber.interrupt(writes[0] as Fiber.Fiber<unknown>)
        yield* Fiber.interrupt(writes[2] as Fiber.Fiber<unknown>)
        other.close()
        yield* TestClock.adjust("1 second")
        yield* Fiber.awaitAll(writes)
        const versions = yield* Effect.forEach(range(4), (i) => versionOf(backend, i))
        assert.deepStrictEqual(versions, ["RecordNotFound", 1, "RecordNotFound", 1])
      })
    )
  })
})

describe("Sqlite, if another process has the file locked,", () => {
  /** Runs an Effect while another connection has the file locked; `unlock` ends that. */
  const locked = <A, E>(filename: string, f: (unlock: () => void) => Effect.Effect<A, E>) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const db = new DatabaseSync(filename)
        db.exec("BEGIN IMMEDIATE")
        return db
      }),
      (db) => f(() => db.exec("ROLLBACK")),
      (db) => Effect.sync(() => db.close())
    )

  it.effect("tries all writes together, and runs them in one transaction when it is free", () => {
    const filename = newFile()
    const retrySchedule = Schedule.spaced("10 millis")
    return on({ filename, retrySchedule })(
      Effect.fnUntraced(function* (backend) {
        const executed: Array<string> = []
        const writes = yield* locked(
          filename,
          Effect.fnUntraced(function* (unlock) {
            const writes = yield* Effect.forEach(range(30), (i) => start(backend.put(keyOf(i), "data")))
            yield* turn
            const called = (sql: string) => executed.push(sql)
            yield* beforeExec(called, Effect.andThen(TestClock.adjust("100 millis"), Effect.sync(unlock)))
            assert.strictEqual(executed.filter((sql) => sql.startsWith("BEGIN")).length, 10)
            return writes
          })
        )
        executed.length = 0
        yield* withoutTime(beforeExec((sql) => executed.push(sql), TestClock.adjust("10 millis")))
        assert.deepStrictEqual(executed, ["BEGIN IMMEDIATE", "COMMIT"])
        for (const write of writes) assert.strictEqual((yield* Fiber.join(write)).version, 1)
      })
    )
  })

  it.effect("tries no more once every write that waits has been interrupted", () => {
    const filename = newFile()
    return on({ filename })((backend) =>
      locked(
        filename,
        Effect.fnUntraced(function* () {
          const writes = yield* Effect.forEach(range(3), (i) => start(backend.put(keyOf(i), "data")))
          yield* turn
          yield* Fiber.interruptAll(writes)
          const executed: Array<string> = []
          yield* beforeExec((sql) => executed.push(sql), TestClock.adjust("1 second"))
          assert.deepStrictEqual(executed, [])
        })
      )
    )
  })

  it.effect(
    "gives up a write when the schedule ends, and a later write after a schedule that it has waited for",
    () => {
      const filename = newFile()
      const retrySchedule = Schedule.upTo(Schedule.spaced("1 second"), { times: 4 })
      return on({ filename, retrySchedule })((backend) =>
        locked(
          filename,
          Effect.fnUntraced(function* () {
            const early = yield* Effect.forEach(range(3), (i) => start(Effect.flip(backend.put(keyOf(i), "data"))))
            yield* TestClock.adjust("2 seconds")
            const late = yield* start(Effect.flip(backend.put(keyOf("late"), "data")))
            yield* TestClock.adjust("2 seconds")
            const expected = { reason: "Unavailable", retryable: true, says: `keeps ${filename} locked` } as const
            for (const write of early) assert.isDefined(write.pollUnsafe(), "an early write still waits")
            for (const write of early) assertBackend(yield* Fiber.join(write), expected)
            yield* TestClock.adjust("3 seconds")
            assert.isUndefined(late.pollUnsafe(), "the later write has not had its own schedule")
            yield* TestClock.adjust("1 second")
            assertBackend(yield* Fiber.join(late), expected)
          })
        )
      )
    }
  )

  it.effect("gives each write a schedule of its own that comes more than five seconds later", () => {
    const filename = newFile()
    const retrySchedule = Schedule.upTo(Schedule.spaced("1 second"), { times: 10 })
    return on({ filename, retrySchedule })((backend) =>
      locked(
        filename,
        Effect.fnUntraced(function* () {
          yield* start(Effect.flip(backend.put(keyOf("early"), "data")))
          yield* TestClock.adjust("6 seconds")
          const late = yield* start(Effect.flip(backend.put(keyOf("late"), "data")))
          yield* turn
          yield* TestClock.adjust("9 seconds")
          assert.isUndefined(late.pollUnsafe())
          yield* TestClock.adjust("1 second")
          assert.isDefined(late.pollUnsafe())
        })
      )
    )
  })
})
