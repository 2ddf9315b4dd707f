/** How the cases of the task suite are written. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import { StorageBackend } from "../../StorageBackend.ts"
import * as Task from "../../task/Task.ts"
import type * as TaskError from "../../task/TaskError.ts"
import * as TaskStore from "../../task/TaskStore.ts"
import * as Faults from "../Faults.ts"
import { newOwner } from "./support.ts"

export interface Case {
  readonly name: string
  readonly run: Effect.Effect<void, unknown, StorageBackend>
}

export type Tasks = TaskStore.TaskStore["Service"]

export type TaskErrors =
  | TaskStore.ChangeError
  | TaskStore.PayloadError
  | TaskError.InputKeyReused
  | TaskError.InvalidTransition
  | TaskError.InvalidVariables
  | TaskError.TaskNotReady
  | TaskError.VariablesTooLarge

/** How the store under test is made. */
export const LayerStore: Context.Reference<typeof TaskStore.layerWith> = Context.Reference(
  "effect-versioned-store/testing/LayerStore",
  { defaultValue: () => TaskStore.layerWith }
)

/** A store on the backend of the suite. Each is like another process: it shares nothing but the backend. */
export const makeTasks = (options: TaskStore.Options = {}): Effect.Effect<Tasks, never, StorageBackend> =>
  Effect.flatMap(LayerStore, (layerWith) => Effect.provide(TaskStore.TaskStore, Layer.fresh(layerWith(options))))

export const example = (
  name: string,
  run: (tasks: Tasks) => Effect.Effect<unknown, unknown, StorageBackend>
): Case => ({ name, run: Effect.asVoid(Effect.flatMap(makeTasks(), run)) })

/** The backend of the suite, with its requests counted, and with the fates that a case decides. */
export const counted = (fateOf?: Parameters<typeof Faults.backend>[1]) =>
  Effect.map(StorageBackend, (backend) => Faults.backend(backend, fateOf))

export const requestMethod = "tools/call"

export const keyOf = ({ ownerId, task }: Task.TaskRecord): TaskStore.TaskKey => ({ ownerId, taskId: task.taskId })

/** Makes a task of a new owner. */
export const newTask = Effect.fnUntraced(function* (tasks: Tasks, options: { readonly ttl?: number } = {}) {
  const record = yield* tasks.create({ ownerId: yield* newOwner, requestMethod, ...options })
  return { record, key: keyOf(record) }
})

/** Brings a task to a status. */
export const bring = (tasks: Tasks, key: TaskStore.TaskKey, status: Task.Status) =>
  status === "working" ? Effect.void : tasks.updateStatus(key, status)

export const statuses = Task.Status.literals

/** A value that the types forbid, but JavaScript does not. */
export const fromJavaScript = (value: unknown) => value as Schema.Json & string

/** Each way in which a task ends. */
export const endings: ReadonlyArray<
  (tasks: Tasks, key: TaskStore.TaskKey) => Effect.Effect<Task.TaskRecord, TaskErrors>
> = [
  (tasks, key) => tasks.completeWithResult(key, { status: "completed", result: 1 }),
  (tasks, key) => tasks.completeWithResult(key, { status: "failed", result: 1 }),
  (tasks, key) => tasks.fail(key, { code: 1 }),
  (tasks, key) => tasks.cancel(key),
  (tasks, key) => tasks.updateStatus(key, "completed")
]
