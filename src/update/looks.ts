/**
 * Looks at a record again and again: on hints that it may have changed, on a schedule, and when what was seen expires.
 *
 * There is one look at a time, and only when someone takes what it sees. However many hints and times come in between,
 * they are one wake that waits. So a slow watcher gets the newest state, and no queue grows.
 */
import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import { Backend } from "../StorageError.ts"

export interface Options<A, E, R> {
  readonly look: Effect.Effect<A, E, R>
  readonly hints: Stream.Stream<void>
  /** When to look without a hint. If it ends, so do the looks. */
  readonly schedule: Schedule.Schedule<unknown>
  /** The epoch millisecond from which what was seen no longer holds, if that is known. */
  readonly untilMillis: (seen: A) => number | undefined
}

/**
 * What each look sees, whether it has changed or not. If a look fails for a reason that passes by itself, it is left
 * out. The first of such failures in a row is logged.
 */
export const make = <A, E, R>(options: Options<A, E, R>): Stream.Stream<A, E, R> =>
  Stream.unwrap(
    Effect.gen(function* () {
      const { hints, untilMillis } = options
      const wakes = yield* Queue.sliding<void>(1)
      const timer = yield* makeTimer(options.schedule, wakes)
      // The hints start before the first look, so that no change falls between the two.
      yield* Effect.forkScoped(
        Stream.runForEach(hints, () => Queue.offer(wakes, undefined)),
        { startImmediately: true }
      )
      const look = withoutPassingFailures(options.look)
      let isFirst = true
      let until: number | undefined
      const next = Effect.gen(function* () {
        for (;;) {
          if (!isFirst) yield* wait(wakes, until)
          isFirst = false
          yield* timer.ended
          const seen = yield* look
          yield* timer.start
          if (Option.isNone(seen)) continue
          until = untilMillis(seen.value)
          return seen.value
        }
      })
      return Stream.fromEffectRepeat(next)
    })
  )

// -----------------------------------------------------------------------------

/** Wakes by a schedule. The time of its next step counts from the look after the step before. */
const makeTimer = Effect.fnUntraced(function* (schedule: Schedule.Schedule<unknown>, wakes: Queue.Queue<void>) {
  const scope = yield* Effect.scope
  const step = yield* Schedule.toStepWithSleep(schedule)
  let isRunning = false
  let end: Effect.Effect<never, Cause.Done<unknown>> | undefined

  const run = Effect.flatMap(Effect.exit(Effect.suspend(() => step(undefined))), (exit) => {
    isRunning = false
    if (Exit.isFailure(exit)) end = Effect.failCause(exit.cause)
    return Queue.offer(wakes, undefined)
  })

  return {
    start: Effect.suspend(() => {
      if (isRunning) return Effect.void
      isRunning = true
      return Effect.asVoid(Effect.forkIn(run, scope))
    }),
    /** Ends as the schedule has ended, if it has. */
    ended: Effect.suspend(() => end ?? Effect.void)
  }
})

const wait = (wakes: Queue.Dequeue<void>, until: number | undefined): Effect.Effect<void> =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => {
    const wake = Queue.take(wakes)
    return until === undefined || until <= now ? wake : Effect.raceFirst(wake, Effect.sleep(until - now))
  })

const withoutPassingFailures = <A, E, R>(look: Effect.Effect<A, E, R>): Effect.Effect<Option.Option<A>, E, R> => {
  let isFailing = false
  return Effect.matchEffect(look, {
    onSuccess: (seen) => {
      isFailing = false
      return Effect.succeed(Option.some(seen))
    },
    onFailure: (error) => {
      if (!(error instanceof Backend && error.isRetryable)) return Effect.fail(error)
      const isLogged = isFailing
      isFailing = true
      const warning = Effect.logWarning("A watch could not read its record, and looks again on its schedule", error)
      return Effect.as(isLogged ? Effect.void : warning, Option.none())
    }
  })
}
