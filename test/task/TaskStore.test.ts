import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Effect, Exit, Layer, Logger } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import * as TaskContract from "../../src/testing/TaskContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { layerTable as layerPostgres, newTable, url as postgresUrl } from "../support/postgres.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"

/** Runs the contract twice: once where changes of one task share writes, and once where each writes on its own. */
const suites = <E>(name: string, layer: Layer.Layer<StorageBackend, E>) => {
  TaskContract.suite(name, layer)
  const ungrouped = Layer.succeed(VersionedStore.GroupCommit, false)
  TaskContract.suite(`${name}, without group commit`, Layer.merge(layer, ungrouped))
}

suites("InMemory", InMemory.layer)

suites("Sqlite", Sqlite.layer({ filename: newFiles()() }))

describe.skipIf(endpoint === undefined)("DynamoDb", () => {
  suites("DynamoDb", layerTable({ tableName: newTableName() }))
})

describe.skipIf(url === undefined)("Redis", () => {
  suites("Redis", layerKeys({ keyPrefix: newKeyPrefix() }))
})

describe.skipIf(postgresUrl === undefined)("Postgres", () => {
  suites("Postgres", layerPostgres({ tableName: newTable() }))
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

describe("an option of the task store", () => {
  const build = (options: Record<string, unknown>) =>
    Effect.map(
      Effect.exit(Effect.scoped(Layer.build(Layer.provide(TaskStore.layerWith(options), InMemory.layer)))),
      (exit) => (Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "built")
    )

  for (const name of [
    "maxTasksPerOwner",
    "maxVariablesBytes",
    "maxVariablesDepth",
    "maxStringBytes",
    "maxPayloadBytes",
    "maxPayloadDepth"
  ]) {
    it.effect(`is checked when the Layer is built: ${name}`, () =>
      Effect.gen(function* () {
        for (const value of [Number.NaN, -1, "100", null]) {
          assert.include(yield* build({ [name]: value }), `${name} must be a number of zero or more`)
        }
        for (const value of [0, 100, Number.POSITIVE_INFINITY, undefined]) {
          assert.strictEqual(yield* build({ [name]: value }), "built")
        }
      })
    )
  }

  it.effect("is checked when the Layer is built: countTerminal", () =>
    Effect.gen(function* () {
      for (const value of ["false", 0, null]) {
        assert.include(yield* build({ countTerminal: value }), "countTerminal must be true or false")
      }
      for (const value of [true, false, undefined]) assert.strictEqual(yield* build({ countTerminal: value }), "built")
    })
  )

  for (const name of ["defaultTtl", "maxTtl", "grace", "pollInterval"]) {
    it.effect(`is checked when the Layer is built: ${name}`, () =>
      Effect.gen(function* () {
        for (const value of [Number.NaN, -1, "soon", new Date(0), {}, null]) {
          assert.include(yield* build({ [name]: value }), `${name} must be a duration of zero or more`)
        }
        const given = yield* build({ [name]: "Infinity" })
        if (name === "pollInterval") assert.include(given, "pollInterval must be a finite duration")
        else assert.strictEqual(given, "built")
        for (const value of [0, 1.5, "5 seconds", { minutes: 1 }]) {
          assert.strictEqual(yield* build({ [name]: value }), "built")
        }
      })
    )
  }
})

describe("a record that can't be read as a task", () => {
  const log = (lines: Array<string>) =>
    Logger.layer([Logger.make(({ logLevel, message }) => void lines.push(`${logLevel} ${message}`))])

  it.effect("is logged once with its key and the field, and without its data", () => {
    const lines: Array<string> = []
    return Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const backend = yield* StorageBackend
      const { ...record } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
      const task = { ...record.task, status: "a secret" }
      const variables = { secret: 1 }
      for (const [id, stored] of [
        ["damaged/1", JSON.stringify({ ...record, task, variables })],
        ["damaged/2", JSON.stringify({ ...record, variables }).replace('"secret":1', '"secret":1e999')],
        ["damaged/3", "a secret"]
      ] as const) {
        yield* backend.put(makeUnsafe({ owner: "alice", id }), stored)
      }
      for (let i = 0; i < 3; i++) {
        const page = yield* tasks.list({ ownerId: "alice" })
        assert.deepStrictEqual(page.unreadable, ["damaged/3", "damaged/2", "damaged/1"])
      }
      const why = "Left out of a list of tasks: The record at alice:damaged/"
      assert.strictEqual(lines.length, 3)
      assert.include(lines[0], `Warn ${why}3 can't be read as a task, since its data is not JSON`)
      assert.include(lines[1], `${why}2 can't be read as a task, since its field variables is wrong or missing`)
      assert.include(lines[2], `${why}1 can't be read as a task, since its field task.status is wrong or missing`)
      const error = yield* Effect.flip(tasks.get({ ownerId: "alice", taskId: "damaged/1" }))
      for (const text of [...lines, error.message, JSON.stringify(error), String(error)]) {
        assert.notInclude(text, "secret")
      }
    }).pipe(Effect.provide([Layer.provideMerge(TaskStore.layer, InMemory.layer), log(lines)]))
  })

  it.effect(
    "that is nested 100,000 deep is read like any other, and one whose depth can't be written is a defect",
    () =>
      Effect.gen(function* () {
        const tasks = yield* TaskStore.TaskStore
        const backend = yield* StorageBackend
        const record = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
        const key = { ownerId: "alice", taskId: record.task.taskId }
        const deep = "[".repeat(100_000) + "]".repeat(100_000)
        const data = JSON.stringify({ ...record, result: "deep" }).replace('"deep"', deep)
        yield* backend.put(makeUnsafe({ owner: "alice", id: key.taskId }), data)
        assert.strictEqual((yield* tasks.list(key)).tasks.length, 1)
        const exit = yield* Effect.exit(tasks.setStatusMessage(key, "new"))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause) && !Cause.hasFails(exit.cause))
        yield* tasks.remove(key)
      }).pipe(Effect.provide(Layer.provideMerge(TaskStore.layer, InMemory.layer)))
  )
})
