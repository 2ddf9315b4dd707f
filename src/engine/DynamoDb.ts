/**
 * Records in an Amazon DynamoDB table, for state that many machines and functions share.
 *
 * A get, put, create, compare-and-set and delete are one request each, won or lost. A page is one request if no record
 * in it has expired and it fits DynamoDB's 1 MB. The layout of the table is that of the Rust crate pmcp-tasks, which
 * can share it. DynamoDB's own Time to Live removes expired records; the condition of each request decides whether a
 * record has expired.
 *
 * The client's own retries are switched off for each request. If a write whose answer was lost were sent again blindly,
 * it would come back as a conflict with itself, or undo what another writer wrote since.
 */
import { DynamoDBClient, type DynamoDBClientConfig } from "@aws-sdk/client-dynamodb"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Engine from "../Engine.ts"
import { backoff } from "../internal/backoff.ts"
import { makeFrom } from "../internal/config.ts"
import { checkBoolean, checkSchedule } from "../internal/options.ts"
import { defaultRetrySchedule, StorageBackend } from "../StorageBackend.ts"
import type { Backend } from "../StorageError.ts"
import { type Attributes, layoutOf } from "./internal/dynamodb/layout.ts"
import { makeEngine } from "./internal/dynamodb/requests.ts"
import { makeSend, system } from "./internal/dynamodb/send.ts"
import * as Table from "./internal/dynamodb/table.ts"
import { verify as verifyTable } from "./internal/dynamodb/verify.ts"

export type { Attributes } from "./internal/dynamodb/layout.ts"
export type { TableOptions } from "./internal/dynamodb/table.ts"

/**
 * The AWS client that the backend sends its requests with. The scope does not close a client that is provided.
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
 *
 * @category services
 * @since 0.1.0
 */
export class Client extends Context.Service<Client, DynamoDBClient>()("effect-versioned-store/DynamoDb/Client") {}

/**
 * The table of the records, and how requests are sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly tableName: string
  readonly attributes?: Attributes | undefined
  /** The text before the owner in the partition key; `OWNER#` by default. */
  readonly ownerPrefix?: string | undefined
  /** The text before the id in the sort key; `TASK#` by default. */
  readonly idPrefix?: string | undefined
  /**
   * Whether `get` and `listByPrefix` read consistently, which costs twice an eventually consistent read; true by
   * default.
   */
  readonly consistentRead?: boolean | undefined
  /**
   * How long a request may wait for its answer before it is aborted; 5 seconds by default. It is measured by the time
   * of the machine and not by Effect's `Clock`, so a `TestClock` does not make a request time out.
   */
  readonly requestTimeout?: Duration.Input | undefined
  /**
   * The most bytes of UTF-8 that one record's data may take; 384 KiB by default. DynamoDB's own limit for an item is
   * 400 KB.
   */
  readonly maxDataBytes?: number | undefined
  /** How a transient failure is retried; `StorageBackend.defaultRetrySchedule` by default. */
  readonly retrySchedule?: Schedule.Schedule<unknown, Backend> | undefined
  /**
   * Whether building the Layer fails if the table is missing or has other keys, if the credentials do not permit the
   * operations, or if DynamoDB gives no answer within `requestTimeout`; false by default. It takes five requests at
   * once, one of each kind that the operations send. They change nothing, and need no permission of their own. If a
   * policy confines the role to some owners or to reads, leave it off.
   */
  readonly verify?: boolean | undefined
}

/**
 * The settings of a client that the Layer makes.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClientOptions {
  /** The URL of a DynamoDB other than the region's, for example DynamoDB Local's. */
  readonly endpoint?: string | undefined
  /** The region. If it is left out, the AWS SDK finds it as AWS documents it (`AWS_REGION`, a shared config file). */
  readonly region?: string | undefined
}

const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<StorageBackend["Service"], Backend, Client | Scope.Scope> {
  const { consistentRead = true, maxDataBytes, requestTimeout, tableName, verify = false } = options
  const { retrySchedule = defaultRetrySchedule } = options
  checkSchedule("retrySchedule", retrySchedule)
  checkBoolean("consistentRead", consistentRead)
  checkBoolean("verify", verify)
  const client = yield* Client
  const layout = layoutOf(options)
  const send = makeSend({ tableName, requestTimeout })
  const telemetry = { system, collection: tableName }
  const backend = Engine.make(makeEngine(client, layout, send, consistentRead), {
    maxDataBytes,
    retrySchedule,
    telemetry
  })
  if (verify) yield* verifyTable(client, layout, send, retrySchedule)
  yield* Effect.forkScoped(Table.checkTimeToLive(client, layout, send))
  return backend
})

/**
 * Records in a table, through a client that is provided. The table must exist: see {@link createTable}.
 *
 * Building the Layer fails only with the option `verify`. Without it, the first operation shows what is wrong. When the
 * Layer is built, it asks in the background whether Time to Live is on, and logs a warning if it is not.
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
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<StorageBackend, Backend, Client> =>
  Layer.effect(StorageBackend, make(options))

/**
 * A client that the Layer makes, and destroys when the scope closes. The AWS SDK finds what the configuration leaves
 * out, as AWS documents it.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 *
 * export const local = DynamoDb.layerClient({ endpoint: "http://localhost:8000", region: "us-east-1" })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClient = (config: DynamoDBClientConfig = {}): Layer.Layer<Client> =>
  Layer.effect(Client, makeClient(config))

const makeClient = (config: DynamoDBClientConfig) =>
  Effect.acquireRelease(
    Effect.sync(() => new DynamoDBClient(config)),
    (client) => Effect.sync(() => client.destroy())
  )

/**
 * A client like that of {@link layerClient}, set up from configuration.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 * import { Config } from "effect"
 *
 * export const client = DynamoDb.layerClientConfig({ region: Config.NonEmptyString("RECORDS_REGION") })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClientConfig = (
  options: Config.Wrap<DynamoDBClientConfig>
): Layer.Layer<Client, Config.ConfigError> => Layer.effect(Client, makeFrom(options, makeClient))

/**
 * Records in a table, with a client that the Layer makes. Every setting comes from configuration.
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
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options & ClientOptions>
): Layer.Layer<StorageBackend, Backend | Config.ConfigError> =>
  Layer.effect(
    StorageBackend,
    makeFrom(options, ({ endpoint, region, ...rest }) =>
      Effect.flatMap(
        makeClient({ ...(endpoint === undefined ? {} : { endpoint }), ...(region === undefined ? {} : { region }) }),
        (client) => Effect.provideService(make(rest), Client, client)
      )
    )
  )

/** A variable whose text must be valid. Its error says what is expected. */
const validText = (name: string, isValid: (text: string) => boolean, expected: string) =>
  Config.schema(
    Schema.String.check(Schema.makeFilter((text) => isValid(text) || `Expected ${expected}, got ${text}`)),
    name
  )

const intFromZero = (name: string) =>
  Config.map(
    validText(name, (text) => /^\d{1,15}$/.test(text), "an integer of zero or more"),
    Number
  )

const durationOf = (text: string) => Duration.fromInput(text as Duration.Input)

const durationFromZero = (name: string) =>
  Config.map(
    validText(
      name,
      (text) => Option.exists(durationOf(text), (duration) => Duration.toMillis(duration) >= 0),
      'a duration such as "5 seconds", of zero or more'
    ),
    (text) => Option.getOrUndefined(durationOf(text))
  )

const configured = (table: Config.Config<string>) => {
  const text = (name: string) => Config.withDefault(Config.NonEmptyString(name), undefined)
  return {
    tableName: table,
    endpoint: text("DYNAMODB_ENDPOINT"),
    region: text("DYNAMODB_REGION"),
    verify: Config.withDefault(Config.Boolean("DYNAMODB_VERIFY"), true),
    consistentRead: Config.withDefault(Config.Boolean("DYNAMODB_CONSISTENT_READ"), undefined),
    requestTimeout: Config.withDefault(durationFromZero("DYNAMODB_REQUEST_TIMEOUT"), undefined),
    retrySchedule: Config.map(Config.withDefault(intFromZero("DYNAMODB_RETRIES"), 10), (times) =>
      backoff("25 millis", times)
    ),
    maxDataBytes: Config.withDefault(intFromZero("DYNAMODB_MAX_DATA_BYTES"), undefined),
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
  } satisfies Config.Wrap<Options & ClientOptions>
}

/**
 * Records in the table that `DYNAMODB_TABLE` names, `pmcp_tasks` by default, with a client that the Layer makes.
 *
 * The Layer verifies the table when it is built, unless `DYNAMODB_VERIFY` is false. Each other setting is a variable
 * as well: `DYNAMODB_ENDPOINT`, `DYNAMODB_REGION`, `DYNAMODB_CONSISTENT_READ` (true),
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
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFromEnv: Layer.Layer<StorageBackend, Backend | Config.ConfigError> = layerConfig(
  configured(Config.withDefault(Config.NonEmptyString("DYNAMODB_TABLE"), "pmcp_tasks"))
)

/**
 * Like {@link layerFromEnv}, for a table that the program names.
 *
 * @example
 * ```ts
 * import * as DynamoDb from "effect-versioned-store/DynamoDb"
 *
 * export const Storage = DynamoDb.layerFromEnvWithTable("records")
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerFromEnvWithTable = (tableName: string): Layer.Layer<StorageBackend, Backend | Config.ConfigError> =>
  layerConfig(configured(Config.succeed(tableName)))

/**
 * Creates the table, with a partition and a sort key, on-demand billing, and Time to Live switched on. Returns when it
 * is ready. If there is a table of that name already, it fails with `Misconfigured` and leaves that table alone.
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
 *
 * @category constructors
 * @since 0.1.0
 */
export const createTable: (options: Table.TableOptions) => Effect.Effect<void, Backend, Client> = Effect.fn(
  "DynamoDb.createTable"
)((options) => Effect.flatMap(Client, (client) => Table.createTable(client, options)))

/**
 * Creates the table unless it exists, and switches Time to Live on unless it is on. If the table has another key
 * schema, or Time to Live on another attribute, it fails with `Misconfigured` and leaves the table alone.
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
 *
 * @category constructors
 * @since 0.1.0
 */
export const ensureTable: (options: Table.TableOptions) => Effect.Effect<void, Backend, Client> = Effect.fn(
  "DynamoDb.ensureTable"
)((options) => Effect.flatMap(Client, (client) => Table.ensureTable(client, options)))
