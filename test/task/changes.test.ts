import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as StorageError from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"

type Tasks = TaskStore.TaskStore["Service"]
type Backend = StorageBackend["Service"]

const ownerId = "alice"
const requestMethod = "tools/call"
const layer = Layer.provideMerge(TaskStore.layer, InMemory.layer)

/** A store, and a task in it. */
const start = (tasks: Tasks) =>
  Effect.map(tasks.create({ ownerId, requestMethod }), ({ task: { taskId } }) => ({ ownerId, taskId }))

/** A store on the backend with some operations changed. */
const openWith = (change: (backend: Backend) => Partial<Backend>, options: TaskStore.Options = {}) =>
  StorageBackend.use((backend) =>
    Effect.provide(
      TaskStore.TaskStore,
      Layer.fresh(TaskStore.layerWith(options)).pipe(
        Layer.provide(Layer.succeed(StorageBackend, { ...backend, ...change(backend) }))
      )
    )
  )

describe("a change of a task", () => {
  it.effect("fails with TaskNotFound if another client removes the task before it is written", () =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const key = yield* start(tasks)
      const slow = yield* openWith((backend) => ({
        putIfVersion: (...args) => Effect.andThen(Effect.orDie(tasks.remove(key)), backend.putIfVersion(...args))
      }))
      const error = yield* Effect.flip(slow.setStatusMessage(key, "late"))
      assert.deepInclude(error, { _tag: "TaskNotFound", taskId: key.taskId })
    }).pipe(Effect.provide(layer))
  )

  it.effect("keeps the expiry of the task's record", () =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const backend = yield* StorageBackend
      const key = yield* start(tasks)
      const stored = backend.get(makeUnsafe({ owner: ownerId, id: key.taskId }))
      const { expiresAt } = yield* stored
      assert.strictEqual(expiresAt?.epochMilliseconds, 2 * 3_600_000)
      yield* tasks.setStatusMessage(key, "half")
      assert.deepStrictEqual((yield* stored).expiresAt, expiresAt)
    }).pipe(Effect.provide(layer))
  )

  it.effect("fails with the error of the backend as it is", () =>
    Effect.gen(function* () {
      const down = StorageError.makeBackend({ reason: "Unavailable", outcome: "not-applied", description: "down" })
      const working = yield* TaskStore.TaskStore
      const key = yield* start(working)
      const tasks = yield* openWith(() => ({ get: () => Effect.fail(down) }))
      for (const operation of [tasks.get(key), tasks.cancel(key), tasks.remove(key)]) {
        assert.strictEqual(yield* Effect.flip(operation as Effect.Effect<unknown, unknown>), down)
      }
      assert.strictEqual((yield* working.get(key)).task.status, "working")
    }).pipe(Effect.provide(layer))
  )
})

describe("a task that never expires", () => {
  it.effect("is changed and waited for like any other", () =>
    Effect.gen(function* () {
      const tasks = yield* openWith((backend) => backend, { defaultTtl: "Infinity", maxTtl: "Infinity" })
      const key = yield* start(tasks)
      yield* TestClock.adjust("400 days")
      assert.strictEqual((yield* tasks.setStatusMessage(key, "half")).task.statusMessage, "half")
      const open = yield* Effect.flip(tasks.awaitTerminal(key, { schedule: Schedule.recurs(0) }))
      assert.strictEqual(open._tag, "TaskNotReady")
      yield* tasks.cancel(key)
      assert.strictEqual((yield* tasks.awaitTerminal(key)).task.status, "cancelled")
    }).pipe(Effect.provide(layer))
  )
})

describe("a delivery of inputs", () => {
  it.effect("completes nothing if the task has asked for nothing", () =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const key = yield* start(tasks)
      yield* tasks.updateStatus(key, "input_required")
      const delivery = yield* tasks.deliverInputs(key, { other: 1 })
      assert.deepStrictEqual(delivery, { accepted: [], ignored: ["other"], complete: false })
      assert.strictEqual((yield* tasks.get(key)).task.status, "input_required")
    }).pipe(Effect.provide(layer))
  )
})

describe("a removal", () => {
  it.effect("asks nothing of the owner's ledger if it removes no task, or one that can't be read", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const requests: Array<string> = []
      const note = (name: string, { id }: { readonly id: string }) => Effect.sync(() => requests.push(`${name} ${id}`))
      const tasks = yield* openWith((backend) => ({
        get: (key) => Effect.andThen(note("get", key), backend.get(key)),
        deleteIfVersion: (key, expected) =>
          Effect.andThen(note("deleteIfVersion", key), backend.deleteIfVersion(key, expected))
      }))
      yield* start(tasks)
      requests.length = 0
      yield* Effect.flip(tasks.remove({ ownerId, taskId: "missing" }))
      assert.deepStrictEqual(requests, ["get missing"])
      yield* backend.put(makeUnsafe({ owner: ownerId, id: "damaged" }), "half a rec")
      requests.length = 0
      yield* tasks.remove({ ownerId, taskId: "damaged" })
      assert.deepStrictEqual(requests, ["get damaged", "deleteIfVersion damaged"])
    }).pipe(Effect.provide(layer))
  )
})

/** Input that only JavaScript lets pass. */
const notObjects: ReadonlyArray<unknown> = [1, "text", null, undefined, [1], new Map(), () => 1]

describe("input by name", () => {
  it.effect("is refused if it is not an object, and nothing is written", () =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const key = yield* start(tasks)
      const before = yield* tasks.get(key)
      for (const value of notObjects) {
        const requests = yield* Effect.flip(tasks.recordInputRequests(key, value as never))
        const shape = { taskId: key.taskId, path: [], problem: "NotJson" } as const
        assert.deepInclude(requests, { _tag: "InvalidPayload", part: "inputRequests", ...shape })
        const variables = yield* Effect.flip(tasks.setVariables(key, value as never))
        assert.deepInclude(variables, { _tag: "InvalidVariables", ...shape })
      }
      assert.deepStrictEqual(yield* tasks.get(key), before)
    }).pipe(Effect.provide(layer))
  )
})

describe("the limits of a task's input", () => {
  it.effect("are the ones that are documented, and what just fits is stored", () =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const key = yield* start(tasks)
      yield* tasks.setStatusMessage(key, "x".repeat(65_536))
      const long = yield* Effect.flip(tasks.setStatusMessage(key, "x".repeat(65_537)))
      assert.deepInclude(long, { _tag: "PayloadTooLarge", part: "statusMessage", limit: 65_536, actual: 65_537 })
      yield* tasks.setVariables(key, { a: "x".repeat(65_536) })
      const text = yield* Effect.flip(tasks.setVariables(key, { a: "x".repeat(65_537) }))
      assert.deepInclude(text, { _tag: "InvalidVariables", problem: "StringTooLong", path: ["a"] })
      const large = yield* Effect.flip(tasks.setResult(key, "x".repeat(1024 * 1024 - 1)))
      assert.deepInclude(large, { _tag: "PayloadTooLarge", part: "result", limit: 1_048_576, actual: 1_048_577 })
      const capacity = yield* Effect.flip(tasks.setResult(key, "x".repeat(1024 * 1024 - 2)))
      assert.strictEqual(capacity._tag, "CapacityExceeded")
      const nested = (depth: number): never => (depth === 0 ? 1 : [nested(depth - 1)]) as never
      yield* tasks.setVariables(key, { a: nested(10) })
      assert.deepInclude(yield* Effect.flip(tasks.setVariables(key, { a: nested(11) })), { problem: "TooDeep" })
    }).pipe(Effect.provide(layer))
  )
})

describe("who waits for a task", () => {
  it.effect("looks every pollInterval, 500 ms by default", () =>
    Effect.gen(function* () {
      for (const [options, interval] of [
        [{}, 500],
        [{ pollInterval: "2 seconds" }, 2000]
      ] as const) {
        let looks = 0
        const tasks = yield* openWith(
          (backend) => ({ get: (key) => Effect.tap(backend.get(key), () => Effect.sync(() => looks++)) }),
          options
        )
        const key = yield* start(tasks)
        looks = 0
        const fiber = yield* Effect.forkChild(tasks.awaitTerminal(key))
        yield* TestClock.adjust(0)
        assert.strictEqual(looks, 1)
        yield* TestClock.adjust(interval - 1)
        assert.strictEqual(looks, 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(looks, 2)
        yield* Fiber.interrupt(fiber)
      }
    }).pipe(Effect.provide(layer))
  )
})

describe("who watches a task", () => {
  it.effect("fails with TaskExpired in the moment of its expiry, without a hint or the schedule", () =>
    Effect.gen(function* () {
      const tasks = yield* openWith(() => ({ hints: () => Stream.never }))
      const { task } = yield* tasks.create({ ownerId, requestMethod, ttl: "90 seconds" })
      const key = { ownerId, taskId: task.taskId }
      const waiting = Effect.flip(tasks.awaitTerminal(key, { schedule: Schedule.spaced("1 day") }))
      const fiber = yield* Effect.forkChild(waiting, { startImmediately: true })
      yield* TestClock.adjust(89_999)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "TaskExpired")
    }).pipe(Effect.provide(layer))
  )

  it.effect("waits while the backend can't be reached, and fails if another client removes the task", () =>
    Effect.gen(function* () {
      let isDown = true
      const down = StorageError.makeBackend({ reason: "Unavailable", outcome: "not-applied", description: "down" })
      const working = yield* TaskStore.TaskStore
      const key = yield* start(working)
      const tasks = yield* openWith((backend) => ({
        get: (key) => Effect.suspend(() => (isDown ? Effect.fail(down) : backend.get(key)))
      }))
      const fiber = yield* Effect.forkChild(Effect.flip(tasks.awaitTerminal(key)), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      assert.isUndefined(fiber.pollUnsafe())
      isDown = false
      yield* TestClock.adjust("1 second")
      assert.isUndefined(fiber.pollUnsafe())
      yield* working.remove(key)
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "TaskNotFound")
    }).pipe(Effect.provide(Layer.provideMerge(layer, Logger.layer([]))))
  )
})

describe("a new task", () => {
  it.effect("never expires if its record could not expire at a date, for example since it can be read for ever", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const lastMillisecond = 8.64e15
      for (const [grace, ttl, isForever] of [
        ["Infinity", 1000, true],
        [1000, lastMillisecond - 999, true],
        [1000, lastMillisecond - 1000, false]
      ] as const) {
        const tasks = yield* openWith((backend) => backend, { grace, maxTtl: "Infinity" })
        const { expiresAt, placeUntil, task } = yield* tasks.create({ ownerId, requestMethod, ttl })
        const stored = yield* backend.get(makeUnsafe({ owner: ownerId, id: task.taskId }))
        assert.strictEqual(task.ttl, ttl)
        assert.deepStrictEqual(
          [expiresAt === null, placeUntil === null, stored.expiresAt === undefined],
          [isForever, isForever, isForever]
        )
      }
    }).pipe(Effect.provide(layer))
  )

  it.effect("whose id is taken by chance fails with TaskAlreadyExists, and replaces nothing", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      let id = ""
      const tasks = yield* openWith(() => ({
        putIfVersion: (key, ...args) => {
          if (key.id.startsWith("!")) return backend.putIfVersion(key, ...args)
          id = key.id
          return Effect.andThen(Effect.orDie(backend.put(key, "theirs")), backend.putIfVersion(key, ...args))
        }
      }))
      const error = yield* Effect.flip(tasks.create({ ownerId, requestMethod }))
      assert.deepInclude(error, { _tag: "TaskAlreadyExists", taskId: id })
      assert.strictEqual((yield* backend.get(makeUnsafe({ owner: ownerId, id }))).data, "theirs")
    }).pipe(Effect.provide(layer))
  )

  it.effect("fails with ConcurrentModification if others are always first at the owner's ledger", () =>
    Effect.gen(function* () {
      const tasks = yield* openWith(
        (backend) => ({
          putIfVersion: (key, ...args) =>
            Effect.andThen(Effect.orDie(backend.put(key, '{"places":[]}')), backend.putIfVersion(key, ...args))
        }),
        { retrySchedule: Schedule.recurs(0) }
      )
      const fiber = yield* Effect.forkChild(Effect.flip(tasks.create({ ownerId, requestMethod })))
      yield* TestClock.adjust("1 minute")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag, "ConcurrentModification")
      assert.match((error as { readonly taskId: string }).taskId, /^0{12}-[0-9a-f-]{36}$/)
    }).pipe(Effect.provide(layer))
  )
})
