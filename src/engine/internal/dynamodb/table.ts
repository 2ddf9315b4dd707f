/** Creates and checks a DynamoDB table. */
import {
  CreateTableCommand,
  DescribeTableCommand,
  DescribeTimeToLiveCommand,
  type DynamoDBClient,
  UpdateTimeToLiveCommand
} from "@aws-sdk/client-dynamodb"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import { defaultRetrySchedule } from "../../../StorageBackend.ts"
import type { Backend } from "../../../StorageError.ts"
import { isWorthRepeating, misconfigured } from "../failure.ts"
import { type Attributes, type Layout, layoutOf } from "./layout.ts"
import { makeSend, type Send, withoutSdkRetries } from "./send.ts"
import { keySchemaOf } from "./verify.ts"

/**
 * The table to create.
 *
 * @category models
 * @since 0.1.0
 */
export interface TableOptions {
  readonly tableName: string
  readonly attributes?: Attributes | undefined
}

/** The requests about a table. Each one is retried after a failure that passes by itself. */
const tableRequests = ({ attributes, tableName }: TableOptions, client: DynamoDBClient) => {
  const { names } = layoutOf({ tableName, attributes })
  const send = makeSend({ tableName, requestTimeout: "30 seconds", usesClock: true })
  const retried = <A>(request: Effect.Effect<A, Backend>) =>
    Effect.retry(request, { schedule: defaultRetrySchedule, while: isWorthRepeating })

  const create = retried(
    send(
      "CreateTable",
      (http) =>
        client.send(
          withoutSdkRetries(
            new CreateTableCommand({
              TableName: tableName,
              BillingMode: "PAY_PER_REQUEST",
              AttributeDefinitions: [
                { AttributeName: names["#pk"], AttributeType: "S" },
                { AttributeName: names["#sk"], AttributeType: "S" }
              ],
              KeySchema: [
                { AttributeName: names["#pk"], KeyType: "HASH" },
                { AttributeName: names["#sk"], KeyType: "RANGE" }
              ]
            })
          ),
          http
        ),
      (error) => (error.name === "ResourceInUseException" ? ("exists" as const) : undefined)
    )
  )

  const describe = retried(
    send(
      "DescribeTable",
      (http) => client.send(withoutSdkRetries(new DescribeTableCommand({ TableName: tableName })), http),
      (error) => (error.name === "ResourceNotFoundException" ? ("missing" as const) : undefined)
    )
  )

  const awaitActive = Effect.repeat(describe, {
    schedule: Schedule.spaced("500 millis"),
    until: (table) => table !== "missing" && table.Table?.TableStatus === "ACTIVE"
  })

  const timeToLive = retried(
    send("DescribeTimeToLive", (http) =>
      client.send(withoutSdkRetries(new DescribeTimeToLiveCommand({ TableName: tableName })), http)
    )
  )

  const enableTimeToLive = retried(
    send(
      "UpdateTimeToLive",
      (http) =>
        client.send(
          withoutSdkRetries(
            new UpdateTimeToLiveCommand({
              TableName: tableName,
              TimeToLiveSpecification: { AttributeName: names["#e"], Enabled: true }
            })
          ),
          http
        ),
      (error) => (error.message.includes("already enabled") ? ("enabled" as const) : undefined)
    )
  )

  return { names, create, describe, awaitActive, timeToLive, enableTimeToLive }
}

type TimeToLive = { readonly TimeToLiveStatus?: string | undefined; readonly AttributeName?: string | undefined }

const isOn = (timeToLive: TimeToLive | undefined): boolean =>
  timeToLive?.TimeToLiveStatus === "ENABLED" || timeToLive?.TimeToLiveStatus === "ENABLING"

export const createTable = Effect.fnUntraced(function* (
  client: DynamoDBClient,
  options: TableOptions
): Effect.fn.Return<void, Backend> {
  const table = tableRequests(options, client)
  if ((yield* table.create) === "exists") {
    return yield* misconfigured(
      `There is a table ${options.tableName} already: use DynamoDb.ensureTable`,
      "createTable"
    )
  }
  yield* table.awaitActive
  yield* table.enableTimeToLive
})

export const ensureTable = Effect.fnUntraced(function* (
  client: DynamoDBClient,
  options: TableOptions
): Effect.fn.Return<void, Backend> {
  const { tableName } = options
  const table = tableRequests(options, client)
  if ((yield* table.describe) === "missing") yield* table.create
  const described = yield* table.awaitActive
  if (described === "missing") return
  const keySchema = keySchemaOf(described)
  if (keySchema !== `${table.names["#pk"]} HASH S, ${table.names["#sk"]} RANGE S`) {
    return yield* misconfigured(
      `Table ${tableName} has another key schema: ${keySchema}. Name another table, or set the option attributes`,
      "ensureTable"
    )
  }
  const { TimeToLiveDescription: found } = yield* table.timeToLive
  if (!isOn(found)) {
    yield* table.enableTimeToLive
  } else if (found?.AttributeName !== table.names["#e"]) {
    const description =
      `Table ${tableName} has Time to Live on another attribute: ${found?.AttributeName}. Name another table, or set ` +
      "the option attributes.expiresAt"
    return yield* misconfigured(description, "ensureTable")
  }
})

/** Logs a warning if DynamoDB would never remove expired records. */
export const checkTimeToLive = (client: DynamoDBClient, { names, tableName }: Layout, send: Send) =>
  send("DescribeTimeToLive", (http) =>
    client.send(withoutSdkRetries(new DescribeTimeToLiveCommand({ TableName: tableName })), http)
  ).pipe(
    Effect.flatMap(({ TimeToLiveDescription: found }) =>
      isOn(found) && found?.AttributeName === names["#e"]
        ? Effect.void
        : Effect.logWarning(
            `Time to Live of table ${tableName} is not on for attribute ${names["#e"]}, so DynamoDB never removes ` +
              "expired records. Switch it on with DynamoDb.ensureTable or in the console"
          )
    ),
    Effect.catch((error) =>
      error.reason._tag === "Misconfigured"
        ? Effect.logWarning(error.reason.description)
        : Effect.logDebug("Time to Live could not be checked", error)
    )
  )
