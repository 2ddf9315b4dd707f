/** What a run does: its activities, and the deferreds and clocks that it waits for. */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Activity from "effect/workflow/Activity"
import type * as DurableDeferred from "effect/workflow/DurableDeferred"
import * as Workflow from "effect/workflow/Workflow"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import type { Write } from "../../StorageBackend.ts"
import { addStep, type Execution, end, runningIn } from "./execution.ts"
import { clockDeferred, ids } from "./names.ts"
import { RecordTooLarge } from "./RecordTooLarge.ts"
import { isTooLarge } from "./records.ts"
import { answered, type Shared } from "./shared.ts"
import { makeStepWrites } from "./stepWrites.ts"
import * as Stored from "./stored.ts"
import type { Taker, Taking } from "./taking.ts"
import type { Wakes } from "./wakes.ts"

/** The last instant that a sleep can end at. */
const lastMillis = Number.MAX_SAFE_INTEGER

type Encoded = WorkflowEngine.Encoded

export const makeSteps = (shared: Shared, taker: Taker, wakes: Wakes) => {
  const { agenda, clock, executions, lock, names, records } = shared
  const write = makeStepWrites(shared)

  /**
   * Stores a step of a run that is written once. Returns the step that is there. A run that begins anew must know of
   * each step that has landed, so nothing interrupts it between.
   */
  const writeStep = Effect.fnUntraced(function* (execution: Execution, id: string, data: string) {
    const written = yield* write(execution, { _tag: "Write", id, expected: 0, data })
    if (written === "Lost") return yield* leave(execution)
    const record =
      written === "Refused" ? yield* Effect.orDie(records.insist(execution, records.get(execution.id, id))) : written
    if (record === undefined) return yield* leave(execution)
    addStep(execution, record)
    return record
  }, Effect.uninterruptible)

  const writeActivity = (execution: Execution, name: string, id: string, exit: Exit.Exit<unknown, unknown>) =>
    Effect.suspend(() => writeStep(execution, id, Stored.activity.encode(exit))).pipe(
      Effect.catchIf(isTooLarge, (error) => {
        const tooLarge = RecordTooLarge.of(execution.stored.workflow, execution.id, `activity ${name}`, error)
        return writeStep(execution, id, Stored.tooLarge(tooLarge))
      }),
      Effect.orDie
    )

  const activityExecute = Effect.fnUntraced(function* (activity: Activity.Any, attempt: number) {
    const instance = yield* WorkflowEngine.WorkflowInstance
    const execution = runningIn(executions, instance.executionId)
    if (execution === undefined) return yield* leave(undefined)
    const { id } = names.keyOf(execution.id, ids.activity(activity.name, attempt))
    const stored = execution.steps.get(id)
    if (stored !== undefined) return new Workflow.Complete({ exit: Stored.activity.decode(stored) })
    // A pending interruption only makes the compensations anew, so no other activity runs.
    if (execution.interrupted && !instance.interrupted) return new Workflow.Suspended({})
    // A process that was stopped may run on for a moment before it is interrupted.
    if (!(yield* shared.worker.isHolding)) return yield* leave(execution)
    const inner = WorkflowEngine.WorkflowInstance.initial(instance.workflow, instance.executionId)
    inner.interrupted = instance.interrupted
    const result = yield* activity.executeEncoded.pipe(
      Workflow.intoResult,
      Effect.provideService(WorkflowEngine.WorkflowInstance, inner)
    )
    if (result._tag === "Suspended") return result
    // An activity that was cut off has no result, and runs again.
    if (instance.abandoned && Exit.isFailure(result.exit) && Cause.hasInterruptsOnly(result.exit.cause)) {
      return yield* leave(undefined)
    }
    const record = yield* writeActivity(execution, activity.name, id, result.exit)
    return new Workflow.Complete({ exit: Stored.activity.decode(record) })
  })

  const deferredResult = Effect.fnUntraced(function* ({ name }: DurableDeferred.Any) {
    const { executionId } = yield* WorkflowEngine.WorkflowInstance
    const execution = runningIn(executions, executionId)
    if (execution === undefined) return yield* leave(undefined)
    const done = execution.steps.get(ids.deferred(name))
    if (done !== undefined) return Option.some(Stored.deferred.decode(done))
    const prefix = clockDeferred("")
    const sleep = name.startsWith(prefix) ? execution.steps.get(ids.clock(name.slice(prefix.length))) : undefined
    const isOver = sleep !== undefined && Stored.clock.decode(sleep).atMillis <= clock.currentTimeMillisUnsafe()
    if (isOver) return Option.some(Exit.void)
    execution.missed.add(name)
    return Option.none()
  })

  /** Completes a deferred of an execution that runs here, or takes the execution with it. */
  const complete = Effect.fnUntraced(function* (executionId: string, step: Write) {
    const execution = runningIn(executions, executionId)
    if (execution === undefined) return yield* taker.take(executionId, "automatic", () => step)
    if (execution.steps.has(step.id)) return "Running"
    const written = yield* write(execution, step)
    if (written === "Lost") {
      end(execution, "Lost")
      return "Elsewhere"
    }
    const record = written === "Refused" ? yield* records.get(executionId, step.id) : written
    if (record !== undefined) wakes.deliver(execution, record)
    return "Running"
  })

  const deferredDone: Encoded["deferredDone"] = Effect.fnUntraced(function* (options) {
    const { deferredName, executionId, exit, workflowName } = options
    const request = answered(shared, workflowName, executionId, `deferred ${deferredName}`)
    const { id } = names.keyOf(executionId, ids.deferred(deferredName))
    const step = { _tag: "Write", id, expected: 0, data: Stored.deferred.encode(exit) } as const
    const caller = yield* Effect.serviceOption(WorkflowEngine.WorkflowInstance)
    const isOwn = Option.isSome(caller) && caller.value.executionId === executionId
    // A run that is over, or another worker's, completes nothing any more.
    if (isOwn && runningIn(executions, executionId) === undefined) return yield* leave(undefined)
    const taking: Taking = yield* request(shared.apart(lock(executionId, complete(executionId, step))))
    if (!["Elsewhere", "Unregistered", "Absent", "Idle"].includes(taking)) return
    if (isOwn) return yield* leave(undefined)
    const store = records.createStep(executionId, id, step.data)
    const what = `deferred/${deferredName}`
    yield* request(wakes.send({ executionId, workflow: workflowName, what, mode: "automatic", store }))
  })

  const scheduleClock: Encoded["scheduleClock"] = Effect.fnUntraced(function* (workflow, options) {
    const { executionId } = options
    const { duration, name } = options.clock
    const execution = runningIn(executions, executionId)
    if (execution === undefined) return yield* leave(undefined)
    const { id } = names.keyOf(executionId, ids.clock(name))
    const stored = execution.steps.get(id)
    const now = clock.currentTimeMillisUnsafe()
    const atMillis =
      stored === undefined
        ? Math.min(lastMillis, Math.ceil(now + Duration.toMillis(duration)))
        : Stored.clock.decode(stored).atMillis
    // Another worker, whose clock is ahead, may have taken the sleep for over and removed its entry.
    if (stored !== undefined && (atMillis <= now || execution.sleeps.has(name))) return
    const { worker } = execution.state
    const entry = { executionId, workflow: workflow._tag, what: `clock/${name}`, atMillis, ...(worker && { worker }) }
    yield* Effect.orDie(records.insist(execution, agenda.put(entry)))
    execution.sleeps.add(name)
    if (stored === undefined) yield* Effect.orDie(writeStep(execution, id, Stored.clock.encode({ atMillis })))
    shared.lookBy(names.entry(executionId, entry.what), atMillis)
  })

  return { activityExecute, deferredResult, deferredDone, scheduleClock }
}

/** Ends a run that is over, or another worker's: what it would do next is not to happen. */
const leave = (execution: Execution | undefined): Effect.Effect<never> =>
  Effect.suspend(() => {
    if (execution !== undefined) end(execution, "Lost")
    return Effect.interrupt
  })
