/** Variables. */
import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import * as Task from "../../task/Task.ts"
import * as assert from "../internal/assert.ts"
import { failsWith } from "../internal/support.ts"
import { type Case, example, makeTasks, newTask } from "../internal/taskDrafts.ts"

export const variables: ReadonlyArray<Case> = [
  example(
    "variables are merged, and null takes one away",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.setVariables(key, { a: 1, b: { c: [true, null, "x"] } })
      const record = yield* tasks.setVariables(key, { a: null, d: "e", none: null })
      assert.deepStrictEqual(record.variables, { b: { c: [true, null, "x"] }, d: "e" })
      assert.deepStrictEqual((yield* tasks.get(key)).variables, record.variables)
      assert.deepStrictEqual(Task.toWire(record)._meta, record.variables)
    })
  ),

  example(
    "variables with any names are kept, `__proto__` among them",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const names = ["__proto__", "constructor", "toString", "", "é\u{1f600}"]
      const variables = Object.fromEntries(names.map((name) => [name, { "": name }] as const))
      yield* tasks.setVariables(key, variables)
      yield* tasks.setVariables(key, { more: 1 })
      const found = yield* tasks.get(key)
      assert.sameMembers(Object.keys(found.variables), [...names, "more"])
      yield* tasks.setVariables(key, Object.fromEntries(names.map((name) => [name, null] as const)))
      assert.deepStrictEqual((yield* tasks.get(key)).variables, { more: 1 })
    })
  ),

  example(
    "variables are limited in depth, in the length of strings and in size, and nothing is written over a limit",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxVariablesDepth: 2, maxStringBytes: 10, maxVariablesBytes: 100 })
      const { key } = yield* newTask(tasks)
      const before = yield* tasks.setVariables(key, { kept: { a: { b: 1 } }, text: "é".repeat(5) })
      for (const [variables, path, problem] of [
        [{ fine: 1, deep: { a: [{ b: 1 }] } }, ["deep", "a", "0", "b"], "TooDeep"],
        [{ deep: [[[]]] }, ["deep", "0", "0"], undefined],
        [{ long: { text: `${"é".repeat(5)}a` } }, ["long", "text"], "StringTooLong"]
      ] as const) {
        if (problem === undefined) {
          yield* tasks.setVariables(key, variables)
          yield* tasks.setVariables(key, { deep: null })
          continue
        }
        const error = yield* failsWith(tasks.setVariables(key, variables), "InvalidVariables")
        assert.deepStrictEqual([error.path, error.problem], [path, problem])
      }
      const notJson: ReadonlyArray<Readonly<Record<string, Schema.Json>>> = [
        { a: Number.NaN },
        { a: [new Date(0) as unknown as Schema.Json] },
        { a: { b: undefined as unknown as Schema.Json } }
      ]
      for (const variables of notJson) {
        const error = yield* failsWith(tasks.setVariables(key, variables), "InvalidVariables")
        assert.strictEqual(error.problem, "NotJson")
      }
      const many = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`name ${i}`, i] as const))
      const large = yield* failsWith(tasks.setVariables(key, many), "VariablesTooLarge")
      assert.strictEqual(large.limit, 100)
      assert.strictEqual(large.actual, JSON.stringify({ ...before.variables, ...many }).length + 5)
      assert.deepStrictEqual((yield* tasks.get(key)).variables, before.variables)
    })
  ),

  example(
    "variables that the backend can't hold are its CapacityExceeded, unchanged",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const strings = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`v${i}`, "x".repeat(60_000)] as const))
      const error = yield* failsWith(tasks.setVariables(key, strings), "CapacityExceeded")
      assert.strictEqual(error.resource, "RecordBytes")
      assert.deepStrictEqual((yield* tasks.get(key)).variables, {})
    })
  )
]
