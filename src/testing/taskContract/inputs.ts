/** Inputs that a task asks for. */
import * as Effect from "effect/Effect"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import * as assert from "../internal/assert.ts"
import { failsWith } from "../internal/support.ts"
import { type Case, example, newTask } from "../internal/taskDrafts.ts"

export const inputs: ReadonlyArray<Case> = [
  example(
    "inputs are asked for and delivered, part by part, each in one write",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key } = yield* newTask(tasks)
      const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const version = Effect.map(backend.get(stored), (record) => record.version)
      const requests = { name: { method: "elicitation/create" }, age: { method: "elicitation/create" } }
      const asked = yield* tasks.recordInputRequests(key, requests)
      assert.strictEqual(asked.task.status, "input_required")
      assert.strictEqual(yield* version, 2)
      assert.deepStrictEqual(yield* tasks.inputSnapshot(key), {
        status: "input_required",
        inputRequests: requests,
        inputResponses: {},
        outstanding: ["name", "age"]
      })
      const part = yield* tasks.deliverInputs(key, { name: "Luca", other: 1 })
      assert.deepStrictEqual(part, { accepted: ["name"], ignored: ["other"], complete: false })
      assert.strictEqual((yield* tasks.get(key)).task.status, "input_required")
      assert.strictEqual(yield* version, 3)
      const again = yield* tasks.deliverInputs(key, { name: "Eve" })
      assert.deepStrictEqual(again, { accepted: [], ignored: ["name"], complete: false })
      assert.strictEqual(yield* version, 3)
      const rest = yield* tasks.deliverInputs(key, { name: "Eve", age: 42 })
      assert.deepStrictEqual(rest, { accepted: ["age"], ignored: ["name"], complete: true })
      assert.strictEqual(yield* version, 4)
      const record = yield* tasks.get(key)
      assert.strictEqual(record.task.status, "working")
      assert.deepStrictEqual(record.inputResponses, { name: "Luca", age: 42 })
      yield* failsWith(tasks.deliverInputs(key, { age: 43 }), "InvalidTransition")
    })
  ),

  example(
    "a task may ask again, and never under a key that it has used",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.recordInputRequests(key, { first: 1 })
      yield* failsWith(tasks.recordInputRequests(key, { second: 1 }), "InvalidTransition")
      yield* tasks.deliverInputs(key, { first: null })
      const error = yield* failsWith(tasks.recordInputRequests(key, { second: 1, first: 2 }), "InputKeyReused")
      assert.strictEqual(error.key, "first")
      assert.strictEqual((yield* tasks.get(key)).task.status, "working")
      yield* tasks.recordInputRequests(key, { second: 1, ["__proto__"]: 2 })
      assert.deepStrictEqual((yield* tasks.inputSnapshot(key)).outstanding, ["second", "__proto__"])
      yield* tasks.cancel(key)
      yield* failsWith(tasks.deliverInputs(key, { second: 1 }), "InvalidTransition")
      yield* failsWith(tasks.recordInputRequests(key, { third: 1 }), "InvalidTransition")
    })
  ),

  example(
    "two clients that answer at once complete a task once, and each answer is one of theirs",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.recordInputRequests(key, { a: 1, b: 1, c: 1 })
      const deliveries = yield* Effect.forEach(
        Array.from({ length: 10 }, (_, i) => i),
        (i) => Effect.result(tasks.deliverInputs(key, { a: i, b: i, c: i })),
        { concurrency: "unbounded" }
      )
      const accepted = deliveries.flatMap((delivery) =>
        delivery._tag === "Success" && delivery.success.accepted.length > 0 ? [delivery.success] : []
      )
      assert.deepStrictEqual(accepted, [{ accepted: ["a", "b", "c"], ignored: [], complete: true }])
    })
  )
]
