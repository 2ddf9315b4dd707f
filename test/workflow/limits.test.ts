/** What our engine of workflows removes, refuses and costs. */
import { assert, describe, it, layer } from "@effect/vitest"
import { Cause, Effect, Exit, Latch, Layer } from "effect"
import { TestClock } from "effect/testing"
import { DurableClock, DurableDeferred, Workflow, WorkflowEngine } from "effect/workflow"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as StorageWorkflowEngine from "../../src/workflow/StorageWorkflowEngine.ts"
import { counting, endpoint, layerClient, newTableName } from "../support/dynamoDb.ts"
import { newOwner } from "../support/persistence.ts"
import { layerTable as layerPostgres, url as postgresUrl } from "../support/postgres.ts"
import { engines, orEmpty } from "../support/services.ts"
import { makeStorage } from "./storage.ts"
import {
  define,
  ended,
  eventually,
  newWorkflow,
  outcome,
  polled,
  register,
  say,
  shown,
  start,
  step,
  suspended,
  untilTrue,
  word
} from "./support.ts"

const awaitWord = (name: string) => DurableDeferred.await(word(name))
const isEmpty = (records: ReadonlyArray<unknown>) => records.length === 0

/** More than a record may hold. */
const large = "x".repeat(400_000)

describe("the retention of StorageWorkflowEngine", () => {
  /** Lets time pass in short steps until something is so. */
  const passUntil = <A, E>(effect: Effect.Effect<A, E>, isIt: (answer: A) => boolean) =>
    Effect.gen(function* () {
      while (!isIt(yield* effect)) yield* TestClock.adjust("5 seconds")
    })

  it.effect("removes all of an execution some time after its end, and the next one of that key starts anew", () =>
    Effect.gen(function* () {
      const { process, records } = yield* makeStorage
      const { run } = yield* process({ retention: "10 minutes" })
      const workflow = newWorkflow()
      const notes: Array<string> = []
      const names = Array.from({ length: 120 }, (_, n) => `${n}`)
      const nap = DurableClock.sleep({ name: "nap", duration: "1 minute", inMemoryThreshold: 0 })
      yield* run(
        register(workflow, ({ id }) =>
          Effect.forEach(names, (name) => step(notes, name), { concurrency: "unbounded" }).pipe(
            Effect.andThen(nap),
            Effect.andThen(id === "failed" ? Effect.fail("no") : awaitWord("go"))
          )
        )
      )
      for (const [id, end] of [
        ["succeeded", "succeeded with go"],
        ["failed", "failed with no"],
        ["interrupted", "interrupted"]
      ] as const) {
        const executionId = yield* run(start(workflow, id))
        if (id === "succeeded") yield* run(say(workflow, executionId, "go"))
        if (id === "interrupted") yield* run(workflow.interrupt(executionId))
        const poll = run(polled(workflow, executionId))
        yield* passUntil(poll, (state) => state === end)
        yield* TestClock.adjust("9 minutes")
        assert.strictEqual(yield* poll, end)
        assert.isAbove((yield* records(`executions/${executionId}`)).length, names.length)
        yield* passUntil(records(`executions/${executionId}`), isEmpty)
        assert.strictEqual(yield* poll, "none")
      }
      for (const part of [0, 1, 2, 3]) {
        for (const place of ["agenda", "removals"]) yield* passUntil(records(`${place}/${part}`), isEmpty)
      }
      assert.deepStrictEqual(yield* records("workers/0"), [])
      notes.length = 0
      const executionId = yield* run(start(workflow, "failed"))
      yield* passUntil(run(polled(workflow, executionId)), (state) => state === "failed with no")
      assert.strictEqual(notes.length, names.length)
    }).pipe(Effect.scoped)
  )

  it.effect("does not remove an execution that waits, nor one that is kept for ever", () =>
    Effect.gen(function* () {
      const { process } = yield* makeStorage
      const [brief, forever] = [yield* process({ retention: 0 }), yield* process({ retention: "Infinity" })]
      const [waits, ends] = [newWorkflow(), newWorkflow()]
      yield* brief.run(register(waits, () => awaitWord("go")))
      yield* forever.run(register(ends, () => Effect.succeed("done")))
      const waitsId = yield* brief.run(start(waits))
      const endsId = yield* forever.run(start(ends))
      yield* TestClock.adjust("2 hours")
      assert.strictEqual(yield* brief.run(polled(waits, waitsId)), "suspended")
      assert.strictEqual(yield* brief.run(polled(ends, endsId)), "succeeded with done")
      yield* brief.run(say(waits, waitsId, "go"))
      yield* passUntil(brief.run(polled(waits, waitsId)), (state) => state === "none")
    }).pipe(Effect.scoped)
  )
})

describe("the concurrency of StorageWorkflowEngine", () => {
  it.live("bounds how many executions that others have started run at once, and all of them end", () =>
    Effect.gen(function* () {
      const { process } = yield* makeStorage
      const [client, worker] = [yield* process(), yield* process({ concurrency: 2 })]
      const workflow = newWorkflow()
      const ids = Array.from({ length: 9 }, (_, n) => `${n}`)
      const executionIds = yield* Effect.forEach(ids, (id) => client.run(start(workflow, id)))
      const gates = new Map(ids.map((id) => [id, Latch.makeUnsafe(false)]))
      const begun: Array<string> = []
      yield* worker.run(
        register(workflow, ({ id }) =>
          step(begun, id, Effect.as(gates.get(id)?.await ?? Effect.void, id)).pipe(Effect.asVoid, Effect.as(id))
        )
      )
      for (let ends = 0; ends < ids.length; ends++) {
        yield* untilTrue(() => begun.length === Math.min(ends + 2, ids.length))
        yield* Effect.sleep("30 millis")
        assert.strictEqual(begun.length, Math.min(ends + 2, ids.length))
        gates.get(begun[ends] ?? "")?.openUnsafe()
      }
      for (const [index, executionId] of executionIds.entries()) {
        const poll = worker.run(polled(workflow, executionId))
        yield* eventually(poll, (state) => state === `succeeded with ${ids[index]}`)
      }
    })
  )
})

layer(StorageWorkflowEngine.layer({ owner: "shop" }).pipe(Layer.provide(InMemory.layer)), {
  excludeTestServices: true
})("StorageWorkflowEngine, if a record would be too large,", (it) => {
  const squashed = (exit: Exit.Exit<unknown, unknown>) =>
    Exit.isFailure(exit) ? Cause.squash(exit.cause) : assert.fail("it succeeded")

  const assertTooLarge = (error: unknown, workflow: { readonly _tag: string }, executionId: string, part: string) => {
    assert.instanceOf(error, StorageWorkflowEngine.RecordTooLarge)
    const { actual, limit, ...names } = error
    assert.deepInclude(names, { _tag: "RecordTooLarge", workflow: workflow._tag, executionId, part })
    assert.isAbove(actual, limit)
    assert.include(error.message, `The ${part} of ${workflow._tag} (execution ${executionId}) takes ${actual} bytes`)
    assert.notInclude(error.message, "xxx")
  }

  it.effect("ends the activity with a defect that names it, and does not run it again", () =>
    Effect.gen(function* () {
      const notes: Array<string> = []
      const defects: Array<unknown> = []
      const workflow = yield* define(
        Effect.fnUntraced(function* ({ id }) {
          const render = step(notes, "render", id === "fails" ? Effect.fail(large) : Effect.succeed(large))
          const exit = yield* Effect.exit(render)
          if (Exit.isFailure(exit)) defects.push(Cause.squash(exit.cause))
          yield* awaitWord("go")
          return yield* id === "uncaught" ? render : Effect.succeed("done")
        })
      )
      for (const id of ["caught", "fails"]) {
        const executionId = yield* start(workflow, id)
        yield* suspended(workflow, executionId)
        yield* say(workflow, executionId, "go")
        assert.strictEqual(yield* outcome(workflow, id), "succeeded with done")
        assert.deepStrictEqual(notes.splice(0), ["render"])
        assert.isAtLeast(defects.length, 2)
        for (const defect of defects.splice(0)) assertTooLarge(defect, workflow, executionId, "activity render")
      }
      const executionId = yield* workflow.executionId({ id: "uncaught" })
      yield* say(workflow, executionId, "go")
      assert.match(yield* outcome(workflow, "uncaught"), /died of The activity render of/)
    })
  )

  it.effect("starts nothing with a payload that names itself", () =>
    Effect.gen(function* () {
      const workflow = yield* define(() => Effect.succeed("done"))
      const executionId = yield* workflow.executionId({ id: large })
      for (const discard of [true, false]) {
        const exit = yield* Effect.exit(workflow.execute({ id: large }, { discard }))
        assertTooLarge(squashed(exit), workflow, executionId, "payload")
      }
      assert.strictEqual(yield* polled(workflow, executionId), "none")
    })
  )

  it.effect("ends the workflow with a defect in place of its result", () =>
    Effect.gen(function* () {
      const workflow = yield* define(({ id }) => (id === "fails" ? Effect.fail(large) : Effect.succeed(large)))
      for (const id of ["succeeds", "fails"]) {
        const executionId = yield* workflow.executionId({ id })
        assertTooLarge(squashed(yield* Effect.exit(workflow.execute({ id }))), workflow, executionId, "result")
        assert.match(yield* polled(workflow, executionId), /died of The result of/)
      }
    })
  )

  it.effect("refuses what is said, so that something else can be said", () =>
    Effect.gen(function* () {
      const workflow = yield* define(() => awaitWord("go"))
      const executionId = yield* start(workflow)
      yield* suspended(workflow, executionId)
      const exit = yield* Effect.exit(say(workflow, executionId, "go", large))
      assertTooLarge(squashed(exit), workflow, executionId, "deferred go")
      yield* say(workflow, executionId, "go", "small")
      assert.strictEqual(yield* outcome(workflow), "succeeded with small")
    })
  )

  it.effect("dies of a name that is too long for a key, and says so", () =>
    Effect.gen(function* () {
      const workflow = yield* define(() => step([], "x".repeat(600)))
      assert.match(yield* outcome(workflow), /^died of Invalid key: /)
    })
  )
})

describe("the options of StorageWorkflowEngine", () => {
  const built = (options: Partial<StorageWorkflowEngine.Options>) =>
    StorageWorkflowEngine.layer({ owner: "shop", ...options }).pipe(
      Layer.provide(InMemory.layer),
      Layer.build,
      Effect.scoped,
      Effect.exit,
      Effect.map(shown)
    )

  it.effect("are refused if they are wrong, with what they must be", () =>
    Effect.gen(function* () {
      for (const [options, message] of [
        [{ owner: "" }, /^failed with .*Invalid key: the owner is empty/],
        [{ owner: "x".repeat(2000) }, /^failed with .*Invalid key: the owner/],
        [{ leaseTtl: 0 }, /^died of leaseTtl must be a finite duration above zero, such as "5 seconds": it is 0/],
        [{ leaseTtl: -1 }, /^died of leaseTtl must be /],
        [{ leaseTtl: Number.POSITIVE_INFINITY }, /^died of leaseTtl must be a finite duration/],
        [{ pollInterval: 0 }, /^died of pollInterval must be a finite duration above zero/],
        [{ pollInterval: "-1 seconds" }, /^died of pollInterval must be /],
        [{ concurrency: 0 }, /^died of concurrency must be an integer of one or more: it is 0/],
        [{ concurrency: 1.5 }, /^died of concurrency must be /],
        [{ retention: -1 }, /^died of retention must be a duration of zero or more/],
        [{ retention: Number.NaN }, /^died of retention must be /],
        [{ leaseTtl: "soon" as never }, /^died of leaseTtl must be /]
      ] as const) {
        assert.match(yield* built(options), message)
      }
      assert.match(yield* built({ retention: Number.POSITIVE_INFINITY }), /^succeeded/)
    })
  )
})

describe("the requests of StorageWorkflowEngine", () => {
  const storages = { ...engines(), Postgres: postgresUrl === undefined ? undefined : layerPostgres() }

  /** What a workflow of two activities asks of a backend, without what its worker looks for meanwhile. */
  const requestsOf = Effect.fnUntraced(function* (backend: StorageBackend["Service"]) {
    const faults = Faults.backend(backend)
    const engine = StorageWorkflowEngine.layer({ owner: newOwner(), leaseTtl: "1 hour", pollInterval: "1 hour" }).pipe(
      Layer.provide(Layer.succeed(StorageBackend, faults.backend))
    )
    return yield* Effect.gen(function* () {
      const workflow = yield* define(() => Effect.andThen(step([], "a"), step([], "b")))
      // The first one may be begun while the worker still starts.
      yield* outcome(workflow, "first")
      yield* untilTrue(() => faults.requests.includes("delete"))
      faults.taken()
      yield* outcome(workflow, "second")
      yield* untilTrue(() => faults.requests.includes("delete"))
      return faults.taken().filter((name) => name !== "listByPrefix")
    }).pipe(Effect.provide(engine))
  }, Effect.scoped)

  for (const [name, storage] of Object.entries(storages)) {
    it.live.skipIf(storage === undefined)(`are seven for a workflow of two activities, on ${name}`, () =>
      Effect.gen(function* () {
        const requests = yield* requestsOf(yield* StorageBackend)
        // The mark, the creation, two activities, the result, the entry for its removal, and the mark again.
        assert.deepStrictEqual(requests, ["put", "commit", "commit", "commit", "commit", "put", "delete"])
      }).pipe(Effect.provide(orEmpty(storage)))
    )
  }

  it.live.skipIf(endpoint === undefined)("are seven commands to DynamoDB", () =>
    Effect.gen(function* () {
      const tableName = newTableName()
      yield* DynamoDb.ensureTable({ tableName })
      const { backend, sent } = counting(tableName)
      yield* requestsOf(yield* Effect.provide(StorageBackend, backend))
      const commands = sent.filter((name) => name !== "QueryCommand")
      const [put, commit, remove] = ["UpdateItemCommand", "TransactWriteItemsCommand", "DeleteItemCommand"]
      // The result is a commit of one step, so it is a plain request.
      const end = commands.lastIndexOf(remove) + 1
      assert.deepStrictEqual(commands.slice(end - 7, end), [put, commit, commit, commit, put, put, remove])
    }).pipe(Effect.provide(layerClient))
  )
})

describe("StorageWorkflowEngine, beside Effect's engine in memory,", () => {
  it.live("undoes what was done also after a run that was stopped by what it waited for", () => {
    const program = Effect.gen(function* () {
      const notes: Array<string> = []
      const busy = step(
        notes,
        "busy",
        Effect.suspend(() => (notes.length === 2 ? Effect.never : Effect.succeed("busy")))
      )
      const workflow = yield* define(() =>
        step(notes, "a").pipe(
          Workflow.withCompensation(() => Effect.sync(() => notes.push("undone"))),
          Effect.andThen(Effect.all([busy, awaitWord("go")], { concurrency: 2 })),
          Effect.andThen(Effect.fail("no"))
        )
      )
      const executionId = yield* start(workflow)
      yield* eventually(
        Effect.sync(() => notes.length),
        (length) => length === 2
      )
      yield* say(workflow, executionId, "go")
      assert.strictEqual(yield* ended(workflow, executionId), "failed with no")
      return notes
    }).pipe(Effect.scoped)
    return Effect.gen(function* () {
      const ours = StorageWorkflowEngine.layer({ owner: "shop" }).pipe(Layer.provide(InMemory.layer))
      assert.deepStrictEqual(yield* Effect.provide(program, ours), ["a", "busy", "busy", "undone"])
      // If this fails, Effect's engine does it too, and the differential test can compare it.
      assert.deepStrictEqual(yield* Effect.provide(program, WorkflowEngine.layerMemory), ["a", "busy", "busy"])
    })
  })
})
