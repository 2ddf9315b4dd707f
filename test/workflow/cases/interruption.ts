import { assert } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import { DurableDeferred, Workflow, WorkflowEngine } from "effect/workflow"
import {
  type Case,
  define,
  ended,
  outcome,
  polled,
  say,
  shownCause,
  start,
  step,
  suspended,
  test,
  untilTrue,
  word
} from "../support.ts"

const awaitWord = (name: string) => DurableDeferred.await(word(name))

const undoable = (notes: Array<string>, name: string) =>
  step(notes, name).pipe(
    Workflow.withCompensation((value, cause) => Effect.sync(() => notes.push(`undo ${value}, ${shownCause(cause)}`)))
  )

export const interruptionCases: ReadonlyArray<Case> = [
  test(
    "ends an execution that is suspended, undoes what it did, and keeps that end",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(() => Effect.andThen(undoable(notes, "a"), awaitWord("go")))
      const caller = yield* Effect.forkChild(outcome(workflow))
      const executionId = yield* workflow.executionId({ id: "1" })
      yield* suspended(workflow, executionId)
      yield* workflow.interrupt(executionId)
      assert.strictEqual(yield* Fiber.join(caller), "interrupted")
      assert.strictEqual(yield* polled(workflow, executionId), "interrupted")
      yield* workflow.interrupt(executionId)
      yield* say(workflow, executionId, "go")
      yield* workflow.resume(executionId)
      assert.strictEqual(yield* outcome(workflow), "interrupted")
      assert.deepStrictEqual(notes, ["a", "undo a, interrupted"])
    })
  ),
  test(
    "lets the activity in flight end, and starts no other",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const opened = yield* Deferred.make<void>()
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* step(notes, "a", Effect.as(Deferred.await(opened), "a"))
          notes.push("between")
          return yield* step(notes, "b")
        })
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.length > 0)
      yield* workflow.interrupt(executionId)
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* ended(workflow, executionId), "interrupted")
      assert.strictEqual(notes[0], "a")
      assert.include(notes, "between")
      assert.notInclude(notes, "b")
      assert.strictEqual(notes.filter((note) => note === "a").length, 1)
    })
  ),
  test(
    "lets a run end that does not wait any more",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const opened = yield* Deferred.make<void>()
      const workflow = yield* define(() => step(notes, "a", Effect.as(Deferred.await(opened), "done")))
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.length > 0)
      yield* workflow.interrupt(executionId)
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with done")
    })
  ),
  test(
    "ends a run as soon as it would wait",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const opened = yield* Deferred.make<void>()
      const workflow = yield* define(() =>
        Effect.andThen(step(notes, "a", Effect.as(Deferred.await(opened), "a")), awaitWord("never"))
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.length > 0)
      yield* workflow.interrupt(executionId)
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* ended(workflow, executionId), "interrupted")
    })
  ),
  test(
    "does nothing to an execution that has ended, or that nobody has started",
    Effect.gen(function* () {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const workflow = yield* define(() => Effect.as(step([], "a"), "done"))
      const executionId = yield* workflow.executionId({ id: "1" })
      yield* workflow.interrupt(executionId)
      yield* engine.interruptUnsafe(workflow, executionId)
      yield* workflow.resume(executionId)
      assert.strictEqual(yield* polled(workflow, executionId), "none")
      assert.strictEqual(yield* outcome(workflow), "succeeded with done")
      yield* workflow.interrupt(executionId)
      yield* engine.interruptUnsafe(workflow, executionId)
      assert.strictEqual(yield* outcome(workflow), "succeeded with done")
      assert.strictEqual(yield* polled(workflow, executionId), "succeeded with done")
    })
  ),
  test(
    "ends an execution at once if it is interrupted unsafely, whatever it does",
    Effect.gen(function* () {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const notes: Array<string> = []
      const stuck = Effect.onInterrupt(Effect.never, () => Effect.sync(() => notes.push("stopped")))
      const workflow = yield* define(({ id }) => {
        const isFirst = notes.push("begun") === 1
        if (id === "activity") return step([], "a", stuck)
        return id === "body" && isFirst ? stuck : awaitWord("go")
      })
      for (const id of ["activity", "body", "suspended"]) {
        const executionId = yield* start(workflow, id)
        yield* id === "suspended" ? suspended(workflow, executionId) : untilTrue(() => notes.length > 0)
        yield* engine.interruptUnsafe(workflow, executionId)
        assert.strictEqual(yield* ended(workflow, executionId), "interrupted")
        assert.strictEqual(yield* outcome(workflow, id), "interrupted")
        assert.strictEqual(notes.includes("stopped"), id !== "suspended")
        notes.length = 0
      }
    })
  ),
  test(
    "runs no activity after an unsafe interruption",
    Effect.gen(function* () {
      const engine = yield* WorkflowEngine.WorkflowEngine
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* step(notes, "a")
          yield* Effect.ignoreCause(step(notes, "b", Effect.never))
          return yield* step(notes, "c")
        })
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.includes("b"))
      yield* engine.interruptUnsafe(workflow, executionId)
      assert.strictEqual(yield* ended(workflow, executionId), "interrupted")
      assert.deepStrictEqual(notes, ["a", "b"])
    })
  ),
  test(
    "interrupts a child that runs with its parent",
    Effect.gen(function* () {
      const child = yield* define(() => awaitWord("go"))
      const middle = yield* define((payload) => child.execute(payload))
      const parent = yield* define((payload) => middle.execute(payload))
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "1" })
      const middleId = yield* middle.executionId({ id: "1" })
      yield* suspended(child, childId)
      yield* suspended(middle, middleId)
      yield* suspended(parent, executionId)
      yield* parent.interrupt(executionId)
      assert.strictEqual(yield* ended(parent, executionId), "interrupted")
      assert.strictEqual(yield* ended(middle, middleId), "interrupted")
      assert.strictEqual(yield* ended(child, childId), "interrupted")
    })
  )
]
