/** Turns errors of SQLite into failures. The codes have the names of SQLite's "Result and Error Codes". */

import { type Failure, notApplied } from "../failure.ts"
import { safeCause } from "../safeCause.ts"

/** An error of `node:sqlite`. */
export interface SqliteError extends Error {
  readonly code?: string
  /** SQLite's extended result code. Deno gives none if it opens a file or executes SQL without a statement. */
  readonly errcode?: number
}

const SQLITE_BUSY = 5
const SQLITE_LOCKED = 6
const SQLITE_NOMEM = 7
const SQLITE_READONLY = 8
const SQLITE_IOERR = 10
const SQLITE_CORRUPT = 11
const SQLITE_FULL = 13
const SQLITE_CANTOPEN = 14
const SQLITE_PERM = 3
const SQLITE_NOTADB = 26

/** The write-ahead log could not be locked in time. */
const SQLITE_PROTOCOL = 15

/** An extended code: a page could not be written. */
const SQLITE_IOERR_WRITE = 778

/** An extended code: the disk has no room for the index of the write-ahead log, the file `-shm`. */
const SQLITE_IOERR_SHMSIZE = 4874

/** SQLite's own texts for its result codes (`sqlite3_errstr`), with which messages begin. */
const codesByText: Readonly<Record<string, number>> = {
  "access permission denied": SQLITE_PERM,
  "database is locked": SQLITE_BUSY,
  "database table is locked": SQLITE_LOCKED,
  "out of memory": SQLITE_NOMEM,
  "attempt to write a readonly database": SQLITE_READONLY,
  "disk I/O error": SQLITE_IOERR,
  "database disk image is malformed": SQLITE_CORRUPT,
  "database or disk is full": SQLITE_FULL,
  "unable to open database file": SQLITE_CANTOPEN,
  "locking protocol": SQLITE_PROTOCOL,
  "file is not a database": SQLITE_NOTADB
}

const primaryCodeOf = ({ errcode, message }: SqliteError): number =>
  errcode === undefined ? (codesByText[message.split(":", 1).join()] ?? 0) : errcode & 0xff

/** Whether another process has the file locked. */
export const isLocked = (error: SqliteError): boolean =>
  [SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL].includes(primaryCodeOf(error))

/** Whether the disk had no room for a write. */
export const isFull = (error: SqliteError): boolean => primaryCodeOf(error) === SQLITE_FULL

/**
 * Whether a `COMMIT` that failed with this error has written nothing that counts. The last page of a transaction marks
 * it as committed. If a page could not be written, that page is missing from the log.
 */
export const isUnwritten = (error: SqliteError): boolean => isFull(error) || error.errcode === SQLITE_IOERR_WRITE

/**
 * The part of an error's message that may be shown. If Node.js refuses an argument, its message repeats the argument,
 * so it is left out. SQLite's own messages name tables and columns, never their content.
 */
const messageOf = ({ code, message, name }: SqliteError): string =>
  code === "ERR_SQLITE_ERROR" ? message : `${name}${code === undefined ? "" : ` ${code}`}`

/** The reason of an error, and whether SQLite may have applied the operation. */
export const failureOf = (error: SqliteError, filename: string): Failure => {
  if (error.code === "ERR_INVALID_STATE") {
    return notApplied("Misconfigured", `${filename} was closed with the scope of its Layer: use it within that scope`)
  }
  if (error.code === "ERR_OUT_OF_RANGE") {
    return notApplied(
      "Corrupt",
      `${filename} has a record with a number that is not a version or a time: repair or delete that record`
    )
  }
  if (isFull(error) || error.errcode === SQLITE_IOERR_SHMSIZE) {
    return notApplied(
      "Unavailable",
      `The disk of ${filename} is full: free at least as much room on it as ${filename}-wal takes. Until then no ` +
        "record can be written or removed, since a removal is written to that log as well"
    )
  }
  switch (primaryCodeOf(error)) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_PROTOCOL:
      return notApplied("Unavailable", `Another process keeps ${filename} locked: see which one, and why for so long`)
    case SQLITE_PERM:
    case SQLITE_READONLY:
      return notApplied("Misconfigured", `${filename} can't be written: let this process write it and its folder`)
    case SQLITE_NOMEM:
      return notApplied("Unavailable", `SQLite does not have enough memory for ${filename}`)
    case SQLITE_IOERR:
      return {
        reason: "Unavailable",
        outcome: "unknown",
        description: `The disk failed to read or write ${filename}: ${messageOf(error)}`
      }
    case SQLITE_CORRUPT:
      return notApplied("Corrupt", `${filename} is damaged: restore it from a backup (${messageOf(error)})`)
    case SQLITE_CANTOPEN:
      return notApplied(
        "Misconfigured",
        `${filename} can't be opened: it must be a file that this process may write, in a folder that exists`
      )
    case SQLITE_NOTADB:
      return notApplied(
        "Corrupt",
        `${filename} is not an SQLite file, or its start is damaged: name another file, or restore it from a backup`
      )
    default:
      return { reason: "Unknown", outcome: "unknown", description: `SQLite failed on ${filename}: ${messageOf(error)}` }
  }
}

/** A copy of the error that is safe to show. */
export const causeOf = (error: SqliteError): Error => safeCause(error, messageOf(error))
