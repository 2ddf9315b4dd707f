import { assert } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Schedule } from "effect"
import { DurableClock, DurableDeferred } from "effect/workflow"
import { type Case, define, ended, outcome, say, start, step, suspended, test, untilTrue, word } from "../support.ts"

/** A sleep that outlasts the run, however short it is. */
const sleep = (name: string, duration: Duration.Input) => DurableClock.sleep({ name, duration, inMemoryThreshold: 0 })

export const clockCases: ReadonlyArray<Case> = [
  test(
    "sleeps within the run up to the threshold",
    Effect.gen(function* () {
      let runs = 0
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          runs++
          yield* DurableClock.sleep({ name: "none", duration: 0 })
          yield* DurableClock.sleep({ name: "default", duration: "5 millis" })
          yield* DurableClock.sleep({ name: "threshold", duration: "5 millis", inMemoryThreshold: "5 millis" })
          return "awake"
        })
      )
      assert.strictEqual(yield* outcome(workflow), "succeeded with awake")
      assert.strictEqual(runs, 1)
    })
  ),
  test(
    "suspends for a sleep above the threshold, not less than its duration",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* step(notes, "before")
          yield* sleep("nap", "500 millis")
          return yield* step(notes, "after")
        })
      )
      const [duration] = yield* Effect.timed(
        Effect.gen(function* () {
          const executionId = yield* start(workflow)
          yield* suspended(workflow, executionId)
          assert.deepStrictEqual(notes, ["before"])
          yield* outcome(workflow)
        })
      )
      assert.deepStrictEqual(notes, ["before", "after"])
      assert.isAtLeast(Duration.toMillis(duration), 499)
    })
  ),
  test(
    "sleeps several times, one after another and side by side",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* sleep("first", 10)
          yield* step(notes, "first")
          yield* Effect.all(
            [
              Effect.andThen(sleep("long", 80), step(notes, "long")),
              Effect.andThen(sleep("short", 10), step(notes, "short"))
            ],
            { concurrency: "unbounded" }
          )
          yield* sleep("last", 10)
          return yield* step(notes, "last")
        })
      )
      assert.strictEqual(yield* outcome(workflow), "succeeded with last")
      assert.deepStrictEqual(notes.toSorted(), ["first", "last", "long", "short"])
      assert.strictEqual(notes[0], "first")
      assert.strictEqual(notes[3], "last")
    })
  ),
  test(
    "sleeps once under a name",
    Effect.gen(function* () {
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* sleep("nap", 5)
          yield* sleep("nap", "1 hour")
          return "awake"
        })
      )
      assert.strictEqual(yield* outcome(workflow), "succeeded with awake")
    })
  ),
  test(
    "does not start a sleep anew when the execution is replayed",
    Effect.gen(function* () {
      let runs = 0
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          runs++
          yield* sleep("nap", 300)
          return "awake"
        })
      )
      const executionId = yield* start(workflow)
      // As long as it is resumed more often than it sleeps, a sleep that starts anew would never end.
      const resuming = yield* workflow
        .resume(executionId)
        .pipe(Effect.repeat(Schedule.spaced("20 millis")), Effect.forkChild)
      assert.strictEqual(yield* outcome(workflow), "succeeded with awake")
      yield* Fiber.interrupt(resuming)
      assert.isAbove(runs, 2)
    })
  ),
  test(
    "ends before a sleep that lost a race is over",
    Effect.gen(function* () {
      const workflow = yield* define(() =>
        DurableDeferred.raceAll({
          name: "race",
          success: word("go").successSchema,
          error: word("go").errorSchema,
          effects: [Effect.as(sleep("nap", "1 hour"), "slept"), DurableDeferred.await(word("go"))]
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with go")
    })
  ),
  test(
    "wins a race with what does not come, and has won it for good",
    Effect.gen(function* () {
      const winners: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const winner = yield* DurableDeferred.raceAll({
            name: "race",
            success: word("go").successSchema,
            error: word("go").errorSchema,
            effects: [Effect.as(sleep("nap", 10), "slept"), DurableDeferred.await(word("go"))]
          })
          winners.push(winner)
          return `${winner}, ${yield* DurableDeferred.await(word("later"))}`
        })
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => winners.length > 0)
      yield* say(workflow, executionId, "go")
      yield* say(workflow, executionId, "later")
      assert.strictEqual(yield* outcome(workflow), "succeeded with slept, later")
    })
  ),
  test(
    "wakes at its time while an activity of the same run is in flight",
    Effect.gen(function* () {
      const opened = yield* Deferred.make<void>()
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* Effect.all(
            [
              step(notes, "busy", Effect.as(Deferred.await(opened), "busy")),
              Effect.andThen(sleep("nap", 20), step(notes, "awake"))
            ],
            { concurrency: "unbounded" }
          )
          return "done"
        })
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.includes("awake"))
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with done")
    })
  ),
  test(
    "is stopped in its sleep",
    Effect.gen(function* () {
      const workflow = yield* define(() => Effect.as(sleep("nap", "1 hour"), "slept"))
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* workflow.interrupt(executionId)
      assert.strictEqual(yield* ended(workflow, executionId), "interrupted")
    })
  )
]
