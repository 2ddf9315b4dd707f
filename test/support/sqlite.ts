import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { Effect, Schedule } from "effect"
import { afterAll, assert } from "vitest"
import { type Engine, make, type StoredRecord } from "../../src/Engine.ts"
import { makeEngine } from "../../src/engine/internal/sqlite/requests.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { type Backend, makeBackend } from "../../src/StorageError.ts"
import type { StorageKey } from "../../src/StorageKey.ts"
import * as Faults from "../../src/testing/Faults.ts"

/** Names of new files, which are removed after the tests of a test file. */
export const newFiles = (): (() => string) => {
  const folder = mkdtempSync(join(tmpdir(), "sqlite-"))
  afterAll(() => rmSync(folder, { recursive: true }))
  return () => join(folder, `${crypto.randomUUID()}.db`)
}

/** Runs a function on a file that bare `node:sqlite` has opened. */
export const withDatabase = <A>(filename: string, f: (db: DatabaseSync) => A): A => {
  const db = new DatabaseSync(filename)
  try {
    return f(db)
  } finally {
    db.close()
  }
}

/** Stores a record in the file as another program would. */
export const plant =
  (filename: string) =>
  (key: StorageKey, { data, expiresAtSeconds, version, writeId }: StoredRecord) =>
    Effect.sync(() =>
      withDatabase(filename, (db) =>
        db
          .prepare("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)")
          .run(key.owner, key.id, version, data, writeId ?? null, expiresAtSeconds ?? null)
      )
    )

/** A client of the file that loses the answers to some writes. */
export const lossy = (filename: string) => (isLost: () => boolean) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() => new DatabaseSync(filename)),
      (db) => Effect.sync(() => db.close())
    ),
    (db) => {
      const options = {
        run: { read: Effect.sync, write: Effect.sync },
        retrySchedule: Schedule.recurs(0),
        toBackend: (error: Error) => makeBackend({ reason: "Unknown", outcome: "unknown", description: error.message })
      }
      const isWrite = (name: keyof Engine) => ["put", "swap", "remove", "commit"].includes(name)
      const { engine } = Faults.engine(makeEngine(db, options), ({ name }) =>
        isWrite(name) && isLost() ? "lose" : "pass"
      )
      return make(engine, { retrySchedule: Schedule.recurs(20) })
    }
  )

/** Runs an Effect on a store in a file, which is opened before and closed after. */
export const on =
  (options: Sqlite.Options) =>
  <A, E>(f: (backend: StorageBackend["Service"]) => Effect.Effect<A, E>) =>
    Effect.provide(StorageBackend.use(f), Sqlite.layer(options))

/** Opens a file and closes it. */
export const open = (options: Sqlite.Options) => on(options)(() => Effect.void)

/** Checks a failure: by default nothing was applied, and a retry would not help. */
export const assertBackend = (
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
