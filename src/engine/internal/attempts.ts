/**
 * The loop over attempts whose answer was lost. It keeps promise 3: no write takes effect twice, and no conflict is
 * false.
 *
 * Each write carries its write id, which is stored with the record. An attempt that fails with outcome `unknown` is
 * ambiguous: the engine may have applied it. What follows depends on the operation:
 *
 * | operation | next step | possible outcomes |
 * | --- | --- | --- |
 * | put, create, compare-and-set by version or data | a consistent read looks for the write id | success or `unknown` |
 * | compare-and-set or delete of a record with a write id | sent again, can't apply twice | success or `unknown` |
 * | any other delete | nothing | `unknown` |
 * | commit that an engine remembers by its token | sent again for nine minutes | success or `unknown` |
 * | any other commit | as its steps would be: `makeLand` in `commit.ts` | success or `unknown` |
 *
 * If the record that comes back carries this write's id, the write succeeded, even if the answer is a refusal. A
 * refusal is a definite conflict only if no earlier attempt of the same call was ambiguous.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Schedule from "effect/Schedule"
import * as StorageError from "../../StorageError.ts"

type Attempt<A> = () => Effect.Effect<A, StorageError.Backend>

/**
 * What follows an ambiguous attempt of a write: the write is sent again, for as long as that is safe, or a consistent
 * read looks for its write id, or nothing.
 */
export type Recovery<A> =
  | { readonly _tag: "SendAgain"; readonly isSafe?: () => boolean }
  | { readonly _tag: "LookFor"; readonly read: Attempt<A> }
  | undefined

export interface Attempts {
  /**
   * Runs a read to its end. `first` is the first attempt, and `attempt` makes those after it. A read changes nothing,
   * so it is retried after any transient failure.
   */
  readonly read: <A>(
    operation: string,
    first: Effect.Effect<A, StorageError.Backend>,
    attempt: Attempt<A>
  ) => Effect.Effect<A, StorageError.Backend>

  /** Runs a write to its end. `settle` gets the answer, and the ambiguous failure before it if there was one. */
  readonly write: <A, B, E>(
    operation: string,
    first: Effect.Effect<A, StorageError.Backend>,
    attempt: Attempt<A>,
    recovery: Recovery<A>,
    settle: (answer: A, ambiguity: StorageError.Backend | undefined) => Effect.Effect<B, E>
  ) => Effect.Effect<B, E | StorageError.Backend>
}

/** The failure of an attempt, with the name of the operation and the outcome of all attempts. */
export const failure = (
  operation: string,
  outcome: StorageError.Backend["outcome"],
  { reason: { _tag: reason, cause, description } }: StorageError.Backend
): StorageError.Backend => StorageError.makeBackend({ operation, outcome, reason, description, cause })

export const makeAttempts = (retrySchedule: Schedule.Schedule<unknown, StorageError.Backend>): Attempts => {
  /** Repeats an attempt whose first one has failed. Most succeed, so nothing is made for retries before a failure. */
  const retry = <A>(
    error: StorageError.Backend,
    attempt: Attempt<A>,
    isRetried: (error: StorageError.Backend) => boolean
  ): Effect.Effect<A, StorageError.Backend> => {
    const failed = Effect.fail(error)
    if (!isRetried(error)) return failed
    let next: Attempt<A> = () => {
      next = attempt
      return failed
    }
    return Effect.retry(
      Effect.suspend(() => next()),
      { schedule: retrySchedule, while: isRetried }
    )
  }

  /** Runs a write to its end whose first attempt has failed. */
  const recover = <A, B, E>(
    operation: string,
    error: StorageError.Backend,
    attempt: Attempt<A>,
    recovery: Recovery<A>,
    settle: (answer: A, ambiguity: StorageError.Backend | undefined) => Effect.Effect<B, E>
  ): Effect.Effect<B, E | StorageError.Backend> => {
    let ambiguity = error.outcome === "unknown" ? error : undefined
    const noteAmbiguity = (effect: ReturnType<typeof attempt>) =>
      Effect.mapError(effect, (error) => {
        if (error.outcome === "unknown") ambiguity = error
        return error
      })
    const maySend = () => ambiguity === undefined || (recovery?._tag === "SendAgain" && recovery.isSafe?.() !== false)
    return retry(
      error,
      // The wait before this attempt may have been too long.
      () => (ambiguity === undefined || maySend() ? noteAmbiguity(attempt()) : Effect.fail(ambiguity)),
      (error) => isTransient(error) && maySend()
    ).pipe(
      Effect.catch((error) =>
        ambiguity !== undefined && recovery?._tag === "LookFor"
          ? Effect.mapError(recovery.read(), () => failure(operation, "unknown", error))
          : Effect.fail(failure(operation, ambiguity === undefined ? "not-applied" : "unknown", error))
      ),
      Effect.flatMap((answer) => settle(answer, ambiguity))
    )
  }

  return {
    read: (operation, first, attempt) => {
      if (isSuccess(first)) return first
      return Effect.catch(first, (error) =>
        Effect.mapError(retry(error, attempt, isTransient), (error) => failure(operation, "not-applied", error))
      )
    },

    write: (operation, first, attempt, recovery, settle) =>
      Effect.matchEffect(first, {
        onSuccess: (answer) => settle(answer, undefined),
        onFailure: (error) => recover(operation, error, attempt, recovery, settle)
      })
  }
}

/** Whether an attempt has succeeded by the time that it returns its Effect, as those of an engine in memory have. */
export const isSuccess = <A, E>(effect: Effect.Effect<A, E>): effect is Exit.Success<A, never> =>
  Exit.isExit(effect) && Exit.isSuccess(effect)

const isTransient = (error: StorageError.Backend): boolean => StorageError.isTransient(error.reason._tag)
