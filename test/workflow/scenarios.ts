/** What is played in crashes.test.ts. */
import { Cause, Context, Duration, Effect, Exit, Layer, Schema } from "effect"
import { Activity, DurableClock, DurableDeferred, Workflow, WorkflowEngine } from "effect/workflow"
import { recordOf, runOf, type Scenario, type World } from "./crash.ts"

/** An activity that takes 30 ms, and must not begin once its result is stored. */
const step = (world: World, name: string) =>
  Activity.make({
    name,
    success: Schema.String,
    execute: Effect.gen(function* () {
      const { executionId } = yield* WorkflowEngine.WorkflowInstance
      if ((yield* recordOf(world, executionId, `step/activity/${name}/1`)) !== undefined) {
        world.wrongs.push(`${name} begins again, though its result is stored`)
      }
      world.begun.push(name)
      yield* Effect.sleep(30)
      return name
    })
  })

const define = (name: string, annotations?: Context.Context<never>) => {
  const workflow = Workflow.make(name, {
    payload: { id: Schema.String },
    success: Schema.String,
    error: Schema.String,
    idempotencyKey: ({ id }) => id,
    ...(annotations && { annotations })
  })
  return { workflow, executionId: `${name}-1` }
}
type Defined = ReturnType<typeof define>
/** Without the hash of an id, which is made outside of this thread and of its clock. */
const execute = (workflow: Defined["workflow"], executionId: string) =>
  Effect.flatMap(WorkflowEngine.WorkflowEngine, (engine) =>
    engine.execute(workflow, { executionId, payload: { id: "1" }, discard: true })
  )
const start = ({ workflow, executionId }: Defined, by: "worker" | "client" = "worker") => ({
  by,
  send: execute(workflow, executionId),
  isSent: (world: World) => Effect.map(recordOf(world, executionId, "run"), (record) => record !== undefined)
})
const resultOf = ({ workflow, executionId }: Defined) =>
  Effect.flatMap(workflow.poll(executionId), (result) =>
    result._tag === "Some" && result.value._tag === "Complete" ? result.value.exit : Effect.die("no result")
  )
const inState = (executionId: string, state: string) => (world: World) =>
  Effect.map(runOf(world, executionId), (run) => run?.state === state)
const hasStep = (executionId: string, id: string) => (world: World) =>
  Effect.map(recordOf(world, executionId, `step/${id}`), (record) => record !== undefined)

const Two = define("Two")
const Sleep = define("Sleep")
const Awaits = define("Awaits")
const Comp = define("Comp")
const Parent = define("Parent")
const Child = Workflow.make("Child", {
  payload: { id: Schema.String },
  success: Schema.String,
  idempotencyKey: ({ id }) => id
})
const Long = define("Long")
const Resumed = define("Resumed", Context.make(Workflow.SuspendOnFailure, true))
const Died = define("Died", Context.make(Workflow.CaptureDefects, false))
const Approval = DurableDeferred.make("approval", { success: Schema.String })

const approve = ({ workflow, executionId }: Defined, by: "worker" | "client") => ({
  by,
  send: DurableDeferred.succeed(Approval, {
    token: DurableDeferred.tokenFromExecutionId(Approval, { workflow, executionId }),
    value: "yes"
  }),
  isSent: hasStep(executionId, "deferred/approval")
})

const awaits = (world: World) =>
  Awaits.workflow.toLayer(
    Effect.fnUntraced(function* () {
      const a = yield* step(world, "a")
      const answer = yield* DurableDeferred.await(Approval)
      return a + answer + (yield* step(world, "b"))
    })
  )

const awaiting = (name: string, approval: Scenario["actions"][number], by: "worker" | "client" = "worker"): Scenario => ({
  name,
  executionId: Awaits.executionId,
  workflows: awaits,
  actions: [start(Awaits, by), approval],
  result: resultOf(Awaits),
  expected: `success "ayesb"`
})

const parent = (world: World) =>
  Parent.workflow.toLayer(
    Effect.fnUntraced(function* () {
      const a = yield* step(world, "a")
      const c = yield* Effect.scoped(
        Effect.flatMap(WorkflowEngine.WorkflowEngine, (engine) =>
          engine.execute(Child, { executionId: "Child-1", payload: { id: "c" } })
        )
      )
      return a + c + (yield* step(world, "b"))
    })
  )
const child = (world: World) =>
  Child.toLayer(
    Effect.fnUntraced(function* () {
      const text = yield* step(world, "c")
      yield* DurableClock.sleep({ name: "nap", duration: 300, inMemoryThreshold: Duration.zero })
      return text + (yield* step(world, "d"))
    })
  )
const ofParent = {
  executionId: Parent.executionId,
  actions: [start(Parent)],
  result: resultOf(Parent),
  expected: `success "acdb"`
}

const long = (world: World) =>
  Long.workflow.toLayer(
    Effect.fnUntraced(function* () {
      yield* step(world, "a").pipe(Long.workflow.withCompensation(() => Effect.asVoid(step(world, "undo"))))
      yield* DurableClock.sleep({ name: "night", duration: "40 seconds", inMemoryThreshold: Duration.zero })
      return yield* step(world, "b")
    })
  )
const interrupting = (name: string, state: string, by: "worker" | "client", unsafe: boolean): Scenario => ({
  name,
  executionId: Long.executionId,
  workflows: long,
  actions: [
    start(Long),
    {
      by,
      when: inState(Long.executionId, state),
      send: unsafe
        ? Effect.flatMap(WorkflowEngine.WorkflowEngine, (engine) =>
            engine.interruptUnsafe(Long.workflow, Long.executionId)
          )
        : Long.workflow.interrupt(Long.executionId),
      isSent: hasStep(Long.executionId, "interrupt")
    }
  ],
  result: Effect.exit(resultOf(Long)).pipe(
    Effect.map((exit) => (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) ? "interrupted" : exit))
  ),
  expected: `success "interrupted"`
})

const failing = (name: string, of: Defined, state: string, by: "worker" | "client"): Scenario => ({
  name,
  executionId: of.executionId,
  workflows: (world) =>
    of.workflow.toLayer(
      Effect.fnUntraced(function* () {
        const a = yield* step(world, "a")
        if (!world.isMended) return yield* of === Died ? Effect.die(new Error("broken")) : Effect.fail("broken")
        return a + (yield* step(world, "b"))
      })
    ),
  actions: [
    start(of),
    {
      by,
      when: (world) =>
        Effect.tap(inState(of.executionId, state)(world), (is) =>
          Effect.sync(() => {
            world.isMended ||= is
          })
        ),
      send: of.workflow.resume(of.executionId),
      isSent: (world) =>
        Effect.gen(function* () {
          return (
            (yield* recordOf(world, of.executionId, "resumes")) !== undefined ||
            (yield* recordOf(world, of.executionId, "step/activity/b/1")) !== undefined
          )
        })
    }
  ],
  result: resultOf(of),
  expected: `success "ab"`
})

export const scenarios: ReadonlyArray<Scenario> = [
  {
    name: "two activities",
    executionId: Two.executionId,
    workflows: (world) =>
      Two.workflow.toLayer(
        Effect.fnUntraced(function* () {
          return (yield* step(world, "a")) + (yield* step(world, "b"))
        })
      ),
    actions: [start(Two)],
    result: resultOf(Two),
    expected: `success "ab"`
  },
  {
    name: "started by a client",
    executionId: Two.executionId,
    workflows: (world) => Two.workflow.toLayer(() => step(world, "a")),
    actions: [start(Two, "client")],
    result: resultOf(Two),
    expected: `success "a"`
  },
  {
    name: "sleep",
    executionId: Sleep.executionId,
    workflows: (world) =>
      Sleep.workflow.toLayer(
        Effect.fnUntraced(function* () {
          const a = yield* step(world, "a")
          yield* DurableClock.sleep({ name: "nap", duration: 300, inMemoryThreshold: Duration.zero })
          return a + (yield* step(world, "b"))
        })
      ),
    actions: [start(Sleep)],
    result: resultOf(Sleep),
    expected: `success "ab"`
  },
  awaiting("deferred by a client", { ...approve(Awaits, "client"), when: inState(Awaits.executionId, "suspended") }),
  awaiting("deferred by the worker", { ...approve(Awaits, "worker"), when: inState(Awaits.executionId, "suspended") }),
  awaiting("deferred at once", approve(Awaits, "client")),
  awaiting("deferred during the activity", {
    ...approve(Awaits, "client"),
    when: inState(Awaits.executionId, "running")
  }),
  {
    ...awaiting("deferred before the start", start(Awaits)),
    actions: [approve(Awaits, "client"), start(Awaits)]
  },
  {
    ...awaiting("deferred before the start, by the worker", start(Awaits)),
    actions: [approve(Awaits, "worker"), start(Awaits)]
  },
  { ...ofParent, name: "child", workflows: (world) => Layer.merge(parent(world), child(world)) },
  {
    ...ofParent,
    name: "child elsewhere, parent fails",
    isAlwaysEarly: true,
    workflows: (world, process) =>
      process === "worker" ? parent(world) : Layer.merge(parent(world), child(world))
  },
  {
    ...ofParent,
    name: "parent elsewhere, child fails",
    isAlwaysEarly: true,
    workflows: (world, process) =>
      process === "worker" ? child(world) : Layer.merge(parent(world), child(world)),
    actions: [{ ...start(Parent), by: "client" }]
  },
  interrupting("interrupted while it sleeps, by a client", "suspended", "client", false),
  interrupting("interrupted while it sleeps, by the worker", "suspended", "worker", false),
  interrupting("interrupted while it runs, by a client", "running", "client", false),
  interrupting("interrupted unsafely while it sleeps", "suspended", "client", true),
  interrupting("interrupted unsafely while it runs, by the worker", "running", "worker", true),
  failing("resumed by a client", Resumed, "suspended", "client"),
  failing("resumed by the worker", Resumed, "suspended", "worker"),
  failing("died, resumed by a client", Died, "died", "client"),
  failing("died, resumed by the worker", Died, "died", "worker"),
  {
    name: "compensation",
    executionId: Comp.executionId,
    workflows: (world) =>
      Comp.workflow.toLayer(
        Effect.fnUntraced(function* () {
          yield* step(world, "a").pipe(Comp.workflow.withCompensation(() => Effect.asVoid(step(world, "undo"))))
          yield* step(world, "b")
          return yield* Effect.fail("no")
        })
      ),
    actions: [start(Comp)],
    result: resultOf(Comp),
    expected: `fail "no"`
  }
]
