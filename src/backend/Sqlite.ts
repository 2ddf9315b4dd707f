/**
 * Records in an SQLite file: for state that outlives the process, on one machine. Several processes may share the file.
 *
 * It is built on `node:sqlite`, which Node.js brings, and not on `@effect/sql-sqlite-node`: that has a release for Effect 3,
 * and betas of one for Effect 4 that import modules which Effect 4.1 no longer has.
 *
 * Each operation is one statement, and a write that is refused a transaction besides, to tell what is there. Calls are
 * synchronous: a write stops the event loop for as long as the disk takes to confirm it. A file that another process has
 * locked does not: it is tried again by a schedule.
 */
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as StorageBackend from "../StorageBackend.ts"
import { type Backend, backend as backendError } from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"
import { clockSlackSeconds } from "./internal/clockSlack.ts"
import { checkSchedule, checkString } from "./internal/options.ts"
import { safeCause } from "./internal/safeCause.ts"

/** Which file, and how it is used. */
export interface Options {
  /** The path of the file, which is created where it is missing, or `:memory:`. Its folder must exist. */
  readonly filename: string
  /**
   * When a write is acknowledged (SQLite's `PRAGMA synchronous`). `FULL`, by default: once the disk has confirmed it, so
   * that it survives a power cut. `NORMAL`: before that, and many times faster. It survives the end of the process, but a
   * power cut or a crash of the machine may lose the last writes; the file is never damaged by it.
   */
  readonly synchronous?: "FULL" | "NORMAL" | undefined
  /** The most bytes of UTF-8 that one record's data takes; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
  /**
   * How a file that another process has locked is tried again: by default from 1 ms, doubled up to 20 ms before a jitter
   * of 20%, for 30 s.
   */
  readonly retrySchedule?: Schedule.Schedule<unknown> | undefined
}

/** Marks the files of this library (SQLite's `PRAGMA application_id`): "EfVS". */
const applicationId = 0x45665653

/** The version of the schema below (SQLite's `PRAGMA user_version`). */
const schemaVersion = 1

const schema = `
  CREATE TABLE records (
    owner TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version BETWEEN 1 AND ${StorageBackend.maxVersion}),
    data TEXT NOT NULL,
    write_id TEXT,
    expires_at INTEGER CHECK (abs(expires_at) <= ${Number.MAX_SAFE_INTEGER}),
    PRIMARY KEY (owner, id)
  ) STRICT;
  CREATE INDEX records_by_expiry ON records (expires_at) WHERE expires_at IS NOT NULL;
  PRAGMA application_id = ${applicationId};
  PRAGMA user_version = ${schemaVersion};
`

/** The bytes of data after which a page ends, so that reading one does not stop the event loop for long. */
const maxPageBytes = 1024 * 1024

/** Writes one after another stop the event loop for so long, and then let it go on. */
const maxStopMillis = 2

/** A cleanup removes so many at a time, and lets others run in between. */
const cleanupBatch = 100

const defaultRetrySchedule = Schedule.min([Schedule.exponential("1 millis"), Schedule.spaced("20 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "30 seconds" })
)

// -----------------------------------------------------------------------------
// Errors
// -----------------------------------------------------------------------------

/** What `node:sqlite` throws. */
interface SqliteError extends Error {
  readonly code?: string
  /** SQLite's extended result code. */
  readonly errcode?: number
}

/** SQLite's primary result codes (its "Result and Error Codes"). */
const resultOf = ({ errcode = 0 }: SqliteError): number => errcode & 0xff

const busy = 5
const locked = 6

/** Others keep the lock of the log's index. */
const protocol = 15

const full = 13

/** SQLITE_IOERR_SHMSIZE, an extended code: there is no room for the index of the log (`-shm`). */
const noRoomForIndex = 4874

const isLocked = (error: SqliteError): boolean => [busy, locked, protocol].includes(resultOf(error))

interface Failure {
  readonly reason: Backend["reason"]["_tag"]
  readonly outcome: Backend["outcome"]
  readonly description: string
}

/** Node.js repeats the arguments that it refuses. SQLite's own messages name tables and columns, never their content. */
const messageOf = ({ code, message, name }: SqliteError): string =>
  code === "ERR_SQLITE_ERROR" ? message : `${name}${code === undefined ? "" : ` ${code}`}`

const failureOf = (error: SqliteError, filename: string): Failure => {
  const notApplied = (reason: Failure["reason"], description: string): Failure => ({
    reason,
    outcome: "not-applied",
    description
  })
  if (error.code === "ERR_INVALID_STATE") {
    return notApplied("Misconfigured", `${filename} has been closed with the scope of its Layer: use it within that`)
  }
  if (error.code === "ERR_OUT_OF_RANGE") {
    return notApplied("Corrupt", `${filename} holds a number that is no version and no time: mend or delete the record`)
  }
  if (resultOf(error) === full || error.errcode === noRoomForIndex) {
    return notApplied(
      "Unavailable",
      `The disk of ${filename} is full: make room on it, at least as much as ${filename}-wal takes. Until then no ` +
        "record can be written, nor removed, since a removal is written to that log, too"
    )
  }
  switch (resultOf(error)) {
    case busy:
    case locked:
    case protocol:
      return notApplied("Unavailable", `Another process keeps ${filename} locked: see which one, and why for so long`)
    case 3:
    case 8:
      return notApplied("Misconfigured", `${filename} can't be written: let this process write it and its folder`)
    case 7:
      return notApplied("Unavailable", `SQLite has not enough memory for ${filename}`)
    case 10:
      return {
        reason: "Unavailable",
        outcome: "unknown",
        description: `The disk failed to read or write ${filename}: ${messageOf(error)}`
      }
    case 11:
      return notApplied("Corrupt", `${filename} is damaged: restore it from a backup (${messageOf(error)})`)
    case 14:
      return notApplied(
        "Misconfigured",
        `${filename} can't be opened: it must be a file that this process may write, in a folder that exists`
      )
    case 26:
      return notApplied(
        "Corrupt",
        `${filename} is no SQLite file, or its start is damaged: name another file, or restore it from a backup`
      )
    default:
      return { reason: "Unknown", outcome: "unknown", description: `SQLite failed on ${filename}: ${messageOf(error)}` }
  }
}

// -----------------------------------------------------------------------------
// The backend
// -----------------------------------------------------------------------------

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

interface Row {
  readonly id: string
  readonly version: number
  readonly data: Uint8Array
  readonly write_id: string | null
  readonly expires_at: number | null
}

/** Read as bytes: Node.js before 24 ends a string at its first U+0000. */
const columns = "id, version, CAST(data AS BLOB) AS data, write_id, expires_at"

const at = "owner = :owner AND id = :id"
const belowLast = `version < ${StorageBackend.maxVersion}`
const live = "(expires_at IS NULL OR expires_at > :now)"
const range = "owner = :owner AND id >= :from AND id < CAST(:to AS TEXT)"
const change = "version = version + 1, data = :data, write_id = :writeId, expires_at = :expiresAt"
const insert = `INSERT INTO records VALUES (:owner, :id, 1, :data, :writeId, :expiresAt) ON CONFLICT DO UPDATE SET ${change}`

const toStored = ({ data, expires_at, version, write_id }: Row): StorageBackend.StoredRecord => ({
  data: decoder.decode(data),
  version,
  writeId: write_id ?? undefined,
  expiresAt: expires_at ?? undefined
})

const prepare = (db: DatabaseSync) => {
  const update = (condition: string) =>
    db.prepare(`UPDATE records SET ${change} WHERE ${at} AND ${condition} AND ${belowLast}`)
  const remove = (condition: string) => db.prepare(`DELETE FROM records WHERE ${at} AND ${condition}`)
  /** By what is expected: nothing in particular, a version, a write, or the data of a record without a write id. */
  const conditions = {
    any: live,
    version: `${live} AND version = :version`,
    write: `${live} AND version = :version AND write_id = :expectedWriteId`,
    data: `${live} AND version = :version AND write_id IS NULL AND data = :expectedData`
  }
  return {
    read: db.prepare(`SELECT ${columns} FROM records WHERE ${at}`),
    put: db.prepare(`${insert} WHERE ${belowLast} RETURNING version`),
    create: db.prepare(`${insert} WHERE NOT ${live} AND ${belowLast} RETURNING version`),
    update: {
      version: update(conditions.version),
      write: update(conditions.write),
      data: update(conditions.data)
    },
    remove: {
      any: remove(conditions.any),
      version: remove(conditions.version),
      write: remove(conditions.write),
      data: remove(conditions.data)
    },
    list: {
      ascending: db.prepare(`SELECT ${columns} FROM records WHERE ${range} ORDER BY id LIMIT :limit`),
      descending: db.prepare(`SELECT ${columns} FROM records WHERE ${range} ORDER BY id DESC LIMIT :limit`)
    },
    cleanup: db.prepare(
      `DELETE FROM records WHERE rowid IN (SELECT rowid FROM records WHERE expires_at <= :now LIMIT ${cleanupBatch})`
    ),
    checkpoint: db.prepare("PRAGMA wal_checkpoint(PASSIVE)")
  }
}

/** What is expected, and the parameters that say so. */
const expectation = (expected: Exclude<StorageBackend.Expected, 0>) => {
  if (typeof expected === "number") return { by: "version", values: { version: expected } } as const
  const { data, version, writeId } = expected
  return writeId === undefined
    ? ({ by: "data", values: { version, expectedData: data } } as const)
    : ({ by: "write", values: { version, expectedWriteId: writeId } } as const)
}

const attempted = <A>(operation: () => A): Result.Result<A, SqliteError> =>
  Result.try({ try: operation, catch: (error) => error as SqliteError })

/** Runs operations on the file, each as often as another process has it locked. A read changes nothing in it. */
type Run = Record<"read" | "write", <A>(operation: () => A) => Effect.Effect<A, Backend>>

const makePrimitives = (db: DatabaseSync, { read: runRead, write: runWrite }: Run): StorageBackend.Primitives => {
  const statements = prepare(db)

  /**
   * Runs a write, and once more if the disk is full and emptying the log makes room in it. If the log has only pages that
   * the file has too, they are written over those in the file, and the log starts again from its beginning.
   */
  const run = <A>(write: () => A) =>
    runWrite(() => {
      const first = attempted(write)
      if (Result.isSuccess(first)) return first.success
      if (resultOf(first.failure) !== full) throw first.failure
      statements.checkpoint.get()
      return write()
    })

  const select = ({ id, owner }: StorageKey): StorageBackend.StoredRecord | undefined => {
    const row = statements.read.get({ owner, id }) as Row | undefined
    return row === undefined ? undefined : toStored(row)
  }

  let stopped = 0

  /** A write, or what is there instead: seen in the transaction that has tried again, so that nothing comes in between. */
  const attempt = <A>(key: StorageKey, write: () => A | undefined) => {
    const start = performance.now()
    const done = run(
      (): A | StorageBackend.Refused =>
        write() ?? transaction(db, () => write() ?? { _tag: "Refused", current: select(key) })
    )
    stopped += performance.now() - start
    if (stopped < maxStopMillis) return done
    stopped = 0
    return Effect.tap(done, Effect.yieldNow)
  }

  const written = (version: number | undefined): StorageBackend.Written | undefined =>
    version === undefined ? undefined : { _tag: "Written", version }

  /** Runs to its end, where it commits: `get` would leave off at the row that it returns, and not tell of a failure. */
  const versionOf = (statement: StatementSync, values: Record<string, SQLInputValue>) =>
    (statement.all(values) as unknown as ReadonlyArray<Row>)[0]?.version

  const valuesOf = ({ id, owner }: StorageKey, { data, expiresAt, writeId }: StorageBackend.Write) => ({
    owner,
    id,
    data,
    writeId,
    expiresAt: expiresAt ?? null
  })

  return {
    read: (key) => runRead(() => select(key)),

    put: (key, write) => {
      const values = valuesOf(key, write)
      return attempt(key, () => written(versionOf(statements.put, values)))
    },

    swap: (key, write, expected) => {
      const values = { ...valuesOf(key, write), now: write.now }
      if (expected === 0) return attempt(key, () => written(versionOf(statements.create, values)))
      const { by, values: expectedValues } = expectation(expected)
      const update = { ...values, ...expectedValues }
      const version = expectedValues.version + 1
      return attempt(key, () => (statements.update[by].run(update).changes === 0 ? undefined : written(version)))
    },

    remove: (key, now, expected) => {
      const { by, values } = expected === undefined ? { by: "any" as const, values: {} } : expectation(expected)
      const all = { owner: key.owner, id: key.id, now, ...values }
      return attempt(key, () =>
        statements.remove[by].run(all).changes === 0 ? undefined : { _tag: "Removed" as const }
      )
    },

    list: ({ idPrefix, owner }, { after, limit, now, order }) => {
      // No id has U+0000, so `after` and that is what comes next; and 0xff, which no text has, comes after any character.
      const end = new Uint8Array([...encoder.encode(idPrefix), 0xff])
      const [from, to] =
        order === "ascending"
          ? [after === undefined ? idPrefix : `${after}\0`, end]
          : [idPrefix, after === undefined ? end : encoder.encode(after)]
      return runRead(() => {
        const records: Array<StorageBackend.Chunk["records"][number]> = []
        let [examined, bytes, last]: [number, number, string | undefined] = [0, 0, undefined]
        const rows = statements.list[order].iterate({ owner, from, to, limit: limit + 1 })
        try {
          for (const found of rows) {
            const row = found as unknown as Row
            if (examined === limit || bytes >= maxPageBytes) return { records, next: last }
            examined++
            last = row.id
            if (row.expires_at !== null && row.expires_at <= now) continue
            bytes += row.data.length
            records.push({ id: row.id, ...toStored(row) })
          }
          return { records, next: undefined }
        } finally {
          rows.return?.() // a row that can't be converted leaves the statement open, and its transaction
        }
      })
    },

    cleanup: Effect.fnUntraced(function* (now) {
      for (let removed = 0; ; yield* Effect.yieldNow) {
        const { changes } = yield* run(() => statements.cleanup.run({ now: now - clockSlackSeconds }))
        removed += Number(changes)
        if (changes < cleanupBatch) return removed
      }
    })
  }
}

const transaction = <A>(db: DatabaseSync, f: () => A): A => {
  db.exec("BEGIN IMMEDIATE")
  try {
    const result = f()
    db.exec("COMMIT")
    return result
  } finally {
    if (db.isTransaction) db.exec("ROLLBACK")
  }
}

/** Makes the schema in a new file, and sees that another has it. */
const ensureSchema = (db: DatabaseSync, filename: string): Backend | undefined => {
  const pragma = (name: string) => db.prepare(`PRAGMA ${name}`).get()?.[name]
  const [application, version] = [pragma("application_id"), pragma("user_version")]
  const isEmpty = db.prepare("SELECT 1 FROM sqlite_schema").get() === undefined
  if (application === 0 && version === 0 && isEmpty && pragma("encoding") === "UTF-8") {
    db.exec(schema)
  } else if (application !== applicationId) {
    return misconfigured(`${filename} is a database of something else: name another file`)
  } else if (version !== schemaVersion) {
    return misconfigured(
      `${filename} was made by a newer release (schema ${version}, and this one knows ${schemaVersion}): update effect-versioned-store`
    )
  }
}

const misconfigured = (description: string) =>
  backendError({ operation: "open", reason: "Misconfigured", outcome: "not-applied", description })

const make = Effect.fnUntraced(function* ({
  filename,
  maxDataBytes,
  retrySchedule = defaultRetrySchedule,
  synchronous = "FULL"
}: Options): Effect.fn.Return<StorageBackend.StorageBackend["Service"], Backend, Scope.Scope> {
  checkString("filename", filename)
  checkSchedule("retrySchedule", retrySchedule)
  const run =
    (kind: "read" | "write") =>
    <A>(operation: () => A): Effect.Effect<A, Backend> => {
      const first = attempted(operation)
      if (Result.isSuccess(first)) return Effect.succeed(first.success)
      return Effect.fromResult(first).pipe(
        Effect.catchIf(isLocked, () =>
          Effect.retry(
            Effect.suspend(() => Effect.fromResult(attempted(operation))),
            { schedule: retrySchedule, while: isLocked }
          )
        ),
        Effect.mapError((error) => {
          const { description, outcome, reason } = failureOf(error, filename)
          return backendError({
            operation: "open",
            reason,
            outcome: kind === "read" ? "not-applied" : outcome,
            description,
            cause: safeCause(error, messageOf(error))
          })
        })
      )
    }
  const runs = { read: run("read"), write: run("write") }
  // Opening may create the file and its tables, and opening it again does no harm: so an error of it is like a read's.
  const open = runs.read

  if (synchronous !== "FULL" && synchronous !== "NORMAL") {
    return yield* misconfigured(`synchronous is FULL or NORMAL, not ${synchronous}`)
  }
  if (filename === "" || filename.includes("\0")) {
    return yield* misconfigured("The name of the file is empty, or has U+0000: give another")
  }
  const db = yield* Effect.acquireRelease(
    Effect.suspend(() => open(() => new DatabaseSync(filename))),
    (db) => Effect.sync(() => db.close())
  )
  const problem = yield* open(() => transaction(db, () => ensureSchema(db, filename)))
  if (problem !== undefined) return yield* problem
  const mode = yield* open(() => db.prepare("PRAGMA journal_mode = WAL").get()?.journal_mode)
  if (mode !== "wal" && filename !== ":memory:") {
    return yield* misconfigured(`${filename} can't have a write-ahead log: put it on a local disk`)
  }
  // On macOS a disk confirms what it has not written yet, unless it is asked in full.
  yield* open(() => db.exec(`PRAGMA synchronous = ${synchronous}; PRAGMA fullfsync = ${synchronous === "FULL"}`))
  const primitives = yield* open(() => makePrimitives(db, runs))
  // A file that is locked has been tried again by then, and nothing else goes away by itself.
  return StorageBackend.make(primitives, { maxDataBytes, retrySchedule: Schedule.recurs(0) })
})

/**
 * A store in a file, or in memory with `:memory:`. The file is created where it is missing, and closed with the scope;
 * `NORMAL` for `synchronous` trades safety against power cuts for speed.
 *
 * Fails with `Misconfigured` where the file can't be opened, is of something else or of a newer release, and with
 * `Corrupt` where it is damaged or no SQLite file.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageBackend, StorageKey } from "effect-versioned-store"
 * import * as Sqlite from "effect-versioned-store/Sqlite"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * const program = StorageBackend.StorageBackend.use((backend) => backend.put(key, "data"))
 * const layer = Sqlite.layer({ filename: ":memory:" })
 * assert.strictEqual(Effect.runSync(program.pipe(Effect.provide(layer))).version, 1)
 * ```
 */
export const layer = (options: Options): Layer.Layer<StorageBackend.StorageBackend, Backend> =>
  Layer.effect(StorageBackend.StorageBackend, make(options))

/**
 * A store in a file, set up from configuration.
 *
 * @example
 * ```ts
 * import * as Sqlite from "effect-versioned-store/Sqlite"
 * import { Config } from "effect"
 *
 * export const Storage = Sqlite.layerConfig({
 *   filename: Config.withDefault(Config.NonEmptyString("RECORDS_FILE"), "records.db")
 * })
 * ```
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<StorageBackend.StorageBackend, Backend | Config.ConfigError> =>
  Layer.effect(StorageBackend.StorageBackend, Effect.flatMap(Config.unwrap(options), make))
