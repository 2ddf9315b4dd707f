import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as DynamoDbSupport from "../support/dynamoDb.ts"
import { newKeyPrefix, url } from "../support/redis.ts"
import { redisProxy } from "../support/redisProxy.ts"
import { newFiles } from "../support/sqlite.ts"

type Tasks = TaskStore.TaskStore["Service"]

/** The requests since this was last called, as the engine's client sends them. */
type Taken = () => ReadonlyArray<string>

/** How often each operation asks the engine, in a process that has seen the owner's places. */
const expected = {
  "create with an id, a request, variables and a poll interval": 2,
  "create with a taken id": 3,
  "create with a taken id, no place being free": 2,
  "create, refused": 1,
  "fail, if ended tasks count": 2,
  completeWithResult: 3,
  fail: 3,
  cancel: 3,
  "updateStatus to a terminal status": 3,
  "updateStatus to another status": 2,
  "cancel in a process that has not seen the owner": 4,
  "remove of an ended task": 2,
  "list of two statuses": 1
}

/** Runs each operation, and counts what it sends. */
const count = Effect.fnUntraced(function* (taken: Taken) {
  const ownerId = crypto.randomUUID()
  const open = (options: TaskStore.Options) => Layer.fresh(TaskStore.layerWith({ maxTasksPerOwner: 3, ...options }))
  const newStore = (options: TaskStore.Options = {}) => Effect.provide(TaskStore.TaskStore, open(options))
  const [tasks, counting] = [yield* newStore({ countTerminal: false }), yield* newStore()]
  const create = (tasks: Tasks, id?: string) =>
    tasks.create({
      ownerId,
      id,
      requestMethod: "tools/call",
      request: { name: "import", arguments: { path: "a.txt" } },
      variables: { mine: 1 },
      pollInterval: "2 seconds"
    })
  const newKey = (tasks: Tasks) => Effect.map(create(tasks), ({ task: { taskId } }) => ({ ownerId, taskId }))
  const counted: Record<string, number> = {}
  const measure = Effect.fnUntraced(function* (name: keyof typeof expected, run: Effect.Effect<unknown, unknown>) {
    taken()
    yield* run
    const requests = taken()
    counted[name] = requests.length
    console.log(`  ${name}: ${requests.length} (${requests.join(", ")})`)
  })

  // The first requests of a client, for example those that load scripts, do not count.
  yield* counting.remove(yield* newKey(counting))
  yield* tasks.list({ ownerId })
  yield* tasks.cancel(yield* newKey(tasks))
  yield* measure("create with an id, a request, variables and a poll interval", create(tasks, "a"))
  yield* measure("create with a taken id", Effect.flip(create(tasks, "a")))
  const key = yield* newKey(tasks)
  yield* measure("updateStatus to another status", tasks.updateStatus(key, "input_required"))
  yield* measure("list of two statuses", tasks.list({ ownerId, status: ["working", "input_required"] }))
  yield* create(tasks)
  yield* measure("create with a taken id, no place being free", Effect.flip(create(tasks, "a")))
  yield* measure("create, refused", Effect.flip(create(tasks)))
  yield* measure("cancel", tasks.cancel(key))
  yield* measure("remove of an ended task", tasks.remove(key))
  const ended = yield* newKey(tasks)
  yield* measure("completeWithResult", tasks.completeWithResult(ended, { status: "completed", result: 1 }))
  const failed = yield* newKey(tasks)
  yield* measure("fail", tasks.fail(failed, { code: 1 }))
  const moved = yield* newKey(tasks)
  yield* measure("updateStatus to a terminal status", tasks.updateStatus(moved, "completed"))
  const unseen = yield* newKey(tasks)
  const cold = yield* newStore({ countTerminal: false })
  yield* measure("cancel in a process that has not seen the owner", cold.cancel(unseen))
  const last = yield* newKey(tasks)
  yield* measure("fail, if ended tasks count", counting.fail(last, { code: 1 }))
  return counted
})

const assertCounts = (name: string, taken: Taken) =>
  Effect.suspend(() => {
    console.log(`Requests on ${name}`)
    return Effect.map(count(taken), (counted) => assert.deepStrictEqual(counted, expected))
  })

/** Counts the operations of an engine in this process. */
const operations = (name: string) =>
  Effect.flatMap(StorageBackend, (backend) => {
    const faults = Faults.backend(backend)
    return Effect.provideService(assertCounts(name, faults.taken), StorageBackend, faults.backend)
  })

describe("the requests of tasks", () => {
  it.live("are as few as documented on InMemory", () => Effect.provide(operations("InMemory"), InMemory.layer))

  it.live("are as few as documented on Sqlite", () =>
    Effect.provide(operations("Sqlite"), Sqlite.layer({ filename: newFiles()() }))
  )

  it.live.skipIf(DynamoDbSupport.endpoint === undefined)("are as few as documented on DynamoDb", () => {
    const tableName = DynamoDbSupport.newTableName()
    const { backend, sent } = DynamoDbSupport.counting(tableName)
    return assertCounts("DynamoDb", () => sent.splice(0)).pipe(
      Effect.provide(backend),
      Effect.provide(DynamoDbSupport.layerTable({ tableName }))
    )
  })

  it.live.skipIf(url === undefined)("are as few as documented on Redis", () =>
    Effect.gen(function* () {
      const proxy = yield* redisProxy(url ?? "", () => "pass")
      const layer = Layer.provide(Redis.layer({ keyPrefix: newKeyPrefix() }), RedisClient.layer({ url: proxy.url }))
      const taken = () => proxy.commands.splice(0).map(([name = ""]) => name)
      yield* Effect.provide(assertCounts("Redis", taken), layer)
    }).pipe(Effect.scoped)
  )
})
