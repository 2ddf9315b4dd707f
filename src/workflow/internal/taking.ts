/** How this process takes an execution that nobody runs, or creates one. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type { Step, VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import { addStep, type Execution, end, isRunning, makeExecution, type Registered, type WakeMode } from "./execution.ts"
import type { Leaving } from "./leaving.ts"
import { ids, versionOf } from "./names.ts"
import type { Seen } from "./records.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

/**
 * What came of an attempt to take an execution. It may run here already, run elsewhere, be complete, not exist, have
 * nothing to do, or be of a workflow that is not registered here, or this process may have no lease for the moment. Or
 * the step that was to be written with the taking was refused.
 */
export type Taking = "Taken" | "Running" | "Elsewhere" | "Complete" | "Absent" | "Idle" | "Unregistered" | "Refused"

/**
 * What is taken: what waits for a worker in any case, and what is suspended if there is news, or if one asks for it.
 */
export type Wish = WakeMode | "news"

type StepOver = (interrupt: VersionedRecord | undefined) => Step

const isWanted = (run: Stored.Run, wish: Wish, inbox: number, resumes: number): boolean => {
  if ((run.state !== "suspended" && run.state !== "died") || wish === "explicit") return true
  if (run.failed) return resumes !== run.resumes
  return wish === "automatic" || inbox !== run.inbox || resumes !== run.resumes
}

const runBy = ({ epoch, inbox, resumes }: Stored.Run, { slot, token }: Stored.Worker): Stored.Run => ({
  state: "running",
  epoch: epoch + 1,
  worker: { slot, token },
  inbox,
  resumes,
  failed: false
})

const never: Stored.Run = { state: "ready", epoch: 0, inbox: 0, resumes: 0, failed: false }

export type Taker = ReturnType<typeof makeTaking>

export const makeTaking = (shared: Shared, leaving: Leaving, drive: (execution: Execution) => Effect.Effect<void>) => {
  const { agenda, backend, executions, names, records, registered, worker } = shared

  const start = Effect.fnUntraced(function* (execution: Execution) {
    executions.set(execution.id, execution)
    // Meanwhile the lease may have been lost, or the workflow's Layer closed.
    if (!(worker.isOwn(execution.held) && (yield* worker.isHolding))) end(execution, "Lost")
    if (registered.get(execution.stored.workflow) !== execution.of) end(execution, "Stopped")
    shared.fork(drive(execution))
  })

  const loadSteps = (execution: Execution) =>
    Effect.orDie(
      records.insist(
        execution,
        Effect.map(records.steps(execution.id), (steps) => {
          for (const step of steps.values()) addStep(execution, step)
        })
      )
    )

  /** Writes the run of an execution that nobody runs, so that this process does. */
  const begin = Effect.fnUntraced(function* (execution: Execution, held: Stored.Worker, steps: ReadonlyArray<Step>) {
    const state = runBy(execution.state, held)
    const written = yield* records.fenced(execution, steps, Stored.run.encode(state))
    if (written._tag === "Landed") execution.state = state
    return written
  })

  /** Takes an execution that this process ran last: if nothing came meanwhile, it knows all its steps. */
  const takeAgain = Effect.fnUntraced(function* (execution: Execution, stepOver: StepOver | undefined) {
    const { held } = execution
    if (!worker.isOwn(held)) return false
    yield* worker.mark(held, execution.id)
    const nothingCame: Step = { _tag: "Check", id: ids.inbox, expected: execution.inbox ?? 0 }
    const step = stepOver?.(execution.steps.get(ids.interrupt))
    const begun = yield* begin(execution, held, step === undefined ? [nothingCame] : [nothingCame, step])
    if (begun._tag !== "Landed") {
      yield* leaving.unmark(execution.id, held)
      return false
    }
    for (const record of begun.records) if (record !== undefined) addStep(execution, record)
    // If the answer was lost at first, the step has landed without being known.
    if (step !== undefined && !execution.steps.has(step.id)) yield* loadSteps(execution)
    execution.idleSinceMillis = undefined
    execution.settled = Deferred.makeUnsafe()
    yield* start(execution)
    return true
  })

  /** Whether an execution is to be taken, as it is stored. */
  const judge = (seen: Seen, wish: Wish, held: Stored.Worker | undefined): Taking | undefined => {
    if (seen.run === undefined || seen.execution === undefined) return "Absent"
    const run = Stored.run.decode(seen.run)
    if (run.state === "complete") return "Complete"
    // What runs in this process's name, and not in this process, was left by a request whose answer was lost.
    const isOwn = held !== undefined && held.slot === run.worker?.slot && held.token === run.worker.token
    const isDead = run.worker !== undefined && worker.isDead(run.worker)
    if (run.state === "running" && !isOwn && !isDead) return "Elsewhere"
    return isWanted(run, wish, versionOf(seen.inbox), versionOf(seen.resumes)) ? undefined : "Idle"
  }

  const takeAnew = Effect.fnUntraced(function* (
    executionId: string,
    wish: Wish,
    stepOver: StepOver | undefined
  ): Effect.fn.Return<Taking, Backend | CapacityExceeded> {
    for (;;) {
      const seen = yield* records.read(executionId)
      const held = worker.current()
      const judged = judge(seen, wish, held)
      if (judged !== undefined || seen.run === undefined || seen.execution === undefined) return judged ?? "Absent"
      const stored = Stored.execution.decode(seen.execution)
      const of = registered.get(stored.workflow)
      if (of === undefined || held === undefined) return "Unregistered"
      yield* worker.mark(held, executionId)
      const execution = makeExecution({
        id: executionId,
        of,
        stored,
        held,
        run: seen.run,
        state: Stored.run.decode(seen.run),
        inbox: seen.inbox,
        resumes: versionOf(seen.resumes),
        isReplay: true
      })
      const begun = yield* begin(execution, held, stepOver === undefined ? [] : [stepOver(seen.interrupt)])
      if (begun._tag === "Landed") {
        yield* loadSteps(execution)
        yield* start(execution)
        return "Taken"
      }
      yield* leaving.unmark(executionId, held)
      if (begun._tag === "Refused") return "Refused"
    }
  })

  const take = (
    executionId: string,
    wish: Wish,
    stepOver?: StepOver
  ): Effect.Effect<Taking, Backend | CapacityExceeded> =>
    Effect.gen(function* () {
      const known = executions.get(executionId)
      // One that has ended here is others', as soon as it is handed over.
      if (known !== undefined && isRunning(known)) return known.end === undefined ? "Running" : "Elsewhere"
      if (known !== undefined) {
        const isSure = wish !== "news" && isWanted(known.state, wish, 0, known.state.resumes)
        if (isSure && (yield* takeAgain(known, stepOver))) return "Taken"
        leaving.forget(known)
      }
      return yield* takeAnew(executionId, wish, stepOver)
    })

  /** Writes the records of a new execution. Returns undefined if there is one already. */
  const createRecords = Effect.fnUntraced(function* (
    executionId: string,
    stored: Stored.Execution,
    state: Stored.Run,
    inbox?: VersionedRecord
  ): Effect.fn.Return<
    { readonly run: VersionedRecord; readonly inbox: VersionedRecord | undefined } | undefined,
    Backend | CapacityExceeded
  > {
    const steps: ReadonlyArray<Step> = [
      { _tag: "Write", id: ids.execution, expected: 0, data: Stored.execution.encode(stored) },
      { _tag: "Write", id: ids.run, expected: 0, data: Stored.run.encode(state) },
      { _tag: "Check", id: ids.inbox, expected: inbox ?? 0 }
    ]
    const written = yield* backend.commit(names.ownerOf(executionId), steps).pipe(
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
    if (written !== ids.inbox) return undefined
    return yield* createRecords(executionId, stored, state, yield* records.get(executionId, ids.inbox))
  })

  /** After a lost answer: the execution may have been created in this process's name. */
  const findOut = (executionId: string, held: Stored.Worker) =>
    shared.fork(
      shared.lock(executionId, take(executionId, "news")).pipe(
        Effect.retry({ schedule: shared.untilAnswered }),
        // Otherwise the mark is for whoever holds the slot next.
        Effect.flatMap((taking) =>
          taking === "Absent" || taking === "Complete" || taking === "Idle"
            ? leaving.unmark(executionId, held)
            : Effect.void
        ),
        Effect.ignore
      )
    )

  return {
    take,

    /** Creates an execution, and runs it here. If it exists already, nothing happens. */
    create: Effect.fnUntraced(function* (
      executionId: string,
      of: Registered,
      stored: Stored.Execution,
      held: Stored.Worker
    ) {
      if (executions.has(executionId)) return
      const state = runBy(never, held)
      yield* worker.mark(held, executionId)
      const created = yield* Effect.onError(createRecords(executionId, stored, state), () =>
        Effect.sync(() => findOut(executionId, held))
      )
      if (created === undefined) {
        // It may have been left by a worker that is dead, or that has not begun it.
        const taking = yield* take(executionId, "news")
        return taking === "Taken" ? undefined : yield* leaving.unmark(executionId, held)
      }
      const execution = makeExecution({
        id: executionId,
        of,
        stored,
        held,
        state,
        resumes: 0,
        isReplay: false,
        ...created
      })
      if (created.inbox !== undefined) yield* loadSteps(execution)
      yield* start(execution)
    }),

    /**
     * Creates an execution, and leaves it to the workers. If it exists already, the entry stays for them to remove,
     * since another process may have put it, too.
     */
    createElsewhere: (executionId: string, stored: Stored.Execution) =>
      agenda.announce(
        { executionId, workflow: stored.workflow, what: "ready" },
        Effect.asVoid(createRecords(executionId, stored, never))
      )
  }
}
