/**
 * What a task is: the Schemas of its record and of its form on the wire, and its status machine. All of it is pure.
 *
 * The record is the Rust crate pmcp-tasks' `TaskRecord` to the letter, so that either side reads what the other wrote:
 * fields in camelCase, times in RFC 3339, `result` and `expiresAt` null where there is none, all else left out. Fields
 * that are not known here are kept when a record is written again. The wire form is the Model Context Protocol's `Task`
 * (specification of 2025-11-25, "Tasks").
 */
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/**
 * The status of a task.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 * import { Schema } from "effect"
 *
 * const status: Task.Status = Schema.decodeUnknownSync(Task.Status)("input_required")
 * assert.strictEqual(status, "input_required")
 * ```
 */
export const Status = Schema.Literals(["working", "input_required", "completed", "failed", "cancelled"])

/** The status of a task. */
export type Status = typeof Status.Type

/**
 * A status that a task never leaves.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 * import { Schema } from "effect"
 *
 * assert.strictEqual(Schema.is(Task.TerminalStatus)("working"), false)
 * ```
 */
export const TerminalStatus = Schema.Literals(["completed", "failed", "cancelled"])

/** A status that a task never leaves. */
export type TerminalStatus = typeof TerminalStatus.Type

const next: Record<Status, ReadonlyArray<Status>> = {
  working: ["input_required", "completed", "failed", "cancelled"],
  input_required: ["working", "completed", "failed", "cancelled"],
  completed: [],
  failed: [],
  cancelled: []
}

/**
 * Whether a task never leaves a status.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 *
 * assert.strictEqual(Task.isTerminal("cancelled"), true)
 * assert.strictEqual(Task.isTerminal("input_required"), false)
 * ```
 */
export const isTerminal = (status: Status): status is TerminalStatus => next[status].length === 0

/**
 * Whether a task may go from one status to another. To stay is no transition.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 *
 * assert.strictEqual(Task.canTransition("working", "completed"), true)
 * assert.strictEqual(Task.canTransition("working", "working"), false)
 * assert.strictEqual(Task.canTransition("completed", "working"), false)
 * ```
 */
export const canTransition = (from: Status, to: Status): boolean => next[from].includes(to)

/**
 * The instant of a time in RFC 3339. JavaScript knows no leap second: the second 60 is the one after 59, as in POSIX time.
 */
const instantOf = (text: string): DateTime.Utc | undefined => {
  const isLeap = leapSecond.test(text)
  const instant = Option.getOrUndefined(DateTime.make(isLeap ? text.replace(leapSecond, "$1:59") : text))
  if (instant === undefined) return undefined
  return DateTime.toUtc(isLeap ? DateTime.add(instant, { seconds: 1 }) : instant)
}

const leapSecond = /(T\d\d:\d\d):60(?!\d)/i

/** A time in RFC 3339, kept as it was written: that crate's `expiresAt` may have nine digits of a second. */
const Timestamp = Schema.String.check(
  Schema.makeFilter((text) => instantOf(text) !== undefined || "Expected a time in RFC 3339")
)

/**
 * That crate writes up to 2^64, but beyond 2^53 JavaScript reads another number than was written. A record with such a
 * number can't be read, since the next change here would write the wrong one back.
 */
const Milliseconds = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** A JSON object. */
const JsonObject = Schema.Record(Schema.String, Schema.Json)

/** Fields that are not known here. */
const Rest = [Schema.Record(Schema.String, Schema.Unknown)] as const

/**
 * A task as it goes over the wire.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 * import { Schema } from "effect"
 *
 * const task = Schema.decodeUnknownSync(Task.Task)({
 *   taskId: "1",
 *   status: "working",
 *   createdAt: "2026-01-01T00:00:00.000Z",
 *   lastUpdatedAt: "2026-01-01T00:00:00.000Z",
 *   ttl: null
 * })
 * assert.strictEqual(task.statusMessage, undefined)
 * ```
 */
export const Task = Schema.StructWithRest(
  Schema.Struct({
    taskId: Schema.String,
    status: Status,
    statusMessage: Schema.optionalKey(Schema.NullOr(Schema.String)),
    createdAt: Timestamp,
    lastUpdatedAt: Timestamp,
    /** Milliseconds from the creation until the task expires; null: never. */
    ttl: Schema.NullOr(Milliseconds),
    /** How many milliseconds a client should let pass between two looks. */
    pollInterval: Schema.optionalKey(Schema.NullOr(Milliseconds)),
    _meta: Schema.optionalKey(Schema.NullOr(JsonObject))
  }),
  Rest
)

/** A task as it goes over the wire. */
export type Task = typeof Task.Type

/**
 * A task as it is stored.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 * import { Schema } from "effect"
 *
 * const task = { taskId: "1", status: "working", createdAt: "2026-01-01T00:00:00Z", lastUpdatedAt: "2026-01-01T00:00:00Z", ttl: null }
 * const stored = { task, ownerId: "alice", variables: {}, result: null, requestMethod: "tools/call", expiresAt: null }
 * const record = Schema.decodeUnknownSync(Task.TaskRecord)({ ...stored, later: "kept" })
 * assert.deepStrictEqual(Schema.encodeSync(Task.TaskRecord)(record), { ...stored, later: "kept" })
 * ```
 */
export const TaskRecord = Schema.StructWithRest(
  Schema.Struct({
    task: Task,
    ownerId: Schema.String,
    /** What client and server share about the task. */
    variables: JsonObject,
    /** What the task came to; null: nothing yet. */
    result: Schema.Json,
    /** The method of the request that made the task, `tools/call` for one. */
    requestMethod: Schema.String,
    expiresAt: Schema.NullOr(Timestamp),
    /** What the server asked of the client, by a key of its own for each. */
    inputRequests: Schema.optionalKey(Schema.NullOr(JsonObject)),
    /** What the client answered, by the same keys. */
    inputResponses: Schema.optionalKey(Schema.NullOr(JsonObject)),
    /** The JSON-RPC error of a failed task. */
    error: Schema.optionalKey(Schema.Json),
    /** The epoch second until which the task counts towards its owner's limit; left out: it does not. */
    placeUntil: Schema.optionalKey(Schema.NullOr(Schema.Int))
  }),
  Rest
)

/** A task as it is stored. */
export type TaskRecord = typeof TaskRecord.Type

/** What the client is asked for and what it has answered. */
export interface InputSnapshot {
  readonly status: Status
  readonly inputRequests: Readonly<Record<string, Schema.Json>>
  readonly inputResponses: Readonly<Record<string, Schema.Json>>
  /** The keys that are still to be answered. */
  readonly outstanding: ReadonlyArray<string>
}

/**
 * What the client is asked for and what it has answered.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Task, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const tasks = yield* TaskStore.TaskStore
 *   const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
 *   return yield* tasks.recordInputRequests({ ownerId: "alice", taskId: task.taskId }, { name: { method: "elicitation/create" } })
 * })
 * const layer = TaskStore.layer.pipe(Layer.provide(InMemory.layer))
 * const record = Effect.runSync(program.pipe(Effect.provide(layer)))
 * assert.deepStrictEqual(Task.inputSnapshot(record).outstanding, ["name"])
 * ```
 */
export const inputSnapshot = ({ inputRequests, inputResponses, task }: TaskRecord): InputSnapshot => {
  const [requests, responses] = [inputRequests ?? {}, inputResponses ?? {}]
  return {
    status: task.status,
    inputRequests: requests,
    inputResponses: responses,
    outstanding: Object.keys(requests).filter((key) => !Object.hasOwn(responses, key))
  }
}

/** What became of a delivery: the keys that were taken, those that were not, and whether all are answered now. */
export interface InputDelivery {
  readonly accepted: ReadonlyArray<string>
  readonly ignored: ReadonlyArray<string>
  readonly complete: boolean
}

/**
 * When a task expires; undefined: never.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Task, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = TaskStore.TaskStore.use((tasks) =>
 *   tasks.create({ ownerId: "alice", requestMethod: "tools/call", ttl: "Infinity" })
 * )
 * const layer = TaskStore.layerWith({ maxTtl: "Infinity" }).pipe(Layer.provide(InMemory.layer))
 * assert.strictEqual(Task.expiresAt(Effect.runSync(program.pipe(Effect.provide(layer)))), undefined)
 * ```
 */
export const expiresAt = (record: TaskRecord): DateTime.Utc | undefined =>
  record.expiresAt === null ? undefined : instantOf(record.expiresAt)

/**
 * The task as it goes over the wire, with its variables in `_meta`, as pmcp-tasks sends it.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Task, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const tasks = yield* TaskStore.TaskStore
 *   const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
 *   return yield* tasks.setVariables({ ownerId: "alice", taskId: task.taskId }, { progress: 42 })
 * })
 * const record = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.deepStrictEqual(Task.toWire(record)._meta, { progress: 42 })
 * ```
 */
export const toWire = ({ task, variables }: TaskRecord): Task =>
  Object.keys(variables).length === 0 ? task : { ...task, _meta: { ...task._meta, ...variables } }
