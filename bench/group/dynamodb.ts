/**
 * Records in DynamoDB, beside the bare client and other libraries. With a stub in place of the network, which answers
 * at once, the figures are the CPU time of the libraries themselves. DynamoDB Local shows their requests' time.
 */
import {
  BatchWriteItemCommand,
  DynamoDBClient,
  type DynamoDBClientConfig,
  PutItemCommand,
  QueryCommand
} from "@aws-sdk/client-dynamodb"
import { Context, Effect, Layer } from "effect"
import * as DynamoDb from "../../dist/engine/DynamoDb.js"
import * as DynamoDbLocal from "../../examples/DynamoDbLocal.ts"
import {
  bare,
  data,
  documentClient,
  electro,
  getThenPut,
  oneTable,
  owner,
  type Peer,
  tableName,
  toolbox
} from "../dynamodb/peers.ts"
import { StorageBackend, StorageKey, TaskStore } from "../library.ts"
import { type Contender, compare, inEffect, inProgram, inPromise, type Settings, type Step } from "../measure.ts"
import { comparePages, idOf, ownersOf } from "./pages.ts"

const group = "dynamodb"
const count = 100
const credentials = { accessKeyId: "local", secretAccessKey: "local" }

type Backend = StorageBackend.StorageBackend["Service"]

export const localConfig = (endpoint: string) => ({ endpoint, region: "us-east-1", credentials })

/** The library's engine, on a table that is made if it is missing. */
export const makeBackend = Effect.fnUntraced(function* (config: DynamoDBClientConfig, withTable: boolean) {
  const client = DynamoDb.layerClient(config)
  const table = withTable ? Layer.effectDiscard(DynamoDb.ensureTable({ tableName })) : Layer.empty
  const layer = DynamoDb.layer({ tableName }).pipe(Layer.provide(table), Layer.provide(client))
  return Context.get(yield* Layer.build(Layer.fresh(layer)), StorageBackend.StorageBackend)
})

const makeClient = (config: DynamoDBClientConfig) =>
  Effect.acquireRelease(
    Effect.sync(() => new DynamoDBClient(config)),
    (client) => Effect.sync(() => client.destroy())
  )

/** Answers at once: a read with the item, and a write with the attributes that it may return. */
const stubOf = (item: Peer["item"]): DynamoDBClientConfig => {
  const encode = (output: unknown) => Buffer.from(JSON.stringify(output))
  const ConsumedCapacity = { TableName: tableName, CapacityUnits: 1 }
  const read = encode({ Item: item, ConsumedCapacity })
  const written = encode({ Attributes: item, ConsumedCapacity })
  const headers = { "content-type": "application/x-amz-json-1.0" }
  const handle = async (request: { readonly headers: Record<string, string> }) => {
    const body = request.headers["x-amz-target"]?.endsWith("GetItem") ? read : written
    return { response: { statusCode: 200, headers, body } }
  }
  const requestHandler = { handle } as unknown as NonNullable<DynamoDBClientConfig["requestHandler"]>
  return { ...localConfig("http://127.0.0.1:1"), requestHandler }
}

const keyOf = (i: number) => StorageKey.makeUnsafe({ owner, id: idOf(i % count) })

/** The library, with the item that it stores. */
const ourItem = {
  PK: { S: `OWNER#${owner}` },
  SK: { S: "TASK#item" },
  version: { N: "1" },
  data: { S: data },
  write_id: { S: "0123456789012345678901.0" }
}

const makePeers = [bare, documentClient, electro, toolbox, oneTable]

const operationsOf = (setting: string, peers: readonly [Peer, ...ReadonlyArray<Peer>], backend: Backend) => {
  // The SDK is much code, which is optimized only after thousands of requests.
  const warmUp = setting === "DynamoDB Local" ? 1 : 6
  const contendersOf = (
    operation: (peer: Peer) => (i: number) => Promise<unknown>,
    ours: Contender
  ): [Contender, ...ReadonlyArray<Contender>] => [
    inPromise(peers[0].name, operation(peers[0])),
    ...peers.slice(1).map((peer) => inPromise(peer.name, operation(peer))),
    ours
  ]
  return [
    {
      operation: "get",
      setting,
      warmUp,
      contenders: contendersOf(
        (peer) => (i) => peer.get(idOf(i % count)),
        inEffect("DynamoDb", (i) => backend.get(keyOf(i)))
      )
    },
    {
      operation: "put",
      setting,
      warmUp,
      contenders: contendersOf(
        (peer) => (i) => peer.put(idOf(i % count)),
        inEffect("DynamoDb", (i) => backend.put(keyOf(i), data))
      )
    },
    {
      operation: "compare-and-set",
      setting,
      warmUp,
      contenders: contendersOf((peer) => swapsOf(peer), ourSwaps(backend))
    }
  ]
}

/** A chain of compare-and-sets on one record, each on the version that the one before wrote. */
const swapsOf = (peer: Peer) => {
  let version = 1
  return async () => {
    if (version === 1) await peer.put("swapped")
    await peer.swap("swapped", version++)
  }
}

const ourSwaps = (backend: Backend) => {
  const key = StorageKey.makeUnsafe({ owner, id: "swapped" })
  let record: StorageBackend.VersionedRecord | undefined
  return inProgram(
    "DynamoDb",
    Effect.fnUntraced(function* (times) {
      record ??= yield* backend.put(key, data)
      for (let i = 0; i < times; i++) record = yield* backend.putIfVersion(key, data, record)
    })
  )
}

const compareAll = Effect.fnUntraced(function* (
  settings: Settings,
  comparisons: ReadonlyArray<Parameters<typeof compare>[2]>
) {
  const figures = []
  for (const comparison of comparisons) figures.push(...(yield* compare(settings, group, comparison)))
  return figures
})

const compareOnStub = Effect.fnUntraced(function* (settings: Settings) {
  // The answers depend on the item's form, so each library has a client of its own.
  const peerOnStub = Effect.fnUntraced(function* (make: (client: DynamoDBClient) => Peer) {
    const { item } = make(yield* makeClient(stubOf({})))
    return make(yield* makeClient(stubOf(item)))
  })
  const peers = yield* Effect.forEach(makePeers, peerOnStub)
  const backend = yield* makeBackend(stubOf(ourItem), false)
  return yield* compareAll(
    settings,
    operationsOf("a stub that answers at once", peers as unknown as [Peer, ...Array<Peer>], backend)
  )
})

const compareOnLocal = Effect.fnUntraced(function* (settings: Settings, endpoint: string) {
  const client = yield* makeClient(localConfig(endpoint))
  const backend = yield* makeBackend(localConfig(endpoint), true)
  const peers = [bare, ...makePeers.slice(1), getThenPut].map((make) => make(client))
  for (const peer of peers) {
    for (let i = 0; i < count; i++) yield* Effect.promise(() => peer.put(idOf(i)))
  }
  for (let i = 0; i < count; i++) yield* backend.put(keyOf(i), data)
  return yield* compareAll(
    settings,
    operationsOf("DynamoDB Local", peers as unknown as [Peer, ...Array<Peer>], backend)
  )
})

/** The items of one partition, written in batches. */
const load = Effect.fnUntraced(function* (client: DynamoDBClient, partition: string, prefix: string, count: number) {
  const itemOf = (i: number) => ({
    PK: { S: partition },
    SK: { S: `${prefix}${idOf(i)}` },
    version: { N: "1" },
    data: { S: data.slice(0, 100) }
  })
  const batches = Array.from({ length: Math.ceil(count / 25) }, (_, batch) =>
    Array.from({ length: Math.min(25, count - batch * 25) }, (_, i) => itemOf(batch * 25 + i))
  )
  const write = (items: ReadonlyArray<ReturnType<typeof itemOf>>) =>
    client.send(
      new BatchWriteItemCommand({ RequestItems: { [tableName]: items.map((Item) => ({ PutRequest: { Item } })) } })
    )
  yield* Effect.forEach(batches, (items) => Effect.promise(() => write(items)), { concurrency: 8, discard: true })
})

/** A task's creation, beside the way of counting all tasks before each creation. */
const compareCreate = Effect.fnUntraced(function* (settings: Settings, endpoint: string) {
  const existing = 1000
  const client = yield* makeClient(localConfig(endpoint))
  const backend = yield* makeBackend(localConfig(endpoint), true)
  const layer = TaskStore.layerWith({ maxTasksPerOwner: 1_000_000 })
  const tasks = Context.get(
    yield* Layer.build(Layer.fresh(layer).pipe(Layer.provide(Layer.succeed(StorageBackend.StorageBackend, backend)))),
    TaskStore.TaskStore
  )
  const partition = "OWNER#lists"
  yield* load(client, partition, "TASK#", existing)
  yield* Effect.forEach(
    Array.from({ length: existing }),
    () => tasks.create({ ownerId: "creates", requestMethod: "tools/call" }),
    { concurrency: 8, discard: true }
  )
  const listAllThenPut = async (i: number) => {
    let start: Record<string, never> | undefined
    do {
      const page = await client.send(
        new QueryCommand({
          TableName: tableName,
          KeyConditionExpression: "PK = :pk",
          ExpressionAttributeValues: { ":pk": { S: partition } },
          ...(start === undefined ? {} : { ExclusiveStartKey: start })
        })
      )
      start = page.LastEvaluatedKey as typeof start
    } while (start !== undefined)
    await client.send(
      new PutItemCommand({
        TableName: tableName,
        Item: { PK: { S: partition }, SK: { S: `TASK#new/${i}` }, version: { N: "1" }, data: { S: data.slice(0, 500) } }
      })
    )
  }
  return yield* compare(settings, group, {
    operation: "create a task",
    setting: `DynamoDB Local, ${existing.toLocaleString("en")} tasks`,
    contenders: [
      inPromise("list all, then put", listAllThenPut),
      inEffect("TaskStore", () => tasks.create({ ownerId: "creates", requestMethod: "tools/call" }))
    ]
  })
})

const comparePagesOnLocal = Effect.fnUntraced(function* (settings: Settings, endpoint: string) {
  const client = yield* makeClient(localConfig(endpoint))
  const backend = yield* makeBackend(localConfig(endpoint), true)
  const owners = ownersOf(100, settings.quick ? 10_000 : 100_000)
  yield* load(client, `OWNER#${owners.few}`, "TASK#", owners.counts.few)
  yield* load(client, `OWNER#${owners.many}`, "TASK#", owners.counts.many)
  return yield* comparePages(settings, group, backend, owners)
})

export const stepsOf = (settings: Settings): ReadonlyArray<Step> => {
  const onLocal = Effect.gen(function* () {
    const endpoint = yield* DynamoDbLocal.start
    return [
      ...(yield* compareOnLocal(settings, endpoint)),
      ...(yield* compareCreate(settings, endpoint)),
      ...(yield* comparePagesOnLocal(settings, endpoint))
    ]
  })
  return [
    { label: "a stub", run: compareOnStub(settings) },
    { label: "DynamoDB Local", run: onLocal, missing: DynamoDbLocal.missing }
  ]
}
