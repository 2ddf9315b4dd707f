/**
 * Runs writes on the file: one alone, or several in one transaction.
 *
 * A batch is synchronous from `BEGIN` to `COMMIT`. So no other operation of this process runs within its transaction.
 */
import type { DatabaseSync } from "node:sqlite"
import * as Result from "effect/Result"
import { isFull, isLocked, isUnwritten, type SqliteError } from "./failure.ts"

/** A write that the engine asks for. */
export interface WriteRequest<out A, out R> {
  /** Runs the statement. Returns undefined if the statement's condition does not hold. */
  readonly write: () => A | undefined
  /** Reads the stored record, for the answer to a refused write. Runs in the same transaction as `write`. */
  readonly refuse: () => R
  /** The length of the data, since the time of a commit grows with it. */
  readonly length: number
  /** Whether `write` runs several statements, so that it needs a transaction even if it is alone. */
  readonly isTransaction?: boolean
}

/** What a batch came to. Nothing of it was written unless it was committed, or `Failed` says otherwise. */
export type Outcome<M> =
  /** `answers` are those of the first members. The members after them were left out, since time was up. */
  | { readonly _tag: "Committed"; readonly answers: ReadonlyArray<unknown> }
  /** Another process has the file locked. */
  | { readonly _tag: "Locked"; readonly error: SqliteError }
  /** The transaction was rolled back because of these members, or may succeed in parts. They must run alone. */
  | { readonly _tag: "Divided"; readonly alone: ReadonlyArray<M> }
  /** The first `count` members failed with this error, which says whether they may have been written. */
  | { readonly _tag: "Failed"; readonly error: SqliteError; readonly count: number }

/** How many writes share a transaction at most. */
export const maxBatchWrites = 64

/** How much data the writes of a transaction have at most. A record that is larger has a transaction of its own. */
export const maxBatchLength = 256 * 1024

/** For how many milliseconds a transaction takes on further writes. */
const maxBatchMillis = 2

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

/**
 * Runs a write, once more after a checkpoint if the disk is full. The checkpoint copies the pages in the log to the
 * file. If the file has those pages already, the copy needs no more room, and the log can start again at its beginning.
 */
export type WithCheckpoint = <A>(write: () => A) => A

export const makeWithCheckpoint =
  (checkpoint: () => unknown): WithCheckpoint =>
  (write) => {
    // No `Result` here, since each write that is alone comes this way.
    try {
      return write()
    } catch (error) {
      if (!isFull(error as SqliteError)) throw error
      checkpoint()
      return write()
    }
  }

/**
 * Runs a write without a `BEGIN`, since its statement is atomic by itself. If the statement's condition does not hold,
 * the write runs again in a transaction that also reads the stored record, so that no other write comes in between.
 */
export const runAlone = <A, R>(db: DatabaseSync, { isTransaction = false, refuse, write }: WriteRequest<A, R>): A | R =>
  (isTransaction ? undefined : write()) ?? transaction(db, () => write() ?? refuse())

/** Runs writes in one transaction. Their answers are known only after its `COMMIT`. */
export const runTogether = <M extends WriteRequest<unknown, unknown>>(
  db: DatabaseSync,
  members: ReadonlyArray<M>
): Outcome<M> => {
  const answers: Array<unknown> = []
  let step: "begin" | "write" | "commit" = "begin"
  const committed = attempted(() =>
    transaction(db, () => {
      step = "write"
      const end = performance.now() + maxBatchMillis
      for (const { refuse, write } of members) {
        answers.push(write() ?? refuse())
        if (performance.now() > end) break
      }
      step = "commit"
    })
  )
  if (Result.isSuccess(committed)) return { _tag: "Committed", answers }
  return outcomeOf(committed.failure, step, members, answers.length)
}

/** What a transaction came to that failed at a step, after it had run this number of its members. */
const outcomeOf = <M>(
  error: SqliteError,
  step: "begin" | "write" | "commit",
  members: ReadonlyArray<M>,
  count: number
): Outcome<M> => {
  // Only the member that threw is at fault. The others share the next transaction.
  if (step === "write") return { _tag: "Divided", alone: members.slice(count, count + 1) }
  // SQLite leaves a transaction open whose COMMIT meets a lock, so it has been rolled back.
  if (isLocked(error)) return { _tag: "Locked", error }
  // Each member may still succeed alone, or at least learn its own error.
  if (step === "begin" || isUnwritten(error)) return { _tag: "Divided", alone: members }
  return { _tag: "Failed", error, count }
}
