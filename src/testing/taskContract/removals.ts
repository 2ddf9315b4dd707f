/** Removing tasks. */
import * as Effect from "effect/Effect"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import type * as TaskStore from "../../task/TaskStore.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, newOwner } from "../internal/support.ts"
import { type Case, counted, example, keyOf, makeTasks, newTask, requestMethod } from "../internal/taskDrafts.ts"

/** A store in whose removals another client does something between the read and the removal, the first time. */
const overtakenBy = Effect.fnUntraced(function* (
  options: TaskStore.Options,
  meddle: (key: TaskStore.TaskKey) => Effect.Effect<unknown, unknown>
) {
  let isFirst = true
  const { backend } = yield* counted(({ key, name }) => {
    if (!isFirst || !name.startsWith("delete") || key === undefined || key.id.startsWith("!")) return "pass"
    isFirst = false
    return { before: meddle({ ownerId: key.owner, taskId: key.id }) }
  })
  return yield* Effect.provideService(makeTasks(options), StorageBackend, backend)
})

export const removals: ReadonlyArray<Case> = [
  example(
    "a removed task is gone, and its place is free",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxTasksPerOwner: 2 })
      const ownerId = yield* newOwner
      const first = yield* tasks.create({ ownerId, requestMethod })
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* tasks.remove(keyOf(first))
      yield* failsWith(tasks.get(keyOf(first)), "TaskNotFound")
      yield* failsWith(tasks.remove(keyOf(first)), "TaskNotFound")
      yield* tasks.create({ ownerId, requestMethod })
      const error = yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      assert.strictEqual(error.limit, 2)
    })
  ),

  example(
    "of two removals of one task at once one removes it, and its place is free once",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 2 }
      const tasks = yield* makeTasks(options)
      const slow = yield* overtakenBy(options, tasks.remove)
      const ownerId = yield* newOwner
      const first = yield* tasks.create({ ownerId, requestMethod })
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(slow.remove(keyOf(first)), "TaskNotFound")
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
    })
  ),

  example(
    "a removal takes the task that it has read, and no other record under its key, though of the same version",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const read = yield* backend.get(stored)
      const theirs = JSON.stringify({ ...record, ownerId: yield* newOwner })
      const slow = yield* overtakenBy({}, () =>
        Effect.andThen(backend.delete(stored), backend.putIfVersion(stored, theirs, 0))
      )
      yield* failsWith(slow.remove(key), "TaskNotFound")
      const left = yield* backend.get(stored)
      assert.deepStrictEqual([left.version, left.data], [read.version, theirs])
    })
  ),

  example(
    "a removal that a change of the task overtakes removes the task as changed",
    Effect.fnUntraced(function* (tasks) {
      const slow = yield* overtakenBy({}, (key) => tasks.setStatusMessage(key, "changed"))
      const { key } = yield* newTask(tasks)
      yield* slow.remove(key)
      yield* failsWith(tasks.get(key), "TaskNotFound")
    })
  )
]
