/** The scenarios of crashes.test.ts: all that can come to a workflow from outside, and at which moment. */
import { Context, Duration, Effect, Layer, Schema } from "effect"
import { Activity, DurableClock, DurableDeferred, Workflow, WorkflowEngine } from "effect/workflow"
import { recordOf, runOf, type World } from "./crash.ts"
import type { Action, Scenario } from "./play.ts"

const define = (name: string, annotations = Context.empty()) => ({
  workflow: Workflow.make(name, {
    payload: { id: Schema.String },
    success: Schema.String,
    error: Schema.String,
    idempotencyKey: ({ id }) => id,
    annotations
  }),
  executionId: `${name}-1`
})

type Defined = ReturnType<typeof define>

/** Effect makes the hash that is an execution's id outside of this thread, so of its clock. Here the ids are given. */
const execute = ({ executionId, workflow }: Defined, discard: boolean) =>
  Effect.flatMap(WorkflowEngine.WorkflowEngine, (engine) =>
    engine.execute(workflow, { executionId, payload: { id: "1" }, discard })
  )

const resultOf = ({ executionId, workflow }: Defined) =>
  Effect.flatMap(workflow.poll(executionId), (result) =>
    result._tag === "Some" && result.value._tag === "Complete" ? result.value.exit : Effect.die("no result")
  )

const hasRecord =
  ({ executionId }: Defined, id: string) =>
  (world: World) =>
    Effect.map(recordOf(world, executionId, id), (record) => record !== undefined)

const isIn =
  ({ executionId }: Defined, state: string) =>
  (world: World) =>
    Effect.map(runOf(world, executionId), (run) => run?.state === state)

const start = (of: Defined, by: Action["by"] = "worker"): Action => ({
  by,
  send: execute(of, true),
  isSent: hasRecord(of, "run")
})

/** An activity that takes 30 ms, and must not begin once its result is stored. */
const activity = (world: World, name: string) =>
  Activity.make({
    name,
    success: Schema.String,
    execute: Effect.gen(function* () {
      const { executionId } = yield* WorkflowEngine.WorkflowInstance
      if ((yield* recordOf(world, executionId, `step/activity/${name}/1`)) !== undefined) {
        world.wrongs.push(`${name} begins, though its result is stored`)
      }
      world.begun.push(name)
      yield* Effect.sleep(30)
      return name
    })
  })

const sleep = (duration: Duration.Input) =>
  DurableClock.sleep({ name: "sleep", duration, inMemoryThreshold: Duration.zero })

// -----------------------------------------------------------------------------

const Two = define("Two")

const twoActivities = (name: string, by: Action["by"]): Scenario => ({
  name,
  executionId: Two.executionId,
  workflows: (world) =>
    Two.workflow.toLayer(
      Effect.fnUntraced(function* () {
        return (yield* activity(world, "a")) + (yield* activity(world, "b"))
      })
    ),
  actions: [start(Two, by)],
  result: resultOf(Two),
  expected: "success: ab"
})

const Sleeps = define("Sleeps")

const sleeping: Scenario = {
  name: "a sleep between two activities",
  executionId: Sleeps.executionId,
  workflows: (world) =>
    Sleeps.workflow.toLayer(
      Effect.fnUntraced(function* () {
        const a = yield* activity(world, "a")
        yield* sleep(300)
        return a + (yield* activity(world, "b"))
      })
    ),
  actions: [start(Sleeps)],
  result: resultOf(Sleeps),
  expected: "success: ab"
}

const Parallel = define("Parallel")

const parallel: Scenario = {
  name: "activities and a sleep at the same time",
  executionId: Parallel.executionId,
  workflows: (world) =>
    Parallel.workflow.toLayer(
      Effect.fnUntraced(function* () {
        const both = Effect.all([activity(world, "a"), activity(world, "b"), sleep(100)], { concurrency: "unbounded" })
        const [a, b] = yield* both
        return a + b + (yield* activity(world, "c"))
      })
    ),
  actions: [start(Parallel)],
  result: resultOf(Parallel),
  expected: "success: abc"
}

const Compensates = define("Compensates")

const compensating: Scenario = {
  name: "a failure with a compensation",
  executionId: Compensates.executionId,
  workflows: (world) =>
    Compensates.workflow.toLayer(
      Effect.fnUntraced(function* () {
        yield* activity(world, "a").pipe(
          Compensates.workflow.withCompensation(() => Effect.asVoid(activity(world, "undo a")))
        )
        yield* activity(world, "b")
        return yield* Effect.fail("no")
      })
    ),
  actions: [start(Compensates)],
  result: resultOf(Compensates),
  expected: "failure: no"
}

// -----------------------------------------------------------------------------

const Awaits = define("Awaits")
const Approval = DurableDeferred.make("approval", { success: Schema.String })

const approve = (by: Action["by"]): Action => ({
  by,
  send: DurableDeferred.succeed(Approval, {
    token: DurableDeferred.tokenFromExecutionId(Approval, Awaits),
    value: " yes "
  }),
  isSent: hasRecord(Awaits, "step/deferred/approval")
})

const awaiting = (name: string, actions: ReadonlyArray<Action>): Scenario => ({
  name,
  executionId: Awaits.executionId,
  workflows: (world) =>
    Awaits.workflow.toLayer(
      Effect.fnUntraced(function* () {
        const a = yield* activity(world, "a")
        const answer = yield* DurableDeferred.await(Approval)
        return a + answer + (yield* activity(world, "b"))
      })
    ),
  actions,
  result: resultOf(Awaits),
  expected: "success: a yes b"
})

// -----------------------------------------------------------------------------

const Parent = define("Parent")
const Child = define("Child")

const parent = (world: World) =>
  Parent.workflow.toLayer(
    Effect.fnUntraced(function* () {
      const a = yield* activity(world, "a")
      const child = yield* Effect.scoped(execute(Child, false))
      return a + child + (yield* activity(world, "b"))
    })
  )

const child = (world: World) =>
  Child.workflow.toLayer(
    Effect.fnUntraced(function* () {
      const c = yield* activity(world, "c")
      yield* sleep(300)
      return c + (yield* activity(world, "d"))
    })
  )

const both = (world: World) => Layer.merge(parent(world), child(world))

const withChild = (name: string, parts: Partial<Scenario>): Scenario => ({
  name,
  executionId: Parent.executionId,
  workflows: both,
  actions: [start(Parent)],
  result: resultOf(Parent),
  expected: "success: acdb",
  ...parts
})

// -----------------------------------------------------------------------------

const Long = define("Long")

const interrupt = (state: string, by: Action["by"], isUnsafe = false): Action => ({
  by,
  when: isIn(Long, state),
  send: Effect.flatMap(WorkflowEngine.WorkflowEngine, (engine) =>
    isUnsafe
      ? engine.interruptUnsafe(Long.workflow, Long.executionId)
      : engine.interrupt(Long.workflow, Long.executionId)
  ),
  isSent: hasRecord(Long, "step/interrupt")
})

const interrupted = (name: string, action: Action): Scenario => ({
  name,
  executionId: Long.executionId,
  workflows: (world) =>
    Long.workflow.toLayer(
      Effect.fnUntraced(function* () {
        yield* activity(world, "a").pipe(Long.workflow.withCompensation(() => Effect.asVoid(activity(world, "undo a"))))
        yield* sleep("40 seconds")
        return yield* activity(world, "b")
      })
    ),
  actions: [start(Long), action],
  result: resultOf(Long),
  expected: "interruption"
})

// -----------------------------------------------------------------------------

const Suspends = define("Suspends", Context.make(Workflow.SuspendOnFailure, true))
const Dies = define("Dies", Context.make(Workflow.CaptureDefects, false))

/** Fails until a person has mended what made it fail. */
const failing = (of: Defined) => (world: World) =>
  of.workflow.toLayer(
    Effect.fnUntraced(function* () {
      const a = yield* activity(world, "a")
      if (!world.isMended) return yield* of === Dies ? Effect.die(new Error("broken")) : Effect.fail("broken")
      return a + (yield* activity(world, "b"))
    })
  )

const resume = (of: Defined, state: string, by: Action["by"]): Action => ({
  by,
  when: (world) =>
    Effect.map(isIn(of, state)(world), (is) => {
      world.isMended ||= is
      return is
    }),
  send: of.workflow.resume(of.executionId),
  isSent: (world) =>
    Effect.zipWith(
      hasRecord(of, "resumes")(world),
      hasRecord(of, "step/activity/b/1")(world),
      (isCounted, isDone) => isCounted || isDone
    )
})

const resumed = (name: string, of: Defined, state: string, by: Action["by"]): Scenario => ({
  name,
  executionId: of.executionId,
  workflows: failing(of),
  actions: [start(of), resume(of, state, by)],
  result: resultOf(of),
  expected: "success: ab"
})

const interruptSuspended: Scenario = {
  name: "an interruption, by a client, of what a failure has suspended",
  executionId: Suspends.executionId,
  workflows: failing(Suspends),
  actions: [
    start(Suspends),
    {
      by: "client",
      when: isIn(Suspends, "suspended"),
      send: Suspends.workflow.interrupt(Suspends.executionId),
      isSent: hasRecord(Suspends, "step/interrupt")
    }
  ],
  result: resultOf(Suspends),
  // It ends with the failure that had suspended it, as on Effect's engines.
  expected: "failure: broken"
}

export const scenarios: ReadonlyArray<Scenario> = [
  twoActivities("two activities", "worker"),
  twoActivities("two activities, started by a client", "client"),
  sleeping,
  parallel,
  compensating,
  awaiting("a deferred, by a client", [start(Awaits), { ...approve("client"), when: isIn(Awaits, "suspended") }]),
  awaiting("a deferred, by the worker", [start(Awaits), { ...approve("worker"), when: isIn(Awaits, "suspended") }]),
  awaiting("a deferred during an activity", [start(Awaits), { ...approve("client"), when: isIn(Awaits, "running") }]),
  awaiting("a deferred of what a client starts", [start(Awaits, "client"), approve("client")]),
  awaiting("a deferred before the start, by a client", [approve("client"), start(Awaits)]),
  awaiting("a deferred before the start, by the worker", [approve("worker"), start(Awaits)]),
  withChild("a child", {}),
  withChild("a child in another process", {
    workflows: (world, process) => (process === "worker" ? parent(world) : both(world)),
    needsSecond: true
  }),
  withChild("a parent in another process", {
    workflows: (world, process) => (process === "worker" ? child(world) : both(world)),
    actions: [start(Parent, "client")],
    needsSecond: true
  }),
  interrupted("an interruption during a sleep, by a client", interrupt("suspended", "client")),
  interrupted("an interruption during a sleep, by the worker", interrupt("suspended", "worker")),
  interrupted("an interruption during an activity, by a client", interrupt("running", "client")),
  interrupted("an unsafe interruption during a sleep", interrupt("suspended", "client", true)),
  interrupted("an unsafe interruption during an activity", interrupt("running", "worker", true)),
  interruptSuspended,
  resumed("a resume after a failure, by a client", Suspends, "suspended", "client"),
  resumed("a resume after a failure, by the worker", Suspends, "suspended", "worker"),
  resumed("a resume after a defect, by a client", Dies, "died", "client"),
  resumed("a resume after a defect, by the worker", Dies, "died", "worker")
]
