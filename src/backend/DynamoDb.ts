/**
 * Records in an Amazon DynamoDB table: for state that many machines and functions share.
 *
 * A get, put, create, compare-and-set and delete are one request each, won or lost; a page is one as long as no record
 * in it has expired and it fits DynamoDB's 1 MB. The layout of the table is that of the Rust crate pmcp-tasks, which
 * can share it. DynamoDB's own Time to Live collects what has expired; whether a record has is decided by the condition
 * of each request.
 *
 * The client's own retries are switched off for each request: sent again blindly, a write whose response was lost comes
 * back as a conflict with itself, or undoes what somebody else wrote since.
 */
import {
  type AttributeValue,
  CreateTableCommand,
  DeleteItemCommand,
  DescribeTableCommand,
  DescribeTimeToLiveCommand,
  DynamoDBClient,
  type DynamoDBClientConfig,
  GetItemCommand,
  QueryCommand,
  UpdateItemCommand,
  UpdateTimeToLiveCommand
} from "@aws-sdk/client-dynamodb"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { backoff } from "../internal/backoff.ts"
import { byteLength } from "../internal/utf8.ts"
import * as StorageBackend from "../StorageBackend.ts"
import { type Backend, backend as backendError } from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"
import { type AwsError, once, sender, system } from "./internal/dynamoDbRequest.ts"
import { checkBoolean, checkName, checkSchedule, checkString } from "./internal/options.ts"

/**
 * The AWS client that the backend sends its requests with. One that is provided is left alone when the scope closes.
 *
 * @example
 * ```ts
 * import { DynamoDBClient } from "@aws-sdk/client-dynamodb"
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 * import { Layer } from "effect"
 *
 * export const Storage = DynamoDb.layer({ tableName: "records" }).pipe(
 *   Layer.provide(Layer.sync(DynamoDb.Client)(() => new DynamoDBClient({ region: "eu-central-1" })))
 * )
 * ```
 */
export class Client extends Context.Service<Client, DynamoDBClient>()("effect-versioned-store/DynamoDb/Client") {}

/** The names of the table's attributes. */
export interface Attributes {
  /** The partition key, a string; `PK` by default. */
  readonly partitionKey?: string | undefined
  /** The sort key, a string; `SK` by default. */
  readonly sortKey?: string | undefined
  /** The version, a number; `version` by default. */
  readonly version?: string | undefined
  /** The record's data, a string; `data` by default. */
  readonly data?: string | undefined
  /** The epoch second from which on the record is absent, a number, absent: never; `expires_at` by default. */
  readonly expiresAt?: string | undefined
  /** The id of the write that made this version, a string; `write_id` by default. */
  readonly writeId?: string | undefined
}

/** Where the records are and how they are asked for. */
export interface Options {
  readonly tableName: string
  readonly attributes?: Attributes | undefined
  /** What stands before the owner in the partition key; `OWNER#` by default. */
  readonly ownerPrefix?: string | undefined
  /** What stands before the id in the sort key; `TASK#` by default. */
  readonly idPrefix?: string | undefined
  /** Whether `get` and `listByPrefix` read consistently, which costs twice as much as eventually; true by default. */
  readonly consistentRead?: boolean | undefined
  /** After how long a request without an answer is aborted; 5 seconds by default. */
  readonly requestTimeout?: Duration.Input | undefined
  /** The most bytes of UTF-8 that one record's data takes; 384 KiB by default. DynamoDB's items end at 400 KB. */
  readonly maxDataBytes?: number | undefined
  /** How a transient failure is retried; `StorageBackend.defaultRetrySchedule` by default. */
  readonly retrySchedule?: Schedule.Schedule<unknown, Backend> | undefined
}

/** Which DynamoDB, for a client that is made here. */
export interface ClientOptions {
  /** The URL of a DynamoDB other than the region's, such as DynamoDB Local's. */
  readonly endpoint?: string | undefined
  /** The region; where it is left out, the AWS SDK finds it as AWS documents it (`AWS_REGION`, a shared config file). */
  readonly region?: string | undefined
}

type Item = Record<string, AttributeValue>

/** The table's layout, resolved. */
interface Layout {
  readonly tableName: string
  readonly ownerPrefix: string
  readonly idPrefix: string
  /** By the placeholder that stands for each attribute in an expression. */
  readonly names: Record<"#pk" | "#sk" | "#v" | "#d" | "#e" | "#w", string>
}

/** The layout of these options, which must be what their types say, and the attributes' names distinct. */
const layoutOf = ({
  attributes = {},
  idPrefix = "TASK#",
  ownerPrefix = "OWNER#",
  tableName
}: Pick<Options, "attributes" | "idPrefix" | "ownerPrefix" | "tableName">): Layout => {
  const nameOf = (attribute: keyof Attributes, byDefault: string): string => {
    const name = attributes?.[attribute]
    return name === undefined ? byDefault : checkName(`attributes.${attribute}`, name)
  }
  const names = {
    "#pk": nameOf("partitionKey", "PK"),
    "#sk": nameOf("sortKey", "SK"),
    "#v": nameOf("version", "version"),
    "#d": nameOf("data", "data"),
    "#e": nameOf("expiresAt", "expires_at"),
    "#w": nameOf("writeId", "write_id")
  }
  const all = Object.values(names)
  const twice = all.find((name, i) => all.indexOf(name) !== i)
  if (twice !== undefined) {
    throw new RangeError(`attributes must be names that differ: "${twice}" is the name of two`)
  }
  return {
    tableName: checkName("tableName", tableName),
    ownerPrefix: checkString("ownerPrefix", ownerPrefix),
    idPrefix: checkString("idPrefix", idPrefix),
    names
  }
}

/** DynamoDB refuses a name that its expressions do not use. */
const namesIn = ({ names }: Layout, ...expressions: ReadonlyArray<string>): Record<string, string> =>
  Object.fromEntries(Object.entries(names).filter(([placeholder]) => expressions.join(" ").includes(placeholder)))

const N = (value: number): AttributeValue => ({ N: String(value) })
const S = (value: string): AttributeValue => ({ S: value })

/** DynamoDB's own limit of an item, keys, names and attributes of other programs included. */
const maxItemBytes = 400 * 1024

// -----------------------------------------------------------------------------
// The backend
// -----------------------------------------------------------------------------

const parse = ({ names, tableName }: Layout, item: Item): Effect.Effect<StorageBackend.StoredRecord, Backend> => {
  const version = Number(item[names["#v"]]?.N)
  const data = item[names["#d"]]?.S
  const writeId = item[names["#w"]]
  const expiresAt = item[names["#e"]]?.N
  const problem = !(Number.isSafeInteger(version) && version > 0)
    ? `no ${names["#v"]} that is a number from 1 to ${StorageBackend.maxVersion}`
    : data === undefined
      ? `no ${names["#d"]} that is a string`
      : writeId !== undefined && writeId.S === undefined
        ? `a ${names["#w"]} that is no string`
        : undefined
  if (data === undefined || problem !== undefined) {
    const at = `${names["#pk"]} ${item[names["#pk"]]?.S}, ${names["#sk"]} ${item[names["#sk"]]?.S}`
    const description = `The item at ${at} in table ${tableName} has ${problem}: mend it, or delete the record`
    return Effect.fail(backendError({ reason: "Corrupt", outcome: "not-applied", description }))
  }
  return Effect.succeed({
    data,
    version,
    writeId: writeId?.S,
    // One that is no number expires never, as in DynamoDB's conditions and its Time to Live.
    expiresAt: expiresAt === undefined ? undefined : Number(expiresAt)
  })
}

const makePrimitives = (client: DynamoDBClient, options: Options): StorageBackend.Primitives => {
  const layout = layoutOf(options)
  const { idPrefix, names, ownerPrefix, tableName } = layout
  const { consistentRead = true } = options
  const send = sender(options)

  const keyOf = ({ id, owner }: StorageKey): Item => ({
    [names["#pk"]]: S(`${ownerPrefix}${owner}`),
    [names["#sk"]]: S(`${idPrefix}${id}`)
  })

  const read = (consistent: boolean) => (key: StorageKey) =>
    send("GetItem", (http) =>
      client.send(
        once(
          new GetItemCommand({
            TableName: tableName,
            Key: keyOf(key),
            ConsistentRead: consistent,
            ReturnConsumedCapacity: "TOTAL"
          })
        ),
        http
      )
    ).pipe(Effect.flatMap(({ Item }) => (Item === undefined ? Effect.undefined : parse(layout, Item))))

  /** A condition that did not hold, with the item that is there; or an item that would be too large. */
  interface NotWritten {
    readonly item: Item | undefined
    readonly isTooLarge: boolean
  }

  const notWritten = (error: AwsError & { readonly Item?: Item }): NotWritten | undefined => {
    if (error.name === "ConditionalCheckFailedException") return { item: error.Item, isTooLarge: false }
    const isTooLarge = error.name === "ValidationException" && /size .*exceeded/i.test(error.message)
    return isTooLarge ? { item: undefined, isTooLarge } : undefined
  }

  const refused = (item: Item | undefined): Effect.Effect<StorageBackend.Refused, Backend> =>
    item === undefined
      ? Effect.succeed({ _tag: "Refused", current: undefined })
      : Effect.map(parse(layout, item), (current) => ({ _tag: "Refused", current }))

  /** One UpdateItem. `version` is the one it makes, or undefined where DynamoDB counts up from what is there. */
  const update = (
    key: StorageKey,
    { data, expiresAt, writeId }: StorageBackend.Write,
    {
      condition,
      returns,
      values,
      version
    }: {
      readonly condition: string
      readonly values: Item
      readonly returns: "NONE" | "UPDATED_OLD" | "UPDATED_NEW"
      readonly version?: number
    }
  ): Effect.Effect<StorageBackend.Written | StorageBackend.Refused | StorageBackend.Full, Backend> => {
    const expression = [
      `SET #d = :d, #w = :w${expiresAt === undefined ? "" : ", #e = :e"}${version === undefined ? "" : ", #v = :next"}`,
      version === undefined ? "ADD #v :one" : "",
      expiresAt === undefined ? "REMOVE #e" : ""
    ].join(" ")
    return send(
      "UpdateItem",
      (http) =>
        client.send(
          once(
            new UpdateItemCommand({
              TableName: tableName,
              Key: keyOf(key),
              UpdateExpression: expression,
              ConditionExpression: condition,
              ExpressionAttributeNames: namesIn(layout, expression, condition),
              ExpressionAttributeValues: {
                ...values,
                ":d": S(data),
                ":w": S(writeId),
                ...(version === undefined ? { ":one": N(1) } : { ":next": N(version) }),
                ...(expiresAt === undefined ? {} : { ":e": N(expiresAt) })
              },
              ReturnValues: returns,
              ReturnValuesOnConditionCheckFailure: "ALL_OLD",
              ReturnConsumedCapacity: "TOTAL"
            })
          ),
          http
        ),
      notWritten
    ).pipe(
      Effect.flatMap(
        (output): Effect.Effect<StorageBackend.Written | StorageBackend.Refused | StorageBackend.Full, Backend> => {
          if ("isTooLarge" in output) {
            return output.isTooLarge
              ? Effect.succeed({ _tag: "Full", resource: "ItemBytes", limit: maxItemBytes, actual: byteLength(data) })
              : refused(output.item)
          }
          const returned = Number(output.Attributes?.[names["#v"]]?.N ?? 0)
          return Effect.succeed({
            _tag: "Written",
            version: version ?? (returns === "UPDATED_NEW" ? returned : returned + 1)
          })
        }
      )
    )
  }

  /** A record is live unless its expiry is a number that has come. */
  const live = "NOT (#e <= :now)"

  /** The condition that a live record is the expected one. */
  const isExpected = (expected: StorageBackend.Expected, now: number) => {
    const byVersion = { ":v": N(typeof expected === "number" ? expected : expected.version), ":now": N(now) }
    if (typeof expected === "number") return { condition: `#v = :v AND ${live}`, values: byVersion }
    return expected.writeId === undefined
      ? {
          condition: `#v = :v AND ${live} AND attribute_not_exists(#w) AND #d = :od`,
          values: { ...byVersion, ":od": S(expected.data) }
        }
      : { condition: `#v = :v AND ${live} AND #w = :ow`, values: { ...byVersion, ":ow": S(expected.writeId) } }
  }

  const belowLast = { ":max": N(StorageBackend.maxVersion) }

  return {
    read: read(true),
    ...(consistentRead ? {} : { readEventually: read(false) }),

    put: (key, write) =>
      update(key, write, {
        condition: "attribute_not_exists(#v) OR #v < :max",
        values: belowLast,
        returns: "UPDATED_NEW"
      }),

    swap: (key, write, expected) => {
      const version = typeof expected === "number" ? expected : expected.version
      return version === 0
        ? update(key, write, {
            condition: "attribute_not_exists(#pk) OR (#e <= :now AND #v < :max)",
            values: { ...belowLast, ":now": N(write.now) },
            returns: "UPDATED_OLD"
          })
        : update(key, write, { ...isExpected(expected, write.now), version: version + 1, returns: "NONE" })
    },

    remove: (key, now, expected) => {
      const { condition, values } =
        expected === undefined
          ? { condition: `attribute_exists(#pk) AND ${live}`, values: { ":now": N(now) } }
          : isExpected(expected, now)
      return send(
        "DeleteItem",
        (http) =>
          client.send(
            once(
              new DeleteItemCommand({
                TableName: tableName,
                Key: keyOf(key),
                ConditionExpression: condition,
                ExpressionAttributeNames: namesIn(layout, condition),
                ExpressionAttributeValues: values,
                ReturnValuesOnConditionCheckFailure: expected === undefined ? "NONE" : "ALL_OLD",
                ReturnConsumedCapacity: "TOTAL"
              })
            ),
            http
          ),
        notWritten
      ).pipe(
        Effect.flatMap(
          (output): Effect.Effect<StorageBackend.Removed | StorageBackend.Refused, Backend> =>
            "isTooLarge" in output ? refused(output.item) : Effect.succeed({ _tag: "Removed" })
        )
      )
    },

    list: ({ idPrefix: prefix, owner }, { after, limit, now, order }) => {
      const startsWith = `${idPrefix}${prefix}`
      const keys = startsWith === "" ? "#pk = :pk" : "#pk = :pk AND begins_with(#sk, :sk)"
      return send("Query", (http) =>
        client.send(
          once(
            new QueryCommand({
              TableName: tableName,
              KeyConditionExpression: keys,
              FilterExpression: live,
              ExpressionAttributeNames: namesIn(layout, keys, live),
              ExpressionAttributeValues: {
                ":pk": S(`${ownerPrefix}${owner}`),
                ":now": N(now),
                ...(startsWith === "" ? {} : { ":sk": S(startsWith) })
              },
              ConsistentRead: consistentRead,
              Limit: limit,
              ScanIndexForward: order === "ascending",
              ExclusiveStartKey:
                after === undefined
                  ? undefined
                  : { [names["#pk"]]: S(`${ownerPrefix}${owner}`), [names["#sk"]]: S(`${idPrefix}${after}`) },
              ReturnConsumedCapacity: "TOTAL"
            })
          ),
          http
        )
      ).pipe(
        Effect.flatMap(({ Items = [], LastEvaluatedKey }) => {
          const idOf = (item: Item) => (item[names["#sk"]]?.S ?? "").slice(idPrefix.length)
          return Effect.map(
            Effect.forEach(Items, (item) =>
              Effect.map(parse(layout, item), (stored) => ({ id: idOf(item), ...stored }))
            ),
            (records) => ({ records, next: LastEvaluatedKey === undefined ? undefined : idOf(LastEvaluatedKey) })
          )
        })
      )
    },

    cleanup: () => Effect.succeed(0)
  }
}

const make = Effect.fnUntraced(function* (options: Options) {
  const client = yield* Client
  checkSchedule("retrySchedule", options.retrySchedule)
  if (options.consistentRead !== undefined) checkBoolean("consistentRead", options.consistentRead)
  const backend = StorageBackend.make(makePrimitives(client, options), {
    maxDataBytes: options.maxDataBytes,
    retrySchedule: options.retrySchedule,
    telemetry: { system, collection: options.tableName }
  })
  yield* Effect.forkScoped(checkTimeToLive(client, layoutOf(options), sender(options)))
  return backend
})

/** Warns, once and beside the work, where DynamoDB would never collect what has expired. */
const checkTimeToLive = (client: DynamoDBClient, { names, tableName }: Layout, send: ReturnType<typeof sender>) =>
  send("DescribeTimeToLive", (http) =>
    client.send(once(new DescribeTimeToLiveCommand({ TableName: tableName })), http)
  ).pipe(
    Effect.flatMap(({ TimeToLiveDescription: found }) => {
      const isOn = found?.TimeToLiveStatus === "ENABLED" || found?.TimeToLiveStatus === "ENABLING"
      if (isOn && found?.AttributeName === names["#e"]) return Effect.void
      return Effect.logWarning(
        `Time to Live of table ${tableName} is not on for attribute ${names["#e"]}: expired records are absent, but ` +
          "never removed. Switch it on with DynamoDb.ensureTable or in the console"
      )
    }),
    Effect.catch((error) =>
      error.reason._tag === "Misconfigured"
        ? Effect.logWarning(error.reason.description)
        : Effect.logDebug("Time to Live could not be checked", error)
    )
  )

/**
 * Records in a table, through a client that is provided. The table must exist: see {@link createTable}.
 *
 * When it is built, it asks once whether Time to Live is on, beside the work, and logs a warning where it is not.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 * import { Layer } from "effect"
 *
 * export const Storage = DynamoDb.layer({ tableName: "records" }).pipe(
 *   Layer.provide(DynamoDb.layerClient({ region: "eu-central-1" }))
 * )
 * ```
 */
export const layer = (options: Options): Layer.Layer<StorageBackend.StorageBackend, never, Client> =>
  Layer.effect(StorageBackend.StorageBackend, make(options))

/**
 * A client that is made here, and destroyed when the scope closes. Whatever the configuration leaves out, the AWS SDK
 * finds as AWS documents it.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 *
 * export const local = DynamoDb.layerClient({ endpoint: "http://localhost:8000", region: "us-east-1" })
 * ```
 */
export const layerClient = (config: DynamoDBClientConfig = {}): Layer.Layer<Client> =>
  Layer.effect(
    Client,
    Effect.acquireRelease(
      Effect.sync(() => new DynamoDBClient(config)),
      (client) => Effect.sync(() => client.destroy())
    )
  )

/**
 * Records in a table and a client of their own, all of it from configuration.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 * import { Config } from "effect"
 *
 * export const Storage = DynamoDb.layerConfig({
 *   tableName: Config.String("RECORDS_TABLE"),
 *   consistentRead: Config.succeed(true)
 * })
 * ```
 */
export const layerConfig = (
  options: Config.Wrap<Options & ClientOptions>
): Layer.Layer<StorageBackend.StorageBackend, Config.ConfigError> =>
  Layer.unwrap(
    Effect.map(Config.unwrap(options), ({ endpoint, region, ...rest }) =>
      Layer.provide(
        layer(rest),
        layerClient({ ...(endpoint === undefined ? {} : { endpoint }), ...(region === undefined ? {} : { region }) })
      )
    )
  )

const IntFromZero = Schema.Int.check(
  Schema.makeFilter((value) => value >= 0 || `Expected an integer of zero or more, got ${value}`)
)

const DurationFromZero = Schema.DurationFromString.check(
  Schema.makeFilter(
    (duration) =>
      Duration.toMillis(duration) >= 0 || `Expected a duration of zero or more, got ${Duration.format(duration)}`
  )
)

const configured = (table: Config.Config<string>): Config.Config<Options & ClientOptions> => {
  const text = (name: string) => Config.withDefault(Config.NonEmptyString(name), undefined)
  return Config.all({
    tableName: table,
    endpoint: text("DYNAMODB_ENDPOINT"),
    region: text("DYNAMODB_REGION"),
    consistentRead: Config.withDefault(Config.Boolean("DYNAMODB_CONSISTENT_READ"), undefined),
    requestTimeout: Config.withDefault(Config.schema(DurationFromZero, "DYNAMODB_REQUEST_TIMEOUT"), undefined),
    retrySchedule: Config.map(Config.withDefault(Config.schema(IntFromZero, "DYNAMODB_RETRIES"), 10), (times) =>
      backoff("25 millis", times)
    ),
    maxDataBytes: Config.withDefault(Config.schema(IntFromZero, "DYNAMODB_MAX_DATA_BYTES"), undefined),
    ownerPrefix: Config.withDefault(Config.String("DYNAMODB_OWNER_PREFIX"), undefined),
    idPrefix: Config.withDefault(Config.String("DYNAMODB_ID_PREFIX"), undefined),
    attributes: Config.all({
      partitionKey: text("DYNAMODB_PARTITION_KEY"),
      sortKey: text("DYNAMODB_SORT_KEY"),
      version: text("DYNAMODB_VERSION_ATTRIBUTE"),
      data: text("DYNAMODB_DATA_ATTRIBUTE"),
      expiresAt: text("DYNAMODB_EXPIRES_AT_ATTRIBUTE"),
      writeId: text("DYNAMODB_WRITE_ID_ATTRIBUTE")
    })
  })
}

/**
 * Records in a table named by `DYNAMODB_TABLE`, `pmcp_tasks` by default, and a client of their own.
 *
 * Each setting is also a variable: `DYNAMODB_ENDPOINT`, `DYNAMODB_REGION`, `DYNAMODB_CONSISTENT_READ` (true),
 * `DYNAMODB_REQUEST_TIMEOUT` (5 seconds), `DYNAMODB_RETRIES` (10), `DYNAMODB_MAX_DATA_BYTES` (393216),
 * `DYNAMODB_OWNER_PREFIX` (`OWNER#`), `DYNAMODB_ID_PREFIX` (`TASK#`), and the names of the attributes:
 * `DYNAMODB_PARTITION_KEY` (`PK`), `DYNAMODB_SORT_KEY` (`SK`), `DYNAMODB_VERSION_ATTRIBUTE` (`version`),
 * `DYNAMODB_DATA_ATTRIBUTE` (`data`), `DYNAMODB_EXPIRES_AT_ATTRIBUTE` (`expires_at`) and
 * `DYNAMODB_WRITE_ID_ATTRIBUTE` (`write_id`). AWS's own variables, its region and its credentials among them, work as
 * AWS documents them.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 * import { VersionedStore } from "effect-versioned-store"
 * import { Effect, Schema } from "effect"
 *
 * export const program = VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int }).pipe(
 *   Effect.flatMap((counters) => counters.upsert({ owner: "alice", id: "visits" }, () => 1)),
 *   Effect.provide(DynamoDb.layerFromEnv)
 * )
 * ```
 */
export const layerFromEnv: Layer.Layer<StorageBackend.StorageBackend, Config.ConfigError> = layerConfig(
  configured(Config.withDefault(Config.NonEmptyString("DYNAMODB_TABLE"), "pmcp_tasks"))
)

/**
 * Like {@link layerFromEnv}, with the table named here.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 *
 * export const Storage = DynamoDb.layerFromEnvWithTable("records")
 * ```
 */
export const layerFromEnvWithTable = (
  tableName: string
): Layer.Layer<StorageBackend.StorageBackend, Config.ConfigError> => layerConfig(configured(Config.succeed(tableName)))

// -----------------------------------------------------------------------------
// The table
// -----------------------------------------------------------------------------

/** The table to create. */
export interface TableOptions {
  readonly tableName: string
  readonly attributes?: Attributes | undefined
}

/** A request that took its 30 seconds without an answer is not sent again. */
const isWorthRepeating = (error: Backend): boolean => error.isRetryable && error.reason._tag !== "Timeout"

/** Requests that look after a table, each tried again while it may simply be sent again. */
const tableRequests = ({ attributes, tableName }: TableOptions, client: DynamoDBClient) => {
  const { names } = layoutOf({ tableName, attributes })
  const send = sender({ tableName, requestTimeout: "30 seconds" })
  const patiently = <A>(request: Effect.Effect<A, Backend>) =>
    Effect.retry(request, { schedule: StorageBackend.defaultRetrySchedule, while: isWorthRepeating })

  const create = patiently(
    send(
      "CreateTable",
      (http) =>
        client.send(
          once(
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

  const describe = patiently(
    send(
      "DescribeTable",
      (http) => client.send(once(new DescribeTableCommand({ TableName: tableName })), http),
      (error) => (error.name === "ResourceNotFoundException" ? ("missing" as const) : undefined)
    )
  )

  const awaitActive = Effect.repeat(describe, {
    schedule: Schedule.spaced("500 millis"),
    until: (table) => table !== "missing" && table.Table?.TableStatus === "ACTIVE"
  })

  const timeToLive = patiently(
    send("DescribeTimeToLive", (http) =>
      client.send(once(new DescribeTimeToLiveCommand({ TableName: tableName })), http)
    )
  )

  const enableTimeToLive = patiently(
    send(
      "UpdateTimeToLive",
      (http) =>
        client.send(
          once(
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

const misconfigured = (operation: string, description: string) =>
  backendError({ operation, reason: "Misconfigured", outcome: "not-applied", description })

/**
 * Creates the table: partition and sort key, on-demand billing, and Time to Live switched on. Returns when it is ready.
 * A table of that name that exists already is `Misconfigured`, and left alone.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 * import { Effect } from "effect"
 *
 * export const setUp = DynamoDb.createTable({ tableName: "records" }).pipe(
 *   Effect.provide(DynamoDb.layerClient({ region: "eu-central-1" }))
 * )
 * ```
 */
export const createTable = Effect.fn("DynamoDb.createTable")(function* (
  options: TableOptions
): Effect.fn.Return<void, Backend, Client> {
  const table = tableRequests(options, yield* Client)
  if ((yield* table.create) === "exists") {
    const description = `There is a table ${options.tableName} already: use DynamoDb.ensureTable`
    return yield* misconfigured("createTable", description)
  }
  yield* table.awaitActive
  yield* table.enableTimeToLive
})

/**
 * Creates the table unless it exists, and switches Time to Live on unless it is. A table with another key schema, or with
 * Time to Live on another attribute, is `Misconfigured`, and left alone.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 * import { Layer } from "effect"
 *
 * const client = DynamoDb.layerClient({ endpoint: "http://localhost:8000", region: "us-east-1" })
 *
 * export const Storage = DynamoDb.layer({ tableName: "records" }).pipe(
 *   Layer.provide(Layer.effectDiscard(DynamoDb.ensureTable({ tableName: "records" }))),
 *   Layer.provide(client)
 * )
 * ```
 */
export const ensureTable = Effect.fn("DynamoDb.ensureTable")(function* (
  options: TableOptions
): Effect.fn.Return<void, Backend, Client> {
  const { tableName } = options
  const table = tableRequests(options, yield* Client)
  if ((yield* table.describe) === "missing") yield* table.create
  const described = yield* table.awaitActive
  if (described === "missing") return
  const typeOf = (name: string | undefined) =>
    described.Table?.AttributeDefinitions?.find(({ AttributeName }) => AttributeName === name)?.AttributeType
  const schema = described.Table?.KeySchema?.map(
    ({ AttributeName, KeyType }) => `${AttributeName} ${KeyType} ${typeOf(AttributeName)}`
  ).join(", ")
  if (schema !== `${table.names["#pk"]} HASH S, ${table.names["#sk"]} RANGE S`) {
    const description = `Table ${tableName} has another key schema: ${schema}`
    return yield* misconfigured("ensureTable", description)
  }
  const { TimeToLiveDescription: found } = yield* table.timeToLive
  const isOn = found?.TimeToLiveStatus === "ENABLED" || found?.TimeToLiveStatus === "ENABLING"
  if (!isOn) {
    yield* table.enableTimeToLive
  } else if (found.AttributeName !== table.names["#e"]) {
    const description = `Table ${tableName} has Time to Live on another attribute: ${found.AttributeName}`
    return yield* misconfigured("ensureTable", description)
  }
})
