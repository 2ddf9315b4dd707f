/** The status of a task. */
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import * as Task from "../../task/Task.ts"
import * as assert from "../internal/assert.ts"
import { failsWith } from "../internal/support.ts"
import { bring, type Case, example, newTask, statuses } from "../internal/taskDrafts.ts"

export const status: ReadonlyArray<Case> = [
  ...statuses.map((from) =>
    example(
      `a task that is ${from} goes where it may, and nowhere else`,
      Effect.fnUntraced(function* (tasks) {
        for (const to of statuses) {
          const { key } = yield* newTask(tasks)
          yield* bring(tasks, key, from)
          const before = yield* tasks.get(key)
          yield* TestClock.adjust(1)
          if (Task.canTransition(from, to)) {
            const after = yield* tasks.updateStatus(key, to, "said")
            assert.strictEqual(after.task.status, to)
            assert.strictEqual(after.task.statusMessage, "said")
            assert.isTrue(after.task.lastUpdatedAt > before.task.lastUpdatedAt)
            assert.deepStrictEqual(yield* tasks.get(key), after)
          } else {
            const error = yield* failsWith(tasks.updateStatus(key, to), "InvalidTransition")
            assert.deepStrictEqual([error.taskId, error.from, error.to], [key.taskId, from, to])
            assert.deepStrictEqual(yield* tasks.get(key), before)
          }
        }
      })
    )
  ),

  example(
    "a status message goes with the status, and may be set while the task goes on",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      assert.strictEqual((yield* tasks.setStatusMessage(key, "half")).task.statusMessage, "half")
      assert.isFalse("statusMessage" in (yield* tasks.updateStatus(key, "input_required")).task)
      yield* tasks.cancel(key, "no more")
      assert.strictEqual((yield* tasks.get(key)).task.statusMessage, "no more")
      yield* failsWith(tasks.setStatusMessage(key, "late"), "InvalidTransition")
    })
  )
]
