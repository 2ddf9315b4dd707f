/**
 * Durable tasks: the life of a long-running operation, by the Model Context Protocol's task lifecycle (specification of
 * 2025-11-25), on any backend. Owners are kept apart, tasks expire, and each owner has a limited number of them.
 *
 * Every change is one compare-and-set under a retry schedule, and each try checks again whether it is allowed. If two
 * completions race, one wins and the other fails with `InvalidTransition`.
 */
import * as Clock from "effect/Clock"
import type * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { makeFrom } from "../internal/config.ts"
import { checkBoolean, checkLimit } from "../internal/options.ts"
import { lastMillisecond, toMillis } from "../internal/time.ts"
import { StorageBackend, type VersionedRecord } from "../StorageBackend.ts"
import { type Backend, type CapacityExceeded, type InvalidCursor, VersionConflict } from "../StorageError.ts"
import * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import * as Looks from "../update/looks.ts"
import * as Update from "../update/run.ts"
import { placeUntil } from "./internal/ledger.ts"
import * as Quota from "./internal/quota.ts"
import * as Rules from "./internal/rules.ts"
import * as RunApart from "./internal/runApart.ts"
import { isReserved, readTask } from "./internal/stored.ts"
import * as Task from "./Task.ts"
import * as TaskError from "./TaskError.ts"

/**
 * The address of a task: its id, and the owner that it must belong to.
 *
 * @category models
 * @since 0.1.0
 */
export interface TaskKey {
  readonly ownerId: string
  readonly taskId: string
}

/**
 * How a task is created.
 *
 * @category models
 * @since 0.1.0
 */
export interface CreateOptions {
  readonly ownerId: string
  /** The method of the request that makes the task, for example `tools/call`. */
  readonly requestMethod: string
  /** How long the task lives; the store's `defaultTtl` if it is left out. */
  readonly ttl?: Duration.Input | undefined
  /** How long clients should wait between two polls of it; the store's `pollInterval` if it is left out. */
  readonly pollInterval?: Duration.Input | undefined
  /** Its first variables. No worker sees the task without them. */
  readonly variables?: Readonly<Record<string, Schema.Json>> | undefined
  /**
   * The tool call that makes the task: the `params` of its `tools/call` request. No worker sees the task without it.
   * `Task.request` reads it from the task's record. It is stored in the variables `tool_name`, `arguments` and
   * `progress_token`, as pmcp-tasks stores it, so the limits of variables hold, and it replaces variables of these
   * names.
   */
  readonly request?: Task.Request | undefined
  /**
   * The task's id. By default it is a new one, which sorts by the time of creation and can't be guessed. It may be any
   * text that a key can have as its id, such as a UUID, up to 512 bytes of UTF-8, and must not start with `!`. If not,
   * the creation fails with `InvalidKey`.
   *
   * If the owner has a record with this id, the creation fails with `TaskAlreadyExists`. So a creation with an id can
   * be called again if its outcome is unknown. The id of a task is free again once the task is removed, or its time of
   * `grace` is over.
   */
  readonly id?: string | undefined
}

/**
 * Which of an owner's tasks are listed.
 *
 * @category models
 * @since 0.1.0
 */
export interface ListOptions {
  readonly ownerId: string
  /** The status of the tasks that are listed, or several; tasks of all statuses by default. */
  readonly status?: Task.Status | ReadonlyArray<Task.Status> | undefined
  /**
   * The most tasks in one page, from 1 to 1,000; 100 by default. With a `status`, a page looks at no more tasks than
   * this, and leaves out those of another status.
   */
  readonly limit?: number | undefined
  /** The cursor of the previous page. */
  readonly cursor?: string | undefined
}

/**
 * One page of an owner's tasks.
 *
 * @category models
 * @since 0.1.0
 */
export interface Page {
  readonly tasks: ReadonlyArray<Task.TaskRecord>
  /**
   * The ids of this page's records that can't be read as tasks, for example because a later version wrote them. Each is
   * logged once. `remove` removes them.
   */
  readonly unreadable: ReadonlyArray<string>
  /** Leads to the next page. A page may be short or empty and still have a cursor. You are done when there is none. */
  readonly cursor: string | undefined
}

/**
 * How a task is watched.
 *
 * @category models
 * @since 0.1.0
 */
export interface WatchOptions {
  /** When the task is read without a hint; every `pollInterval` of the store by default, for ever. */
  readonly schedule?: Schedule.Schedule<unknown> | undefined
}

/**
 * What every operation may fail with.
 *
 * @category errors
 * @since 0.1.0
 */
export type AccessError = StorageKey.InvalidKey | TaskError.AnonymousOwner | Backend

/**
 * What reading a task may fail with.
 *
 * @category errors
 * @since 0.1.0
 */
export type ReadError = AccessError | TaskError.TaskNotFound

/**
 * What changing a task may fail with.
 *
 * @category errors
 * @since 0.1.0
 */
export type ChangeError = ReadError | TaskError.TaskExpired | TaskError.ConcurrentModification | CapacityExceeded

/**
 * What storing a result, an error or inputs may fail with as well.
 *
 * @category errors
 * @since 0.1.0
 */
export type PayloadError = TaskError.InvalidPayload | TaskError.PayloadTooLarge

/**
 * The task store.
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
 *   yield* tasks.completeWithResult(key, { status: "completed", result: { content: [] } })
 *   return yield* tasks.getResult(key)
 * })
 *
 * const layer = TaskStore.layer.pipe(Layer.provide(InMemory.layer))
 * assert.deepStrictEqual(Effect.runSync(program.pipe(Effect.provide(layer))), { content: [] })
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class TaskStore extends Context.Service<
  TaskStore,
  {
    /**
     * Creates a task with status `working`, and its variables and request in the same write. Two requests, however many
     * tasks the owner has: one takes a place in the owner's limit, and one writes the task. One more if this process
     * has not seen the owner's places yet.
     *
     * If the task's `id` is taken, a third request gives the place back. If the owner has no free place, one request
     * looks whether the `id` is taken.
     *
     * If the creation fails or is interrupted, its place comes free again, unless the task was created. Only if the
     * process dies in between, or a write's outcome stays `unknown`, the place may stay taken until the task's expiry.
     */
    readonly create: (
      options: CreateOptions
    ) => Effect.Effect<
      Task.TaskRecord,
      | AccessError
      | TaskError.TaskAlreadyExists
      | TaskError.TooManyTasks
      | TaskError.TtlTooLong
      | TaskError.InvalidVariables
      | TaskError.VariablesTooLarge
      | TaskError.ConcurrentModification
      | CapacityExceeded
    >

    /**
     * Reads a task as it is now. If its record can't be read as a task, this fails with `Backend` of the reason
     * `Corrupt`, which names the record and the field. One request.
     */
    readonly get: (key: TaskKey) => Effect.Effect<Task.TaskRecord, ReadError>

    /**
     * Moves a task to another status, with a message that replaces the one before. Two requests. If the status is
     * terminal and tasks that have ended do not count (`countTerminal`), a third one frees the task's place.
     */
    readonly updateStatus: (
      key: TaskKey,
      status: Task.Status,
      statusMessage?: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | TaskError.PayloadTooLarge>

    /** Sets the message of a task that has not ended. Two requests. */
    readonly setStatusMessage: (
      key: TaskKey,
      statusMessage: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | TaskError.PayloadTooLarge>

    /**
     * Merges variables into the task's, also if it has ended. Null takes a variable away. If one of them can't be
     * stored, nothing is written. Two requests.
     */
    readonly setVariables: (
      key: TaskKey,
      variables: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.VariablesTooLarge | TaskError.InvalidVariables>

    /**
     * Stores the result, also of a task that has ended without one. After the end a result is never replaced. Two
     * requests.
     */
    readonly setResult: (
      key: TaskKey,
      result: Schema.Json
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | PayloadError>

    /** Returns the result of a task that has ended, or null if it has none. One request. */
    readonly getResult: (key: TaskKey) => Effect.Effect<Schema.Json, ReadError | TaskError.TaskNotReady>

    /**
     * Ends a task and stores its result, in one write. A status that is not terminal is a defect. Two requests. If
     * tasks that have ended do not count (`countTerminal`), a third one frees the task's place.
     */
    readonly completeWithResult: (
      key: TaskKey,
      outcome: {
        readonly status: Task.TerminalStatus
        readonly result: Schema.Json
        readonly statusMessage?: string | undefined
      }
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | PayloadError>

    /**
     * Ends a task as `failed` and stores its JSON-RPC error, in one write. Two requests. If tasks that have ended do
     * not count (`countTerminal`), a third one frees the task's place.
     */
    readonly fail: (
      key: TaskKey,
      error: Schema.Json,
      statusMessage?: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | PayloadError>

    /**
     * Stores the JSON-RPC error, also of a task that has ended without one. After the end an error is never replaced.
     * Two requests.
     */
    readonly setError: (
      key: TaskKey,
      error: Schema.Json
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | PayloadError>

    /** Returns the JSON-RPC error, if the task has one. One request. */
    readonly getError: (key: TaskKey) => Effect.Effect<Option.Option<Schema.Json>, ReadError>

    /**
     * Asks the client for inputs: stores the requests and moves the task to `input_required`, in one write. If a key
     * was used before in the task's life, it fails with `InputKeyReused`. Two requests.
     */
    readonly recordInputRequests: (
      key: TaskKey,
      requests: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<
      Task.TaskRecord,
      ChangeError | TaskError.InvalidTransition | TaskError.InputKeyReused | PayloadError
    >

    /**
     * Takes the client's answers to outstanding requests, and ignores all others. An answer is never replaced. The last
     * answer moves the task back to `working`, in the same write. Two requests; one if no answer is taken.
     */
    readonly deliverInputs: (
      key: TaskKey,
      responses: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<Task.InputDelivery, ChangeError | TaskError.InvalidTransition | PayloadError>

    /** Returns what the client is asked for, and what it has answered. One request. */
    readonly inputSnapshot: (key: TaskKey) => Effect.Effect<Task.InputSnapshot, ReadError>

    /**
     * Reads one page of an owner's tasks, newest first, also of those that have expired and can still be read. Tasks
     * with ids of the caller's own are where their ids sort. Records that can't be read as tasks are left out, and
     * their ids are in `unreadable`, whatever `status` is asked for. One request, as for a page of any listing.
     */
    readonly list: (options: ListOptions) => Effect.Effect<Page, AccessError | InvalidCursor>

    /**
     * Cancels a task that has not ended. Two requests. If tasks that have ended do not count (`countTerminal`), a third
     * one frees the task's place.
     */
    readonly cancel: (
      key: TaskKey,
      statusMessage?: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | TaskError.PayloadTooLarge>

    /**
     * Removes a task, whatever its status, and frees its place in the owner's limit. If the place can't be freed at
     * once, that is tried again in the background. Three requests; two if the task has given up its place already.
     *
     * A record that can't be read as a task is removed too. Its place then comes free when the task would have expired.
     */
    readonly remove: (key: TaskKey) => Effect.Effect<void, ReadError | TaskError.ConcurrentModification>

    /** Physically removes expired records if the engine does not do it by itself. Returns how many it removed. */
    readonly cleanupExpired: Effect.Effect<number, Backend>

    /**
     * Waits until a task has ended, as `changes` sees it. If the task expires before that, it fails with `TaskExpired`.
     * If the schedule is spent before that, it fails with `TaskNotReady`. While the backend can't be reached, it waits.
     */
    readonly awaitTerminal: (
      key: TaskKey,
      options?: WatchOptions
    ) => Effect.Effect<Task.TaskRecord, ReadError | TaskError.TaskExpired | TaskError.TaskNotReady>

    /**
     * Emits the task as it is now, and again whenever it has changed, up to its end. If it expires before that, the
     * stream fails with `TaskExpired`. If the schedule is spent, the stream ends.
     *
     * It reads the task at first, on each hint that it may have changed, and on a schedule, one request a read. What
     * another process changes is seen within milliseconds on Redis and SQLite, and at the next read on the schedule on
     * DynamoDB. A failure of the backend that passes is logged, as by `VersionedStore.watch`.
     */
    readonly changes: (
      key: TaskKey,
      options?: WatchOptions
    ) => Stream.Stream<Task.TaskRecord, ReadError | TaskError.TaskExpired>
  }
>()("effect-versioned-store/TaskStore") {}

/**
 * How a task store is set up.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** How long a task lives by default, at most `maxTtl`; 1 hour by default, for ever if it is `"Infinity"`. */
  readonly defaultTtl?: Duration.Input | undefined
  /** The longest life that a creator may ask for; 24 hours by default, without limit if it is `"Infinity"`. */
  readonly maxTtl?: Duration.Input | undefined
  /** How long an expired task can still be read; 1 hour by default, not at all if it is 0. */
  readonly grace?: Duration.Input | undefined
  /** The most bytes that a task's variables take as JSON, all together; 1 MiB by default. A backend may hold less. */
  readonly maxVariablesBytes?: number | undefined
  /** How deeply a variable may be nested; 10 by default, and never more than 1,000. */
  readonly maxVariablesDepth?: number | undefined
  /** The most bytes of UTF-8 of a string in a variable, and of a status message; 65,536 by default. */
  readonly maxStringBytes?: number | undefined
  /**
   * The most bytes that a result, an error, all input requests or all input responses of a task take as JSON; 1 MiB by
   * default. A backend may hold less.
   */
  readonly maxPayloadBytes?: number | undefined
  /**
   * How deeply a result, an error, an input request or response may be nested; 100 by default, and never more than
   * 1,000.
   */
  readonly maxPayloadDepth?: number | undefined
  /**
   * The most tasks that an owner has at a time; 100 by default. It is never passed. Up to 512 it is exact to the
   * second: a place comes free in the second in which its task expires. Above 512 a place may stay taken for another 2%
   * of its task's life.
   */
  readonly maxTasksPerOwner?: number | undefined
  /**
   * Whether a task that has ended counts towards `maxTasksPerOwner` until it expires or is removed; true by default. If
   * false, those tasks count that work or wait for input, and have not expired.
   *
   * A task then gives up its place when it ends, in one more request. That request never runs before the task has
   * ended, so the limit is never passed. If the place can't be freed at once, that is tried again in the background. If
   * the process dies in between, or a write's outcome stays `unknown`, the place may stay taken until the task's
   * expiry, and so do the places of tasks that a store without this option or pmcp-tasks has ended.
   */
  readonly countTerminal?: boolean | undefined
  /** How long clients should wait between two reads; 500 ms by default. */
  readonly pollInterval?: Duration.Input | undefined
  /** Whether the anonymous owners `""` and `"local"` may have tasks; false by default. */
  readonly allowAnonymous?: boolean | undefined
  /** How conflicts are retried. Without a schedule, it is for 30 seconds, and changes of one task share writes. */
  readonly retrySchedule?: Schedule.Schedule<unknown, VersionConflict> | undefined
}

/** The owner of tasks of anonymous clients, as pmcp-tasks names it. */
const localOwner = "local"

const make = Effect.fnUntraced(function* (options: Options) {
  const settings = resolve(options)
  const backend = yield* StorageBackend
  const tasks = makeTasks(backend, settings)
  const { change, changeRecord, get } = tasks
  const { create, end, remove } = yield* makeLife(backend, tasks, settings)
  const { changes, awaitTerminal } = makeWatch(backend, tasks, settings.pollMillis)
  const { limits } = settings

  const updateStatus = (key: TaskKey, status: Task.Status, statusMessage?: string) => {
    const changeStatus = Schema.is(Task.TerminalStatus)(status) ? end : change
    return changeStatus(key, () =>
      Rules.updateStatus(key.taskId, "updateStatus", Task.Status, status, statusMessage, limits)
    )
  }

  return TaskStore.of({
    create,
    remove,
    get,
    updateStatus,
    setStatusMessage: (key, message) => change(key, () => Rules.setStatusMessage(key.taskId, message, limits)),
    setVariables: (key, variables) =>
      change(key, () => Result.succeed(Rules.setVariables(key.taskId, variables, limits))),
    setResult: (key, result) => change(key, () => Rules.setResult(key.taskId, result, limits)),
    getResult: (key) =>
      Effect.flatMap(get(key), ({ result, task: { status, taskId } }) =>
        Task.isTerminal(status) ? Effect.succeed(result) : Effect.fail(new TaskError.TaskNotReady({ taskId, status }))
      ),
    completeWithResult: (key, outcome) => end(key, () => Rules.completeWithResult(key.taskId, outcome, limits)),
    fail: (key, error, statusMessage) => end(key, () => Rules.fail(key.taskId, error, statusMessage, limits)),
    setError: (key, error) => change(key, () => Rules.setError(key.taskId, error, limits)),
    getError: (key) => Effect.map(get(key), ({ error }) => Option.fromNullishOr(error)),
    recordInputRequests: (key, requests) => change(key, () => Rules.recordInputRequests(key.taskId, requests, limits)),
    deliverInputs: (key, responses) =>
      Effect.map(changeRecord(key, Rules.deliverInputs(key.taskId, responses, limits)), ({ delivery }) => delivery),
    inputSnapshot: (key) => Effect.map(get(key), Task.inputSnapshot),
    list: makeList(backend, tasks.ownerOf),
    cancel: (key, statusMessage) => updateStatus(key, "cancelled", statusMessage),
    cleanupExpired: backend.cleanupExpired,
    awaitTerminal,
    changes
  })
})

/**
 * The task store with its defaults, on the backend that the Layer below provides.
 *
 * @example
 * ```ts
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Layer } from "effect"
 *
 * export const Tasks = TaskStore.layer.pipe(Layer.provide(InMemory.layer))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<TaskStore, never, StorageBackend> = Layer.effect(
  TaskStore,
  Effect.suspend(() => make({}))
)

/**
 * The task store with other settings.
 *
 * @example
 * ```ts
 * import { TaskStore } from "effect-versioned-store"
 *
 * export const Tasks = TaskStore.layerWith({ defaultTtl: "10 minutes", maxTasksPerOwner: 1000 })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (options: Options): Layer.Layer<TaskStore, never, StorageBackend> =>
  Layer.effect(TaskStore, make(options))

/**
 * The task store with settings from configuration.
 *
 * @example
 * ```ts
 * import { TaskStore } from "effect-versioned-store"
 * import { Config } from "effect"
 *
 * export const Tasks = TaskStore.layerConfig({
 *   maxTasksPerOwner: Config.withDefault(Config.Int("TASKS_PER_OWNER"), 100),
 *   maxTtl: Config.withDefault(Config.Duration("TASKS_MAX_TTL"), undefined)
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<TaskStore, Config.ConfigError, StorageBackend> => Layer.effect(TaskStore, makeFrom(options, make))

// -----------------------------------------------------------------------------

type Settings = ReturnType<typeof resolve>

/** The options with their defaults, checked. */
const resolve = ({
  allowAnonymous = false,
  countTerminal = true,
  defaultTtl = "1 hour",
  grace = "1 hour",
  maxPayloadBytes = 1024 * 1024,
  maxPayloadDepth = 100,
  maxStringBytes = 65_536,
  maxTasksPerOwner = 100,
  maxTtl = "24 hours",
  maxVariablesBytes = 1024 * 1024,
  maxVariablesDepth = 10,
  pollInterval = "500 millis",
  retrySchedule
}: Options) => {
  const limits: Rules.Limits = {
    maxPayloadBytes,
    maxPayloadDepth,
    maxStringBytes,
    maxVariablesBytes,
    maxVariablesDepth
  }
  for (const [name, limit] of Object.entries({ ...limits, maxTasksPerOwner })) checkLimit(name, limit)
  const pollMillis = toPollMillis(pollInterval)
  return {
    allowAnonymous,
    countTerminal: checkBoolean("countTerminal", countTerminal),
    limits,
    maxTasksPerOwner,
    defaultMillis: wholeMillis("defaultTtl", defaultTtl),
    maxMillis: wholeMillis("maxTtl", maxTtl),
    graceMillis: wholeMillis("grace", grace),
    pollMillis,
    retrySchedule
  }
}

const toPollMillis = (pollInterval: Duration.Input): number => {
  const millis = wholeMillis("pollInterval", pollInterval)
  if (Number.isSafeInteger(millis)) return millis
  throw new RangeError(`pollInterval must be a finite duration, such as "5 seconds": it is ${millis} ms`)
}

const wholeMillis = (name: string, duration: Duration.Input): number => Math.ceil(toMillis(name, duration))

type Tasks = ReturnType<typeof makeTasks>

/** Where tasks are, and how they are read and changed. */
const makeTasks = (backend: StorageBackend["Service"], { allowAnonymous, retrySchedule }: Settings) => {
  const update = Update.make(backend)

  /** The owner in the storage. */
  const ownerOf = (ownerId: string): Effect.Effect<string, AccessError> => {
    if (ownerId !== "" && ownerId !== localOwner) return Effect.succeed(ownerId)
    return allowAnonymous ? Effect.succeed(localOwner) : Effect.fail(new TaskError.AnonymousOwner({}))
  }

  /** Where a task is stored. If no task can have the id, there is no such task. */
  const locate = Effect.fnUntraced(function* ({ ownerId, taskId: id }: TaskKey) {
    const owner = yield* ownerOf(ownerId)
    const key = StorageKey.make({ owner, id })
    if (Result.isFailure(key) && key.failure.part === "owner") return yield* key.failure
    if (Result.isFailure(key) || isReserved(id)) return yield* notFound(String(id))
    return key.success
  })

  /** The task in a record as it is now, and its version. */
  const readAt = Effect.fnUntraced(function* (key: StorageKey.StorageKey) {
    const stored = yield* Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.fail(notFound(key.id)))
    return { record: yield* taskIn(stored), version: stored.version }
  })

  /**
   * Changes a task by a function that returns the changed task as `next`, or none to write nothing. If `onLanded` is
   * given, a write that was sent is not interrupted, and `onLanded` runs as soon as the write has landed.
   */
  const changeRecord = Effect.fnUntraced(function* <A extends { readonly next: Task.TaskRecord | undefined }, E>(
    taskKey: TaskKey,
    rule: (record: Task.TaskRecord) => Result.Result<A, E>,
    onLanded?: (landed: A) => void
  ) {
    const key = yield* locate(taskKey)
    const decide = Effect.fnUntraced(function* (stored: VersionedRecord | undefined) {
      if (stored === undefined) return yield* notFound(key.id)
      const record = yield* taskIn(stored)
      const now = yield* DateTime.now
      const expired = Rules.expiredError(record, now)
      if (expired !== undefined) return yield* expired
      const ruled = yield* Effect.fromResult(rule(record))
      if (ruled.next === undefined) return { _tag: "Keep", answer: () => ruled } as const
      const { task, ...rest } = ruled.next
      const next = { ...rest, task: { ...task, lastUpdatedAt: DateTime.formatIso(now) } }
      const answer = { ...ruled, next }
      return { _tag: "Write", data: yield* encode(next), expiresAt: stored.expiresAt, answer: () => answer } as const
    })
    return yield* contended(
      key.id,
      update<A, DecisionError<typeof decide>, never>({ key, decide, isShared: true, retrySchedule, onLanded })
    )
  })

  /** Changes a task by a rule, and returns it. What the caller gave is checked before the task is read. */
  const change = <E, P>(key: TaskKey, makeRule: () => Result.Result<Rules.Rule<E>, P>) =>
    Effect.suspend(() => Effect.fromResult(makeRule())).pipe(
      Effect.flatMap((rule) => changeRecord(key, (record) => Result.map(rule(record), (next) => ({ next })))),
      Effect.map(({ next }) => next)
    )

  return {
    ownerOf,
    locate,
    update,
    readAt,
    get: (key: TaskKey) => Effect.map(Effect.flatMap(locate(key), readAt), ({ record }) => record),
    change,
    changeRecord
  }
}

type DecisionError<F extends (...args: never) => unknown> =
  ReturnType<F> extends Effect.Effect<unknown, infer E, unknown> ? E : never

const notFound = (taskId: string) => new TaskError.TaskNotFound({ taskId })

/** The task in a stored record. If the record is something else, there is no such task. */
const taskIn = (stored: VersionedRecord): Effect.Effect<Task.TaskRecord, TaskError.TaskNotFound | Backend> => {
  const task = readTask(stored)
  if (Result.isFailure(task)) return Effect.fail(task.failure)
  return task.success === undefined ? Effect.fail(notFound(stored.key.id)) : Effect.succeed(task.success)
}

/** A conflict that comes out of a change is one of the task. */
const contended = <A, E>(taskId: string, effect: Effect.Effect<A, E>) =>
  Effect.mapError(effect, (error) =>
    error instanceof VersionConflict
      ? new TaskError.ConcurrentModification({ taskId })
      : (error as Exclude<E, VersionConflict>)
  )

/** Creates, ends and removes tasks, each together with its place. */
const makeLife = Effect.fnUntraced(function* (backend: StorageBackend["Service"], tasks: Tasks, settings: Settings) {
  const quota = yield* Quota.make(settings.maxTasksPerOwner)
  const runApart = yield* RunApart.make
  return {
    create: makeCreate(backend, tasks, settings, quota, runApart),
    end: settings.countTerminal ? tasks.change : makeEnd(tasks, quota, runApart),
    remove: makeRemove(tasks, settings, quota, runApart)
  }
})

/** Creates a task, after it has taken a place for it. */
const makeCreate = (
  backend: StorageBackend["Service"],
  { ownerOf }: Tasks,
  settings: Settings,
  quota: Quota.Quota,
  runApart: RunApart.RunApart
) => {
  /** The error of a creation that is refused a place: another creation may have made its task already. */
  const refusal = (key: StorageKey.StorageKey, refused: TaskError.TooManyTasks) =>
    Effect.matchEffect(backend.get(key), {
      onSuccess: () => Effect.fail(new TaskError.TaskAlreadyExists({ taskId: key.id })),
      onFailure: (error) => Effect.fail(error._tag === "RecordNotFound" ? refused : error)
    })

  return Effect.fnUntraced(function* (options: CreateOptions) {
    const owner = yield* ownerOf(options.ownerId)
    const { expiresAt, place, record } = yield* Effect.fromResult(
      newTask(owner, yield* Clock.currentTimeMillis, options, settings)
    )
    const taskId = record.task.taskId
    const key = yield* Effect.fromResult(StorageKey.make({ owner, id: taskId }))
    if (isReserved(taskId)) return yield* new StorageKey.InvalidKey({ part: "id", problem: "Reserved" })
    const creation = Effect.catchTags(backend.putIfVersion(key, yield* encode(record), 0, { expiresAt }), {
      VersionConflict: () => Effect.fail(new TaskError.TaskAlreadyExists({ taskId })),
      RecordNotFound: Effect.die,
      InvalidData: Effect.die
    })
    const created = contended(taskId, quota.withPlace(owner, place, creation))
    yield* runApart(
      options.id === undefined ? created : Effect.catchTag(created, "TooManyTasks", (error) => refusal(key, error))
    )
    return record
  })
}

/** A task as it is created, with the expiry of its record and of its place. */
const newTask = (
  ownerId: string,
  now: number,
  { id = newTaskId(now), pollInterval, request, requestMethod, ttl, variables = {} }: CreateOptions,
  { defaultMillis, graceMillis, limits, maxMillis, maxTasksPerOwner, pollMillis }: Settings
): Result.Result<
  { readonly record: Task.TaskRecord; readonly place: number | null; readonly expiresAt: DateTime.Utc | undefined },
  TaskError.TtlTooLong | TaskError.InvalidVariables | TaskError.VariablesTooLarge
> => {
  const wanted = ttl === undefined ? undefined : wholeMillis("ttl", ttl)
  if (wanted !== undefined && wanted > maxMillis) {
    return Result.fail(new TaskError.TtlTooLong({ ttl: wanted, limit: maxMillis }))
  }
  const lifeMillis = wanted ?? Math.min(defaultMillis, maxMillis)
  const expiryMillis = now + lifeMillis
  const expires = expiryMillis + graceMillis <= lastMillisecond
  const place = expires ? placeUntil(maxTasksPerOwner, expiryMillis, lifeMillis) : null
  const bare: Task.TaskRecord = {
    task: {
      taskId: id,
      status: "working",
      createdAt: isoOf(now),
      lastUpdatedAt: isoOf(now),
      ttl: Number.isSafeInteger(lifeMillis) ? lifeMillis : null,
      pollInterval: pollInterval === undefined ? pollMillis : toPollMillis(pollInterval)
    },
    ownerId,
    variables: {},
    result: null,
    requestMethod,
    expiresAt: expires ? isoOf(expiryMillis) : null,
    placeUntil: place
  }
  const withVariables = Rules.setVariables(id, variables, limits)(bare)
  const withRequest =
    request === undefined ? withVariables : Result.flatMap(withVariables, Rules.setRequest(id, request, limits))
  const expiresAt = expires ? DateTime.makeUnsafe(expiryMillis + graceMillis) : undefined
  return Result.map(withRequest, (record) => ({ record, place, expiresAt }))
}

/** Ends a task. The write that ends it takes its place out of its record, and the place is freed after that. */
const makeEnd =
  ({ changeRecord }: Tasks, quota: Quota.Quota, runApart: RunApart.RunApart): Tasks["change"] =>
  (key, makeRule) =>
    Effect.suspend(() => {
      let ended: ReturnType<typeof Rules.giveUpPlace> | undefined
      const giveBack = Effect.suspend(() =>
        ended?.place === undefined ? Effect.void : quota.giveBack(ended.next.ownerId, ended.place)
      )
      return Effect.fromResult(makeRule()).pipe(
        Effect.flatMap((rule) =>
          changeRecord(
            key,
            (record) => Result.map(rule(record), Rules.giveUpPlace),
            (landed) => {
              ended = landed
            }
          )
        ),
        Effect.map(({ next }) => next),
        Effect.onExit(() => giveBack),
        runApart
      )
    })

/** Removes a task, and frees its place after that. */
const makeRemove = (
  { locate, update }: Tasks,
  { retrySchedule }: Settings,
  quota: Quota.Quota,
  runApart: RunApart.RunApart
) =>
  Effect.fnUntraced(function* (taskKey: TaskKey) {
    const key = yield* locate(taskKey)
    let place: number | null | undefined
    const decide = (stored: VersionedRecord | undefined) => {
      const task = stored === undefined ? Result.succeed(undefined) : readTask(stored)
      if (Result.isFailure(task)) return Effect.succeed({ _tag: "Remove", answer: undefined } as const)
      return task.success === undefined
        ? Effect.fail(notFound(key.id))
        : Effect.succeed({ _tag: "Remove", answer: task.success.placeUntil } as const)
    }
    const onLanded = (placeOfTask: number | null | undefined) => {
      place = placeOfTask
    }
    const removal = update<number | null | undefined, TaskError.TaskNotFound, never>({
      key,
      decide,
      isShared: false,
      retrySchedule,
      onLanded
    })
    yield* contended(key.id, removal).pipe(
      // A removal writes nothing, so no capacity is exceeded.
      Effect.catchTag("CapacityExceeded", Effect.die),
      Effect.onExit(() => (place === undefined ? Effect.void : quota.giveBack(key.owner, place))),
      runApart
    )
  })

/** How many unreadable records are remembered as logged. */
const maxWarned = 10_000

/** Lists an owner's tasks. What can't be read as a task is left out, and logged once. */
const makeList = (backend: StorageBackend["Service"], ownerOf: Tasks["ownerOf"]) => {
  const warned = new Set<string>()

  const warnOnce = (key: StorageKey.StorageKey, error: Backend) =>
    Effect.suspend(() => {
      if (warned.has(`${key}`)) return Effect.void
      if (warned.size === maxWarned) warned.clear()
      warned.add(`${key}`)
      return Effect.logWarning(`Left out of a list of tasks: ${error.reason.description}`)
    })

  return Effect.fnUntraced(function* ({ ownerId, status, ...page }: ListOptions) {
    const wanted = typeof status === "string" ? [status] : status
    for (const one of wanted ?? []) Rules.checkStatus("list", Task.Status, one)
    const owner = yield* ownerOf(ownerId)
    const prefix = yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix: "" }))
    const { cursor, records } = yield* backend.listByPrefix(prefix, { ...page, order: "descending" })
    const tasks: Array<Task.TaskRecord> = []
    const unreadable: Array<string> = []
    for (const stored of records) {
      const task = readTask(stored)
      if (Result.isFailure(task)) {
        unreadable.push(stored.key.id)
        yield* warnOnce(stored.key, task.failure)
      } else if (task.success !== undefined && (wanted?.includes(task.success.task.status) ?? true)) {
        tasks.push(task.success)
      }
    }
    return { tasks, unreadable, cursor }
  })
}

/** Watches a task. */
const makeWatch = (backend: StorageBackend["Service"], { locate, readAt }: Tasks, pollMillis: number) => {
  /** Reads a task that has ended, or that may still change. */
  const readLive = Effect.fnUntraced(function* (key: StorageKey.StorageKey) {
    const seen = yield* readAt(key)
    if (Task.isTerminal(seen.record.task.status)) return seen
    const expired = Rules.expiredError(seen.record, yield* DateTime.now)
    return expired === undefined ? seen : yield* expired
  })

  const changes = (taskKey: TaskKey, { schedule = Schedule.spaced(pollMillis) }: WatchOptions = {}) =>
    Stream.unwrap(
      Effect.map(locate(taskKey), (key) =>
        Looks.make({
          look: readLive(key),
          hints: backend.hints(key),
          schedule,
          untilMillis: ({ record }) => Task.expiresAt(record)?.epochMilliseconds
        })
      )
    ).pipe(
      Stream.changesWith((before, after) => before.version === after.version),
      Stream.map(({ record }) => record),
      Stream.takeUntil(({ task }) => Task.isTerminal(task.status))
    )

  const awaitTerminal = (key: TaskKey, options?: WatchOptions) =>
    Effect.flatMap(Stream.runLast(changes(key, options)), (last) => {
      const record = Option.getOrThrow(last)
      const { status, taskId } = record.task
      return Task.isTerminal(status)
        ? Effect.succeed(record)
        : Effect.fail(new TaskError.TaskNotReady({ taskId, status }))
    })

  return { changes, awaitTerminal }
}

const isoOf = (millis: number): string => DateTime.formatIso(DateTime.makeUnsafe(millis))

/** An id that sorts by its time of creation, and can't be guessed: it may be all that a client shows. */
const newTaskId = (millis: number): string => `${millis.toString(16).padStart(12, "0")}-${crypto.randomUUID()}`

const encodeRecord = Schema.encodeEffect(Task.TaskRecord)

/** The JSON of a record. What callers give was checked before, so a failure is a defect and not an error of reading. */
const encode = (record: Task.TaskRecord): Effect.Effect<string> => {
  const encoded = encodeRecord(record)
  // The Schema answers at once, so most of the time there is no step of the fiber.
  return Exit.isExit(encoded) && Exit.isSuccess(encoded)
    ? Effect.succeed(JSON.stringify(encoded.value))
    : Effect.map(Effect.orDie(encoded), (json) => JSON.stringify(json))
}
