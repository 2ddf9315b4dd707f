import * as Arbitrary from "effect/Arbitrary"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import * as Task from "../../task/Task.ts"
import type { Options, TaskStore } from "../../task/TaskStore.ts"
import * as assert from "./assert.ts"
import { newOwner } from "./support.ts"

const Owner = Schema.Literals([0, 1])

/** Which of the tasks that anyone has created is asked for, and whether by its owner or by the other one. */
const Target = { task: Schema.Literals([0, 1, 2]), isStranger: Schema.Literals([false, false, false, true]) }

const keySets = [["a"], ["b"], ["a", "b"], ["c", "__proto__"], []] as const

const variables = [
  { a: 1 },
  { a: null, b: { c: [true] } },
  { b: null },
  Object.fromEntries([["__proto__", "x"] as const])
] as const

const Complete = Schema.TaggedStruct("Complete", { ...Target, to: Task.TerminalStatus })
const Create = Schema.TaggedStruct("Create", {
  owner: Owner,
  ttl: Schema.UndefinedOr(Schema.Literals([0, 1000, 2500, 20_000]))
})

const Command = Schema.Union([
  Create,
  Create,
  Schema.TaggedStruct("UpdateStatus", { ...Target, to: Task.Status, message: Schema.UndefinedOr(Schema.Literal("x")) }),
  Schema.TaggedStruct("SetStatusMessage", Target),
  Schema.TaggedStruct("SetVariables", { ...Target, variables: Schema.Literals([0, 1, 2, 3]) }),
  Schema.TaggedStruct("SetResult", Target),
  Schema.TaggedStruct("SetError", Target),
  Complete,
  Schema.TaggedStruct("Ask", { ...Target, keys: Schema.Literals([0, 1, 2, 3, 4]) }),
  Schema.TaggedStruct("Deliver", { ...Target, keys: Schema.Literals([0, 1, 2, 3, 4]) }),
  Schema.TaggedStruct("Cancel", Target),
  Schema.TaggedStruct("Remove", Target),
  Schema.TaggedStruct("Read", Target),
  Schema.TaggedStruct("List", {
    owner: Owner,
    limit: Schema.Literals([1, 2, 100]),
    status: Schema.UndefinedOr(Task.Status)
  }),
  Schema.TaggedStruct("Advance", { millis: Schema.Literals([1, 500, 1000, 3000]) }),
  Schema.TaggedStruct("Cleanup", {})
])

type Command = typeof Command.Type

/** Sequences of operations of two owners on each other's tasks, time included. */
export const commands = Arbitrary.array(Arbitrary.schema(Command), { maxLength: 100 })

/** The store that the model describes. */
export const options = { defaultTtl: "5 seconds", grace: "2 seconds", maxTasksPerOwner: 3 } as const

/** What may become of a task, written apart from the status machine that is tested. */
const arrows: Record<Task.Status, ReadonlyArray<Task.Status>> = {
  working: ["input_required", "completed", "failed", "cancelled"],
  input_required: ["working", "completed", "failed", "cancelled"],
  completed: [],
  failed: [],
  cancelled: []
}

interface Modelled {
  readonly owner: 0 | 1
  readonly endsAt: number
  record: Task.TaskRecord
  removed: boolean
}

type Fields = Partial<Pick<Task.TaskRecord, "variables" | "result" | "error" | "inputRequests" | "inputResponses">>

/** What a change makes of a task; the message stays where none is given. */
interface Change {
  readonly to?: Task.Status
  readonly message?: string | undefined
  readonly fields?: Fields
}

/**
 * Runs a sequence of operations on the store and on a model of it, and asserts that they agree in every answer: what a
 * task has become, who may see it and when, which change is refused and why.
 */
export const agreesWithModel = Effect.fnUntraced(function* (
  tasks: TaskStore["Service"],
  sequence: ReadonlyArray<Command>,
  { countTerminal = true }: Pick<Options, "countTerminal"> = {}
) {
  const owners = [yield* newOwner, yield* newOwner] as const
  const created: Array<Modelled> = []
  let writes = 0

  for (const command of sequence) {
    const now = yield* Clock.currentTimeMillis
    const second = Math.floor(now / 1000)
    const isThere = ({ endsAt, removed }: Modelled) => !removed && Math.ceil((endsAt + 2000) / 1000) > second
    const askerOf = ({ isStranger, task }: { readonly isStranger: boolean; readonly task: number }) => {
      const owner = created[task]?.owner ?? 0
      return isStranger ? (owner === 0 ? 1 : 0) : owner
    }
    const visible = (owner: 0 | 1) => created.filter((task) => task.owner === owner && isThere(task))

    /** What a task looks like to the one who asks: the store's answer must be the model's. */
    const agree = Effect.fnUntraced(function* (task: Modelled, owner: 0 | 1) {
      const found = yield* Effect.result(tasks.get({ ownerId: owners[owner], taskId: task.record.task.taskId }))
      const expected = task.owner === owner && isThere(task) ? task.record : "TaskNotFound"
      assert.deepStrictEqual(Result.isSuccess(found) ? found.success : found.failure._tag, expected)
    })

    /** A change of a task: refused for one of these reasons, or made with these fields. */
    const change = Effect.fnUntraced(function* <A, E extends { readonly _tag: string }>(
      command: { readonly isStranger: boolean; readonly task: number },
      operation: (key: { readonly ownerId: string; readonly taskId: string }) => Effect.Effect<A, E>,
      model: (record: Task.TaskRecord) => string | Change | undefined
    ) {
      const target = created[command.task]
      const owner = askerOf(command)
      const taskId = target?.record.task.taskId ?? "none"
      const result = yield* Effect.result(operation({ ownerId: owners[owner], taskId }))
      const refusal = Result.isFailure(result) ? result.failure._tag : undefined
      if (target === undefined || target.owner !== owner || !isThere(target)) {
        assert.strictEqual(refusal, "TaskNotFound")
      } else if (target.endsAt <= now) {
        assert.strictEqual(refusal, "TaskExpired")
      } else {
        const after = model(target.record)
        assert.strictEqual(refusal, typeof after === "string" ? after : undefined)
        if (typeof after === "object") {
          const { statusMessage: before, ...task } = target.record.task
          const message = "message" in after ? after.message : before
          const { placeUntil, ...unplaced } = target.record
          const endsUncounted = !countTerminal && after.to !== undefined && arrows[after.to].length === 0
          target.record = {
            ...(endsUncounted ? unplaced : target.record),
            ...after.fields,
            task: {
              ...task,
              status: after.to ?? task.status,
              lastUpdatedAt: DateTime.formatIso(DateTime.makeUnsafe(now)),
              ...(message === undefined ? {} : { statusMessage: message })
            }
          }
        }
      }
      if (target === undefined) return result
      yield* agree(target, target.owner)
      yield* agree(target, owner)
      return result
    })

    const move = (status: Task.Status, to: Task.Status, rest: Change): string | Change =>
      arrows[status].includes(to) ? { to, ...rest } : "InvalidTransition"

    switch (command._tag) {
      case "Create": {
        const { owner } = command
        const holding = created.filter(
          ({ endsAt, record: { task }, removed, ...modelled }) =>
            modelled.owner === owner &&
            !removed &&
            Math.ceil(endsAt / 1000) > second &&
            (countTerminal || arrows[task.status].length > 0)
        )
        const result = yield* Effect.result(
          tasks.create({ ownerId: owners[owner], requestMethod: "tools/call", ttl: command.ttl })
        )
        if (holding.length >= options.maxTasksPerOwner) {
          assert.strictEqual(Result.isFailure(result) ? result.failure._tag : undefined, "TooManyTasks")
          break
        }
        const record = yield* Effect.fromResult(result)
        const endsAt = now + (command.ttl ?? 5000)
        assert.strictEqual(record.ownerId, owners[owner])
        assert.strictEqual(record.task.status, "working")
        assert.strictEqual(record.expiresAt, DateTime.formatIso(DateTime.makeUnsafe(endsAt)))
        const task = { owner, endsAt, record, removed: false }
        created.push(task)
        yield* agree(task, owner)
        break
      }
      case "UpdateStatus":
        yield* change(
          command,
          (key) => tasks.updateStatus(key, command.to, command.message),
          ({ task: { status } }) => move(status, command.to, { message: command.message })
        )
        break
      case "Cancel":
        yield* change(
          command,
          (key) => tasks.cancel(key, "stop"),
          ({ task: { status } }) => move(status, "cancelled", { message: "stop" })
        )
        break
      case "SetStatusMessage":
        yield* change(
          command,
          (key) => tasks.setStatusMessage(key, "y"),
          ({ task: { status } }) => (arrows[status].length === 0 ? "InvalidTransition" : { message: "y" })
        )
        break
      case "SetVariables": {
        const more = variables[command.variables]
        yield* change(
          command,
          (key) => tasks.setVariables(key, more),
          (record) => {
            const kept = new Map<string, Schema.Json>(Object.entries(record.variables))
            for (const [name, value] of Object.entries<Schema.Json>(more)) {
              if (value === null) kept.delete(name)
              else kept.set(name, value)
            }
            return { fields: { variables: Object.fromEntries(kept) } }
          }
        )
        break
      }
      case "SetResult": {
        const result = { write: writes++ }
        yield* change(
          command,
          (key) => tasks.setResult(key, result),
          (record) =>
            arrows[record.task.status].length === 0 && record.result !== null
              ? "InvalidTransition"
              : { fields: { result } }
        )
        break
      }
      case "SetError": {
        const error = { code: writes++ }
        yield* change(
          command,
          (key) => tasks.setError(key, error),
          (record) =>
            arrows[record.task.status].length === 0 && record.error !== undefined
              ? "InvalidTransition"
              : { fields: { error } }
        )
        break
      }
      case "Complete": {
        const result = { write: writes++ }
        yield* change(
          command,
          (key) => tasks.completeWithResult(key, { status: command.to, result }),
          ({ task: { status } }) => move(status, command.to, { message: undefined, fields: { result } })
        )
        break
      }
      case "Ask": {
        const keys = keySets[command.keys]
        const requests = Object.fromEntries(keys.map((key) => [key, writes++] as const))
        yield* change(
          command,
          (key) => tasks.recordInputRequests(key, requests),
          ({ inputRequests, task: { status } }) => {
            const before = new Map(Object.entries(inputRequests ?? {}))
            const fields = { inputRequests: Object.fromEntries([...before, ...Object.entries(requests)]) }
            const moved = move(status, "input_required", { fields })
            return typeof moved !== "string" && keys.some((key) => before.has(key)) ? "InputKeyReused" : moved
          }
        )
        break
      }
      case "Deliver": {
        const keys: ReadonlyArray<string> = keySets[command.keys]
        const responses = Object.fromEntries(keys.map((key) => [key, writes++] as const))
        const target = created[command.task]
        const { inputRequests = {}, inputResponses = {} } = target?.record ?? {}
        const answered = new Map(Object.entries(inputResponses ?? {}))
        const open = Object.keys(inputRequests ?? {}).filter((key) => !answered.has(key))
        const accepted = keys.filter((key) => open.includes(key))
        const complete = Object.keys(inputRequests ?? {}).length > 0 && accepted.length === open.length
        for (const key of accepted) answered.set(key, responses[key] ?? null)
        const result = yield* change(
          command,
          (key) => tasks.deliverInputs(key, responses),
          ({ task: { status } }) => {
            if (status !== "input_required") return "InvalidTransition"
            if (accepted.length === 0 && !complete) return undefined
            const fields = { inputResponses: Object.fromEntries(answered) }
            return complete ? { to: "working", fields } : { fields }
          }
        )
        if (Result.isSuccess(result)) {
          const ignored = keys.filter((key) => !open.includes(key))
          assert.deepStrictEqual(result.success, { accepted, ignored, complete })
        }
        break
      }
      case "Remove": {
        const target = created[command.task]
        const owner = askerOf(command)
        const taskId = target?.record.task.taskId ?? "none"
        const result = yield* Effect.result(tasks.remove({ ownerId: owners[owner], taskId }))
        const isTheirs = target !== undefined && target.owner === owner && isThere(target)
        assert.strictEqual(
          Result.isFailure(result) ? result.failure._tag : undefined,
          isTheirs ? undefined : "TaskNotFound"
        )
        if (isTheirs) target.removed = true
        if (target !== undefined) yield* agree(target, target.owner)
        break
      }
      case "Read": {
        const target = created[command.task]
        if (target === undefined) break
        const owner = askerOf(command)
        const key = { ownerId: owners[owner], taskId: target.record.task.taskId }
        const result = yield* Effect.result(tasks.getResult(key))
        const { record } = target
        const seen = Result.isSuccess(result) ? result.success : result.failure._tag
        if (target.owner !== owner || !isThere(target)) assert.strictEqual(seen, "TaskNotFound")
        else assert.deepStrictEqual(seen, arrows[record.task.status].length === 0 ? record.result : "TaskNotReady")
        break
      }
      case "List": {
        const listed: Array<Task.TaskRecord> = []
        let cursor: string | undefined
        do {
          const { limit, status } = command
          const page = yield* tasks.list({ ownerId: owners[command.owner], status, limit, cursor })
          assert.isAtMost(page.tasks.length, command.limit)
          listed.push(...page.tasks)
          cursor = page.cursor
        } while (cursor !== undefined)
        const newest = visible(command.owner)
          .map(({ record }) => record)
          .filter(({ task }) => command.status === undefined || task.status === command.status)
        newest.sort((a, b) => (a.task.taskId < b.task.taskId ? 1 : -1))
        assert.deepStrictEqual(listed, newest)
        break
      }
      case "Advance":
        yield* TestClock.adjust(command.millis)
        break
      case "Cleanup":
        yield* tasks.cleanupExpired
    }
  }
})
