/** Sends statements to PostgreSQL, each up to a time-out. */
import type { PgClient } from "@effect/sql-pg"
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import type { Connection } from "effect/sql/SqlConnection"
import { SqlError } from "effect/sql/SqlError"
import { toMillis } from "../../../internal/time.ts"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { misconfigured } from "../failure.ts"
import { startTimer } from "../timer.ts"
import { failureOf } from "./failure.ts"
import type { Layout, Row } from "./layout.ts"

/** The failure of a statement that changes nothing, so its outcome is `not-applied`. */
export const asRead = (
  { operation, reason: { _tag: reason, cause, description } }: Backend,
  newOperation = operation
): Backend => makeBackend({ operation: newOperation, outcome: "not-applied", reason, description, cause })

type Rows = ReadonlyArray<Row>

/** Runs a statement of a transaction, on the transaction's connection. */
export type RunInTransaction = (text: string, parameters: ReadonlyArray<unknown>) => Effect.Effect<Rows, SqlError>

export interface Send {
  /** How long a request may take. */
  readonly requestMillis: number
  /** Runs one statement, which is a transaction of its own. */
  readonly run: (text: string, parameters: ReadonlyArray<unknown>) => Effect.Effect<Rows, Backend>
  /** Runs a transaction. It is rolled back if its body fails, is interrupted, or answers with what is not committed. */
  readonly transaction: <A>(
    body: (run: RunInTransaction) => Effect.Effect<A, SqlError | Backend>,
    isCommitted: (answer: A) => boolean
  ) => Effect.Effect<A, Backend>
}

/** Stated here, since a session may have another default. It needs to see what others have committed meanwhile. */
const begin = "BEGIN ISOLATION LEVEL READ COMMITTED"

/** Made once: copying the caller's context for each statement would take an eighth of a read's CPU. */
const run = Effect.runForkWith(Context.make(References.TracerEnabled, false))

export const makeSend = (sql: PgClient.PgClient, { name }: Layout, requestTimeout: Duration.Input): Send => {
  const millis = toMillis("requestTimeout", requestTimeout)
  const late = (outcome: Backend["outcome"]) => {
    const description =
      `PostgreSQL did not answer within ${Duration.format(Duration.millis(millis))}, which includes the wait for a ` +
      "connection of the pool. See what locks the record in pg_locks, and whether the pool is large enough"
    return makeBackend({ reason: "Timeout", outcome, description })
  }
  const closed = () =>
    misconfigured("The pool was closed with the scope of its PgClient: use the backend within that scope")
  const toBackend = (error: SqlError | Backend): Backend => (error instanceof SqlError ? failureOf(error, name) : error)

  /**
   * Runs in a fiber of its own, which is interrupted when the time is up. The client then ends the statement on the
   * server, too. Nobody waits for that, since a server that hangs would not answer that either.
   *
   * The fiber has nothing of its caller's context, and so not a caller's own transaction. Records can't be part of
   * that: several callers share one write, and a write is acknowledged before that transaction ends. Nor does the
   * statement have a span beside that of the operation.
   */
  const upTo = <A>(effect: Effect.Effect<A, SqlError | Backend>, outcome: () => Backend["outcome"]) =>
    Effect.callback<A, Backend>((resume) => {
      const fiber = run(effect)
      const clearTimer = startTimer(millis, () => {
        resume(Effect.fail(late(outcome())))
        fiber.interruptUnsafe()
      })
      fiber.addObserver((exit) => {
        clearTimer()
        // A closed pool interrupts whoever asks it for a connection.
        const isClosed = Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)
        resume(isClosed ? Effect.fail(closed()) : Exit.mapError(exit, toBackend))
      })
      return Effect.suspend(() => {
        clearTimer()
        return Fiber.interrupt(fiber)
      })
    })

  return {
    requestMillis: millis,

    run: (text, parameters) => upTo(sql.unsafe(text, parameters).values, () => "unknown"),

    transaction: (body, isCommitted) => {
      let isEnding = false
      const answer = Effect.scoped(
        Effect.flatMap(sql.reserve, (connection) =>
          transactionOn(connection, body, isCommitted, () => {
            isEnding = true
          })
        )
      )
      // Until COMMIT is sent, the transaction is not applied, and ends with its connection at the latest.
      const outcome = () => (isEnding ? "unknown" : "not-applied")
      return Effect.mapError(upTo(answer, outcome), (error) => (isEnding ? error : asRead(error)))
    }
  }
}

const transactionOn = <A>(
  connection: Connection,
  body: (run: RunInTransaction) => Effect.Effect<A, SqlError | Backend>,
  isCommitted: (answer: A) => boolean,
  onCommit: () => void
) => {
  const control = (text: string) => connection.executeUnprepared(text, [], undefined)
  // If this fails, the connection is gone, and the transaction with it.
  const rollback = Effect.ignore(control("ROLLBACK"))
  return Effect.uninterruptibleMask((restore) =>
    restore(control(begin)).pipe(
      Effect.andThen(restore(body((text, parameters) => connection.executeValues(text, parameters)))),
      Effect.onError(() => rollback),
      Effect.flatMap((answer) => {
        if (!isCommitted(answer)) return Effect.as(rollback, answer)
        onCommit()
        // If the time was up just before COMMIT was sent, the connection must not keep the transaction open.
        return Effect.as(
          Effect.onError(restore(control("COMMIT")), () => rollback),
          answer
        )
      })
    )
  )
}
