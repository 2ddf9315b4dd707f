import type * as Duration from "effect/Duration"
import * as Schedule from "effect/Schedule"

/** Exponential from a first delay, capped before a jitter of 20%. */
const capped = (first: Duration.Input, most: Duration.Input): Schedule.Schedule<unknown> =>
  Schedule.jittered(Schedule.min([Schedule.exponential(first), Schedule.spaced(most)]))

/** Exponential from a first delay, capped at 1 s before a jitter of 20%, a number of times. */
export const backoff = (first: Duration.Input, times: number): Schedule.Schedule<unknown> =>
  Schedule.upTo(capped(first, "1 second"), { times })

/** Exponential from a first delay, capped at the most before a jitter of 20%, for some time. */
export const backoffFor = (
  first: Duration.Input,
  most: Duration.Input,
  duration: Duration.Input
): Schedule.Schedule<unknown> => Schedule.upTo(capped(first, most), { duration })
