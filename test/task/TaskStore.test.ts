import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Layer } from "effect"
import * as InMemory from "../../src/backend/InMemory.ts"
import * as Sqlite from "../../src/backend/Sqlite.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import * as TaskContract from "../../src/testing/TaskContract.ts"
import { endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"

TaskContract.suite("InMemory", InMemory.layer)

TaskContract.suite("Sqlite", Sqlite.layer({ filename: newFiles()() }))

describe.skipIf(endpoint === undefined)("DynamoDb", () => {
  TaskContract.suite("DynamoDb", layerTable({ tableName: newTableName() }))
})

describe.skipIf(url === undefined)("Redis", () => {
  TaskContract.suite("Redis", layerKeys({ keyPrefix: newKeyPrefix() }))
})

describe("TaskStore.layerConfig", () => {
  const layer = (env: Record<string, string>) =>
    TaskStore.layerConfig({
      maxTasksPerOwner: Config.Int("TASKS_PER_OWNER"),
      maxTtl: Config.withDefault(Config.Duration("TASKS_MAX_TTL"), undefined)
    }).pipe(Layer.provide(InMemory.layer), Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))))

  const create = (ttl?: "30 seconds") =>
    TaskStore.TaskStore.use((tasks) => tasks.create({ ownerId: "alice", requestMethod: "tools/call", ttl }))

  it.effect("takes the settings that are given, and the defaults of the others", () =>
    Effect.gen(function* () {
      yield* create("30 seconds")
      assert.strictEqual((yield* Effect.flip(create()))._tag, "TooManyTasks")
    }).pipe(Effect.provide(layer({ TASKS_PER_OWNER: "1" })))
  )

  it.effect("shortens the default time to live to the longest that is allowed", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* create()).task.ttl, 20_000)
      assert.strictEqual((yield* Effect.flip(create("30 seconds")))._tag, "TtlTooLong")
    }).pipe(Effect.provide(layer({ TASKS_PER_OWNER: "9", TASKS_MAX_TTL: "20 seconds" })))
  )

  it.effect("fails with what is wrong with a setting", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(Effect.provide(create(), layer({ TASKS_PER_OWNER: "many" })))
      assert.strictEqual(error._tag, "ConfigError")
      assert.match(error.message, /TASKS_PER_OWNER/)
    })
  )
})
