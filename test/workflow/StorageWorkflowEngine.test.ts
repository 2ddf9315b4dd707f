/** What holds for our engine of workflows alone: several processes, Layers that are closed, processes that stop. */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { DurableClock, DurableDeferred, Workflow } from "effect/workflow"
import { type Backend, makeStorage } from "./storage.ts"
import {
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
  untilTrue,
  word
} from "./support.ts"

const awaitWord = (name: string) => DurableDeferred.await(word(name))

describe("StorageWorkflowEngine on several processes", () => {
  it.live("runs in one process what another one starts, waits for, answers, polls, resumes and interrupts", () =>
    Effect.gen(function* () {
      const { process } = yield* makeStorage
      const [client, worker] = [yield* process(), yield* process()]
      const notes: Array<string> = []
      const workflow = newWorkflow()
      yield* worker.run(register(workflow, () => Effect.andThen(step(notes, "a"), awaitWord("go"))))
      const caller = yield* Effect.forkChild(client.run(outcome(workflow, "answered")))
      const executionId = yield* workflow.executionId({ id: "answered" })
      yield* client.run(suspended(workflow, executionId))
      yield* client.run(workflow.resume(executionId))
      yield* client.run(say(workflow, executionId, "go"))
      assert.strictEqual(yield* Fiber.join(caller), "succeeded with go")
      const otherId = yield* client.run(start(workflow, "interrupted"))
      yield* client.run(suspended(workflow, otherId))
      yield* client.run(workflow.interrupt(otherId))
      assert.strictEqual(yield* client.run(ended(workflow, otherId)), "interrupted")
      assert.deepStrictEqual(notes, ["a", "a"])
    }).pipe(Effect.scoped)
  )

  it.live("keeps what is started before any process can run it", () =>
    Effect.gen(function* () {
      const { process } = yield* makeStorage
      const client = yield* process()
      const workflow = newWorkflow()
      const executionId = yield* client.run(start(workflow))
      yield* client.run(say(workflow, executionId, "go", "early"))
      assert.strictEqual(yield* client.run(polled(workflow, executionId)), "none")
      const worker = yield* process()
      yield* worker.run(register(workflow, () => awaitWord("go")))
      assert.strictEqual(yield* client.run(outcome(workflow)), "succeeded with early")
    }).pipe(Effect.scoped)
  )

  it.live("runs a child that only another process knows, and interrupts it with its parent", () =>
    Effect.gen(function* () {
      const { process } = yield* makeStorage
      const [one, two] = [yield* process(), yield* process()]
      const [parent, child] = [newWorkflow(), newWorkflow()]
      const ran: Array<string> = []
      yield* one.run(
        register(parent, (payload) => Effect.map(child.execute(payload), (result) => `parent of ${result}`))
      )
      yield* two.run(
        register(child, ({ id }) => {
          ran.push(id)
          return id === "quick" ? Effect.succeed("child") : awaitWord("go")
        })
      )
      assert.strictEqual(yield* one.run(outcome(parent, "quick")), "succeeded with parent of child")
      for (const id of ["answered", "interrupted"]) {
        const executionId = yield* two.run(start(parent, id))
        const childId = yield* child.executionId({ id })
        yield* one.run(suspended(child, childId))
        yield* two.run(suspended(parent, executionId))
        yield* id === "answered" ? one.run(say(child, childId, "go")) : two.run(parent.interrupt(executionId))
        const end = id === "answered" ? "succeeded with parent of go" : "interrupted"
        assert.strictEqual(yield* two.run(ended(parent, executionId)), end)
        assert.strictEqual(yield* one.run(ended(child, childId)), id === "answered" ? "succeeded with go" : end)
      }
      assert.include(ran, "quick")
    }).pipe(Effect.scoped)
  )

  it.live("runs each of many executions in one process only, and each activity once", () =>
    Effect.gen(function* () {
      const { process } = yield* makeStorage
      const processes = [yield* process(), yield* process(), yield* process()] as const
      const workflow = newWorkflow()
      const notes: Array<string> = []
      const nap = DurableClock.sleep({ name: "nap", duration: 5, inMemoryThreshold: 0 })
      for (const { run } of processes) {
        yield* run(
          register(workflow, ({ id }) =>
            step(notes, `${id} a`).pipe(Effect.andThen(nap), Effect.andThen(step(notes, `${id} b`)))
          )
        )
      }
      const ids = Array.from({ length: 60 }, (_, n) => `${n}`)
      // Each is started in two processes at the same time.
      const all = ids.flatMap((id, n) => [0, 1].map((m) => ({ id, process: processes[(n + m) % 3] ?? processes[0] })))
      const ends = yield* Effect.forEach(all, ({ id, process }) => process.run(outcome(workflow, id)), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(
        ends,
        all.map(({ id }) => `succeeded with ${id} b`)
      )
      assert.deepStrictEqual(notes.toSorted(), ids.flatMap((id) => [`${id} a`, `${id} b`]).toSorted())
    }).pipe(Effect.scoped)
  )
})

describe("StorageWorkflowEngine.layer, closed", () => {
  const cases = { "the Layer": true, "the workflow's own Layer": false }
  for (const [what, closesLayer] of Object.entries(cases)) {
    it.live(`hands its executions over at once if ${what} is closed, and undoes nothing`, () =>
      Effect.gen(function* () {
        const { process } = yield* makeStorage
        const [one, two] = [yield* process(), yield* process()]
        const workflow = newWorkflow()
        const notes: Array<string> = []
        const body = (name: string, busy: Effect.Effect<string>) => () =>
          Effect.gen(function* () {
            yield* Workflow.provideScope(Effect.addFinalizer(() => Effect.sync(() => notes.push(`${name} released`))))
            yield* Workflow.addFinalizer((exit) => Effect.sync(() => notes.push(`${name} finalized, ${shown(exit)}`)))
            yield* step(notes, "a").pipe(Workflow.withCompensation(() => Effect.sync(() => notes.push("undone"))))
            return yield* step(notes, `busy ${name}`, busy)
          })
        const registration = yield* Scope.fork(yield* Effect.scope)
        yield* one.run(
          register(workflow, body("one", Effect.never)).pipe(Effect.provideService(Scope.Scope, registration))
        )
        const executionId = yield* one.run(start(workflow))
        yield* untilTrue(() => notes.includes("busy one"))
        yield* two.run(register(workflow, body("two", Effect.succeed("done"))))
        yield* closesLayer ? one.close : Scope.close(registration, Exit.void)
        assert.deepStrictEqual(notes.slice(0, 3), ["a", "busy one", "one released"])
        assert.strictEqual(yield* two.run(ended(workflow, executionId)), "succeeded with done")
        assert.notInclude(notes, "undone")
        assert.deepStrictEqual(
          notes.filter((note) => note.includes("finalized")),
          ["two finalized, succeeded with done"]
        )
      }).pipe(Effect.scoped)
    )
  }

  it.live("leaves nothing of a process behind, and what was suspended is woken elsewhere", () =>
    Effect.gen(function* () {
      const { process, records } = yield* makeStorage
      const workflow = newWorkflow()
      const notes: Array<string> = []
      const body = () => Effect.andThen(step(notes, "a"), awaitWord("go"))
      const one = yield* process()
      yield* one.run(register(workflow, body))
      const executionId = yield* one.run(start(workflow))
      yield* one.run(suspended(workflow, executionId))
      yield* one.close
      assert.deepStrictEqual(yield* records("workers/0"), [])
      const client = yield* process()
      yield* client.run(say(workflow, executionId, "go"))
      const two = yield* process()
      yield* two.run(register(workflow, body))
      assert.strictEqual(yield* two.run(ended(workflow, executionId)), "succeeded with go")
      assert.deepStrictEqual(notes, ["a"])
    }).pipe(Effect.scoped)
  )
})

/**
 * A backend that can be stopped: its requests wait until it goes on. They are sent then, whatever has become of who made
 * them, as what a process has handed to its network before it was stopped.
 */
const makeStoppable = () => {
  let gate: Deferred.Deferred<void> | undefined
  let waiting = 0
  /** The ends of the commits that were sent late. */
  const late: Array<string> = []
  const delay = <A, E>(name: string, request: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.suspend(() => {
      if (gate === undefined) return request
      waiting++
      return Effect.andThen(Deferred.await(gate), request).pipe(
        Effect.onExit((exit) =>
          Effect.sync(() => {
            waiting--
            if (name === "commit") late.push(Exit.isSuccess(exit) ? "landed" : "refused")
          })
        ),
        Effect.uninterruptible
      )
    })
  return {
    change: (backend: Backend): Backend => ({
      ...backend,
      get: (key) => delay("get", backend.get(key)),
      getMany: (keys) => delay("getMany", backend.getMany(keys)),
      put: (...args) => delay("put", backend.put(...args)),
      putIfVersion: (...args) => delay("putIfVersion", backend.putIfVersion(...args)),
      delete: (key) => delay("delete", backend.delete(key)),
      deleteIfVersion: (...args) => delay("deleteIfVersion", backend.deleteIfVersion(...args)),
      commit: (...args) => delay("commit", backend.commit(...args)),
      listByPrefix: (...args) => delay("listByPrefix", backend.listByPrefix(...args))
    }),
    late,
    isWaiting: () => waiting > 0,
    stop: () => {
      gate = Deferred.makeUnsafe()
    },
    goOn: () => {
      if (gate !== undefined) Deferred.doneUnsafe(gate, Effect.void)
      gate = undefined
    }
  }
}

describe("StorageWorkflowEngine, stopped", () => {
  it.live("changes nothing any more if it goes on after another process has taken over", () =>
    Effect.gen(function* () {
      const { process, records } = yield* makeStorage
      const times = { leaseTtl: "300 millis", pollInterval: "50 millis" } as const
      const stoppable = makeStoppable()
      const [one, two] = [yield* process(times, stoppable.change), yield* process(times)]
      const workflow = newWorkflow()
      const notes: Array<string> = []
      const registerAs = (name: string, charge: Effect.Effect<string>) =>
        register(workflow, () =>
          Effect.gen(function* () {
            const charged = yield* step(
              notes,
              "charge",
              Effect.suspend(() => charge)
            ).pipe(Workflow.withCompensation(() => Effect.sync(() => notes.push(`undone by ${name}`))))
            notes.push(`charged by ${name}`)
            return `${charged}, ${yield* step(notes, "next")}`
          })
        )
      const opened = yield* Deferred.make<string>()
      yield* one.run(registerAs("one", Deferred.await(opened)))
      const executionId = yield* one.run(start(workflow))
      yield* untilTrue(() => notes.includes("charge"))
      stoppable.stop()
      yield* Deferred.succeed(opened, "one")
      yield* untilTrue(stoppable.isWaiting)

      yield* two.run(registerAs("two", Effect.succeed("two")))
      assert.strictEqual(yield* two.run(ended(workflow, executionId)), "succeeded with two, next")
      const stored = Effect.map(records(`executions/${executionId}`), (records) =>
        records.map(({ data, key, version }) => [key.id, version, data])
      )
      const before = yield* stored
      stoppable.goOn()
      // When it has run something else to its end, it has got over what it had begun.
      assert.match(yield* one.run(outcome(workflow, "other")), /succeeded/)
      yield* untilTrue(() => !stoppable.isWaiting())
      assert.include(stoppable.late, "refused")
      assert.notInclude(stoppable.late, "landed")
      assert.deepStrictEqual(yield* stored, before)
      assert.strictEqual(yield* one.run(outcome(workflow)), "succeeded with two, next")
      assert.deepStrictEqual(notes.slice(0, 4), ["charge", "charge", "charged by two", "next"])
      assert.notInclude(notes, "undone by one")
    }).pipe(Effect.scoped)
  )
})
