/**
 * What `TaskStore` promises, as a test suite for a backend: the tasks on every backend here pass it, and so can those on
 * anyone's.
 *
 * Needs `vitest` and `@effect/vitest`. Time stands still until a case moves it by `TestClock`; sleeps are real.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as TaskContract from "effect-versioned-store/TaskContract"
 *
 * export const run = () => TaskContract.suite("InMemory", InMemory.layer)
 * ```
 */
import { assert, it, type Vitest } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../StorageBackend.ts"
import { type Backend, makeBackend } from "../StorageError.ts"
import { makeUnsafe, type StorageKey } from "../StorageKey.ts"
import * as Task from "../task/Task.ts"
import type * as TaskError from "../task/TaskError.ts"
import * as TaskStore from "../task/TaskStore.ts"
import { dies, failsWith, newOwner, toWholeSecond } from "./internal/support.ts"
import * as Model from "./internal/taskModel.ts"
import { layerClock } from "./StorageContract.ts"

/** How the suite is run. */
export interface Options {
  /** How properties are checked; `replay` takes what a failure printed. */
  readonly check?: Arbitrary.CheckOptions | undefined
  /** How long one case may take, in milliseconds; 60,000 by default. */
  readonly timeout?: number | undefined
}

/** One case of the suite. */
export interface Case {
  readonly name: string
  readonly run: Effect.Effect<void, unknown, StorageBackend>
}

/**
 * Runs the suite on a backend.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as TaskContract from "effect-versioned-store/TaskContract"
 *
 * export const run = () => TaskContract.suite("InMemory", InMemory.layer, { check: { runs: 1000 } })
 * ```
 */
export const suite = (name: string, layer: Layer.Layer<StorageBackend, unknown>, options?: Options): void =>
  suiteWith(name, layer, it, options)

/**
 * Runs the suite within another one, whose Layers the backend's may need.
 *
 * @example
 * ```ts
 * import { layer } from "@effect/vitest"
 * import { InMemory } from "effect-versioned-store"
 * import * as TaskContract from "effect-versioned-store/TaskContract"
 * import { Layer } from "effect"
 *
 * export const run = () =>
 *   layer(Layer.empty)("my engine", (it) => TaskContract.suiteWith("InMemory", InMemory.layer, it))
 * ```
 */
export const suiteWith = <RIn>(
  name: string,
  layer: Layer.Layer<StorageBackend, unknown, RIn>,
  testApi: Vitest.MethodsNonLive<RIn>,
  options: Options = {}
): void => {
  const { timeout = 60_000 } = options
  testApi.layer(Layer.provideMerge(layer, layerClock), { timeout })(`TaskContract (${name})`, (it) => {
    for (const { name, run } of cases(options)) it.effect(name, () => run, { timeout })
  })
}

type Tasks = TaskStore.TaskStore["Service"]

type TaskErrors =
  | TaskStore.ChangeError
  | TaskStore.PayloadError
  | TaskError.InputKeyReused
  | TaskError.InvalidTransition
  | TaskError.InvalidVariables
  | TaskError.TaskNotReady
  | TaskError.VariablesTooLarge

/** A store on the backend of the suite. Each is like another process: it shares nothing but the backend. */
const makeTasks = (options: TaskStore.Options = {}): Effect.Effect<Tasks, never, StorageBackend> =>
  Effect.provide(TaskStore.TaskStore, Layer.fresh(TaskStore.layerWith(options)))

/** The backend, with the operations that are asked of it counted, and some of them failing. */
const counted = Effect.fnUntraced(function* (
  failing: (operation: string, id: string) => Effect.Effect<void, Backend> = () => Effect.void
) {
  const backend = yield* StorageBackend
  const operations: Array<string> = []
  const count = (operation: string, id = "") =>
    Effect.suspend(() => {
      operations.push(operation)
      return failing(operation, id)
    })
  const watched = StorageBackend.of({
    get: (key) => Effect.andThen(count("get", key.id), backend.get(key)),
    put: (key, ...rest) => Effect.andThen(count("put", key.id), backend.put(key, ...rest)),
    putIfVersion: (key, ...rest) => Effect.andThen(count("putIfVersion", key.id), backend.putIfVersion(key, ...rest)),
    delete: (key) => Effect.andThen(count("delete", key.id), backend.delete(key)),
    deleteIfVersion: (key, expected) =>
      Effect.andThen(count("deleteIfVersion", key.id), backend.deleteIfVersion(key, expected)),
    listByPrefix: (...args) => Effect.andThen(count("listByPrefix"), backend.listByPrefix(...args)),
    cleanupExpired: backend.cleanupExpired
  })
  return { operations, watched }
})

const requestMethod = "tools/call"

const keyOf = ({ ownerId, task }: Task.TaskRecord): TaskStore.TaskKey => ({ ownerId, taskId: task.taskId })

/** Makes a task of a new owner. */
const newTask = Effect.fnUntraced(function* (tasks: Tasks, options: { readonly ttl?: number } = {}) {
  const record = yield* tasks.create({ ownerId: yield* newOwner, requestMethod, ...options })
  return { record, key: keyOf(record) }
})

/** Brings a task to a status. */
const bring = (tasks: Tasks, key: TaskStore.TaskKey, status: Task.Status) =>
  status === "working" ? Effect.void : tasks.updateStatus(key, status)

const statuses = Task.Status.literals

/** Records of tasks that can't be read, by what is wrong with them. */
const unreadable: ReadonlyArray<readonly [name: string, damage: (record: Task.TaskRecord) => string]> = [
  ["a status of a later version", (record) => withTask(record, { status: "paused" })],
  ["a time to live above 2^53", (record) => withTask(record, { ttl: 42 }).replace("42", "18446744073709551615")],
  ["a time that is not one", (record) => withTask(record, { createdAt: "2016-12-31T23:59:61Z" })],
  ["a field missing", (record) => JSON.stringify({ ...record, requestMethod: undefined })],
  ["a field of another type", (record) => JSON.stringify({ ...record, variables: [] })],
  ["no owner", (record) => JSON.stringify({ ...record, ownerId: undefined })],
  ["data that is not JSON", (record) => JSON.stringify(record).slice(0, -20)]
]

const withTask = (record: Task.TaskRecord, fields: Readonly<Record<string, unknown>>) =>
  JSON.stringify({ ...record, task: { ...record.task, ...fields } })

/** Input that only JavaScript lets pass. */
const fromJavaScript = (value: unknown) => value as Schema.Json & string

const nested = (depth: number): Schema.Json => {
  let value: Schema.Json = 1
  for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value }
  return value
}

const cyclic = (): Schema.Json => {
  const value: { [name: string]: unknown } = { a: 1 }
  value.b = [value]
  return fromJavaScript(value)
}

/** A value of few objects that is 2^50 values as JSON. */
const repeated = (): Schema.Json => {
  let value: Schema.Json = 1
  for (let i = 0; i < 50; i++) value = [value, value]
  return value
}

/**
 * The suite as plain Effects, for another test runner. Each needs `StorageContract.layerClock` below the backend.
 *
 * @example
 * ```ts
 * import * as TaskContract from "effect-versioned-store/TaskContract"
 *
 * export const names = TaskContract.cases().map((contractCase) => contractCase.name)
 * ```
 */
export const cases = ({ check }: Options = {}): ReadonlyArray<Case> => {
  const made: Array<Case> = []

  const example = (name: string, run: (tasks: Tasks) => Effect.Effect<unknown, unknown, StorageBackend>) => {
    made.push({ name, run: Effect.asVoid(Effect.flatMap(makeTasks(), run)) })
  }

  // --- creating and reading ---------------------------------------------------

  example(
    "a new task works, and is read as it was created",
    Effect.fnUntraced(function* (tasks) {
      const ownerId = yield* newOwner
      const now = yield* DateTime.now
      const record = yield* tasks.create({ ownerId, requestMethod })
      const { task } = record
      assert.strictEqual(task.status, "working")
      assert.strictEqual(task.createdAt, DateTime.formatIso(now))
      assert.strictEqual(task.lastUpdatedAt, task.createdAt)
      assert.strictEqual(task.ttl, 3_600_000)
      assert.strictEqual(task.pollInterval, 500)
      assert.isFalse("statusMessage" in task)
      assert.strictEqual(record.ownerId, ownerId)
      assert.strictEqual(record.requestMethod, requestMethod)
      assert.strictEqual(record.expiresAt, DateTime.formatIso(DateTime.add(now, { hours: 1 })))
      assert.deepStrictEqual(record.variables, {})
      assert.strictEqual(record.result, null)
      assert.deepStrictEqual(yield* tasks.get(keyOf(record)), record)
    })
  )

  example(
    "ids sort by the millisecond of their creation, and can't be guessed",
    Effect.fnUntraced(function* (tasks) {
      const ids: Array<string> = []
      for (let i = 0; i < 20; i++) {
        ids.push((yield* newTask(tasks)).key.taskId)
        yield* TestClock.adjust(1)
      }
      assert.deepStrictEqual(ids.toSorted(), ids)
      const randoms = ids.map((id) => id.slice(13).replaceAll("-", ""))
      assert.strictEqual(new Set(randoms).size, ids.length)
      for (const random of randoms) assert.match(random, /^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}$/)
    })
  )

  example(
    "a time to live may be asked for, up to a limit, and none be had",
    Effect.fnUntraced(function* (tasks) {
      const ownerId = yield* newOwner
      const now = yield* DateTime.now
      const short = yield* tasks.create({ ownerId, requestMethod, ttl: "30 seconds" })
      assert.strictEqual(short.task.ttl, 30_000)
      assert.strictEqual(short.expiresAt, DateTime.formatIso(DateTime.add(now, { seconds: 30 })))
      yield* tasks.create({ ownerId, requestMethod, ttl: "24 hours" })
      for (const ttl of ["86400001 millis", "Infinity"] as const) {
        const error = yield* failsWith(tasks.create({ ownerId, requestMethod, ttl }), "TtlTooLong")
        assert.strictEqual(error.limit, 86_400_000)
      }
      const forever = yield* makeTasks({ defaultTtl: "Infinity", maxTtl: "Infinity" })
      const record = yield* forever.create({ ownerId, requestMethod })
      assert.deepStrictEqual([record.task.ttl, record.expiresAt], [null, null])
      yield* TestClock.adjust("400 days")
      assert.deepStrictEqual(yield* forever.get(keyOf(record)), record)
    })
  )

  example(
    "another owner's task can't be told from one that does not exist, in any operation",
    Effect.fnUntraced(function* () {
      const { operations, watched } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, watched)
      const { key } = yield* newTask(tasks)
      const stranger = yield* newOwner
      const operationsOf: Record<string, (key: TaskStore.TaskKey) => Effect.Effect<unknown, TaskErrors>> = {
        get: tasks.get,
        getResult: tasks.getResult,
        getError: tasks.getError,
        inputSnapshot: tasks.inputSnapshot,
        awaitTerminal: (key) => tasks.awaitTerminal(key),
        changes: (key) => Stream.runDrain(tasks.changes(key)),
        updateStatus: (key) => tasks.updateStatus(key, "completed"),
        setStatusMessage: (key) => tasks.setStatusMessage(key, "theirs"),
        setVariables: (key) => tasks.setVariables(key, { a: 1 }),
        setResult: (key) => tasks.setResult(key, 1),
        completeWithResult: (key) => tasks.completeWithResult(key, { status: "failed", result: 1 }),
        setError: (key) => tasks.setError(key, { code: 1 }),
        recordInputRequests: (key) => tasks.recordInputRequests(key, { a: 1 }),
        deliverInputs: (key) => tasks.deliverInputs(key, { a: 1 }),
        cancel: (key) => tasks.cancel(key),
        remove: tasks.remove
      }
      const before = yield* tasks.get(key)
      for (const [name, operation] of Object.entries(operationsOf)) {
        const seen = []
        for (const taskId of [key.taskId, "0193fd2c8a1b-none"]) {
          operations.length = 0
          const error = yield* failsWith(operation({ ownerId: stranger, taskId }), "TaskNotFound")
          assert.strictEqual(error.taskId, taskId)
          seen.push({ ...error, taskId: "", message: error.message.replace(taskId, ""), requests: [...operations] })
        }
        assert.deepStrictEqual(seen[0], seen[1], name)
      }
      assert.deepStrictEqual(yield* tasks.get(key), before)
      assert.deepStrictEqual((yield* tasks.list({ ownerId: stranger })).tasks, [])
    })
  )

  example(
    "a stored task that says it is another owner's is not shown, changed or removed",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      const ownerId = yield* newOwner
      const stored = yield* backend.put(makeUnsafe({ owner: ownerId, id: key.taskId }), JSON.stringify(record))
      const stolen = { ownerId, taskId: key.taskId }
      yield* failsWith(tasks.get(stolen), "TaskNotFound")
      yield* failsWith(tasks.cancel(stolen), "TaskNotFound")
      yield* failsWith(tasks.remove(stolen), "TaskNotFound")
      assert.deepStrictEqual((yield* tasks.list({ ownerId })).tasks, [])
      assert.strictEqual((yield* backend.get(stored.key)).version, stored.version)
    })
  )

  example(
    "an id that no task can have is that of none, and no request is made for it",
    Effect.fnUntraced(function* () {
      const { operations, watched } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, watched)
      const { key } = yield* newTask(tasks)
      operations.length = 0
      for (const taskId of ["", "!places", "\ud800", "a\0", "a".repeat(513)]) {
        yield* failsWith(tasks.get({ ...key, taskId }), "TaskNotFound")
        yield* failsWith(tasks.cancel({ ...key, taskId }), "TaskNotFound")
      }
      for (const ownerId of ["\ud800", "a\0", "a".repeat(1025)]) {
        yield* failsWith(tasks.get({ ...key, ownerId }), "InvalidKey")
        yield* failsWith(tasks.create({ ownerId, requestMethod }), "InvalidKey")
      }
      assert.deepStrictEqual(operations, [])
    })
  )

  example(
    "anonymous owners are refused, unless they are allowed",
    Effect.fnUntraced(function* (tasks) {
      const key = { ownerId: "local", taskId: "a" }
      for (const ownerId of ["", "local"]) {
        yield* failsWith(tasks.create({ ownerId, requestMethod }), "AnonymousOwner")
        yield* failsWith(tasks.get({ ...key, ownerId }), "AnonymousOwner")
        yield* failsWith(tasks.cancel({ ...key, ownerId }), "AnonymousOwner")
        yield* failsWith(tasks.list({ ownerId }), "AnonymousOwner")
      }
      const open = yield* makeTasks({ allowAnonymous: true })
      const { task } = yield* open.create({ ownerId: "", requestMethod })
      assert.strictEqual((yield* open.get({ ownerId: "local", taskId: task.taskId })).ownerId, "local")
      yield* open.remove({ ownerId: "", taskId: task.taskId })
    })
  )

  example(
    "a record of another store is not a task: it is not found, not listed and not removed",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      for (const [taskId, data] of [
        ["order/42", '{"total":10}'],
        ["count", "1"],
        ["task", '{"task":"shopping"}']
      ] as const) {
        const stored = yield* backend.put(makeUnsafe({ owner: key.ownerId, id: taskId }), data)
        yield* failsWith(tasks.get({ ...key, taskId }), "TaskNotFound")
        yield* failsWith(tasks.cancel({ ...key, taskId }), "TaskNotFound")
        yield* failsWith(tasks.remove({ ...key, taskId }), "TaskNotFound")
        assert.strictEqual((yield* backend.get(stored.key)).version, stored.version)
      }
      const page = yield* tasks.list(key)
      assert.deepStrictEqual([page.tasks, page.unreadable], [[record], []])
    })
  )

  for (const [name, damage] of unreadable) {
    example(
      `a task with ${name} is left out of a list and counted, can't be read or changed, and can be removed`,
      Effect.fnUntraced(function* (tasks) {
        const backend = yield* StorageBackend
        const { key, record } = yield* newTask(tasks)
        const other = yield* tasks.create({ ownerId: key.ownerId, requestMethod })
        const taskId = "1-damaged"
        const damaged = { ...key, taskId }
        const at = makeUnsafe({ owner: key.ownerId, id: taskId })
        yield* backend.put(at, damage({ ...record, task: { ...record.task, taskId } }))
        const byId = (id: string) => (a: Task.TaskRecord) => a.task.taskId === id
        for (const limit of [1, 100]) {
          const [found, leftOut]: [Array<Task.TaskRecord>, Array<string>] = [[], []]
          let cursor: string | undefined
          do {
            const page = yield* tasks.list({ ...key, limit, cursor })
            found.push(...page.tasks)
            leftOut.push(...page.unreadable)
            cursor = page.cursor
          } while (cursor !== undefined)
          assert.strictEqual(found.length, 2)
          assert.isTrue(found.some(byId(key.taskId)) && found.some(byId(other.task.taskId)))
          assert.deepStrictEqual(leftOut, [taskId])
        }
        for (const operation of [tasks.get(damaged), tasks.cancel(damaged), tasks.setResult(damaged, 1)]) {
          const error = yield* failsWith(operation as Effect.Effect<unknown, TaskStore.ReadError>, "Backend")
          assert.strictEqual(error.reason._tag, "Corrupt")
          assert.strictEqual(error.outcome, "not-applied")
          assert.include(error.message, `${at}`)
          assert.include(error.message, "TaskStore.remove")
        }
        yield* tasks.remove(damaged)
        assert.deepStrictEqual((yield* tasks.list(key)).unreadable, [])
        yield* failsWith(tasks.get(damaged), "TaskNotFound")
        yield* failsWith(tasks.remove(damaged), "TaskNotFound")
      })
    )
  }

  example(
    "a task that was damaged and then removed holds its place until it would have expired",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1 })
      const backend = yield* StorageBackend
      const { key } = yield* newTask(tasks, { ttl: 10_000 })
      yield* backend.put(makeUnsafe({ owner: key.ownerId, id: key.taskId }), "half a rec")
      yield* tasks.remove(key)
      yield* failsWith(tasks.create({ ...key, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("10 seconds")
      yield* tasks.create({ ...key, requestMethod })
    })
  )

  example(
    "a damaged task is removed only as it was read: one that is repaired meanwhile is read again",
    Effect.fnUntraced(function* () {
      const backend = yield* StorageBackend
      let deletions = 0
      const repairing = StorageBackend.of({
        ...backend,
        deleteIfVersion: (key, expected) =>
          deletions++ > 0
            ? backend.deleteIfVersion(key, expected)
            : Effect.andThen(Effect.orDie(backend.put(key, '{"total":10}')), backend.deleteIfVersion(key, expected))
      })
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, repairing)
      const key = { ownerId: yield* newOwner, taskId: "damaged" }
      const at = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      yield* backend.put(at, "half a rec")
      yield* failsWith(tasks.remove(key), "TaskNotFound")
      assert.strictEqual(deletions, 1)
      assert.strictEqual((yield* backend.get(at)).data, '{"total":10}')
    })
  )

  example(
    "a task whose times have a leap second is read, and written back as it was",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      const at = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const leap = { createdAt: "2016-12-31T23:59:60Z", expiresAt: "2999-06-30T23:59:60.25+00:00" }
      const task = { ...record.task, createdAt: leap.createdAt }
      yield* backend.put(at, JSON.stringify({ ...record, task, expiresAt: leap.expiresAt }))
      const read = yield* tasks.get(key)
      assert.strictEqual(Task.expiresAt(read)?.epochMilliseconds, Date.parse("2999-07-01T00:00:00.250Z"))
      yield* tasks.setStatusMessage(key, "changed")
      const stored = JSON.parse((yield* backend.get(at)).data)
      assert.deepStrictEqual({ createdAt: stored.task.createdAt, expiresAt: stored.expiresAt }, leap)
      assert.strictEqual((yield* tasks.list(key)).tasks.length, 1)
    })
  )

  // --- status -----------------------------------------------------------------

  for (const from of statuses) {
    example(
      `a task that is ${from} goes where it may, and nowhere else`,
      Effect.fnUntraced(function* (tasks) {
        for (const to of statuses) {
          const { key } = yield* newTask(tasks)
          yield* bring(tasks, key, from)
          const before = yield* tasks.get(key)
          yield* TestClock.adjust(1)
          if (Task.canTransition(from, to)) {
            const after = yield* tasks.updateStatus(key, to, "said")
            assert.strictEqual(after.task.status, to)
            assert.strictEqual(after.task.statusMessage, "said")
            assert.isTrue(after.task.lastUpdatedAt > before.task.lastUpdatedAt)
            assert.deepStrictEqual(yield* tasks.get(key), after)
          } else {
            const error = yield* failsWith(tasks.updateStatus(key, to), "InvalidTransition")
            assert.deepStrictEqual([error.taskId, error.from, error.to], [key.taskId, from, to])
            assert.deepStrictEqual(yield* tasks.get(key), before)
          }
        }
      })
    )
  }

  example(
    "a status message goes with the status, and may be set while the task goes on",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      assert.strictEqual((yield* tasks.setStatusMessage(key, "half")).task.statusMessage, "half")
      assert.isFalse("statusMessage" in (yield* tasks.updateStatus(key, "input_required")).task)
      yield* tasks.cancel(key, "no more")
      assert.strictEqual((yield* tasks.get(key)).task.statusMessage, "no more")
      yield* failsWith(tasks.setStatusMessage(key, "late"), "InvalidTransition")
    })
  )

  // --- variables --------------------------------------------------------------

  example(
    "variables are merged, and null takes one away",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.setVariables(key, { a: 1, b: { c: [true, null, "x"] } })
      const record = yield* tasks.setVariables(key, { a: null, d: "e", none: null })
      assert.deepStrictEqual(record.variables, { b: { c: [true, null, "x"] }, d: "e" })
      assert.deepStrictEqual((yield* tasks.get(key)).variables, record.variables)
      assert.deepStrictEqual(Task.toWire(record)._meta, record.variables)
    })
  )

  example(
    "variables with any names are kept, `__proto__` among them",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const names = ["__proto__", "constructor", "toString", "", "é\u{1f600}"]
      const variables = Object.fromEntries(names.map((name) => [name, { "": name }] as const))
      yield* tasks.setVariables(key, variables)
      yield* tasks.setVariables(key, { more: 1 })
      const found = yield* tasks.get(key)
      assert.sameMembers(Object.keys(found.variables), [...names, "more"])
      yield* tasks.setVariables(key, Object.fromEntries(names.map((name) => [name, null] as const)))
      assert.deepStrictEqual((yield* tasks.get(key)).variables, { more: 1 })
    })
  )

  example(
    "variables are limited in depth, in the length of strings and in size, and nothing is written over a limit",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxVariablesDepth: 2, maxStringBytes: 10, maxVariablesBytes: 100 })
      const { key } = yield* newTask(tasks)
      const before = yield* tasks.setVariables(key, { kept: { a: { b: 1 } }, text: "é".repeat(5) })
      for (const [variables, path, problem] of [
        [{ fine: 1, deep: { a: [{ b: 1 }] } }, ["deep", "a", "0", "b"], "TooDeep"],
        [{ deep: [[[]]] }, ["deep", "0", "0"], undefined],
        [{ long: { text: `${"é".repeat(5)}a` } }, ["long", "text"], "StringTooLong"]
      ] as const) {
        if (problem === undefined) {
          yield* tasks.setVariables(key, variables)
          yield* tasks.setVariables(key, { deep: null })
          continue
        }
        const error = yield* failsWith(tasks.setVariables(key, variables), "InvalidVariables")
        assert.deepStrictEqual([error.path, error.problem], [path, problem])
      }
      const notJson: ReadonlyArray<Readonly<Record<string, Schema.Json>>> = [
        { a: Number.NaN },
        { a: [new Date(0) as unknown as Schema.Json] },
        { a: { b: undefined as unknown as Schema.Json } }
      ]
      for (const variables of notJson) {
        const error = yield* failsWith(tasks.setVariables(key, variables), "InvalidVariables")
        assert.strictEqual(error.problem, "NotJson")
      }
      const many = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`name ${i}`, i] as const))
      const large = yield* failsWith(tasks.setVariables(key, many), "VariablesTooLarge")
      assert.strictEqual(large.limit, 100)
      assert.strictEqual(large.actual, JSON.stringify({ ...before.variables, ...many }).length + 5)
      assert.deepStrictEqual((yield* tasks.get(key)).variables, before.variables)
    })
  )

  example(
    "variables that the backend can't hold are its CapacityExceeded, unchanged",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const strings = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [`v${i}`, "x".repeat(60_000)] as const))
      const error = yield* failsWith(tasks.setVariables(key, strings), "CapacityExceeded")
      assert.strictEqual(error.resource, "RecordBytes")
      assert.deepStrictEqual((yield* tasks.get(key)).variables, {})
    })
  )

  // --- results ----------------------------------------------------------------

  example(
    "a result is had once the task has ended, and is never replaced after that",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.setResult(key, { draft: 1 })
      const early = yield* failsWith(tasks.getResult(key), "TaskNotReady")
      assert.deepStrictEqual([early.taskId, early.status], [key.taskId, "working"])
      yield* tasks.setResult(key, { draft: 2 })
      yield* tasks.updateStatus(key, "completed")
      assert.deepStrictEqual(yield* tasks.getResult(key), { draft: 2 })
      yield* failsWith(tasks.setResult(key, { draft: 3 }), "InvalidTransition")
      assert.deepStrictEqual(yield* tasks.getResult(key), { draft: 2 })

      const bare = yield* newTask(tasks)
      yield* tasks.cancel(bare.key)
      assert.strictEqual(yield* tasks.getResult(bare.key), null)
      yield* tasks.setResult(bare.key, "late")
      assert.strictEqual(yield* tasks.getResult(bare.key), "late")
    })
  )

  example(
    "completeWithResult makes status and result in one write, or neither",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      for (const status of Task.TerminalStatus.literals) {
        const { key } = yield* newTask(tasks)
        const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
        const { version } = yield* backend.get(stored)
        const outcome = { status, result: { status }, statusMessage: "done" }
        const record = yield* tasks.completeWithResult(key, outcome)
        assert.deepStrictEqual([record.task.status, record.task.statusMessage], [status, "done"])
        assert.deepStrictEqual(yield* tasks.getResult(key), { status })
        assert.strictEqual((yield* backend.get(stored)).version, version + 1)
        yield* failsWith(tasks.completeWithResult(key, { ...outcome, result: "other" }), "InvalidTransition")
        assert.deepStrictEqual(yield* tasks.getResult(key), { status })
      }
    })
  )

  example(
    "of 100 completions that race one wins, and the others are InvalidTransition",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const results = yield* Effect.forEach(
        Array.from({ length: 100 }, (_, result) => result),
        (result) => Effect.result(tasks.completeWithResult(key, { status: "completed", result })),
        { concurrency: "unbounded" }
      )
      const won = results.flatMap((result) => (result._tag === "Success" ? [result.success.result] : []))
      const lost = results.flatMap((result) => (result._tag === "Failure" ? [result.failure._tag] : []))
      assert.strictEqual(won.length, 1)
      assert.deepStrictEqual(
        lost,
        Array.from({ length: 99 }, () => "InvalidTransition" as const)
      )
      assert.strictEqual(yield* tasks.getResult(key), won[0])
    })
  )

  example(
    "an error is stored as it is, and is never replaced after the end",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      assert.isTrue(Option.isNone(yield* tasks.getError(key)))
      yield* tasks.updateStatus(key, "failed", "broken")
      const error = { code: -32000, message: "broken", data: { why: [1] } }
      yield* tasks.setError(key, error)
      assert.deepStrictEqual(yield* tasks.getError(key), Option.some<Schema.Json>(error))
      yield* failsWith(tasks.setError(key, { code: 1 }), "InvalidTransition")
    })
  )

  // --- what may be stored -----------------------------------------------------

  /** Each way to store a part of a task, on a task that allows it. */
  const partsOf = (tasks: Tasks) => {
    const asked = Effect.tap(newTask(tasks), ({ key }) => tasks.recordInputRequests(key, { name: 1 }))
    type Store = (key: TaskStore.TaskKey, value: Schema.Json) => Effect.Effect<unknown, TaskErrors>
    return [
      ["result", newTask(tasks), tasks.setResult],
      ["result", newTask(tasks), (key, result) => tasks.completeWithResult(key, { status: "failed", result })],
      ["error", newTask(tasks), tasks.setError],
      ["inputRequests", newTask(tasks), (key, name) => tasks.recordInputRequests(key, { name })],
      ["inputResponses", asked, (key, name) => tasks.deliverInputs(key, { name })]
    ] as ReadonlyArray<readonly [TaskError.InvalidPayload["part"], typeof asked, Store]>
  }

  example(
    "results, errors and inputs are limited in depth and size, and nothing is written over a limit",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxPayloadDepth: 5, maxPayloadBytes: 100 })
      for (const [part, makeTask, store] of partsOf(tasks)) {
        const { key } = yield* makeTask
        const before = yield* tasks.get(key)
        const deep = yield* failsWith(store(key, nested(6)), "InvalidPayload")
        assert.deepStrictEqual([deep.taskId, deep.part, deep.problem], [key.taskId, part, "TooDeep"])
        assert.deepStrictEqual(
          deep.path.filter((name) => name !== "name"),
          ["a", "0", "a", "0", "a", "0"]
        )
        const large = yield* failsWith(store(key, "x".repeat(101)), "PayloadTooLarge")
        assert.deepStrictEqual([large.taskId, large.part, large.limit], [key.taskId, part, 100])
        assert.isAbove(large.actual, 100)
        yield* failsWith(store(key, ["é".repeat(49)]), "PayloadTooLarge")
        for (const value of [Number.NaN, undefined, new Date(0), 1n, () => 1, new Array(3)]) {
          // An answer that is undefined is stored as null, as one that is left out of an object is.
          if (value === undefined && part === "inputResponses") continue
          const notJson = yield* failsWith(store(key, fromJavaScript(value)), "InvalidPayload")
          assert.deepStrictEqual([notJson.part, notJson.problem], [part, "NotJson"])
        }
        assert.deepStrictEqual(yield* tasks.get(key), before)
        yield* store(key, nested(5))
      }
    })
  )

  example(
    "input that is nested 100,000 deep, is cyclic or repeats itself is refused with a typed error, whatever the limits are",
    Effect.fnUntraced(function* () {
      const none = Number.POSITIVE_INFINITY
      const unlimited = yield* makeTasks({ maxPayloadDepth: none, maxVariablesDepth: none, maxStringBytes: none })
      for (const tasks of [yield* makeTasks(), unlimited]) {
        for (const value of [nested(4400), nested(100_000), cyclic()]) {
          for (const [part, makeTask, store] of partsOf(tasks)) {
            const { key } = yield* makeTask
            const error = yield* failsWith(store(key, value), "InvalidPayload")
            assert.deepStrictEqual([error.part, error.problem], [part, "TooDeep"])
          }
          const { key } = yield* newTask(tasks)
          const error = yield* failsWith(tasks.setVariables(key, { value }), "InvalidVariables")
          assert.strictEqual(error.problem, "TooDeep")
        }
        for (const [, makeTask, store] of partsOf(tasks)) {
          yield* failsWith(store((yield* makeTask).key, repeated()), "PayloadTooLarge")
        }
      }
      const { key } = yield* newTask(unlimited)
      yield* failsWith(unlimited.setVariables(key, { value: repeated() }), "VariablesTooLarge")
    })
  )

  example(
    "what is as deep as the limit, 100 by default, is stored and comes back",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.setResult(key, nested(100))
      yield* failsWith(tasks.setResult(key, nested(101)), "InvalidPayload")
      yield* tasks.recordInputRequests(key, { name: nested(100) })
      yield* tasks.deliverInputs(key, { name: nested(100), other: nested(5000) })
      const record = yield* tasks.get(key)
      assert.deepStrictEqual(record.result, nested(100))
      assert.deepStrictEqual(record.inputResponses, { name: nested(100) })
    })
  )

  example(
    "inputs of several calls add up to the limit of their size",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxPayloadBytes: 100 })
      const { key } = yield* newTask(tasks)
      yield* tasks.recordInputRequests(key, { a: "x".repeat(60) })
      yield* tasks.deliverInputs(key, { a: "y".repeat(60) })
      const requests = yield* failsWith(tasks.recordInputRequests(key, { b: "x".repeat(60) }), "PayloadTooLarge")
      assert.deepStrictEqual([requests.part, requests.limit, requests.actual], ["inputRequests", 100, 135])
      yield* tasks.recordInputRequests(key, { b: 1 })
      const responses = yield* failsWith(tasks.deliverInputs(key, { b: "y".repeat(60) }), "PayloadTooLarge")
      assert.deepStrictEqual([responses.part, responses.limit, responses.actual], ["inputResponses", 100, 135])
      assert.deepStrictEqual((yield* tasks.inputSnapshot(key)).outstanding, ["b"])
    })
  )

  example(
    "a status message is limited in length, wherever it is set",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxStringBytes: 10 })
      const { key, record } = yield* newTask(tasks)
      const long = "é".repeat(6)
      for (const operation of [
        tasks.setStatusMessage(key, long),
        tasks.updateStatus(key, "failed", long),
        tasks.cancel(key, long),
        tasks.completeWithResult(key, { status: "completed", result: 1, statusMessage: long })
      ]) {
        const error = yield* failsWith(operation as Effect.Effect<unknown, TaskErrors>, "PayloadTooLarge")
        assert.deepStrictEqual(
          [error.taskId, error.part, error.limit, error.actual],
          [key.taskId, "statusMessage", 10, 12]
        )
      }
      yield* dies(tasks.setStatusMessage(key, fromJavaScript(1)), /status message must be a string/)
      assert.deepStrictEqual(yield* tasks.get(key), record)
      yield* tasks.setStatusMessage(key, "é".repeat(5))
    })
  )

  example(
    "from JavaScript too, completeWithResult takes terminal statuses only, and updateStatus takes statuses",
    Effect.fnUntraced(function* (tasks) {
      const { key, record } = yield* newTask(tasks)
      for (const status of ["working", "input_required", "paused", undefined]) {
        const outcome = { status: fromJavaScript(status) as "failed", result: 1 }
        yield* dies(tasks.completeWithResult(key, outcome), /completeWithResult takes .*completed, failed, cancelled/)
      }
      for (const status of ["paused", undefined, 1]) {
        const given = fromJavaScript(status) as "failed"
        yield* dies(tasks.updateStatus(key, given), /updateStatus takes .*working, input_required, completed/)
      }
      assert.deepStrictEqual(yield* tasks.get(key), record)
    })
  )

  example(
    "a time to live that is not one is a defect, and takes no place",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1, maxTtl: "Infinity" })
      const ownerId = yield* newOwner
      for (const ttl of [Number.NaN, -1, "soon", "-1 second", new Date(0), {}, null]) {
        yield* dies(
          tasks.create({ ownerId, requestMethod, ttl: fromJavaScript(ttl) as "1 second" }),
          /ttl must be a dura/
        )
      }
      const record = yield* tasks.create({ ownerId, requestMethod, ttl: 1e300 })
      assert.deepStrictEqual([record.task.ttl, record.expiresAt], [null, null])
      assert.deepStrictEqual(yield* tasks.get(keyOf(record)), record)
    })
  )

  // --- inputs -----------------------------------------------------------------

  example(
    "inputs are asked for and delivered, part by part, each in one write",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key } = yield* newTask(tasks)
      const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const version = Effect.map(backend.get(stored), (record) => record.version)
      const requests = { name: { method: "elicitation/create" }, age: { method: "elicitation/create" } }
      const asked = yield* tasks.recordInputRequests(key, requests)
      assert.strictEqual(asked.task.status, "input_required")
      assert.strictEqual(yield* version, 2)
      assert.deepStrictEqual(yield* tasks.inputSnapshot(key), {
        status: "input_required",
        inputRequests: requests,
        inputResponses: {},
        outstanding: ["name", "age"]
      })
      const part = yield* tasks.deliverInputs(key, { name: "Luca", other: 1 })
      assert.deepStrictEqual(part, { accepted: ["name"], ignored: ["other"], complete: false })
      assert.strictEqual((yield* tasks.get(key)).task.status, "input_required")
      assert.strictEqual(yield* version, 3)
      const again = yield* tasks.deliverInputs(key, { name: "Eve" })
      assert.deepStrictEqual(again, { accepted: [], ignored: ["name"], complete: false })
      assert.strictEqual(yield* version, 3)
      const rest = yield* tasks.deliverInputs(key, { name: "Eve", age: 42 })
      assert.deepStrictEqual(rest, { accepted: ["age"], ignored: ["name"], complete: true })
      assert.strictEqual(yield* version, 4)
      const record = yield* tasks.get(key)
      assert.strictEqual(record.task.status, "working")
      assert.deepStrictEqual(record.inputResponses, { name: "Luca", age: 42 })
      yield* failsWith(tasks.deliverInputs(key, { age: 43 }), "InvalidTransition")
    })
  )

  example(
    "a task may ask again, and never under a key that it has used",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.recordInputRequests(key, { first: 1 })
      yield* failsWith(tasks.recordInputRequests(key, { second: 1 }), "InvalidTransition")
      yield* tasks.deliverInputs(key, { first: null })
      const error = yield* failsWith(tasks.recordInputRequests(key, { second: 1, first: 2 }), "InputKeyReused")
      assert.strictEqual(error.key, "first")
      assert.strictEqual((yield* tasks.get(key)).task.status, "working")
      yield* tasks.recordInputRequests(key, { second: 1, ["__proto__"]: 2 })
      assert.deepStrictEqual((yield* tasks.inputSnapshot(key)).outstanding, ["second", "__proto__"])
      yield* tasks.cancel(key)
      yield* failsWith(tasks.deliverInputs(key, { second: 1 }), "InvalidTransition")
      yield* failsWith(tasks.recordInputRequests(key, { third: 1 }), "InvalidTransition")
    })
  )

  example(
    "two clients that answer at once complete a task once, and each answer is one of theirs",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      yield* tasks.recordInputRequests(key, { a: 1, b: 1, c: 1 })
      const deliveries = yield* Effect.forEach(
        Array.from({ length: 10 }, (_, i) => i),
        (i) => Effect.result(tasks.deliverInputs(key, { a: i, b: i, c: i })),
        { concurrency: "unbounded" }
      )
      const accepted = deliveries.flatMap((delivery) =>
        delivery._tag === "Success" && delivery.success.accepted.length > 0 ? [delivery.success] : []
      )
      assert.deepStrictEqual(accepted, [{ accepted: ["a", "b", "c"], ignored: [], complete: true }])
    })
  )

  // --- lists ------------------------------------------------------------------

  example(
    "a list is newest first, page by page, and holds one owner's tasks",
    Effect.fnUntraced(function* (tasks) {
      const [ownerId, other] = [yield* newOwner, yield* newOwner]
      const created: Array<string> = []
      for (let i = 0; i < 7; i++) {
        created.unshift((yield* tasks.create({ ownerId, requestMethod })).task.taskId)
        yield* TestClock.adjust(1)
        yield* tasks.create({ ownerId: other, requestMethod })
      }
      const listed: Array<string> = []
      let cursor: string | undefined
      do {
        const page = yield* tasks.list({ ownerId, limit: 3, cursor })
        assert.isAtMost(page.tasks.length, 3)
        listed.push(...page.tasks.map(({ task }) => task.taskId))
        cursor = page.cursor
      } while (cursor !== undefined)
      assert.deepStrictEqual(listed, created)
      const first = yield* tasks.list({ ownerId: other, limit: 3 })
      yield* failsWith(tasks.list({ ownerId, cursor: first.cursor ?? "" }), "InvalidCursor")
    })
  )

  example(
    "a removed task is gone, and its place is free",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxTasksPerOwner: 2 })
      const ownerId = yield* newOwner
      const first = yield* tasks.create({ ownerId, requestMethod })
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* tasks.remove(keyOf(first))
      yield* failsWith(tasks.get(keyOf(first)), "TaskNotFound")
      yield* failsWith(tasks.remove(keyOf(first)), "TaskNotFound")
      yield* tasks.create({ ownerId, requestMethod })
      const error = yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      assert.strictEqual(error.limit, 2)
    })
  )

  /** A store in whose removals another client does something between the read and the removal, the first time. */
  const overtakenBy = Effect.fnUntraced(function* (
    options: TaskStore.Options,
    meddle: (key: TaskStore.TaskKey) => Effect.Effect<unknown, unknown>
  ) {
    const backend = yield* StorageBackend
    let isFirst = true
    const meddled = ({ id, owner }: StorageKey) =>
      Effect.suspend(() => {
        if (!isFirst || id.startsWith("!")) return Effect.void
        isFirst = false
        return Effect.orDie(meddle({ ownerId: owner, taskId: id }))
      })
    const watched = StorageBackend.of({
      ...backend,
      delete: (key) => Effect.andThen(meddled(key), backend.delete(key)),
      deleteIfVersion: (key, expected) => Effect.andThen(meddled(key), backend.deleteIfVersion(key, expected))
    })
    return yield* Effect.provideService(makeTasks(options), StorageBackend, watched)
  })

  example(
    "of two removals of one task at once one removes it, and its place is free once",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 2 }
      const tasks = yield* makeTasks(options)
      const slow = yield* overtakenBy(options, tasks.remove)
      const ownerId = yield* newOwner
      const first = yield* tasks.create({ ownerId, requestMethod })
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(slow.remove(keyOf(first)), "TaskNotFound")
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
    })
  )

  example(
    "a removal takes the task that it has read, and no other record under its key, though of the same version",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const { key, record } = yield* newTask(tasks)
      const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const read = yield* backend.get(stored)
      const theirs = JSON.stringify({ ...record, ownerId: yield* newOwner })
      const slow = yield* overtakenBy({}, () =>
        Effect.andThen(backend.delete(stored), backend.putIfVersion(stored, theirs, 0))
      )
      yield* failsWith(slow.remove(key), "TaskNotFound")
      const left = yield* backend.get(stored)
      assert.deepStrictEqual([left.version, left.data], [read.version, theirs])
    })
  )

  example(
    "a removal that a change of the task overtakes removes the task as changed",
    Effect.fnUntraced(function* (tasks) {
      const slow = yield* overtakenBy({}, (key) => tasks.setStatusMessage(key, "changed"))
      const { key } = yield* newTask(tasks)
      yield* slow.remove(key)
      yield* failsWith(tasks.get(key), "TaskNotFound")
    })
  )

  // --- limits and costs -------------------------------------------------------

  example(
    "200 creations at once by two processes, with a limit of 100, make exactly 100 tasks",
    Effect.fnUntraced(function* (tasks) {
      const other = yield* makeTasks()
      const ownerId = yield* newOwner
      const results = yield* Effect.forEach(
        Array.from({ length: 200 }, (_, i) => (i % 2 === 0 ? tasks : other)),
        (tasks) => Effect.result(tasks.create({ ownerId, requestMethod })),
        { concurrency: "unbounded" }
      )
      const refused = results.flatMap((result) => (result._tag === "Failure" ? [result.failure._tag] : []))
      assert.deepStrictEqual(
        refused,
        Array.from({ length: 100 }, () => "TooManyTasks" as const)
      )
      assert.strictEqual((yield* tasks.list({ ownerId, limit: 1000 })).tasks.length, 100)
    })
  )

  example(
    "a place is free when its task expires, and one that never does holds it",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const tasks = yield* makeTasks({ maxTasksPerOwner: 2, maxTtl: "Infinity" })
      const ownerId = yield* newOwner
      yield* tasks.create({ ownerId, requestMethod, ttl: "Infinity" })
      const short = yield* tasks.create({ ownerId, requestMethod, ttl: "10 seconds" })
      yield* TestClock.adjust(9999)
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust(1)
      yield* tasks.create({ ownerId, requestMethod, ttl: "10 seconds" })
      yield* tasks.remove(keyOf(short))
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("1 day")
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
    })
  )

  example(
    "a creation that dies in the middle holds a place until its task would have expired, and one that fails holds none",
    Effect.fnUntraced(function* () {
      let outcome: "unknown" | "not-applied" = "unknown"
      const { watched } = yield* counted((operation, id) =>
        operation === "putIfVersion" && !id.startsWith("!")
          ? Effect.fail(makeBackend({ reason: "Unavailable", outcome, description: "told to" }))
          : Effect.void
      )
      const dying = yield* Effect.provideService(makeTasks({ maxTasksPerOwner: 1 }), StorageBackend, watched)
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1 })
      const ownerId = yield* newOwner
      yield* failsWith(dying.create({ ownerId, requestMethod, ttl: "1 minute" }), "Backend")
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("61 seconds")
      outcome = "not-applied"
      yield* failsWith(dying.create({ ownerId, requestMethod }), "Backend")
      yield* tasks.create({ ownerId, requestMethod })
    })
  )

  example(
    "a creation or removal that is interrupted at any of its requests leaves a place for each task, and for no other",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 1 }
      const backend = yield* StorageBackend
      const tasks = yield* makeTasks(options)

      /** Interrupts what is done with a store at one of its requests, before or after it. True if it took so many. */
      const interruptAt = Effect.fnUntraced(function* (
        step: number,
        isAfter: boolean,
        use: (tasks: Tasks) => Effect.Effect<unknown, unknown>
      ) {
        let requests = 0
        let fiber: Fiber.Fiber<unknown, unknown> | undefined
        const interrupt = Effect.andThen(
          Effect.sync(() => fiber?.interruptUnsafe()),
          Effect.yieldNow
        )
        const around = <A, E>(request: Effect.Effect<A, E>) =>
          Effect.suspend(() => {
            if (requests++ !== step) return request
            return isAfter
              ? Effect.flatMap(Effect.exit(request), (exit) => Effect.andThen(interrupt, exit))
              : Effect.andThen(interrupt, request)
          })
        const watched = StorageBackend.of({
          ...backend,
          get: (key) => around(backend.get(key)),
          putIfVersion: (...args) => around(backend.putIfVersion(...args)),
          deleteIfVersion: (...args) => around(backend.deleteIfVersion(...args))
        })
        const scope = yield* Scope.make()
        const layer = Layer.provide(TaskStore.layerWith(options), Layer.succeed(StorageBackend, watched))
        const interrupted = Context.get(yield* Layer.buildWithScope(Layer.fresh(layer), scope), TaskStore.TaskStore)
        fiber = yield* Effect.forkChild(Effect.andThen(Effect.yieldNow, use(interrupted)))
        yield* Fiber.await(fiber)
        // This waits for what the interrupted fiber has left to others.
        yield* Scope.close(scope, Exit.void)
        return requests > step
      })

      for (const isRemoval of [false, true]) {
        for (const isAfter of [false, true]) {
          for (let step = 0, goesOn = true; goesOn; step++) {
            assert.isBelow(step, 10)
            const { key } = yield* newTask(tasks)
            if (!isRemoval) yield* tasks.remove(key)
            goesOn = yield* interruptAt(step, isAfter, (tasks) =>
              isRemoval ? tasks.remove(key) : tasks.create({ ...key, requestMethod })
            )
            const isThere = (yield* tasks.list(key)).tasks.length > 0
            const next = yield* Effect.result(tasks.create({ ...key, requestMethod }))
            assert.strictEqual(
              next._tag === "Failure" ? next.failure._tag : "created",
              isThere ? "TooManyTasks" : "created",
              `${isRemoval ? "a removal" : "a creation"}, ${isAfter ? "after" : "before"} request ${step}`
            )
          }
        }
      }
    })
  )

  example(
    "a creation costs the same however many tasks the owner has, and so does the first page of a list",
    Effect.fnUntraced(function* () {
      const { operations, watched } = yield* counted()
      const newProcess = Effect.provideService(makeTasks({ maxTasksPerOwner: 1000 }), StorageBackend, watched)
      const tasks = yield* newProcess
      const ownerId = yield* newOwner
      const create = tasks.create({ ownerId, requestMethod })
      const costOf = <A, E>(effect: Effect.Effect<A, E>) =>
        Effect.andThen(
          Effect.sync(() => operations.splice(0)),
          Effect.map(effect, () => operations.splice(0))
        )
      assert.deepStrictEqual(yield* costOf(create), ["get", "putIfVersion", "putIfVersion"])
      for (const more of [0, 10, 300]) {
        yield* Effect.repeat(create, { times: more })
        assert.deepStrictEqual(yield* costOf(create), ["putIfVersion", "putIfVersion"])
        assert.deepStrictEqual(yield* costOf(tasks.list({ ownerId, limit: 10 })), ["listByPrefix"])
      }
      const cold = yield* newProcess
      assert.deepStrictEqual(yield* costOf(cold.create({ ownerId, requestMethod })), [
        "get",
        "putIfVersion",
        "putIfVersion"
      ])
    })
  )

  example(
    "a refused creation costs one request, and nothing is written",
    Effect.fnUntraced(function* () {
      const { operations, watched } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks({ maxTasksPerOwner: 1 }), StorageBackend, watched)
      const ownerId = yield* newOwner
      yield* tasks.create({ ownerId, requestMethod })
      operations.length = 0
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      assert.deepStrictEqual(operations, ["get"])
    })
  )

  example(
    "a conflict that goes on until the schedule is spent is ConcurrentModification",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const other = yield* StorageBackend
      const stored = makeUnsafe({ owner: key.ownerId, id: key.taskId })
      const meddling = StorageBackend.of({
        ...other,
        putIfVersion: (key, data, expected, options) =>
          Effect.flatMap(Effect.orDie(other.get(stored)), (record) =>
            Effect.andThen(
              Effect.orDie(other.put(stored, record.data)),
              other.putIfVersion(key, data, expected, options)
            )
          )
      })
      const contended = yield* Effect.provideService(
        makeTasks({ retrySchedule: Schedule.recurs(3) }),
        StorageBackend,
        meddling
      )
      const error = yield* failsWith(contended.cancel(key), "ConcurrentModification")
      assert.strictEqual(error.taskId, key.taskId)
      assert.strictEqual((yield* tasks.get(key)).task.status, "working")
    })
  )

  // --- expiry -----------------------------------------------------------------

  example(
    "an expired task can be read for a time, but not changed; after that it is gone",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const tasks = yield* makeTasks({ grace: "1 minute" })
      const { key, record } = yield* newTask(tasks, { ttl: 10_000 })
      yield* TestClock.adjust(9999)
      yield* tasks.setStatusMessage(key, "still")
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* tasks.get(key)).task.statusMessage, "still")
      assert.strictEqual((yield* tasks.list(key)).tasks.length, 1)
      for (const change of [
        tasks.cancel(key),
        tasks.setVariables(key, { a: 1 }),
        tasks.setResult(key, 1),
        tasks.deliverInputs(key, {})
      ]) {
        const error = yield* failsWith(change as Effect.Effect<unknown, TaskStore.ChangeError>, "TaskExpired")
        assert.strictEqual(DateTime.formatIso(error.expiredAt), record.expiresAt)
      }
      yield* TestClock.adjust(59_999)
      yield* tasks.get(key)
      yield* TestClock.adjust(1)
      yield* failsWith(tasks.get(key), "TaskNotFound")
      yield* failsWith(tasks.cancel(key), "TaskNotFound")
      assert.deepStrictEqual((yield* tasks.list(key)).tasks, [])
    })
  )

  example(
    "without a time of grace an expired task is gone at once, and a cleanup takes no other",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ grace: 0 })
      const { key } = yield* newTask(tasks, { ttl: 1000 })
      const live = yield* newTask(tasks)
      yield* TestClock.adjust("2 seconds")
      yield* failsWith(tasks.get(key), "TaskNotFound")
      assert.isAtLeast(yield* tasks.cleanupExpired, 0)
      yield* tasks.get(live.key)
    })
  )

  // --- watching ---------------------------------------------------------------

  example(
    "awaitTerminal looks as often as its schedule says, until the task has ended",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      const spent = tasks.awaitTerminal(key, { schedule: Schedule.recurs(3) })
      assert.strictEqual((yield* failsWith(spent, "TaskNotReady")).status, "working")
      const fiber = yield* Effect.forkChild(tasks.awaitTerminal(key, { schedule: Schedule.spaced("10 millis") }))
      yield* TestClock.withLive(Effect.sleep("30 millis"))
      assert.isUndefined(fiber.pollUnsafe())
      yield* tasks.completeWithResult(key, { status: "completed", result: 1 })
      assert.strictEqual((yield* Fiber.join(fiber)).result, 1)
      assert.strictEqual((yield* tasks.awaitTerminal(key)).result, 1)
    })
  )

  example(
    "changes gives each state that it sees once, and ends with the last one",
    Effect.fnUntraced(function* (tasks) {
      const { key } = yield* newTask(tasks)
      let looks = 0
      const schedule = Schedule.forever.pipe(
        Schedule.tap(() => {
          const change = [
            tasks.recordInputRequests(key, { name: 1 }),
            Effect.void,
            tasks.deliverInputs(key, { name: 2 }),
            tasks.completeWithResult(key, { status: "failed", result: 1 })
          ][looks++]
          return Effect.ignore(change ?? Effect.die("the changes did not end"))
        })
      )
      const seen = yield* Stream.runCollect(tasks.changes(key, { schedule }))
      assert.deepStrictEqual(
        seen.map(({ task }) => task.status),
        ["working", "input_required", "working", "failed"]
      )
      assert.strictEqual(looks, 4)
    })
  )

  example(
    "a task that expires before its end fails those who wait for it, and one that had ended does not",
    Effect.fnUntraced(function* (tasks) {
      const [open, ended] = [yield* newTask(tasks, { ttl: 1000 }), yield* newTask(tasks, { ttl: 1000 })]
      yield* tasks.cancel(ended.key)
      yield* TestClock.adjust(1000)
      yield* failsWith(tasks.awaitTerminal(open.key), "TaskExpired")
      yield* failsWith(Stream.runDrain(tasks.changes(open.key)), "TaskExpired")
      assert.strictEqual((yield* tasks.awaitTerminal(ended.key)).task.status, "cancelled")
    })
  )

  // --- properties -------------------------------------------------------------

  made.push({
    name: "any sequence of operations by several owners agrees with the model",
    run: Effect.flatMap(
      Effect.flatMap(makeTasks(Model.options), (tasks) =>
        Arbitrary.checkEffect(
          Model.commands,
          (commands) => Effect.as(Effect.catchCause(Model.agreesWithModel(tasks, commands), Effect.fail), true),
          { runs: 50, size: 100, ...check }
        )
      ),
      (result) => {
        const failure = Arbitrary.formatCheckFailure(result)
        return failure === undefined ? Effect.void : Effect.die(new Error(failure))
      }
    )
  })

  return made
}
