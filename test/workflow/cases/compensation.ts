import { assert } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { DurableDeferred, Workflow } from "effect/workflow"
import {
  type Case,
  define,
  ended,
  outcome,
  say,
  sayExit,
  shown,
  shownCause,
  start,
  step,
  suspended,
  test,
  untilTrue,
  word
} from "../support.ts"

const awaitWord = (name: string) => DurableDeferred.await(word(name))

/** A step that is undone if the workflow fails. */
const undoable = (notes: Array<string>, name: string) =>
  step(notes, name).pipe(
    Workflow.withCompensation((value, cause) => Effect.sync(() => notes.push(`undo ${value}, ${shownCause(cause)}`)))
  )

export const compensationCases: ReadonlyArray<Case> = [
  test(
    "undoes what was done in reverse order if the workflow fails or dies, and not if it succeeds",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const ends: Record<string, Effect.Effect<string, string>> = {
        success: Effect.succeed("done"),
        failure: Effect.fail("no"),
        defect: Effect.die(new Error("broken"))
      }
      const workflow = yield* define(({ id }) =>
        Effect.andThen(
          Effect.forEach(["a", "b", "c"], (name) => undoable(notes, name)),
          ends[id] ?? Effect.die("unknown")
        )
      )
      for (const [id, end] of [
        ["failure", "failed with no"],
        ["defect", "died of broken"]
      ] as const) {
        assert.strictEqual(yield* outcome(workflow, id), end)
        assert.deepStrictEqual(notes.splice(0), [
          "a",
          "b",
          "c",
          ...["c", "b", "a"].map((name) => `undo ${name}, ${end}`)
        ])
      }
      assert.strictEqual(yield* outcome(workflow, "success"), "succeeded with done")
      assert.deepStrictEqual(notes, ["a", "b", "c"])
    })
  ),
  test(
    "undoes once what a replay comes to again",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* undoable(notes, "a")
          yield* awaitWord("go")
          yield* undoable(notes, "b")
          return yield* awaitWord("stay")
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      yield* untilTrue(() => notes.includes("b"))
      yield* sayExit(workflow, executionId, "stay", Exit.fail("no"))
      assert.strictEqual(yield* outcome(workflow), "failed with no")
      assert.deepStrictEqual(notes, ["a", "b", "undo b, failed with no", "undo a, failed with no"])
    })
  ),
  test(
    "does not undo a step that failed, nor one that was not reached",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const undo = (name: string) => () => Effect.sync(() => notes.push(`undo ${name}`))
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* step(notes, "a").pipe(Workflow.withCompensation(undo("a")))
          yield* step(notes, "b", Effect.fail("no")).pipe(Workflow.withCompensation(undo("b")))
          return yield* step(notes, "c").pipe(Workflow.withCompensation(undo("c")))
        })
      )
      assert.strictEqual(yield* outcome(workflow), "failed with no")
      assert.deepStrictEqual(notes, ["a", "b", "undo a"])
    })
  ),
  test(
    "undoes a step whose failure elsewhere was caught only if the workflow fails",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* undoable(notes, "a")
          yield* Effect.ignore(step(notes, "b", Effect.fail("no")))
          return "done"
        })
      )
      assert.strictEqual(yield* outcome(workflow), "succeeded with done")
      assert.deepStrictEqual(notes, ["a", "b"])
    })
  ),
  test(
    "may undo by an activity, which runs once",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(({ id }) =>
        step(notes, "pay").pipe(
          Workflow.withCompensation(() => Effect.asVoid(Effect.orDie(step(notes, "pay back")))),
          Effect.andThen(id === "failing" ? Effect.fail("no") : awaitWord("go"))
        )
      )
      assert.strictEqual(yield* outcome(workflow, "failing"), "failed with no")
      assert.deepStrictEqual(notes.splice(0), ["pay", "pay back"])
      const executionId = yield* start(workflow, "interrupted")
      yield* suspended(workflow, executionId)
      yield* workflow.interrupt(executionId)
      assert.strictEqual(yield* ended(workflow, executionId), "interrupted")
      assert.deepStrictEqual(notes, ["pay", "pay back"])
    })
  ),
  test(
    "ends after what is undone, and poll does not tell before",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(() =>
        step(notes, "a").pipe(
          Workflow.withCompensation(() =>
            Effect.andThen(
              Effect.sleep(20),
              Effect.sync(() => notes.push("undo"))
            )
          ),
          Effect.andThen(Effect.fail("no"))
        )
      )
      const executionId = yield* start(workflow)
      assert.strictEqual(yield* ended(workflow, executionId), "failed with no")
      assert.deepStrictEqual(notes, ["a", "undo"])
    })
  ),
  test(
    "dies of what can't be undone",
    Effect.gen(function* () {
      const workflow = yield* define(() =>
        step([], "a").pipe(
          Workflow.withCompensation(() => Effect.die(new Error("stuck"))),
          Effect.andThen(Effect.fail("no"))
        )
      )
      assert.include(yield* outcome(workflow), "died of stuck")
    })
  ),
  test(
    "undoes what a parallel part did, if another part fails",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(() =>
        Effect.map(
          Effect.all([undoable(notes, "a"), Effect.andThen(awaitWord("go"), Effect.fail("no"))], { concurrency: 2 }),
          ([a]) => a
        )
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "failed with no")
      assert.deepStrictEqual(notes, ["a", "undo a, failed with no"])
    })
  ),
  test(
    "tells a finalizer how the workflow ended",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(({ id }) =>
        Effect.andThen(
          Workflow.addFinalizer((exit) => Effect.sync(() => notes.push(shown(exit)))),
          id === "good" ? Effect.succeed("done") : Effect.fail("no")
        )
      )
      yield* outcome(workflow, "good")
      yield* outcome(workflow, "bad")
      assert.deepStrictEqual(notes, ["succeeded with done", "failed with no"])
    })
  ),
  test(
    "tells the finalizer of the last run first how the workflow ended, and no finalizer of a run that is suspended",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(() =>
        Effect.andThen(
          Workflow.addFinalizer((exit) => Effect.sync(() => notes.push(shown(exit)))),
          awaitWord("go")
        )
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      assert.deepStrictEqual(notes, [])
      yield* sayExit(workflow, executionId, "go", Exit.fail("no"))
      assert.strictEqual(yield* outcome(workflow), "failed with no")
      assert.strictEqual(notes[0], "failed with no")
      assert.strictEqual(notes.filter((note) => note === "failed with no").length, 1)
    })
  ),
  test(
    "keeps what the workflow's scope holds until the end, and closes the body's scope with each run",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const hold = (name: string) =>
        Effect.acquireRelease(
          Effect.sync(() => notes.push(`open ${name}`)),
          () => Effect.sync(() => notes.push(`close ${name}`))
        )
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* Workflow.provideScope(hold("workflow"))
          yield* hold("run")
          return yield* awaitWord("go")
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      assert.deepStrictEqual(notes, ["open workflow", "open run", "close run"])
      yield* say(workflow, executionId, "go")
      yield* outcome(workflow)
      const count = (note: string) => notes.filter((other) => other === note).length
      assert.strictEqual(count("close workflow"), count("open workflow"))
      assert.strictEqual(count("close run"), count("open run"))
    })
  )
]
