import { spawnSync } from "node:child_process"
import { chmodSync, mkdirSync, mkdtempSync, openSync, readFileSync, statSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { assert, beforeAll, describe, it, vi } from "@effect/vitest"
import { Effect } from "effect"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"
import { mayMount } from "../support/machine.ts"
import { assertHides } from "../support/shown.ts"
import { assertBackend, newFiles, on, open, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const key = makeUnsafe({ owner: "alice", id: "a" })
const alices = StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "" })

describe("Sqlite, on a file that it can't use", () => {
  it.effect("says so if the file is from a newer release or another program, and leaves it alone", () =>
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
        [utf16, "a database of another program"],
        [newer, "schema is 2, and this release knows 1"],
        [other, "a database of another program"],
        [marked, "a database of another program"]
      ] as const) {
        const before = readFileSync(filename)
        const error = yield* Effect.flip(open({ filename }))
        assertBackend(error, { reason: "Misconfigured", says })
        assert.include(error.message, filename)
        assert.isTrue(before.equals(readFileSync(filename)), "the file has changed")
      }
    })
  )

  it.effect("says so if it is not an SQLite file, or is damaged", () =>
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

  it.effect("says so if the folder is missing, the file is a folder, or there is no name", () =>
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

  it.effect("says so if it can't have a write-ahead log", () =>
    Effect.gen(function* () {
      // This way of SQLite to lock files shares no memory, as some network file systems don't.
      const error = yield* Effect.flip(open({ filename: `file:${newFile()}?vfs=unix-dotfile` }))
      assertBackend(error, { reason: "Misconfigured", says: "put it on a local disk" })
    })
  )

  it.effect("lets no other program store a number that is not a version or not a time", () =>
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

  it.effect("says so if such a number is stored anyway, and leaves no read or transaction open", () =>
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

  it.effect("says so if its scope is closed", () =>
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
        assert.match(error.message, /is full: free at least as much room on it as .*records.db-wal takes/)
        assert.include(error.message, "no record can be written or removed")
      }
      assert.deepInclude(notOpened, { reason: "Unavailable", outcome: "not-applied" })
      assert.match(notOpened.message, /other.db is full: free/)
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

  it.effect("says so if it may only read the file", () =>
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

  it.effect("shows no data of an error that repeats it, and keeps the class and stack of the error", () =>
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
        assert.include((cause as Error).stack, "sqlite/batch.ts")
      })
    )
  )
})
