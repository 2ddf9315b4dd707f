/** Results and errors. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import * as Task from "../../task/Task.ts"
import * as assert from "../internal/assert.ts"
import { failsWith } from "../internal/support.ts"
import { type Case, example, newTask } from "../internal/taskDrafts.ts"

export const results: ReadonlyArray<Case> = [
  example(
    "a result is had once the task has ended, and is never replaced after that",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.setResult(key, { draft: 1 })
      const early = yield* failsWith(tasks.getResult(key), "TaskNotReady")
      assert.deepStrictEqual([early.taskId, early.status], [key.taskId, "working"])
      yield* tasks.setResult(key, { draft: 2 })
      yield* tasks.updateStatus(key, "completed")
      assert.deepStrictEqual(yield* tasks.getResult(key), { draft: 2 })
      yield* failsWith(tasks.setResult(key, { draft: 3 }), "InvalidTransition")
      assert.deepStrictEqual(yield* tasks.getResult(key), { draft: 2 })

      const bare = yield* newTask(tasks)
      yield* tasks.cancel(bare.key)
      assert.strictEqual(yield* tasks.getResult(bare.key), null)
      yield* tasks.setResult(bare.key, "late")
      assert.strictEqual(yield* tasks.getResult(bare.key), "late")
    })
  ),

  example(
    "completeWithResult makes status and result in one write, or neither",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      for (const status of Task.TerminalStatus.literals) {
        const { key } = yield* newTask(tasks)
        const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
        const { version } = yield* backend.get(stored)
        const outcome = { status, result: { status }, statusMessage: "done" }
        const record = yield* tasks.completeWithResult(key, outcome)
        assert.deepStrictEqual([record.task.status, record.task.statusMessage], [status, "done"])
        assert.deepStrictEqual(yield* tasks.getResult(key), { status })
        assert.strictEqual((yield* backend.get(stored)).version, version + 1)
        yield* failsWith(tasks.completeWithResult(key, { ...outcome, result: "other" }), "InvalidTransition")
        assert.deepStrictEqual(yield* tasks.getResult(key), { status })
      }
    })
  ),

  example(
    "of 100 completions that race one wins, and the others are InvalidTransition",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const results = yield* Effect.forEach(
        Array.from({ length: 100 }, (_, result) => result),
        (result) => Effect.result(tasks.completeWithResult(key, { status: "completed", result })),
        { concurrency: "unbounded" }
      )
      const won = results.flatMap((result) => (result._tag === "Success" ? [result.success.result] : []))
      const lost = results.flatMap((result) => (result._tag === "Failure" ? [result.failure._tag] : []))
      assert.strictEqual(won.length, 1)
      assert.deepStrictEqual(
        lost,
        Array.from({ length: 99 }, () => "InvalidTransition" as const)
      )
      assert.strictEqual(yield* tasks.getResult(key), won[0])
    })
  ),

  example(
    "fail makes the status failed and stores the error in one write, or neither",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const error = { code: -32000, message: "broken", data: { why: [1] } }
      for (const message of ["out of paper", undefined]) {
        const { key } = yield* newTask(tasks)
        const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
        const { version } = yield* backend.get(stored)
        const record = yield* message === undefined ? tasks.fail(key, error) : tasks.fail(key, error, message)
        assert.deepStrictEqual([record.task.status, record.task.statusMessage], ["failed", message])
        assert.deepStrictEqual(yield* tasks.getError(key), Option.some<Schema.Json>(error))
        assert.strictEqual((yield* backend.get(stored)).version, version + 1)
        yield* failsWith(tasks.fail(key, { code: 1 }), "InvalidTransition")
        assert.deepStrictEqual(yield* tasks.getError(key), Option.some<Schema.Json>(error))
      }
    })
  ),

  example(
    "an error is stored as it is, and is never replaced after the end",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      assert.isTrue(Option.isNone(yield* tasks.getError(key)))
      yield* tasks.updateStatus(key, "failed", "broken")
      const error = { code: -32000, message: "broken", data: { why: [1] } }
      yield* tasks.setError(key, error)
      assert.deepStrictEqual(yield* tasks.getError(key), Option.some<Schema.Json>(error))
      yield* failsWith(tasks.setError(key, { code: 1 }), "InvalidTransition")
    })
  )
]
