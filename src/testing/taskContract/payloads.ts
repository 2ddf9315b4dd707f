/** What may be stored in a task. */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type * as TaskError from "../../task/TaskError.ts"
import type * as TaskStore from "../../task/TaskStore.ts"
import * as assert from "../internal/assert.ts"
import { dies, failsWith, newOwner } from "../internal/support.ts"
import {
  type Case,
  example,
  fromJavaScript,
  keyOf,
  makeTasks,
  newTask,
  requestMethod,
  type TaskErrors,
  type Tasks
} from "../internal/taskDrafts.ts"

/** Each way to store a part of a task, on a task that allows it. */
const partsOf = (tasks: Tasks) => {
  const asked = Effect.tap(newTask(tasks), ({ key }) => tasks.recordInputRequests(key, { name: 1 }))
  type Store = (key: TaskStore.TaskKey, value: Schema.Json) => Effect.Effect<unknown, TaskErrors>
  return [
    ["result", newTask(tasks), tasks.setResult],
    ["result", newTask(tasks), (key, result) => tasks.completeWithResult(key, { status: "failed", result })],
    ["error", newTask(tasks), tasks.setError],
    ["error", newTask(tasks), (key, error) => tasks.fail(key, error)],
    ["inputRequests", newTask(tasks), (key, name) => tasks.recordInputRequests(key, { name })],
    ["inputResponses", asked, (key, name) => tasks.deliverInputs(key, { name })]
  ] as ReadonlyArray<readonly [TaskError.InvalidPayload["part"], typeof asked, Store]>
}

const nested = (depth: number): Schema.Json => {
  let value: Schema.Json = 1
  for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value }
  return value
}

const cyclic = (): Schema.Json => {
  const value: { [name: string]: unknown } = { a: 1 }
  value.b = [value]
  return fromJavaScript(value)
}

/** A value of few objects that is 2^50 values as JSON. */
const repeated = (): Schema.Json => {
  let value: Schema.Json = 1
  for (let i = 0; i < 50; i++) value = [value, value]
  return value
}

export const payloads: ReadonlyArray<Case> = [
  example(
    "results, errors and inputs are limited in depth and size, and nothing is written over a limit",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxPayloadDepth: 5, maxPayloadBytes: 100 })
      for (const [part, makeTask, store] of partsOf(tasks)) {
        const { key } = yield* makeTask
        const before = yield* tasks.get(key)
        const deep = yield* failsWith(store(key, nested(6)), "InvalidPayload")
        assert.deepStrictEqual([deep.taskId, deep.part, deep.problem], [key.taskId, part, "TooDeep"])
        assert.deepStrictEqual(
          deep.path.filter((name) => name !== "name"),
          ["a", "0", "a", "0", "a", "0"]
        )
        const large = yield* failsWith(store(key, "x".repeat(101)), "PayloadTooLarge")
        assert.deepStrictEqual([large.taskId, large.part, large.limit], [key.taskId, part, 100])
        assert.isAbove(large.actual, 100)
        yield* failsWith(store(key, ["é".repeat(49)]), "PayloadTooLarge")
        for (const value of [Number.NaN, undefined, new Date(0), 1n, () => 1, new Array(3)]) {
          // An answer that is undefined is stored as null, as one that is left out of an object is.
          if (value === undefined && part === "inputResponses") continue
          const notJson = yield* failsWith(store(key, fromJavaScript(value)), "InvalidPayload")
          assert.deepStrictEqual([notJson.part, notJson.problem], [part, "NotJson"])
        }
        assert.deepStrictEqual(yield* tasks.get(key), before)
        yield* store(key, nested(5))
      }
    })
  ),

  example(
    "input that is nested 100,000 deep, is cyclic or repeats itself is refused with a typed error, whatever the limits are",
    Effect.fnUntraced(function* () {
      const none = Number.POSITIVE_INFINITY
      const unlimited = yield* makeTasks({ maxPayloadDepth: none, maxVariablesDepth: none, maxStringBytes: none })
      for (const tasks of [yield* makeTasks(), unlimited]) {
        for (const value of [nested(4400), nested(100_000), cyclic()]) {
          for (const [part, makeTask, store] of partsOf(tasks)) {
            const { key } = yield* makeTask
            const error = yield* failsWith(store(key, value), "InvalidPayload")
            assert.deepStrictEqual([error.part, error.problem], [part, "TooDeep"])
          }
          const { key } = yield* newTask(tasks)
          const error = yield* failsWith(tasks.setVariables(key, { value }), "InvalidVariables")
          assert.strictEqual(error.problem, "TooDeep")
        }
        for (const [, makeTask, store] of partsOf(tasks)) {
          yield* failsWith(store((yield* makeTask).key, repeated()), "PayloadTooLarge")
        }
      }
      const { key } = yield* newTask(unlimited)
      yield* failsWith(unlimited.setVariables(key, { value: repeated() }), "VariablesTooLarge")
    })
  ),

  example(
    "what is as deep as the limit, 100 by default, is stored and comes back",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.setResult(key, nested(100))
      yield* failsWith(tasks.setResult(key, nested(101)), "InvalidPayload")
      yield* tasks.recordInputRequests(key, { name: nested(100) })
      yield* tasks.deliverInputs(key, { name: nested(100), other: nested(5000) })
      const record = yield* tasks.get(key)
      assert.deepStrictEqual(record.result, nested(100))
      assert.deepStrictEqual(record.inputResponses, { name: nested(100) })
    })
  ),

  example(
    "inputs of several calls add up to the limit of their size",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxPayloadBytes: 100 })
      const { key } = yield* newTask(tasks)
      yield* tasks.recordInputRequests(key, { a: "x".repeat(60) })
      yield* tasks.deliverInputs(key, { a: "y".repeat(60) })
      const requests = yield* failsWith(tasks.recordInputRequests(key, { b: "x".repeat(60) }), "PayloadTooLarge")
      assert.deepStrictEqual([requests.part, requests.limit, requests.actual], ["inputRequests", 100, 135])
      yield* tasks.recordInputRequests(key, { b: 1 })
      const responses = yield* failsWith(tasks.deliverInputs(key, { b: "y".repeat(60) }), "PayloadTooLarge")
      assert.deepStrictEqual([responses.part, responses.limit, responses.actual], ["inputResponses", 100, 135])
      assert.deepStrictEqual((yield* tasks.inputSnapshot(key)).outstanding, ["b"])
    })
  ),

  example(
    "a status message is limited in length, wherever it is set",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxStringBytes: 10 })
      const { key, record } = yield* newTask(tasks)
      const long = "é".repeat(6)
      for (const operation of [
        tasks.setStatusMessage(key, long),
        tasks.updateStatus(key, "failed", long),
        tasks.cancel(key, long),
        tasks.completeWithResult(key, { status: "completed", result: 1, statusMessage: long })
      ]) {
        const error = yield* failsWith(operation as Effect.Effect<unknown, TaskErrors>, "PayloadTooLarge")
        assert.deepStrictEqual(
          [error.taskId, error.part, error.limit, error.actual],
          [key.taskId, "statusMessage", 10, 12]
        )
      }
      yield* dies(tasks.setStatusMessage(key, fromJavaScript(1)), /status message must be a string/)
      assert.deepStrictEqual(yield* tasks.get(key), record)
      yield* tasks.setStatusMessage(key, "é".repeat(5))
    })
  ),

  example(
    "from JavaScript too, completeWithResult takes terminal statuses only, and updateStatus takes statuses",
    Effect.fnUntraced(function* (tasks) {
      const { key, record } = yield* newTask(tasks)
      for (const status of ["working", "input_required", "paused", undefined]) {
        const outcome = { status: fromJavaScript(status) as "failed", result: 1 }
        yield* dies(tasks.completeWithResult(key, outcome), /completeWithResult takes .*completed, failed, cancelled/)
      }
      for (const status of ["paused", undefined, 1]) {
        const given = fromJavaScript(status) as "failed"
        yield* dies(tasks.updateStatus(key, given), /updateStatus takes .*working, input_required, completed/)
      }
      assert.deepStrictEqual(yield* tasks.get(key), record)
    })
  ),

  example(
    "a time to live that is not one is a defect, and takes no place",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1, maxTtl: "Infinity" })
      const ownerId = yield* newOwner
      for (const ttl of [Number.NaN, -1, "soon", "-1 second", new Date(0), {}, null]) {
        yield* dies(
          tasks.create({ ownerId, requestMethod, ttl: fromJavaScript(ttl) as "1 second" }),
          /ttl must be a dura/
        )
      }
      const record = yield* tasks.create({ ownerId, requestMethod, ttl: 1e300 })
      assert.deepStrictEqual([record.task.ttl, record.expiresAt], [null, null])
      assert.deepStrictEqual(yield* tasks.get(keyOf(record)), record)
    })
  )
]
