import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"

/** Waits exponentially, from a first delay up to a longest delay, each with a jitter of ±20%. */
const capped = (firstDelay: Duration.Input, longestDelay: Duration.Input): Schedule.Schedule<unknown> =>
  Schedule.jittered(Schedule.min([Schedule.exponential(firstDelay), Schedule.spaced(longestDelay)]))

/** Waits exponentially, from a first delay up to 1 s, each with a jitter of ±20%. Retries a number of times. */
export const backoff = (firstDelay: Duration.Input, times: number): Schedule.Schedule<unknown> =>
  Schedule.upTo(capped(firstDelay, "1 second"), { times })

/**
 * Waits by full jitter: for a random part of a delay that doubles from a first one up to 1 s. Retries for a duration.
 */
export const fullJitterFor = (firstDelay: Duration.Input, duration: Duration.Input): Schedule.Schedule<unknown> =>
  Schedule.min([Schedule.exponential(firstDelay), Schedule.spaced("1 second")]).pipe(
    Schedule.modifyDelay(({ duration }) => Effect.map(Random.next, (part) => Duration.times(duration, part))),
    Schedule.upTo({ duration })
  )

/**
 * Waits exponentially, from a first delay up to a longest delay, each with a jitter of ±20%. Retries for a duration.
 */
export const backoffFor = (
  firstDelay: Duration.Input,
  longestDelay: Duration.Input,
  duration: Duration.Input
): Schedule.Schedule<unknown> => Schedule.upTo(capped(firstDelay, longestDelay), { duration })
