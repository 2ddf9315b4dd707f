import { tmpdir } from "node:os"
import { join } from "node:path"
import { Console, Data, Effect, Layer, Redacted, Schema, type Scope } from "effect"
import { CliError, Flag } from "effect/cli"
import { InMemory, type StorageBackend } from "effect-versioned-store"
import * as DynamoDb from "effect-versioned-store/DynamoDb"
import * as Postgres from "effect-versioned-store/Postgres"
import * as Redis from "effect-versioned-store/Redis"
import * as RedisClient from "effect-versioned-store/RedisClient"
import * as Sqlite from "effect-versioned-store/Sqlite"
import * as DynamoDbLocal from "./DynamoDbLocal.ts"
import * as PostgresServer from "./PostgresServer.ts"
import * as RedisServer from "./RedisServer.ts"
import { ServerError } from "./server.ts"

/** The values of the backends' flags. */
interface Settings {
  readonly file: string | undefined
  readonly url: string | undefined
  readonly table: string | undefined
  readonly endpoint: string | undefined
}

type Backend = Layer.Layer<StorageBackend.StorageBackend, { readonly _tag: string; readonly message: string }>

/** The prefix of the examples' keys in Redis, and the name of their table in DynamoDB. */
const examplesName = "effect-versioned-store-examples"

/** The name of their table in PostgreSQL. */
const tableName = "effect_versioned_store_examples"

/** The backends that the examples can run on, by their names for `--backend`, each with its other flags. */
const backends = {
  memory: { flags: [], layer: () => InMemory.layer },

  sqlite: { flags: ["file"], layer: ({ file = "demo.db" }: Settings) => Sqlite.layer({ filename: file }) },

  redis: {
    flags: ["url"],
    layer: ({ url }: Settings) =>
      Layer.unwrap(
        Effect.map(addressOf(RedisServer, "--url", url), (url) =>
          Redis.layer({ keyPrefix: examplesName }).pipe(Layer.provide(RedisClient.layer({ url })))
        )
      )
  },

  postgres: {
    flags: ["url"],
    layer: ({ url }: Settings) =>
      Layer.unwrap(
        Effect.map(addressOf(PostgresServer, "--url", url), (url) =>
          Postgres.layer({ tableName }).pipe(
            Layer.provide(Layer.effectDiscard(Postgres.ensureTable({ tableName }))),
            Layer.provide(Postgres.layerClient({ url: Redacted.make(url) }))
          )
        )
      )
  },

  dynamodb: {
    flags: ["table", "endpoint"],
    layer: ({ endpoint, table }: Settings) => {
      if (table !== undefined && endpoint === undefined) {
        return DynamoDb.layer({ tableName: table }).pipe(Layer.provide(DynamoDb.layerClient()))
      }
      const tableName = table ?? examplesName
      return Layer.unwrap(
        Effect.map(addressOf(DynamoDbLocal, "--endpoint", endpoint), (endpoint) =>
          DynamoDb.layer({ tableName }).pipe(
            Layer.provide(Layer.effectDiscard(DynamoDb.ensureTable({ tableName }))),
            Layer.provide(DynamoDb.layerClient({ endpoint, ...localDefaults }))
          )
        )
      )
    }
  }
} satisfies Record<
  string,
  { readonly flags: ReadonlyArray<keyof Settings>; readonly layer: (settings: Settings) => Backend }
>

/** The address of a server: what a flag gives, or that of a server that is started, and runs until the scope closes. */
const addressOf = (
  server: {
    readonly name: string
    readonly missing: () => string | undefined
    readonly start: Effect.Effect<string, ServerError, Scope.Scope>
  },
  flag: string,
  flagValue: string | undefined
) =>
  Effect.suspend((): Effect.Effect<string, ServerError, Scope.Scope> => {
    if (flagValue !== undefined) return Effect.succeed(flagValue)
    const reason = server.missing()
    if (reason !== undefined) return Effect.fail(new ServerError({ message: `${reason} with ${flag}` }))
    return Effect.tap(server.start, (address) => Console.log(`Started ${server.name} for this run, at ${address}\n`))
  })

/** DynamoDB Local accepts any region and credentials, but requires some. */
const localDefaults = {
  ...(process.env.AWS_REGION === undefined ? { region: "us-east-1" } : {}),
  ...(process.env.AWS_ACCESS_KEY_ID === undefined
    ? { credentials: { accessKeyId: "local", secretAccessKey: "local" } }
    : {})
}

type Name = keyof typeof backends

const names = Object.keys(backends) as ReadonlyArray<Name>

/** The backend that the flags choose, with its settings. */
interface Choice extends Settings {
  readonly backend: Name
}

/** The flags that choose a backend. */
export const backendFlags = {
  backend: Flag.Literals("backend", names).pipe(
    Flag.withDescription("The backend that keeps the records; by default sqlite"),
    Flag.withDefault("sqlite")
  ),
  file: Flag.String("file").pipe(
    Flag.withSchema(Schema.NonEmptyString),
    Flag.withDescription("The SQLite file; by default demo.db. It is created if it is missing"),
    Flag.withDefault(undefined)
  ),
  url: Flag.String("url").pipe(
    Flag.withSchema(Schema.NonEmptyString),
    Flag.withDescription(
      "The URL of a Redis or a PostgreSQL, for example redis://localhost:6379 or postgres://me@localhost/shop; " +
        "without it, a server is started"
    ),
    Flag.withDefault(undefined)
  ),
  table: Flag.String("table").pipe(
    Flag.withSchema(Schema.NonEmptyString),
    Flag.withDescription(
      "The DynamoDB table, in AWS unless an endpoint is given; without table and endpoint, DynamoDB Local is started"
    ),
    Flag.withDefault(undefined)
  ),
  endpoint: Flag.String("endpoint").pipe(
    Flag.withSchema(Schema.NonEmptyString),
    Flag.withDescription(
      "The URL of a DynamoDB, for example http://localhost:8000; the table is created if it is missing"
    ),
    Flag.withDefault(undefined)
  )
}

export class WrongFlags extends Data.TaggedError("WrongFlags")<{ readonly message: string }> {}

/** The Layer that the flags choose. */
export const layerBackend = ({ backend, ...settings }: Choice): Backend => {
  for (const name of names) {
    const { flags } = backends[name]
    const own: ReadonlyArray<string> = backends[backend].flags
    if (flags.some((flag) => !own.includes(flag) && settings[flag] !== undefined)) {
      const flagNames = flags.map((flag) => `--${flag}`).join(" and ")
      const takers = names.filter((name) => backends[name].flags.join() === flags.join()).join(" or ")
      return Layer.unwrap(
        Effect.fail(new WrongFlags({ message: `${flagNames} can only be used with --backend ${takers}` }))
      )
    }
  }
  return backends[backend].layer(settings)
}

/**
 * Makes a choice that several processes can share. If a server has to be started, it is started here, for all of them.
 */
export const share = Effect.fnUntraced(function* (choice: Choice) {
  if (choice.backend === "memory" || choice.file === ":memory:") {
    return yield* new WrongFlags({ message: "Processes can't share memory: choose another --backend or --file" })
  }
  if (choice.backend === "redis") return { ...choice, url: yield* addressOf(RedisServer, "--url", choice.url) }
  if (choice.backend === "postgres") return { ...choice, url: yield* addressOf(PostgresServer, "--url", choice.url) }
  if (choice.backend === "dynamodb" && choice.table === undefined) {
    return { ...choice, endpoint: yield* addressOf(DynamoDbLocal, "--endpoint", choice.endpoint) }
  }
  return choice
})

/** Whether the records are still there when this process has ended. */
export const isLasting = ({ backend, endpoint, file, table, url }: Choice) =>
  backend === "sqlite" ? file !== ":memory:" : [endpoint, table, url].some((address) => address !== undefined)

/** Where the records are, in words. */
export const placeOf = (choice: Choice) => {
  const { backend, endpoint, file = "demo.db", table, url } = choice
  if (backend === "memory" || file === ":memory:") return "memory"
  if (backend === "sqlite") return `the SQLite file ${file}`
  if (backend === "redis") return url === undefined ? "a Redis of this run alone" : "Redis"
  if (backend === "postgres") return url === undefined ? "a PostgreSQL of this run alone" : "PostgreSQL"
  return isLasting(choice) ? `DynamoDB (${endpoint ?? `AWS, table ${table}`})` : "a DynamoDB Local of this run alone"
}

/** The flags with which another process makes the same choice. */
export const flagsOf = (choice: Choice): ReadonlyArray<string> =>
  Object.entries(choice).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, value]))

const elsewhere = `--backend sqlite --file ${join(tmpdir(), "demo.db")}`

/** Flags that work on every machine, for an example whose processes share their records, and for any other. */
const runsAnywhere = { shared: elsewhere, own: `--backend memory, or ${elsewhere}` }

/** An error as the command line shows it: sentences without a tag and a stack trace, and what else can be run. */
export const asUserError = (records: keyof typeof runsAnywhere) =>
  Effect.mapError((error: { readonly _tag: string; readonly message: string }) => {
    if (error instanceof CliError.UserError) return error
    const isOfBackend = error._tag === "Backend" || error._tag === "ServerError"
    const instead = isOfBackend ? `\n\n  This runs as well: ${runsAnywhere[records]}` : ""
    return new CliError.UserError({ cause: error.message + instead })
  })
