/** No owner sees, changes or removes what is not their task. */
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import type * as TaskStore from "../../task/TaskStore.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, newOwner } from "../internal/support.ts"
import {
  type Case,
  counted,
  example,
  makeTasks,
  newTask,
  requestMethod,
  type TaskErrors
} from "../internal/taskDrafts.ts"

export const isolation: ReadonlyArray<Case> = [
  example(
    "another owner's task can't be told from one that does not exist, in any operation",
    Effect.fnUntraced(function* () {
      const { backend: watched, requests: operations } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, watched)
      const { key } = yield* newTask(tasks)
      const stranger = yield* newOwner
      const operationsOf: Record<string, (key: TaskStore.TaskKey) => Effect.Effect<unknown, TaskErrors>> = {
        get: tasks.get,
        getResult: tasks.getResult,
        getError: tasks.getError,
        inputSnapshot: tasks.inputSnapshot,
        awaitTerminal: (key) => tasks.awaitTerminal(key),
        changes: (key) => Stream.runDrain(tasks.changes(key)),
        updateStatus: (key) => tasks.updateStatus(key, "completed"),
        setStatusMessage: (key) => tasks.setStatusMessage(key, "theirs"),
        setVariables: (key) => tasks.setVariables(key, { a: 1 }),
        setResult: (key) => tasks.setResult(key, 1),
        completeWithResult: (key) => tasks.completeWithResult(key, { status: "failed", result: 1 }),
        fail: (key) => tasks.fail(key, { code: 1 }),
        setError: (key) => tasks.setError(key, { code: 1 }),
        recordInputRequests: (key) => tasks.recordInputRequests(key, { a: 1 }),
        deliverInputs: (key) => tasks.deliverInputs(key, { a: 1 }),
        cancel: (key) => tasks.cancel(key),
        remove: tasks.remove
      }
      const before = yield* tasks.get(key)
      for (const [name, operation] of Object.entries(operationsOf)) {
        const seen = []
        for (const taskId of [key.taskId, "0193fd2c8a1b-none"]) {
          operations.length = 0
          const error = yield* failsWith(operation({ ownerId: stranger, taskId }), "TaskNotFound")
          assert.strictEqual(error.taskId, taskId)
          seen.push({ ...error, taskId: "", message: error.message.replace(taskId, ""), requests: [...operations] })
        }
        assert.deepStrictEqual(seen[0], seen[1], name)
      }
      assert.deepStrictEqual(yield* tasks.get(key), before)
      assert.deepStrictEqual((yield* tasks.list({ ownerId: stranger })).tasks, [])
    })
  ),

  example(
    "a stored task that says it is another owner's is not shown, changed or removed",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      const ownerId = yield* newOwner
      const stored = yield* backend.put(makeUnsafe({ owner: ownerId, id: key.taskId }), JSON.stringify(record))
      const stolen = { ownerId, taskId: key.taskId }
      yield* failsWith(tasks.get(stolen), "TaskNotFound")
      yield* failsWith(tasks.cancel(stolen), "TaskNotFound")
      yield* failsWith(tasks.remove(stolen), "TaskNotFound")
      assert.deepStrictEqual((yield* tasks.list({ ownerId })).tasks, [])
      assert.strictEqual((yield* backend.get(stored.key)).version, stored.version)
    })
  ),

  example(
    "an id that no task can have is that of none, and no request is made for it",
    Effect.fnUntraced(function* () {
      const { backend: watched, requests: operations } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, watched)
      const { key } = yield* newTask(tasks)
      operations.length = 0
      for (const taskId of ["", "!places", "\ud800", "a\0", "a".repeat(513)]) {
        yield* failsWith(tasks.get({ ...key, taskId }), "TaskNotFound")
        yield* failsWith(tasks.cancel({ ...key, taskId }), "TaskNotFound")
      }
      for (const ownerId of ["\ud800", "a\0", "a".repeat(1025)]) {
        yield* failsWith(tasks.get({ ...key, ownerId }), "InvalidKey")
        yield* failsWith(tasks.create({ ownerId, requestMethod }), "InvalidKey")
      }
      assert.deepStrictEqual(operations, [])
    })
  ),

  example(
    "anonymous owners are refused, unless they are allowed",
    Effect.fnUntraced(function* (tasks) {
      const key = { ownerId: "local", taskId: "a" }
      for (const ownerId of ["", "local"]) {
        yield* failsWith(tasks.create({ ownerId, requestMethod }), "AnonymousOwner")
        yield* failsWith(tasks.get({ ...key, ownerId }), "AnonymousOwner")
        yield* failsWith(tasks.cancel({ ...key, ownerId }), "AnonymousOwner")
        yield* failsWith(tasks.list({ ownerId }), "AnonymousOwner")
      }
      const open = yield* makeTasks({ allowAnonymous: true })
      const { task } = yield* open.create({ ownerId: "", requestMethod })
      assert.strictEqual((yield* open.get({ ownerId: "local", taskId: task.taskId })).ownerId, "local")
      yield* open.remove({ ownerId: "", taskId: task.taskId })
    })
  ),

  example(
    "a record of another store is not a task: it is not found, not listed and not removed",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      for (const [taskId, data] of [
        ["order/42", '{"total":10}'],
        ["count", "1"],
        ["task", '{"task":"shopping"}']
      ] as const) {
        const stored = yield* backend.put(makeUnsafe({ owner: key.ownerId, id: taskId }), data)
        yield* failsWith(tasks.get({ ...key, taskId }), "TaskNotFound")
        yield* failsWith(tasks.cancel({ ...key, taskId }), "TaskNotFound")
        yield* failsWith(tasks.remove({ ...key, taskId }), "TaskNotFound")
        assert.strictEqual((yield* backend.get(stored.key)).version, stored.version)
      }
      const page = yield* tasks.list(key)
      assert.deepStrictEqual([page.tasks, page.unreadable], [[record], []])
    })
  )
]
