import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { Effect } from "effect"
import { afterAll } from "vitest"
import type { StoredRecord } from "../../src/Engine.ts"
import type { StorageKey } from "../../src/StorageKey.ts"

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
