import type * as Duration from "effect/Duration"
import * as Schedule from "effect/Schedule"

/** Exponential from a first delay, capped at 1 s before a jitter of 20%, so many times. */
export const backoff = (first: Duration.Input, times: number): Schedule.Schedule<unknown> =>
  Schedule.min([Schedule.exponential(first), Schedule.spaced("1 second")]).pipe(
    Schedule.jittered,
    Schedule.upTo({ times })
  )
