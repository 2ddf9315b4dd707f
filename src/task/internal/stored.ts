import * as Exit from "effect/Exit"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as SchemaIssue from "effect/SchemaIssue"
import type { VersionedRecord } from "../../StorageBackend.ts"
import { type Backend, makeBackend } from "../../StorageError.ts"
import * as Task from "../Task.ts"

const decode = Schema.decodeUnknownExit(Task.TaskRecord)

/**
 * Reads the task in a stored record. Undefined if the record belongs to another kind of store, or says that it is
 * another owner's task. Fails with `Corrupt` if the record can't be read as a task. The error names the field that is
 * wrong, and shows no record data.
 */
export const readTask = (stored: VersionedRecord): Result.Result<Task.TaskRecord | undefined, Backend> => {
  if (isReserved(stored.key.id)) return Result.succeed(undefined)
  let json: unknown
  try {
    json = JSON.parse(stored.data)
  } catch {
    return Result.fail(corrupt(stored, "its data is not JSON"))
  }
  if (!Predicate.hasProperty(json, "task") || !Predicate.isObject(json.task)) return Result.succeed(undefined)
  const isOfAnotherOwner = "ownerId" in json && typeof json.ownerId === "string" && json.ownerId !== stored.key.owner
  if (isOfAnotherOwner) return Result.succeed(undefined)
  const decoded = decode(json)
  if (Exit.isSuccess(decoded)) return Result.succeed(decoded.value)
  const error = decoded.cause.reasons.find((reason) => reason._tag === "Fail")?.error
  const field = error === undefined ? "" : fieldOf(error.issue)
  return Result.fail(corrupt(stored, field === "" ? "it has another shape" : `its field ${field} is wrong or missing`))
}

/** Ids that start with `!` are not tasks. */
export const isReserved = (id: string): boolean => id.startsWith("!")

const corrupt = ({ key }: VersionedRecord, why: string): Backend =>
  makeBackend({
    reason: "Corrupt",
    outcome: "not-applied",
    operation: "tasks",
    description: `The record at ${key} can't be read as a task, since ${why}. Repair it, or call TaskStore.remove`
  })

/** The first field that is wrong. The path ends there, since names further inside are record data. */
const fieldOf = (issue: SchemaIssue.Issue): string => {
  const path: Array<string> = []
  let current: SchemaIssue.Issue | undefined = issue
  while (current !== undefined) {
    if (current._tag === "Pointer") path.push(...current.path.map(String))
    current = "issue" in current ? current.issue : "issues" in current ? current.issues[0] : undefined
  }
  return path.slice(0, path[0] === "task" ? 2 : 1).join(".")
}
