/** How records are stored in an SQLite file. */
import type { DatabaseSync } from "node:sqlite"
import type { StoredRecord } from "../../../Engine.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import type { Backend } from "../../../StorageError.ts"
import { misconfigured } from "../failure.ts"

/** Marks the files of this library (SQLite's `PRAGMA application_id`): "EfVS". */
const applicationId = 0x45665653

/** The version of the schema below (SQLite's `PRAGMA user_version`). */
const schemaVersion = 1

const schema = `
  CREATE TABLE records (
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version BETWEEN 1 AND ${maxVersion}),
    data TEXT NOT NULL,
    write_id TEXT,
    expires_at INTEGER CHECK (abs(expires_at) <= ${Number.MAX_SAFE_INTEGER}),
    PRIMARY KEY (owner, id)
  ) STRICT;
  CREATE INDEX records_by_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
  PRAGMA application_id = ${applicationId};
  PRAGMA user_version = ${schemaVersion};
`

/** A row of the table, as it is read for a record or a page. */
export interface Row {
  readonly id: string
  readonly version: number
  readonly data: Uint8Array | string
  readonly write_id: string | null
  readonly expires_at: number | null
}

/** Data as bytes is right on every Node.js, but slower to read than as text. */
export const columnsWithBytes = "id, version, CAST(data AS BLOB) AS data, write_id, expires_at"

/** The columns of a record. Node.js before 24 ends a text at its first U+0000, so it reads the data as bytes. */
export const columnsOf = (db: DatabaseSync): string =>
  db.prepare("SELECT char(0) AS text").get()?.text === "\0"
    ? "id, version, data, write_id, expires_at"
    : columnsWithBytes

const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

export const toStored = ({ data, expires_at, version, write_id }: Row): StoredRecord => ({
  data: typeof data === "string" ? data : decoder.decode(data),
  version,
  writeId: write_id ?? undefined,
  expiresAtSeconds: expires_at ?? undefined
})

/** Makes the schema in a new file. If the file has another schema, returns the error that says so. */
export const ensureSchema = (db: DatabaseSync, filename: string): Backend | undefined => {
  const pragma = (name: string) => db.prepare(`PRAGMA ${name}`).get()?.[name]
  const [application, version] = [pragma("application_id"), pragma("user_version")]
  const isEmpty = db.prepare("SELECT 1 FROM sqlite_schema").get() === undefined
  if (application === 0 && version === 0 && isEmpty && pragma("encoding") === "UTF-8") {
    db.exec(schema)
  } else if (application !== applicationId) {
    return misconfigured(`${filename} is a database of another program: name another file`)
  } else if (version !== schemaVersion) {
    return misconfigured(
      `${filename} was made by a newer release (its schema is ${version}, and this release knows ${schemaVersion}): ` +
        "update effect-versioned-store"
    )
  }
}
