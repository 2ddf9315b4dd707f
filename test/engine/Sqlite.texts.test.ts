import { DatabaseSync } from "node:sqlite"
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect } from "effect"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { newFiles } from "../support/sqlite.ts"

const newFile = newFiles()

/** Writes to a new file whose first transactions fail as they do on Deno: with a text, but without a result code. */
const putAfter = (text: string, failures: number) => {
  const { exec } = DatabaseSync.prototype
  const failing = function (this: DatabaseSync, sql: string) {
    if (sql.startsWith("BEGIN") && failures-- > 0) throw Object.assign(new Error(text), { code: "ERR_SQLITE_ERROR" })
    exec.call(this, sql)
  }
  return Effect.acquireUseRelease(
    Effect.sync(() => vi.spyOn(DatabaseSync.prototype, "exec").mockImplementation(failing)),
    () =>
      StorageBackend.use((backend) => backend.put(makeUnsafe({ owner: "alice", id: "a" }), "data")).pipe(
        Effect.provide(Sqlite.layer({ filename: newFile() }))
      ),
    (spy) => Effect.sync(() => spy.mockRestore())
  )
}

const reasons = {
  "access permission denied": "Misconfigured",
  "out of memory": "Unavailable",
  "attempt to write a readonly database": "Misconfigured",
  "disk I/O error": "Unavailable",
  "database disk image is malformed": "Corrupt",
  "database or disk is full": "Unavailable",
  "unable to open database file: /no/such/file": "Misconfigured",
  "file is not a database": "Corrupt",
  "no such table: t": "Unknown"
}

describe("Sqlite, if an error has SQLite's text but no result code,", () => {
  for (const text of ["database is locked", "database table is locked: records", "locking protocol"]) {
    it.live(`tries again after "${text}"`, () =>
      Effect.gen(function* () {
        assert.strictEqual((yield* putAfter(text, 2)).version, 1)
      })
    )
  }

  for (const [text, reason] of Object.entries(reasons)) {
    it.effect(`fails with ${reason} after "${text}"`, () =>
      Effect.gen(function* () {
        const error = yield* Effect.flip(putAfter(text, 1))
        assert.strictEqual(error._tag === "Backend" ? error.reason._tag : error._tag, reason)
      })
    )
  }
})
