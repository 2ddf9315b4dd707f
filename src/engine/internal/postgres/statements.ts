/**
 * The statements of the operations, for one table.
 *
 * A write and the reason why it was refused come back in one statement. That needs care, since under `READ COMMITTED`
 * the parts of a statement see different moments. If a write waits for another client's, it decides by the row that the
 * other client has left. The rest of its statement still reads the row from before, as of the statement's start. So if
 * a write was refused, and the row from before is as expected, then that row is out of date: the statement locks the
 * row, which reads it as it is now.
 */
import { maxVersion } from "../../../StorageBackend.ts"
import { cleanupBatch, maxPageBytes } from "../limits.ts"
import type { Layout } from "./layout.ts"

/** The kinds of conditions on a live record. */
type Kind = "Live" | "Version" | "Write" | "Data"

// The parameters of all writes: 1 owner, 2 id, 3 increment, 4 data, 5 write id, 6 expiry, 7 now; then what is expected.

const whereKey = "r.owner = $1::bytea AND r.id = $2::bytea"
const isLive = (alias: string, now: string) => `(${alias}.expires_at IS NULL OR ${alias}.expires_at > ${now}::bigint)`
const columns = "r.version, r.data, r.write_id, r.expires_at"
const noColumns = "NULL::bytea, NULL::text, NULL::bigint"

/** The condition of each kind, on a live record. The parameters start at a number: now, the version, and the rest. */
const expected = (alias: string, kind: Kind, first: number): string => {
  const live = isLive(alias, `$${first}`)
  const ofVersion = `${live} AND ${alias}.version = $${first + 1}::bigint`
  switch (kind) {
    case "Live":
      return live
    case "Version":
      return ofVersion
    case "Write":
      return `${ofVersion} AND ${alias}.write_id = $${first + 2}::text`
    case "Data":
      return `${ofVersion} AND ${alias}.write_id IS NULL AND ${alias}.data = $${first + 2}::bytea`
  }
}

/** A write to one record with a condition on it, and the record if the write was refused. */
const conditional = (table: string, made: string, write: string, condition: (alias: string) => string): string => `
  WITH before AS MATERIALIZED (SELECT ${columns} FROM ${table} r WHERE ${whereKey}),
  written AS (${write} RETURNING r.version),
  now AS MATERIALIZED (
    SELECT ${columns} FROM ${table} r WHERE ${whereKey} AND NOT EXISTS (SELECT FROM written)
      AND EXISTS (SELECT FROM before b WHERE ${condition("b")}) FOR UPDATE
  )
  SELECT ${made}, version, ${noColumns} FROM written
  UNION ALL SELECT false, now.* FROM now
  UNION ALL SELECT false, b.* FROM before b WHERE NOT EXISTS (SELECT FROM written) AND (${condition("b")}) IS NOT TRUE`

const put = (table: string, made: string): string => `
  WITH written AS (
    INSERT INTO ${table} AS r (owner, id, version, data, write_id, expires_at)
    VALUES ($1::bytea, $2::bytea, $3::bigint, $4::bytea, $5::text, $6::bigint)
    ON CONFLICT (owner, id) DO UPDATE SET version = r.version + excluded.version, data = excluded.data,
      write_id = excluded.write_id, expires_at = excluded.expires_at
    WHERE r.version <= ${maxVersion} - excluded.version RETURNING r.version
  )
  SELECT ${made}, version, ${noColumns} FROM written
  UNION ALL SELECT false, ${columns} FROM ${table} r WHERE ${whereKey} AND NOT EXISTS (SELECT FROM written)`

/**
 * Writes where there is no live record. A live record from before the statement refuses it without a lock. One that has
 * come since can't be read by a statement that began before, so it is written as it is, which returns it.
 */
const create = (table: string, made: string): string => {
  const isReplaced = `r.expires_at <= $7::bigint AND r.version <= ${maxVersion} - excluded.version`
  const set = (column: string, value = `excluded.${column}`) =>
    `${column} = CASE WHEN ${isReplaced} THEN ${value} ELSE r.${column} END`
  return `
  WITH before AS MATERIALIZED (SELECT ${columns} FROM ${table} r WHERE ${whereKey}),
  written AS (
    INSERT INTO ${table} AS r (owner, id, version, data, write_id, expires_at)
    SELECT $1::bytea, $2::bytea, $3::bigint, $4::bytea, $5::text, $6::bigint
    WHERE NOT EXISTS (SELECT FROM before b WHERE ${isLive("b", "$7")})
    ON CONFLICT (owner, id) DO UPDATE SET ${set("version", "r.version + excluded.version")}, ${set("data")},
      ${set("write_id")}, ${set("expires_at")}
    RETURNING ${columns}
  )
  SELECT CASE WHEN r.write_id IS NOT DISTINCT FROM $5::text THEN ${made} ELSE false END, ${columns} FROM written r
  UNION ALL SELECT false, b.* FROM before b WHERE NOT EXISTS (SELECT FROM written)`
}

/**
 * A page. It ends after the record with which its data passes the bytes of a page. Data that is not returned is not
 * read: its length stands beside it. The last column is how many records there are, up to one more than the limit.
 *
 * The limit stands in a SELECT, so that the planner does not know it, and reads the primary key in order. If it knew
 * the limit, and expected fewer records than that, it would read and sort all records of the range for each page.
 */
const list = (table: string, direction: "ASC" | "DESC"): string => `
  SELECT id, version, CASE WHEN live THEN data END, write_id, expires_at, live, found FROM (
    SELECT page.*, count(*) OVER () AS found, sum(CASE WHEN live THEN octet_length(data) ELSE 0 END)
      OVER (ORDER BY id ${direction} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM (
      SELECT r.id, ${columns}, ${isLive("r", "$5")} AS live FROM ${table} r
      WHERE r.owner = $1::bytea AND r.id >= $2::bytea AND r.id < $3::bytea
      ORDER BY r.id ${direction} LIMIT (SELECT $4::bigint)
    ) page
  ) sized WHERE coalesce(bytes_before, 0) < ${maxPageBytes} ORDER BY id ${direction}`

const cleanup = (table: string): string => `
  WITH removed AS (
    DELETE FROM ${table} r USING (
      SELECT owner, id FROM ${table} WHERE expires_at <= $1::bigint LIMIT ${cleanupBatch} FOR UPDATE SKIP LOCKED
    ) expired WHERE r.owner = expired.owner AND r.id = expired.id RETURNING 1
  )
  SELECT count(*) FROM removed`

/**
 * Notifies those who listen that the record of an owner and an id has changed, once the transaction is committed. The
 * owner is hashed, so that a payload, which may have 8,000 bytes, is short enough. It is true, since it is part of what
 * a write answers.
 */
const notify = (channel: string, owner: string, id: string): string =>
  `pg_notify('${channel}', encode(sha256(${owner}::bytea), 'hex') || encode(${id}::bytea, 'hex')) IS NOT NULL`

/** The statements for a table. If a channel is given, each write notifies those who listen on it. */
export const statementsOf = ({ table }: Layout, channel?: string) => {
  const made = channel === undefined ? "true" : notify(channel, "$1", "$2")
  const hasRoom = `r.version <= ${maxVersion} - $3::bigint`
  const update = (kind: Kind) =>
    conditional(
      table,
      made,
      `UPDATE ${table} r SET version = r.version + $3::bigint, data = $4::bytea, write_id = $5::text,
        expires_at = $6::bigint WHERE ${whereKey} AND ${expected("r", kind, 7)} AND ${hasRoom}`,
      (alias) => expected(alias, kind, 7)
    )
  const remove = (kind: Kind) =>
    conditional(table, made, `DELETE FROM ${table} r WHERE ${whereKey} AND ${expected("r", kind, 3)}`, (alias) =>
      expected(alias, kind, 3)
    )
  return {
    read: `SELECT ${columns} FROM ${table} r WHERE ${whereKey}`,
    readMany: `SELECT k.position, ${columns} FROM unnest($1::bytea[], $2::bytea[]) WITH ORDINALITY k (owner, id, position)
      JOIN ${table} r ON r.owner = k.owner AND r.id = k.id`,
    put: put(table, made),
    create: create(table, made),
    update: { Version: update("Version"), Write: update("Write"), Data: update("Data") },
    remove: { Live: remove("Live"), Version: remove("Version"), Write: remove("Write"), Data: remove("Data") },
    list: { ascending: list(table, "ASC"), descending: list(table, "DESC") },
    cleanup: cleanup(table),
    commit: {
      /**
       * Locks the records of a commit in the order of their keys, so that two commits never wait for each other. Where
       * there is no record, it inserts one, which nobody else sees before the commit, and which others wait for.
       *
       * If this process is stopped before it goes on, PostgreSQL ends the transaction after so many milliseconds, since
       * nobody else could write the records meanwhile.
       */
      lock: `INSERT INTO ${table} AS r (owner, id, version, data, write_id, expires_at)
        SELECT $1::bytea, k.id, 1, k.data, $2::text, k.expires_at
        FROM unnest($3::bytea[], $4::bytea[], $5::bigint[]) k (id, data, expires_at),
          (SELECT set_config('idle_in_transaction_session_timeout', $6::text, true)) limited ORDER BY k.id
        ON CONFLICT (owner, id) DO UPDATE SET version = r.version WHERE false RETURNING r.id`,
      notify:
        channel === undefined ? undefined : `SELECT ${notify(channel, "$1", "k.id")} FROM unnest($2::bytea[]) k (id)`,
      read: `SELECT r.id, ${columns} FROM ${table} r WHERE r.owner = $1::bytea AND r.id = ANY($2::bytea[])`,
      apply: `WITH updated AS (
          UPDATE ${table} r SET version = k.version, data = k.data, write_id = $2::text, expires_at = k.expires_at
          FROM unnest($3::bytea[], $4::bigint[], $5::bytea[], $6::bigint[]) k (id, version, data, expires_at)
          WHERE r.owner = $1::bytea AND r.id = k.id
        )
        DELETE FROM ${table} r WHERE r.owner = $1::bytea AND r.id = ANY($7::bytea[])`
    }
  }
}

export type Statements = ReturnType<typeof statementsOf>
