/** Creating tasks and reading them. */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import * as Task from "../../task/Task.ts"
import * as assert from "../internal/assert.ts"
import { dies, failsWith, newOwner } from "../internal/support.ts"
import { type Case, counted, example, keyOf, makeTasks, newTask, requestMethod } from "../internal/taskDrafts.ts"

export const creating: ReadonlyArray<Case> = [
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
  ),

  example(
    "a task is created with its variables and poll interval in one write, or not at all",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const ownerId = yield* newOwner
      const variables = { input: { path: "a.txt", lines: [1, 2] }, left: null }
      const record = yield* tasks.create({ ownerId, requestMethod, variables, pollInterval: "2 seconds" })
      assert.deepStrictEqual(record.variables, { input: variables.input })
      assert.strictEqual(record.task.pollInterval, 2000)
      assert.deepStrictEqual(yield* tasks.get(keyOf(record)), record)
      assert.strictEqual((yield* backend.get(makeUnsafe({ owner: ownerId, id: record.task.taskId }))).version, 1)
      const deep = JSON.parse(`${"[".repeat(12)}${"]".repeat(12)}`)
      yield* failsWith(tasks.create({ ownerId, requestMethod, variables: { deep } }), "InvalidVariables")
      const large = { a: "x".repeat(60_000), b: "x".repeat(60_000) }
      const small = yield* makeTasks({ maxVariablesBytes: 100_000 })
      yield* failsWith(small.create({ ownerId, requestMethod, variables: large }), "VariablesTooLarge")
      yield* dies(tasks.create({ ownerId, requestMethod, pollInterval: "Infinity" }), /pollInterval must be a finite/)
      assert.strictEqual((yield* tasks.list({ ownerId })).tasks.length, 1)
    })
  ),

  example(
    "a task is created with the tool call that makes it in one write, in the variables where pmcp-tasks has it",
    Effect.fnUntraced(function* (tasks) {
      const backend = yield* StorageBackend
      const ownerId = yield* newOwner
      const request = { name: "import", arguments: { path: "a.txt" }, _meta: { progressToken: 7 } }
      const variables = { mine: 1, tool_name: "another" }
      const record = yield* tasks.create({ ownerId, requestMethod, request, variables })
      const { _meta, arguments: toolArguments, name } = request
      assert.deepStrictEqual(record.variables, {
        mine: 1,
        tool_name: name,
        arguments: toolArguments,
        progress_token: _meta.progressToken
      })
      const read = yield* tasks.get(keyOf(record))
      assert.deepStrictEqual([read, Task.request(read)], [record, request])
      assert.strictEqual((yield* backend.get(makeUnsafe({ owner: ownerId, id: record.task.taskId }))).version, 1)
      const bare = yield* tasks.create({ ownerId, requestMethod, request: { name: "list" } })
      assert.deepStrictEqual([bare.variables, Task.request(bare)], [{ tool_name: "list" }, { name: "list" }])
      assert.isUndefined(Task.request(yield* tasks.create({ ownerId, requestMethod })))
      const deep = JSON.parse(`${"[".repeat(12)}${"]".repeat(12)}`)
      const tooDeep = tasks.create({ ownerId, requestMethod, request: { name: "import", arguments: { deep } } })
      assert.deepStrictEqual((yield* failsWith(tooDeep, "InvalidVariables")).path.slice(0, 2), ["arguments", "deep"])
      const noName = { method: "tools/call" } as unknown as Task.Request
      yield* dies(tasks.create({ ownerId, requestMethod, request: noName }), /the params of a tools\/call request/)
      assert.strictEqual((yield* tasks.list({ ownerId })).tasks.length, 3)
    })
  ),

  example(
    "a task may have an id of the caller's own, and an id that is taken takes no place",
    Effect.fnUntraced(function* () {
      const tasks = yield* makeTasks({ maxTasksPerOwner: 2, grace: "1 minute" })
      const backend = yield* StorageBackend
      const ownerId = yield* newOwner
      const id = "5f0c2b8e-7a54-4a0e-9c39-0d6f8f1b2a11"
      const create = (id: string) => tasks.create({ ownerId, requestMethod, id, ttl: "10 seconds" })
      const first = yield* create(id)
      assert.strictEqual(first.task.taskId, id)
      assert.deepStrictEqual(yield* tasks.get({ ownerId, taskId: id }), first)
      for (let i = 0; i < 3; i++) assert.strictEqual((yield* failsWith(create(id), "TaskAlreadyExists")).taskId, id)
      yield* backend.put(makeUnsafe({ owner: ownerId, id: "order/42" }), "{}")
      yield* failsWith(create("order/42"), "TaskAlreadyExists")
      yield* tasks.create({ ownerId: yield* newOwner, requestMethod, id })
      yield* create("b:\u{1f600}")
      // Without a free place too, the caller learns that the task is there.
      yield* failsWith(create(id), "TaskAlreadyExists")
      yield* failsWith(create("c"), "TooManyTasks")
      yield* tasks.remove(keyOf(first))
      yield* create(id)
      yield* failsWith(create("c"), "TooManyTasks")
      yield* TestClock.adjust("11 seconds")
      yield* failsWith(create(id), "TaskAlreadyExists")
      yield* TestClock.adjust("1 minute")
      yield* create(id)
    })
  ),

  example(
    "an id that no task can have is refused before any request",
    Effect.fnUntraced(function* () {
      const { backend, requests } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, backend)
      const ownerId = yield* newOwner
      for (const [id, problem] of [
        ["", "Empty"],
        ["!places", "Reserved"],
        ["\ud800", "LoneSurrogate"],
        ["a\0", "NullCharacter"],
        ["a".repeat(513), "TooLong"],
        [5 as unknown as string, "NotAString"]
      ] as const) {
        const error = yield* failsWith(tasks.create({ ownerId, requestMethod, id }), "InvalidKey")
        assert.deepStrictEqual([error.part, error.problem], ["id", problem])
      }
      assert.deepStrictEqual(requests, [])
    })
  ),

  example(
    "of 20 creations of one id at once by two processes one makes the task, and one place is taken",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 20 }
      const [tasks, other] = [yield* makeTasks(options), yield* makeTasks(options)]
      const ownerId = yield* newOwner
      const results = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? tasks : other)),
        (tasks) => Effect.result(tasks.create({ ownerId, requestMethod, id: "once" })),
        { concurrency: "unbounded" }
      )
      const refused = results.flatMap((result) => (result._tag === "Failure" ? [result.failure._tag] : []))
      assert.deepStrictEqual(
        refused,
        Array.from({ length: 19 }, () => "TaskAlreadyExists" as const)
      )
      yield* Effect.repeat(tasks.create({ ownerId, requestMethod }), { times: 18 })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
    })
  ),

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
  ),

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
]
