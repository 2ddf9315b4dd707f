/** The statements of the operations. Each operation is one statement, and a refused write is one more transaction. */
import type { DatabaseSync, SQLInputValue, StatementSync } from "node:sqlite"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type { Chunk, Engine, Present, Refused, StoredRecord, Write, Written } from "../../../Engine.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import type { Backend } from "../../../StorageError.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import { cleanupBatch, clockSlackSeconds, maxPageBytes } from "../limits.ts"
import { isFull, type SqliteError } from "./failure.ts"
import { columns, type Row, toStored } from "./layout.ts"

/** For how many milliseconds in all, writes may block the event loop before they yield to it. */
const maxBlockedMillis = 2

const encoder = new TextEncoder()

const whereKey = "owner = :owner AND id = :id"
const isBelowLast = `version <= ${maxVersion} - :increment`
const isLive = "(expires_at IS NULL OR expires_at > :now)"
const inRange = "owner = :owner AND id >= :from AND id < CAST(:to AS TEXT)"
const setNext = "version = version + :increment, data = :data, write_id = :writeId, expires_at = :expiresAt"
const insert = "INSERT INTO records VALUES (:owner, :id, :increment, :data, :writeId, :expiresAt)"
const upsert = `${insert} ON CONFLICT DO UPDATE SET ${setNext}`

/** The condition of each expectation, on a live record. */
const isExpected: Record<Present["_tag"], string> = {
  Version: `${isLive} AND version = :version`,
  Write: `${isLive} AND version = :version AND write_id = :expectedWriteId`,
  Data: `${isLive} AND version = :version AND write_id IS NULL AND data = :expectedData`
}

const prepare = (db: DatabaseSync) => {
  const update = (condition: string) =>
    db.prepare(`UPDATE records SET ${setNext} WHERE ${whereKey} AND ${condition} AND ${isBelowLast}`)
  const remove = (condition: string) => db.prepare(`DELETE FROM records WHERE ${whereKey} AND ${condition}`)
  const select = (direction: "ASC" | "DESC") =>
    db.prepare(`SELECT ${columns} FROM records WHERE ${inRange} ORDER BY id ${direction} LIMIT :limit`)
  return {
    read: db.prepare(`SELECT ${columns} FROM records WHERE ${whereKey}`),
    put: db.prepare(`${upsert} WHERE ${isBelowLast} RETURNING version`),
    create: db.prepare(`${upsert} WHERE NOT ${isLive} AND ${isBelowLast} RETURNING version`),
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
const parametersOf = (expectation: Present): Record<string, SQLInputValue> => {
  const { version } = expectation
  switch (expectation._tag) {
    case "Version":
      return { version }
    case "Write":
      return { version, expectedWriteId: expectation.writeId }
    case "Data":
      return { version, expectedData: expectation.data }
  }
}

/** Runs an operation on the file, and retries it while another process has the file locked. A read changes nothing. */
export interface Run {
  readonly read: <A>(operation: () => A) => Effect.Effect<A, Backend>
  readonly write: <A>(operation: () => A) => Effect.Effect<A, Backend>
}

export const attempted = <A>(operation: () => A): Result.Result<A, SqliteError> =>
  Result.try({ try: operation, catch: (error) => error as SqliteError })

export const transaction = <A>(db: DatabaseSync, f: () => A): A => {
  db.exec("BEGIN IMMEDIATE")
  try {
    const result = f()
    db.exec("COMMIT")
    return result
  } finally {
    if (db.isTransaction) db.exec("ROLLBACK")
  }
}

export const makeEngine = (db: DatabaseSync, run: Run): Engine => {
  const statements = prepare(db)

  /**
   * Runs a write. If the disk is full, runs it once more after a checkpoint. The checkpoint copies the pages in the log
   * to the file. If the file has those pages already, the copy needs no more room, and the log can start again at its
   * beginning.
   */
  const runWrite = <A>(write: () => A) =>
    run.write(() => {
      const first = attempted(write)
      if (Result.isSuccess(first)) return first.success
      if (!isFull(first.failure)) throw first.failure
      statements.checkpoint.get()
      return write()
    })

  const select = ({ id, owner }: StorageKey): StoredRecord | undefined => {
    const row = statements.read.get({ owner, id }) as Row | undefined
    return row === undefined ? undefined : toStored(row)
  }

  let blockedMillis = 0

  /**
   * Runs a write, which returns undefined if its condition does not hold. In that case the write runs again in a
   * transaction that also reads the stored record, so that no other write comes in between.
   */
  const writeOrRefuse = <A>(key: StorageKey, write: () => A | undefined) => {
    const start = performance.now()
    const done = runWrite(
      (): A | Refused => write() ?? transaction(db, () => write() ?? { _tag: "Refused", current: select(key) })
    )
    blockedMillis += performance.now() - start
    if (blockedMillis < maxBlockedMillis) return done
    blockedMillis = 0
    return Effect.tap(done, Effect.yieldNow)
  }

  return {
    read: (key) => run.read(() => select(key)),

    put: (key, write) => {
      const parameters = parametersOfWrite(key, write)
      return writeOrRefuse(key, () => writtenBy(statements.put, parameters))
    },

    swap: (key, write, expectation, nowSeconds) => {
      const parameters = { ...parametersOfWrite(key, write), now: nowSeconds }
      if (expectation._tag === "Absent") return writeOrRefuse(key, () => writtenBy(statements.create, parameters))
      const all = { ...parameters, ...parametersOf(expectation) }
      const update = statements.update[expectation._tag]
      return writeOrRefuse(key, (): Written | undefined =>
        update.run(all).changes === 0 ? undefined : { _tag: "Written", version: expectation.version + write.increment }
      )
    },

    remove: (key, expectation, nowSeconds) => {
      const statement = expectation === undefined ? statements.removeLive : statements.remove[expectation._tag]
      const { id, owner } = key
      const parameters = { owner, id, now: nowSeconds, ...(expectation === undefined ? {} : parametersOf(expectation)) }
      return writeOrRefuse(key, () =>
        statement.run(parameters).changes === 0 ? undefined : { _tag: "Removed" as const }
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
      return run.read(() => readChunk(statements.list[order], { owner, from, to, limit: limit + 1 }, limit, nowSeconds))
    },

    cleanup: Effect.fnUntraced(function* (nowSeconds) {
      for (let removed = 0; ; yield* Effect.yieldNow) {
        const { changes } = yield* runWrite(() => statements.cleanup.run({ now: nowSeconds - clockSlackSeconds }))
        removed += Number(changes)
        if (changes < cleanupBatch) return removed
      }
    })
  }
}

const parametersOfWrite = ({ id, owner }: StorageKey, { data, expiresAtSeconds, increment, writeId }: Write) => ({
  owner,
  id,
  data,
  writeId,
  increment,
  expiresAt: expiresAtSeconds ?? null
})

/**
 * Runs a statement to its end, when it commits. `get` would stop at the row that it returns, and hide a failed commit.
 */
const writtenBy = (statement: StatementSync, parameters: Record<string, SQLInputValue>): Written | undefined => {
  const [row] = statement.all(parameters) as unknown as ReadonlyArray<Row>
  return row === undefined ? undefined : { _tag: "Written", version: row.version }
}

const readChunk = (
  statement: StatementSync,
  parameters: Record<string, SQLInputValue>,
  limit: number,
  nowSeconds: number
): Chunk => {
  const records: Array<Chunk["records"][number]> = []
  let [examined, bytes, last]: [number, number, string | undefined] = [0, 0, undefined]
  const rows = statement.iterate(parameters)
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
