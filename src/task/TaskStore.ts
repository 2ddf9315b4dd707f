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
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { retryConflicts } from "../internal/conflicts.ts"
import { checkLimit } from "../internal/options.ts"
import { lastMillisecond, toMillis } from "../internal/time.ts"
import { byteLength, isLongerThan } from "../internal/utf8.ts"
import { StorageBackend, type VersionedRecord } from "../StorageBackend.ts"
import { type Backend, type CapacityExceeded, type InvalidCursor, VersionConflict } from "../StorageError.ts"
import * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import * as VersionedStore from "../VersionedStore.ts"
import * as Json from "./internal/json.ts"
import { placeUntil } from "./internal/ledger.ts"
import * as Places from "./internal/places.ts"
import * as RunApart from "./internal/runApart.ts"
import { isReserved, readTask } from "./internal/stored.ts"
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
  /**
   * The ids of this page's records that can't be read as tasks, for example since a later version wrote them. Each is
   * logged once. `remove` removes them.
   */
  readonly unreadable: ReadonlyArray<string>
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

/** What storing a result, an error or inputs can raise besides. */
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

    /**
     * The task as it now is. If its record can't be read as a task, this fails with `Backend` of the reason `Corrupt`,
     * which names the record and the field. One request.
     */
    readonly get: (key: TaskKey) => Effect.Effect<Task.TaskRecord, ReadError>

    /** Moves a task to another status, with a message that replaces the one before. Two requests. */
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
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | PayloadError>

    /** The result of a task that has ended, null where it has none. One request. */
    readonly getResult: (key: TaskKey) => Effect.Effect<Schema.Json, ReadError | TaskError.TaskNotReady>

    /** Ends a task and stores its result, in one write. A status that is not terminal is a defect. Two requests. */
    readonly completeWithResult: (
      key: TaskKey,
      outcome: {
        readonly status: Task.TerminalStatus
        readonly result: Schema.Json
        readonly statusMessage?: string | undefined
      }
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | PayloadError>

    /** Stores the JSON-RPC error, also of a task that has failed without one. It is never replaced after the end. */
    readonly setError: (
      key: TaskKey,
      error: Schema.Json
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | PayloadError>

    /** The JSON-RPC error, where the task has one. One request. */
    readonly getError: (key: TaskKey) => Effect.Effect<Option.Option<Schema.Json>, ReadError>

    /**
     * Asks the client for inputs: stores the requests and moves the task to `input_required`, in one write. A key is never
     * used twice in a task's life. Two requests.
     */
    readonly recordInputRequests: (
      key: TaskKey,
      requests: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<
      Task.TaskRecord,
      ChangeError | TaskError.InvalidTransition | TaskError.InputKeyReused | PayloadError
    >

    /**
     * Takes the client's answers to what is outstanding, and ignores all others; what was answered is never replaced. The
     * last answer moves the task back to `working`, in the same write. Two requests, one where nothing was taken.
     */
    readonly deliverInputs: (
      key: TaskKey,
      responses: Readonly<Record<string, Schema.Json>>
    ) => Effect.Effect<Task.InputDelivery, ChangeError | TaskError.InvalidTransition | PayloadError>

    /** What the client is asked for and what it has answered. One request. */
    readonly inputSnapshot: (key: TaskKey) => Effect.Effect<Task.InputSnapshot, ReadError>

    /**
     * One page of an owner's tasks, newest first. Records that can't be read as tasks are left out, and their ids are in
     * `unreadable`. One request, as for a page of any listing.
     */
    readonly list: (options: ListOptions) => Effect.Effect<Page, AccessError | InvalidCursor>

    /** Cancels a task that has not ended. Two requests. */
    readonly cancel: (
      key: TaskKey,
      statusMessage?: string
    ) => Effect.Effect<Task.TaskRecord, ChangeError | TaskError.InvalidTransition | TaskError.PayloadTooLarge>

    /**
     * Removes a task, whatever its status, and frees its place in the owner's limit. If the place can't be freed at once,
     * that is tried again in the background. Three requests.
     *
     * A record that can't be read as a task is removed too. Its place then comes free when the task would have expired.
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
  /** How deeply a variable may be nested; 10 by default, and never more than 1,000. */
  readonly maxVariablesDepth?: number | undefined
  /** The most bytes of UTF-8 of a string in a variable, and of a status message; 65,536 by default. */
  readonly maxStringBytes?: number | undefined
  /**
   * The most bytes that a result, an error, all input requests or all input responses of a task take as JSON; 1 MiB by
   * default. A backend may hold less.
   */
  readonly maxPayloadBytes?: number | undefined
  /** How deeply a result, an error, an input request or response may be nested; 100 by default, and never more than 1,000. */
  readonly maxPayloadDepth?: number | undefined
  /**
   * The most tasks that an owner has at a time; 100 by default. It is never passed. Up to 512 it is exact to the second: a
   * place comes free in the second in which its task expires. Above 512 a place may stay taken for another 2% of its
   * task's life.
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
  maxPayloadBytes = 1024 * 1024,
  maxPayloadDepth = 100,
  maxStringBytes = 65_536,
  maxTasksPerOwner = 100,
  maxTtl = "24 hours",
  maxVariablesBytes = 1024 * 1024,
  maxVariablesDepth = 10,
  pollInterval = "500 millis",
  retrySchedule = VersionedStore.defaultRetrySchedule
}: Options) {
  const limits = { maxPayloadBytes, maxPayloadDepth, maxStringBytes, maxVariablesBytes, maxVariablesDepth }
  for (const [name, limit] of Object.entries({ ...limits, maxTasksPerOwner })) checkLimit(name, limit)
  const defaultMillis = wholeMillis("defaultTtl", defaultTtl)
  const maxMillis = wholeMillis("maxTtl", maxTtl)
  const graceMillis = wholeMillis("grace", grace)
  const pollMillis = wholeMillis("pollInterval", pollInterval)
  if (!Number.isSafeInteger(pollMillis)) {
    throw new RangeError(`pollInterval must be a finite duration, such as "5 seconds": it is ${pollMillis} ms`)
  }

  const backend = yield* StorageBackend
  const places = yield* Places.make(maxTasksPerOwner)
  const runApart = yield* RunApart.make
  const warned = new Set<string>()

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
    if (Result.isFailure(key) || isReserved(id)) return yield* new TaskError.TaskNotFound({ taskId: String(id) })
    return key.success
  })

  /** The task in a stored record, whose absence looks the same as that of the record. */
  const taskIn = (stored: VersionedRecord): Effect.Effect<Task.TaskRecord, TaskError.TaskNotFound | Backend> => {
    const task = readTask(stored)
    if (Result.isFailure(task)) return Effect.fail(task.failure)
    return task.success === undefined
      ? Effect.fail(new TaskError.TaskNotFound({ taskId: stored.key.id }))
      : Effect.succeed(task.success)
  }

  const read = (key: StorageKey.StorageKey) =>
    Effect.catchTag(backend.get(key), "RecordNotFound", () =>
      Effect.fail(new TaskError.TaskNotFound({ taskId: key.id }))
    )

  /** The task as it now is, and its version. */
  const look = Effect.fnUntraced(function* (taskKey: TaskKey) {
    const stored = yield* read(yield* locate(taskKey))
    return { record: yield* taskIn(stored), version: stored.version }
  })

  const get = (key: TaskKey) => Effect.map(look(key), ({ record }) => record)

  /** The one way in which a task is changed. `f` may fail with `Unchanged`, to write nothing. */
  const modify = Effect.fnUntraced(function* <A, E>(
    taskKey: TaskKey,
    f: (record: Task.TaskRecord) => Effect.Effect<readonly [A, Task.TaskRecord], E>
  ) {
    const key = yield* locate(taskKey)
    const attempt = Effect.fnUntraced(function* (carried: VersionedRecord | undefined) {
      const stored = carried ?? (yield* read(key))
      const record = yield* taskIn(stored)
      const now = yield* DateTime.now
      yield* notExpired(record, now)
      const [answer, { task, ...rest }] = yield* f(record)
      const changed = { ...rest, task: { ...task, lastUpdatedAt: DateTime.formatIso(now) } }
      const data = yield* encode(changed)
      return yield* backend.putIfVersion(key, data, stored, { expiresAt: stored.expiresAt }).pipe(
        Effect.as(Result.succeed([answer, changed] as const)),
        Effect.catchTags({
          VersionConflict: (conflict) => Effect.succeed(Result.fail(conflict)),
          RecordNotFound: () => Effect.fail(new TaskError.TaskNotFound({ taskId: key.id })),
          InvalidData: Effect.die
        })
      )
    })
    return yield* retrying(key.id, attempt)
  })

  /** Tries a change again until it meets no conflict. */
  const retrying = <A, E>(
    taskId: string,
    attempt: (carried: VersionedRecord | undefined) => Effect.Effect<Result.Result<A, VersionConflict>, E>
  ): Effect.Effect<A, E | TaskError.ConcurrentModification> =>
    Effect.mapError(retryConflicts(retrySchedule, attempt), (error) =>
      error instanceof VersionConflict ? new TaskError.ConcurrentModification({ taskId }) : error
    )

  const update = <E>(key: TaskKey, f: (record: Task.TaskRecord) => Effect.Effect<Task.TaskRecord, E>) =>
    Effect.map(
      modify(key, (record) => Effect.map(f(record), (next) => [undefined, next] as const)),
      ([, record]) => record
    )

  /** A change that stores a part of a task, unless that is too deep, too large or not JSON. */
  const storing = <A, E>(
    { taskId }: TaskKey,
    part: TaskError.InvalidPayload["part"],
    value: unknown,
    change: Effect.Effect<A, E>
  ): Effect.Effect<A, E | PayloadError> =>
    Effect.suspend((): Effect.Effect<A, E | PayloadError> => {
      const error = payloadError(taskId, part, value, limits)
      return error === undefined ? change : Effect.fail(error)
    })

  /** A change that sets the status message, unless that is too long. */
  const saying = <A, E>(
    { taskId }: TaskKey,
    message: string | null | undefined,
    change: Effect.Effect<A, E>
  ): Effect.Effect<A, E | TaskError.PayloadTooLarge> =>
    Effect.suspend((): Effect.Effect<A, E | TaskError.PayloadTooLarge> => {
      if (message == null) return change
      if (typeof message !== "string") {
        return Effect.die(new TypeError(`A status message must be a string: it is of type ${typeof message}`))
      }
      return isLongerThan(message, maxStringBytes)
        ? Effect.fail(
            new TaskError.PayloadTooLarge({
              taskId,
              part: "statusMessage",
              limit: maxStringBytes,
              actual: byteLength(message)
            })
          )
        : change
    })

  const updateStatus = (key: TaskKey, status: Task.Status, statusMessage?: string) =>
    saying(
      key,
      statusMessage,
      Effect.andThen(
        checkStatus("updateStatus", Task.Status, status),
        update(key, (record) => transition(record, status, statusMessage))
      )
    )

  const warnOnce = (key: StorageKey.StorageKey, error: Backend) =>
    Effect.suspend(() => {
      if (warned.has(`${key}`)) return Effect.void
      if (warned.size === maxWarned) warned.clear()
      warned.add(`${key}`)
      return Effect.logWarning(`Left out of a list of tasks: ${error.reason.description}`)
    })

  const list = Effect.fnUntraced(function* ({ ownerId, ...page }: ListOptions) {
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
      } else if (task.success !== undefined) tasks.push(task.success)
    }
    return { tasks, unreadable, cursor }
  })

  const create = Effect.fnUntraced(function* ({ ownerId, requestMethod, ttl }: CreateOptions) {
    const owner = yield* ownerOf(ownerId)
    const asked = ttl === undefined ? undefined : wholeMillis("ttl", ttl)
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
        ttl: Number.isSafeInteger(lives) ? lives : null,
        pollInterval: pollMillis
      },
      ownerId: owner,
      variables: {},
      result: null,
      requestMethod,
      expiresAt: expires ? isoOf(ends) : null,
      placeUntil: expires ? placeUntil(maxTasksPerOwner, ends, lives) : null
    }
    const key = yield* Effect.fromResult(StorageKey.make({ owner, id }))
    const data = yield* encode(record)
    const expiresAt = expires ? DateTime.makeUnsafe(ends + graceMillis) : undefined
    // The id is new, so that a conflict would be a defect.
    const creation = Effect.catchTags(backend.putIfVersion(key, data, 0, { expiresAt }), {
      VersionConflict: Effect.die,
      RecordNotFound: Effect.die,
      InvalidData: Effect.die
    })
    yield* runApart(
      Effect.catchTag(places.withPlace(owner, record.placeUntil ?? null, creation), "VersionConflict", contended(id))
    )
    return record
  })

  const remove = Effect.fnUntraced(function* (taskKey: TaskKey) {
    const key = yield* locate(taskKey)
    let until: number | null | undefined
    const attempt = Effect.fnUntraced(function* (carried: VersionedRecord | undefined) {
      const stored = carried ?? (yield* read(key))
      const task = readTask(stored)
      if (Result.isSuccess(task) && task.success === undefined) {
        return yield* new TaskError.TaskNotFound({ taskId: key.id })
      }
      // Once sent, the removal is not interrupted, so that its place is certainly given back.
      return yield* backend.deleteIfVersion(key, stored).pipe(
        Effect.map(() => {
          until = Result.isSuccess(task) ? task.success?.placeUntil : undefined
          return Result.succeed(undefined)
        }),
        Effect.catchTags({
          VersionConflict: (conflict) => Effect.succeed(Result.fail(conflict)),
          RecordNotFound: () => Effect.fail(new TaskError.TaskNotFound({ taskId: key.id }))
        }),
        Effect.uninterruptible
      )
    })
    yield* retrying(key.id, attempt).pipe(
      Effect.onExit(() => (until === undefined ? Effect.void : places.giveBack(key.owner, until))),
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

  const deliverInputs = (key: TaskKey, responses: JsonObject) => {
    const deliver = Effect.fnUntraced(function* (record: Task.TaskRecord) {
      const resumed = yield* transition(record, "working", record.task.statusMessage)
      const { inputRequests, inputResponses, outstanding } = Task.inputSnapshot(record)
      const keys = Object.keys(responses)
      const accepted = keys.filter((key) => outstanding.includes(key))
      const ignored = keys.filter((key) => !outstanding.includes(key))
      const taken = Object.fromEntries(accepted.map((key) => [key, responses[key] ?? null]))
      const complete = Object.keys(inputRequests).length > 0 && outstanding.length === accepted.length
      const delivery: Task.InputDelivery = { accepted, ignored, complete }
      if (accepted.length === 0 && !complete) return yield* Effect.fail(new Unchanged(delivery))
      const all = union(inputResponses, taken)
      yield* storing(key, "inputResponses", taken, checkSize(key, "inputResponses", all, limits))
      return [delivery, { ...(complete ? resumed : record), inputResponses: all }] as const
    })
    return modify(key, deliver).pipe(
      Effect.map(([delivery]) => delivery),
      Effect.catchTag("Unchanged", ({ answer }) => Effect.succeed(answer))
    )
  }

  return TaskStore.of({
    create,
    get,
    updateStatus,
    setStatusMessage: (key, statusMessage) =>
      saying(
        key,
        statusMessage,
        update(key, (record) =>
          Task.isTerminal(record.task.status)
            ? Effect.fail(stays(record))
            : Effect.succeed({ ...record, task: { ...record.task, statusMessage } })
        )
      ),
    setVariables: (key, variables) =>
      update(key, (record) => Effect.map(merged(record, variables, limits), (variables) => ({ ...record, variables }))),
    setResult: (key, result) =>
      storing(
        key,
        "result",
        result,
        update(key, (record) =>
          Task.isTerminal(record.task.status) && record.result !== null
            ? Effect.fail(stays(record))
            : Effect.succeed({ ...record, result })
        )
      ),
    getResult: (key) =>
      Effect.flatMap(get(key), ({ result, task: { status, taskId } }) =>
        Task.isTerminal(status) ? Effect.succeed(result) : Effect.fail(new TaskError.TaskNotReady({ taskId, status }))
      ),
    completeWithResult: (key, { result, status, statusMessage }) => {
      const change = update(key, (record) =>
        Effect.map(transition(record, status, statusMessage), (next) => ({ ...next, result }))
      )
      const checked = Effect.andThen(checkStatus("completeWithResult", Task.TerminalStatus, status), change)
      return storing(key, "result", result, saying(key, statusMessage, checked))
    },
    setError: (key, error) =>
      storing(
        key,
        "error",
        error,
        update(key, (record) =>
          Task.isTerminal(record.task.status) && (record.error ?? null) !== null
            ? Effect.fail(stays(record))
            : Effect.succeed({ ...record, error })
        )
      ),
    getError: (key) => Effect.map(get(key), ({ error }) => Option.fromNullishOr(error)),
    recordInputRequests: (key, requests) =>
      storing(
        key,
        "inputRequests",
        requests,
        update(key, (record) =>
          Effect.flatMap(
            transition(record, "input_required", record.task.statusMessage),
            (next): Effect.Effect<Task.TaskRecord, TaskError.InputKeyReused | TaskError.PayloadTooLarge> => {
              const before = record.inputRequests ?? {}
              const reused = Object.keys(requests).find((key) => Object.hasOwn(before, key))
              if (reused !== undefined) {
                return Effect.fail(new TaskError.InputKeyReused({ taskId: record.task.taskId, key: reused }))
              }
              const inputRequests = union(before, requests)
              return Effect.as(checkSize(key, "inputRequests", inputRequests, limits), { ...next, inputRequests })
            }
          )
        )
      ),
    deliverInputs,
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

const wholeMillis = (name: string, duration: Duration.Input): number => Math.ceil(toMillis(name, duration))

/** How many unreadable records are remembered as logged. */
const maxWarned = 10_000

const encodeRecord = Schema.encodeEffect(Task.TaskRecord)

/** The JSON of a record. All that callers give was checked before, so a failure is a defect, and no error of reading. */
const encode = (record: Task.TaskRecord): Effect.Effect<string> =>
  Effect.map(Effect.orDie(encodeRecord(record)), (json) => JSON.stringify(json))

/** From JavaScript, a status may be anything. */
const checkStatus = (operation: string, allowed: typeof Task.Status | typeof Task.TerminalStatus, status: unknown) =>
  Schema.is(allowed)(status)
    ? Effect.void
    : Effect.die(
        new RangeError(`${operation} takes one of the statuses ${allowed.literals.join(", ")}: it was given ${status}`)
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

type JsonObject = Readonly<Record<string, Schema.Json>>

/** Both objects in one. Built of entries, so that `__proto__` is a key like any other. */
const union = (first: JsonObject, second: JsonObject): JsonObject =>
  Object.fromEntries([...Object.entries(first), ...Object.entries(second)])

interface Limits {
  readonly maxPayloadBytes: number
  readonly maxPayloadDepth: number
  readonly maxStringBytes: number
  readonly maxVariablesBytes: number
  readonly maxVariablesDepth: number
}

type Part = TaskError.InvalidPayload["part"]

/** Why a part of a task can't be stored. Inputs are by name, and the names are no depth. */
const payloadError = (
  taskId: string,
  part: Part,
  value: unknown,
  { maxPayloadBytes, maxPayloadDepth }: Limits
): PayloadError | undefined => {
  const isByName = part === "inputRequests" || part === "inputResponses"
  if (isByName && !Json.isPlainObject(value)) {
    return new TaskError.InvalidPayload({ taskId, part, path: [], problem: "NotJson" })
  }
  const found = Json.problemIn(value, { maxDepth: maxPayloadDepth + (isByName ? 1 : 0), maxBytes: maxPayloadBytes })
  if (found === undefined) return sizeError(taskId, part, value, maxPayloadBytes)
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
  limit: number
): TaskError.PayloadTooLarge | undefined => {
  const actual = Json.bytesOver(value, limit)
  return actual === undefined ? undefined : new TaskError.PayloadTooLarge({ taskId, part, limit, actual })
}

/** Inputs of several calls add up. */
const checkSize = (
  { taskId }: TaskKey,
  part: Part,
  value: JsonObject,
  { maxPayloadBytes }: Limits
): Effect.Effect<void, TaskError.PayloadTooLarge> =>
  Effect.suspend(() => {
    const error = sizeError(taskId, part, value, maxPayloadBytes)
    return error === undefined ? Effect.void : Effect.fail(error)
  })

/** A task's variables with others merged in, if that may be. */
const merged = (
  { task: { taskId }, variables }: Task.TaskRecord,
  more: JsonObject,
  { maxStringBytes, maxVariablesBytes: limit, maxVariablesDepth }: Limits
): Effect.Effect<JsonObject, TaskError.InvalidVariables | TaskError.VariablesTooLarge> => {
  if (!Json.isPlainObject(more)) {
    return Effect.fail(new TaskError.InvalidVariables({ taskId, path: [], problem: "NotJson" }))
  }
  // The names of variables are no depth.
  const found = Json.problemIn(more, { maxDepth: maxVariablesDepth + 1, maxBytes: limit, maxStringBytes })
  if (found !== undefined) {
    return Effect.fail(
      found.problem === "TooLarge"
        ? new TaskError.VariablesTooLarge({ taskId, limit, actual: found.actual })
        : new TaskError.InvalidVariables({ taskId, path: found.path, problem: found.problem })
    )
  }
  const isKept = ([name, value]: readonly [string, Schema.Json]) => !(value === null && Object.hasOwn(more, name))
  const all = Object.fromEntries(Object.entries(union(variables, more)).filter(isKept))
  const actual = Json.bytesOver(all, limit)
  return actual === undefined
    ? Effect.succeed(all)
    : Effect.fail(new TaskError.VariablesTooLarge({ taskId, limit, actual }))
}
