import { assert } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { DurableClock, DurableDeferred, Workflow } from "effect/workflow"
import {
  type Case,
  define,
  ended,
  eventually,
  outcome,
  polled,
  say,
  sayExit,
  shownCause,
  start,
  step,
  suspended,
  suspendOnFailure,
  test,
  untilTrue,
  word
} from "../support.ts"

const awaitWord = (name: string) => DurableDeferred.await(word(name))

export const suspensionCases: ReadonlyArray<Case> = [
  test(
    "tells of an execution that nobody started, that runs, that is suspended, that runs again, that has ended",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const [first, second] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* step(notes, "first", Effect.as(Deferred.await(first), ""))
          yield* awaitWord("go")
          return yield* step(notes, "second", Effect.as(Deferred.await(second), "done"))
        })
      )
      const executionId = yield* workflow.executionId({ id: "1" })
      assert.strictEqual(yield* polled(workflow, executionId), "none")
      yield* start(workflow)
      yield* untilTrue(() => notes.length === 1)
      assert.strictEqual(yield* polled(workflow, executionId), "none")
      yield* Deferred.succeed(first, undefined)
      const { cause, failed } = yield* suspended(workflow, executionId)
      assert.isUndefined(cause)
      assert.isNotTrue(failed)
      yield* say(workflow, executionId, "go")
      yield* untilTrue(() => notes.length === 2)
      assert.strictEqual(yield* polled(workflow, executionId), "none")
      yield* Deferred.succeed(second, undefined)
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with done")
    })
  ),
  test(
    "runs again if it is resumed, and waits again for what has not come",
    Effect.gen(function* () {
      let runs = 0
      const workflow = yield* define(() => {
        runs++
        return awaitWord("go")
      })
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      const before = runs
      yield* workflow.resume(executionId)
      yield* untilTrue(() => runs > before)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with go")
    })
  ),
  test(
    "does not run again if it is resumed after its end",
    Effect.gen(function* () {
      let runs = 0
      const workflow = yield* define(({ id }) => {
        runs++
        return Effect.fail(id)
      })
      assert.strictEqual(yield* outcome(workflow), "failed with 1")
      const executionId = yield* workflow.executionId({ id: "1" })
      yield* workflow.resume(executionId)
      // What is started later ends later.
      yield* outcome(workflow, "2")
      assert.strictEqual(yield* outcome(workflow), "failed with 1")
      assert.strictEqual(runs, 2)
    })
  ),
  test(
    "is suspended with the cause of its failure if it is told to, and runs again if it is resumed",
    Effect.gen(function* () {
      let isFixed = false
      const notes: Array<string> = []
      const workflow = yield* define(
        ({ id }) =>
          step(notes, "a").pipe(
            Workflow.withCompensation(() => Effect.sync(() => notes.push("undo"))),
            Effect.andThen(
              Effect.suspend(() => {
                if (isFixed) return Effect.succeed("done")
                return id === "failing" ? Effect.fail("no") : Effect.die(new Error("broken"))
              })
            )
          ),
        suspendOnFailure
      )
      for (const [id, end] of [
        ["failing", "died of no"],
        ["dying", "died of broken"]
      ] as const) {
        isFixed = false
        const caller = yield* Effect.forkChild(outcome(workflow, id))
        const executionId = yield* workflow.executionId({ id })
        const { cause, failed } = yield* suspended(workflow, executionId)
        assert.isTrue(failed)
        assert.strictEqual(shownCause(cause ?? assert.fail("no cause")), end)
        isFixed = true
        yield* workflow.resume(executionId)
        assert.strictEqual(yield* Fiber.join(caller), "succeeded with done")
        assert.deepStrictEqual(notes.splice(0), ["a"])
      }
    })
  ),
  test(
    "runs the activity again whose failure suspended it",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* step(notes, "good")
          return yield* step(
            notes,
            "flaky",
            Effect.suspend(() => (notes.length < 3 ? Effect.fail("not yet") : Effect.succeed("done")))
          )
        }),
        suspendOnFailure
      )
      const executionId = yield* start(workflow)
      const { cause, failed } = yield* suspended(workflow, executionId)
      assert.isTrue(failed)
      assert.strictEqual(shownCause(cause ?? assert.fail("no cause")), "died of not yet")
      yield* workflow.resume(executionId)
      assert.strictEqual(yield* outcome(workflow), "succeeded with done")
      assert.deepStrictEqual(notes, ["good", "flaky", "flaky"])
    })
  ),
  test(
    "is not woken after a failure by what it waits for, but only if it is resumed",
    Effect.gen(function* () {
      let isFixed = false
      const runs: Record<string, number> = {}
      const nap = DurableClock.sleep({ name: "nap", duration: 20, inMemoryThreshold: 0 })
      const flaky = Effect.suspend(() => (isFixed ? Effect.succeed("fixed") : Effect.delay(Effect.fail("no"), 5)))
      const workflow = yield* define(
        Effect.fnUntraced(function* ({ id }) {
          runs[id] = (runs[id] ?? 0) + 1
          const parts = [
            id === "failing" ? step([], "flaky", flaky) : Effect.succeed(""),
            nap,
            awaitWord("go")
          ] as const
          const [, , word] = yield* Effect.all(parts, { concurrency: "unbounded" })
          return word
        }),
        suspendOnFailure
      )
      const executionId = yield* start(workflow, "failing")
      assert.isTrue((yield* suspended(workflow, executionId)).failed)
      const before = runs.failing
      yield* say(workflow, executionId, "go")
      // What another execution waits for comes later, so all of the first one's has come when that one ends.
      const otherId = yield* start(workflow, "other")
      yield* suspended(workflow, otherId)
      yield* say(workflow, otherId, "go")
      assert.strictEqual(yield* ended(workflow, otherId), "succeeded with go")
      assert.isTrue((yield* suspended(workflow, executionId)).failed)
      assert.strictEqual(runs.failing, before)
      isFixed = true
      yield* workflow.resume(executionId)
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with go")
    })
  ),
  test(
    "is suspended again if it fails again, and ends with its failure if it is interrupted, undoing what it did",
    Effect.gen(function* () {
      const notes: Array<string> = []
      let runs = 0
      const workflow = yield* define(
        () =>
          step(notes, "a").pipe(
            Workflow.withCompensation((_, cause) => Effect.sync(() => notes.push(`undo, ${shownCause(cause)}`))),
            Effect.andThen(Effect.suspend(() => Effect.fail(`${++runs}`)))
          ),
        suspendOnFailure
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* workflow.resume(executionId)
      const again = yield* eventually(suspended(workflow, executionId), ({ cause }) =>
        cause === undefined ? false : shownCause(cause) === "died of 2"
      )
      assert.isTrue(again.failed)
      yield* workflow.interrupt(executionId)
      assert.strictEqual(yield* ended(workflow, executionId), "failed with 3")
      assert.deepStrictEqual(notes, ["a", "undo, failed with 3"])
    })
  ),
  test(
    "suspends a parent whose child is suspended by a failure, and both go on if the child is resumed",
    Effect.gen(function* () {
      let isFixed = false
      const child = yield* define(
        () => Effect.suspend(() => (isFixed ? Effect.succeed("done") : Effect.fail("no"))),
        suspendOnFailure
      )
      const parent = yield* define((payload) => child.execute(payload))
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "1" })
      assert.isTrue((yield* suspended(child, childId)).failed)
      const { cause, failed } = yield* suspended(parent, executionId)
      assert.isNotTrue(failed)
      assert.strictEqual(shownCause(cause ?? assert.fail("no cause")), "died of no")
      isFixed = true
      yield* child.resume(childId)
      assert.strictEqual(yield* ended(parent, executionId), "succeeded with done")
    })
  ),
  test(
    "is suspended as usual if it only waits, also if it would be suspended by a failure",
    Effect.gen(function* () {
      const workflow = yield* define(() => awaitWord("go"), suspendOnFailure)
      const executionId = yield* start(workflow)
      assert.isNotTrue((yield* suspended(workflow, executionId)).failed)
      yield* sayExit(workflow, executionId, "go", Exit.succeed("done"))
      assert.strictEqual(yield* outcome(workflow), "succeeded with done")
    })
  )
]
