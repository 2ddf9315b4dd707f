import { assert } from "@effect/vitest"
import { Deferred, Effect } from "effect"
import { DurableClock, DurableDeferred } from "effect/workflow"
import {
  type Case,
  define,
  ended,
  newWorkflow,
  outcome,
  polled,
  register,
  say,
  shown,
  start,
  step,
  suspended,
  test,
  untilTrue,
  word
} from "../support.ts"

const awaitWord = (name: string) => DurableDeferred.await(word(name))

/** A workflow that waits for one word and answers it. */
const waiting = define(() => awaitWord("go"))

export const childCases: ReadonlyArray<Case> = [
  test(
    "waits for a child, which runs once, whatever replays its parent",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const child = yield* define(({ id }) => step(notes, `child ${id}`))
      const parent = yield* define(
        Effect.fnUntraced(function* ({ id }) {
          const result = yield* child.execute({ id })
          yield* awaitWord("go")
          return `parent of ${result}`
        })
      )
      const executionId = yield* start(parent)
      yield* suspended(parent, executionId)
      yield* say(parent, executionId, "go")
      assert.strictEqual(yield* outcome(parent), "succeeded with parent of child 1")
      assert.deepStrictEqual(notes, ["child 1"])
      const childId = yield* child.executionId({ id: "1" })
      assert.strictEqual(yield* polled(child, childId), "succeeded with child 1")
    })
  ),
  test(
    "is suspended with a child that is suspended, and goes on after it",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const child = yield* waiting
      const parent = yield* define(
        Effect.fnUntraced(function* ({ id }) {
          yield* step(notes, "before")
          const result = yield* child.execute({ id })
          return `${yield* step(notes, "after")} ${result}`
        })
      )
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "1" })
      yield* suspended(child, childId)
      yield* suspended(parent, executionId)
      yield* say(child, childId, "go")
      assert.strictEqual(yield* outcome(parent), "succeeded with after go")
      assert.deepStrictEqual(notes, ["before", "after"])
    })
  ),
  test(
    "fails, dies or goes on as its child does",
    Effect.gen(function* () {
      const child = yield* define(({ id }) => (id === "failing" ? Effect.fail("no") : Effect.die(new Error("broken"))))
      const parent = yield* define((payload) => child.execute(payload))
      const patient = yield* define((payload) => Effect.map(Effect.exit(child.execute(payload)), shown))
      assert.strictEqual(yield* outcome(parent, "failing"), "failed with no")
      assert.strictEqual(yield* outcome(parent, "dying"), "died of broken")
      assert.strictEqual(yield* outcome(patient, "failing"), "succeeded with failed with no")
      assert.strictEqual(yield* outcome(patient, "dying"), "succeeded with died of broken")
    })
  ),
  test(
    "fails after a child that was suspended and then fails",
    Effect.gen(function* () {
      const child = yield* define(() => Effect.flatMap(awaitWord("go"), Effect.fail))
      const parent = yield* define((payload) => child.execute(payload))
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "1" })
      yield* suspended(child, childId)
      yield* suspended(parent, executionId)
      yield* say(child, childId, "go", "no")
      assert.strictEqual(yield* outcome(parent), "failed with no")
    })
  ),
  test(
    "runs many children side by side, some of them suspended",
    Effect.gen(function* () {
      const ids = Array.from({ length: 10 }, (_, n) => `${n}`)
      const child = yield* define(({ id }) => (Number(id) % 2 === 0 ? Effect.succeed(id) : awaitWord("go")))
      const parent = yield* define(() =>
        Effect.map(
          Effect.forEach(ids, (id) => child.execute({ id }), { concurrency: "unbounded" }),
          (results) => results.join()
        )
      )
      const executionId = yield* start(parent)
      for (const id of ids.filter((id) => Number(id) % 2 === 1)) {
        const childId = yield* child.executionId({ id })
        yield* suspended(child, childId)
        yield* say(child, childId, "go", id)
      }
      assert.strictEqual(yield* ended(parent, executionId), `succeeded with ${ids.join()}`)
    })
  ),
  test(
    "has grandchildren",
    Effect.gen(function* () {
      const workflow = newWorkflow()
      yield* register(workflow, ({ id }) =>
        id === "4"
          ? awaitWord("go")
          : Effect.map(workflow.execute({ id: `${Number(id) + 1}` }), (result) => `${id} of ${result}`)
      )
      const executionId = yield* start(workflow)
      const last = yield* workflow.executionId({ id: "4" })
      yield* suspended(workflow, last)
      yield* say(workflow, last, "go")
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with 1 of 2 of 3 of go")
    })
  ),
  test(
    "waits for a child that sleeps",
    Effect.gen(function* () {
      const child = yield* define(() =>
        Effect.as(DurableClock.sleep({ name: "nap", duration: 20, inMemoryThreshold: 0 }), "slept")
      )
      const parent = yield* define((payload) => child.execute(payload))
      assert.strictEqual(yield* outcome(parent), "succeeded with slept")
    })
  ),
  test(
    "answers with the result of a child that runs already, started by somebody else",
    Effect.gen(function* () {
      const opened = yield* Deferred.make<void>()
      const notes: Array<string> = []
      const child = yield* define(() => step(notes, "child", Effect.as(Deferred.await(opened), "done")))
      const parent = yield* define((payload) => child.execute(payload))
      yield* start(child)
      yield* untilTrue(() => notes.length > 0)
      const executionId = yield* start(parent)
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* ended(parent, executionId), "succeeded with done")
      assert.strictEqual(yield* outcome(child), "succeeded with done")
      assert.deepStrictEqual(notes, ["child"])
    })
  ),
  test(
    "does not wait for a child whose result is discarded, and leaves it behind",
    Effect.gen(function* () {
      const child = yield* waiting
      const parent = yield* define((payload) => child.execute(payload, { discard: true }))
      const childId = yield* child.executionId({ id: "1" })
      assert.strictEqual(yield* outcome(parent), `succeeded with ${childId}`)
      yield* suspended(child, childId)
      yield* say(child, childId, "go")
      assert.strictEqual(yield* ended(child, childId), "succeeded with go")
    })
  ),
  test(
    "may wait later for a child whose result was discarded",
    Effect.gen(function* () {
      const child = yield* waiting
      const parent = yield* define((payload) =>
        Effect.andThen(child.execute(payload, { discard: true }), child.execute(payload))
      )
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "1" })
      yield* suspended(child, childId)
      yield* suspended(parent, executionId)
      yield* say(child, childId, "go")
      assert.strictEqual(yield* outcome(parent), "succeeded with go")
    })
  ),
  test(
    "runs a child within an activity",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const child = yield* waiting
      const parent = yield* define((payload) => step(notes, "a", Effect.orDie(child.execute(payload))))
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "1" })
      yield* suspended(child, childId)
      yield* suspended(parent, executionId)
      yield* say(child, childId, "go")
      assert.strictEqual(yield* outcome(parent), "succeeded with go")
      assert.isAtLeast(notes.length, 2)
    })
  ),
  test(
    "interrupts its children with itself, also those whose result is discarded",
    Effect.gen(function* () {
      const child = yield* waiting
      const parent = yield* define(() =>
        Effect.andThen(child.execute({ id: "discarded" }, { discard: true }), child.execute({ id: "awaited" }))
      )
      const executionId = yield* start(parent)
      const childIds = [yield* child.executionId({ id: "discarded" }), yield* child.executionId({ id: "awaited" })]
      for (const childId of childIds) yield* suspended(child, childId)
      yield* suspended(parent, executionId)
      yield* parent.interrupt(executionId)
      assert.strictEqual(yield* ended(parent, executionId), "interrupted")
      for (const childId of childIds) assert.strictEqual(yield* ended(child, childId), "interrupted")
    })
  ),
  test(
    "does not interrupt a detached child with itself, nor one that has ended",
    Effect.gen(function* () {
      const child = yield* define(({ id }) => (id === "ended" ? Effect.succeed("done") : awaitWord("go")))
      const parent = yield* define(
        Effect.fnUntraced(function* () {
          yield* child.execute({ id: "detached" }, { discard: true, detached: true })
          yield* child.execute({ id: "ended" })
          return yield* awaitWord("go")
        })
      )
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "detached" })
      yield* suspended(child, childId)
      yield* suspended(parent, executionId)
      yield* parent.interrupt(executionId)
      assert.strictEqual(yield* ended(parent, executionId), "interrupted")
      assert.strictEqual(yield* outcome(child, "ended"), "succeeded with done")
      yield* suspended(child, childId)
      yield* say(child, childId, "go")
      assert.strictEqual(yield* ended(child, childId), "succeeded with go")
    })
  ),
  test(
    "leaves its children alone if it fails",
    Effect.gen(function* () {
      const child = yield* waiting
      const parent = yield* define((payload) =>
        Effect.andThen(child.execute(payload, { discard: true }), Effect.fail("no"))
      )
      assert.strictEqual(yield* outcome(parent), "failed with no")
      const childId = yield* child.executionId({ id: "1" })
      yield* suspended(child, childId)
      yield* say(child, childId, "go")
      assert.strictEqual(yield* ended(child, childId), "succeeded with go")
    })
  ),
  test(
    "sees a child that was interrupted",
    Effect.gen(function* () {
      const child = yield* waiting
      const parent = yield* define((payload) => Effect.map(Effect.exit(child.execute(payload)), shown))
      const executionId = yield* start(parent)
      const childId = yield* child.executionId({ id: "1" })
      yield* suspended(child, childId)
      yield* suspended(parent, executionId)
      yield* child.interrupt(childId)
      assert.strictEqual(yield* ended(parent, executionId), "succeeded with interrupted")
    })
  ),
  test(
    "refuses to wait for a detached child",
    Effect.gen(function* () {
      const child = yield* waiting
      const parent = yield* define((payload) =>
        child.execute(payload, { discard: false as boolean as true, detached: true })
      )
      assert.strictEqual(yield* outcome(parent), `died of ${child._tag}.execute: detached requires discard`)
    })
  )
]
