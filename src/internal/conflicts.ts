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
 * Runs an attempt at a compare-and-set until it meets no conflict, or until the schedule is spent. The attempt returns
 * its conflict as a value. A `VersionConflict` with which another Effect of the attempt fails is not retried.
 *
 * The first retry does not wait. It gets the record that the conflict carried. After a sleep, that record would be
 * stale, so the attempt gets no record.
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

/**
 * The conflict of a write whose record was read and is gone by the time of the write. If the write may create the
 * record, it is retried like any other conflict.
 */
export const goneMeanwhile = (key: StorageKey, expected: VersionedRecord | undefined): StorageError.VersionConflict =>
  new StorageError.VersionConflict({ key, expected: expected?.version ?? 0, actual: 0, current: undefined })
