import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type { VersionedRecord } from "../StorageBackend.ts"
import * as StorageError from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"

type Step = (
  now: number,
  conflict: StorageError.VersionConflict
) => Pull.Pull<[unknown, Duration.Duration], never, unknown>

/**
 * Runs an attempt at a compare-and-set again until it meets no conflict, or the schedule is spent. A conflict is given
 * back as a value, so that one which the attempt's own Effects raise is told apart.
 *
 * The first retry does not wait, and gets the record that the conflict carried. After a sleep that record is stale, and
 * the attempt gets none.
 */
export const retryConflicts = Effect.fnUntraced(function* <A, E, R>(
  schedule: Schedule.Schedule<unknown, StorageError.VersionConflict>,
  attempt: (carried: VersionedRecord | undefined) => Effect.Effect<Result.Result<A, StorageError.VersionConflict>, E, R>
) {
  let carried: VersionedRecord | undefined
  let step: Step | undefined
  for (;;) {
    const result = yield* attempt(carried)
    if (Result.isSuccess(result)) return result.success
    const conflict = result.failure
    const isFirst = step === undefined
    step ??= yield* Schedule.toStep(schedule)
    const [, delay] = yield* step(yield* Clock.currentTimeMillis, conflict).pipe(
      Pull.catchDone(() => Effect.fail(conflict))
    )
    const waits = !isFirst && !Duration.isZero(delay)
    if (waits) yield* Effect.sleep(delay)
    carried = waits ? undefined : conflict.current
  }
})

/** A record that was read is gone by the time of the write: where it may be created, a conflict like any other. */
export const goneMeanwhile = (key: StorageKey, expected: VersionedRecord | undefined): StorageError.VersionConflict =>
  new StorageError.VersionConflict({ key, expected: expected?.version ?? 0, actual: 0, current: undefined })
