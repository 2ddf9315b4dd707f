import { DatabaseSync } from "node:sqlite"
import { assert, describe, it, vi } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Schedule, Scheduler, Scope } from "effect"
import { TestClock } from "effect/testing"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { assertBackend, newFiles, on, open, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const key = makeUnsafe({ owner: "alice", id: "a" })

describe("Sqlite, on a file that others use", () => {
  /** Locks the file against writers, as another process would, until the scope closes. */
  const lock = (filename: string) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        const db = new DatabaseSync(filename)
        db.exec("BEGIN IMMEDIATE")
        return db
      }),
      (db) => Effect.sync(() => db.close())
    )

  it.effect("waits for a lock without stopping the event loop", () =>
    Effect.gen(function* () {
      const filename = newFile()
      const prepare = vi.spyOn(DatabaseSync.prototype, "prepare")
      yield* on({ filename })(
        Effect.fnUntraced(function* (backend) {
          const [db] = prepare.mock.contexts
          prepare.mockRestore()
          // With a busy time-out, SQLite itself would wait, and the whole process with it.
          assert.instanceOf(db, DatabaseSync)
          assert.strictEqual(db.prepare("PRAGMA busy_timeout").get()?.timeout, 0)
          const record = yield* backend.put(key, "before")
          const holder = yield* Scope.make()
          yield* Scope.provide(lock(filename), holder)
          const writer = yield* Effect.forkChild(backend.putIfVersion(key, "after", record), { startImmediately: true })
          yield* TestClock.adjust("1 second")
          assert.isUndefined(writer.pollUnsafe(), "the write does not wait")
          assert.strictEqual((yield* backend.get(key)).data, "before", "a reader waits for a writer")
          yield* Scope.close(holder, Exit.void)
          yield* TestClock.adjust("1 second")
          assert.strictEqual((yield* Fiber.join(writer)).version, 2)
        })
      )
    })
  )

  /** Runs an Effect with something done before each transaction begins, and after it ends, by other connections. */
  const aroundTransactions = <A, E>(
    { after, before }: { readonly before?: () => void; readonly after?: () => void },
    effect: Effect.Effect<A, E>
  ) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        const { exec } = DatabaseSync.prototype
        return vi.spyOn(DatabaseSync.prototype, "exec").mockImplementation(function (this: DatabaseSync, sql) {
          if (sql.startsWith("BEGIN")) before?.()
          exec.call(this, sql)
          if (sql === "COMMIT") after?.()
        })
      }),
      () => effect,
      (spy) => Effect.sync(() => spy.mockRestore())
    )

  it.effect("succeeds after a refusal, if the expected record is there when it reads why", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* on({ filename })(
        Effect.fnUntraced(function* (backend) {
          const change = (sql: string) => () => withDatabase(filename, (db) => db.prepare(sql).run())
          yield* backend.put(key, "theirs")
          const created = yield* aroundTransactions(
            { before: change("DELETE FROM records") },
            backend.putIfVersion(key, "created", 0)
          )
          assert.deepStrictEqual(yield* backend.get(key), created)

          yield* aroundTransactions(
            { before: change("UPDATE records SET version = 7") },
            backend.putIfVersion(key, "swapped", 7)
          )
          assert.strictEqual((yield* backend.get(key)).version, 8)

          yield* aroundTransactions(
            { before: change("UPDATE records SET version = 9") },
            backend.deleteIfVersion(key, 9)
          )
          assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
        })
      )
    })
  )

  it.effect("fails with the record that was there when the write was refused, whatever happens right after", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* on({ filename })(
        Effect.fnUntraced(function* (backend) {
          const operations = [
            backend.putIfVersion(key, "ours", 0),
            backend.putIfVersion(key, "ours", 7),
            backend.deleteIfVersion(key, 7)
          ]
          for (const operation of operations) {
            const theirs = yield* backend.put(key, "theirs")
            const remove = () => withDatabase(filename, (db) => db.exec("DELETE FROM records"))
            const error = yield* Effect.flip(aroundTransactions({ after: remove }, operation))
            assert.ok(error._tag === "VersionConflict", error._tag)
            assert.deepStrictEqual([error.actual, error.current], [theirs.version, theirs])
          }
        })
      )
    })
  )

  it.effect("lets other fibers run between the writes of a fiber that only writes", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(
        function* (backend) {
          let turns = 0
          yield* Effect.forkChild(
            Effect.forever(
              Effect.andThen(
                Effect.sync(() => turns++),
                Effect.yieldNow
              )
            )
          )
          for (let i = 0; i < 1000; i++) yield* backend.put(key, "data")
          assert.isAbove(turns, 2)
        },
        Effect.provideService(Scheduler.MaxOpsBeforeYield, Number.MAX_SAFE_INTEGER)
      )
    )
  )

  it.effect("also waits for a lock when it opens the file", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* open({ filename })
      const opened = yield* Effect.scoped(
        Effect.gen(function* () {
          yield* lock(filename)
          const opening = yield* Effect.forkDetach(open({ filename }), { startImmediately: true })
          yield* TestClock.adjust("1 second")
          assert.isUndefined(opening.pollUnsafe())
          return opening
        })
      )
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(opened)
    })
  )

  it.effect("gives up after 30 seconds of a lock, or when the schedule ends, with nothing written", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* open({ filename })
      const expected = { reason: "Unavailable", retryable: true, says: `keeps ${filename} locked` } as const
      yield* lock(filename)
      const patient = yield* Effect.forkChild(
        on({ filename: ":memory:" })(() => Effect.flip(open({ filename }))),
        { startImmediately: true }
      )
      yield* TestClock.adjust("29 seconds")
      assert.isUndefined(patient.pollUnsafe())
      yield* TestClock.adjust("2 seconds")
      assertBackend(yield* Fiber.join(patient), expected)
      const impatient = Effect.flip(open({ filename, retrySchedule: Schedule.recurs(0) }))
      assertBackend(yield* impatient, expected)
    }).pipe(Effect.scoped)
  )

  it.effect("tries a locked file again only by its own schedule", () =>
    Effect.gen(function* () {
      const filename = newFile()
      const started = yield* Clock.currentTimeMillis
      const retrySchedule = Schedule.upTo(Schedule.spaced("1 second"), { times: 3 })
      yield* on({ filename, retrySchedule })(
        Effect.fnUntraced(function* (backend) {
          yield* lock(filename)
          const operations = [Effect.asVoid(backend.put(key, "data")), Effect.asVoid(backend.delete(key))]
          for (const [round, operation] of operations.entries()) {
            const fiber = yield* Effect.forkChild(
              Effect.flatMap(Effect.flip(operation), (error) =>
                Effect.map(Clock.currentTimeMillis, (ended) => ({ error, ended }))
              ),
              { startImmediately: true }
            )
            yield* TestClock.adjust("1 minute")
            const { ended, error } = yield* Fiber.join(fiber)
            assertBackend(error, { reason: "Unavailable", retryable: true, says: `keeps ${filename} locked` })
            assert.strictEqual(ended - started, round * 60_000 + 3000)
          }
        }, Effect.scoped)
      )
    })
  )
})
