/**
 * Records in an SQLite file, for state that outlives the process, on one machine. Several processes may share the file.
 *
 * The backend is built on `node:sqlite`, which is part of Node.js. It is not built on `@effect/sql-sqlite-node`, since
 * that package has a release for Effect 3, and betas for Effect 4 that import modules which Effect 4.1 no longer has.
 *
 * Each operation is one statement. Statements are synchronous, so a write stops the event loop until the disk has
 * confirmed it. Writes that arrive together share one transaction, and so one confirmation; a write that is alone does
 * not wait for others. If another process has locked the file, operations are retried under a schedule, which does not
 * stop the event loop.
 *
 * While records are watched, the file is asked every 15 ms whether another process has written to it. That reads no
 * record, and one timer serves all watchers.
 */
import { DatabaseSync } from "node:sqlite"
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Engine from "../Engine.ts"
import { backoffFor } from "../internal/backoff.ts"
import { makeFrom } from "../internal/config.ts"
import { checkBoolean, checkSchedule, checkString } from "../internal/options.ts"
import { StorageBackend } from "../StorageBackend.ts"
import { type Backend, makeBackend } from "../StorageError.ts"
import { misconfigured } from "./internal/failure.ts"
import { attempted, transaction } from "./internal/sqlite/batch.ts"
import { causeOf, failureOf, isLocked, type SqliteError } from "./internal/sqlite/failure.ts"
import { makeHints } from "./internal/sqlite/hints.ts"
import { ensureSchema } from "./internal/sqlite/layout.ts"
import { makeEngine } from "./internal/sqlite/requests.ts"
import { verify as verifyFile } from "./internal/sqlite/verify.ts"

/**
 * The file, and how it is used.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The path of the file, or `:memory:`. If the file is missing, it is created. Its folder must exist. */
  readonly filename: string
  /**
   * When a write is acknowledged (SQLite's `PRAGMA synchronous`). With `FULL`, the default, it is once the disk has
   * confirmed the write, so that it survives a power cut. With `NORMAL` it is before that, and many times faster: a
   * write survives the end of the process, but a power cut or a crash of the machine may lose the last writes. Neither
   * damages the file.
   */
  readonly synchronous?: "FULL" | "NORMAL" | undefined
  /** The most bytes of UTF-8 that one record's data may take; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
  /**
   * How an operation is retried while another process has the file locked. By default it waits from 1 ms up to 3 ms,
   * with a jitter of ±20%, for 30 s. Writes that wait together are retried together. So a write may share the schedule
   * of those that came up to 5 s later, and wait for that much longer.
   */
  readonly retrySchedule?: Schedule.Schedule<unknown> | undefined
  /**
   * Whether building the Layer also fails if this process may read the file but not write it; false by default. It
   * writes a record and rolls that back, so nothing changes.
   */
  readonly verify?: boolean | undefined
}

// The wait is short, since other processes leave the file unlocked for less than a millisecond between their writes.
// With waits of up to 20 ms, a process that writes from one fiber left another one 3% of its share.
const untilUnlocked = backoffFor("1 millis", "3 millis", "30 seconds")

/** The failure of an operation on a file. A read changes nothing, so its outcome is never unknown. */
const toBackend =
  (filename: string, kind: "read" | "write") =>
  (error: SqliteError): Backend => {
    const { description, outcome, reason } = failureOf(error, filename)
    return makeBackend({
      operation: "open",
      reason,
      outcome: kind === "read" ? "not-applied" : outcome,
      description,
      cause: causeOf(error)
    })
  }

/** Runs operations on a file, and retries them while another process has the file locked. */
const makeRun =
  (retrySchedule: Schedule.Schedule<unknown>, toBackend: (error: SqliteError) => Backend) =>
  <A>(operation: () => A): Effect.Effect<A, Backend> => {
    // No `Result` for the first attempt, since each read comes this way.
    try {
      return Effect.succeed(operation())
    } catch (error) {
      return Effect.fail(error as SqliteError).pipe(
        Effect.catchIf(isLocked, () =>
          Effect.retry(
            Effect.suspend(() => Effect.fromResult(attempted(operation))),
            { schedule: retrySchedule, while: isLocked }
          )
        ),
        Effect.mapError(toBackend)
      )
    }
  }

const make = Effect.fnUntraced(function* ({
  filename,
  maxDataBytes,
  retrySchedule = untilUnlocked,
  synchronous = "FULL",
  verify = false
}: Options): Effect.fn.Return<StorageBackend["Service"], Backend, Scope.Scope> {
  checkString("filename", filename)
  checkSchedule("retrySchedule", retrySchedule)
  checkBoolean("verify", verify)
  if (synchronous !== "FULL" && synchronous !== "NORMAL") {
    return yield* misconfigured(`synchronous is FULL or NORMAL, not ${synchronous}`)
  }
  if (filename === "" || filename.includes("\0")) {
    return yield* misconfigured("The name of the file is empty, or has U+0000: give another name")
  }
  const [failRead, failWrite] = [toBackend(filename, "read"), toBackend(filename, "write")]
  const run = { read: makeRun(retrySchedule, failRead), write: makeRun(retrySchedule, failWrite) }
  // Opening may create the file and its tables, and can be repeated without harm. So its errors are treated as a
  // read's.
  const open = run.read
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
  // On macOS, a disk confirms writes that are still in its cache, unless `fullfsync` is on.
  yield* open(() => db.exec(`PRAGMA synchronous = ${synchronous}; PRAGMA fullfsync = ${synchronous === "FULL"}`))
  // With SQLite's default of 1,000 pages, a checkpoint stops the event loop for 7 ms, and with 250 pages for 3 ms. With
  // NORMAL, checkpoints alone wait for the disk, so more of them would cost more than all else.
  if (synchronous === "FULL") yield* open(() => db.exec("PRAGMA wal_autocheckpoint = 250"))
  if (verify) yield* open(() => verifyFile(db))
  const engine = yield* open(() => makeEngine(db, { run, retrySchedule, toBackend: failWrite }))
  const hints = yield* makeHints(db)
  // `run` has already retried while the file was locked, and no other failure passes by itself.
  return Engine.make({ ...engine, hints }, { maxDataBytes, retrySchedule: Schedule.recurs(0) })
})

/**
 * A store in a file, or in memory with `:memory:`. If the file is missing, it is created. It is closed with the scope.
 *
 * Building the Layer fails with `Misconfigured` if the file can't be opened, or belongs to another program or a newer
 * release, and with `Corrupt` if it is damaged or is not an SQLite file.
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
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<StorageBackend, Backend> =>
  Layer.effect(StorageBackend, make(options))

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
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<StorageBackend, Backend | Config.ConfigError> =>
  Layer.effect(StorageBackend, makeFrom(options, make))
