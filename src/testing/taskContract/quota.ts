/** The limit of tasks that an owner may have. */
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeBackend } from "../../StorageError.ts"
import * as Task from "../../task/Task.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, newOwner, toWholeSecond } from "../internal/support.ts"
import {
  type Case,
  counted,
  endings,
  example,
  keyOf,
  makeTasks,
  newTask,
  requestMethod,
  type Tasks
} from "../internal/taskDrafts.ts"

export const quota: ReadonlyArray<Case> = [
  example(
    "200 creations at once by two processes, with a limit of 100, make exactly 100 tasks",
    Effect.fnUntraced(function* (tasks) {
      const other = yield* makeTasks()
      const ownerId = yield* newOwner
      const results = yield* Effect.forEach(
        Array.from({ length: 200 }, (_, i) => (i % 2 === 0 ? tasks : other)),
        (tasks) => Effect.result(tasks.create({ ownerId, requestMethod })),
        { concurrency: "unbounded" }
      )
      const refused = results.flatMap((result) => (result._tag === "Failure" ? [result.failure._tag] : []))
      assert.deepStrictEqual(
        refused,
        Array.from({ length: 100 }, () => "TooManyTasks" as const)
      )
      assert.strictEqual((yield* tasks.list({ ownerId, limit: 1000 })).tasks.length, 100)
    })
  ),

  example(
    "a place is free when its task expires, and one that never does holds it",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const tasks = yield* makeTasks({ maxTasksPerOwner: 2, maxTtl: "Infinity" })
      const ownerId = yield* newOwner
      yield* tasks.create({ ownerId, requestMethod, ttl: "Infinity" })
      const short = yield* tasks.create({ ownerId, requestMethod, ttl: "10 seconds" })
      yield* TestClock.adjust(9999)
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust(1)
      yield* tasks.create({ ownerId, requestMethod, ttl: "10 seconds" })
      yield* tasks.remove(keyOf(short))
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("1 day")
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
    })
  ),

  example(
    "a creation that dies in the middle holds a place until its task would have expired, and one that fails holds none",
    Effect.fnUntraced(function* () {
      let outcome: "unknown" | "not-applied" = "unknown"
      const { backend: watched } = yield* counted(({ key, name }) =>
        name === "putIfVersion" && !key?.id.startsWith("!")
          ? makeBackend({ reason: "Unavailable", outcome, description: "told to" })
          : "pass"
      )
      const dying = yield* Effect.provideService(makeTasks({ maxTasksPerOwner: 1 }), StorageBackend, watched)
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1 })
      const ownerId = yield* newOwner
      yield* failsWith(dying.create({ ownerId, requestMethod, ttl: "1 minute" }), "Backend")
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("61 seconds")
      outcome = "not-applied"
      yield* failsWith(dying.create({ ownerId, requestMethod }), "Backend")
      yield* tasks.create({ ownerId, requestMethod })
    })
  ),

  example(
    "a task that has ended counts until it expires, unless the store does not count such tasks",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const counting = yield* makeTasks({ maxTasksPerOwner: 1 })
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1, countTerminal: false })
      const ownerId = yield* newOwner
      const create = (tasks: Tasks) => tasks.create({ ownerId, requestMethod, ttl: "10 seconds" })
      for (const end of endings) {
        const key = keyOf(yield* create(tasks))
        yield* failsWith(create(tasks), "TooManyTasks")
        yield* tasks.updateStatus(key, "input_required")
        yield* failsWith(create(tasks), "TooManyTasks")
        const ended = yield* end(tasks, key)
        assert.deepStrictEqual(yield* tasks.get(key), ended)
        assert.isTrue(Task.isTerminal(ended.task.status))
      }
      // A task that expires before it ends frees its place too.
      yield* create(tasks)
      yield* failsWith(create(tasks), "TooManyTasks")
      yield* TestClock.adjust("10 seconds")
      yield* counting.cancel(keyOf(yield* create(counting)))
      yield* failsWith(create(counting), "TooManyTasks")
      yield* TestClock.adjust("10 seconds")
      yield* create(counting)
    })
  ),

  example(
    "the end of a task frees its place once, also if it is ended again, changed or removed after that",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 3, countTerminal: false }
      const [tasks, other] = [yield* makeTasks(options), yield* makeTasks(options)]
      const ownerId = yield* newOwner
      const create = tasks.create({ ownerId, requestMethod })
      const key = keyOf(yield* create)
      yield* Effect.repeat(create, { times: 1 })
      const results = yield* Effect.forEach(
        [tasks, other, tasks, other, tasks, other],
        (tasks) => Effect.result(tasks.cancel(key)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(results.filter(({ _tag }) => _tag === "Success").length, 1)
      yield* tasks.setResult(key, 1)
      yield* tasks.setVariables(key, { a: 1 })
      yield* create
      yield* failsWith(create, "TooManyTasks")
      yield* other.remove(key)
      yield* failsWith(create, "TooManyTasks")
    })
  ),

  example(
    "an end that dies in the middle holds the place until the task would have expired, and one that fails holds it on",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 1, countTerminal: false, defaultTtl: "1 minute" } as const
      const tasks = yield* makeTasks(options)
      for (const isApplied of [true, false]) {
        for (const isLedger of [true, false]) {
          const { key } = yield* newTask(tasks)
          const { backend } = yield* counted(({ key, name }) => {
            if (name !== "putIfVersion" || key?.id.startsWith("!") !== isLedger) return "pass"
            return isApplied
              ? "lose"
              : makeBackend({ reason: "Unavailable", outcome: "unknown", description: "told to" })
          })
          const dying = yield* Effect.provideService(makeTasks(options), StorageBackend, backend)
          const result = yield* Effect.result(dying.cancel(key))
          assert.strictEqual(result._tag, isLedger ? "Success" : "Failure")
          const hasEnded = isLedger || isApplied
          const { status } = (yield* tasks.get(key)).task
          assert.strictEqual(status, hasEnded ? "cancelled" : "working")
          const next = yield* Effect.result(tasks.create({ ...key, requestMethod }))
          assert.strictEqual(next._tag, isLedger && isApplied ? "Success" : "Failure")
          yield* TestClock.adjust("61 seconds")
          yield* tasks.create({ ...key, requestMethod })
          yield* failsWith(tasks.create({ ...key, requestMethod }), "TooManyTasks")
        }
      }
    })
  ),

  example(
    "two processes that create, end and remove tasks at once have as many as the limit allows, and never more",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 6, countTerminal: false }
      const [tasks, other] = [yield* makeTasks(options), yield* makeTasks(options)]
      const ownerId = yield* newOwner
      const create = (tasks: Tasks) => tasks.create({ ownerId, requestMethod })
      yield* Effect.all([create(tasks), create(other)])
      yield* Effect.forEach(
        Array.from({ length: 24 }, (_, i) => i),
        Effect.fnUntraced(function* (i) {
          // Two tasks stay and four others go on at most, so none is refused.
          const key = keyOf(yield* create(i % 2 === 0 ? tasks : other))
          const end = endings[i % endings.length]
          if (end !== undefined) yield* end(i % 2 === 0 ? other : tasks, key)
          if (i % 3 === 0) yield* tasks.remove(key)
        }),
        { concurrency: 4 }
      )
      // If an end had freed two places, those of the tasks that stay would be free.
      yield* Effect.repeat(create(tasks), { times: 3 })
      yield* failsWith(create(tasks), "TooManyTasks")
    })
  )
]
