/**
 * Durable tasks: the life of a long-running operation, by the Model Context Protocol's task lifecycle (specification of
 * 2025-11-25), on any backend. Owners are kept apart, tasks expire, and each owner has only so many.
 *
 * Every change is one compare-and-set under a retry schedule, and is checked again on each try: of two completions that
 * race, one wins and the other is an `InvalidTransition`.
 */
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { retryConflicts } from "../internal/conflicts.ts"
import { lastMillisecond } from "../internal/time.ts"
import { byteLength } from "../internal/utf8.ts"
import { StorageBackend } from "../StorageBackend.ts"
import {
  type Backend,
  backend as backendError,
  type CapacityExceeded,
  type InvalidCursor,
  RecordNotFound,
  VersionConflict
} from "../StorageError.ts"
import * as StorageKey from "../StorageKey.ts"
import * as VersionedStore from "../VersionedStore.ts"
import { placeUntil } from "./internal/ledger.ts"
import * as Places from "./internal/places.ts"
import * as RunApart from "./internal/runApart.ts"
import * as Task from "./Task.ts"
import * as TaskError from "./TaskError.ts"

/** Which task, and whose it must be. */
export interface TaskKey {
  readonly ownerId: string
  readonly taskId: string
}

/** What a task is created with. */
export interface CreateOptions {
  readonly ownerId: string
  /** The method of the request that makes the task, `tools/call` for one. */
  readonly requestMethod: string
  /** How long the task lives; the store's `defaultTtl` where it is left out. */
  readonly ttl?: Duration.Input | undefined
}

/** Which of an owner's tasks are listed. */
export interface ListOptions {
  readonly ownerId: string
  /** The most tasks of one page, from 1 to 1,000; 100 by default. */
  readonly limit?: number | undefined
  /** Where the page before ended. */
  readonly cursor?: string | undefined
}

/** One page of an owner's tasks. */
export interface Page {
  readonly tasks: ReadonlyArray<Task.TaskRecord>
  /** Leads to the next page. A page may be short or even empty and have one: only its absence is the end. */
  readonly cursor: string | undefined
}

/** How often a task is looked at. */
export interface WatchOptions {
  /** By default every `pollInterval` of the store, for ever. */
  readonly schedule?: Schedule.Schedule<unknown> | undefined
}

/** What every operation can raise. */
export type AccessError = StorageKey.InvalidKey | TaskError.AnonymousOwner | Backend

/** What reading a task can raise. */
export type ReadError = AccessError | TaskError.TaskNotFound

/** What changing a task can raise. */
export type ChangeError = ReadError | TaskError.TaskExpired | TaskError.ConcurrentModification | CapacityExceeded

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
 */
export class TaskStore extends Context.Service<
  TaskStore,
  {
    /**
     * Creates a task that works. Two requests, however many tasks the owner has: one takes a place in the owner's limit,
     * one writes the task. One more if this process has not seen the owner's places yet.
     *
     * If the creation fails or is interrupted, its place comes free again, unless the task was created. Only if the
     * process dies in between, or a write's outcome stays `unknown`, the place may stay taken until the task's expiry.
     */
    readonly create: (
      options: CreateOptions
    ) => Effect.Effect<
      Task.TaskRecord,
      AccessError | TaskError.TooManyTasks | TaskError.TtlTooLong | TaskError.ConcurrentModification | CapacityExceeded
    >

    /** The task as it now is. One request. */
    readonly get: (key: TaskKey) => Effect.Effect<Task.TaskRecord, ReadError>

    /** Moves a task to another status, with a message that replaces the one before. Two requests. */
    readonly updateStatus: (
      key: TaskKey,
      status: Task.Status,
      statusMessage?: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition>

    /** Sets the message of a task that has not ended. Two requests. */
    readonly setStatusMessage: (
      key: TaskKey,
      statusMessage: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition>

    /**
     * Merges variables into the task's, also of one that has ended; null takes one away. Nothing is written unless all of it
     * may be. Two requests.
     */
    readonly setVariables: (
      key: TaskKey,
      variables: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.VariablesTooLarge | TaskError.InvalidVariables>

    /** Stores the result, also of a task that has ended without one. It is never replaced after the end. Two requests. */
    readonly setResult: (
      key: TaskKey,
      result: Schema.Json
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition>

    /** The result of a task that has ended, null where it has none. One request. */
    readonly getResult: (key: TaskKey) => Effect.Effect<Schema.Json, ReadError | TaskError.TaskNotReady>

    /** Ends a task and stores its result, in one write. Two requests. */
    readonly completeWithResult: (
      key: TaskKey,
      outcome: {
        readonly status: Task.TerminalStatus
        readonly result: Schema.Json
        readonly statusMessage?: string | undefined
      }
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition>

    /** Stores the JSON-RPC error, also of a task that has failed without one. It is never replaced after the end. */
    readonly setError: (
      key: TaskKey,
      error: Schema.Json
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition>

    /** The JSON-RPC error, where the task has one. One request. */
    readonly getError: (key: TaskKey) => Effect.Effect<Option.Option<Schema.Json>, ReadError>

    /**
     * Asks the client for inputs: stores the requests and moves the task to `input_required`, in one write. A key is never
     * used twice in a task's life. Two requests.
     */
    readonly recordInputRequests: (
      key: TaskKey,
      requests: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | TaskError.InputKeyReused>

    /**
     * Takes the client's answers to what is outstanding, and ignores all others; what was answered is never replaced. The
     * last answer moves the task back to `working`, in the same write. Two requests, one where nothing was taken.
     */
    readonly deliverInputs: (
      key: TaskKey,
      responses: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<Task.InputDelivery, ChangeError | TaskError.InvalidTransition>

    /** What the client is asked for and what it has answered. One request. */
    readonly inputSnapshot: (key: TaskKey) => Effect.Effect<Task.InputSnapshot, ReadError>

    /** One page of an owner's tasks, newest first. One request, as for a page of any listing. */
    readonly list: (options: ListOptions) => Effect.Effect<Page, AccessError | InvalidCursor>

    /** Cancels a task that has not ended. Two requests. */
    readonly cancel: (
      key: TaskKey,
      statusMessage?: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition>

    /**
     * Removes a task, whatever its status, and frees its place in the owner's limit. If the place can't be freed at once,
     * that is tried again in the background. Three requests.
     */
    readonly remove: (key: TaskKey) => Effect.Effect<void, ReadError | TaskError.ConcurrentModification>

    /** Physically removes what has expired, where the engine does not do it by itself; returns how many records. */
    readonly cleanupExpired: Effect.Effect<number, Backend>

    /**
     * Looks at a task until it has ended, as often as a schedule says. Where the schedule is spent before that, it fails
     * with `TaskNotReady`; where the task expires before that, with `TaskExpired`. One request a look.
     */
    readonly awaitTerminal: (
      key: TaskKey,
      options?: WatchOptions
    ) => Effect.Effect<Task.TaskRecord, ReadError | TaskError.TaskExpired | TaskError.TaskNotReady>

    /**
     * The task now, and again whenever it is seen to have changed, up to its end. Where it expires before that, the stream
     * fails with `TaskExpired`; where the schedule is spent, the stream ends. One request a look.
     */
    readonly changes: (
      key: TaskKey,
      options?: WatchOptions
    ) => Stream.Stream<Task.TaskRecord, ReadError | TaskError.TaskExpired>
  }
>()("effect-versioned-store/TaskStore") {}

/** How a store is set up. */
export interface Options {
  /** How long a task lives unless its creator says, at most `maxTtl`; 1 hour by default, `"Infinity"`: for ever. */
  readonly defaultTtl?: Duration.Input | undefined
  /** The longest life that a creator may ask for; 24 hours by default, `"Infinity"`: no limit. */
  readonly maxTtl?: Duration.Input | undefined
  /** How long an expired task can still be read; 1 hour by default, 0: not at all. */
  readonly grace?: Duration.Input | undefined
  /** The most bytes that a task's variables take as JSON, all together; 1 MiB by default. A backend may hold less. */
  readonly maxVariablesBytes?: number | undefined
  /** How deeply a variable may be nested; 10 by default. */
  readonly maxVariablesDepth?: number | undefined
  /** The most bytes of UTF-8 of a string in a variable; 65,536 by default. */
  readonly maxStringBytes?: number | undefined
  /**
   * The most tasks that an owner has at a time; 100 by default. It is never passed, and up to 512 it is exact. Above 512
   * a place may stay taken for up to 2% of its task's life, and at least up to the next whole second, after the task has
   * expired.
   */
  readonly maxTasksPerOwner?: number | undefined
  /** How often clients are told to look; 500 ms by default. */
  readonly pollInterval?: Duration.Input | undefined
  /** Whether owners may be nobody, which is `""` or `"local"`; false by default. */
  readonly allowAnonymous?: boolean | undefined
  /** How conflicts are retried; `VersionedStore.defaultRetrySchedule` by default. */
  readonly retrySchedule?: Schedule.Schedule<unknown, VersionConflict> | undefined
}

/** The owner of those who are not signed in, as pmcp-tasks names it. */
const localOwner = "local"

const make = Effect.fnUntraced(function* ({
  allowAnonymous = false,
  defaultTtl = "1 hour",
  grace = "1 hour",
  maxStringBytes = 65_536,
  maxTasksPerOwner = 100,
  maxTtl = "24 hours",
  maxVariablesBytes = 1024 * 1024,
  maxVariablesDepth = 10,
  pollInterval = "500 millis",
  retrySchedule
}: Options) {
  const backend = yield* StorageBackend
  const places = yield* Places.make(maxTasksPerOwner)
  const runApart = yield* RunApart.make
  // What is no task is told apart below, so that other stores may keep records of the same owners.
  const records = yield* Effect.orDie(VersionedStore.make({ idPrefix: "", schema: Schema.Unknown, retrySchedule }))
  const millis = (duration: Duration.Input) =>
    Math.max(0, Math.ceil(Duration.toMillis(Duration.fromInputUnsafe(duration))))
  const [defaultMillis, maxMillis, graceMillis] = [millis(defaultTtl), millis(maxTtl), millis(grace)]
  const limits = { maxStringBytes, maxVariablesBytes, maxVariablesDepth }

  /** The owner in whose name the storage is asked. */
  const ownerOf = (ownerId: string): Effect.Effect<string, AccessError> => {
    if (ownerId !== "" && ownerId !== localOwner) return Effect.succeed(ownerId)
    return allowAnonymous ? Effect.succeed(localOwner) : Effect.fail(new TaskError.AnonymousOwner({}))
  }

  /** Where a task is stored. An id that no task can have is that of none. */
  const locate = Effect.fnUntraced(function* ({ ownerId, taskId: id }: TaskKey) {
    const owner = yield* ownerOf(ownerId)
    const key = StorageKey.make({ owner, id })
    if (Result.isFailure(key) && key.failure.part === "owner") return yield* key.failure
    if (Result.isFailure(key) || id.startsWith("!")) return yield* new TaskError.TaskNotFound({ taskId: String(id) })
    return { owner, id }
  })

  /** The task as it now is, and its version. */
  const look = Effect.fnUntraced(function* (taskKey: TaskKey) {
    const key = yield* locate(taskKey)
    const { value, version } = yield* asReadErrors(key.id, records.get(key))
    return { record: yield* taskIn(key, value), version }
  })

  const get = (key: TaskKey) => Effect.map(look(key), ({ record }) => record)

  /** The one way in which a task is changed. `f` may fail with `Unchanged`, to write nothing. */
  const modify = Effect.fnUntraced(function* <A, E>(
    taskKey: TaskKey,
    f: (record: Task.TaskRecord) => Effect.Effect<readonly [A, Task.TaskRecord], E>
  ) {
    const key = yield* locate(taskKey)
    return yield* asChangeErrors(
      key.id,
      records.modifyEffect(
        key,
        Effect.fnUntraced(function* (stored) {
          const record = yield* taskIn(key, stored)
          const now = yield* DateTime.now
          yield* notExpired(record, now)
          const [answer, { task, ...rest }] = yield* f(record)
          const changed = { ...rest, task: { ...task, lastUpdatedAt: DateTime.formatIso(now) } }
          return [[answer, changed] as const, yield* Effect.orDie(encode(changed))]
        })
      )
    )
  })

  const update = <E>(key: TaskKey, f: (record: Task.TaskRecord) => Effect.Effect<Task.TaskRecord, E>) =>
    Effect.map(
      modify(key, (record) => Effect.map(f(record), (next) => [undefined, next] as const)),
      ([, record]) => record
    )

  const updateStatus = (key: TaskKey, status: Task.Status, statusMessage?: string) =>
    update(key, (record) => transition(record, status, statusMessage))

  const list = Effect.fnUntraced(function* ({ ownerId, ...page }: ListOptions) {
    const owner = yield* ownerOf(ownerId)
    const { cursor, records: found } = yield* records
      .list({ owner, order: "descending", ...page })
      .pipe(Effect.catchTag("SchemaError", (error) => Effect.fail(damaged(`one of the tasks of ${owner}`)(error))))
    const tasks = yield* Effect.forEach(found, ({ key, value }) =>
      taskIn(key, value).pipe(
        Effect.map((task) => [task]),
        Effect.catchTag("TaskNotFound", () => Effect.succeed([]))
      )
    )
    return { tasks: tasks.flat(), cursor }
  })

  const create = Effect.fnUntraced(function* ({ ownerId, requestMethod, ttl }: CreateOptions) {
    const owner = yield* ownerOf(ownerId)
    const asked = ttl === undefined ? undefined : millis(ttl)
    if (asked !== undefined && asked > maxMillis) {
      return yield* new TaskError.TtlTooLong({ ttl: asked, limit: maxMillis })
    }
    const lives = asked ?? Math.min(defaultMillis, maxMillis)
    const now = yield* Clock.currentTimeMillis
    const ends = now + lives
    const expires = ends + graceMillis <= lastMillisecond
    const [id, time] = [newTaskId(now), isoOf(now)]
    const record: Task.TaskRecord = {
      task: {
        taskId: id,
        status: "working",
        createdAt: time,
        lastUpdatedAt: time,
        ttl: Number.isFinite(lives) ? lives : null,
        pollInterval: millis(pollInterval)
      },
      ownerId: owner,
      variables: {},
      result: null,
      requestMethod,
      expiresAt: expires ? isoOf(ends) : null,
      placeUntil: expires ? placeUntil(maxTasksPerOwner, ends, lives) : null
    }
    const data = yield* Effect.orDie(encode(record))
    const expiresAt = expires ? DateTime.makeUnsafe(ends + graceMillis) : undefined
    const creation = Effect.catchTags(records.create({ owner, id }, data, { expiresAt }), {
      AlreadyExists: Effect.die,
      SchemaError: Effect.die
    })
    yield* runApart(
      Effect.catchTag(places.withPlace(owner, record.placeUntil ?? null, creation), "VersionConflict", contended(id))
    )
    return record
  })

  const remove = Effect.fnUntraced(function* (taskKey: TaskKey) {
    const key = yield* locate(taskKey)
    let removed: Task.TaskRecord | undefined
    const attempt = Effect.gen(function* () {
      const record = yield* records.get(key)
      const task = yield* taskIn(key, record.value)
      // Once sent, the removal is not interrupted, so that its place is certainly given back.
      return yield* records.removeIfVersion(record).pipe(
        Effect.map(() => {
          removed = task
          return Result.succeed(undefined)
        }),
        Effect.catchTag("VersionConflict", (conflict) => Effect.succeed(Result.fail(conflict))),
        Effect.uninterruptible
      )
    })
    yield* asChangeErrors(
      key.id,
      retryConflicts(retrySchedule ?? VersionedStore.defaultRetrySchedule, () => attempt)
    ).pipe(
      Effect.onExit(() =>
        removed?.placeUntil === undefined ? Effect.void : places.giveBack(key.owner, removed.placeUntil)
      ),
      runApart
    )
  })

  /** Looks at a task that has ended, or that may still change. */
  const watch = Effect.fnUntraced(function* (key: TaskKey) {
    const seen = yield* look(key)
    if (!Task.isTerminal(seen.record.task.status)) yield* notExpired(seen.record, yield* DateTime.now)
    return seen
  })

  const changes = (key: TaskKey, { schedule = Schedule.spaced(pollInterval) }: WatchOptions = {}) =>
    Stream.fromEffectSchedule(watch(key), schedule).pipe(
      Stream.changesWith((before, after) => before.version === after.version),
      Stream.map(({ record }) => record),
      Stream.takeUntil(({ task }) => Task.isTerminal(task.status))
    )

  return TaskStore.of({
    create,
    get,
    updateStatus,
    setStatusMessage: (key, statusMessage) =>
      update(key, (record) =>
        Task.isTerminal(record.task.status)
          ? Effect.fail(stays(record))
          : Effect.succeed({ ...record, task: { ...record.task, statusMessage } })
      ),
    setVariables: (key, variables) =>
      update(key, (record) => Effect.map(merged(record, variables, limits), (variables) => ({ ...record, variables }))),
    setResult: (key, result) =>
      update(key, (record) =>
        Task.isTerminal(record.task.status) && record.result !== null
          ? Effect.fail(stays(record))
          : Effect.succeed({ ...record, result })
      ),
    getResult: (key) =>
      Effect.flatMap(get(key), ({ result, task: { status, taskId } }) =>
        Task.isTerminal(status) ? Effect.succeed(result) : Effect.fail(new TaskError.TaskNotReady({ taskId, status }))
      ),
    completeWithResult: (key, { result, status, statusMessage }) =>
      update(key, (record) => Effect.map(transition(record, status, statusMessage), (next) => ({ ...next, result }))),
    setError: (key, error) =>
      update(key, (record) =>
        Task.isTerminal(record.task.status) && (record.error ?? null) !== null
          ? Effect.fail(stays(record))
          : Effect.succeed({ ...record, error })
      ),
    getError: (key) => Effect.map(get(key), ({ error }) => Option.fromNullishOr(error)),
    recordInputRequests: (key, requests) =>
      update(key, (record) =>
        Effect.flatMap(transition(record, "input_required", record.task.statusMessage), (next) => {
          const before = record.inputRequests ?? {}
          const reused = Object.keys(requests).find((key) => Object.hasOwn(before, key))
          return reused === undefined
            ? Effect.succeed({ ...next, inputRequests: union(before, requests) })
            : Effect.fail(new TaskError.InputKeyReused({ taskId: record.task.taskId, key: reused }))
        })
      ),
    deliverInputs: (key, responses) =>
      modify(key, (record) =>
        Effect.flatMap(transition(record, "working", record.task.statusMessage), (resumed) => {
          const { inputRequests, inputResponses, outstanding } = Task.inputSnapshot(record)
          const keys = Object.keys(responses)
          const accepted = keys.filter((key) => outstanding.includes(key))
          const ignored = keys.filter((key) => !outstanding.includes(key))
          const taken = Object.fromEntries(accepted.map((key) => [key, responses[key] ?? null]))
          const complete = Object.keys(inputRequests).length > 0 && outstanding.length === accepted.length
          const delivery = { accepted, ignored, complete }
          if (accepted.length === 0 && !complete) return Effect.fail(new Unchanged(delivery))
          const next = { ...(complete ? resumed : record), inputResponses: union(inputResponses, taken) }
          return Effect.succeed([delivery, next] as const)
        })
      ).pipe(
        Effect.map(([delivery]) => delivery),
        Effect.catchTag("Unchanged", ({ answer }) => Effect.succeed(answer))
      ),
    inputSnapshot: (key) => Effect.map(get(key), Task.inputSnapshot),
    list,
    cancel: (key, statusMessage) => updateStatus(key, "cancelled", statusMessage),
    remove,
    cleanupExpired: backend.cleanupExpired,
    awaitTerminal: (key, options) =>
      Effect.flatMap(Stream.runLast(changes(key, options)), (last) => {
        const record = Option.getOrThrow(last)
        const { status, taskId } = record.task
        return Task.isTerminal(status)
          ? Effect.succeed(record)
          : Effect.fail(new TaskError.TaskNotReady({ taskId, status }))
      }),
    changes
  })
})

/**
 * The task store with its defaults, on whichever backend the Layer below provides.
 *
 * @example
 * ```ts
 * import { InMemory, TaskStore } from "effect-versioned-store"
 * import { Layer } from "effect"
 *
 * export const Tasks = TaskStore.layer.pipe(Layer.provide(InMemory.layer))
 * ```
 */
export const layer: Layer.Layer<TaskStore, never, StorageBackend> = Layer.effect(
  TaskStore,
  Effect.suspend(() => make({}))
)

/**
 * The task store, set up otherwise.
 *
 * @example
 * ```ts
 * import { TaskStore } from "effect-versioned-store"
 *
 * export const Tasks = TaskStore.layerWith({ defaultTtl: "10 minutes", maxTasksPerOwner: 1000 })
 * ```
 */
export const layerWith = (options: Options): Layer.Layer<TaskStore, never, StorageBackend> =>
  Layer.effect(TaskStore, make(options))

/**
 * The task store, set up from configuration.
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
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<TaskStore, Config.ConfigError, StorageBackend> =>
  Layer.effect(TaskStore, Effect.flatMap(Config.unwrap(options), make))

// -----------------------------------------------------------------------------

const isoOf = (millis: number): string => DateTime.formatIso(DateTime.makeUnsafe(millis))

/** An id that sorts by its time of creation, and can't be guessed: it may be all that a client shows. */
const newTaskId = (millis: number): string => `${millis.toString(16).padStart(12, "0")}-${crypto.randomUUID()}`

const encode = Schema.encodeEffect(Task.TaskRecord)
const decode = Schema.decodeUnknownEffect(Task.TaskRecord)

/** The task in what is stored at a key: none where that is something else, or says that it is another owner's. */
const taskIn = Effect.fnUntraced(function* (key: VersionedStore.Key, stored: unknown) {
  const isTask = Predicate.hasProperty(stored, "task") && Predicate.isObject(stored.task)
  if (!isTask) return yield* new TaskError.TaskNotFound({ taskId: key.id })
  const record = yield* Effect.mapError(decode(stored), damaged(`task ${key.id}`))
  return record.ownerId === key.owner ? record : yield* new TaskError.TaskNotFound({ taskId: key.id })
})

const damaged =
  (what: string) =>
  (cause: Schema.SchemaError): Backend =>
    backendError({
      reason: "Corrupt",
      outcome: "not-applied",
      description: `What is stored as ${what} can't be read as a task: repair or delete that record`,
      cause
    })

/** The storage's errors of a read as those of the task that was asked for. */
const asReadErrors = <A, E, R>(
  taskId: string,
  effect: Effect.Effect<A, E | RecordNotFound | Schema.SchemaError, R>
): Effect.Effect<A, E | TaskError.TaskNotFound | Backend, R> =>
  Effect.mapError(effect, (error) => {
    if (error instanceof RecordNotFound) return new TaskError.TaskNotFound({ taskId })
    return Schema.isSchemaError(error) ? damaged(`task ${taskId}`)(error) : error
  })

/** The storage's errors of a change as those of the task that was to be changed. */
const asChangeErrors = <A, E, R>(
  taskId: string,
  effect: Effect.Effect<A, E | RecordNotFound | VersionConflict | Schema.SchemaError, R>
): Effect.Effect<A, E | TaskError.TaskNotFound | TaskError.ConcurrentModification | Backend, R> =>
  Effect.mapError(asReadErrors(taskId, effect), (error) =>
    error instanceof VersionConflict ? new TaskError.ConcurrentModification({ taskId }) : error
  )

const contended = (taskId: string) => () => Effect.fail(new TaskError.ConcurrentModification({ taskId }))

/** A change that comes to nothing, with what it answers. */
class Unchanged<A> {
  readonly _tag = "Unchanged"
  readonly answer: A
  constructor(answer: A) {
    this.answer = answer
  }
}

/** What was asked is not for a task in the status that it has. */
const stays = ({ task: { status, taskId } }: Task.TaskRecord) =>
  new TaskError.InvalidTransition({ taskId, from: status, to: status })

const transition = (
  record: Task.TaskRecord,
  status: Task.Status,
  statusMessage: string | null | undefined
): Effect.Effect<Task.TaskRecord, TaskError.InvalidTransition> => {
  const { statusMessage: _, ...task } = record.task
  return Task.canTransition(task.status, status)
    ? Effect.succeed({ ...record, task: { ...task, status, ...(statusMessage == null ? {} : { statusMessage }) } })
    : Effect.fail(new TaskError.InvalidTransition({ taskId: task.taskId, from: task.status, to: status }))
}

const notExpired = (record: Task.TaskRecord, now: DateTime.Utc): Effect.Effect<void, TaskError.TaskExpired> => {
  const expiredAt = Task.expiresAt(record)
  return expiredAt === undefined || DateTime.isGreaterThan(expiredAt, now)
    ? Effect.void
    : Effect.fail(new TaskError.TaskExpired({ taskId: record.task.taskId, expiredAt }))
}

type Json = Readonly<Record<string, Schema.Json>>

/** Both objects in one. Built of entries, so that `__proto__` is a key like any other. */
const union = (first: Json, second: Json): Json =>
  Object.fromEntries([...Object.entries(first), ...Object.entries(second)])

interface VariableLimits {
  readonly maxStringBytes: number
  readonly maxVariablesBytes: number
  readonly maxVariablesDepth: number
}

/** A task's variables with others merged in, if that may be. */
const merged = (
  { task: { taskId }, variables }: Task.TaskRecord,
  more: Json,
  limits: VariableLimits
): Effect.Effect<Json, TaskError.InvalidVariables | TaskError.VariablesTooLarge> => {
  for (const [name, value] of Object.entries(more)) {
    const invalid = problemIn(value, [name], limits)
    if (invalid !== undefined) return Effect.fail(new TaskError.InvalidVariables({ taskId, ...invalid }))
  }
  const isKept = ([name, value]: readonly [string, Schema.Json]) => !(value === null && Object.hasOwn(more, name))
  const all = Object.fromEntries(Object.entries(union(variables, more)).filter(isKept))
  const actual = byteLength(JSON.stringify(all))
  return actual > limits.maxVariablesBytes
    ? Effect.fail(new TaskError.VariablesTooLarge({ taskId, limit: limits.maxVariablesBytes, actual }))
    : Effect.succeed(all)
}

/** The first place in a variable that can't be. The path starts with its name, which is no depth. */
const problemIn = (
  value: unknown,
  path: ReadonlyArray<string>,
  limits: VariableLimits
): Pick<TaskError.InvalidVariables, "path" | "problem"> | undefined => {
  if (path.length - 1 > limits.maxVariablesDepth) return { path, problem: "TooDeep" }
  if (typeof value === "string") {
    return byteLength(value) > limits.maxStringBytes ? { path, problem: "StringTooLong" } : undefined
  }
  if (value === null || typeof value === "boolean" || Number.isFinite(value)) return undefined
  if (!Array.isArray(value) && !isPlainObject(value)) return { path, problem: "NotJson" }
  for (const [name, inner] of Object.entries(value)) {
    const invalid = problemIn(inner, [...path, name], limits)
    if (invalid !== undefined) return invalid
  }
}

const isPlainObject = (value: unknown): value is object => {
  if (!Predicate.isObject(value)) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}
