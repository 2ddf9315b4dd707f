import { assert } from "@effect/vitest"
import { Cause, Context, DateTime, Deferred, Effect, Exit, Fiber, Layer, Option, Schedule, Schema } from "effect"
import { DurableDeferred, Workflow } from "effect/workflow"
import {
  type Case,
  captureNoDefects,
  define,
  ended,
  eventually,
  newWorkflow,
  outcome,
  polled,
  register,
  say,
  start,
  step,
  suspended,
  test,
  word
} from "../support.ts"

const many = Array.from({ length: 20 }, (_, n) => n)

class Refused extends Schema.TaggedError<Refused>()("Refused", { at: Schema.DateTimeUtc }) {}

class Greeting extends Context.Service<Greeting, string>()("test/Greeting") {}

const instant = DateTime.makeUnsafe("2020-02-02T02:02:02Z")

export const executionCases: ReadonlyArray<Case> = [
  test(
    "runs a workflow with its payload and its execution id, and answers the result",
    Effect.gen(function* () {
      const workflow = yield* define(({ id }, executionId) => Effect.succeed(`${id} ${executionId}`))
      const executionId = yield* workflow.executionId({ id: "a" })
      assert.strictEqual(yield* workflow.execute({ id: "a" }), `a ${executionId}`)
      assert.strictEqual(yield* polled(workflow, executionId), `succeeded with a ${executionId}`)
    })
  ),
  test(
    "runs an execution once, however often it is executed at the same time",
    Effect.gen(function* () {
      const notes: Array<string> = []
      const workflow = yield* define(() => step(notes, "pay"))
      const results = yield* Effect.forEach(many, () => workflow.execute({ id: "a" }), { concurrency: "unbounded" })
      assert.deepStrictEqual(
        results,
        many.map(() => "pay")
      )
      assert.deepStrictEqual(notes, ["pay"])
    })
  ),
  test(
    "does not run an execution again that has succeeded, failed or died",
    Effect.gen(function* () {
      let runs = 0
      const ends: Record<string, Effect.Effect<string, string>> = {
        success: Effect.succeed("done"),
        failure: Effect.fail("no"),
        defect: Effect.die(new Error("broken"))
      }
      const workflow = yield* define(({ id }) => {
        runs++
        return ends[id] ?? Effect.die("unknown")
      })
      for (const [id, end] of [
        ["success", "succeeded with done"],
        ["failure", "failed with no"],
        ["defect", "died of broken"]
      ] as const) {
        runs = 0
        for (const _ of [1, 2, 3]) assert.strictEqual(yield* outcome(workflow, id), end)
        assert.strictEqual(yield* polled(workflow, yield* workflow.executionId({ id })), end)
        assert.strictEqual(runs, 1)
      }
    })
  ),
  test(
    "keeps executions of other keys and of other workflows apart",
    Effect.gen(function* () {
      const one = yield* define(({ id }) => step([], "a", Effect.succeed(`one ${id}`)))
      const two = yield* define(({ id }) => step([], "a", Effect.succeed(`two ${id}`)))
      const results = yield* Effect.all(
        [one.execute({ id: "1" }), one.execute({ id: "2" }), two.execute({ id: "1" })],
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(results, ["one 1", "one 2", "two 1"])
    })
  ),
  test(
    "runs the payload that came first, if the same key is executed with another one",
    Effect.gen(function* () {
      const workflow = Workflow.make(newWorkflow()._tag, {
        payload: { id: Schema.String, amount: Schema.Int },
        success: Schema.Int,
        idempotencyKey: ({ id }) => id
      })
      yield* Layer.build(workflow.toLayer(({ amount }) => Effect.succeed(amount)))
      assert.strictEqual(yield* workflow.execute({ id: "a", amount: 1 }), 1)
      assert.strictEqual(yield* workflow.execute({ id: "a", amount: 2 }), 1)
    })
  ),
  test(
    "answers the execution id at once if the result is discarded, and runs on",
    Effect.gen(function* () {
      const opened = yield* Deferred.make<void>()
      const workflow = yield* define(() => Effect.as(Deferred.await(opened), "done"))
      const executionId = yield* start(workflow)
      assert.strictEqual(executionId, yield* workflow.executionId({ id: "1" }))
      assert.strictEqual(yield* polled(workflow, executionId), "none")
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with done")
    })
  ),
  test(
    "keeps the types of payload, result and error",
    Effect.gen(function* () {
      const workflow = Workflow.make(newWorkflow()._tag, {
        payload: { id: Schema.String, at: Schema.DateTimeUtc, note: Schema.Option(Schema.String) },
        success: Schema.Option(Schema.DateTimeUtc),
        error: Refused,
        idempotencyKey: ({ id }) => id
      })
      yield* Layer.build(
        workflow.toLayer(({ at, note }) =>
          Option.isSome(note) ? Effect.succeed(Option.some(at)) : Effect.fail(new Refused({ at }))
        )
      )
      const good = { id: "good", at: instant, note: Option.some("note") }
      const bad = { id: "bad", at: instant, note: Option.none() }
      for (const _ of ["once", "again"]) {
        assert.deepStrictEqual(yield* workflow.execute(good), Option.some(instant))
        const error = yield* Effect.flip(workflow.execute(bad))
        assert.instanceOf(error, Refused)
        assert.isTrue(DateTime.isUtc(error.at))
        assert.deepStrictEqual(error.at, instant)
      }
      const result = yield* workflow.poll(yield* workflow.executionId(good))
      assert.deepStrictEqual(result, Option.some(new Workflow.Complete({ exit: Exit.succeed(Option.some(instant)) })))
    })
  ),
  test(
    "succeeds with nothing",
    Effect.gen(function* () {
      const workflow = Workflow.make(newWorkflow()._tag, { payload: {}, idempotencyKey: () => "one" })
      yield* Layer.build(workflow.toLayer(() => Effect.void))
      for (const _ of ["once", "again"]) assert.isUndefined(yield* workflow.execute({}))
    })
  ),
  test(
    "fails with all that failed",
    Effect.gen(function* () {
      const workflow = yield* define(() =>
        Effect.failCause(Cause.combine(Cause.fail("no"), Cause.die(new Error("broken"))))
      )
      for (const _ of ["once", "again"]) {
        assert.strictEqual(yield* outcome(workflow), "failed with no, died of broken")
      }
    })
  ),
  test(
    "dies of a defect that is not captured, has no result then, and runs again if it is resumed",
    Effect.gen(function* () {
      let runs = 0
      const body = () => (runs++ === 0 ? Effect.die(new Error("broken")) : Effect.succeed("done"))
      const workflow = yield* define(body, captureNoDefects)
      assert.include(yield* outcome(workflow), "died of")
      const executionId = yield* workflow.executionId({ id: "1" })
      assert.isTrue(Exit.hasDies(yield* Effect.exit(workflow.poll(executionId))))
      yield* workflow.resume(executionId)
      yield* eventually(Effect.exit(workflow.poll(executionId)), Exit.isSuccess)
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with done")
    })
  ),
  test(
    "answers a caller that waits while the execution is suspended, as soon as it has ended",
    Effect.gen(function* () {
      const workflow = yield* define(() => DurableDeferred.await(word("go")))
      const caller = yield* Effect.forkChild(outcome(workflow))
      const executionId = yield* workflow.executionId({ id: "1" })
      yield* suspended(workflow, executionId)
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* Fiber.join(caller), "succeeded with go")
    })
  ),
  test(
    "goes on if a caller that waits is interrupted",
    Effect.gen(function* () {
      const begun = yield* Deferred.make<void>()
      const opened = yield* Deferred.make<void>()
      const workflow = yield* define(() =>
        Effect.as(Effect.andThen(Deferred.succeed(begun, undefined), Deferred.await(opened)), "done")
      )
      const caller = yield* Effect.forkChild(workflow.execute({ id: "1" }))
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(caller)
      yield* Deferred.succeed(opened, undefined)
      assert.strictEqual(yield* outcome(workflow), "succeeded with done")
    })
  ),
  test(
    "gives up waiting for a suspended execution when its schedule is over, and the execution stays",
    Effect.gen(function* () {
      const workflow = newWorkflow()
      const impatient = Workflow.make(workflow._tag, {
        payload: { id: Schema.String },
        success: Schema.String,
        error: Schema.String,
        idempotencyKey: ({ id }) => id,
        suspendedRetrySchedule: Schedule.recurs(0)
      })
      yield* register(workflow, () => DurableDeferred.await(word("go")))
      assert.strictEqual(
        yield* outcome(impatient),
        `died of ${workflow._tag}.execute: suspendedRetrySchedule exhausted`
      )
      const executionId = yield* workflow.executionId({ id: "1" })
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* ended(workflow, executionId), "succeeded with go")
    })
  ),
  test(
    "gives the body the services of the place where it was registered",
    Effect.gen(function* () {
      const workflow = newWorkflow()
      yield* register(workflow, () =>
        Effect.map(Effect.serviceOption(Greeting), (greeting) => Option.getOrElse(greeting, () => "none"))
      ).pipe(Effect.provideService(Greeting, "hello"))
      assert.strictEqual(yield* outcome(workflow), "succeeded with hello")
    })
  )
]
