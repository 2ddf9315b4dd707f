import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as StorageError from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { newFiles } from "../support/sqlite.ts"

const ownerId = "alice"
const ledgerKey = makeUnsafe({ owner: ownerId, id: "!places" })
const requestMethod = "tools/call"

type Backend = StorageBackend["Service"]
type Tasks = TaskStore.TaskStore["Service"]

/** The backend with the fate of each request decided. */
const wrap = (backend: Backend, fateOf: Parameters<typeof Faults.backend>[1]): Backend =>
  Faults.backend(backend, fateOf).backend

/** A store in a scope of its own, as another process has. */
const openStore = Effect.fnUntraced(function* (backend: Backend, options: TaskStore.Options = {}) {
  const scope = yield* Scope.make()
  const layer = Layer.provide(Layer.fresh(TaskStore.layerWith(options)), Layer.succeed(StorageBackend, backend))
  const tasks = Context.get(yield* Layer.buildWithScope(layer, scope), TaskStore.TaskStore)
  return { tasks, close: Scope.close(scope, Exit.void) }
})

/** The places that are taken, and the tasks that there are, or those that have not ended if the others do not count. */
const count = Effect.fnUntraced(function* (backend: Backend, { countTerminal = true }: TaskStore.Options = {}) {
  const { close, tasks } = yield* openStore(backend)
  const status = countTerminal ? undefined : (["working", "input_required"] as const)
  const { tasks: alive } = yield* tasks.list({ ownerId, status, limit: 1000 })
  yield* close
  const data = yield* Effect.match(backend.get(ledgerKey), {
    onFailure: () => '{"places":[]}',
    onSuccess: ({ data }) => data
  })
  const { places } = JSON.parse(data) as { readonly places: ReadonlyArray<readonly [number | null, number]> }
  return { places: places.reduce((sum, [, count]) => sum + count, 0), tasks: alive.length }
})

const assertAsManyPlacesAsTasks = (backend: Backend, message: string, options?: TaskStore.Options) =>
  Effect.map(count(backend, options), ({ places, tasks }) => {
    assert.strictEqual(places, tasks, message)
    return tasks
  })

const pause = TestClock.withLive(Effect.sleep(1))

interface Scenario {
  readonly options?: TaskStore.Options
  /** What is there before. */
  readonly before?: (tasks: Tasks, other: Tasks) => Effect.Effect<unknown, unknown>
  readonly interrupted: (tasks: Tasks, taskId: string) => Effect.Effect<unknown, unknown>
}

const create = (tasks: Tasks) => tasks.create({ ownerId, requestMethod })

const createAgain = (tasks: Tasks) => tasks.create({ ownerId, requestMethod, id: "again" })

const uncounted: TaskStore.Options = { countTerminal: false }

const endings: Record<string, (tasks: Tasks, taskId: string) => Effect.Effect<unknown, unknown>> = {
  "a completion": (tasks, taskId) => tasks.completeWithResult({ ownerId, taskId }, { status: "completed", result: 1 }),
  "a failure": (tasks, taskId) => tasks.fail({ ownerId, taskId }, { code: 1 }),
  "a cancellation": (tasks, taskId) => tasks.cancel({ ownerId, taskId }),
  "a move to a terminal status": (tasks, taskId) => tasks.updateStatus({ ownerId, taskId }, "failed")
}

const scenarios: Record<string, Scenario> = {
  "a creation in a process that has not seen the owner": { interrupted: create },
  "a creation in a process that has": { before: create, interrupted: create },
  "a creation that meets another process's change of the ledger": {
    before: (tasks, other) => Effect.andThen(create(tasks), create(other)),
    interrupted: create
  },
  "a creation that is refused": {
    options: { maxTasksPerOwner: 2 },
    before: (tasks, other) => Effect.andThen(create(tasks), create(other)),
    interrupted: create
  },
  "a creation whose id is taken": {
    before: createAgain,
    interrupted: createAgain
  },
  "a creation whose id is taken, if no place is free,": {
    options: { maxTasksPerOwner: 1 },
    before: createAgain,
    interrupted: createAgain
  },
  "a removal": {
    before: create,
    interrupted: (tasks, taskId) => tasks.remove({ ownerId, taskId })
  },
  ...Object.fromEntries(
    Object.entries(endings).flatMap(
      ([name, end]): ReadonlyArray<readonly [string, Scenario]> => [
        [name, { options: uncounted, before: create, interrupted: end }],
        [
          `${name} in a process that has not seen the owner`,
          { options: uncounted, before: (_, other) => create(other), interrupted: end }
        ],
        [
          `${name} that meets another process's change of the ledger`,
          {
            options: uncounted,
            before: (tasks, other) => Effect.andThen(create(tasks), create(other)),
            interrupted: end
          }
        ],
        [
          `${name} with a retry schedule`,
          { options: { ...uncounted, retrySchedule: Schedule.recurs(3) }, before: create, interrupted: end }
        ]
      ]
    )
  ),
  "a removal of a task that has ended": {
    options: uncounted,
    before: (tasks) =>
      Effect.flatMap(create(tasks), ({ task }) =>
        Effect.andThen(create(tasks), tasks.cancel({ ownerId, taskId: task.taskId }))
      ),
    interrupted: (tasks, taskId) => tasks.remove({ ownerId, taskId })
  }
}

/** Runs a scenario and interrupts it at one of its requests. Returns how many requests it took. */
const interruptAt = Effect.fnUntraced(function* (scenario: Scenario, name: string, step: number, isApplied: boolean) {
  const backend = yield* StorageBackend
  let requests = -1
  let fiber: Fiber.Fiber<unknown, unknown> | undefined
  const interrupt = Effect.andThen(
    Effect.sync(() => fiber?.interruptUnsafe()),
    pause
  )
  const fateOf = (): Faults.Fate => {
    if (requests < 0 || requests++ !== step) return "pass"
    return isApplied ? { after: interrupt } : { before: interrupt }
  }
  const { close, tasks } = yield* openStore(wrap(backend, fateOf), scenario.options)
  const other = yield* openStore(backend, scenario.options)
  yield* scenario.before?.(tasks, other.tasks) ?? Effect.void
  const [first] = (yield* tasks.list({ ownerId })).tasks
  requests = 0
  fiber = yield* Effect.forkChild(Effect.andThen(pause, scenario.interrupted(tasks, first?.task.taskId ?? "")))
  yield* Fiber.await(fiber)
  yield* close
  const message = `${name}, interrupted at request ${step}, which was ${isApplied ? "" : "not yet "}applied`
  yield* assertAsManyPlacesAsTasks(backend, message, scenario.options)
  return requests
})

describe("no place stays taken without a task, and no task is without a place", () => {
  for (const [name, scenario] of Object.entries(scenarios)) {
    it.effect(`if ${name} is interrupted at any of its requests, before or after it was applied`, () =>
      Effect.gen(function* () {
        for (const isApplied of [false, true]) {
          let requests = Number.POSITIVE_INFINITY
          for (let step = 0; step <= requests; step++) {
            const taken = yield* interruptAt(scenario, name, step, isApplied).pipe(
              Effect.provide(Layer.fresh(InMemory.layer))
            )
            if (step < taken) continue
            requests = taken
            assert.isAtLeast(requests, 1)
          }
        }
      })
    )
  }

  const file = newFiles()
  const engines = { InMemory: InMemory.layer, Sqlite: Sqlite.layer({ filename: file() }) }
  for (const [engine, layer] of Object.entries(engines)) {
    it.effect(`after many creations, ends and removals that were interrupted at random, on ${engine}`, () =>
      Effect.gen(function* () {
        const random = randomFrom(newSeed("interruptions"))
        const backend = yield* StorageBackend
        const wait = (most: number) => Effect.repeat(Effect.yieldNow, { times: Math.floor(random() * most) })
        const fateOf = (): Faults.Fate => ({ before: wait(8), after: wait(8) })
        const stores = yield* Effect.all([
          openStore(wrap(backend, fateOf), { maxTasksPerOwner: 1000, ...uncounted }),
          openStore(wrap(backend, fateOf), { maxTasksPerOwner: 1000, ...uncounted })
        ])
        const ended = { Success: 0, Failure: 0 }
        yield* Effect.forEach(
          Array.from({ length: 400 }, (_, i) => i),
          (i) =>
            Effect.gen(function* () {
              const tasks = (stores[i % 2] ?? stores[0]).tasks
              const [oldest] = i % 4 === 0 ? (yield* tasks.list({ ownerId })).tasks : []
              const change =
                oldest === undefined
                  ? create(tasks)
                  : i % 8 === 0
                    ? tasks.remove({ ownerId, taskId: oldest.task.taskId })
                    : tasks.cancel({ ownerId, taskId: oldest.task.taskId })
              const fiber = yield* Effect.forkChild(change)
              yield* wait(250)
              yield* Fiber.interrupt(fiber)
              ended[(yield* Fiber.await(fiber))._tag]++
            }),
          { concurrency: 12 }
        )
        for (const { close } of stores) yield* close
        const tasks = yield* assertAsManyPlacesAsTasks(backend, `${JSON.stringify(ended)}`, uncounted)
        assert.isAbove(ended.Success, 20, "too few were finished")
        assert.isAbove(ended.Failure, 20, "too few were interrupted")
        console.log(`${engine}: ${JSON.stringify(ended)}, ${tasks} tasks and as many places`)
      }).pipe(TestClock.withLive, Effect.provide(Layer.fresh(layer)))
    )
  }
})

const unavailable = (outcome: "unknown" | "not-applied") =>
  StorageError.makeBackend({ reason: "Unavailable", outcome, description: "cut by the test" })

describe("a caller", () => {
  it.effect("that is interrupted does not wait for an engine that hangs, and the place comes free afterwards", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      let answer = () => {}
      const hangs = Effect.callback<void>((resume) => {
        answer = () => resume(Effect.void)
      })
      const hanging = yield* openStore(wrap(backend, ({ name }) => (name === "get" ? "pass" : { after: hangs })))
      const fiber = yield* Effect.forkChild(Effect.timeoutOption(create(hanging.tasks), "1 second"))
      yield* pause
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "None")
      assert.deepStrictEqual(yield* count(backend), { places: 1, tasks: 0 })
      const closing = yield* Effect.forkChild(hanging.close)
      yield* pause
      assert.isUndefined(closing.pollUnsafe(), "closing the Layer waits for what was begun")
      answer()
      yield* pause
      answer()
      yield* Fiber.join(closing)
      assert.deepStrictEqual(yield* count(backend), { places: 0, tasks: 0 })
    }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
  )

  it.effect(
    "learns at once that a creation failed or a task is removed, though its place can't be given back yet",
    () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        let isDown = false
        const fateOf = ({ key, name }: Faults.Request): Faults.Fate =>
          isDown && name !== "get" && name !== "deleteIfVersion"
            ? unavailable("not-applied")
            : { after: Effect.sync(() => (isDown ||= name !== "get" && goesDownAfter === key?.id)) }
        let goesDownAfter = "!places"
        const { close, tasks } = yield* openStore(wrap(backend, fateOf))
        const failed = yield* Effect.flip(create(tasks))
        assert.strictEqual(failed._tag, "Backend")
        assert.deepStrictEqual(yield* count(backend), { places: 1, tasks: 0 })
        yield* TestClock.adjust("20 seconds")
        assert.deepStrictEqual(yield* count(backend), { places: 1, tasks: 0 })
        isDown = false
        goesDownAfter = ""
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* count(backend), { places: 0, tasks: 0 })

        const { task } = yield* create(tasks)
        isDown = true
        yield* tasks.remove({ ownerId, taskId: task.taskId })
        assert.deepStrictEqual(yield* count(backend), { places: 1, tasks: 0 })
        isDown = false
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* count(backend), { places: 0, tasks: 0 })
        yield* close
      }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
  )
})

describe("a place whose write has an unknown outcome", () => {
  for (const id of ["the ledger", "the task"]) {
    for (const isApplied of [true, false]) {
      it.effect(
        `to ${id}, ${isApplied ? "" : "not "}applied, is free at the latest when the task would have expired`,
        () =>
          Effect.gen(function* () {
            const backend = yield* StorageBackend
            const fateOf = ({ key, name }: Faults.Request): Faults.Fate =>
              name === "putIfVersion" && key?.id.startsWith("!") === (id === "the ledger")
                ? isApplied
                  ? "lose"
                  : unavailable("unknown")
                : "pass"
            const options = { maxTasksPerOwner: 1, defaultTtl: "1 minute" } as const
            const cut = yield* openStore(wrap(backend, fateOf), options)
            const error = yield* Effect.flip(create(cut.tasks))
            assert.isTrue(error._tag === "Backend" && error.outcome === "unknown")
            yield* cut.close
            const { close, tasks } = yield* openStore(backend, options)
            const isFree = id === "the ledger" && !isApplied
            assert.strictEqual((yield* Effect.result(create(tasks)))._tag, isFree ? "Success" : "Failure")
            yield* TestClock.adjust("1 minute")
            yield* create(tasks)
            yield* close
          }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
      )
    }
  }
})

describe("a creation with an id of the caller's own, whose outcome is unknown,", () => {
  for (const isApplied of [true, false]) {
    it.effect(`can be called again, and makes one task: it was ${isApplied ? "" : "not "}applied`, () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        let isFirst = true
        const fateOf = ({ key }: Faults.Request): Faults.Fate => {
          if (key?.id !== "again" || !isFirst) return "pass"
          isFirst = false
          return isApplied ? "lose" : unavailable("unknown")
        }
        const { close, tasks } = yield* openStore(wrap(backend, fateOf), { maxTasksPerOwner: 2 })
        const error = yield* Effect.flip(createAgain(tasks))
        assert.isTrue(error._tag === "Backend" && error.outcome === "unknown")
        const again = yield* Effect.result(createAgain(tasks))
        const outcome = again._tag === "Success" ? again.success.task.taskId : again.failure._tag
        assert.strictEqual(outcome, isApplied ? "TaskAlreadyExists" : "again")
        yield* tasks.get({ ownerId, taskId: "again" })
        yield* close
      }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
    )
  }
})

describe("a process that dies while it ends a task", () => {
  for (const [name, end] of Object.entries(endings)) {
    it.effect(`leaves no task that goes on without a place, and none taken after its expiry: ${name}`, () =>
      Effect.gen(function* () {
        const options = { maxTasksPerOwner: 1, defaultTtl: "1 minute", ...uncounted } as const
        const free: Array<boolean> = []
        for (let step = 0; step < 6; step++) {
          for (const isApplied of [false, true]) {
            free.push(yield* Effect.provide(dieAt(step, isApplied, options, end), Layer.fresh(InMemory.layer)))
          }
        }
        // It takes four requests: the task's read and write, and the ledger's read and write.
        assert.deepStrictEqual(free, [
          ...Array.from({ length: 7 }, () => false),
          ...Array.from({ length: 5 }, () => true)
        ])
      })
    )
  }

  /** Ends a task in a process that dies at a request. Returns whether the task's place is free before its expiry. */
  const dieAt = Effect.fnUntraced(function* (
    step: number,
    isApplied: boolean,
    options: TaskStore.Options,
    end: (tasks: Tasks, taskId: string) => Effect.Effect<unknown, unknown>
  ) {
    const backend = yield* StorageBackend
    const alive = yield* openStore(backend, options)
    const { task } = yield* create(alive.tasks)
    const isOver = yield* Deferred.make<void>()
    const over = Deferred.succeed(isOver, undefined)
    const fateOf = ({ index }: Faults.Request): Faults.Fate =>
      index === step ? { [isApplied ? "after" : "before"]: Effect.andThen(over, Effect.never) } : "pass"
    const dying = yield* openStore(wrap(backend, fateOf), options)
    yield* Effect.forkDetach(Effect.ensuring(end(dying.tasks, task.taskId), over))
    yield* Deferred.await(isOver)
    const { status } = (yield* alive.tasks.get({ ownerId, taskId: task.taskId })).task
    const next = yield* Effect.result(create(alive.tasks))
    if (next._tag === "Success") assert.notStrictEqual(status, "working", `died at request ${step}`)
    yield* TestClock.adjust("1 minute")
    yield* create(alive.tasks)
    assert.strictEqual((yield* Effect.flip(create(alive.tasks)))._tag, "TooManyTasks")
    return next._tag === "Success"
  })
})

describe("the end of a task", () => {
  const started = Effect.gen(function* () {
    const backend = yield* StorageBackend
    const state = { isDown: false, goesDownAfterTask: false, writes: 0 }
    const fateOf = ({ key, name }: Faults.Request): Faults.Fate => {
      if (name === "get") return "pass"
      const isLedger = key?.id.startsWith("!") === true
      if (isLedger && state.isDown) {
        state.writes++
        return unavailable("not-applied")
      }
      return isLedger ? "pass" : { after: Effect.sync(() => (state.isDown ||= state.goesDownAfterTask)) }
    }
    const { close, tasks } = yield* openStore(wrap(backend, fateOf), uncounted)
    const { task } = yield* create(tasks)
    return { backend, close, state, tasks, taskId: task.taskId }
  })

  it.effect("succeeds though its place can't be freed yet, and the place is freed every 5 seconds until it is", () =>
    Effect.gen(function* () {
      const { backend, close, state, tasks, taskId } = yield* started
      state.goesDownAfterTask = true
      assert.strictEqual((yield* tasks.fail({ ownerId, taskId }, { code: 1 })).task.status, "failed")
      assert.deepStrictEqual(yield* count(backend, uncounted), { places: 1, tasks: 0 })
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(state.writes, 3)
      state.isDown = state.goesDownAfterTask = false
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* count(backend, uncounted), { places: 0, tasks: 0 })
      yield* close
    }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
  )

  it.effect("does not hold up a caller that is interrupted while the engine hangs, and its place comes free", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const answer = yield* Deferred.make<void>()
      const isSent = yield* Deferred.make<void>()
      let isHanging = false
      const hang = Effect.andThen(Deferred.succeed(isSent, undefined), Deferred.await(answer))
      const fateOf = ({ name }: Faults.Request): Faults.Fate =>
        isHanging && name === "putIfVersion" ? { after: hang } : "pass"
      const { close, tasks } = yield* openStore(wrap(backend, fateOf), uncounted)
      const { task } = yield* create(tasks)
      isHanging = true
      const fiber = yield* Effect.forkChild(tasks.cancel({ ownerId, taskId: task.taskId }))
      yield* Deferred.await(isSent)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* count(backend, uncounted), { places: 1, tasks: 0 })
      yield* Deferred.succeed(answer, undefined)
      // This waits for what was begun.
      yield* close
      assert.deepStrictEqual(yield* count(backend, uncounted), { places: 0, tasks: 0 })
    }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
  )

  it.effect("frees its place once among many changes of the task that share writes", () =>
    Effect.gen(function* () {
      const { backend, close, tasks, taskId } = yield* started
      const others = yield* Effect.forEach([1, 2, 3], () => create(tasks))
      const key = { ownerId, taskId }
      const change = (i: number): Effect.Effect<unknown, unknown> =>
        i % 2 === 0 ? tasks.setVariables(key, { [i]: i }) : tasks.cancel(key)
      const results = yield* Effect.forEach(
        Array.from({ length: 64 }, (_, i) => i),
        (i) => Effect.exit(change(i)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(results.filter(({ _tag }) => _tag === "Success").length, 33)
      assert.strictEqual(Object.keys((yield* tasks.get(key)).variables).length, 32)
      assert.deepStrictEqual(yield* count(backend, uncounted), { places: others.length, tasks: others.length })
      yield* close
    }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
  )

  it.effect("frees the place of a task that never expires", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const options = { maxTasksPerOwner: 1, defaultTtl: "Infinity", maxTtl: "Infinity", ...uncounted } as const
      const { close, tasks } = yield* openStore(backend, options)
      for (let i = 0; i < 3; i++) {
        const { task } = yield* create(tasks)
        assert.strictEqual((yield* Effect.flip(create(tasks)))._tag, "TooManyTasks")
        yield* tasks.cancel({ ownerId, taskId: task.taskId })
      }
      yield* close
    }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
  )

  it.effect("frees the very place of its task, if places are rounded", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const options = { maxTasksPerOwner: 1000, ...uncounted }
      const { close, tasks } = yield* openStore(backend, options)
      const created = []
      for (let i = 0; i < 30; i++) {
        created.push(yield* tasks.create({ ownerId, requestMethod, ttl: 200_000 + i * 100_000 }))
        yield* TestClock.adjust(700)
      }
      for (const { task } of created.filter((_, i) => i % 2 === 0))
        yield* tasks.cancel({ ownerId, taskId: task.taskId })
      yield* assertAsManyPlacesAsTasks(backend, "half of them have ended", options)
      for (const { task } of created.filter((_, i) => i % 2 === 1))
        yield* tasks.cancel({ ownerId, taskId: task.taskId })
      assert.deepStrictEqual(yield* count(backend, options), { places: 0, tasks: 0 })
      yield* close
    }).pipe(Effect.provide(Layer.fresh(InMemory.layer)))
  )
})
