/** How an execution is taken, run, and left again. */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Workflow from "effect/workflow/Workflow"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import type { Step, VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import { monotonicMillis } from "../../update/retry.ts"
import {
  addStep,
  type End,
  type Execution,
  isRunning,
  makeExecution,
  nextInstance,
  type Registered,
  type WakeMode,
  wakeAgain
} from "./execution.ts"
import { ids, versionOf } from "./names.ts"
import { RecordTooLarge } from "./RecordTooLarge.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

/**
 * What came of an attempt to take an execution. It may run here already, run elsewhere, be complete, not exist, have
 * nothing to do, or be of a workflow that is not registered here; or the step that was to be written with the taking
 * was refused.
 */
export type Taking = "Taken" | "Running" | "Elsewhere" | "Complete" | "Absent" | "Idle" | "Unregistered" | "Refused"

/** What is taken: what waits for a worker in any case, and what is suspended if there is news, or if one asks for it. */
export type Wish = WakeMode | "news"

const isWanted = (run: Stored.Run, wish: Wish, inbox: number, resumes: number): boolean => {
  if (run.state === "ready" || wish === "explicit") return true
  if (run.failed) return resumes !== run.resumes
  return wish === "automatic" || inbox !== run.inbox
}

/** For how long what a suspended execution holds in this process is kept, as in Effect's cluster engine. */
const idleMillis = 10_000

type TakeError = Backend | CapacityExceeded

export type Runs = ReturnType<typeof makeRuns>

export const makeRuns = (shared: Shared, engine: () => WorkflowEngine.WorkflowEngine["Service"]) => {
  const { agenda, clock, executions, lock, names, records, registered, worker } = shared
  const nowMillis = () => clock.currentTimeMillisUnsafe()

  // --- taking ---

  const running = (run: Stored.Run, held: Stored.Worker): Stored.Run => ({
    state: "running",
    epoch: run.epoch + 1,
    worker: { slot: held.slot, token: held.token },
    inbox: run.inbox,
    resumes: run.resumes,
    failed: false
  })

  const start = (execution: Execution): void => {
    executions.set(execution.id, execution)
    // Its workflow's Layer may have been closed meanwhile.
    if (registered.get(execution.stored.workflow) !== execution.of) end(execution, "Stopped")
    shared.fork(drive(execution))
  }

  /** Writes the run of an execution that nobody runs, so that this process does. */
  const begin = Effect.fnUntraced(function* (execution: Execution, held: Stored.Worker, steps: ReadonlyArray<Step>) {
    const state = running(execution.state, held)
    const written = yield* records.fenced(execution, steps, Stored.run.encode(state))
    if (written._tag !== "Landed") return written
    execution.state = state
    for (const record of written.records) if (record !== undefined) addStep(execution, record)
    return written
  })

  /** Takes an execution that this process ran last, and of which it knows all that has happened if nothing came. */
  const takeAgain = Effect.fnUntraced(function* (execution: Execution, step: Step | undefined) {
    const held = yield* worker.held
    if (held.slot !== execution.slot) return false
    yield* worker.mark(held.slot, execution.id, execution.stored.workflow)
    const nothingCame: Step = { _tag: "Check", id: ids.inbox, expected: execution.inbox ?? 0 }
    const begun = yield* begin(execution, held, step === undefined ? [nothingCame] : [nothingCame, step])
    if (begun._tag !== "Landed") {
      yield* worker.unmark(held.slot, execution.id)
      return false
    }
    execution.idleSinceMillis = undefined
    execution.settled = Deferred.makeUnsafe()
    start(execution)
    return true
  })

  const take = (
    executionId: string,
    wish: Wish,
    stepOn?: (interrupt: VersionedRecord | undefined) => Step
  ): Effect.Effect<Taking, TakeError> =>
    Effect.gen(function* () {
      const known = executions.get(executionId)
      if (known !== undefined && isRunning(known)) return "Running"
      if (known !== undefined && wish !== "news" && isWanted(known.state, wish, 0, known.state.resumes)) {
        if (yield* takeAgain(known, stepOn?.(known.steps.get(ids.interrupt)))) return "Taken"
      }
      if (known !== undefined) yield* forget(known)
      return yield* takeAnew(executionId, wish, stepOn)
    })

  const takeAnew = Effect.fnUntraced(function* (
    executionId: string,
    wish: Wish,
    stepOn: ((interrupt: VersionedRecord | undefined) => Step) | undefined
  ): Effect.fn.Return<Taking, TakeError> {
    for (;;) {
      const seen = yield* records.read(executionId)
      if (seen.run === undefined || seen.execution === undefined) return "Absent"
      const state = Stored.run.decode(seen.run)
      if (state.state === "complete") return "Complete"
      const held = registered.size === 0 ? undefined : yield* worker.held
      // What runs in this process's name, and not in this process, was left by a request without an answer.
      const isOwn = held !== undefined && held.slot === state.worker?.slot && held.token === state.worker.token
      if (state.state === "running" && !isOwn) return "Elsewhere"
      if (state.state !== "running" && !isWanted(state, wish, versionOf(seen.inbox), versionOf(seen.resumes))) {
        return "Idle"
      }
      const stored = Stored.execution.decode(seen.execution)
      const of = registered.get(stored.workflow)
      if (of === undefined || held === undefined) return "Unregistered"
      yield* worker.mark(held.slot, executionId, stored.workflow)
      const execution = makeExecution({
        id: executionId,
        of,
        stored,
        slot: held.slot,
        steps: new Map(),
        run: seen.run,
        state,
        inbox: seen.inbox,
        resumes: versionOf(seen.resumes)
      })
      const begun = yield* begin(execution, held, stepOn === undefined ? [] : [stepOn(seen.interrupt)])
      if (begun._tag === "Landed") {
        // From here on it is this process's, whatever happens.
        yield* Effect.orDie(records.insist(execution, loadSteps(execution)))
        start(execution)
        return "Taken"
      }
      yield* worker.unmark(held.slot, executionId)
      if (begun._tag === "Refused") return "Refused"
    }
  })

  const loadSteps = (execution: Execution) =>
    Effect.map(records.steps(execution.id), (steps) => {
      for (const step of steps.values()) addStep(execution, step)
    })

  /** Creates an execution, and runs it here. If it exists already, nothing happens. */
  const create = Effect.fnUntraced(function* (executionId: string, of: Registered, stored: Stored.Execution) {
    if (executions.has(executionId)) return
    const held = yield* worker.held
    yield* worker.mark(held.slot, executionId, stored.workflow)
    const ready: Stored.Run = { state: "ready", epoch: 0, inbox: 0, resumes: 0, failed: false }
    const state = running(ready, held)
    const created = yield* createRecords(executionId, stored, state).pipe(
      Effect.onExit((exit) =>
        Exit.isSuccess(exit) && exit.value !== undefined
          ? Effect.void
          : Effect.ignore(worker.unmark(held.slot, executionId))
      )
    )
    if (created === undefined) return
    const { inbox, run } = created
    const execution = makeExecution({
      id: executionId,
      of,
      stored,
      slot: held.slot,
      steps: new Map(),
      run,
      state,
      inbox,
      resumes: 0
    })
    if (inbox !== undefined) yield* Effect.orDie(records.insist(execution, loadSteps(execution)))
    start(execution)
  })

  /** Writes the records of a new execution. Returns undefined if there is one already. */
  const createRecords = Effect.fnUntraced(function* (
    executionId: string,
    stored: Stored.Execution,
    state: Stored.Run,
    inbox?: VersionedRecord
  ): Effect.fn.Return<
    { readonly run: VersionedRecord; readonly inbox: VersionedRecord | undefined } | undefined,
    TakeError
  > {
    const steps: ReadonlyArray<Step> = [
      { _tag: "Write", id: ids.execution, expected: 0, data: Stored.execution.encode(stored) },
      { _tag: "Write", id: ids.run, expected: 0, data: Stored.run.encode(state) },
      { _tag: "Check", id: ids.inbox, expected: inbox ?? 0 }
    ]
    const written = yield* shared.backend.commit(names.ownerOf(executionId), steps).pipe(
      Effect.map(([, run]) => run),
      Effect.catchTags({
        VersionConflict: ({ key }) => Effect.succeed(key.id),
        RecordNotFound: ({ key }) => Effect.succeed(key.id),
        InvalidData: Effect.die,
        InvalidCommit: Effect.die
      })
    )
    if (typeof written === "object") return { run: written, inbox }
    // Something was sent to the execution before it was started.
    if (written === ids.inbox) {
      return yield* createRecords(executionId, stored, state, yield* records.get(executionId, ids.inbox))
    }
    return undefined
  })

  // --- running ---

  const applyInterruption = (execution: Execution, instance: WorkflowEngine.WorkflowInstance["Service"]) =>
    Effect.onExit((exit: Exit.Exit<unknown, unknown>) => {
      const suspends = Context.get(instance.workflow.annotations, Workflow.SuspendOnFailure) && Exit.isFailure(exit)
      // Safe interrupts take effect only if the run would suspend. Unsafe ones do in any case.
      if (
        !execution.interrupted ||
        execution.end !== undefined ||
        !(execution.interruptedUnsafe || instance.suspended || suspends)
      ) {
        return Effect.void
      }
      instance.interrupted = true
      instance.suspended = false
      return Effect.withFiber((fiber) => Effect.interruptible(Fiber.interrupt(fiber)))
    })

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
      Effect.onExit((exit) =>
        Effect.sync(() => {
          outcome = exit
        })
      ),
      // What the run came to counts even if the fiber was interrupted.
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

  /** Runs an execution until it is suspended, complete or another's. */
  const drive = (execution: Execution): Effect.Effect<void> =>
    Effect.gen(function* () {
      while (execution.end === undefined) {
        const outcome = yield* attempt(execution)
        if (execution.end !== undefined) break
        const isSuspended = Exit.isSuccess(outcome) && outcome.value._tag === "Suspended"
        if (isSuspended) {
          const { failed = false } = outcome.value as Workflow.Suspended
          if (!takeWake(execution, failed) && (yield* lock(execution.id, suspend(execution, outcome, failed)))) return
        } else {
          if (yield* complete(execution, outcome)) return
        }
      }
      yield* abandon(execution)
    })

  /** Whether a wake came that begins one more run. */
  const takeWake = (execution: Execution, failed: boolean): boolean => {
    const wake = execution.again
    execution.again = undefined
    return wake === "explicit" || (wake === "automatic" && !failed)
  }

  const encode = (execution: Execution, outcome: Stored.Outcome) =>
    Stored.encodeOutcome(execution.of.workflow, outcome).pipe(
      Effect.catchCause((cause) => Stored.encodeOutcome(execution.of.workflow, Exit.die(Cause.squash(cause)))),
      Effect.provideContext(execution.of.services),
      Effect.orDie
    )

  /** Suspends the execution, unless something came meanwhile. Returns whether it is suspended. */
  const suspend = Effect.fnUntraced(function* (execution: Execution, outcome: Stored.Outcome, failed: boolean) {
    const encoded = yield* encode(execution, outcome)
    for (;;) {
      if (takeWake(execution, failed)) return false
      const state: Stored.Run = {
        state: "suspended",
        epoch: execution.state.epoch,
        inbox: versionOf(execution.inbox),
        resumes: execution.resumes,
        failed,
        outcome: encoded
      }
      const nothingCame: Step = { _tag: "Check", id: ids.inbox, expected: execution.inbox ?? 0 }
      const written = yield* Effect.orDie(records.fenced(execution, [nothingCame], Stored.run.encode(state)))
      if (written._tag === "Landed") {
        yield* settle(execution, state, outcome)
        return true
      }
      if (written._tag === "Lost") {
        end(execution, "Lost")
        return false
      }
      const resumes = execution.resumes
      yield* Effect.orDie(records.insist(execution, refresh(execution)))
      if (!failed || execution.resumes !== resumes) return false
    }
  })

  /** Reads what came from outside: the inbox first, so that what comes after it is found by the next check. */
  const refresh = Effect.fnUntraced(function* (execution: Execution) {
    const seen = yield* records.read(execution.id)
    execution.inbox = seen.inbox
    execution.resumes = versionOf(seen.resumes)
    yield* loadSteps(execution)
  })

  const settle = Effect.fnUntraced(function* (execution: Execution, state: Stored.Run, outcome: Stored.Outcome) {
    execution.state = state
    yield* Effect.ignore(worker.unmark(execution.slot, execution.id))
    execution.idleSinceMillis = monotonicMillis(clock)
    Deferred.doneUnsafe(execution.settled, outcome)
  })

  /**
   * Stores the result. Who asked for the execution is told, and then its records wait for their removal. Returns whether
   * the result landed.
   */
  const complete = Effect.fnUntraced(function* (execution: Execution, outcome: Stored.Outcome) {
    yield* Scope.close(execution.scope, Exit.void)
    const landed = yield* lock(execution.id, store(execution, outcome))
    if (landed === undefined) {
      end(execution, "Lost")
      return false
    }
    Deferred.doneUnsafe(execution.settled, landed.outcome)
    yield* records.insist(execution, wrapUp(execution.id, execution.stored, landed.state)).pipe(
      Effect.andThen(worker.unmark(execution.slot, execution.id)),
      Effect.catchCause((cause) => Effect.logWarning("A finished workflow is tidied up later", cause))
    )
    executions.delete(execution.id)
    return true
  })

  const store = Effect.fnUntraced(function* (execution: Execution, outcome: Stored.Outcome) {
    let final = outcome
    for (;;) {
      const state: Stored.Run = {
        state: "complete",
        epoch: execution.state.epoch,
        ...(execution.state.worker !== undefined && { worker: execution.state.worker }),
        inbox: execution.state.inbox,
        resumes: execution.state.resumes,
        failed: false,
        endedMillis: nowMillis(),
        outcome: yield* encode(execution, final)
      }
      const written = yield* Effect.result(records.fenced(execution, [], Stored.run.encode(state)))
      if (written._tag === "Success") return written.success._tag === "Landed" ? { state, outcome: final } : undefined
      const { actual, limit } = written.failure
      final = Exit.succeed(
        new Workflow.Complete({
          exit: Exit.die(tooLarge(execution.stored.workflow, execution.id, "result", limit, actual))
        })
      )
    }
  })

  const tooLarge = (workflow: string, executionId: string, part: string, limit: number, actual: number) =>
    new RecordTooLarge({ workflow, executionId, part, limit, actual })

  /** Wakes the parent of a finished execution, and has the execution removed after the retention. It may be repeated. */
  const wrapUp = Effect.fnUntraced(function* (
    executionId: string,
    { parent, workflow }: Stored.Execution,
    run: Stored.Run
  ) {
    if (parent !== undefined) yield* wakeParent(parent.executionId, parent.workflow)
    yield* agenda.put({
      executionId,
      workflow,
      what: "remove",
      atMillis: (run.endedMillis ?? nowMillis()) + shared.retentionMillis,
      ...(run.worker !== undefined && { worker: run.worker })
    })
  })

  /** A child's mark stands until its parent is awake, so the parent needs no entry before. */
  const wakeParent = Effect.fnUntraced(function* (executionId: string, workflow: string) {
    const wake = (wish: Wish) =>
      lock(
        executionId,
        Effect.map(take(executionId, wish), (taking) => {
          const execution = executions.get(executionId)
          if (taking === "Running" && execution !== undefined) wakeAgain(execution, "automatic")
          return taking
        })
      )
    const taking = yield* wake("automatic")
    if (taking !== "Elsewhere" && taking !== "Unregistered") return
    if (taking === "Unregistered") yield* agenda.put({ executionId, workflow, what: "child" })
    yield* putInbox(executionId)
    // It may have been suspended just before.
    if (taking === "Elsewhere") yield* wake("news")
  })

  const putInbox = (executionId: string) =>
    shared.backend
      .put(names.keyOf(executionId, ids.inbox), "")
      .pipe(Effect.catchTags({ InvalidData: Effect.die, CapacityExceeded: Effect.die }))

  // --- leaving ---

  /** Stops to run an execution here. Its finalizers do not run, since it goes on elsewhere. */
  const end = (execution: Execution, why: End): void => {
    execution.end ??= why
    for (const instance of execution.instances) instance.abandoned = true
    execution.fiber?.interruptUnsafe()
  }

  /** Gives an execution to the other workers, if it is still this process's. */
  const abandon = Effect.fnUntraced(function* (execution: Execution) {
    yield* Scope.close(execution.scope, Exit.void)
    yield* lock(
      execution.id,
      Effect.gen(function* () {
        if (executions.get(execution.id) === execution) executions.delete(execution.id)
        yield* publish(execution.id, execution.stored.workflow, execution.run, execution.state)
        yield* worker.unmark(execution.slot, execution.id)
      })
    ).pipe(Effect.catchCause((cause) => Effect.logWarning("A workflow is left to other workers' leases", cause)))
    Deferred.doneUnsafe(execution.settled, Exit.succeed(new Workflow.Suspended({})))
  })

  /** Makes an execution that nobody runs any more ready for all workers. */
  const publish = Effect.fnUntraced(function* (
    executionId: string,
    workflow: string,
    record: VersionedRecord,
    { epoch, failed, inbox, resumes }: Stored.Run
  ) {
    yield* agenda.put({ executionId, workflow, what: "ready" })
    yield* shared.backend
      .putIfVersion(record.key, Stored.run.encode({ state: "ready", epoch, inbox, resumes, failed }), record)
      .pipe(
        Effect.catchTags({
          VersionConflict: () => Effect.void,
          RecordNotFound: () => Effect.void,
          InvalidData: Effect.die
        })
      )
  })

  /** Closes what a suspended execution holds in this process. */
  const forget = (execution: Execution) =>
    Effect.suspend(() => {
      executions.delete(execution.id)
      end(execution, "Stopped")
      return Scope.close(execution.scope, Exit.void)
    })

  return {
    take,
    create,
    createRecords,
    end,
    putInbox,
    tooLarge,

    /** Ends all executions of a workflow that run here, or of all of them, and waits until others can take them. */
    stop: (why: End, workflow?: string) =>
      Effect.suspend(() => {
        const all = Array.from(executions.values()).filter(
          ({ stored }) => workflow === undefined || stored.workflow === workflow
        )
        return Effect.forEach(
          all,
          (execution) => {
            if (!isRunning(execution)) return lock(execution.id, forget(execution))
            end(execution, why)
            return Deferred.await(execution.settled)
          },
          { concurrency: "unbounded", discard: true }
        )
      }),

    /** Closes what suspended executions hold here if they have been so for long. */
    forgetIdle: Effect.suspend(() =>
      Effect.forEach(
        Array.from(executions.values()),
        (execution) =>
          lock(
            execution.id,
            Effect.suspend(() =>
              (execution.idleSinceMillis ?? Number.POSITIVE_INFINITY) + idleMillis <= monotonicMillis(clock) &&
              executions.get(execution.id) === execution
                ? forget(execution)
                : Effect.void
            )
          ),
        { discard: true }
      )
    ),

    /** Puts right what a dead worker has left of an execution. */
    recover: Effect.fnUntraced(function* (executionId: string, dead: Stored.Worker) {
      const { execution, run } = yield* records.read(executionId)
      if (execution === undefined || run === undefined) return
      const [stored, state] = [Stored.execution.decode(execution), Stored.run.decode(run)]
      if (state.state === "complete") return yield* wrapUp(executionId, stored, state)
      if (state.state === "running" && state.worker?.slot === dead.slot && state.worker.token < dead.token) {
        yield* publish(executionId, stored.workflow, run, state)
      }
    })
  }
}
