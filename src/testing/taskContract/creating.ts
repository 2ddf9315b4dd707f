/** Creating tasks and reading them. */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import * as assert from "../internal/assert.ts"
import { dies, failsWith, newOwner } from "../internal/support.ts"
import { type Case, example, keyOf, makeTasks, newTask, requestMethod } from "../internal/taskDrafts.ts"

export const creating: ReadonlyArray<Case> = [
  example(
    "a new task works, and is read as it was created",
    Effect.fnUntraced(function* (tasks) {
      const ownerId = yield* newOwner
      const now = yield* DateTime.now
      const record = yield* tasks.create({ ownerId, requestMethod })
      const { task } = record
      assert.strictEqual(task.status, "working")
      assert.strictEqual(task.createdAt, DateTime.formatIso(now))
      assert.strictEqual(task.lastUpdatedAt, task.createdAt)
      assert.strictEqual(task.ttl, 3_600_000)
      assert.strictEqual(task.pollInterval, 500)
      assert.isFalse("statusMessage" in task)
      assert.strictEqual(record.ownerId, ownerId)
      assert.strictEqual(record.requestMethod, requestMethod)
      assert.strictEqual(record.expiresAt, DateTime.formatIso(DateTime.add(now, { hours: 1 })))
      assert.deepStrictEqual(record.variables, {})
      assert.strictEqual(record.result, null)
      assert.deepStrictEqual(yield* tasks.get(keyOf(record)), record)
    })
  ),

  example(
    "a task is created with its variables and poll interval in one write, or not at all",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const ownerId = yield* newOwner
      const variables = { input: { path: "a.txt", lines: [1, 2] }, left: null }
      const record = yield* tasks.create({ ownerId, requestMethod, variables, pollInterval: "2 seconds" })
      assert.deepStrictEqual(record.variables, { input: variables.input })
      assert.strictEqual(record.task.pollInterval, 2000)
      assert.deepStrictEqual(yield* tasks.get(keyOf(record)), record)
      assert.strictEqual((yield* backend.get(makeUnsafe({ owner: ownerId, id: record.task.taskId }))).version, 1)
      const deep = JSON.parse(`${"[".repeat(12)}${"]".repeat(12)}`)
      yield* failsWith(tasks.create({ ownerId, requestMethod, variables: { deep } }), "InvalidVariables")
      const large = { a: "x".repeat(60_000), b: "x".repeat(60_000) }
      const small = yield* makeTasks({ maxVariablesBytes: 100_000 })
      yield* failsWith(small.create({ ownerId, requestMethod, variables: large }), "VariablesTooLarge")
      yield* dies(tasks.create({ ownerId, requestMethod, pollInterval: "Infinity" }), /pollInterval must be a finite/)
      assert.strictEqual((yield* tasks.list({ ownerId })).tasks.length, 1)
    })
  ),

  example(
    "ids sort by the millisecond of their creation, and can't be guessed",
    Effect.fnUntraced(function* (tasks) {
      const ids: Array<string> = []
      for (let i = 0; i < 20; i++) {
        ids.push((yield* newTask(tasks)).key.taskId)
        yield* TestClock.adjust(1)
      }
      assert.deepStrictEqual(ids.toSorted(), ids)
      const randoms = ids.map((id) => id.slice(13).replaceAll("-", ""))
      assert.strictEqual(new Set(randoms).size, ids.length)
      for (const random of randoms) assert.match(random, /^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/)
    })
  ),

  example(
    "a time to live may be asked for, up to a limit, and none be had",
    Effect.fnUntraced(function* (tasks) {
      const ownerId = yield* newOwner
      const now = yield* DateTime.now
      const short = yield* tasks.create({ ownerId, requestMethod, ttl: "30 seconds" })
      assert.strictEqual(short.task.ttl, 30_000)
      assert.strictEqual(short.expiresAt, DateTime.formatIso(DateTime.add(now, { seconds: 30 })))
      yield* tasks.create({ ownerId, requestMethod, ttl: "24 hours" })
      for (const ttl of ["86400001 millis", "Infinity"] as const) {
        const error = yield* failsWith(tasks.create({ ownerId, requestMethod, ttl }), "TtlTooLong")
        assert.strictEqual(error.limit, 86_400_000)
      }
      const forever = yield* makeTasks({ defaultTtl: "Infinity", maxTtl: "Infinity" })
      const record = yield* forever.create({ ownerId, requestMethod })
      assert.deepStrictEqual([record.task.ttl, record.expiresAt], [null, null])
      yield* TestClock.adjust("400 days")
      assert.deepStrictEqual(yield* forever.get(keyOf(record)), record)
    })
  )
]
