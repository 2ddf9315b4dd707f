import { spawnSync } from "node:child_process"
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { assert, beforeAll, describe, it, vi } from "@effect/vitest"
import {
  Cause,
  Clock,
  Config,
  ConfigProvider,
  DateTime,
  Effect,
  Exit,
  Fiber,
  Layer,
  Schedule,
  Scheduler,
  Scope
} from "effect"
import { TestClock } from "effect/testing"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { mayMount } from "../support/machine.ts"
import { assertHides } from "../support/shown.ts"
import { newFiles, plant, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const key = makeUnsafe({ owner: "alice", id: "a" })
const alices = StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "" })

/** Does something with a store in a file that is opened before and closed after. */
const on =
  (options: Sqlite.Options) =>
  <A, E>(f: (backend: StorageBackend["Service"]) => Effect.Effect<A, E>) =>
    Effect.provide(StorageBackend.use(f), Sqlite.layer(options))

const open = (options: Sqlite.Options) => on(options)(() => Effect.void)

const assertBackend = (
  error: { readonly _tag: string },
  expected: { reason: Backend["reason"]["_tag"]; outcome?: Backend["outcome"]; retryable?: boolean; says: string }
) => {
  assert.strictEqual(error._tag, "Backend")
  const { isRetryable, message, outcome, reason } = error as Backend
  assert.strictEqual(reason._tag, expected.reason, message)
  assert.strictEqual(outcome, expected.outcome ?? "not-applied", message)
  assert.strictEqual(isRetryable, expected.retryable ?? false, message)
  assert.include(message, expected.says)
}

describe("Sqlite", () => {
  const shared = newFile()
  StorageContract.suite("Sqlite", Sqlite.layer({ filename: shared }), { shared: true, plant: plant(shared) })

  it.effect("keeps records, versions and expiry in the file, and closes it with the scope", () =>
    Effect.gen(function* () {
      const filename = newFile()
      const expiresAt = DateTime.add(yield* DateTime.now, { hours: 1 })
      const written = yield* on({ filename })((backend) =>
        Effect.andThen(backend.put(key, "one"), backend.put(key, "two", { expiresAt }))
      )
      assert.isFalse(existsSync(`${filename}-wal`), "the file is still open")
      assert.deepStrictEqual(yield* on({ filename })((backend) => backend.get(key)), written)
      assert.strictEqual(written.version, 2)
      yield* TestClock.adjust("1 hour")
      const gone = yield* Effect.flip(on({ filename })((backend) => backend.get(key)))
      assert.strictEqual(gone._tag, "RecordNotFound")
    })
  )

  it.effect("is of this process alone, and fresh for every build, in memory", () =>
    Effect.gen(function* () {
      const memory = on({ filename: ":memory:" })
      assert.strictEqual((yield* memory((backend) => backend.put(key, "data"))).version, 1)
      assert.strictEqual((yield* memory((backend) => backend.put(key, "data"))).version, 1)
    })
  )

  it.effect("takes its settings from configuration", () =>
    Effect.gen(function* () {
      const layer = (env: Record<string, string>) =>
        Sqlite.layerConfig({
          filename: Config.NonEmptyString("RECORDS_FILE"),
          maxDataBytes: Config.withDefault(Config.Int("RECORDS_MAX"), undefined)
        }).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))))
      const filename = newFile()
      const put = StorageBackend.use((backend) => backend.put(key, "data"))
      yield* Effect.provide(put, layer({ RECORDS_FILE: filename }))
      assert.isTrue(existsSync(filename))
      const tooLarge = yield* Effect.flip(Effect.provide(put, layer({ RECORDS_FILE: filename, RECORDS_MAX: "3" })))
      assert.strictEqual(tooLarge._tag, "CapacityExceeded")
      const missing = yield* Effect.flip(Effect.provide(put, layer({})))
      assert.include(missing.message, "RECORDS_FILE")
    })
  )

  it.effect("acknowledges a write once the disk has it, and before that where that is wanted", () =>
    Effect.gen(function* () {
      // What SQLite calls FULL and NORMAL, as the connection has it: the layer's own is the one that opens the file.
      const opened: Array<DatabaseSync> = []
      const exec = DatabaseSync.prototype.exec
      DatabaseSync.prototype.exec = function (sql) {
        opened.push(this)
        return exec.call(this, sql)
      }
      const levelOf = (options: Sqlite.Options) =>
        on(options)(() => Effect.sync(() => opened.at(-1)?.prepare("PRAGMA synchronous").get()?.synchronous))
      yield* Effect.gen(function* () {
        assert.strictEqual(yield* levelOf({ filename: newFile() }), 2)
        assert.strictEqual(yield* levelOf({ filename: newFile(), synchronous: "NORMAL" }), 1)
      }).pipe(
        Effect.ensuring(
          Effect.sync(() => {
            DatabaseSync.prototype.exec = exec
          })
        )
      )
    })
  )
})

describe("Sqlite, on a file that it can't use", () => {
  it.effect("says so of one of a newer release, and of a database of something else, and leaves both alone", () =>
    Effect.gen(function* () {
      const newer = newFile()
      yield* open({ filename: newer })
      withDatabase(newer, (db) => db.exec("PRAGMA user_version = 2"))
      const other = newFile()
      withDatabase(other, (db) => db.exec("CREATE TABLE records (a); INSERT INTO records VALUES (1)"))
      const marked = newFile()
      withDatabase(marked, (db) => db.exec("PRAGMA application_id = 7"))
      const utf16 = newFile()
      withDatabase(utf16, (db) => db.exec("PRAGMA encoding = 'UTF-16'; CREATE TABLE t (a); DROP TABLE t"))
      for (const [filename, says] of [
        [utf16, "a database of something else"],
        [newer, "schema is 2, and this release knows 1"],
        [other, "a database of something else"],
        [marked, "a database of something else"]
      ] as const) {
        const before = readFileSync(filename)
        const error = yield* Effect.flip(open({ filename }))
        assertBackend(error, { reason: "Misconfigured", says })
        assert.include(error.message, filename)
        assert.isTrue(before.equals(readFileSync(filename)), "the file has changed")
      }
    })
  )

  it.effect("says so of one that is no SQLite file, or is damaged", () =>
    Effect.gen(function* () {
      const text = newFile()
      writeFileSync(text, "these are notes of somebody, and they are longer than the header of a database ".repeat(20))
      assertBackend(yield* Effect.flip(open({ filename: text })), { reason: "Corrupt", says: "is not an SQLite file" })

      const damaged = newFile()
      const fill = on({ filename: damaged })((backend) =>
        Effect.forEach(Array.from({ length: 100 }), (_, i) =>
          backend.put(makeUnsafe({ owner: "alice", id: String(i) }), "x".repeat(1000))
        )
      )
      yield* fill
      const file = openSync(damaged, "r+")
      for (let at = 4096; at < statSync(damaged).size; at += 4096) writeSync(file, Buffer.alloc(200, 255), 0, 200, at)
      const read = on({ filename: damaged })((backend) => backend.get(key))
      for (const error of [yield* Effect.flip(fill), yield* Effect.flip(read)]) {
        assertBackend(error, { reason: "Corrupt", says: "restore it from a backup" })
      }
    })
  )

  it.effect("says so of a missing folder, of a folder in place of a file, and of no name at all", () =>
    Effect.gen(function* () {
      const folder = newFile()
      const inMissing = yield* Effect.flip(open({ filename: join(folder, "records.db") }))
      assertBackend(inMissing, { reason: "Misconfigured", says: "in a folder that exists" })
      mkdirSync(folder)
      assertBackend(yield* Effect.flip(open({ filename: folder })), { reason: "Misconfigured", says: folder })
      assertBackend(yield* Effect.flip(open({ filename: "" })), { reason: "Misconfigured", says: "empty" })
      const unsafe = yield* Effect.flip(open({ filename: newFile(), synchronous: "OFF" as never }))
      assertBackend(unsafe, { reason: "Misconfigured", says: "FULL or NORMAL" })
      const nul = yield* Effect.flip(open({ filename: "records\0.db" }))
      assertBackend(nul, { reason: "Misconfigured", says: "U+0000" })
    })
  )

  it.effect("says so of one that can't have a write-ahead log", () =>
    Effect.gen(function* () {
      // This way of SQLite to lock files shares no memory, as some network file systems don't.
      const error = yield* Effect.flip(open({ filename: `file:${newFile()}?vfs=unix-dotfile` }))
      assertBackend(error, { reason: "Misconfigured", says: "put it on a local disk" })
    })
  )

  it.effect("lets no other program put a number there that is no version or no time", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* open({ filename })
      const insert = (version: bigint | number, expiresAt: bigint | null) =>
        withDatabase(filename, (db) =>
          db.prepare("INSERT INTO records VALUES ('alice', 'a', ?, 'data', NULL, ?)").run(version, expiresAt)
        )
      for (const [version, expiresAt] of [
        [0, null],
        [2n ** 53n, null],
        [1, 2n ** 53n],
        [1, -(2n ** 53n)]
      ] as const) {
        assert.throws(() => insert(version, expiresAt), /CHECK constraint failed/)
      }
      insert(2n ** 53n - 1n, 2n ** 53n - 1n)
      const record = yield* on({ filename })((backend) => backend.get(key))
      assert.strictEqual(record.version, Number.MAX_SAFE_INTEGER)
    })
  )

  it.effect("says so of a number that is there all the same, and leaves no read or transaction open", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* on({ filename })(
        Effect.fnUntraced(function* (backend) {
          withDatabase(filename, (db) => {
            db.exec("PRAGMA ignore_check_constraints = ON")
            db.exec(`INSERT INTO records VALUES ('alice', 'a', ${2n ** 60n}, 'data', NULL, NULL)`)
          })
          const errors = [
            yield* Effect.flip(backend.get(key)),
            yield* Effect.flip(backend.listByPrefix(alices)),
            yield* Effect.flip(backend.putIfVersion(key, "data", 0))
          ]
          for (const error of errors) assertBackend(error, { reason: "Corrupt", says: "repair or delete that record" })
          const cleared = withDatabase(filename, (db) => db.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get())
          assert.strictEqual(cleared?.busy, 0)
          assert.isTrue(yield* backend.delete(key))
          assert.strictEqual((yield* backend.put(key, "mended")).version, 1)
        })
      )
    })
  )

  it.effect("says so once its scope is closed", () =>
    Effect.gen(function* () {
      const backend = yield* on({ filename: newFile() })(Effect.succeed)
      const errors = [
        yield* Effect.flip(backend.get(key)),
        yield* Effect.flip(backend.put(key, "data")),
        yield* Effect.flip(backend.listByPrefix(alices)),
        yield* Effect.flip(backend.cleanupExpired)
      ]
      for (const error of errors) assertBackend(error, { reason: "Misconfigured", says: "was closed with the scope" })
    })
  )

  describe.skipIf(!mayMount())("a full disk", () => {
    const onDisk = () => {
      const folder = mkdtempSync(join(tmpdir(), "disk-"))
      const script = join(import.meta.dirname, "../support/sqliteDisk.ts")
      const child = spawnSync("unshare", ["--map-root-user", "--mount", "node", script, folder], { encoding: "utf8" })
      assert.strictEqual(child.status, 0, child.stderr)
      return JSON.parse(child.stdout)
    }
    let came: ReturnType<typeof onDisk>
    beforeAll(() => {
      came = onDisk()
    })

    it("is told of with what to do, which helps, and loses nothing that was acknowledged", () => {
      const { acknowledged, full, notOpened, notRemoved, removed, there } = came.fullLog
      for (const error of [full, notRemoved]) {
        assert.deepInclude(error, { reason: "Unavailable", outcome: "not-applied" })
        assert.match(error.message, /is full: make room on it, at least as much as .*records.db-wal takes/)
        assert.include(error.message, "no record can be written or removed")
      }
      assert.deepInclude(notOpened, { reason: "Unavailable", outcome: "not-applied" })
      assert.match(notOpened.message, /other.db is full: make room/)
      assert.isAbove(acknowledged, 0)
      assert.strictEqual(there, acknowledged)
      assert.isTrue(removed, "with as much room as the error asks for, a record can be removed")
    })

    it("lets records be removed and collected, if emptying the log makes room in the log", () => {
      assert.deepStrictEqual(came.logOfUpdates, { removed: true, cleaned: 10, left: 9 })
    })

    it("that is read-only then is told of", () => {
      assert.deepInclude(came.readOnly, { reason: "Misconfigured", outcome: "not-applied" })
      assert.match(came.readOnly.message, /can't be (written|opened): .*this process/)
    })
  })

  it("does not know of a write that the disk failed, and goes on reading", () => {
    const script = join(import.meta.dirname, "../support/sqliteIoError.ts")
    const limited = ["-c", 'ulimit -f 400 && exec "$@"', "sh", process.execPath, script, newFile()]
    const child = spawnSync("sh", limited, { encoding: "utf8" })
    assert.strictEqual(child.status, 0, child.stderr)
    const { acknowledged, message, operation, outcome, reason, version } = JSON.parse(child.stdout)
    assert.deepStrictEqual([operation, reason, outcome], ["putIfVersion", "Unavailable", "unknown"])
    assert.include(message, "The disk failed to read or write")
    assert.include(message, "Whether it took effect is unknown")
    assert.isAbove(acknowledged, 1)
    assert.strictEqual(version, acknowledged)
  })

  it.effect("says so of a file that it may only read", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* on({ filename })((backend) => backend.put(key, "data"))
      chmodSync(filename, 0o444)
      const user = process.geteuid?.()
      if (user === 0) process.seteuid?.(65534) // root may write what nobody may
      const error = yield* Effect.flip(on({ filename })((backend) => backend.put(key, "data"))).pipe(
        Effect.ensuring(Effect.sync(() => user === 0 && process.seteuid?.(0)))
      )
      assertBackend(error, { reason: "Misconfigured", says: "must be a file that this process may write" })
    })
  )
})

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

  it.effect("makes a write that was refused once, if what it expects is there by the time that it looks why", () =>
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

  it.effect("tells of a refusal what was there when the write was refused, whatever happens right after", () =>
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

  it.effect("lets others run between the writes of a fiber that does nothing else", () =>
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

  it.effect("waits for a lock when it opens the file, too", () =>
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

  it.effect("gives a lock up after 30 seconds, or when the schedule is spent, with nothing written", () =>
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

  it.effect("tries a locked file again by its own schedule alone", () =>
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

describe("Sqlite.cleanupExpired", () => {
  it.effect("goes by the index, and lets others run in between", () =>
    Effect.gen(function* () {
      const filename = newFile()
      const prepared: Array<string> = []
      const prepare = vi.spyOn(DatabaseSync.prototype, "prepare")
      yield* on({ filename })(
        Effect.fnUntraced(function* (backend) {
          prepared.push(...prepare.mock.calls.map(([sql]) => sql).filter((sql) => /DELETE.*expires_at <= /.test(sql)))
          prepare.mockRestore()
          assert.strictEqual(prepared.length, 1)
          const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 10 })
          for (let i = 0; i < 1000; i++) {
            yield* backend.put(makeUnsafe({ owner: `owner ${i % 7}`, id: String(i) }), "data", { expiresAt })
          }
          yield* backend.put(key, "stays")
          yield* TestClock.adjust("310 seconds")
          let turns = 0
          const other = yield* Effect.forkChild(
            Effect.forever(
              Effect.andThen(
                Effect.sync(() => turns++),
                Effect.yieldNow
              )
            ),
            { startImmediately: true }
          )
          assert.strictEqual(yield* backend.cleanupExpired, 1000)
          assert.isAtLeast(turns, 5)
          yield* Fiber.interrupt(other)
          assert.strictEqual(yield* backend.cleanupExpired, 0)
          assert.strictEqual((yield* backend.get(key)).data, "stays")
        })
      )
      const plan = withDatabase(filename, (db) => db.prepare(`EXPLAIN QUERY PLAN ${prepared.at(-1)}`).all({ now: 0 }))
      const steps = plan.map(({ detail }) => String(detail)).join("; ")
      assert.include(steps, "USING COVERING INDEX records_by_expiry (expires_at<?)")
      assert.notInclude(steps, "SCAN")
    })
  )
})

describe("Sqlite", () => {
  it.effect("fails to open with an outcome that is not unknown, whatever the disk does", () =>
    Effect.gen(function* () {
      const exec = vi.spyOn(DatabaseSync.prototype, "exec").mockImplementation(() => {
        throw Object.assign(new Error("disk I/O error"), { code: "ERR_SQLITE_ERROR", errcode: 10 })
      })
      const error = yield* Effect.flip(open({ filename: newFile() })).pipe(
        Effect.ensuring(Effect.sync(() => exec.mockRestore()))
      )
      assertBackend(error, { reason: "Unavailable", retryable: true, says: "The disk failed to read or write" })
      assert.notInclude(error.message, "unknown")
    })
  )

  it.effect("shows no data in an error that repeats what was written, and keeps its class and its stack", () =>
    on({ filename: newFile() })(
      Effect.fnUntraced(function* (backend) {
        yield* backend.put(key, "data")
        const exec = vi.spyOn(DatabaseSync.prototype, "exec").mockImplementation(() => {
          const error = new TypeError("The argument is invalid. Received 'hush'")
          throw Object.assign(error, { code: "ERR_INVALID_ARG_VALUE", values: ["hush"] })
        })
        const error = yield* Effect.flip(backend.putIfVersion(key, "hush", 0)).pipe(
          Effect.ensuring(Effect.sync(() => exec.mockRestore()))
        )
        assertBackend(error, { reason: "Unknown", outcome: "unknown", says: "TypeError ERR_INVALID_ARG_VALUE" })
        assertHides(error, "hush")
        const { cause } = (error as Backend).reason
        assert.deepInclude(cause as object, { name: "TypeError", code: "ERR_INVALID_ARG_VALUE" })
        assert.include((cause as Error).stack, "Sqlite.ts")
      })
    )
  )

  it.effect("dies, when it is opened, on an option that is not what it must be, and names it", () =>
    Effect.gen(function* () {
      const file = { filename: newFile() }
      for (const [options, message] of [
        [{ filename: undefined }, "filename must be a string: it is undefined"],
        [{ filename: null }, "filename must be a string: it is null"],
        [{ filename: 7 }, "filename must be a string: it is 7"],
        [{ ...file, retrySchedule: "often" }, 'retrySchedule must be a Schedule: it is "often"'],
        [{ ...file, maxDataBytes: Number.NaN }, /^maxDataBytes must be .*: it is NaN$/],
        [{ ...file, maxDataBytes: "5" }, /^maxDataBytes must be .*: it is "5"$/],
        [{ ...file, maxDataBytes: null }, /^maxDataBytes must be .*: it is null$/]
      ] as const) {
        const defect = yield* Effect.flip(Effect.sandbox(open(options as never)))
        const found = Cause.squash(defect)
        assert.instanceOf(found, RangeError)
        assert.match((found as RangeError).message, message instanceof RegExp ? message : new RegExp(`^${message}$`))
      }
    })
  )
})

describe("Sqlite, by clocks that differ", () => {
  it.effect(
    "a cleanup leaves a record alone for 300 seconds after its expiry, for clients whose clocks are behind",
    () =>
      Effect.gen(function* () {
        const filename = newFile()
        const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 10 })
        const behind = yield* Layer.build(Sqlite.layer({ filename }))
        const ahead = yield* Layer.build(Sqlite.layer({ filename }))
        const ofClientBehind = <A, E>(f: (backend: StorageBackend["Service"]) => Effect.Effect<A, E>) =>
          Effect.provide(StorageBackend.use(f), behind)
        const cleanup = Effect.provide(
          StorageBackend.use((backend) => backend.cleanupExpired),
          ahead
        )
        const record = yield* ofClientBehind((backend) => backend.put(key, "data", { expiresAt }))
        /** An Effect of a client whose clock is so many seconds ahead. */
        const aheadBy = (seconds: number) =>
          Effect.gen(function* () {
            const clock = yield* Clock.Clock
            const millis = () => clock.currentTimeMillisUnsafe() + seconds * 1000
            return yield* Effect.provideService(cleanup, Clock.Clock, { ...clock, currentTimeMillisUnsafe: millis })
          })
        assert.strictEqual(yield* aheadBy(200), 0)
        assert.deepStrictEqual(yield* ofClientBehind((backend) => backend.get(key)), record)
        assert.strictEqual(
          (yield* ofClientBehind((backend) => backend.putIfVersion(key, "data", record, { expiresAt }))).version,
          2
        )
        assert.strictEqual(yield* aheadBy(309), 0)
        assert.strictEqual(yield* aheadBy(310), 1)
        assert.strictEqual((yield* Effect.flip(ofClientBehind((backend) => backend.get(key))))._tag, "RecordNotFound")
      }).pipe(Effect.scoped)
  )
})

describe("Sqlite, listing", () => {
  it.effect(
    "ends a page of large records early, and leaves no read behind that would keep the log from being cleared",
    () =>
      Effect.gen(function* () {
        const filename = newFile()
        yield* on({ filename })(
          Effect.fnUntraced(function* (backend) {
            const ids = Array.from({ length: 20 }, (_, i) => String(i).padStart(2, "0"))
            for (const id of ids) yield* backend.put(makeUnsafe({ owner: "alice", id }), "x".repeat(300_000))
            for (const order of ["ascending", "descending"] as const) {
              const found: Array<string> = []
              let cursor: string | undefined
              do {
                const page = yield* backend.listByPrefix(alices, {
                  cursor,
                  order
                })
                assert.isBelow(page.records.length, ids.length)
                found.push(...page.records.map((record) => record.key.id))
                cursor = page.cursor
              } while (cursor !== undefined)
              assert.deepStrictEqual(found, order === "ascending" ? ids : ids.toReversed())
              const cleared = withDatabase(filename, (db) => db.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get())
              assert.strictEqual(cleared?.busy, 0)
            }
          })
        )
      })
  )
})
