import { assert } from "@effect/vitest"
import { type Cause, DateTime, Deferred, Effect, Exit, Option, Schedule, Schema } from "effect"
import { Activity, DurableDeferred } from "effect/workflow"
import {
  type Case,
  define,
  ended,
  outcome,
  say,
  shown,
  start,
  step,
  suspended,
  test,
  untilTrue,
  word
} from "../support.ts"

const Stamp = Schema.Struct({ at: Schema.DateTimeUtc, note: Schema.Option(Schema.String) })

export const activityCases: ReadonlyArray<Case> = [
  test(
    "does not run an activity again that has ended, whatever its end",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const ends = [
            yield* Effect.exit(step(notes, "good")),
            yield* Effect.exit(step(notes, "bad", Effect.fail("no"))),
            yield* Effect.exit(step(notes, "broken", Effect.die(new Error("broken"))))
          ]
          yield* DurableDeferred.await(word("go"))
          return ends.map(shown).join(", ")
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with succeeded with good, failed with no, died of broken")
      assert.deepStrictEqual(notes, ["good", "bad", "broken"])
    })
  ),
  test(
    "ends with the failure of an activity that is not caught",
    Effect.gen(function* () {
      const workflow = yield* define(({ id }) =>
        step([], "a", id === "bad" ? Effect.fail("no") : Effect.die(new Error("broken")))
      )
      assert.strictEqual(yield* outcome(workflow, "bad"), "failed with no")
      assert.strictEqual(yield* outcome(workflow, "broken"), "died of broken")
    })
  ),
  test(
    "keeps the types of an activity's result across a replay",
    Effect.gen(function* () {
      const stamp = { at: DateTime.makeUnsafe("2020-02-02T02:02:02Z"), note: Option.some("note") }
      const seen: Array<typeof stamp> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          seen.push(yield* Activity.make({ name: "stamp", success: Stamp, execute: Effect.succeed(stamp) }))
          return yield* DurableDeferred.await(word("go"))
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      yield* outcome(workflow)
      assert.isAbove(seen.length, 1)
      for (const one of seen) assert.deepStrictEqual(one, stamp)
    })
  ),
  test(
    "replays an activity that succeeds with nothing",
    Effect.gen(function* () {
      let runs = 0
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const result = yield* Activity.make({ name: "nothing", execute: Effect.sync(() => void runs++) })
          assert.isUndefined(result)
          return yield* DurableDeferred.await(word("go"))
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with go")
      assert.strictEqual(runs, 1)
    })
  ),
  test(
    "answers a name that comes twice in an execution with its one result",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const first = yield* step(notes, "a", Effect.succeed("first"))
          const second = yield* step(notes, "a", Effect.succeed("second"))
          return `${first} ${second}`
        })
      )
      assert.strictEqual(yield* outcome(workflow), "succeeded with first first")
      assert.deepStrictEqual(notes, ["a"])
    })
  ),
  test(
    "keeps names apart that look like paths",
    Effect.gen(function* () {
      const names = ["a", "a/1", "a/1/1", "a%2F1", "", "A", "é", "\u{1f600}", "x".repeat(400), `${"x".repeat(399)}y`]
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const results = yield* Effect.forEach(names, (name) => step(notes, name))
          yield* DurableDeferred.await(word("a/1"))
          return results.every((result, i) => result === names[i]) ? "all" : "mixed up"
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "a/1")
      assert.strictEqual(yield* outcome(workflow), "succeeded with all")
      assert.deepStrictEqual(notes, names)
    })
  ),
  test(
    "runs activities side by side, each once",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const names = Array.from({ length: 20 }, (_, n) => `${n}`)
      const all = yield* Deferred.make<void>()
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const results = yield* Effect.forEach(
            names,
            (name) =>
              step(
                notes,
                name,
                Effect.andThen(
                  notes.length === names.length ? Deferred.succeed(all, undefined) : Deferred.await(all),
                  Effect.succeed(name)
                )
              ),
            { concurrency: "unbounded" }
          )
          yield* DurableDeferred.await(word("go"))
          return results.join()
        })
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.length === names.length)
      yield* Deferred.succeed(all, undefined)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), `succeeded with ${names.join()}`)
      assert.deepStrictEqual(
        notes.toSorted((a, b) => Number(a) - Number(b)),
        names
      )
    })
  ),
  test(
    "retries an activity, and keeps the end of each attempt",
    Effect.gen(function* () {
      const attempts: Array<number> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const result = yield* Activity.make({
            name: "flaky",
            success: Schema.String,
            error: Schema.String,
            execute: Effect.flatMap(Activity.CurrentAttempt, (attempt) => {
              attempts.push(attempt)
              return attempt < 3 ? Effect.fail("not yet") : Effect.succeed(`attempt ${attempt}`)
            })
          }).pipe(Activity.retry({ times: 5 }))
          yield* DurableDeferred.await(word("go"))
          return result
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with attempt 3")
      assert.deepStrictEqual(attempts, [1, 2, 3])
    })
  ),
  test(
    "fails with the last attempt if all fail",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(() => step(notes, "flaky", Effect.fail("no")).pipe(Activity.retry({ times: 2 })))
      assert.strictEqual(yield* outcome(workflow), "failed with no")
      assert.deepStrictEqual(notes, ["flaky", "flaky", "flaky"])
    })
  ),
  test(
    "ends an activity that interrupts itself as a defect, after its retries",
    Effect.gen(function* () {
      let runs = 0
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const exit = yield* Effect.exit(
            Activity.make({
              name: "a",
              execute: Effect.andThen(
                Effect.sync(() => runs++),
                Effect.interrupt
              ),
              interruptRetryPolicy: Schedule.recurs(2).pipe(Schedule.setInputType<Cause.Cause<unknown>>())
            })
          )
          yield* DurableDeferred.await(word("go"))
          return shown(exit)
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      const end = 'succeeded with died of Activity "a" interrupted and retry attempts exhausted'
      assert.strictEqual(yield* outcome(workflow), end)
      assert.strictEqual(runs, 3)
    })
  ),
  test(
    "runs an activity within an activity, each once",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const outer = yield* step(
            notes,
            "outer",
            Effect.map(step(notes, "inner"), (inner) => `outer of ${inner}`)
          )
          yield* DurableDeferred.await(word("go"))
          return outer
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with outer of inner")
      assert.deepStrictEqual(notes, ["outer", "inner"])
    })
  ),
  test(
    "runs an activity again that was suspended by what it waits for, and not what it had finished",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const waited = yield* step(
            notes,
            "outer",
            Effect.andThen(step(notes, "inner"), DurableDeferred.await(word("go")))
          )
          return `${waited} ${yield* DurableDeferred.await(word("again"))}`
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      yield* untilTrue(() => notes.length === 3)
      yield* say(workflow, executionId, "again")
      assert.strictEqual(yield* outcome(workflow), "succeeded with go again")
      assert.deepStrictEqual(notes, ["outer", "inner", "outer"])
    })
  ),
  test(
    "races activities: the first to succeed wins, the others are interrupted, and a replay has the same winner",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const slow = Effect.onInterrupt(Effect.never, () => Effect.sync(() => notes.push("slow was interrupted")))
          const winner = yield* Activity.raceAll("race", [
            step(notes, "slow", slow),
            step(notes, "bad", Effect.fail("no")),
            step(notes, "fast", Effect.andThen(Effect.sleep(5), Effect.succeed("fast")))
          ])
          yield* DurableDeferred.await(word("go"))
          return winner
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with fast")
      assert.deepStrictEqual(notes, ["slow", "bad", "fast", "slow was interrupted"])
    })
  ),
  test(
    "fails a race of activities if all of them fail",
    Effect.gen(function* () {
      const workflow = yield* define(() =>
        Activity.raceAll("race", [step([], "a", Effect.fail("no")), step([], "b", Effect.fail("no"))])
      )
      assert.match(yield* outcome(workflow), /^failed with no/)
    })
  ),
  test(
    "gives an activity a key of its own for each execution, name and attempt, and the same on a replay",
    Effect.gen(function* () {
      const seen: Array<ReadonlyArray<string>> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const keys = [
            yield* Activity.idempotencyKey("a"),
            yield* Activity.idempotencyKey("b"),
            yield* Activity.idempotencyKey("a", { includeAttempt: true })
          ]
          seen.push(keys)
          return yield* DurableDeferred.await(word("go"))
        })
      )
      for (const id of ["1", "2"]) {
        const executionId = yield* start(workflow, id)
        yield* suspended(workflow, executionId)
        yield* say(workflow, executionId, "go")
        yield* ended(workflow, executionId)
      }
      assert.strictEqual(new Set(seen.flat()).size, 6)
    })
  ),
  test(
    "closes the scope of an activity when it ends",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* step(
            notes,
            "a",
            Effect.as(
              Effect.addFinalizer((exit) => Effect.sync(() => notes.push(`closed, ${Exit.isSuccess(exit)}`))),
              "a"
            )
          )
          return yield* step(notes, "b")
        })
      )
      yield* outcome(workflow)
      assert.deepStrictEqual(notes, ["a", "closed, true", "b"])
    })
  )
]
