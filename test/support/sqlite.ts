import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { Effect } from "effect"
import { afterAll, assert } from "vitest"
import type { StoredRecord } from "../../src/Engine.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import type { StorageKey } from "../../src/StorageKey.ts"

/** Names of files that are gone after the tests of a test file. */
export const newFiles = (): (() => string) => {
  const folder = mkdtempSync(join(tmpdir(), "sqlite-"))
  afterAll(() => rmSync(folder, { recursive: true }))
  return () => join(folder, `${crypto.randomUUID()}.db`)
}

/** What bare `node:sqlite` does with a file. */
export const withDatabase = <A>(filename: string, f: (db: DatabaseSync) => A): A => {
  const db = new DatabaseSync(filename)
  try {
    return f(db)
  } finally {
    db.close()
  }
}

/** Puts a record into the file as another program would. */
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
