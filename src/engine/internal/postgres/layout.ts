/** How records are stored in PostgreSQL: one table for all owners, and an index of the records that expire. */
import { Buffer } from "node:buffer"
import * as Effect from "effect/Effect"
import type { StoredRecord } from "../../../Engine.ts"
import { checkName } from "../../../internal/options.ts"
import { byteLength } from "../../../internal/utf8.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { misconfigured, notApplied } from "../failure.ts"

/**
 * The table of the records.
 *
 * @category models
 * @since 0.1.0
 */
export interface TableOptions {
  /** The name of the table, of at most 53 bytes; `versioned_records` by default. */
  readonly tableName?: string | undefined
  /** The schema of the table. If it is left out, PostgreSQL finds the table by the connection's `search_path`. */
  readonly schema?: string | undefined
}

/** The table's names in SQL. */
export interface Layout {
  /** The schema as an identifier, if one is given. */
  readonly schema: string | undefined
  /** The table as an identifier, with its schema if one is given. */
  readonly table: string
  /** The index by expiry as an identifier. It is in the schema of its table. */
  readonly expiryIndex: string
  /** The table's name for people: as it was given, without quotes. */
  readonly name: string
}

/** PostgreSQL cuts a longer name off without an error (`NAMEDATALEN`), and the index has a longer name. */
const maxNameBytes = 63

const expirySuffix = "_by_expiry"

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`

export const layoutOf = ({ schema, tableName = "versioned_records" }: TableOptions): Layout => {
  checkName("tableName", tableName)
  if (schema !== undefined) checkName("schema", schema)
  const table = schema === undefined ? quoted(tableName) : `${quoted(schema)}.${quoted(tableName)}`
  return {
    schema: schema === undefined ? undefined : quoted(schema),
    table,
    expiryIndex: quoted(`${tableName}${expirySuffix}`),
    name: schema === undefined ? tableName : `${schema}.${tableName}`
  }
}

/** The error if PostgreSQL would not take the names. */
export const problemOfNames = ({ schema = "", tableName = "" }: TableOptions): Backend | undefined => {
  for (const [option, name, limit] of [
    ["tableName", tableName, maxNameBytes - expirySuffix.length],
    ["schema", schema, maxNameBytes]
  ] as const) {
    if (byteLength(name) > limit) {
      return misconfigured(`The ${option} ${name} has more than ${limit} bytes: give a shorter one`)
    }
    if (name.includes("\0")) return misconfigured(`The ${option} has U+0000: give another one`)
  }
}

/** The version of the table below. It stands in the table's comment. */
export const tableVersion = 1

export const commentOf = (version: number): string => `effect-versioned-store, table version ${version}`

/** The statements that make the table. */
export const tableStatements = ({ expiryIndex, table }: Layout): ReadonlyArray<string> => [
  `CREATE TABLE ${table} (
    owner bytea NOT NULL,
    id bytea NOT NULL,
    version bigint NOT NULL CHECK (version BETWEEN 1 AND ${maxVersion}),
    data bytea NOT NULL,
    write_id text,
    expires_at bigint CHECK (abs(expires_at) <= ${Number.MAX_SAFE_INTEGER}),
    PRIMARY KEY (owner, id)
  )`,
  `CREATE INDEX ${expiryIndex} ON ${table} (expires_at) WHERE expires_at IS NOT NULL`,
  `COMMENT ON TABLE ${table} IS '${commentOf(tableVersion)}'`
]

/** The columns of a table as PostgreSQL describes them, in order, and its primary key. */
export const tableShape = "owner bytea, id bytea, version bigint, data bytea, write_id text, expires_at bigint"
export const tableKey = "owner, id"

/** The columns of a record, as statements return them. */
export type Row = ReadonlyArray<unknown>

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const lenient = new TextDecoder("utf-8", { ignoreBOM: true })

/**
 * A text as `bytea`, since a `text` of PostgreSQL can't have U+0000, and is ordered by its collation. A `TextEncoder`
 * would take six times as long for a short text, since it gives each array a memory of its own.
 */
export const bytesOf = (text: string): Uint8Array => Buffer.from(text)

/** The text of an id. */
export const textOf = (bytes: unknown): string => lenient.decode(bytes as Uint8Array)

/** A number as `bigint`. The client would give each size of a number another type, and prepare one more statement. */
export const bigintOf = (value: number | undefined): bigint | null => (value === undefined ? null : BigInt(value))

const dataOf = (data: unknown): string | undefined => {
  try {
    return data instanceof Uint8Array ? decoder.decode(data) : undefined
  } catch {
    return undefined
  }
}

const isSafe = (value: unknown): value is bigint => typeof value === "bigint" && Number.isSafeInteger(Number(value))

/** Reads a record: its version, data, write id and expiry. Fails with `Corrupt` if it is damaged. */
export const parse = (
  { owner, id }: { readonly owner: string; readonly id: string },
  [version, data, writeId, expiresAt]: Row
): Effect.Effect<StoredRecord, Backend> => {
  const text = dataOf(data)
  const isVersion = isSafe(version) && version >= 1n
  if (text === undefined || !isVersion || (expiresAt !== null && !isSafe(expiresAt))) {
    const problem =
      text === undefined ? "data is no UTF-8" : isVersion ? "expires_at is too large" : "version is not from 1 up"
    const description =
      `The row of the record ${id} of ${owner} is damaged: its ${problem}. Repair it in PostgreSQL, or delete the ` +
      "record"
    return Effect.fail(makeBackend(notApplied("Corrupt", description)))
  }
  return Effect.succeed({
    data: text,
    version: Number(version),
    writeId: typeof writeId === "string" ? writeId : undefined,
    expiresAtSeconds: expiresAt === null ? undefined : Number(expiresAt)
  })
}

export const parseIfAny = (
  key: Parameters<typeof parse>[0],
  row: Row | undefined
): Effect.Effect<StoredRecord | undefined, Backend> => (row === undefined ? Effect.undefined : parse(key, row))
