/** The statements of the operations. Each operation is one statement. */
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite"
import * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"
import type { Chunk, Engine, Present, Refused, Removed, StoredRecord, Write, Written } from "../../../Engine.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import type { Backend } from "../../../StorageError.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import { cleanupBatch, clockSlackSeconds, maxPageBytes } from "../limits.ts"
import { makeWithCheckpoint, type WriteRequest } from "./batch.ts"
import type { SqliteError } from "./failure.ts"
import { columnsOf, columnsWithBytes, type Row, toStored } from "./layout.ts"
import { makeQueue } from "./queue.ts"

const encoder = new TextEncoder()

// Parameters go by position, since `node:sqlite` looks up each name in each call. They have no numbers, since Node.js
// before 24 takes a numbered parameter for a name.
const whereKey = "owner = ? AND id = ?"
const isLive = "(expires_at IS NULL OR expires_at > ?)"
const inRange = "owner = ? AND id >= ? AND id < CAST(? AS TEXT)"

// The keys come as a JSON array of pairs. The cross join makes SQLite go through them, and not through the records.
const askedKeys = "SELECT key AS position, value ->> 0 AS asked_owner, value ->> 1 AS asked_id FROM json_each(?)"
const isAsked = "owner = asked_owner AND id = asked_id"

const upsert = `INSERT INTO records (version, data, write_id, expires_at, owner, id) VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET version = version + excluded.version, data = excluded.data,
    write_id = excluded.write_id, expires_at = excluded.expires_at
  WHERE version <= ${maxVersion} - excluded.version`

/** The condition of each expectation, on a live record. */
const isExpected: Record<Present["_tag"], string> = {
  Version: `${isLive} AND version = ?`,
  Write: `${isLive} AND version = ? AND write_id = ?`,
  Data: `${isLive} AND version = ? AND write_id IS NULL AND data = ?`
}

const prepare = (db: DatabaseSync) => {
  const update = (condition: string) =>
    db.prepare(
      `UPDATE records SET version = ?, data = ?, write_id = ?, expires_at = ? WHERE ${whereKey} AND ${condition}`
    )
  const remove = (condition: string) => db.prepare(`DELETE FROM records WHERE ${whereKey} AND ${condition}`)
  const select = (direction: "ASC" | "DESC") =>
    db.prepare(`SELECT ${columnsWithBytes} FROM records WHERE ${inRange} ORDER BY id ${direction} LIMIT ?`)
  return {
    read: db.prepare(`SELECT ${columnsOf(db)} FROM records WHERE ${whereKey}`),
    readMany: db.prepare(`SELECT position, ${columnsOf(db)} FROM (${askedKeys}) CROSS JOIN records ON ${isAsked}`),
    put: db.prepare(`${upsert} RETURNING version`),
    create: db.prepare(`${upsert} AND NOT ${isLive} RETURNING version`),
    update: { Version: update(isExpected.Version), Write: update(isExpected.Write), Data: update(isExpected.Data) },
    remove: { Version: remove(isExpected.Version), Write: remove(isExpected.Write), Data: remove(isExpected.Data) },
    removeLive: remove(isLive),
    list: { ascending: select("ASC"), descending: select("DESC") },
    cleanup: db.prepare(
      `DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE expires_at <= :now LIMIT ${cleanupBatch})`
    ),
    checkpoint: db.prepare("PRAGMA wal_checkpoint(PASSIVE)")
  }
}

/** The parameters of an expectation's condition. */
const parametersOf = (expectation: Present, nowSeconds: number): Array<SQLInputValue> => {
  const { version } = expectation
  switch (expectation._tag) {
    case "Version":
      return [nowSeconds, version]
    case "Write":
      return [nowSeconds, version, expectation.writeId]
    case "Data":
      return [nowSeconds, version, expectation.data]
  }
}

/** How operations run on a file. */
export interface Options {
  /** Runs an operation, and retries it while another process has the file locked. A read changes nothing. */
  readonly run: Record<"read" | "write", <A>(operation: () => A) => Effect.Effect<A, Backend>>
  readonly retrySchedule: Schedule.Schedule<unknown>
  readonly toBackend: (error: SqliteError) => Backend
}

export const makeEngine = (db: DatabaseSync, { retrySchedule, run, toBackend }: Options): Engine => {
  const statements = prepare(db)
  const withCheckpoint = makeWithCheckpoint(() => statements.checkpoint.get())
  const submit = makeQueue(db, { retrySchedule, toBackend, withCheckpoint })

  const select = ({ id, owner }: StorageKey): StoredRecord | undefined => {
    const row = statements.read.get(owner, id) as Row | undefined
    return row === undefined ? undefined : toStored(row)
  }

  const request = <A>(key: StorageKey, length: number, write: () => A | undefined): WriteRequest<A, Refused> => ({
    write,
    refuse: () => ({ _tag: "Refused", current: select(key) }),
    length
  })

  return {
    read: (key) => run.read(() => select(key)),

    readMany: (keys) =>
      run.read(() => {
        const stored: Array<StoredRecord | undefined> = keys.map(() => undefined)
        const asked = JSON.stringify(keys.map(({ id, owner }) => [owner, id]))
        for (const row of statements.readMany.all(asked) as unknown as ReadonlyArray<Row & { position: number }>) {
          stored[row.position] = toStored(row)
        }
        return stored
      }),

    put: (key, write) =>
      submit(request(key, write.data.length, () => writtenBy(statements.put, parametersOfWrite(key, write)))),

    swap: (key, write, expectation, nowSeconds) => {
      if (expectation._tag === "Absent") {
        const parameters = [...parametersOfWrite(key, write), nowSeconds]
        return submit(request(key, write.data.length, () => writtenBy(statements.create, parameters)))
      }
      const version = expectation.version + write.increment
      const parameters = [...parametersOfWrite(key, write, version), ...parametersOf(expectation, nowSeconds)]
      const update = statements.update[expectation._tag]
      return submit(
        request(key, write.data.length, (): Written | undefined =>
          version > maxVersion || update.run(...parameters).changes === 0 ? undefined : { _tag: "Written", version }
        )
      )
    },

    remove: (key, expectation, nowSeconds) => {
      const statement = expectation === undefined ? statements.removeLive : statements.remove[expectation._tag]
      const condition = expectation === undefined ? [nowSeconds] : parametersOf(expectation, nowSeconds)
      return submit(
        request(key, 0, (): Removed | undefined =>
          statement.run(key.owner, key.id, ...condition).changes === 0 ? undefined : { _tag: "Removed" }
        )
      )
    },

    list: ({ idPrefix, owner }, { after, limit, order }, nowSeconds) => {
      // No id has U+0000, so an id followed by U+0000 is the next possible id. No UTF-8 has the byte 0xff, so 0xff
      // after the prefix is greater than every id with that prefix.
      const end = new Uint8Array([...encoder.encode(idPrefix), 0xff])
      const [from, to] =
        order === "ascending"
          ? [after === undefined ? idPrefix : `${after}\0`, end]
          : [idPrefix, after === undefined ? end : encoder.encode(after)]
      return run.read(() => readChunk(statements.list[order], [owner, from, to, limit + 1], limit, nowSeconds))
    },

    cleanup: Effect.fnUntraced(function* (nowSeconds) {
      for (let removed = 0; ; yield* Effect.yieldNow) {
        const now = nowSeconds - clockSlackSeconds
        const { changes } = yield* run.write(() => withCheckpoint(() => statements.cleanup.run({ now })))
        removed += Number(changes)
        if (changes < cleanupBatch) return removed
      }
    })
  }
}

/** The version is the one to store, or for an upsert the one to add to the stored version. */
const parametersOfWrite = (
  { id, owner }: StorageKey,
  { data, expiresAtSeconds, increment, writeId }: Write,
  version = increment
): Array<SQLInputValue> => [version, data, writeId, expiresAtSeconds ?? null, owner, id]

/**
 * Runs a statement to its end, when it commits. `get` would stop at the row that it returns, and hide a failed commit.
 */
const writtenBy = (statement: StatementSync, parameters: ReadonlyArray<SQLInputValue>): Written | undefined => {
  const [row] = statement.all(...parameters) as unknown as ReadonlyArray<Row>
  return row === undefined ? undefined : { _tag: "Written", version: row.version }
}

const readChunk = (
  statement: StatementSync,
  parameters: ReadonlyArray<SQLInputValue>,
  limit: number,
  nowSeconds: number
): Chunk => {
  const records: Array<Chunk["records"][number]> = []
  let [examined, bytes, last]: [number, number, string | undefined] = [0, 0, undefined]
  const rows = statement.iterate(...parameters)
  try {
    for (const found of rows) {
      const row = found as unknown as Row
      if (examined === limit || bytes >= maxPageBytes) return { records, next: last }
      examined++
      last = row.id
      if (row.expires_at !== null && row.expires_at <= nowSeconds) continue
      bytes += row.data.length
      records.push({ id: row.id, ...toStored(row) })
    }
    return { records, next: undefined }
  } finally {
    // If a row can't be converted, Node.js leaves the statement open, and with it the transaction.
    rows.return?.()
  }
}
