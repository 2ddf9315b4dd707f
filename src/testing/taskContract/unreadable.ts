/** Records of tasks that can't be read. */
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import * as Task from "../../task/Task.ts"
import type * as TaskStore from "../../task/TaskStore.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, newOwner, toWholeSecond } from "../internal/support.ts"
import { type Case, counted, example, makeTasks, newTask, requestMethod } from "../internal/taskDrafts.ts"

/** Records of tasks that can't be read, by what is wrong with them. */
const damages: ReadonlyArray<readonly [name: string, damage: (record: Task.TaskRecord) => string]> = [
  ["a status of a later version", (record) => withTask(record, { status: "paused" })],
  ["a time to live above 2^53", (record) => withTask(record, { ttl: 42 }).replace("42", "18446744073709551615")],
  ["a time that is not one", (record) => withTask(record, { createdAt: "2016-12-31T23:59:61Z" })],
  ["a field missing", (record) => JSON.stringify({ ...record, requestMethod: undefined })],
  ["a field of another type", (record) => JSON.stringify({ ...record, variables: [] })],
  ["no owner", (record) => JSON.stringify({ ...record, ownerId: undefined })],
  ["data that is not JSON", (record) => JSON.stringify(record).slice(0, -20)]
]

const withTask = (record: Task.TaskRecord, fields: Readonly<Record<string, unknown>>) =>
  JSON.stringify({ ...record, task: { ...record.task, ...fields } })

export const unreadable: ReadonlyArray<Case> = [
  ...damages.map(([name, damage]) =>
    example(
      `a task with ${name} is left out of a list and counted, can't be read or changed, and can be removed`,
      Effect.fnUntraced(function* (tasks) {
        const backend = yield* StorageBackend
        const { key, record } = yield* newTask(tasks)
        const other = yield* tasks.create({ ownerId: key.ownerId, requestMethod })
        const taskId = "1-damaged"
        const damaged = { ...key, taskId }
        const at = makeUnsafe({ owner: key.ownerId, id: taskId })
        yield* backend.put(at, damage({ ...record, task: { ...record.task, taskId } }))
        const byId = (id: string) => (a: Task.TaskRecord) => a.task.taskId === id
        for (const limit of [1, 100]) {
          const [found, leftOut]: [Array<Task.TaskRecord>, Array<string>] = [[], []]
          let cursor: string | undefined
          do {
            const page = yield* tasks.list({ ...key, limit, cursor })
            found.push(...page.tasks)
            leftOut.push(...page.unreadable)
            cursor = page.cursor
          } while (cursor !== undefined)
          assert.strictEqual(found.length, 2)
          assert.isTrue(found.some(byId(key.taskId)) && found.some(byId(other.task.taskId)))
          assert.deepStrictEqual(leftOut, [taskId])
        }
        for (const operation of [tasks.get(damaged), tasks.cancel(damaged), tasks.setResult(damaged, 1)]) {
          const error = yield* failsWith(operation as Effect.Effect<unknown, TaskStore.ReadError>, "Backend")
          assert.strictEqual(error.reason._tag, "Corrupt")
          assert.strictEqual(error.outcome, "not-applied")
          assert.include(error.message, `${at}`)
          assert.include(error.message, "TaskStore.remove")
        }
        yield* tasks.remove(damaged)
        assert.deepStrictEqual((yield* tasks.list(key)).unreadable, [])
        yield* failsWith(tasks.get(damaged), "TaskNotFound")
        yield* failsWith(tasks.remove(damaged), "TaskNotFound")
      })
    )
  ),

  example(
    "a task that was damaged and then removed holds its place until it would have expired",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1 })
      const backend = yield* StorageBackend
      const { key } = yield* newTask(tasks, { ttl: 10_000 })
      yield* backend.put(makeUnsafe({ owner: key.ownerId, id: key.taskId }), "half a rec")
      yield* tasks.remove(key)
      yield* failsWith(tasks.create({ ...key, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("10 seconds")
      yield* tasks.create({ ...key, requestMethod })
    })
  ),

  example(
    "a damaged task is removed only as it was read: one that is repaired meanwhile is read again",
    Effect.fnUntraced(function* () {
      const backend = yield* StorageBackend
      let deletions = 0
      const repairing = yield* counted(({ key, name }) =>
        name === "deleteIfVersion" && key !== undefined && deletions++ === 0
          ? { before: backend.put(key, '{"total":10}') }
          : "pass"
      )
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, repairing.backend)
      const key = { ownerId: yield* newOwner, taskId: "damaged" }
      const at = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      yield* backend.put(at, "half a rec")
      yield* failsWith(tasks.remove(key), "TaskNotFound")
      assert.strictEqual(deletions, 1)
      assert.strictEqual((yield* backend.get(at)).data, '{"total":10}')
    })
  ),

  example(
    "a task whose times have a leap second is read, and written back as it was",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      const at = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const leap = { createdAt: "2016-12-31T23:59:60Z", expiresAt: "2999-06-30T23:59:60.25+00:00" }
      const task = { ...record.task, createdAt: leap.createdAt }
      yield* backend.put(at, JSON.stringify({ ...record, task, expiresAt: leap.expiresAt }))
      const read = yield* tasks.get(key)
      assert.strictEqual(Task.expiresAt(read)?.epochMilliseconds, Date.parse("2999-07-01T00:00:00.250Z"))
      yield* tasks.setStatusMessage(key, "changed")
      const stored = JSON.parse((yield* backend.get(at)).data)
      assert.deepStrictEqual({ createdAt: stored.task.createdAt, expiresAt: stored.expiresAt }, leap)
      assert.strictEqual((yield* tasks.list(key)).tasks.length, 1)
    })
  )
]
