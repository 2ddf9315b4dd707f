import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { assertBackend, newFiles, on, open, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const key = makeUnsafe({ owner: "alice", id: "a" })

/** A folder that everybody may use, so that a user without rights meets only the mode of the file. */
const newFolder = Effect.acquireRelease(
  Effect.sync(() => {
    const folder = mkdtempSync(join(tmpdir(), "sqlite-verify-"))
    chmodSync(folder, 0o777)
    return folder
  }),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
)

/** Runs an effect as a user without rights, since root may write every file. */
const unprivileged = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  process.geteuid?.() === 0
    ? Effect.acquireUseRelease(
        Effect.sync(() => process.seteuid?.(65534)),
        () => effect,
        () => Effect.sync(() => process.seteuid?.(0))
      )
    : effect

describe("Sqlite with verify", () => {
  it.effect("opens a new file and one with records, and changes nothing in it", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* on({ filename, verify: true })((backend) => backend.put(key, "data"))
      const dump = () => withDatabase(filename, (db) => db.prepare("SELECT * FROM records").all())
      const before = dump()
      assert.strictEqual(before.length, 1)
      const page = yield* on({ filename, verify: true })((backend) =>
        backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: "" }))
      )
      assert.strictEqual(page.records.length, 1)
      assert.deepStrictEqual(dump(), before)
      yield* open({ filename: ":memory:", verify: true })
    })
  )

  it.effect("fails on a file that it may read but not write, which without verify only a write shows", () =>
    Effect.gen(function* () {
      const filename = join(yield* newFolder, "records.db")
      yield* on({ filename })((backend) => backend.put(key, "data"))
      chmodSync(filename, 0o444)
      const says = `open failed: ${filename} can't be written: let this process write it and its folder`
      const error = yield* unprivileged(Effect.flip(open({ filename, verify: true })))
      assertBackend(error, { reason: "Misconfigured", says })
      const record = yield* unprivileged(on({ filename })((backend) => backend.get(key)))
      assert.strictEqual(record.data, "data")
    })
  )

  it.effect("fails, as without verify, on what is no file of records", () =>
    Effect.gen(function* () {
      const folder = yield* newFolder
      const text = join(folder, "text.db")
      writeFileSync(text, "these are notes of somebody ".repeat(100))
      const closed = join(folder, "closed")
      mkdirSync(closed, { mode: 0o555 })
      for (const verify of [true, false]) {
        for (const [filename, reason, says] of [
          [folder, "Misconfigured", "it must be a file that this process may write, in a folder that exists"],
          [join(folder, "missing", "records.db"), "Misconfigured", "in a folder that exists"],
          [join(closed, "records.db"), "Misconfigured", "it must be a file that this process may write"],
          [text, "Corrupt", "is not an SQLite file, or its start is damaged: name another file"]
        ] as const) {
          assertBackend(yield* unprivileged(Effect.flip(open({ filename, verify }))), { reason, says })
        }
      }
    })
  )

  it.live("fails once its schedule has ended if another process has the file locked", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* open({ filename })
      const error = yield* Effect.sync(() =>
        withDatabase(filename, (db) => {
          db.exec("BEGIN EXCLUSIVE")
          return Effect.runSyncExit(Effect.flip(open({ filename, verify: true, retrySchedule: Schedule.recurs(3) })))
        })
      )
      assert.strictEqual(error._tag, "Success", String(error))
      if (error._tag === "Success") {
        assertBackend(error.value, { reason: "Unavailable", retryable: true, says: "keeps" })
      }
    })
  )
})
