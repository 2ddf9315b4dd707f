import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, DateTime, Result, Schema } from "effect"
import * as Rules from "../../../src/task/internal/rules.ts"
import * as Task from "../../../src/task/Task.ts"

const limits: Rules.Limits = {
  maxPayloadBytes: 100,
  maxPayloadDepth: 2,
  maxStringBytes: 20,
  maxVariablesBytes: 60,
  maxVariablesDepth: 1
}

const taskIn = (status: Task.Status, more: Partial<Task.TaskRecord> = {}): Task.TaskRecord => ({
  task: {
    taskId: "1",
    status,
    statusMessage: "before",
    createdAt: "2026-01-01T00:00:00Z",
    lastUpdatedAt: "",
    ttl: null
  },
  ownerId: "alice",
  variables: {},
  result: null,
  requestMethod: "tools/call",
  expiresAt: null,
  ...more
})

/** Applies a rule that what the caller gave allows. */
const apply = <E, P>(rule: Result.Result<Rules.Rule<E>, P>, record: Task.TaskRecord) =>
  Result.getOrThrow(Result.getOrThrow(rule)(record))

const tagOf = (result: Result.Result<unknown, { readonly _tag: string }>) =>
  Result.isFailure(result) ? result.failure._tag : undefined

const Status = Arbitrary.schema(Task.Status)

describe("a rule of tasks", () => {
  it.prop("moves a task only where the lifecycle allows, and replaces its message", [Status, Status], ([from, to]) => {
    const record = taskIn(from)
    const moved = Rules.moveTo(to, "after")(record)
    assert.strictEqual(Result.isSuccess(moved), Task.canTransition(from, to))
    if (Result.isFailure(moved)) {
      assert.deepStrictEqual([moved.failure.from, moved.failure.to, moved.failure.taskId], [from, to, "1"])
      return
    }
    assert.deepStrictEqual(moved.success, { ...record, task: { ...record.task, status: to, statusMessage: "after" } })
    assert.notProperty(Result.getOrThrow(Rules.moveTo(to, undefined)(record)).task, "statusMessage")
  })

  it.prop("changes neither message nor result of a task that has ended with them", [Status], ([status]) => {
    const record = taskIn(status, { result: "done", error: { code: 1 } })
    const expected = Task.isTerminal(status) ? "InvalidTransition" : undefined
    for (const rule of [
      Rules.setStatusMessage("1", "late", limits),
      Rules.setResult("1", "late", limits),
      Rules.setError("1", "late", limits)
    ]) {
      assert.strictEqual(tagOf(Result.getOrThrow(rule)(record)), expected)
    }
  })

  it("stores the result of a task that has ended without one", () => {
    assert.strictEqual(apply(Rules.setResult("1", "late", limits), taskIn("failed")).result, "late")
    assert.strictEqual(apply(Rules.setError("1", "late", limits), taskIn("failed")).error, "late")
  })

  it("ends a task with its result in one step", () => {
    const outcome = { status: "completed", result: [1], statusMessage: "done" } as const
    const ended = apply(Rules.completeWithResult("1", outcome, limits), taskIn("working"))
    assert.deepStrictEqual([ended.task.status, ended.task.statusMessage, ended.result], ["completed", "done", [1]])
    const again = Result.getOrThrow(Rules.completeWithResult("1", outcome, limits))(ended)
    assert.strictEqual(tagOf(again), "InvalidTransition")
  })

  it("throws on a status that only JavaScript lets pass, and on a message that is not a string", () => {
    const outcome = { status: "working", result: null } as unknown as Parameters<typeof Rules.completeWithResult>[1]
    assert.throws(() => Rules.completeWithResult("1", outcome, limits), /completeWithResult takes one of the statuses/)
    const status = "done" as Task.Status
    assert.throws(() => Rules.updateStatus("1", "updateStatus", Task.Status, status, "", limits), /was given done/)
    assert.throws(() => Rules.setStatusMessage("1", 5 as unknown as string, limits), /must be a string/)
  })

  it("refuses what is too deep, too large or not JSON, before it sees a task", () => {
    assert.isTrue(Result.isSuccess(Rules.setResult("1", [["deep"]], limits)))
    assert.strictEqual(tagOf(Rules.setResult("1", [[["too deep"]]], limits)), "InvalidPayload")
    assert.strictEqual(tagOf(Rules.setResult("1", "x".repeat(99), limits)), "PayloadTooLarge")
    assert.strictEqual(tagOf(Rules.setError("1", Number.NaN, limits)), "InvalidPayload")
    assert.strictEqual(tagOf(Rules.setStatusMessage("1", "x".repeat(21), limits)), "PayloadTooLarge")
    assert.strictEqual(tagOf(Rules.recordInputRequests("1", [] as never, limits)), "InvalidPayload")
    assert.isTrue(Result.isSuccess(Rules.recordInputRequests("1", { name: [["deep"]] }, limits)))
  })

  it("asks for each input once in a task's life, and counts the inputs of all calls", () => {
    const asked = apply(Rules.recordInputRequests("1", { name: 1 }, limits), taskIn("working"))
    assert.deepStrictEqual([asked.task.status, asked.inputRequests], ["input_required", { name: 1 }])
    const working = { ...asked, task: { ...asked.task, status: "working" } as const }
    const reused = Result.getOrThrow(Rules.recordInputRequests("1", { name: 2 }, limits))(working)
    assert.strictEqual(tagOf(reused), "InputKeyReused")
    const large = Result.getOrThrow(Rules.recordInputRequests("1", { more: "x".repeat(85) }, limits))(working)
    assert.strictEqual(tagOf(large), "PayloadTooLarge")
  })

  it("takes answers to what is outstanding alone, and works again with the last one", () => {
    const record = taskIn("input_required", { inputRequests: { a: 1, b: 1, c: 1 }, inputResponses: { a: "first" } })
    const first = Result.getOrThrow(Rules.deliverInputs("1", { a: "again", b: "b", x: "x" }, limits)(record))
    assert.deepStrictEqual(first.delivery, { accepted: ["b"], ignored: ["a", "x"], complete: false })
    assert.deepStrictEqual(first.next?.inputResponses, { a: "first", b: "b" })
    assert.strictEqual(first.next?.task.status, "input_required")
    const last = Result.getOrThrow(Rules.deliverInputs("1", { c: "c" }, limits)(first.next ?? record))
    assert.strictEqual(last.delivery.complete, true)
    assert.strictEqual(last.next?.task.status, "working")
    const nothing = Result.getOrThrow(Rules.deliverInputs("1", { x: "x" }, limits)(record))
    assert.strictEqual(nothing.next, undefined)
    assert.strictEqual(tagOf(Rules.deliverInputs("1", { c: "c" }, limits)(taskIn("completed"))), "InvalidTransition")
  })

  it("merges variables, takes away what is null, and keeps a key named __proto__", () => {
    const record = taskIn("completed", { variables: { a: 1, b: 2 } })
    const more = JSON.parse('{"b":null,"__proto__":3}')
    const merged = Result.getOrThrow(Rules.setVariables("1", more, limits)(record)).variables
    assert.strictEqual(JSON.stringify(merged), '{"a":1,"__proto__":3}')
    assert.strictEqual(tagOf(Rules.setVariables("1", { a: [[1]] }, limits)(record)), "InvalidVariables")
    assert.strictEqual(tagOf(Rules.setVariables("1", { a: "x".repeat(21) }, limits)(record)), "InvalidVariables")
    const much = { c: "x".repeat(19), d: "x".repeat(19), e: "x".repeat(9) }
    assert.strictEqual(tagOf(Rules.setVariables("1", much, limits)(record)), "VariablesTooLarge")
  })

  it("sets the tool call over variables of the same names, within the limits of variables", () => {
    const record = taskIn("working", { variables: { a: 1, tool_name: "x" } })
    const next = Result.getOrThrow(Rules.setRequest("1", { name: "t", arguments: { b: 2 } }, limits)(record))
    assert.deepStrictEqual(next.variables, { a: 1, tool_name: "t", arguments: { b: 2 } })
    const deep = Rules.setRequest("1", { name: "t", arguments: { b: [2] } }, limits)(record)
    assert.strictEqual(tagOf(deep), "InvalidVariables")
    const long = Rules.setRequest("1", { name: "t".repeat(20), arguments: { b: "b".repeat(19) } }, limits)(record)
    assert.strictEqual(tagOf(long), "VariablesTooLarge")
    for (const wrong of [null, 1, {}, { name: 1 }, { method: "tools/call", params: { name: "t" } }]) {
      assert.throws(() => Rules.setRequest("1", wrong as unknown as Task.Request, limits), /params of a tools\/call/)
    }
  })

  it("gives up a place that ends at a second, one that never ends, and none", () => {
    const without = taskIn("completed")
    for (const place of [10, null]) {
      assert.deepStrictEqual(Rules.giveUpPlace({ ...without, placeUntil: place }), { next: without, place })
    }
    assert.deepStrictEqual(Rules.giveUpPlace(without), { next: without, place: undefined })
  })

  it("takes a task for expired from the very instant of its expiry", () => {
    const record = taskIn("working", { expiresAt: "2026-01-01T00:00:10Z" })
    const at = (millis: number) =>
      Rules.expiredError(record, DateTime.makeUnsafe(Date.UTC(2026, 0, 1, 0, 0, 0, millis)))
    assert.isUndefined(at(9_999))
    assert.strictEqual(at(10_000)?._tag, "TaskExpired")
    assert.isUndefined(Rules.expiredError(taskIn("working"), DateTime.makeUnsafe(8.64e15)))
    assert.isTrue(
      Schema.is(Task.TaskRecord)(taskIn("working", { task: { ...record.task, lastUpdatedAt: record.task.createdAt } }))
    )
  })
})
