/** Verifies that a DynamoDB table exists and has the layout's keys, and that the credentials permit the operations. */
import {
  BatchGetItemCommand,
  DeleteItemCommand,
  DescribeTableCommand,
  type DescribeTableCommandOutput,
  type DynamoDBClient,
  GetItemCommand,
  QueryCommand,
  UpdateItemCommand
} from "@aws-sdk/client-dynamodb"
import * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { isWorthRepeating, misconfigured } from "../failure.ts"
import type { AwsError } from "./failure.ts"
import { keyOf, type Layout, namesIn, partitionOf } from "./layout.ts"
import { type Send, withoutSdkRetries } from "./send.ts"

/** The address that the requests name. If a record is there, they leave it alone. */
const probe = { owner: "effect-versioned-store", id: "verify" }

/** A condition that never holds. DynamoDB checks permissions and keys before it. */
const never = "attribute_exists(#pk) AND attribute_not_exists(#pk)"

/**
 * One request of each kind that the operations send. The reads find nothing, and the writes have a condition that never
 * holds. So a role needs no permission that it would not need anyway, as it would for `DescribeTable`.
 */
const requests = (client: DynamoDBClient, layout: Layout, send: Send) => {
  const table = { TableName: layout.tableName }
  const Key = keyOf(layout, probe)
  const condition = { ConditionExpression: never, ExpressionAttributeNames: namesIn(layout, never) }
  // If the partition and the sort key are exchanged, DynamoDB refuses this condition alone, as it does in a listing.
  const keyCondition = "#pk = :pk AND begins_with(#sk, :sk)"
  const query = {
    KeyConditionExpression: keyCondition,
    ExpressionAttributeNames: namesIn(layout, keyCondition),
    ExpressionAttributeValues: {
      ":pk": partitionOf(layout, probe.owner),
      ":sk": Key[layout.names["#sk"]] ?? { S: "" }
    },
    Limit: 1
  }
  const refused = (error: AwsError) =>
    error.name === "ConditionalCheckFailedException" ? ("refused" as const) : undefined
  return [
    send("GetItem", (http) => client.send(withoutSdkRetries(new GetItemCommand({ ...table, Key })), http)),
    send("BatchGetItem", (http) =>
      client.send(
        withoutSdkRetries(new BatchGetItemCommand({ RequestItems: { [layout.tableName]: { Keys: [Key] } } })),
        http
      )
    ),
    send("Query", (http) => client.send(withoutSdkRetries(new QueryCommand({ ...table, ...query })), http)),
    send(
      "UpdateItem",
      (http) => client.send(withoutSdkRetries(new UpdateItemCommand({ ...table, Key, ...condition })), http),
      refused
    ),
    send(
      "DeleteItem",
      (http) => client.send(withoutSdkRetries(new DeleteItemCommand({ ...table, Key, ...condition })), http),
      refused
    )
  ] as ReadonlyArray<Effect.Effect<unknown, Backend>>
}

/** The key schema of a table with the types of its attributes, for example "PK HASH S, SK RANGE S". */
export const keySchemaOf = ({ Table: table }: DescribeTableCommandOutput): string | undefined => {
  const typeOf = (name: string | undefined) =>
    table?.AttributeDefinitions?.find(({ AttributeName }) => AttributeName === name)?.AttributeType
  return table?.KeySchema?.map(
    ({ AttributeName, KeyType }) => `${AttributeName} ${KeyType} ${typeOf(AttributeName)}`
  ).join(", ")
}

/** Says what is wrong with the table itself, if the credentials permit `DescribeTable`. */
const problemOf = (client: DynamoDBClient, { names, tableName }: Layout, send: Send) =>
  send("DescribeTable", (http) =>
    client.send(withoutSdkRetries(new DescribeTableCommand({ TableName: tableName })), http)
  ).pipe(
    Effect.map((described) => {
      const [found, needed] = [keySchemaOf(described), `${names["#pk"]} HASH S, ${names["#sk"]} RANGE S`]
      const status = described.Table?.TableStatus
      if (status === "CREATING") return misconfigured(`Table ${tableName} is still being created: try again later`)
      if (found === undefined || found === needed) return undefined
      return misconfigured(
        `Table ${tableName} has the key schema ${found}, and the backend needs ${needed}: name another table, or set ` +
          "the names of its keys by the option attributes (DYNAMODB_PARTITION_KEY, DYNAMODB_SORT_KEY)"
      )
    }),
    Effect.orElseSucceed(() => undefined)
  )

/** What to do about a failure, if its description does not say so. */
const adviceFor = ({ _tag: reason, description }: Backend["reason"]): string => {
  if (reason === "Timeout" || reason === "Unavailable") {
    return ". Check the endpoint, the region, and the network in between"
  }
  if (!description.startsWith("The credentials do not permit")) return ""
  return (
    ". The backend needs dynamodb:GetItem, BatchGetItem, Query, UpdateItem and DeleteItem. If the role is confined " +
    "to some owners or to reads, switch verify off (DYNAMODB_VERIFY=false)"
  )
}

/** The failure of a request that changes nothing, as one of opening the backend. */
const asOpen = ({ reason: { _tag: reason, cause, description } }: Backend, newDescription = description): Backend =>
  makeBackend({ operation: "open", outcome: "not-applied", reason, description: newDescription, cause })

/**
 * Fails if the backend could not work on the table. A transient failure is retried, but not a request that had no
 * answer in its time. So this takes no longer than the time-out of a request if the server hangs.
 */
export const verify = (
  client: DynamoDBClient,
  layout: Layout,
  send: Send,
  retrySchedule: Schedule.Schedule<unknown, Backend>
): Effect.Effect<void, Backend> => {
  const all = requests(client, layout, send).map((request) =>
    request.pipe(
      // No request can change anything, so what failed was not applied, and may be sent again.
      Effect.mapError((error) => asOpen(error)),
      Effect.retry({ schedule: retrySchedule, while: isWorthRepeating })
    )
  )
  return Effect.all(all, { concurrency: "unbounded", discard: true }).pipe(
    Effect.catch((error) =>
      error.reason._tag === "Misconfigured"
        ? Effect.flatMap(problemOf(client, layout, send), (problem) => Effect.fail(problem ?? error))
        : Effect.fail(asOpen(error, error.reason.description + adviceFor(error.reason)))
    )
  )
}
