/** How an execution runs: again and again from its start, until it is suspended, complete or another worker's. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Workflow from "effect/workflow/Workflow"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import type { Step } from "../../StorageBackend.ts"
import { monotonicMillis } from "../../update/retry.ts"
import { addStep, type Execution, end, nextInstance } from "./execution.ts"
import type { Finishing } from "./finishing.ts"
import type { Leaving } from "./leaving.ts"
import { ids, versionOf } from "./names.ts"
import { RecordTooLarge } from "./RecordTooLarge.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

export const makeRunning = (
  shared: Shared,
  leaving: Leaving,
  finishing: Finishing,
  engine: () => WorkflowEngine.WorkflowEngine["Service"]
) => {
  const { clock, executions, lock, records } = shared

  /** Runs the workflow once, from its start, in a fiber that what it waits for may interrupt. */
  const attempt = Effect.fnUntraced(function* (execution: Execution) {
    const { of, stored } = execution
    const payload = yield* Effect.exit(
      Effect.provideContext(Stored.decodePayload(of.workflow, stored.payload), of.services)
    )
    if (Exit.isFailure(payload)) {
      // Other code may know the payload: nothing is lost, and a resume tries again.
      return Exit.succeed(new Workflow.Suspended({ failed: true, cause: Cause.die(Cause.squash(payload.cause)) }))
    }
    const instance = nextInstance(execution)
    let outcome: Stored.Outcome = Exit.succeed(new Workflow.Suspended({}))
    const run = of.execute(payload.value, execution.id).pipe(
      applyInterruption(execution, instance),
      Workflow.intoResult,
      Effect.provideService(WorkflowEngine.WorkflowEngine, engine()),
      // What the run came to counts even if the fiber was interrupted.
      Effect.onExit((exit) =>
        Effect.sync(() => {
          outcome = exit
        })
      ),
      Effect.uninterruptible,
      (effect) => shared.deferredState.trackRun(instance, effect)
    )
    const fiber = yield* Effect.forkDetach(
      Effect.withFiber((fiber) => {
        execution.fiber = fiber
        return run
      }),
      { startImmediately: true }
    )
    yield* Fiber.await(fiber)
    execution.fiber = undefined
    return outcome
  })

  /** A result that does not encode is a defect, also for those who would not need it encoded. */
  const encode = (execution: Execution, outcome: Stored.Outcome) =>
    Effect.map(Stored.encodeOutcome(execution.of.workflow, outcome), (encoded) => ({ outcome, encoded })).pipe(
      Effect.catchCause((cause) => {
        const defect = Exit.succeed(new Workflow.Complete({ exit: Exit.die(Cause.squash(cause)) }))
        return Effect.map(Stored.encodeOutcome(execution.of.workflow, defect), (encoded) => ({
          outcome: defect,
          encoded
        }))
      }),
      Effect.provideContext(execution.of.services),
      Effect.orDie
    )

  /** Reads what came from outside: the inbox first, so that the next check finds what comes after it. */
  const refresh = Effect.fnUntraced(function* (execution: Execution) {
    const seen = yield* records.read(execution.id)
    execution.inbox = seen.inbox
    execution.resumes = versionOf(seen.resumes)
    for (const step of (yield* records.steps(execution.id)).values()) addStep(execution, step)
  })

  /** Suspends the execution, unless something came meanwhile. Returns whether it is suspended. */
  const suspend = Effect.fnUntraced(function* (execution: Execution, outcome: Stored.Outcome, failed: boolean) {
    const { encoded } = yield* encode(execution, outcome)
    while (!takeWake(execution, failed)) {
      const { epoch } = execution.state
      const { inbox, resumes } = execution
      const state = { state: "suspended", epoch, inbox: versionOf(inbox), resumes, failed, outcome: encoded } as const
      const nothingCame: Step = { _tag: "Check", id: ids.inbox, expected: inbox ?? 0 }
      const written = yield* Effect.orDie(records.fenced(execution, [nothingCame], Stored.run.encode(state)))
      if (written._tag === "Landed") {
        execution.state = state
        yield* leaving.unmark(execution.id, execution.held)
        execution.idleSinceMillis = monotonicMillis(clock)
        Deferred.doneUnsafe(execution.settled, outcome)
        return true
      }
      if (written._tag === "Lost") {
        end(execution, "Lost")
        return false
      }
      yield* Effect.orDie(records.insist(execution, refresh(execution)))
      if (!failed || execution.resumes !== resumes) return false
    }
    return false
  })

  /** Stores the result. Returns it, or undefined if the execution is another worker's. */
  const store = Effect.fnUntraced(function* (execution: Execution, outcome: Stored.Outcome) {
    const { epoch, worker } = execution.state
    let final = yield* encode(execution, outcome)
    for (;;) {
      const state: Stored.Run = {
        state: Exit.isSuccess(final.outcome) ? "complete" : "died",
        epoch,
        inbox: versionOf(execution.inbox),
        resumes: execution.resumes,
        failed: false,
        endedMillis: clock.currentTimeMillisUnsafe(),
        outcome: final.encoded,
        ...(worker !== undefined && { worker })
      }
      const written = yield* Effect.result(records.fenced(execution, [], Stored.run.encode(state)))
      if (written._tag === "Success")
        return written.success._tag === "Landed" ? { state, outcome: final.outcome } : undefined
      const error = RecordTooLarge.of(execution.stored.workflow, execution.id, "result", written.failure)
      final = yield* encode(execution, Exit.succeed(new Workflow.Complete({ exit: Exit.die(error) })))
    }
  })

  /** Ends an execution with a result. Returns whether it was stored. */
  const complete = Effect.fnUntraced(function* (execution: Execution, outcome: Stored.Outcome) {
    const { id } = execution
    yield* Scope.close(execution.scope, Exit.void)
    const stored = yield* lock(
      id,
      Effect.tap(store(execution, outcome), (stored) =>
        Effect.sync(() => {
          if (stored !== undefined) executions.delete(id)
        })
      )
    )
    if (stored === undefined) {
      end(execution, "Lost")
      return false
    }
    Deferred.doneUnsafe(execution.settled, stored.outcome)
    const unmark = Effect.suspend(() => (executions.has(id) ? Effect.void : leaving.unmark(id, execution.held)))
    yield* records.insist(execution, finishing.wrapUp(id, execution.stored, stored.state)).pipe(
      Effect.andThen(lock(id, unmark)),
      Effect.catchCause((cause) => Effect.logWarning("A complete workflow is tidied up later", cause))
    )
    // A wake that came before the defect was stored counts.
    if (stored.state.state === "died" && takeWake(execution, false)) yield* finishing.again(id)
    return true
  })

  /** Runs an execution for as long as it has something to do. Returns false if it is not this process's any more. */
  const runAll = Effect.fnUntraced(function* (execution: Execution) {
    while (execution.end === undefined) {
      const outcome = yield* attempt(execution)
      if (execution.end !== undefined) return false
      if (execution.instance.abandoned) continue
      if (Exit.isSuccess(outcome) && outcome.value._tag === "Suspended") {
        const { failed = false } = outcome.value
        if (takeWake(execution, failed)) continue
        if (yield* lock(execution.id, suspend(execution, outcome, failed))) return true
      } else {
        if (Exit.isFailure(outcome) && takeWake(execution, false)) continue
        if (yield* complete(execution, outcome)) return true
      }
    }
    return false
  })

  return {
    drive: (execution: Execution): Effect.Effect<void> =>
      runAll(execution).pipe(
        Effect.catchCause((cause) => Effect.as(Effect.logWarning("A workflow can't go on here", cause), false)),
        Effect.flatMap((isDone) => {
          if (isDone) return Effect.void
          end(execution, "Lost")
          return finishing.abandon(execution)
        })
      )
  }
}

/** Applies an interruption that is pending, as Effect's engines do. */
const applyInterruption = (execution: Execution, instance: WorkflowEngine.WorkflowInstance["Service"]) =>
  Effect.onExit((exit: Exit.Exit<unknown, unknown>) => {
    // From here on the compensations run, which nothing that happens interrupts.
    execution.isEnding = true
    execution.missed.clear()
    const suspends = Context.get(instance.workflow.annotations, Workflow.SuspendOnFailure) && Exit.isFailure(exit)
    // A safe one takes effect only if the run would be suspended, and an unsafe one in any case.
    const applies = execution.interruptedUnsafe || instance.suspended || suspends
    if (!execution.interrupted || instance.abandoned || !applies) return Effect.void
    instance.interrupted = true
    instance.suspended = false
    return Effect.withFiber((fiber) => Effect.interruptible(Fiber.interrupt(fiber)))
  })

/** Whether a wake came that begins one more run. */
const takeWake = (execution: Execution, failed: boolean): boolean => {
  const wake = execution.again
  execution.again = undefined
  return wake === "explicit" || (wake === "automatic" && !failed)
}
