import { Data, Effect, Layer } from "effect"
import { CliError, Flag } from "effect/cli"
import { InMemory, type StorageBackend } from "effect-versioned-store"
import * as DynamoDb from "effect-versioned-store/DynamoDb"
import * as DynamoDbLocal from "./DynamoDbLocal.ts"

/** What the flags of a backend say. */
interface Settings {
  readonly table: string | undefined
  readonly endpoint: string | undefined
}

type Backend = Layer.Layer<StorageBackend.StorageBackend, { readonly _tag: string; readonly message: string }>

/** The backends that the examples can run on, by the name that `--backend` takes. */
const backends = {
  memory: () => InMemory.layer,

  dynamodb: ({ endpoint, table }: Settings) => {
    if (table !== undefined && endpoint === undefined) {
      return DynamoDb.layer({ tableName: table }).pipe(Layer.provide(DynamoDb.layerClient()))
    }
    const tableName = table ?? "effect-versioned-store-examples"
    const started = endpoint === undefined ? DynamoDbLocal.start : Effect.succeed(endpoint)
    return Layer.unwrap(
      Effect.map(started, (endpoint) =>
        DynamoDb.layer({ tableName }).pipe(
          Layer.provide(Layer.effectDiscard(DynamoDb.ensureTable({ tableName }))),
          Layer.provide(DynamoDb.layerClient({ endpoint, ...localDefaults }))
        )
      )
    )
  }
} satisfies Record<string, (settings: Settings) => Backend>

/** DynamoDB Local takes any region and credentials, but wants some. */
const localDefaults = {
  ...(process.env.AWS_REGION === undefined ? { region: "us-east-1" } : {}),
  ...(process.env.AWS_ACCESS_KEY_ID === undefined
    ? { credentials: { accessKeyId: "local", secretAccessKey: "local" } }
    : {})
}

type Name = keyof typeof backends

const names = Object.keys(backends) as ReadonlyArray<Name>

/** What the flags choose. */
interface Choice extends Settings {
  readonly backend: Name
}

/** The flags that choose a backend. */
export const backendFlags = {
  backend: Flag.Literals("backend", names).pipe(
    Flag.withDescription("Where the records are kept; by default memory"),
    Flag.withDefault("memory")
  ),
  table: Flag.String("table").pipe(
    Flag.withDescription("The DynamoDB table, in AWS unless there is an endpoint; without either, DynamoDB Local runs"),
    Flag.withDefault(undefined)
  ),
  endpoint: Flag.String("endpoint").pipe(
    Flag.withDescription("The URL of a DynamoDB, such as http://localhost:8000; the table is created if it is missing"),
    Flag.withDefault(undefined)
  )
}

export class WrongFlags extends Data.TaggedError("WrongFlags")<{ readonly message: string }> {}

/** The Layer that the flags choose. */
export const layerBackend = ({ backend, ...settings }: Choice): Backend => {
  if (backend !== "dynamodb" && (settings.table ?? settings.endpoint) !== undefined) {
    return Layer.effectDiscard(
      new WrongFlags({ message: "--table and --endpoint go with --backend dynamodb" })
    ) as never
  }
  return backends[backend](settings)
}

/** The choice as several processes can make it: a DynamoDB Local that only one would see is started here, for all. */
export const share = Effect.fnUntraced(function* (choice: Choice) {
  if (choice.backend === "memory") {
    return yield* new WrongFlags({ message: "Memory is of one process alone: choose another --backend" })
  }
  return choice.table === undefined && choice.endpoint === undefined
    ? { ...choice, endpoint: yield* DynamoDbLocal.start }
    : choice
})

/** The flags that another process makes the same choice by. */
export const flagsOf = (choice: Choice): ReadonlyArray<string> =>
  Object.entries(choice).flatMap(([name, value]) => (value === undefined ? [] : [`--${name}`, value]))

/** An error as the command line shows it, without a stack trace. */
export const asUserError = Effect.mapError((error: { readonly _tag: string; readonly message: string }) =>
  error instanceof CliError.UserError ? error : new CliError.UserError({ cause: `${error._tag}: ${error.message}` })
)
