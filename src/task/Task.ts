/**
 * The Schemas of a task's record and of the task on the wire, and the transitions between statuses. Everything here is
 * pure.
 *
 * The record has the same JSON form as `TaskRecord` of the Rust crate pmcp-tasks, so each side can read the records of
 * the other. Fields are in camelCase, and times are in RFC 3339. `result` and `expiresAt` are null if there is none,
 * and other fields without a value are left out. If a record is written again, its unknown fields are kept. The wire
 * form is the `Task` of the Model Context Protocol (specification of 2025-11-25, "Tasks").
 */
import * as DateTime from "effect/DateTime"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

/**
 * The status of a task, as the Model Context Protocol names it.
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
 *
 * @category schemas
 * @since 0.1.0
 */
export const Status = Schema.Literals(["working", "input_required", "completed", "failed", "cancelled"])

/**
 * The status of a task.
 *
 * @category models
 * @since 0.1.0
 */
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
 *
 * @category schemas
 * @since 0.1.0
 */
export const TerminalStatus = Schema.Literals(["completed", "failed", "cancelled"])

/**
 * A status that a task never leaves.
 *
 * @category models
 * @since 0.1.0
 */
export type TerminalStatus = typeof TerminalStatus.Type

/** The statuses that may follow each status (Model Context Protocol, "Task Status Lifecycle"). */
const nextStatuses: Record<Status, ReadonlyArray<Status>> = {
  working: ["input_required", "completed", "failed", "cancelled"],
  input_required: ["working", "completed", "failed", "cancelled"],
  completed: [],
  failed: [],
  cancelled: []
}

/**
 * Whether a status is terminal. A task never leaves a terminal status.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 *
 * assert.strictEqual(Task.isTerminal("cancelled"), true)
 * assert.strictEqual(Task.isTerminal("input_required"), false)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isTerminal = (status: Status): status is TerminalStatus => nextStatuses[status].length === 0

/**
 * Whether a task may go from one status to another. The same status again is not a transition.
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
 *
 * @category predicates
 * @since 0.1.0
 */
export const canTransition = (from: Status, to: Status): boolean => nextStatuses[from].includes(to)

/**
 * The instant of a time in RFC 3339. JavaScript has no leap seconds, so second 60 becomes the second after 59, as in
 * POSIX time.
 */
const instantOf = (text: string): DateTime.Utc | undefined => {
  const isLeap = leapSecond.test(text)
  const instant = Option.getOrUndefined(DateTime.make(isLeap ? text.replace(leapSecond, "$1:59") : text))
  if (instant === undefined) return undefined
  return DateTime.toUtc(isLeap ? DateTime.add(instant, { seconds: 1 }) : instant)
}

const leapSecond = /(T\d\d:\d\d):60(?!\d)/i

/** A time in RFC 3339, kept as text. The `expiresAt` of pmcp-tasks has nanoseconds, which a `DateTime` would lose. */
const Timestamp = Schema.String.check(
  // `Date.parse` knows all but leap seconds, and makes no `DateTime`.
  Schema.makeFilter(
    (text) => Number.isFinite(Date.parse(text)) || instantOf(text) !== undefined || "Expected a time in RFC 3339"
  )
)

/**
 * pmcp-tasks writes integers up to 2^64, but JavaScript reads an integer beyond 2^53 as another number. A record with
 * such an integer can't be read here. Otherwise, the next change of the record would store the wrong number.
 */
const Milliseconds = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** A JSON object. */
const JsonObject = Schema.Record(Schema.String, Schema.Json)

/** Fields that this version does not know, for example those of pmcp-tasks or of a later version. They are kept. */
const unknownFields = [Schema.Record(Schema.String, Schema.Unknown)] as const

/**
 * A task on the wire: the `Task` of the Model Context Protocol.
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
 *
 * @category schemas
 * @since 0.1.0
 */
export const Task = Schema.StructWithRest(
  Schema.Struct({
    taskId: Schema.String,
    status: Status,
    statusMessage: Schema.optionalKey(Schema.NullOr(Schema.String)),
    createdAt: Timestamp,
    lastUpdatedAt: Timestamp,
    /** Milliseconds from the creation until the task expires. Null if the task never expires. */
    ttl: Schema.NullOr(Milliseconds),
    /** How many milliseconds a client should wait between two requests for the task. */
    pollInterval: Schema.optionalKey(Schema.NullOr(Milliseconds)),
    _meta: Schema.optionalKey(Schema.NullOr(JsonObject))
  }),
  unknownFields
)

/**
 * A task on the wire.
 *
 * @category models
 * @since 0.1.0
 */
export type Task = typeof Task.Type

/**
 * A task as it is stored: the task on the wire, and what only its owner and the server see.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Task } from "effect-versioned-store"
 * import { Schema } from "effect"
 *
 * const createdAt = "2026-01-01T00:00:00Z"
 * const task = { taskId: "1", status: "working", createdAt, lastUpdatedAt: createdAt, ttl: null }
 * const stored = { task, ownerId: "alice", variables: {}, result: null, requestMethod: "tools/call", expiresAt: null }
 * const record = Schema.decodeUnknownSync(Task.TaskRecord)({ ...stored, later: "kept" })
 * assert.deepStrictEqual(Schema.encodeSync(Task.TaskRecord)(record), { ...stored, later: "kept" })
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const TaskRecord = Schema.StructWithRest(
  Schema.Struct({
    task: Task,
    ownerId: Schema.String,
    /** Values that client and server share about the task. */
    variables: JsonObject,
    /** The result of the task. Null if the task has no result yet. */
    result: Schema.Json,
    /** The method of the request that made the task, for example `tools/call`. */
    requestMethod: Schema.String,
    /** When the task expires. Null if it never expires. */
    expiresAt: Schema.NullOr(Timestamp),
    /** The requests of the server to the client, each under a key that the task uses only once. */
    inputRequests: Schema.optionalKey(Schema.NullOr(JsonObject)),
    /** The answers of the client, under the keys of the requests. */
    inputResponses: Schema.optionalKey(Schema.NullOr(JsonObject)),
    /** The JSON-RPC error of a failed task. */
    error: Schema.optionalKey(Schema.Json),
    /**
     * The epoch second until which the task counts towards its owner's limit. Null if it counts for ever. If it is
     * left out, the task does not count.
     */
    placeUntil: Schema.optionalKey(Schema.NullOr(Schema.Int))
  }),
  unknownFields
)

/**
 * A task as it is stored.
 *
 * @category models
 * @since 0.1.0
 */
export type TaskRecord = typeof TaskRecord.Type

/**
 * The tool call that made a task, in the form of the `params` of its `tools/call` request.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  /** The name of the tool. */
  readonly name: string
  /** The arguments of the tool. */
  readonly arguments?: Readonly<Record<string, Schema.Json>> | undefined
  readonly _meta?: { readonly progressToken?: string | number | undefined } | undefined
}

/**
 * The tool call that made a task, if the task was created with its `request`, or by pmcp-tasks.
 *
 * It is in the variables `tool_name`, `arguments` and `progress_token`, where pmcp-tasks stores it. So
 * `TaskStore.setVariables` can change it.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Task, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = TaskStore.TaskStore.use((tasks) =>
 *   tasks.create({
 *     ownerId: "alice",
 *     requestMethod: "tools/call",
 *     request: { name: "summarize", arguments: { path: "a.txt" } }
 *   })
 * )
 * const record = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.deepStrictEqual(record.variables, { tool_name: "summarize", arguments: { path: "a.txt" } })
 * assert.deepStrictEqual(Task.request(record), { name: "summarize", arguments: { path: "a.txt" } })
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const request = ({ variables }: TaskRecord): Request | undefined => {
  const { tool_name: name, arguments: toolArguments, progress_token: progressToken } = variables
  if (typeof name !== "string") return undefined
  return {
    name,
    ...(isJsonObject(toolArguments) ? { arguments: toolArguments } : {}),
    ...(typeof progressToken === "string" || typeof progressToken === "number" ? { _meta: { progressToken } } : {})
  }
}

const isJsonObject = (value: Schema.Json | undefined): value is Readonly<Record<string, Schema.Json>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/**
 * The variables that hold a tool call.
 *
 * @internal
 */
export const requestVariables = ({ _meta, arguments: toolArguments, name }: Request): Record<string, Schema.Json> => ({
  tool_name: name,
  ...(toolArguments === undefined ? {} : { arguments: toolArguments }),
  ...(_meta?.progressToken === undefined ? {} : { progress_token: _meta.progressToken })
})

/**
 * The input requests of a task, and the client's responses so far.
 *
 * @category models
 * @since 0.1.0
 */
export interface InputSnapshot {
  readonly status: Status
  /** The requests, by their keys. */
  readonly inputRequests: Readonly<Record<string, Schema.Json>>
  /** The responses, under the keys of the requests. */
  readonly inputResponses: Readonly<Record<string, Schema.Json>>
  /** The keys of the requests without a response. */
  readonly outstanding: ReadonlyArray<string>
}

/**
 * The input requests of a task, and the client's responses so far.
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
 *   const key = { ownerId: "alice", taskId: task.taskId }
 *   return yield* tasks.recordInputRequests(key, { name: { method: "elicitation/create" } })
 * })
 * const layer = TaskStore.layer.pipe(Layer.provide(InMemory.layer))
 * const record = Effect.runSync(program.pipe(Effect.provide(layer)))
 * assert.deepStrictEqual(Task.inputSnapshot(record).outstanding, ["name"])
 * ```
 *
 * @category accessors
 * @since 0.1.0
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

/**
 * The outcome of a delivery of inputs.
 *
 * @category models
 * @since 0.1.0
 */
export interface InputDelivery {
  /** The keys whose responses were stored. */
  readonly accepted: ReadonlyArray<string>
  /** The keys that no request has, or that had a response already. */
  readonly ignored: ReadonlyArray<string>
  /** Whether the task has requests, and each of them has a response now. */
  readonly complete: boolean
}

/**
 * When a task expires. Undefined if it never expires.
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
 *
 * @category accessors
 * @since 0.1.0
 */
export const expiresAt = (record: TaskRecord): DateTime.Utc | undefined =>
  record.expiresAt === null ? undefined : instantOf(record.expiresAt)

/**
 * The task on the wire, with the task's variables in `_meta`, as pmcp-tasks sends it.
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
 *
 * @category encoding
 * @since 0.1.0
 */
export const toWire = ({ task, variables }: TaskRecord): Task =>
  Object.keys(variables).length === 0 ? task : { ...task, _meta: { ...task._meta, ...variables } }
