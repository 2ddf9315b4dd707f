import { StatementSync } from "node:sqlite"
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect } from "effect"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { newFiles } from "../support/sqlite.ts"

const newFile = newFiles()
const key = makeUnsafe({ owner: "alice", id: "a" })

/** Runs an Effect while every statement that gives rows fails with a result code of SQLite's. */
const failingWith = <A, E, R>(errcode: number, effect: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() =>
      vi.spyOn(StatementSync.prototype, "all").mockImplementation(() => {
        throw Object.assign(new Error("told to fail"), { code: "ERR_SQLITE_ERROR", errcode })
      })
    ),
    () => effect,
    (spy) => Effect.sync(() => spy.mockRestore())
  )

/** Result codes, the extended ones among them, and what a put comes to that meets them. */
const codes = [
  ["SQLITE_ERROR", 1, "Unknown", "unknown"],
  ["SQLITE_PERM", 3, "Misconfigured", "not-applied"],
  ["SQLITE_NOMEM", 7, "Unavailable", "not-applied"],
  ["SQLITE_READONLY", 8, "Misconfigured", "not-applied"],
  ["SQLITE_READONLY_DBMOVED", 1032, "Misconfigured", "not-applied"],
  ["SQLITE_IOERR", 10, "Unavailable", "unknown"],
  ["SQLITE_IOERR_FSYNC", 1034, "Unavailable", "unknown"],
  ["SQLITE_CORRUPT", 11, "Corrupt", "not-applied"],
  ["SQLITE_FULL", 13, "Unavailable", "not-applied"],
  ["SQLITE_CANTOPEN", 14, "Misconfigured", "not-applied"],
  ["SQLITE_NOTADB", 26, "Corrupt", "not-applied"]
] as const

describe("Sqlite, after a failed write,", () => {
  for (const [name, errcode, reason, outcome] of codes) {
    it.effect(`fails with ${reason}, ${outcome}, on ${name}, and writes again once the fault has passed`, () => {
      const filename = newFile()
      return Effect.gen(function* () {
        const backend = yield* StorageBackend
        const error = yield* Effect.flip(failingWith(errcode, backend.put(key, "data")))
        assert.isTrue(error._tag === "Backend")
        if (error._tag !== "Backend") return
        assert.deepStrictEqual([error.reason._tag, error.outcome], [reason, outcome])
        assert.strictEqual(error.operation, "put")
        assert.include(error.message, filename)
        assert.strictEqual((yield* backend.put(key, "data")).version, 1)
      }).pipe(Effect.provide(Sqlite.layer({ filename })))
    })
  }
})
