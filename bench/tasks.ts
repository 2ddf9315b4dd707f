/**
 * The cost of creating a task, and of the first page of a list, on DynamoDB Local, with a growing number of tasks of
 * one owner. The cost is the requests, the items that they read, and the capacity that they use.
 */
import { DynamoDBClient } from "@aws-sdk/client-dynamodb"
import { Console, Effect, Layer } from "effect"
import * as DynamoDbLocal from "../examples/DynamoDbLocal.ts"
import * as DynamoDb from "../src/engine/DynamoDb.ts"
import { TaskStore } from "../src/index.ts"

const ownerId = "alice"

const makeMeteredClient = (endpoint: string) => {
  const client = new DynamoDBClient({
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId: "local", secretAccessKey: "local" }
  })
  const cost = { requests: "", "items read": 0, capacity: 0 }
  client.middlewareStack.add(
    (next, { commandName = "" }) =>
      async (args) => {
        const result = await next(args)
        const { ConsumedCapacity, ScannedCount } = result.output as DynamoDbOutput
        cost.requests += ` ${commandName.replace("Command", "")}`
        cost["items read"] += ScannedCount ?? 1
        cost.capacity += ConsumedCapacity?.CapacityUnits ?? 0
        return result
      },
    { step: "initialize" }
  )
  const costOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      Object.assign(cost, { requests: "", "items read": 0, capacity: 0 })
      return Effect.map(effect, () => ({ ...cost, requests: cost.requests.trim() }))
    })
  return { client, costOf }
}

interface DynamoDbOutput {
  readonly ScannedCount?: number
  readonly ConsumedCapacity?: { readonly CapacityUnits?: number }
}

const program = Effect.gen(function* () {
  const { client, costOf } = makeMeteredClient(yield* DynamoDbLocal.start)
  const tableName = "tasks"
  const backend = DynamoDb.layer({ tableName }).pipe(
    Layer.provide(Layer.effectDiscard(DynamoDb.ensureTable({ tableName }))),
    Layer.provide(Layer.succeed(DynamoDb.Client, client))
  )
  const makeTasks = Effect.provide(
    TaskStore.TaskStore,
    Layer.fresh(TaskStore.layerWith({ maxTasksPerOwner: 1_000_000 }))
  )
  const create = (tasks: TaskStore.TaskStore["Service"]) => tasks.create({ ownerId, requestMethod: "tools/call" })

  yield* Effect.gen(function* () {
    const tasks = yield* makeTasks
    yield* tasks.create({ ownerId: "bob", requestMethod: "tools/call" })
    const costs: Record<string, unknown> = {}
    let existing = 0
    for (const count of [0, 100, 10_000]) {
      for (; existing < count; existing++) yield* create(tasks)
      costs[`${count} tasks: create, from a process that has not seen the owner`] = yield* costOf(
        create(yield* makeTasks)
      )
      yield* create(tasks)
      costs[`${count} tasks: create`] = yield* costOf(create(tasks))
      costs[`${count} tasks: the first 20 of a list`] = yield* costOf(tasks.list({ ownerId, limit: 20 }))
    }
    yield* Console.table(costs)
  }).pipe(Effect.provide(backend))
})

Effect.runPromise(Effect.scoped(program))
