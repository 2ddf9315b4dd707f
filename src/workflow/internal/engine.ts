/** The ten operations of Effect's `WorkflowEngine`. */
import type * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Workflow from "effect/workflow/Workflow"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import { type Step, StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import { monotonicMillis } from "../../update/retry.ts"
import { makeAgenda, makeLooks } from "./agenda.ts"
import { addStep, type Execution, isRunning, type Registered, wakeAgain } from "./execution.ts"
import { makeLocks } from "./locks.ts"
import { ids, makeNames } from "./names.ts"
import { isTooLarge, makeRecords } from "./records.ts"
import { makeRuns } from "./runs.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"
import { makeWakes } from "./wakes.ts"
import { makeWorker, type Worker } from "./worker.ts"

export interface Options {
  readonly owner: string
  readonly backend: StorageBackend["Service"]
  readonly clock: Clock.Clock
  readonly leaseMillis: number
  readonly pollMillis: number
  readonly retentionMillis: number
}

/** How many executions a process remembers to have been started. */
const maxKnown = 10_000

/** The longest pause between two looks at the result of an execution that runs elsewhere. */
const longestPollMillis = 30_000

/** The last instant that a sleep can end at. */
const lastMillis = Number.MAX_SAFE_INTEGER

export const makeEngine = Effect.fnUntraced(function* (options: Options) {
  const { backend, clock, leaseMillis, pollMillis, retentionMillis } = options
  const names = makeNames(options.owner)
  const records = makeRecords(backend, names)
  const registered = new Map<string, Registered>()
  const scope = yield* Scope.make()
  const context = yield* Effect.context<never>()
  const fibers = yield* FiberSet.make().pipe(Effect.provideService(Scope.Scope, scope))

  let held: Stored.Worker | undefined
  const worker: Worker = yield* makeWorker(names, {
    leaseMillis,
    recover: (executionId, dead) => runs.recover(executionId, dead),
    whileHeld: Effect.suspend(() => whileHeld),
    onLost: Effect.suspend(() => runs.stop("Lost"))
  }).pipe(Effect.provideService(StorageBackend, backend))

  const shared: Shared = {
    backend,
    names,
    records,
    agenda: makeAgenda(backend, names),
    worker,
    clock,
    leaseMillis,
    retentionMillis,
    registered,
    executions: new Map(),
    lock: makeLocks(),
    deferredState: WorkflowEngine.makeDeferredState(),
    fork: (effect) => {
      FiberSet.addUnsafe(fibers, Effect.runForkWith(context)(effect))
    }
  }
  const { agenda, executions, lock } = shared
  const runs = makeRuns(shared, () => engine)
  const wakes = makeWakes(shared, runs, pollMillis)
  const looks = yield* makeLooks(backend, names, {
    pollMillis,
    dueAtMillis: wakes.dueAtMillis(() => held),
    handle: wakes.handle(() => held)
  })
  const whileHeld: Effect.Effect<void> = Effect.gen(function* () {
    held = yield* worker.held
    yield* Effect.all([looks.run, Effect.forever(Effect.delay(runs.forgetIdle, leaseMillis / 4))], {
      concurrency: "unbounded",
      discard: true
    })
  })

  // What runs here is handed to others first, while this worker still has its lease.
  yield* Effect.addFinalizer(() =>
    runs
      .stop("Stopped")
      .pipe(Effect.andThen(FiberSet.awaitEmpty(fibers)), Effect.andThen(Scope.close(scope, Exit.void)))
  )

  let works = false
  const work = Effect.suspend(() => {
    if (works) return looks.now
    works = true
    return Effect.asVoid(Effect.forkIn(worker.run, scope))
  })

  // --- executions ---

  const known = new Set<string>()
  const remember = (executionId: string) => {
    if (known.size >= maxKnown) known.delete(known.values().next().value ?? "")
    known.add(executionId)
  }

  /** Leaves a new execution to the workers. */
  const createElsewhere = Effect.fnUntraced(function* (executionId: string, stored: Stored.Execution) {
    const entry = yield* agenda.put({ executionId, workflow: stored.workflow, what: "ready" })
    const ready: Stored.Run = { state: "ready", epoch: 0, inbox: 0, resumes: 0, failed: false }
    const created = yield* runs.createRecords(executionId, stored, ready)
    if (created === undefined) yield* agenda.remove(entry)
  })

  const create = (executionId: string, workflow: Workflow.Any, payload: object, parent: Stored.Execution["parent"]) =>
    Effect.gen(function* () {
      if (executions.has(executionId) || known.has(executionId)) return
      const stored = {
        workflow: workflow._tag,
        payload: yield* Stored.encodePayload(workflow, payload),
        ...(parent !== undefined && { parent })
      }
      const of = registered.get(workflow._tag)
      yield* of === undefined
        ? createElsewhere(executionId, stored)
        : lock(executionId, runs.create(executionId, of, stored))
      remember(executionId)
    }).pipe(dieOf(workflow._tag, executionId, "payload"))

  /** A failure of the storage is a defect, since these operations have no errors. */
  const dieOf =
    (workflow: string, executionId: string, part: string) =>
    <A>(effect: Effect.Effect<A, Backend | CapacityExceeded>): Effect.Effect<A> =>
      Effect.catch(effect, (error) =>
        Effect.die(isTooLarge(error) ? runs.tooLarge(workflow, executionId, part, error.limit, error.actual) : error)
      )

  /** The result of an execution if there is one, whoever runs it. */
  const pollRun = Effect.fnUntraced(function* (workflow: Workflow.Any, executionId: string) {
    const record = yield* Effect.orDie(records.get(executionId, ids.run))
    // If it has been removed after its time, the next call starts it anew.
    if (record === undefined) known.delete(executionId)
    const run = record === undefined ? undefined : Stored.run.decode(record)
    if (run?.outcome === undefined || run.state === "ready" || run.state === "running") return Option.none()
    return Option.some(yield* yield* Stored.decodeOutcome(workflow, run.outcome))
  })

  const awaitComplete = (_workflow: Workflow.Any, executionId: string) =>
    Effect.gen(function* () {
      const isComplete = Effect.map(Effect.orDie(records.get(executionId, ids.run)), (record) =>
        record === undefined ? false : Stored.run.decode(record).state === "complete"
      )
      const since = monotonicMillis(clock)
      // The longer it takes, the less often one looks without a hint.
      const pause = Effect.suspend(() =>
        Effect.sleep(Math.min(longestPollMillis, Math.max(pollMillis, (monotonicMillis(clock) - since) / 10)))
      )
      const hints = Stream.map(backend.hints(names.keyOf(executionId, ids.run)), () => undefined)
      const ticks = Stream.fromEffectRepeat(pause)
      yield* Stream.merge(hints, ticks).pipe(
        Stream.prepend([undefined]),
        Stream.mapEffect(() => isComplete),
        Stream.takeUntil((is) => is),
        Stream.runDrain
      )
    })

  // --- steps of a run ---

  /** Ends a run that another worker has taken over: what it would do next is not to happen. */
  const leave = (execution: Execution | undefined): Effect.Effect<never> =>
    Effect.suspend(() => {
      if (execution !== undefined) runs.end(execution, "Lost")
      return Effect.interrupt
    })

  const runningHere = (executionId: string): Execution | undefined => {
    const execution = executions.get(executionId)
    return execution !== undefined && isRunning(execution) ? execution : undefined
  }

  /** Stores a step of a run that must be written once. Returns the step that is there. */
  const writeStep = Effect.fnUntraced(function* (execution: Execution, id: string, data: string) {
    const step: Step = { _tag: "Write", id, expected: 0, data }
    const written = yield* records.fenced(execution, [step])
    if (written._tag === "Lost") return yield* leave(execution)
    const record =
      written._tag === "Landed"
        ? written.records[0]
        : yield* Effect.orDie(records.insist(execution, records.get(execution.id, id)))
    if (record === undefined) return yield* leave(execution)
    addStep(execution, record)
    return record
  })

  const writeActivity = (execution: Execution, name: string, id: string, exit: Exit.Exit<unknown, unknown>) =>
    Effect.suspend(() => writeStep(execution, id, Stored.activity.encode(exit))).pipe(
      Effect.catch((error) =>
        isTooLarge(error)
          ? writeStep(
              execution,
              id,
              Stored.tooLarge(
                runs.tooLarge(execution.stored.workflow, execution.id, `activity ${name}`, error.limit, error.actual)
              )
            )
          : Effect.fail(error)
      ),
      Effect.orDie
    )

  const engine: WorkflowEngine.WorkflowEngine["Service"] = WorkflowEngine.makeUnsafe({
    register: Effect.fnUntraced(function* (workflow, execute) {
      const of: Registered = { workflow, execute, services: yield* Effect.context<never>() }
      registered.set(workflow._tag, of)
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() => {
          if (registered.get(workflow._tag) !== of) return Effect.void
          registered.delete(workflow._tag)
          return runs.stop("Stopped", workflow._tag)
        })
      )
      yield* work
    }),

    execute: Effect.fnUntraced(function* (workflow, { detached, discard, executionId, parent, payload }) {
      const parentOf =
        parent === undefined || detached
          ? undefined
          : { workflow: parent.workflow._tag, executionId: parent.executionId }
      yield* create(executionId, workflow, payload, parentOf)
      if (discard) return
      const execution = runningHere(executionId)
      if (execution !== undefined) return yield* Deferred.await(execution.settled)
      return Option.getOrElse(yield* pollRun(workflow, executionId), () => new Workflow.Suspended({}))
      // biome-ignore lint/suspicious/noExplicitAny: the interface's conditional type can't be met by an implementation.
    }) as any,

    poll: pollRun,
    awaitComplete,

    interrupt: (workflow, executionId) => interrupt(workflow, executionId, false),
    interruptUnsafe: (workflow, executionId) => interrupt(workflow, executionId, true),

    resume: (workflow, executionId) =>
      lock(
        executionId,
        Effect.map(runs.take(executionId, "explicit"), (taking) => {
          const execution = runningHere(executionId)
          if (taking === "Running" && execution !== undefined) wakeAgain(execution, "explicit")
          return taking
        })
      ).pipe(
        Effect.flatMap((taking) =>
          taking === "Elsewhere" || taking === "Unregistered"
            ? wakes.send({
                executionId,
                workflow: workflow._tag,
                what: "resume",
                mode: "explicit",
                store: Effect.void
              })
            : Effect.void
        ),
        Effect.orDie
      ),

    activityExecute: Effect.fnUntraced(function* (activity, attempt) {
      const instance = yield* WorkflowEngine.WorkflowInstance
      const execution = runningHere(instance.executionId)
      if (execution === undefined) return yield* leave(undefined)
      const id = ids.activity(activity.name, attempt)
      const stored = execution.steps.get(id)
      if (stored !== undefined) return new Workflow.Complete({ exit: Stored.activity.decode(stored) })
      // A pending interruption only rebuilds the compensations, so no new activity runs.
      if (execution.interrupted && !instance.interrupted) return new Workflow.Suspended({})
      // Its key must be one before it runs.
      names.keyOf(execution.id, id)
      const inner = WorkflowEngine.WorkflowInstance.initial(instance.workflow, instance.executionId)
      inner.interrupted = instance.interrupted
      const result = yield* activity.executeEncoded.pipe(
        Workflow.intoResult,
        Effect.provideService(WorkflowEngine.WorkflowInstance, inner)
      )
      if (result._tag === "Suspended") return result
      const record = yield* writeActivity(execution, activity.name, id, result.exit)
      return new Workflow.Complete({ exit: Stored.activity.decode(record) })
    }),

    deferredResult: Effect.fnUntraced(function* (deferred) {
      const { executionId } = yield* WorkflowEngine.WorkflowInstance
      const execution = runningHere(executionId)
      const find = (id: string) =>
        execution === undefined ? Effect.orDie(records.get(executionId, id)) : Effect.succeed(execution.steps.get(id))
      const done = yield* find(ids.deferred(deferred.name))
      if (done !== undefined) return Option.some(Stored.deferred.decode(done))
      if (!deferred.name.startsWith(wakes.clockPrefix)) return Option.none()
      const clockStep = yield* find(ids.clock(deferred.name.slice(wakes.clockPrefix.length)))
      const isOver =
        clockStep !== undefined && Stored.clock.decode(clockStep).atMillis <= clock.currentTimeMillisUnsafe()
      return isOver ? Option.some(Exit.void) : Option.none()
    }),

    deferredDone: Effect.fnUntraced(function* ({ deferredName, executionId, exit, workflowName }) {
      const id = ids.deferred(deferredName)
      const step: Step = { _tag: "Write", id, expected: 0, data: Stored.deferred.encode(exit) }
      const caller = yield* Effect.serviceOption(WorkflowEngine.WorkflowInstance)
      const isOwn = Option.isSome(caller) && caller.value.executionId === executionId
      const execution = runningHere(executionId)
      const tell = Effect.gen(function* () {
        const running = runningHere(executionId)
        if (running === undefined) return yield* runs.take(executionId, "automatic", () => step)
        if (!running.steps.has(id)) {
          const written = yield* records.fenced(running, [step])
          if (written._tag === "Lost") {
            runs.end(running, "Lost")
            return "Elsewhere" as const
          }
          const record = written._tag === "Landed" ? written.records[0] : yield* records.get(executionId, id)
          if (record !== undefined) wakes.deliver(running, record)
        }
        return "Running" as const
      })
      // A run that is over, or another worker's, completes nothing any more.
      if (isOwn && execution === undefined) return yield* leave(undefined)
      const taking = yield* lock(executionId, tell).pipe(dieOf(workflowName, executionId, `deferred ${deferredName}`))
      if (taking !== "Elsewhere" && taking !== "Unregistered" && taking !== "Absent" && taking !== "Idle") return
      if (isOwn) return yield* leave(undefined)
      yield* wakes
        .send({
          executionId,
          workflow: workflowName,
          what: `deferred/${deferredName}`,
          mode: "automatic",
          store: createIfAbsent(executionId, id, step.data)
        })
        .pipe(dieOf(workflowName, executionId, `deferred ${deferredName}`))
    }),

    scheduleClock: Effect.fnUntraced(function* (workflow, { clock: { duration, name }, executionId }) {
      const execution = runningHere(executionId)
      if (execution === undefined) return yield* leave(undefined)
      if (execution.steps.has(ids.clock(name))) return
      const atMillis = Math.min(lastMillis, Math.ceil(clock.currentTimeMillisUnsafe() + Duration.toMillis(duration)))
      const data = Stored.clock.encode({ atMillis })
      yield* Effect.orDie(
        agenda.put({
          executionId,
          workflow: workflow._tag,
          what: `clock/${name}`,
          atMillis,
          ...(execution.state.worker !== undefined && { worker: execution.state.worker })
        })
      )
      yield* Effect.orDie(writeStep(execution, ids.clock(name), data))
      yield* looks.at(executionId, atMillis)
    })
  })

  const createIfAbsent = (executionId: string, id: string, data: string) =>
    Effect.suspend(() => backend.putIfVersion(names.keyOf(executionId, id), data, 0)).pipe(
      Effect.catchTags({
        VersionConflict: () => Effect.void,
        RecordNotFound: () => Effect.void,
        InvalidData: Effect.die
      })
    )

  const interrupt = Effect.fnUntraced(function* (workflow: Workflow.Any, executionId: string, unsafe: boolean) {
    const data = Stored.interrupt.encode({ unsafe })
    const stepOver = (stored: VersionedRecord | undefined): Step => ({
      _tag: "Write",
      id: ids.interrupt,
      expected: stored ?? 0,
      // An unsafe interruption stays one.
      data: stored !== undefined && !unsafe ? stored.data : data
    })
    const tell = Effect.gen(function* () {
      const running = runningHere(executionId)
      if (running === undefined) return yield* runs.take(executionId, "explicit", stepOver)
      const written = yield* records.fenced(running, [stepOver(running.steps.get(ids.interrupt))])
      if (written._tag === "Landed" && written.records[0] !== undefined) wakes.deliver(running, written.records[0])
      if (written._tag === "Landed") return "Running" as const
      if (written._tag === "Lost") runs.end(running, "Lost")
      return "Elsewhere" as const
    })
    const taking = yield* Effect.orDie(lock(executionId, tell))
    if (taking !== "Elsewhere" && taking !== "Unregistered" && taking !== "Refused") return
    const store = Effect.flatMap(records.get(executionId, ids.interrupt), (stored) =>
      stored !== undefined && !unsafe
        ? Effect.void
        : Effect.catchTag(backend.put(names.keyOf(executionId, ids.interrupt), data), "InvalidData", Effect.die)
    )
    yield* Effect.orDie(
      wakes.send({ executionId, workflow: workflow._tag, what: "interrupt", mode: "explicit", store })
    )
  })

  return engine
})
