import { assert } from "@effect/vitest"
import { Cause, DateTime, Deferred, Effect, Exit, Schema } from "effect"
import { Activity, DurableDeferred } from "effect/workflow"
import {
  type Case,
  define,
  ended,
  outcome,
  say,
  sayExit,
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

const race = (names: ReadonlyArray<string>) => {
  const { errorSchema: error, successSchema: success } = word("")
  const [first, ...rest] = names.map(awaitWord)
  assert.isDefined(first)
  return DurableDeferred.raceAll({ name: "race", success, error, effects: [first, ...rest] })
}

export const deferredCases: ReadonlyArray<Case> = [
  test(
    "goes on with what is said, a value, a failure or a defect",
    Effect.gen(function* () {
      const workflow = yield* waiting
      for (const [id, exit] of Object.entries({
        value: Exit.succeed("yes"),
        failure: Exit.fail("no"),
        defect: Exit.die(new Error("broken")),
        both: Exit.failCause(Cause.combine(Cause.fail("no"), Cause.die(new Error("broken"))))
      })) {
        const executionId = yield* start(workflow, id)
        yield* suspended(workflow, executionId)
        yield* sayExit(workflow, executionId, "go", exit)
        assert.strictEqual(yield* outcome(workflow, id), shown(exit))
      }
    })
  ),
  test(
    "is answered by the token that the run gave away",
    Effect.gen(function* () {
      const tokens: Array<DurableDeferred.Token> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          tokens.push(yield* DurableDeferred.token(word("go")))
          return yield* awaitWord("go")
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      const token = tokens[0] ?? assert.fail("no token")
      yield* DurableDeferred.succeed(word("go"), { token, value: "yes" })
      assert.strictEqual(yield* outcome(workflow), "succeeded with yes")
      assert.strictEqual(new Set(tokens).size, 1)
    })
  ),
  test(
    "takes what was said before the execution was started",
    Effect.gen(function* () {
      const workflow = yield* waiting
      const token = yield* DurableDeferred.tokenFromPayload(word("go"), { workflow, payload: { id: "1" } })
      yield* DurableDeferred.succeed(word("go"), { token, value: "early" })
      assert.strictEqual(yield* outcome(workflow), "succeeded with early")
    })
  ),
  test(
    "takes what was said before it is waited for",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const opened = yield* Deferred.make<void>()
      const workflow = yield* define(() =>
        Effect.andThen(step(notes, "busy", Effect.as(Deferred.await(opened), "")), awaitWord("go"))
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.length > 0)
      yield* say(workflow, executionId, "go")
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* outcome(workflow), "succeeded with go")
      assert.deepStrictEqual(notes, ["busy"])
    })
  ),
  test(
    "keeps what was said first, also when it is said many times at once",
    Effect.gen(function* () {
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const first = yield* awaitWord("go")
          yield* awaitWord("later")
          return first === (yield* awaitWord("go")) ? first : "changed"
        })
      )
      const executionId = yield* start(workflow)
      yield* say(workflow, executionId, "go", "first")
      const others = ["second", "third", "fourth"]
      yield* Effect.forEach(others, (value) => say(workflow, executionId, "go", value), { concurrency: "unbounded" })
      yield* sayExit(workflow, executionId, "go", Exit.fail("no"))
      yield* say(workflow, executionId, "later")
      yield* sayExit(workflow, executionId, "later", Exit.fail("no"))
      assert.strictEqual(yield* outcome(workflow), "succeeded with first")
      yield* say(workflow, executionId, "go", "after the end")
      assert.strictEqual(yield* outcome(workflow), "succeeded with first")
    })
  ),
  test(
    "misses nothing of many that are said at the same time, in any order",
    Effect.gen(function* () {
      const names = Array.from({ length: 12 }, (_, n) => `${n}`)
      const workflow = yield* define(({ id }) =>
        Effect.map(Effect.forEach(names, awaitWord, { concurrency: id === "parallel" ? "unbounded" : 1 }), (words) =>
          words.join()
        )
      )
      for (const id of ["parallel", "one by one"]) {
        const executionId = yield* start(workflow, id)
        const sayAll = Effect.forEach(names.toReversed(), (name) => say(workflow, executionId, name), {
          concurrency: "unbounded"
        })
        yield* sayAll
        assert.strictEqual(yield* outcome(workflow, id), `succeeded with ${names.join()}`)
      }
    })
  ),
  test(
    "is said by the run itself before it waits, or by an activity while it waits",
    Effect.gen(function* () {
      const sayItself = (name: string) =>
        Effect.flatMap(DurableDeferred.token(word(name)), (token) =>
          DurableDeferred.succeed(word(name), { token, value: name })
        )
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* sayItself("before")
          const parts = [step([], "a", Effect.as(Effect.delay(sayItself("while"), 5), "a")), awaitWord("while")]
          const words = yield* Effect.all(parts, { concurrency: "unbounded" })
          return `${yield* awaitWord("before")} ${words.join(" ")}`
        })
      )
      assert.strictEqual(yield* outcome(workflow), "succeeded with before a while")
    })
  ),
  test(
    "is said by another workflow, or by an activity of it",
    Effect.gen(function* () {
      const waiter = yield* waiting
      const speaker = yield* define(({ id }) =>
        Effect.gen(function* () {
          const executionId = yield* waiter.executionId({ id })
          yield* id === "1"
            ? say(waiter, executionId, "go", id)
            : step([], "say", Effect.as(say(waiter, executionId, "go", id), ""))
          return "said"
        })
      )
      for (const id of ["1", "2"]) {
        const executionId = yield* start(waiter, id)
        yield* suspended(waiter, executionId)
        assert.strictEqual(yield* outcome(speaker, id), "succeeded with said")
        assert.strictEqual(yield* outcome(waiter, id), `succeeded with ${id}`)
      }
    })
  ),
  test(
    "is waited for by two parts of a run, and wakes both",
    Effect.gen(function* () {
      const workflow = yield* define(() =>
        Effect.map(Effect.all([awaitWord("go"), awaitWord("go")], { concurrency: 2 }), (words) => words.join())
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with go,go")
    })
  ),
  test(
    "keeps the words of executions apart",
    Effect.gen(function* () {
      const workflow = yield* waiting
      const ids = [yield* start(workflow, "1"), yield* start(workflow, "2")] as const
      for (const executionId of ids) yield* suspended(workflow, executionId)
      yield* say(workflow, ids[1], "go", "two")
      assert.strictEqual(yield* outcome(workflow, "2"), "succeeded with two")
      yield* suspended(workflow, ids[0])
      yield* say(workflow, ids[0], "go", "one")
      assert.strictEqual(yield* outcome(workflow, "1"), "succeeded with one")
    })
  ),
  test(
    "stops a run that waits beside an activity in flight, and runs that activity again",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const stuck = Effect.onInterrupt(Effect.never, () => Effect.sync(() => notes.push("stopped")))
      const busy = Effect.suspend(() => (notes.length === 1 ? stuck : Effect.succeed("busy")))
      const workflow = yield* define(() =>
        Effect.all([step(notes, "busy", busy), awaitWord("go")], { concurrency: "unbounded" }).pipe(
          Effect.map((words) => words.join())
        )
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.length > 0)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with busy,go")
      assert.deepStrictEqual(notes, ["busy", "stopped", "busy"])
    })
  ),
  test(
    "does not stop a run for what it does not wait for",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const opened = yield* Deferred.make<void>()
      const workflow = yield* define(() =>
        Effect.all([step(notes, "busy", Effect.as(Deferred.await(opened), "busy")), awaitWord("go")], {
          concurrency: "unbounded"
        }).pipe(Effect.map((words) => words.join()))
      )
      const executionId = yield* start(workflow)
      yield* untilTrue(() => notes.length > 0)
      yield* say(workflow, executionId, "other")
      yield* Deferred.succeed(opened, undefined)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with busy,go")
      assert.deepStrictEqual(notes, ["busy"])
    })
  ),
  test(
    "records the end of an effect, and the first end stays",
    Effect.gen(function* () {
      let runs = 0
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          yield* Effect.sync(() => `run ${++runs}`).pipe(DurableDeferred.into(word("record")))
          yield* awaitWord("go")
          return yield* awaitWord("record")
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* outcome(workflow), "succeeded with run 1")
      assert.isAbove(runs, 1)
    })
  ),
  test(
    "records the failure of an effect",
    Effect.gen(function* () {
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          const exit = yield* Effect.exit(DurableDeferred.into(Effect.fail("no"), word("record")))
          return `${shown(exit)}, ${shown(yield* Effect.exit(awaitWord("record")))}`
        })
      )
      assert.strictEqual(yield* outcome(workflow), "succeeded with failed with no, failed with no")
    })
  ),
  test(
    "races words: the first that is said wins for good",
    Effect.gen(function* () {
      const winners: Array<string> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* () {
          winners.push(yield* race(["a", "b", "c"]))
          return `${winners[0]} ${yield* awaitWord("later")}`
        })
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "b")
      yield* untilTrue(() => winners.length > 0)
      yield* say(workflow, executionId, "a")
      yield* say(workflow, executionId, "later")
      assert.strictEqual(yield* outcome(workflow), "succeeded with b later")
      assert.deepStrictEqual(Array.from(new Set(winners)), ["b"])
    })
  ),
  test(
    "races a word with an activity",
    Effect.gen(function* () {
      const workflow = yield* define(({ id }) => {
        const { errorSchema: error, successSchema: success } = word("")
        const activity = step([], "a", id === "word" ? Effect.never : Effect.succeed("activity"))
        return DurableDeferred.raceAll({ name: "race", success, error, effects: [activity, awaitWord("word")] })
      })
      assert.strictEqual(yield* outcome(workflow, "activity"), "succeeded with activity")
      const executionId = yield* start(workflow, "word")
      yield* say(workflow, executionId, "word")
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with word")
    })
  ),
  test(
    "waits for a word of each attempt of an activity",
    Effect.gen(function* () {
      const deferred = word("go")
      const workflow = yield* define(() =>
        step([], "a", Effect.flatMap(deferred.withActivityAttempt, DurableDeferred.await)).pipe(
          Activity.retry({ times: 1 })
        )
      )
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      yield* sayExit(workflow, executionId, "go/1", Exit.fail("no"))
      yield* say(workflow, executionId, "go/2", "yes")
      assert.strictEqual(yield* outcome(workflow), "succeeded with yes")
    })
  ),
  test(
    "keeps the types of what is said",
    Effect.gen(function* () {
      const at = DateTime.makeUnsafe("2020-02-02T02:02:02Z")
      const deferred = DurableDeferred.make("at", { success: Schema.DateTimeUtc })
      const workflow = yield* define(() => Effect.map(DurableDeferred.await(deferred), DateTime.formatIso))
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      const token = DurableDeferred.tokenFromExecutionId(deferred, { workflow, executionId })
      yield* DurableDeferred.succeed(deferred, { token, value: at })
      assert.strictEqual(yield* outcome(workflow), `succeeded with ${DateTime.formatIso(at)}`)
    })
  ),
  test(
    "goes on after nothing is said but that it is done",
    Effect.gen(function* () {
      const deferred = DurableDeferred.make("done")
      const workflow = yield* define(() => Effect.as(DurableDeferred.await(deferred), "done"))
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      const token = DurableDeferred.tokenFromExecutionId(deferred, { workflow, executionId })
      yield* DurableDeferred.succeed(deferred, { token, value: undefined })
      assert.strictEqual(yield* outcome(workflow), "succeeded with done")
    })
  )
]
