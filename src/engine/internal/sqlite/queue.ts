/**
 * Gathers writes, so that those that arrive together share one transaction, and one confirmation by the disk.
 *
 * - A write that is alone runs at once. It is alone if no other write waits, and if no other fiber has written in this
 *   turn of the event loop.
 * - Other writes wait until the event loop has turned. They then run in the order in which they came, as many in one
 *   transaction as its limits allow. The event loop turns between transactions.
 * - If another process has the file locked, all that wait are tried again by the retry schedule of those that have
 *   waited longest.
 * - A write that is interrupted while it waits is left out.
 */
import type { DatabaseSync } from "node:sqlite"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Schedule from "effect/Schedule"
import type { Backend } from "../../../StorageError.ts"
import {
  attempted,
  maxBatchLength,
  maxBatchWrites,
  type Outcome,
  runAlone,
  runTogether,
  type WithCheckpoint,
  type WriteRequest
} from "./batch.ts"
import { isLocked, type SqliteError } from "./failure.ts"
import { type Member, makeRetries } from "./retries.ts"

/** Runs a write and returns its answer, as soon as it is committed. */
export type Submit = <A, R>(request: WriteRequest<A, R>) => Effect.Effect<A | R, Backend>

export interface Options {
  readonly withCheckpoint: WithCheckpoint
  readonly retrySchedule: Schedule.Schedule<unknown>
  readonly toBackend: (error: SqliteError) => Backend
}

/** For how many milliseconds a fiber may write before the event loop turns. */
const maxBlockedMillis = 2

export const makeQueue = (db: DatabaseSync, { retrySchedule, toBackend, withCheckpoint }: Options): Submit => {
  /** In the order in which the writes came. */
  const queue = new Set<Member>()
  const retries = makeRetries(queue, retrySchedule, toBackend)

  /** Who has written in this turn of the event loop. */
  let writer: Fiber.Fiber<unknown, unknown> | "several" | undefined
  let blockedMillis = 0
  let isTurnAwaited = false

  const awaitTurn = () => {
    if (isTurnAwaited) return
    isTurnAwaited = true
    setImmediate(onTurn)
  }

  const onTurn = () => {
    isTurnAwaited = false
    writer = undefined
    blockedMillis = 0
    if (queue.size === 0) return
    const locked = runNext()
    if (locked !== undefined) retries.start(locked, runNext)
  }

  /** Runs the writes that have waited longest. Returns the error if another process has the file locked. */
  const runNext = (): SqliteError | undefined => {
    const [batch, outcome] = runBatch(db, withCheckpoint, nextBatch(queue))
    if (outcome._tag === "Locked") return outcome.error
    retries.stop()
    awaitTurn()
    const done = takeDone(queue, batch, outcome)
    // The fibers run on from within `resume`. What they write next is gathered, unless it is the write of the only one.
    writer = done.length === 1 ? done[0]?.fiber : "several"
    resumeAll(done, outcome, toBackend)
  }

  const wait = <A, R>(request: WriteRequest<A, R>, locked: SqliteError | undefined) =>
    Effect.callback<A | R, Backend>((resume) => {
      const fiber = Fiber.getCurrent() as Member["fiber"]
      const member: Member = { ...request, fiber, resume: resume as Member["resume"], isAlone: false, isRetried: false }
      queue.add(member)
      if (locked === undefined) awaitTurn()
      else retries.start(locked, runNext)
      return Effect.sync(() => {
        if (queue.delete(member) && queue.size === 0) retries.stop()
      })
    })

  const mayRunAtOnce = (fiber: Fiber.Fiber<unknown, unknown> | undefined): boolean => {
    // A fiber of `Effect.runSync` can't wait for a turn.
    if (fiber?.cache.scheduler.executionMode === "sync") return true
    return queue.size === 0 && (writer === undefined || (writer === fiber && blockedMillis < maxBlockedMillis))
  }

  return (request) => {
    const fiber = Fiber.getCurrent()
    if (!mayRunAtOnce(fiber)) return wait(request, undefined)
    writer = fiber ?? "several"
    awaitTurn()
    const start = performance.now()
    // No `Result` here, since a write that is alone is the hot path.
    try {
      return Effect.succeed(withCheckpoint(() => runAlone(db, request)))
    } catch (error) {
      return isLocked(error as SqliteError)
        ? wait(request, error as SqliteError)
        : Effect.fail(toBackend(error as SqliteError))
    } finally {
      blockedMillis += performance.now() - start
    }
  }
}

/** Takes the writes that have an answer out of the queue. The others stay, and those at fault will run alone. */
const takeDone = (
  queue: Set<Member>,
  batch: ReadonlyArray<Member>,
  outcome: Outcome<Member>
): ReadonlyArray<Member> => {
  const alone = outcome._tag === "Divided" ? outcome.alone : []
  for (const member of alone) member.isAlone = true
  const count = outcome._tag === "Committed" ? outcome.answers.length : outcome._tag === "Failed" ? outcome.count : 0
  const done = batch.slice(0, count)
  for (const member of done) queue.delete(member)
  return done
}

/** Lets the fibers run on with the answers of their writes, or with the error of the transaction. */
const resumeAll = (
  done: ReadonlyArray<Member>,
  outcome: Outcome<Member>,
  toBackend: (error: SqliteError) => Backend
): void => {
  const failed = outcome._tag === "Failed" ? Exit.fail(toBackend(outcome.error)) : undefined
  const answers = outcome._tag === "Committed" ? outcome.answers : []
  for (const [i, { resume }] of done.entries()) resume(failed ?? Exit.succeed(answers[i]))
}

/** The oldest writes that may share a transaction. */
const nextBatch = (queue: Iterable<Member>): ReadonlyArray<Member> => {
  const batch: Array<Member> = []
  let length = 0
  for (const member of queue) {
    length += member.length
    if (batch.length > 0 && (member.isAlone || length > maxBatchLength)) break
    batch.push(member)
    if (member.isAlone || batch.length === maxBatchWrites) break
  }
  return batch
}

const runBatch = (
  db: DatabaseSync,
  withCheckpoint: WithCheckpoint,
  batch: ReadonlyArray<Member>
): [ReadonlyArray<Member>, Outcome<Member>] => {
  const [member] = batch
  if (member === undefined) return [batch, { _tag: "Committed", answers: [] }]
  if (batch.length > 1) return [batch, runTogether(db, batch)]
  const answer = attempted(() => withCheckpoint(() => runAlone(db, member)))
  if (answer._tag === "Success") return [batch, { _tag: "Committed", answers: [answer.success] }]
  return [
    batch,
    isLocked(answer.failure)
      ? { _tag: "Locked", error: answer.failure }
      : { _tag: "Failed", error: answer.failure, count: 1 }
  ]
}
