import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeBackend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"

const ownerId = "alice"
const ledgerKey = makeUnsafe({ owner: ownerId, id: "!places" })
const create = (tasks: TaskStore.TaskStore["Service"], ttl?: number) =>
  tasks.create({ ownerId, requestMethod: "tools/call", ttl })

const openStore = (options: TaskStore.Options = {}) =>
  Effect.provide(TaskStore.TaskStore, Layer.fresh(TaskStore.layerWith(options)))

const onMemory = Effect.provide(InMemory.layer)

describe("the ledger of an owner's tasks", () => {
  for (const damaged of ["hush", "{}", '{"places":[[1]]}', '{"places":[["hush",1]]}']) {
    it.effect(`that is damaged fails the creation, and says how to mend it: ${damaged}`, () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const tasks = yield* openStore()
        yield* backend.put(ledgerKey, damaged)
        const error = yield* Effect.flip(create(tasks))
        assert.isTrue(error._tag === "Backend" && error.reason._tag === "Corrupt", `${error}`)
        assert.deepInclude(error, { outcome: "not-applied", operation: "places" })
        assert.include(error.message, "The ledger of tasks at alice:!places is damaged. Delete it")
        assert.notInclude(error.message, "hush")
        assert.strictEqual((yield* backend.get(ledgerKey)).data, damaged)
        yield* backend.delete(ledgerKey)
        yield* create(tasks)
      }).pipe(onMemory)
    )
  }

  it.effect("expires when its last place comes free, and never if a task has no end", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const tasks = yield* openStore({ maxTtl: "Infinity" })
      yield* create(tasks, 20_000)
      yield* create(tasks, 10_000)
      assert.strictEqual((yield* backend.get(ledgerKey)).expiresAt?.epochMilliseconds, 20_000)
      yield* create(tasks, Number.POSITIVE_INFINITY)
      assert.isUndefined((yield* backend.get(ledgerKey)).expiresAt)
    }).pipe(onMemory)
  )

  it.effect("holds a place until the second in which its task expires, and not in it", () =>
    Effect.gen(function* () {
      const tasks = yield* openStore({ maxTasksPerOwner: 1 })
      yield* create(tasks, 10_000)
      yield* TestClock.setTime(9_999)
      assert.strictEqual((yield* Effect.flip(create(tasks)))._tag, "TooManyTasks")
      yield* TestClock.setTime(10_000)
      yield* create(tasks)
    }).pipe(onMemory)
  )

  it.effect("is looked at again before a creation is refused, since another process may have made room", () =>
    Effect.gen(function* () {
      const [one, other] = [yield* openStore({ maxTasksPerOwner: 1 }), yield* openStore({ maxTasksPerOwner: 1 })]
      const { task } = yield* create(one)
      yield* other.remove({ ownerId, taskId: task.taskId })
      yield* create(one)
      const error = yield* Effect.flip(create(one))
      assert.deepInclude(error, { _tag: "TooManyTasks", limit: 1 })
    }).pipe(onMemory)
  )
})

/** A memory backend that notes the writes to the ledger, and fails them while it is down. */
const breakable = Effect.map(StorageBackend, (backend) => {
  const state = { isDown: false, outcome: "not-applied" as "not-applied" | "unknown", writes: 0 }
  const putIfVersion: typeof backend.putIfVersion = (key, ...rest) =>
    Effect.suspend(() => {
      if (key.id !== ledgerKey.id) return backend.putIfVersion(key, ...rest)
      state.writes++
      return state.isDown
        ? Effect.fail(makeBackend({ reason: "Unavailable", outcome: state.outcome, description: "down" }))
        : backend.putIfVersion(key, ...rest)
    })
  return { state, backend: { ...backend, putIfVersion } }
})

describe("a removal after the ledger was deleted, as its error says,", () => {
  it.effect("removes the task, and makes no ledger for it", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const tasks = yield* openStore()
      const { task } = yield* create(tasks)
      yield* backend.delete(ledgerKey)
      yield* tasks.remove({ ownerId, taskId: task.taskId })
      assert.deepStrictEqual((yield* tasks.list({ ownerId })).tasks, [])
      assert.strictEqual((yield* Effect.flip(backend.get(ledgerKey)))._tag, "RecordNotFound")
    }).pipe(onMemory)
  )
})

/** A memory backend that counts its reads and its conditional writes. */
const counted = Effect.map(StorageBackend, (backend) => {
  const requests = { reads: 0, writes: 0 }
  const count = (name: keyof typeof requests) => Effect.sync(() => requests[name]++)
  return {
    requests,
    backend: StorageBackend.of({
      ...backend,
      get: (key) => Effect.andThen(count("reads"), backend.get(key)),
      putIfVersion: (...args) => Effect.andThen(count("writes"), backend.putIfVersion(...args))
    })
  }
})

describe("a creation that another process was ahead of", () => {
  it.effect("starts from the ledger that the conflict carried, without a read", () =>
    Effect.gen(function* () {
      const { backend, requests } = yield* counted
      const one = yield* Effect.provideService(openStore(), StorageBackend, backend)
      const other = yield* openStore()
      yield* create(one)
      yield* create(other)
      requests.reads = requests.writes = 0
      yield* create(one)
      assert.deepStrictEqual(requests, { reads: 0, writes: 3 })
    }).pipe(onMemory)
  )

  it.effect("is refused after one read if that process took the last place", () =>
    Effect.gen(function* () {
      const { backend, requests } = yield* counted
      const options = { maxTasksPerOwner: 1 }
      yield* create(yield* openStore(options))
      const tasks = yield* Effect.provideService(openStore(options), StorageBackend, backend)
      assert.strictEqual((yield* Effect.flip(create(tasks)))._tag, "TooManyTasks")
      assert.deepStrictEqual(requests, { reads: 1, writes: 0 })
    }).pipe(onMemory)
  )
})

describe("a place that can't be given back", () => {
  const started = Effect.gen(function* () {
    const { backend, state } = yield* breakable
    const tasks = yield* TaskStore.TaskStore.pipe(
      Effect.provide(
        yield* Layer.build(Layer.fresh(TaskStore.layer)).pipe(Effect.provideService(StorageBackend, backend))
      )
    )
    const { task } = yield* create(tasks, 60_000)
    state.writes = 0
    state.isDown = true
    return { state, remove: tasks.remove({ ownerId, taskId: task.taskId }) }
  })

  it.effect("is tried again every 5 seconds until it succeeds", () =>
    Effect.gen(function* () {
      const { remove, state } = yield* started
      yield* remove
      assert.strictEqual(state.writes, 1)
      yield* TestClock.adjust(4_999)
      assert.strictEqual(state.writes, 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(state.writes, 2)
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(state.writes, 3)
      state.isDown = false
      yield* TestClock.adjust("60 seconds")
      assert.strictEqual(state.writes, 4)
    }).pipe(Effect.scoped, onMemory)
  )

  it.effect("is not tried again once it has come free by itself", () =>
    Effect.gen(function* () {
      const { remove, state } = yield* started
      yield* remove
      yield* TestClock.adjust("10 minutes")
      // At once, and after 5, 10, and so on up to 55 seconds.
      assert.strictEqual(state.writes, 12)
    }).pipe(Effect.scoped, onMemory)
  )

  it.effect("is not tried again if it may have been given back", () =>
    Effect.gen(function* () {
      const { remove, state } = yield* started
      state.outcome = "unknown"
      yield* remove
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual(state.writes, 1)
    }).pipe(Effect.scoped, onMemory)
  )

  it.effect("is not asked for if it has come free by itself", () =>
    Effect.gen(function* () {
      const { remove, state } = yield* started
      state.isDown = false
      yield* TestClock.setTime(60_000)
      yield* remove
      assert.strictEqual(state.writes, 0)
    }).pipe(Effect.scoped, onMemory)
  )
})
