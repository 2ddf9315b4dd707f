import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Effect, Exit, Layer, Redacted } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"

const withEnv = (env: Record<string, string>) => Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))

/** The first line that a program prints whose Layer can't be built in an environment. */
const firstLine = <A, E, R>(layer: Layer.Layer<A, E, R>, env: Record<string, string>) =>
  Effect.exit(Effect.scoped(Layer.build(layer as Layer.Layer<A, E>))).pipe(
    withEnv(env),
    Effect.map((exit) => (Exit.isSuccess(exit) ? "built" : Cause.pretty(exit.cause).split("\n")[0]))
  )

const [text, size] = [Config.NonEmptyString("NAME"), Config.Int("SIZE")]
const url = Config.map(text, (name) => `redis://${name}.invalid`)

/** Each Layer from configuration, with a text and a number that it takes. */
const layers: Record<string, Layer.Layer<never, unknown, unknown>> = {
  "InMemory.layerConfig": InMemory.layerConfig({ maxRecords: size, maxBytes: Config.map(text, Number) }),
  "Sqlite.layerConfig": Sqlite.layerConfig({ filename: text, maxDataBytes: size }),
  "DynamoDb.layerConfig": DynamoDb.layerConfig({ tableName: text, maxDataBytes: size }),
  "DynamoDb.layerClientConfig": DynamoDb.layerClientConfig({ region: text, maxAttempts: size }),
  "Postgres.layerConfig": Postgres.layerConfig({
    tableName: text,
    maxDataBytes: size,
    url: Config.succeed(Redacted.make("postgres://localhost"))
  }),
  "Redis.layerConfig": Redis.layerConfig({ keyPrefix: text, maxDataBytes: size }),
  "RedisClient.layerConfig": RedisClient.layerConfig({ url, database: size }),
  "RedisClient.layerClusterConfig": RedisClient.layerClusterConfig({
    rootNodes: Config.map(url, (url) => [{ url }]),
    maxCommandRedirections: size
  }),
  "TaskStore.layerConfig": TaskStore.layerConfig({ maxTasksPerOwner: size, defaultTtl: text as Config.Config<never> })
}

describe("A Layer from configuration names in its first line", () => {
  for (const [name, layer] of Object.entries(layers)) {
    it.effect(`the variable that is missing or wrong, and what it should be: ${name}`, () =>
      Effect.gen(function* () {
        assert.match((yield* firstLine(layer, { SIZE: "1" })) ?? "", /^ConfigError: NAME is missing\. Expected string/)
        assert.match(
          (yield* firstLine(layer, { NAME: "records", SIZE: "many" })) ?? "",
          /^ConfigError: SIZE is wrong\. Expected an integer/
        )
      })
    )
  }

  it.effect("the variable whose value has the right type and is refused all the same", () =>
    Effect.gen(function* () {
      const seconds = Config.Duration("WAIT")
      for (const [layer, env, expected] of [
        [InMemory.layerConfig({ maxRecords: size }), { SIZE: "-3" }, "SIZE is wrong. maxRecords must be a number of"],
        [
          Sqlite.layerConfig({ filename: text, maxDataBytes: size }),
          { NAME: ":memory:", SIZE: "-1" },
          "SIZE is wrong. "
        ],
        [
          TaskStore.layerConfig({ pollInterval: seconds }),
          { WAIT: "-1 second" },
          "WAIT is wrong. pollInterval must be"
        ],
        [
          DynamoDb.layerFromEnv,
          { DYNAMODB_PARTITION_KEY: "SK" },
          "DYNAMODB_PARTITION_KEY is wrong. attributes must have"
        ]
      ] as ReadonlyArray<readonly [Layer.Layer<never, unknown, unknown>, Record<string, string>, string]>) {
        assert.include(yield* firstLine(Layer.fresh(layer), env), `ConfigError: ${expected}`)
      }
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("each variable of DynamoDb.layerFromEnv", () =>
    Effect.gen(function* () {
      const integer = "Expected an integer of zero or more, got "
      const duration = 'Expected a duration such as "5 seconds", of zero or more, got '
      const either = 'Expected "true" | "yes"'
      for (const [variable, value, expected] of [
        ["DYNAMODB_RETRIES", "many", `${integer}many`],
        ["DYNAMODB_RETRIES", "-1", `${integer}-1`],
        ["DYNAMODB_RETRIES", "1.5", `${integer}1.5`],
        ["DYNAMODB_MAX_DATA_BYTES", "1 MB", `${integer}1 MB`],
        ["DYNAMODB_REQUEST_TIMEOUT", "soon", `${duration}soon`],
        ["DYNAMODB_REQUEST_TIMEOUT", "-1 second", `${duration}-1 second`],
        ["DYNAMODB_CONSISTENT_READ", "always", either],
        ["DYNAMODB_VERIFY", "always", either]
      ] as const) {
        for (const layer of [DynamoDb.layerFromEnv, DynamoDb.layerFromEnvWithTable("records")]) {
          const line = yield* firstLine(Layer.fresh(layer), { [variable]: value })
          assert.include(line, `ConfigError: ${variable} is wrong. ${expected}`)
        }
      }
    })
  )
})

describe("The option verify", () => {
  it.effect("is true or false, on each Layer that has it", () =>
    Effect.gen(function* () {
      const verify = "yes" as unknown as boolean
      const client = Layer.sync(EffectRedis.Redis)(() => ({}) as EffectRedis.Redis["Service"])
      for (const layer of [
        Sqlite.layer({ filename: ":memory:", verify }),
        DynamoDb.layer({ tableName: "records", verify }).pipe(Layer.provide(DynamoDb.layerClient())),
        Postgres.layer({ verify }).pipe(Layer.provide(Postgres.layerClient({}))),
        Redis.layer({ verify }).pipe(Layer.provide(client))
      ]) {
        assert.include(yield* firstLine(layer, {}), 'verify must be true or false: it is "yes"')
      }
    })
  )
})

describe("InMemory.layerConfig", () => {
  it.effect("takes the bounds from configuration", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      yield* backend.put(makeUnsafe({ owner: "alice", id: "1" }), "data")
      const error = yield* Effect.flip(backend.put(makeUnsafe({ owner: "alice", id: "2" }), "data"))
      assert.deepInclude(error, { _tag: "CapacityExceeded", resource: "StoreRecords", limit: 1 })
    }).pipe(Effect.provide(InMemory.layerConfig({ maxRecords: size })), withEnv({ SIZE: "1" }))
  )
})
