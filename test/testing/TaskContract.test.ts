import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schedule, Stream } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { RecordNotFound } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Task from "../../src/task/Task.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import { PatienceMillis } from "../../src/testing/internal/support.ts"
import { layerClock } from "../../src/testing/StorageCases.ts"
import * as TaskContract from "../../src/testing/TaskContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"

type Backend = StorageBackend["Service"]
type Tasks = TaskStore.TaskStore["Service"]

/** Changes of what is below the store, of its options, and of its operations. */
interface Changes {
  readonly backend?: (backend: Backend) => Partial<Backend>
  readonly options?: (options: TaskStore.Options) => TaskStore.Options
  readonly tasks?: (tasks: Tasks, backend: Backend) => Partial<Tasks>
}

const changed =
  ({ backend: changeBackend, options: changeOptions, tasks: changeTasks }: Changes): typeof TaskStore.layerWith =>
  (options = {}) => {
    const layerBackend = Layer.effect(
      StorageBackend,
      StorageBackend.use((backend) => Effect.succeed({ ...backend, ...changeBackend?.(backend) }))
    )
    const layerStore = TaskStore.layerWith(changeOptions?.(options) ?? options).pipe(Layer.provide(layerBackend))
    return Layer.effect(
      TaskStore.TaskStore,
      Effect.gen(function* () {
        const tasks = yield* TaskStore.TaskStore
        return { ...tasks, ...changeTasks?.(tasks, yield* StorageBackend) }
      })
    ).pipe(Layer.provide(Layer.fresh(layerStore)))
  }

const storageKey = ({ ownerId, taskId }: TaskStore.TaskKey) => makeUnsafe({ owner: ownerId, id: taskId })

/** Frees one more place of an owner than was given up. */
const freePlace = (backend: Backend, ownerId: string) => {
  const ledger = storageKey({ ownerId, taskId: "!places" })
  return Effect.flatMap(backend.get(ledger), (record) => {
    const { places } = JSON.parse(record.data) as { readonly places: ReadonlyArray<readonly [number | null, number]> }
    const fewer = places.map(([until, count]) => [until, Math.max(0, count - 1)])
    return backend.putIfVersion(ledger, JSON.stringify({ places: fewer }), record, { expiresAt: record.expiresAt })
  })
}

/** The owners of the tasks that one of the broken stores has created. */
const owners = new Map<string, string>()

const unreadable = [
  "a status of a later version",
  "a time to live above 2^53",
  "a time that is not one",
  "a field missing",
  "a field of another type",
  "no owner",
  "data that is not JSON"
].map((name) => `a task with ${name} is left out of a list and counted, can't be read or changed, and can be removed`)

const transitions = Task.Status.literals.map((status) => `a task that is ${status} goes where it may, and nowhere else`)

/** Stores broken on purpose, and the cases that must catch each. */
const broken: Record<string, Changes & { readonly catches: ReadonlyArray<string> }> = {
  "a store that ignores its options": {
    options: () => ({}),
    catches: [
      "a time to live may be asked for, up to a limit, and none be had",
      "variables are limited in depth, in the length of strings and in size, and nothing is written over a limit",
      "results, errors and inputs are limited in depth and size, and nothing is written over a limit",
      "inputs of several calls add up to the limit of their size",
      "a status message is limited in length, wherever it is set",
      "a removed task is gone, and its place is free",
      "without a time of grace an expired task is gone at once, and a cleanup takes no other"
    ]
  },
  "tasks that live for two hours by default": {
    options: (options) => ({ defaultTtl: "2 hours", ...options }),
    catches: ["a new task works, and is read as it was created"]
  },
  "a backend whose hints never come": {
    backend: () => ({ hints: () => Stream.never }),
    catches: ["who waits for a task sees its end at once if the same backend makes it, whatever the schedule"]
  },
  "payloads of any depth by default": {
    options: (options) => ({ maxPayloadDepth: 1000, ...options }),
    catches: ["what is as deep as the limit, 100 by default, is stored and comes back"]
  },
  "a store for anybody": {
    options: (options) => ({ ...options, allowAnonymous: true }),
    catches: ["anonymous owners are refused, unless they are allowed"]
  },
  "a time of grace that does not end": {
    options: (options) => ({ ...options, grace: "365 days" }),
    catches: ["an expired task can be read for a time, but not changed; after that it is gone"]
  },
  "ids without the time": {
    tasks: (tasks, backend) => ({
      create: (options) =>
        Effect.gen(function* () {
          const record = yield* tasks.create(options)
          const taskId = crypto.randomUUID()
          const renamed = { ...record, task: { ...record.task, taskId } }
          yield* Effect.orDie(backend.put(storageKey({ ...record, taskId }), JSON.stringify(renamed)))
          return renamed
        })
    }),
    catches: ["ids sort by the millisecond of their creation, and can't be guessed"]
  },
  "a task that is looked for once more if another owner has it": {
    tasks: (tasks, backend) => ({
      create: (options) =>
        Effect.tap(tasks.create(options), ({ task }) => Effect.sync(() => owners.set(task.taskId, ""))),
      get: (key) =>
        Effect.tapError(tasks.get(key), () =>
          owners.has(key.taskId) ? Effect.ignore(backend.get(storageKey(key))) : Effect.void
        )
    }),
    catches: ["another owner's task can't be told from one that does not exist, in any operation"]
  },
  "an owner that is taken from the key": {
    backend: (backend) => ({
      get: (key) =>
        Effect.map(backend.get(key), (record) => ({
          ...record,
          data: record.data.replace(/"ownerId":"[^"]*"/, `"ownerId":"${key.owner}"`)
        }))
    }),
    catches: ["a stored task that says it is another owner's is not shown, changed or removed"]
  },
  "a request before the id is checked": {
    tasks: (tasks, backend) => {
      const request = Effect.ignore(backend.get(storageKey({ ownerId: "a", taskId: "a" })))
      return {
        create: (options) => Effect.andThen(request, tasks.create(options)),
        get: (key) => Effect.andThen(request, tasks.get(key))
      }
    },
    catches: [
      "an id that no task can have is that of none, and no request is made for it",
      "an id that no task can have is refused before any request",
      "a creation with a taken id costs three requests, and one more than a refused one if there is no place"
    ]
  },
  "a removal of whatever is there": {
    tasks: (tasks, backend) => ({
      remove: (key) => Effect.andThen(Effect.orDie(backend.delete(storageKey(key))), tasks.remove(key))
    }),
    catches: [
      "a record of another store is not a task: it is not found, not listed and not removed",
      "a removal that a change of the task overtakes removes the task as changed",
      "a creation or removal that is interrupted at any of its requests leaves a place for each task, and for no other"
    ]
  },
  "a list that hides what can't be read": {
    tasks: (tasks) => ({ list: (options) => Effect.map(tasks.list(options), (page) => ({ ...page, unreadable: [] })) }),
    catches: unreadable
  },
  "a list with the oldest first": {
    tasks: (tasks) => ({
      list: (options) => Effect.map(tasks.list(options), (page) => ({ ...page, tasks: page.tasks.toReversed() }))
    }),
    catches: ["a list is newest first, page by page, and holds one owner's tasks"]
  },
  "a removal that frees all places": {
    tasks: (tasks, backend) => ({
      remove: (key) =>
        Effect.ensuring(tasks.remove(key), Effect.ignore(backend.delete(storageKey({ ...key, taskId: "!places" }))))
    }),
    catches: [
      "a task that was damaged and then removed holds its place until it would have expired",
      "of two removals of one task at once one removes it, and its place is free once",
      "a place is free when its task expires, and one that never does holds it"
    ]
  },
  "a removal that does not look at the version": {
    backend: (backend) => ({
      deleteIfVersion: (key) =>
        Effect.flatMap(backend.delete(key), (isRemoved) =>
          isRemoved ? Effect.void : Effect.fail(new RecordNotFound({ key }))
        )
    }),
    catches: [
      "a damaged task is removed only as it was read: one that is repaired meanwhile is read again",
      "a removal takes the task that it has read, and no other record under its key, though of the same version"
    ]
  },
  "a leap second that is written back as the second before": {
    backend: (backend) => ({
      putIfVersion: (key, data, ...rest) => backend.putIfVersion(key, data.replace(":60Z", ":59Z"), ...rest)
    }),
    catches: ["a task whose times have a leap second is read, and written back as it was"]
  },
  "a move that is refused without an error": {
    tasks: (tasks) => ({
      updateStatus: (key, ...rest) =>
        Effect.catchTag(tasks.updateStatus(key, ...rest), "InvalidTransition", () => tasks.get(key))
    }),
    catches: transitions
  },
  "a status message that stays when the status changes": {
    tasks: (tasks) => ({
      updateStatus: (key, status, message) =>
        Effect.flatMap(tasks.get(key), ({ task }) =>
          tasks.updateStatus(key, status, message ?? task.statusMessage ?? undefined)
        )
    }),
    catches: ["a status message goes with the status, and may be set while the task goes on"]
  },
  "variables that are never taken away": {
    tasks: (tasks) => ({
      setVariables: (key, variables) =>
        tasks.setVariables(key, Object.fromEntries(Object.entries(variables).filter(([, value]) => value !== null)))
    }),
    catches: ["variables are merged, and null takes one away"]
  },
  "variables without `__proto__`": {
    tasks: (tasks) => ({
      setVariables: (key, variables) =>
        tasks.setVariables(key, Object.fromEntries(Object.entries(variables).filter(([name]) => name !== "__proto__")))
    }),
    catches: ["variables with any names are kept, `__proto__` among them"]
  },
  "variables that are left out where they are too large": {
    tasks: (tasks) => ({
      setVariables: (key, variables) =>
        Effect.catchTag(tasks.setVariables(key, variables), "CapacityExceeded", () => tasks.get(key))
    }),
    catches: ["variables that the backend can't hold are its CapacityExceeded, unchanged"]
  },
  "a result and an error that are refused without an error": {
    tasks: (tasks) => ({
      setResult: (key, result) =>
        Effect.catchTag(tasks.setResult(key, result), "InvalidTransition", () => tasks.get(key)),
      setError: (key, error) => Effect.catchTag(tasks.setError(key, error), "InvalidTransition", () => tasks.get(key))
    }),
    catches: [
      "a result is had once the task has ended, and is never replaced after that",
      "an error is stored as it is, and is never replaced after the end"
    ]
  },
  "a completion in two writes": {
    tasks: (tasks) => ({
      completeWithResult: (key, { result, status, statusMessage }) =>
        Effect.andThen(tasks.setResult(key, result), tasks.updateStatus(key, status, statusMessage))
    }),
    catches: ["completeWithResult makes status and result in one write, or neither"]
  },
  "a change without a compare-and-set": {
    backend: (backend) => ({
      putIfVersion: (key, data, _, options) => Effect.andThen(Effect.yieldNow, backend.put(key, data, options))
    }),
    catches: [
      "of 100 completions that race one wins, and the others are InvalidTransition",
      "two clients that answer at once complete a task once, and each answer is one of theirs",
      "200 creations at once by two processes, with a limit of 100, make exactly 100 tasks",
      "a conflict that goes on until the schedule is spent is ConcurrentModification"
    ]
  },
  "an input that is made JSON before it is checked": {
    tasks: (tasks) => ({
      setResult: (key, result) =>
        Effect.andThen(
          Effect.sync(() => JSON.stringify(result)),
          tasks.setResult(key, result)
        )
    }),
    catches: [
      "input that is nested 100,000 deep, is cyclic or repeats itself is refused with a typed error, whatever the limits are"
    ]
  },
  "a wrong status that is taken for none": {
    tasks: (tasks) => ({
      updateStatus: (key, ...rest) =>
        Effect.catchDefect(tasks.updateStatus(key, ...rest), () => Effect.orDie(tasks.get(key)))
    }),
    catches: ["from JavaScript too, completeWithResult takes terminal statuses only, and updateStatus takes statuses"]
  },
  "a wrong time to live that is taken for none": {
    tasks: (tasks) => ({
      create: (options) => Effect.catchDefect(tasks.create(options), () => tasks.create({ ...options, ttl: undefined }))
    }),
    catches: ["a time to live that is not one is a defect, and takes no place"]
  },
  "inputs that are asked for in two writes": {
    tasks: (tasks) => ({
      recordInputRequests: (key, requests) =>
        Effect.tap(tasks.recordInputRequests(key, requests), () => Effect.orDie(tasks.setStatusMessage(key, "asked")))
    }),
    catches: ["inputs are asked for and delivered, part by part, each in one write"]
  },
  "a key of an input that may be used again": {
    tasks: (tasks) => ({
      recordInputRequests: (key, requests) =>
        Effect.catchTag(tasks.recordInputRequests(key, requests), "InputKeyReused", () => tasks.get(key))
    }),
    catches: ["a task may ask again, and never under a key that it has used"]
  },
  "a place that is free though the outcome of its task is unknown": {
    tasks: (tasks, backend) => ({
      create: (options) =>
        Effect.tapError(tasks.create(options), () =>
          Effect.ignore(backend.delete(storageKey({ ...options, taskId: "!places" })))
        )
    }),
    catches: [
      "a creation that dies in the middle holds a place until its task would have expired, and one that fails holds none",
      "a refused creation costs one request, and nothing is written"
    ]
  },
  "a creation that counts the tasks": {
    tasks: (tasks) => ({
      create: (options) =>
        Effect.andThen(Effect.ignore(tasks.list({ ownerId: options.ownerId })), tasks.create(options))
    }),
    catches: ["a creation costs the same however many tasks the owner has, and so does the first page of a list"]
  },
  "a watcher that looks once": {
    tasks: (tasks) => ({ awaitTerminal: (key) => tasks.awaitTerminal(key, { schedule: Schedule.recurs(0) }) }),
    catches: ["awaitTerminal looks as often as its schedule says, until the task has ended"]
  },
  "changes that are seen twice": {
    tasks: (tasks) => ({
      changes: (...args) => Stream.flatMap(tasks.changes(...args), (record) => Stream.make(record, record))
    }),
    catches: ["changes gives each state that it sees once, and ends with the last one"]
  },
  "a watcher that takes an expired task for one that has ended": {
    tasks: (tasks) => ({
      awaitTerminal: (key, options) =>
        Effect.catchTag(tasks.awaitTerminal(key, options), "TaskExpired", () => tasks.get(key))
    }),
    catches: ["a task that expires before its end fails those who wait for it, and one that had ended does not"]
  },
  "a creation that leaves its variables out": {
    tasks: (tasks) => ({ create: ({ variables: _, ...options }) => tasks.create(options) }),
    catches: ["a task is created with its variables and poll interval in one write, or not at all"]
  },
  "a failure in two writes": {
    tasks: (tasks) => ({
      fail: (key, error, statusMessage) =>
        Effect.andThen(tasks.setError(key, error), tasks.updateStatus(key, "failed", statusMessage))
    }),
    catches: ["fail makes the status failed and stores the error in one write, or neither"]
  },
  "a creation that stores its request in a second write": {
    tasks: (tasks) => ({
      create: ({ request, ...options }) =>
        Effect.flatMap(tasks.create(options), (record) =>
          request === undefined
            ? Effect.succeed(record)
            : Effect.orDie(
                tasks.setVariables(
                  { ...options, taskId: record.task.taskId },
                  { tool_name: request.name, arguments: request.arguments ?? null }
                )
              )
        )
    }),
    catches: [
      "a task is created with the tool call that makes it in one write, in the variables where pmcp-tasks has it"
    ]
  },
  "a creation that replaces a task of the same id": {
    backend: (backend) => ({
      putIfVersion: (key, data, expected, options) =>
        expected === 0 && !key.id.startsWith("!")
          ? backend.put(key, data, options)
          : backend.putIfVersion(key, data, expected, options)
    }),
    catches: [
      "a task may have an id of the caller's own, and an id that is taken takes no place",
      "of 20 creations of one id at once by two processes one makes the task, and one place is taken",
      "a creation with a taken id costs three requests, and one more than a refused one if there is no place"
    ]
  },
  "a taken id that takes a place": {
    tasks: (tasks) => ({
      create: (options) =>
        Effect.tapErrorTag(tasks.create(options), "TaskAlreadyExists", () =>
          Effect.ignore(tasks.create({ ...options, id: undefined }))
        )
    }),
    catches: [
      "a task may have an id of the caller's own, and an id that is taken takes no place",
      "of 20 creations of one id at once by two processes one makes the task, and one place is taken"
    ]
  },
  "a list of all statuses": {
    tasks: (tasks) => ({ list: ({ status: _, ...options }) => tasks.list(options) }),
    catches: [
      "a list of one status or several has just their tasks, in bounded pages, and all that can't be read",
      "any sequence of operations by several owners agrees with the model"
    ]
  },
  "a list that leaves out what can't be read, since it has no status": {
    tasks: (tasks) => ({
      list: (options) =>
        Effect.map(tasks.list(options), (page) => (options.status === undefined ? page : { ...page, unreadable: [] }))
    }),
    catches: ["a list of one status or several has just their tasks, in bounded pages, and all that can't be read"]
  },
  "a store that counts tasks that have ended": {
    options: ({ countTerminal: _, ...options }) => options,
    catches: [
      "a task that has ended counts until it expires, unless the store does not count such tasks",
      "the end of a task frees its place once, also if it is ended again, changed or removed after that",
      "two processes that create, end and remove tasks at once have as many as the limit allows, and never more",
      "an end that is interrupted at any of its requests frees the task's place if the task has ended, and only then",
      "a task that ends costs two requests, and a third one if its place is freed",
      "any sequence of operations agrees with the model, if tasks that have ended do not count"
    ]
  },
  "a store that never counts tasks that have ended": {
    options: (options) => ({ ...options, countTerminal: false }),
    catches: [
      "a task that has ended counts until it expires, unless the store does not count such tasks",
      "a task that ends costs two requests, and a third one if its place is freed",
      "any sequence of operations by several owners agrees with the model"
    ]
  },
  "an end that frees a place before the task has ended": {
    tasks: (tasks, backend) => ({
      cancel: (key, ...rest) =>
        Effect.andThen(Effect.ignore(freePlace(backend, key.ownerId)), tasks.cancel(key, ...rest))
    }),
    catches: [
      "an end that dies in the middle holds the place until the task would have expired, and one that fails holds it on"
    ]
  },
  "a removal that frees a place though the task has given it up": {
    tasks: (tasks, backend) => ({
      remove: (key) => Effect.tap(tasks.remove(key), () => Effect.ignore(freePlace(backend, key.ownerId)))
    }),
    catches: [
      "the end of a task frees its place once, also if it is ended again, changed or removed after that",
      "two processes that create, end and remove tasks at once have as many as the limit allows, and never more",
      "any sequence of operations agrees with the model, if tasks that have ended do not count"
    ]
  },
  "a cancellation that leaves the message": {
    tasks: (tasks) => ({ cancel: (key) => tasks.cancel(key) }),
    catches: ["any sequence of operations by several owners agrees with the model"]
  }
}

/** Whether a case fails on a store: if changes share writes, or if each writes on its own. */
const catches = ({ run }: TaskContract.Case, patienceMillis?: number) => {
  const fails = (isGrouped: boolean) =>
    run.pipe(
      Effect.provideService(VersionedStore.GroupCommit, isGrouped),
      Effect.provideService(PatienceMillis, patienceMillis ?? 10_000),
      Effect.provide(Layer.fresh(Layer.provideMerge(InMemory.layer, layerClock))),
      Effect.matchCause({ onFailure: () => true, onSuccess: () => false })
    )
  return Effect.flatMap(fails(true), (hasFailed) => (hasFailed ? Effect.succeed(true) : fails(false)))
}

describe("TaskContract", () => {
  for (const [name, { catches: expected, ...changes }] of Object.entries(broken)) {
    it.effect(`catches ${name}`, () =>
      Effect.gen(function* () {
        const cases = TaskContract.cases({ layerWith: changed(changes) })
        const caught = yield* Effect.filter(
          cases.filter((taskCase) => expected.includes(taskCase.name)),
          (taskCase) => catches(taskCase, 200)
        )
        assert.sameMembers(
          caught.map((taskCase) => taskCase.name),
          [...expected]
        )
      })
    )
  }

  it.effect("passes a store that is changed in nothing", () =>
    Effect.gen(function* () {
      const caught = yield* Effect.filter(TaskContract.cases({ layerWith: changed({}) }), (taskCase) =>
        catches(taskCase)
      )
      assert.deepStrictEqual(
        caught.map((taskCase) => taskCase.name),
        []
      )
    })
  )

  it("has no case that catches nothing", () => {
    const rows = TaskContract.cases().map(({ name }) => ({
      name,
      caught: Object.entries(broken).flatMap(([store, { catches }]) => (catches.includes(name) ? [store] : []))
    }))
    console.log(rows.map(({ caught, name }) => `${name}\n  ${caught.length}: ${caught.join("; ")}`).join("\n"))
    assert.deepStrictEqual(
      rows.filter(({ caught }) => caught.length === 0),
      []
    )
  })
})
