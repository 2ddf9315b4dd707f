import { type AttributeValue, DynamoDBClient, GetItemCommand, PutItemCommand } from "@aws-sdk/client-dynamodb"
import { Effect, Layer, Schedule } from "effect"
import { inject } from "vitest"
import type { StoredRecord } from "../../src/Engine.ts"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { StorageKey } from "../../src/StorageKey.ts"
import { dynamoDbProxy } from "./dynamoDbProxy.ts"

export const endpoint = inject("dynamoDbEndpoint")

/** The settings of a client of the DynamoDB under test. DynamoDB Local accepts any credentials, but requires some. */
export const clientConfig = {
  endpoint: endpoint ?? "",
  region: process.env.AWS_REGION ?? "us-east-1",
  ...(process.env.AWS_ACCESS_KEY_ID === undefined
    ? { credentials: { accessKeyId: "local", secretAccessKey: "local" } }
    : {})
}

export const newTableName = () => `test-${crypto.randomUUID()}`

export const layerClient = DynamoDb.layerClient(clientConfig)

/** A backend on a table of its own, and its client. */
export const layerTable = (options: DynamoDb.Options) =>
  DynamoDb.layer(options).pipe(
    Layer.provideMerge(Layer.effectDiscard(DynamoDb.ensureTable(options))),
    Layer.provideMerge(layerClient)
  )

/** Stores an item in the table as another program would. */
export const putItem = (tableName: string, item: Record<string, AttributeValue>) =>
  Effect.flatMap(DynamoDb.Client, (client) =>
    Effect.promise(() => client.send(new PutItemCommand({ TableName: tableName, Item: item })))
  )

export const plant = (tableName: string) => (key: StorageKey, record: StoredRecord) =>
  putItem(tableName, {
    PK: { S: `OWNER#${key.owner}` },
    SK: { S: `TASK#${key.id}` },
    version: { N: String(record.version) },
    data: { S: record.data },
    ...(record.writeId === undefined ? {} : { write_id: { S: record.writeId } }),
    ...(record.expiresAtSeconds === undefined ? {} : { expires_at: { N: String(record.expiresAtSeconds) } })
  })

/** A client of the user's own, with the retries that the AWS SDK has by default. */
export const newClient = () => new DynamoDBClient(clientConfig)

/** A client of the table that loses the answers to some writes. */
export const lossy = (tableName: string) => (isLost: () => boolean) =>
  Effect.gen(function* () {
    const isWrite = (operation: string) => ["UpdateItem", "DeleteItem", "TransactWriteItems"].includes(operation)
    const proxy = yield* dynamoDbProxy(endpoint ?? "", (operation) =>
      isWrite(operation) && isLost() ? "lose" : "pass"
    )
    const layer = DynamoDb.layer({ tableName, retrySchedule: Schedule.recurs(20) }).pipe(
      Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint }))
    )
    return yield* Effect.provide(StorageBackend, yield* Layer.build(layer))
  })

/** The item as it stands in the table. */
export const getItem = (tableName: string, owner: string, id: string) =>
  Effect.flatMap(DynamoDb.Client, (client) =>
    Effect.promise(() =>
      client.send(
        new GetItemCommand({
          TableName: tableName,
          Key: { PK: { S: `OWNER#${owner}` }, SK: { S: `TASK#${id}` } },
          ConsistentRead: true
        })
      )
    )
  ).pipe(Effect.map(({ Item }) => Item))

/** A client of the user's own, and the commands that were sent through it. */
export const counting = (tableName: string) => {
  const client = newClient()
  const sent: Array<string> = []
  client.middlewareStack.add(
    (next, context) => (args) => {
      if (context.commandName !== "DescribeTimeToLiveCommand") sent.push(String(context.commandName))
      return next(args)
    },
    { step: "deserialize" }
  )
  const backend = DynamoDb.layer({ tableName }).pipe(
    Layer.provide(
      Layer.effect(
        DynamoDb.Client,
        Effect.acquireRelease(Effect.succeed(client), (client) => Effect.sync(() => client.destroy()))
      )
    )
  )
  return { backend, sent }
}
