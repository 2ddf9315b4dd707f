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
import * as Clock from "effect/Clock"
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

/** A write that waits. */
interface Member extends WriteRequest<unknown, unknown> {
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly resume: (exit: Exit.Exit<unknown, Backend>) => void
  /** Whether it must not share a transaction, since it has made one fail. */
  isAlone: boolean
  /** Whether a retry schedule runs for it, since it has met a lock. */
  isRetried: boolean
}

/** Runs a write and returns its answer, as soon as it is committed. */
export type Submit = <A, R>(request: WriteRequest<A, R>) => Effect.Effect<A | R, Backend>

export interface Options {
  readonly withCheckpoint: WithCheckpoint
  readonly retrySchedule: Schedule.Schedule<unknown>
  readonly toBackend: (error: SqliteError) => Backend
}

/** For how many milliseconds a fiber may write before the event loop turns. */
const maxBlockedMillis = 2

/** For how many milliseconds writes that meet a lock join those that wait, and start no retry schedule of their own. */
const sharedMillis = 5000

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
    if (outcome._tag === "Divided") {
      for (const member of outcome.alone) member.isAlone = true
      return
    }
    const done = batch.slice(0, outcome._tag === "Committed" ? outcome.answers.length : outcome.count)
    for (const member of done) queue.delete(member)
    // The fibers run on from within `resume`. What they write next is gathered, unless it is the write of the only one.
    writer = done.length === 1 ? done[0]?.fiber : "several"
    for (const [i, { resume }] of done.entries()) {
      resume(outcome._tag === "Committed" ? Exit.succeed(outcome.answers[i]) : Exit.fail(toBackend(outcome.error)))
    }
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

/**
 * The retry schedules of the writes that wait for a lock of another process. Each attempt of a schedule is an attempt
 * for all writes that wait. Without a bound on schedules, a file that is locked for long would be tried more and more
 * often. So for five seconds after a schedule has started, no other one starts.
 */
const makeRetries = (
  queue: Set<Member>,
  retrySchedule: Schedule.Schedule<unknown>,
  toBackend: (error: SqliteError) => Backend
) => {
  const running = new Set<Fiber.Fiber<void>>()
  /** The writes of the schedule that started last, and when. */
  let youngest: { readonly members: Array<Member>; readonly startMillis: number; isNew: boolean } | undefined

  const join = (schedule: { readonly members: Array<Member> }, members: ReadonlyArray<Member>) => {
    for (const member of members) member.isRetried = true
    schedule.members.push(...members)
  }

  /** Starts a schedule for the writes that have none, after an attempt that met a lock. */
  const start = (locked: SqliteError, attempt: () => SqliteError | undefined): void => {
    const members = [...queue].filter(({ isRetried }) => !isRetried)
    const [oldest] = members
    if (oldest === undefined) return
    const startMillis = oldest.fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()
    if (running.size > 0 && youngest !== undefined && startMillis - youngest.startMillis < sharedMillis) {
      // A schedule that has not tried again yet has all its attempts left, so it can take these writes as well.
      if (youngest.isNew) join(youngest, members)
      return
    }
    const schedule = { members: [] as Array<Member>, startMillis, isNew: true }
    join(schedule, members)
    youngest = schedule
    let fiber: Fiber.Fiber<void> | undefined
    let next = () => {
      next = () => {
        schedule.isNew = false
        return attempt()
      }
      return locked as SqliteError | undefined
    }
    const retried = Effect.suspend(() => {
      const error = next()
      if (error === undefined) return Effect.void
      start(error, attempt)
      return Effect.fail(error)
    }).pipe(
      Effect.retry({ schedule: retrySchedule }),
      Effect.mapError(toBackend),
      Effect.catchCause((cause) =>
        Effect.sync(() => {
          if (fiber !== undefined) running.delete(fiber)
          for (const member of schedule.members) if (queue.delete(member)) member.resume(Exit.failCause(cause))
          start(locked, attempt)
        })
      )
    )
    // The fiber has the clock of the oldest write.
    fiber = Effect.runForkWith(oldest.fiber.context)(retried)
    if (fiber.pollUnsafe() === undefined) running.add(fiber)
  }

  /** Ends all schedules, once the file was not locked, or nothing waits any more. */
  const stop = () => {
    if (running.size === 0) return
    for (const member of queue) member.isRetried = false
    for (const fiber of running) fiber.interruptUnsafe()
    running.clear()
  }

  return { start, stop }
}
