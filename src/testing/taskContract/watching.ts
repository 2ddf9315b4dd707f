/** Waiting for a task, and watching it. */
import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import type * as Task from "../../task/Task.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, PatienceMillis } from "../internal/support.ts"
import { type Case, example, newTask, type TaskErrors } from "../internal/taskDrafts.ts"

export const watching: ReadonlyArray<Case> = [
  example(
    "awaitTerminal looks as often as its schedule says, until the task has ended",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const spent = tasks.awaitTerminal(key, { schedule: Schedule.recurs(3) })
      assert.strictEqual((yield* failsWith(spent, "TaskNotReady")).status, "working")
      const fiber = yield* Effect.forkChild(tasks.awaitTerminal(key, { schedule: Schedule.spaced("10 millis") }))
      yield* TestClock.withLive(Effect.sleep("30 millis"))
      assert.isUndefined(fiber.pollUnsafe())
      yield* tasks.completeWithResult(key, { status: "completed", result: 1 })
      assert.strictEqual((yield* Fiber.join(fiber)).result, 1)
      assert.strictEqual((yield* tasks.awaitTerminal(key)).result, 1)
    })
  ),

  example(
    "changes gives each state that it sees once, and ends with the last one",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      let looks = 0
      const schedule = Schedule.forever.pipe(
        Schedule.tap(() => {
          const change = [
            tasks.recordInputRequests(key, { name: 1 }),
            Effect.void,
            tasks.deliverInputs(key, { name: 2 }),
            tasks.completeWithResult(key, { status: "failed", result: 1 })
          ][looks++]
          return Effect.ignore(change ?? Effect.die("the changes did not end"))
        })
      )
      const seen = yield* Stream.runCollect(tasks.changes(key, { schedule }))
      assert.deepStrictEqual(
        seen.map(({ task }) => task.status),
        ["working", "input_required", "working", "failed"]
      )
      assert.strictEqual(looks, 4)
    })
  ),

  example(
    "who waits for a task sees its end at once if the same backend makes it, whatever the schedule",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const onHintsAlone = { schedule: Schedule.spaced("1 hour") }
      const seen = yield* Queue.unbounded<Task.Status, TaskErrors | Cause.Done>()
      yield* tasks.changes(key, onHintsAlone).pipe(
        Stream.map(({ task }) => task.status),
        Stream.runIntoQueue(seen),
        Effect.forkChild({ startImmediately: true })
      )
      const waiting = yield* Effect.forkChild(tasks.awaitTerminal(key, onHintsAlone), { startImmediately: true })
      yield* Effect.gen(function* () {
        assert.strictEqual(yield* Queue.take(seen), "working")
        yield* tasks.recordInputRequests(key, { name: 1 })
        assert.strictEqual(yield* Queue.take(seen), "input_required")
        yield* tasks.cancel(key)
        assert.strictEqual(yield* Queue.take(seen), "cancelled")
        assert.strictEqual((yield* Fiber.join(waiting)).task.status, "cancelled")
      }).pipe(Effect.timeout(yield* PatienceMillis))
    })
  ),

  example(
    "a task that expires before its end fails those who wait for it, and one that had ended does not",
    Effect.fnUntraced(function* (tasks) {
      const [open, ended] = [yield* newTask(tasks, { ttl: 1000 }), yield* newTask(tasks, { ttl: 1000 })]
      yield* tasks.cancel(ended.key)
      yield* TestClock.adjust(1000)
      yield* failsWith(tasks.awaitTerminal(open.key), "TaskExpired")
      yield* failsWith(Stream.runDrain(tasks.changes(open.key)), "TaskExpired")
      assert.strictEqual((yield* tasks.awaitTerminal(ended.key)).task.status, "cancelled")
    })
  )
]
