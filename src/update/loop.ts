/**
 * The one loop that changes a record. It decides on the stored record, and writes by compare-and-set. After a conflict
 * it decides again on the newest record. `VersionedStore`, `TaskStore` and the quota of tasks use it.
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type { StorageBackend, VersionedRecord, WriteOptions } from "../StorageBackend.ts"
import type { Backend, CapacityExceeded, VersionConflict } from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"

/** The decision on a record: what is written, and what the caller gets. */
export type Decision<A> =
  | {
      readonly _tag: "Write"
      readonly data: string
      readonly expiresAt: WriteOptions["expiresAt"]
      readonly answer: (written: VersionedRecord) => A
    }
  | { readonly _tag: "Remove"; readonly answer: A }
  | { readonly _tag: "Keep"; readonly answer: A }

export interface Update<A, E, R> {
  readonly backend: StorageBackend["Service"]
  readonly key: StorageKey
  /** Gets the record, or undefined if there is none. It runs again after each conflict. */
  readonly decide: (current: VersionedRecord | undefined) => Effect.Effect<Decision<A>, E, R>
  /** Says whether and after how long another attempt follows a conflict. The first one never waits. */
  readonly retrySchedule: Schedule.Schedule<unknown, VersionConflict>
  /** The record as this process saw it last, which saves the read. It may be out of date. */
  readonly known?: VersionedRecord | undefined
  /** Runs as soon as a write or removal has landed. If it is given, no request that was sent is interrupted. */
  readonly onLanded?: (answer: A) => void
}

/**
 * Changes a record in two requests, or in one if the record is known. A first conflict takes one more, and each later
 * one two more. If the schedule is spent, it fails with the `VersionConflict`.
 *
 * A decision on a known record counts only if a compare-and-set confirms it. If it writes nothing or fails, the record
 * is read and decided on again.
 */
export const run = Effect.fnUntraced(function* <A, E, R>(
  update: Update<A, E, R>
): Effect.fn.Return<A, E | VersionConflict | CapacityExceeded | Backend, R> {
  const { decide, known, retrySchedule } = update
  const mayStartFrom = makeRetry(retrySchedule)
  let isOutOfDate = known !== undefined
  let current = known ?? (yield* read(update))
  for (;;) {
    const decided: Result.Result<Decision<A>, E> = yield* Effect.result(decide(current))
    if (isOutOfDate && (Result.isFailure(decided) || decided.success._tag === "Keep")) {
      isOutOfDate = false
      current = yield* read(update)
      continue
    }
    if (Result.isFailure(decided)) return yield* Effect.fail(decided.failure)
    const applied: Applied<A> = yield* land(update, current, decided.success)
    if (applied._tag === "Done") return applied.answer
    isOutOfDate = false
    if (applied._tag === "Gone") {
      current = undefined
    } else {
      current = (yield* mayStartFrom(applied.conflict)) ? applied.conflict.current : undefined
      current ??= yield* read(update)
    }
  }
})

type Applied<A> =
  | { readonly _tag: "Done"; readonly answer: A }
  | { readonly _tag: "Conflict"; readonly conflict: VersionConflict }
  /** The record is gone since the decision, so the next write can only be a create. */
  | { readonly _tag: "Gone" }

const read = ({ backend, key }: Pick<Update<never, never, never>, "backend" | "key">) =>
  Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined)

const land = <A>(
  update: Pick<Update<A, never, never>, "backend" | "key" | "onLanded">,
  current: VersionedRecord | undefined,
  decision: Decision<A>
) => {
  const { onLanded } = update
  const applied = apply(update, current, decision)
  if (onLanded === undefined || decision._tag === "Keep") return applied
  return Effect.uninterruptible(
    Effect.map(applied, (applied) => {
      if (applied._tag === "Done") onLanded(applied.answer)
      return applied
    })
  )
}

const apply = <A>(
  { backend, key }: Pick<Update<A, never, never>, "backend" | "key">,
  current: VersionedRecord | undefined,
  decision: Decision<A>
): Effect.Effect<Applied<A>, CapacityExceeded | Backend> => {
  const done = (answer: A): Applied<A> => ({ _tag: "Done", answer })
  const conflicted = (conflict: VersionConflict) => Effect.succeed<Applied<A>>({ _tag: "Conflict", conflict })
  const gone = () => Effect.succeed<Applied<A>>({ _tag: "Gone" })
  if (decision._tag === "Write") {
    return backend.putIfVersion(key, decision.data, current ?? 0, { expiresAt: decision.expiresAt }).pipe(
      Effect.map((written) => done(decision.answer(written))),
      // The data is JSON, which has no lone surrogates.
      Effect.catchTags({ VersionConflict: conflicted, RecordNotFound: gone, InvalidData: Effect.die })
    )
  }
  if (decision._tag === "Keep" || current === undefined) return Effect.succeed(done(decision.answer))
  return backend.deleteIfVersion(key, current).pipe(
    Effect.map(() => done(decision.answer)),
    Effect.catchTags({ VersionConflict: conflicted, RecordNotFound: gone })
  )
}

type Step = (now: number, conflict: VersionConflict) => Pull.Pull<[unknown, Duration.Duration], never, unknown>

/**
 * Waits as a schedule says before the next attempt, and fails with the conflict if the schedule is spent. Returns
 * whether the attempt may start from the record that the conflict carried, which after a wait is out of date.
 */
const makeRetry = (schedule: Schedule.Schedule<unknown, VersionConflict>) => {
  let step: Step | undefined
  return Effect.fnUntraced(function* (conflict: VersionConflict) {
    const isFirst = step === undefined
    step ??= yield* Schedule.toStep(schedule)
    const [, delay] = yield* step(yield* Clock.currentTimeMillis, conflict).pipe(
      Pull.catchDone(() => Effect.fail(conflict))
    )
    if (isFirst || Duration.isZero(delay)) return true
    yield* Effect.sleep(delay)
    return false
  })
}
