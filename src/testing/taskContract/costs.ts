/** What operations cost, and how long they try. */
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, newOwner } from "../internal/support.ts"
import { type Case, counted, endings, example, makeTasks, newTask, requestMethod } from "../internal/taskDrafts.ts"

export const costs: ReadonlyArray<Case> = [
  example(
    "a creation costs the same however many tasks the owner has, and so does the first page of a list",
    Effect.fnUntraced(function* () {
      const { backend: watched, requests: operations } = yield* counted()
      const newProcess = Effect.provideService(makeTasks({ maxTasksPerOwner: 1000 }), StorageBackend, watched)
      const tasks = yield* newProcess
      const ownerId = yield* newOwner
      const create = tasks.create({ ownerId, requestMethod })
      const costOf = <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.andThen(
          Effect.sync(() => operations.splice(0)),
          Effect.map(effect, () => operations.splice(0))
        )
      assert.deepStrictEqual(yield* costOf(create), ["get", "putIfVersion", "putIfVersion"])
      for (const more of [0, 10, 300]) {
        yield* Effect.repeat(create, { times: more })
        assert.deepStrictEqual(yield* costOf(create), ["putIfVersion", "putIfVersion"])
        assert.deepStrictEqual(yield* costOf(tasks.list({ ownerId, limit: 10 })), ["listByPrefix"])
      }
      const cold = yield* newProcess
      assert.deepStrictEqual(yield* costOf(cold.create({ ownerId, requestMethod })), [
        "get",
        "putIfVersion",
        "putIfVersion"
      ])
    })
  ),

  example(
    "a refused creation costs one request, and nothing is written",
    Effect.fnUntraced(function* () {
      const { backend: watched, requests: operations } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks({ maxTasksPerOwner: 1 }), StorageBackend, watched)
      const ownerId = yield* newOwner
      yield* tasks.create({ ownerId, requestMethod })
      operations.length = 0
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      assert.deepStrictEqual(operations, ["get"])
    })
  ),

  example(
    "a task that ends costs two requests, and a third one if its place is freed",
    Effect.fnUntraced(function* () {
      const { backend: watched, requests: operations } = yield* counted()
      for (const countTerminal of [true, false]) {
        const tasks = yield* Effect.provideService(makeTasks({ countTerminal }), StorageBackend, watched)
        for (const end of endings) {
          const { key } = yield* newTask(tasks)
          operations.length = 0
          yield* end(tasks, key)
          assert.deepStrictEqual(
            operations,
            countTerminal ? ["get", "putIfVersion"] : ["get", "putIfVersion", "putIfVersion"]
          )
          operations.length = 0
          yield* tasks.remove(key)
          assert.deepStrictEqual(
            operations,
            countTerminal ? ["get", "deleteIfVersion", "putIfVersion"] : ["get", "deleteIfVersion"]
          )
        }
        const { key } = yield* newTask(tasks)
        operations.length = 0
        yield* tasks.updateStatus(key, "input_required")
        assert.deepStrictEqual(operations, ["get", "putIfVersion"])
      }
    })
  ),

  example(
    "a creation with a taken id costs three requests, and one more than a refused one if there is no place",
    Effect.fnUntraced(function* () {
      const { backend: watched, requests: operations } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks({ maxTasksPerOwner: 2 }), StorageBackend, watched)
      const ownerId = yield* newOwner
      const create = tasks.create({ ownerId, requestMethod, id: "a" })
      yield* create
      operations.length = 0
      yield* failsWith(create, "TaskAlreadyExists")
      assert.deepStrictEqual(operations, ["putIfVersion", "putIfVersion", "putIfVersion"])
      yield* tasks.create({ ownerId, requestMethod, id: "b" })
      operations.length = 0
      yield* failsWith(create, "TaskAlreadyExists")
      assert.deepStrictEqual(operations, ["get", "get"])
    })
  ),

  example(
    "a conflict that goes on until the schedule is spent is ConcurrentModification",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const backend = yield* StorageBackend
      const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const meddling = yield* counted(({ name }) =>
        name === "putIfVersion"
          ? { before: Effect.flatMap(backend.get(stored), (record) => backend.put(stored, record.data)) }
          : "pass"
      )
      const contended = yield* Effect.provideService(
        makeTasks({ retrySchedule: Schedule.recurs(3) }),
        StorageBackend,
        meddling.backend
      )
      const error = yield* failsWith(contended.cancel(key), "ConcurrentModification")
      assert.strictEqual(error.taskId, key.taskId)
      assert.strictEqual((yield* tasks.get(key)).task.status, "working")
    })
  )
]
