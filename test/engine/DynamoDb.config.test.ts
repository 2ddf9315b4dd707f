import { afterEach, assert, describe, layer, vi } from "@effect/vitest"
import { Config, ConfigProvider, Effect } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { clientConfig, endpoint, getItem, layerTable, newTableName } from "../support/dynamoDb.ts"

const tableName = newTableName()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

afterEach(() => vi.unstubAllEnvs())

describe.skipIf(endpoint === undefined)("DynamoDb is configured", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    it.effect("by layerConfig, and by the environment with its defaults", () =>
      Effect.gen(function* () {
        vi.stubEnv("AWS_ACCESS_KEY_ID", process.env.AWS_ACCESS_KEY_ID ?? "local")
        vi.stubEnv("AWS_SECRET_ACCESS_KEY", process.env.AWS_SECRET_ACCESS_KEY ?? "local")
        vi.stubEnv("AWS_REGION", clientConfig.region)
        yield* DynamoDb.ensureTable({ tableName: "pmcp_tasks" })
        const key = newKey()
        const write = StorageBackend.use((backend) => backend.put(key, "data"))
        const provide = (layer: typeof DynamoDb.layerFromEnv, environment: Record<string, string>) =>
          write.pipe(
            Effect.provide(layer),
            Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: environment })))
          )
        const local = { DYNAMODB_ENDPOINT: endpoint ?? "" }
        yield* provide(DynamoDb.layerFromEnv, local)
        assert.isDefined(yield* getItem("pmcp_tasks", key.owner, "a"))

        yield* provide(DynamoDb.layerFromEnvWithTable(tableName), { ...local, DYNAMODB_DATA_ATTRIBUTE: "payload" })
        assert.deepStrictEqual((yield* getItem(tableName, key.owner, "a"))?.payload, { S: "data" })

        const named = { ...local, DYNAMODB_TABLE: tableName, DYNAMODB_OWNER_PREFIX: "OWNER#x", DYNAMODB_RETRIES: "0" }
        yield* provide(DynamoDb.layerFromEnv, named)
        assert.isDefined(yield* getItem(tableName, `x${key.owner}`, "a"))

        const configured = DynamoDb.layerConfig({
          tableName: Config.String("RECORDS"),
          endpoint: Config.String("DYNAMODB_ENDPOINT"),
          idPrefix: Config.succeed("TASK#config/")
        })
        yield* provide(configured, { ...local, RECORDS: tableName })
        assert.isDefined(yield* getItem(tableName, key.owner, "config/a"))

        const wrong = provide(DynamoDb.layerFromEnv, { ...local, DYNAMODB_REQUEST_TIMEOUT: "soon" })
        assert.include(String(yield* Effect.flip(wrong)), "DYNAMODB_REQUEST_TIMEOUT")
        const missing = provide(configured, local)
        assert.include(String(yield* Effect.flip(missing)), "RECORDS")
      })
    )

    it.effect("with a limit for the data of one record", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        yield* backend.put(newKey(), "1234")
        assert.strictEqual((yield* Effect.flip(backend.put(newKey(), "12345")))._tag, "CapacityExceeded")
      }).pipe(Effect.provide(DynamoDb.layer({ tableName, maxDataBytes: 4 })))
    )
  })
})
