/** How long an update waits after each conflict, and when it gives up. */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import type { VersionConflict } from "../StorageError.ts"

/** For how long from its call an update is retried, unless its caller gives a schedule. */
export const patienceMillis = 30_000

/** The longest wait of an update that is alone. */
const longestWaitMillis = 1000

/** Returns how many milliseconds the next attempt waits, or fails with the conflict. The first one never waits. */
export type Retry = (conflict: VersionConflict) => Effect.Effect<number, VersionConflict>

export const monotonicMillis = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000

/** Waits as a schedule says. */
export const bySchedule = (schedule: Schedule.Schedule<unknown, VersionConflict>): Retry => {
  let step:
    | ((now: number, conflict: VersionConflict) => Pull.Pull<[unknown, Duration.Duration], never, unknown>)
    | undefined
  return Effect.fnUntraced(function* (conflict: VersionConflict) {
    const isFirst = step === undefined
    step ??= yield* Schedule.toStep(schedule)
    const [, delay] = yield* step(yield* Clock.currentTimeMillis, conflict).pipe(
      Pull.catchDone(() => Effect.fail(conflict))
    )
    return isFirst ? 0 : Duration.toMillis(delay)
  })
}

/**
 * Waits by full jitter: a random time up to a bound that doubles from 10 ms up to 1 s, until the deadline. With waits
 * of nearly equal length, contenders would meet again.
 */
export const untilDeadline = (deadline: number): Retry => {
  let attempts = 0
  return (conflict) =>
    Effect.withFiber((fiber) => {
      const left = deadline - monotonicMillis(fiber.getRef(Clock.Clock))
      if (left <= 0) return Effect.fail(conflict)
      const bound = Math.min(10 * 2 ** (attempts - 1), longestWaitMillis, left)
      return Effect.succeed(attempts++ === 0 ? 0 : fiber.getRef(Random.Random).nextDoubleUnsafe() * bound)
    })
}
