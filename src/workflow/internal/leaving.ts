/** How this process stops to run an execution, and leaves it to others. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import type { VersionedRecord } from "../../StorageBackend.ts"
import { monotonicMillis } from "../../update/retry.ts"
import { type End, type Execution, end, isRunning, runningIn } from "./execution.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

/** For how long what a suspended execution holds in this process is kept, as in Effect's cluster engine. */
const idleMillis = 10_000

export type Leaving = ReturnType<typeof makeLeaving>

export const makeLeaving = (shared: Shared) => {
  const { agenda, backend, clock, executions, fork, lock, untilAnswered, worker } = shared

  /** Makes an execution that nobody runs any more ready for all workers. Returns false if its run has changed. */
  const publish = Effect.fnUntraced(function* (
    executionId: string,
    workflow: string,
    record: VersionedRecord,
    { epoch, failed, inbox, resumes }: Stored.Run
  ) {
    const ready = backend
      .putIfVersion(record.key, Stored.run.encode({ state: "ready", epoch, inbox, resumes, failed }), record)
      .pipe(
        Effect.as(true),
        Effect.catchTags({
          VersionConflict: () => Effect.succeed(false),
          RecordNotFound: () => Effect.succeed(false),
          InvalidData: Effect.die
        })
      )
    return yield* agenda.announce({ executionId, workflow, what: "ready" }, ready)
  })

  /** Removes the mark of an execution, unless the execution runs here again. */
  const unmarkOnce = (executionId: string, held: Stored.Worker) =>
    Effect.suspend(() =>
      runningIn(executions, executionId) === undefined ? worker.unmark(held, executionId) : Effect.void
    )

  /** Removes the mark of an execution: at once, or beside its caller as soon as the storage answers. */
  const unmark = (executionId: string, held: Stored.Worker): Effect.Effect<void> =>
    Effect.catch(worker.unmark(held, executionId), () =>
      Effect.sync(() => {
        fork(Effect.ignore(Effect.retry(lock(executionId, unmarkOnce(executionId, held)), { schedule: untilAnswered })))
      })
    )

  /** Closes what a suspended execution holds in this process, beside its caller: a finalizer may ask for its lock. */
  const forget = (execution: Execution): void => {
    executions.delete(execution.id)
    end(execution, "Stopped")
    fork(Scope.close(execution.scope, Exit.void))
  }

  const forgetIf = (execution: Execution, isIdle: () => boolean) =>
    lock(
      execution.id,
      Effect.sync(() => {
        if (executions.get(execution.id) === execution && !isRunning(execution) && isIdle()) forget(execution)
      })
    )

  return {
    publish,
    unmark,
    unmarkOnce,
    forget,

    /** Ends all executions of a workflow that run here, or of all of them, and waits until others can take them. */
    stop: (why: End, workflow?: string): Effect.Effect<void> =>
      Effect.suspend(() =>
        Effect.forEach(
          Array.from(executions.values()).filter(
            ({ stored }) => workflow === undefined || stored.workflow === workflow
          ),
          (execution) => {
            if (!isRunning(execution)) return Effect.sync(() => fork(forgetIf(execution, () => true)))
            end(execution, why)
            return Effect.exit(Deferred.await(execution.settled))
          },
          { concurrency: "unbounded", discard: true }
        )
      ),

    /** Closes what suspended executions hold here if they have been so for long. */
    forgetIdle: Effect.suspend(() =>
      Effect.forEach(
        Array.from(executions.values()),
        (execution) =>
          forgetIf(execution, () => (execution.idleSinceMillis ?? 0) + idleMillis <= monotonicMillis(clock)),
        { discard: true }
      )
    )
  }
}
