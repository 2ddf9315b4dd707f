/**
 * The rules of tasks, as pure functions: which change is allowed, and what it makes of a task.
 *
 * What a caller gives is checked first, without a look at the task. The checks of what JavaScript may pass throw, since
 * TypeScript excludes it.
 */
import * as DateTime from "effect/DateTime"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { byteLength, isLongerThan } from "../../internal/utf8.ts"
import * as Task from "../Task.ts"
import * as TaskError from "../TaskError.ts"
import * as Json from "./json.ts"

export interface Limits {
  readonly maxPayloadBytes: number
  readonly maxPayloadDepth: number
  readonly maxStringBytes: number
  readonly maxVariablesBytes: number
  readonly maxVariablesDepth: number
}

/** What becomes of a task: the changed task, or why the change is not allowed. */
export type Rule<E> = (record: Task.TaskRecord) => Result.Result<Task.TaskRecord, E>

type JsonObject = Readonly<Record<string, Schema.Json>>
type PayloadError = TaskError.InvalidPayload | TaskError.PayloadTooLarge
type Part = TaskError.InvalidPayload["part"]

// -----------------------------------------------------------------------------
// Status
// -----------------------------------------------------------------------------

/** Moves a task to another status, with a message that replaces the one before. */
export const moveTo =
  (status: Task.Status, statusMessage: string | null | undefined): Rule<TaskError.InvalidTransition> =>
  (record) => {
    const { statusMessage: _, ...task } = record.task
    return Task.canTransition(task.status, status)
      ? Result.succeed({ ...record, task: { ...task, status, ...(statusMessage == null ? {} : { statusMessage }) } })
      : Result.fail(new TaskError.InvalidTransition({ taskId: task.taskId, from: task.status, to: status }))
  }

/** Moves a task to a status that a caller gave, with a message. */
export const updateStatus = (
  taskId: string,
  operation: string,
  allowed: typeof Task.Status | typeof Task.TerminalStatus,
  status: Task.Status,
  statusMessage: string | undefined,
  limits: Limits
): Result.Result<Rule<TaskError.InvalidTransition>, TaskError.PayloadTooLarge> => {
  checkStatus(operation, allowed, status)
  return checked(statusMessageError(taskId, statusMessage, limits), moveTo(status, statusMessage))
}

/** Throws if JavaScript has passed something that is not one of the statuses. */
export const checkStatus = (
  operation: string,
  allowed: typeof Task.Status | typeof Task.TerminalStatus,
  status: unknown
): void => {
  if (Schema.is(allowed)(status)) return
  throw new RangeError(`${operation} takes one of the statuses ${allowed.literals.join(", ")}: it was given ${status}`)
}

/**
 * Takes a task's place out of its record. Whoever lands the write that does this frees the place, and nobody else does,
 * so no place is freed twice.
 */
export const giveUpPlace = (
  record: Task.TaskRecord
): { readonly next: Task.TaskRecord; readonly place: number | null | undefined } => {
  const { placeUntil: place, ...next } = record
  return { next, place }
}

/** Sets the message of a task that has not ended. */
export const setStatusMessage = (
  taskId: string,
  statusMessage: string,
  limits: Limits
): Result.Result<Rule<TaskError.InvalidTransition>, TaskError.PayloadTooLarge> =>
  checked(statusMessageError(taskId, statusMessage, limits), (record) =>
    Task.isTerminal(record.task.status)
      ? Result.fail(notInThisStatus(record))
      : Result.succeed({ ...record, task: { ...record.task, statusMessage } })
  )

/** The error of a change, if the task has expired. */
export const expiredError = (record: Task.TaskRecord, now: DateTime.Utc): TaskError.TaskExpired | undefined => {
  const expiredAt = Task.expiresAt(record)
  return expiredAt === undefined || DateTime.isGreaterThan(expiredAt, now)
    ? undefined
    : new TaskError.TaskExpired({ taskId: record.task.taskId, expiredAt })
}

/** The task's status does not allow the operation. */
const notInThisStatus = ({ task: { status, taskId } }: Task.TaskRecord) =>
  new TaskError.InvalidTransition({ taskId, from: status, to: status })

const statusMessageError = (
  taskId: string,
  message: string | null | undefined,
  { maxStringBytes: limit }: Limits
): TaskError.PayloadTooLarge | undefined => {
  if (message == null) return undefined
  if (typeof message !== "string") {
    throw new TypeError(`A status message must be a string: it is of type ${typeof message}`)
  }
  return isLongerThan(message, limit)
    ? new TaskError.PayloadTooLarge({ taskId, part: "statusMessage", limit, actual: byteLength(message) })
    : undefined
}

const checked = <A, E>(error: E | undefined, rule: A): Result.Result<A, E> =>
  error === undefined ? Result.succeed(rule) : Result.fail(error)

// -----------------------------------------------------------------------------
// Results and errors
// -----------------------------------------------------------------------------

/** Stores the result, unless the task has ended with one. */
export const setResult = (
  taskId: string,
  result: Schema.Json,
  limits: Limits
): Result.Result<Rule<TaskError.InvalidTransition>, PayloadError> =>
  checked(payloadError(taskId, "result", result, limits), (record) =>
    Task.isTerminal(record.task.status) && record.result !== null
      ? Result.fail(notInThisStatus(record))
      : Result.succeed({ ...record, result })
  )

/** Ends a task and stores its result. */
export const completeWithResult = (
  taskId: string,
  outcome: {
    readonly status: Task.TerminalStatus
    readonly result: Schema.Json
    readonly statusMessage?: string | undefined
  },
  limits: Limits
): Result.Result<Rule<TaskError.InvalidTransition>, PayloadError> => {
  const { result, status, statusMessage } = outcome
  const error = payloadError(taskId, "result", result, limits)
  if (error !== undefined) return Result.fail(error)
  return Result.map(
    updateStatus(taskId, "completeWithResult", Task.TerminalStatus, status, statusMessage, limits),
    (rule): Rule<TaskError.InvalidTransition> =>
      (record) =>
        Result.map(rule(record), (next) => ({ ...next, result }))
  )
}

/** Ends a task as failed and stores its JSON-RPC error. */
export const fail = (
  taskId: string,
  error: Schema.Json,
  statusMessage: string | undefined,
  limits: Limits
): Result.Result<Rule<TaskError.InvalidTransition>, PayloadError> => {
  const problem = payloadError(taskId, "error", error, limits)
  if (problem !== undefined) return Result.fail(problem)
  return Result.map(
    updateStatus(taskId, "fail", Task.TerminalStatus, "failed", statusMessage, limits),
    (rule): Rule<TaskError.InvalidTransition> =>
      (record) =>
        Result.map(rule(record), (next) => ({ ...next, error }))
  )
}

/** Stores the JSON-RPC error, unless the task has ended with one. */
export const setError = (
  taskId: string,
  error: Schema.Json,
  limits: Limits
): Result.Result<Rule<TaskError.InvalidTransition>, PayloadError> =>
  checked(payloadError(taskId, "error", error, limits), (record) =>
    Task.isTerminal(record.task.status) && (record.error ?? null) !== null
      ? Result.fail(notInThisStatus(record))
      : Result.succeed({ ...record, error })
  )

// -----------------------------------------------------------------------------
// Inputs
// -----------------------------------------------------------------------------

/** Adds requests for inputs, and moves the task to `input_required`. */
export const recordInputRequests = (
  taskId: string,
  requests: JsonObject,
  limits: Limits
): Result.Result<
  Rule<TaskError.InvalidTransition | TaskError.InputKeyReused | TaskError.PayloadTooLarge>,
  PayloadError
> =>
  checked(payloadError(taskId, "inputRequests", requests, limits), (record) =>
    Result.flatMap(
      moveTo("input_required", record.task.statusMessage)(record),
      (next): ReturnType<Rule<TaskError.InputKeyReused | TaskError.PayloadTooLarge>> => {
        const before = record.inputRequests ?? {}
        const reused = Object.keys(requests).find((key) => Object.hasOwn(before, key))
        if (reused !== undefined) return Result.fail(new TaskError.InputKeyReused({ taskId, key: reused }))
        const inputRequests = union(before, requests)
        return checked(sizeError(taskId, "inputRequests", inputRequests, limits), { ...next, inputRequests })
      }
    )
  )

interface Delivered {
  readonly delivery: Task.InputDelivery
  readonly next: Task.TaskRecord | undefined
}

/**
 * Takes the answers to outstanding requests, and ignores all others. The last answer moves the task back to `working`.
 * If nothing is taken and the task stays as it is, `next` is undefined.
 */
export const deliverInputs =
  (taskId: string, responses: JsonObject, limits: Limits) =>
  (record: Task.TaskRecord): Result.Result<Delivered, TaskError.InvalidTransition | PayloadError> =>
    Result.flatMap(
      moveTo("working", record.task.statusMessage)(record),
      (resumed): Result.Result<Delivered, PayloadError> => {
        const { inputRequests, inputResponses, outstanding } = Task.inputSnapshot(record)
        const keys = Object.keys(responses)
        const accepted = keys.filter((key) => outstanding.includes(key))
        const ignored = keys.filter((key) => !outstanding.includes(key))
        const complete = Object.keys(inputRequests).length > 0 && outstanding.length === accepted.length
        const delivery: Task.InputDelivery = { accepted, ignored, complete }
        if (accepted.length === 0 && !complete) return Result.succeed({ delivery, next: undefined })
        const taken = Object.fromEntries(accepted.map((key) => [key, responses[key] ?? null]))
        const all = union(inputResponses, taken)
        const error =
          payloadError(taskId, "inputResponses", taken, limits) ?? sizeError(taskId, "inputResponses", all, limits)
        return checked(error, { delivery, next: { ...(complete ? resumed : record), inputResponses: all } })
      }
    )

// -----------------------------------------------------------------------------
// Variables
// -----------------------------------------------------------------------------

/** Merges variables into the task's. Null takes one away. */
export const setVariables =
  (
    taskId: string,
    variables: JsonObject,
    { maxStringBytes, maxVariablesBytes: limit, maxVariablesDepth }: Limits
  ): Rule<TaskError.InvalidVariables | TaskError.VariablesTooLarge> =>
  (record) => {
    if (!Json.isPlainObject(variables)) {
      return Result.fail(new TaskError.InvalidVariables({ taskId, path: [], problem: "NotJson" }))
    }
    // The names of variables do not count as a level.
    const found = Json.problemIn(variables, { maxDepth: maxVariablesDepth + 1, maxBytes: limit, maxStringBytes })
    if (found !== undefined) {
      return Result.fail(
        found.problem === "TooLarge"
          ? new TaskError.VariablesTooLarge({ taskId, limit, actual: found.actual })
          : new TaskError.InvalidVariables({ taskId, path: found.path, problem: found.problem })
      )
    }
    const isKept = ([name, value]: readonly [string, Schema.Json]) =>
      !(value === null && Object.hasOwn(variables, name))
    const all = Object.fromEntries(Object.entries(union(record.variables, variables)).filter(isKept))
    const actual = Json.bytesOver(all, limit)
    return actual === undefined
      ? Result.succeed({ ...record, variables: all })
      : Result.fail(new TaskError.VariablesTooLarge({ taskId, limit, actual }))
  }

/** Sets the variables that hold the tool call that makes a task. They replace variables of the same names. */
export const setRequest = (
  taskId: string,
  request: Task.Request,
  limits: Limits
): Rule<TaskError.InvalidVariables | TaskError.VariablesTooLarge> => {
  if (typeof request?.name === "string") return setVariables(taskId, Task.requestVariables(request), limits)
  throw new TypeError("request must be the params of a tools/call request: it has no name that is a string")
}

// -----------------------------------------------------------------------------
// Payloads
// -----------------------------------------------------------------------------

/** Both objects in one. It is built of entries, so that `__proto__` is a key like any other. */
const union = (first: JsonObject, second: JsonObject): JsonObject =>
  Object.fromEntries([...Object.entries(first), ...Object.entries(second)])

/** Why a part of a task can't be stored. Inputs are by name, and the names do not count as a level. */
const payloadError = (taskId: string, part: Part, value: unknown, limits: Limits): PayloadError | undefined => {
  const { maxPayloadBytes, maxPayloadDepth } = limits
  const isByName = part === "inputRequests" || part === "inputResponses"
  if (isByName && !Json.isPlainObject(value)) {
    return new TaskError.InvalidPayload({ taskId, part, path: [], problem: "NotJson" })
  }
  const found = Json.problemIn(value, { maxDepth: maxPayloadDepth + (isByName ? 1 : 0), maxBytes: maxPayloadBytes })
  if (found === undefined) return sizeError(taskId, part, value, limits)
  if (found.problem === "TooLarge") {
    return new TaskError.PayloadTooLarge({ taskId, part, limit: maxPayloadBytes, actual: found.actual })
  }
  const problem = found.problem === "TooDeep" ? "TooDeep" : "NotJson"
  return new TaskError.InvalidPayload({ taskId, part, path: found.path, problem })
}

const sizeError = (
  taskId: string,
  part: Part,
  value: unknown,
  { maxPayloadBytes: limit }: Limits
): TaskError.PayloadTooLarge | undefined => {
  const actual = Json.bytesOver(value, limit)
  return actual === undefined ? undefined : new TaskError.PayloadTooLarge({ taskId, part, limit, actual })
}
