/** How this process stops to run an execution, and leaves it to others. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Workflow from "effect/workflow/Workflow"
import type { VersionedRecord } from "../../StorageBackend.ts"
import { monotonicMillis } from "../../update/retry.ts"
import { type End, type Execution, end, isRunning } from "./execution.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

/** For how long what a suspended execution holds in this process is kept, as in Effect's cluster engine. */
const idleMillis = 10_000

export type Leaving = ReturnType<typeof makeLeaving>

export const makeLeaving = ({ agenda, backend, clock, executions, fork, lock, worker }: Shared) => {
  /** Makes an execution that nobody runs any more ready for all workers. If another one has it, nothing happens. */
  const publish = Effect.fnUntraced(function* (
    executionId: string,
    workflow: string,
    record: VersionedRecord,
    { epoch, failed, inbox, resumes }: Stored.Run
  ) {
    const ready = backend
      .putIfVersion(record.key, Stored.run.encode({ state: "ready", epoch, inbox, resumes, failed }), record)
      .pipe(
        Effect.catchTags({
          VersionConflict: () => Effect.void,
          RecordNotFound: () => Effect.void,
          InvalidData: Effect.die
        })
      )
    yield* agenda.announce({ executionId, workflow, what: "ready" }, ready)
  })

  /** Gives an execution that has ended here to the other workers, if it is still this process's. */
  const abandon = Effect.fnUntraced(function* (execution: Execution) {
    yield* Scope.close(execution.scope, Exit.void)
    yield* lock(
      execution.id,
      Effect.gen(function* () {
        if (executions.get(execution.id) === execution) executions.delete(execution.id)
        yield* publish(execution.id, execution.stored.workflow, execution.run, execution.state)
        yield* worker.unmark(execution.slot, execution.id)
      })
    ).pipe(Effect.catchCause((cause) => Effect.logWarning("A workflow waits for this worker's lease to end", cause)))
    Deferred.doneUnsafe(execution.settled, Exit.succeed(new Workflow.Suspended({})))
  })

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
    abandon,
    forget,

    /** Ends all executions of a workflow that run here, or of all of them, and waits until others can take them. */
    stop: (why: End, workflow?: string): Effect.Effect<void> =>
      Effect.suspend(() =>
        Effect.forEach(
          Array.from(executions.values()).filter(
            ({ stored }) => workflow === undefined || stored.workflow === workflow
          ),
          (execution) => {
            if (!isRunning(execution)) return forgetIf(execution, () => true)
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
