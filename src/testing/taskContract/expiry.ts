/** Expiry of tasks. */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import type * as TaskStore from "../../task/TaskStore.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, toWholeSecond } from "../internal/support.ts"
import { type Case, example, makeTasks, newTask } from "../internal/taskDrafts.ts"

export const expiry: ReadonlyArray<Case> = [
  example(
    "an expired task can be read for a time, but not changed; after that it is gone",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const tasks = yield* makeTasks({ grace: "1 minute" })
      const { key, record } = yield* newTask(tasks, { ttl: 10_000 })
      yield* TestClock.adjust(9999)
      yield* tasks.setStatusMessage(key, "still")
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* tasks.get(key)).task.statusMessage, "still")
      assert.strictEqual((yield* tasks.list(key)).tasks.length, 1)
      for (const change of [
        tasks.cancel(key),
        tasks.setVariables(key, { a: 1 }),
        tasks.setResult(key, 1),
        tasks.deliverInputs(key, {})
      ]) {
        const error = yield* failsWith(change as Effect.Effect<unknown, TaskStore.ChangeError>, "TaskExpired")
        assert.strictEqual(DateTime.formatIso(error.expiredAt), record.expiresAt)
      }
      yield* TestClock.adjust(59_999)
      yield* tasks.get(key)
      yield* TestClock.adjust(1)
      yield* failsWith(tasks.get(key), "TaskNotFound")
      yield* failsWith(tasks.cancel(key), "TaskNotFound")
      assert.deepStrictEqual((yield* tasks.list(key)).tasks, [])
    })
  ),

  example(
    "without a time of grace an expired task is gone at once, and a cleanup takes no other",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ grace: 0 })
      const { key } = yield* newTask(tasks, { ttl: 1000 })
      const live = yield* newTask(tasks)
      yield* TestClock.adjust("2 seconds")
      yield* failsWith(tasks.get(key), "TaskNotFound")
      assert.isAtLeast(yield* tasks.cleanupExpired, 0)
      yield* tasks.get(live.key)
    })
  )
]
