/** Tries writes again that wait for a lock of another process. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Schedule from "effect/Schedule"
import type { Backend } from "../../../StorageError.ts"
import type { WriteRequest } from "./batch.ts"
import type { SqliteError } from "./failure.ts"

/** A write that waits. */
export interface Member extends WriteRequest<unknown, unknown> {
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly resume: (exit: Exit.Exit<unknown, Backend>) => void
  /** Whether it must not share a transaction, since it has made one fail. */
  isAlone: boolean
  /** Whether a retry schedule runs for it, since it has met a lock. */
  isRetried: boolean
}

/** For how many milliseconds writes that meet a lock join those that wait, and start no retry schedule of their own. */
const sharedMillis = 5000

/**
 * The retry schedules of the writes that wait for a lock of another process. Each attempt of a schedule is an attempt
 * for all writes that wait. Without a bound on schedules, a file that is locked for long would be tried more and more
 * often. So for five seconds after a schedule has started, no other one starts.
 */
export const makeRetries = (
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
