/**
 * The errors of tasks. Operations on tasks can also fail with errors of stored records: `Backend`, `CapacityExceeded`,
 * and `InvalidKey` if the owner can't be part of a key. As an error of an endpoint of Effect's `HttpApi`, each has an
 * HTTP status, its `httpApiStatus`.
 */
import * as Schema from "effect/Schema"
import { Status } from "./Task.ts"

/**
 * The owner has no task with this id. If another owner has a task with this id, the error has the same fields and takes
 * the same requests, so that nobody can find out about it.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = TaskStore.TaskStore.use((tasks) => tasks.get({ ownerId: "alice", taskId: "1" })).pipe(
 *   Effect.catchTag("TaskNotFound", (error) => Effect.succeed(error.message))
 * )
 * const layer = TaskStore.layer.pipe(Layer.provide(InMemory.layer))
 * assert.strictEqual(Effect.runSync(program.pipe(Effect.provide(layer))), "There is no task 1")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class TaskNotFound extends Schema.TaggedError<TaskNotFound>("effect-versioned-store/TaskNotFound")(
  "TaskNotFound",
  { taskId: Schema.String },
  { httpApiStatus: 404 }
) {
  override get message(): string {
    return `There is no task ${this.taskId}`
  }
}

/**
 * The task has expired. It can't be changed, but it can be read for a while (`grace`).
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const tasks = yield* TaskStore.TaskStore
 *   const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call", ttl: 0 })
 *   return yield* Effect.flip(tasks.cancel({ ownerId: "alice", taskId: task.taskId }))
 * })
 * const error = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.strictEqual(error._tag, "TaskExpired")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class TaskExpired extends Schema.TaggedError<TaskExpired>("effect-versioned-store/TaskExpired")(
  "TaskExpired",
  { taskId: Schema.String, expiredAt: Schema.DateTimeUtc },
  { httpApiStatus: 409 }
) {
  override get message(): string {
    return `Task ${this.taskId} expired at ${this.expiredAt}`
  }
}

/**
 * The task can't go from its status to the other one, or the operation is not allowed in that status. Nothing was
 * written.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const tasks = yield* TaskStore.TaskStore
 *   const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
 *   const key = { ownerId: "alice", taskId: task.taskId }
 *   yield* tasks.cancel(key)
 *   return yield* Effect.flip(tasks.updateStatus(key, "working"))
 * })
 * const error = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.ok(error._tag === "InvalidTransition" && error.from === "cancelled" && error.to === "working")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidTransition extends Schema.TaggedError<InvalidTransition>(
  "effect-versioned-store/InvalidTransition"
)("InvalidTransition", { taskId: Schema.String, from: Status, to: Status }, { httpApiStatus: 409 }) {
  override get message(): string {
    return this.from === this.to
      ? `Task ${this.taskId} is ${this.from} already`
      : `Task ${this.taskId} is ${this.from}, and can't become ${this.to}`
  }
}

/**
 * The task has not reached a terminal status, so it has no result yet.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const tasks = yield* TaskStore.TaskStore
 *   const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
 *   return yield* Effect.flip(tasks.getResult({ ownerId: "alice", taskId: task.taskId }))
 * })
 * const error = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.ok(error._tag === "TaskNotReady" && error.status === "working")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class TaskNotReady extends Schema.TaggedError<TaskNotReady>("effect-versioned-store/TaskNotReady")(
  "TaskNotReady",
  { taskId: Schema.String, status: Status },
  { httpApiStatus: 409 }
) {
  override get message(): string {
    return `Task ${this.taskId} is ${this.status}, and has no result yet`
  }
}

/**
 * The owner has as many tasks as an owner may have, so no task was created. Cancel and remove some, or wait for them to
 * expire.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = TaskStore.TaskStore.use((tasks) =>
 *   Effect.flip(tasks.create({ ownerId: "alice", requestMethod: "tools/call" }))
 * )
 * const layer = TaskStore.layerWith({ maxTasksPerOwner: 0 }).pipe(Layer.provide(InMemory.layer))
 * assert.strictEqual(Effect.runSync(program.pipe(Effect.provide(layer)))._tag, "TooManyTasks")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class TooManyTasks extends Schema.TaggedError<TooManyTasks>("effect-versioned-store/TooManyTasks")(
  "TooManyTasks",
  { limit: Schema.Finite },
  { httpApiStatus: 409 }
) {
  override get message(): string {
    return `The owner has ${this.limit} tasks, and no more are allowed: remove some, or wait for them to expire`
  }
}

/**
 * The owner has a record with the id of a new task, so no task was created. The record may be a task that has expired
 * and can still be read, or a record of another store.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const tasks = yield* TaskStore.TaskStore
 *   const create = tasks.create({ ownerId: "alice", id: "import-42", requestMethod: "tools/call" })
 *   yield* create
 *   return yield* create.pipe(
 *     Effect.catchTag("TaskAlreadyExists", ({ taskId }) => tasks.get({ ownerId: "alice", taskId }))
 *   )
 * })
 * const record = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.strictEqual(record.task.taskId, "import-42")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class TaskAlreadyExists extends Schema.TaggedError<TaskAlreadyExists>(
  "effect-versioned-store/TaskAlreadyExists"
)("TaskAlreadyExists", { taskId: Schema.String }, { httpApiStatus: 409 }) {
  override get message(): string {
    return `There is a record with the id ${this.taskId} already: get that task, or choose another id`
  }
}

/**
 * The time to live of a new task is longer than the maximum (`maxTtl`), so no task was created. `ttl` and `limit` are
 * milliseconds.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = TaskStore.TaskStore.use((tasks) =>
 *   Effect.flip(tasks.create({ ownerId: "alice", requestMethod: "tools/call", ttl: "2 days" }))
 * )
 * const error = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.strictEqual(
 *   error.message,
 *   "A time to live of 172800000 ms was asked for, and at most 86400000 ms are allowed"
 * )
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class TtlTooLong extends Schema.TaggedError<TtlTooLong>("effect-versioned-store/TtlTooLong")(
  "TtlTooLong",
  { ttl: Schema.Number, limit: Schema.Number },
  { httpApiStatus: 400 }
) {
  override get message(): string {
    return `A time to live of ${this.ttl} ms was asked for, and at most ${this.limit} ms are allowed`
  }
}

/**
 * With the change, the variables of a task would take more bytes of JSON than are allowed. Nothing was written. `limit`
 * and `actual` are bytes. `actual` may be less than all the bytes, since counting stops once the limit is exceeded.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { TaskError } from "effect-versioned-store"
 *
 * const error = new TaskError.VariablesTooLarge({ taskId: "1", limit: 100, actual: 120 })
 * assert.strictEqual(error.message, "The variables of task 1 would take 120 bytes, and at most 100 are allowed")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class VariablesTooLarge extends Schema.TaggedError<VariablesTooLarge>(
  "effect-versioned-store/VariablesTooLarge"
)("VariablesTooLarge", { taskId: Schema.String, limit: Schema.Finite, actual: Schema.Finite }, { httpApiStatus: 413 }) {
  override get message(): string {
    return `The variables of task ${this.taskId} would take ${this.actual} bytes, and at most ${this.limit} are allowed`
  }
}

/**
 * A variable is nested too deeply, has a string that is too long, or is not JSON. `path` leads to it. Nothing was
 * written.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { TaskError } from "effect-versioned-store"
 *
 * const error = new TaskError.InvalidVariables({ taskId: "1", path: ["a", "0"], problem: "TooDeep" })
 * assert.strictEqual(error.message, "The variable a.0 of task 1 is nested too deeply")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidVariables extends Schema.TaggedError<InvalidVariables>("effect-versioned-store/InvalidVariables")(
  "InvalidVariables",
  {
    taskId: Schema.String,
    path: Schema.Array(Schema.String),
    problem: Schema.Literals(["TooDeep", "StringTooLong", "NotJson"])
  },
  { httpApiStatus: 400 }
) {
  override get message(): string {
    const variable = this.path.length === 0 ? "The object of variables" : `The variable ${this.path.join(".")}`
    return `${variable} of task ${this.taskId} ${variableProblems[this.problem]}`
  }
}

const variableProblems = {
  TooDeep: "is nested too deeply",
  StringTooLong: "is a string that is too long",
  NotJson: "is not JSON"
}

const Part = Schema.Literals(["result", "error", "inputRequests", "inputResponses", "statusMessage"])

const parts: Record<typeof Part.Type, string> = {
  result: "result",
  error: "error",
  inputRequests: "input requests",
  inputResponses: "input responses",
  statusMessage: "status message"
}

/**
 * A part of a task is nested too deeply or is not JSON. `path` leads to the place. Nothing was written.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const tasks = yield* TaskStore.TaskStore
 *   const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
 *   return yield* Effect.flip(tasks.setResult({ ownerId: "alice", taskId: task.taskId }, { a: [[1]] }))
 * })
 * const layer = TaskStore.layerWith({ maxPayloadDepth: 2 }).pipe(Layer.provide(InMemory.layer))
 * const error = Effect.runSync(program.pipe(Effect.provide(layer)))
 * assert.ok(error._tag === "InvalidPayload" && error.part === "result" && error.problem === "TooDeep")
 * assert.deepStrictEqual(error.path, ["a", "0", "0"])
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidPayload extends Schema.TaggedError<InvalidPayload>("effect-versioned-store/InvalidPayload")(
  "InvalidPayload",
  {
    taskId: Schema.String,
    part: Part,
    path: Schema.Array(Schema.String),
    problem: Schema.Literals(["TooDeep", "NotJson"])
  },
  { httpApiStatus: 400 }
) {
  override get message(): string {
    const place = this.path.length === 0 ? "" : ` at ${this.path.join(".")}`
    return `The ${parts[this.part]} of task ${this.taskId} ${payloadProblems[this.problem]}${place}`
  }
}

const payloadProblems = { TooDeep: "would be nested too deeply", NotJson: "would not be JSON" }

/**
 * A part of a task would take more bytes of JSON than are allowed. Nothing was written. `limit` and `actual` are bytes.
 * `actual` may be less than all the bytes, since counting stops once the limit is exceeded.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { TaskError } from "effect-versioned-store"
 *
 * const error = new TaskError.PayloadTooLarge({ taskId: "1", part: "result", limit: 100, actual: 120 })
 * assert.strictEqual(error.message, "The result of task 1 would take 120 bytes or more, and at most 100 are allowed")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class PayloadTooLarge extends Schema.TaggedError<PayloadTooLarge>("effect-versioned-store/PayloadTooLarge")(
  "PayloadTooLarge",
  { taskId: Schema.String, part: Part, limit: Schema.Finite, actual: Schema.Finite },
  { httpApiStatus: 413 }
) {
  override get message(): string {
    const part = parts[this.part]
    return (
      `The ${part} of task ${this.taskId} would take ${this.actual} bytes or more, and at most ${this.limit} are ` +
      "allowed"
    )
  }
}

/**
 * A key of a new input request was used for an earlier request of the task. Nothing was written. Use another key.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { TaskError } from "effect-versioned-store"
 *
 * const error = new TaskError.InputKeyReused({ taskId: "1", key: "name" })
 * assert.strictEqual(error.message, "Task 1 has had an input request with the key name before: use another key")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class InputKeyReused extends Schema.TaggedError<InputKeyReused>("effect-versioned-store/InputKeyReused")(
  "InputKeyReused",
  { taskId: Schema.String, key: Schema.String },
  { httpApiStatus: 409 }
) {
  override get message(): string {
    return `Task ${this.taskId} has had an input request with the key ${this.key} before: use another key`
  }
}

/**
 * The owner is `""` or `"local"`, which do not name anybody. The store does not allow them (`allowAnonymous`).
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 *
 * const program = TaskStore.TaskStore.use((tasks) =>
 *   Effect.flip(tasks.create({ ownerId: "local", requestMethod: "tools/call" }))
 * )
 * const error = Effect.runSync(program.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
 * assert.strictEqual(error._tag, "AnonymousOwner")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class AnonymousOwner extends Schema.TaggedError<AnonymousOwner>("effect-versioned-store/AnonymousOwner")(
  "AnonymousOwner",
  {},
  { httpApiStatus: 400 }
) {
  override get message(): string {
    return "Anonymous owners have no tasks here: sign in, or allow them with allowAnonymous"
  }
}

/**
 * Other callers changed the task, or the owner's tasks, at each try, until the retry schedule was spent. The operation
 * may be called again.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { TaskError } from "effect-versioned-store"
 *
 * const error = new TaskError.ConcurrentModification({ taskId: "1" })
 * assert.strictEqual(error.message, "Task 1 was changed by others at each try: call the operation again")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class ConcurrentModification extends Schema.TaggedError<ConcurrentModification>(
  "effect-versioned-store/ConcurrentModification"
)("ConcurrentModification", { taskId: Schema.String }, { httpApiStatus: 409 }) {
  override get message(): string {
    return `Task ${this.taskId} was changed by others at each try: call the operation again`
  }
}
