import {
  CreateTableCommand,
  DescribeTableCommand,
  DescribeTimeToLiveCommand,
  GetItemCommand,
  UpdateTimeToLiveCommand
} from "@aws-sdk/client-dynamodb"
import { assert, describe, layer } from "@effect/vitest"
import { DateTime, Effect, Layer, Logger } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { endpoint, layerTable, newClient, newTableName } from "../support/dynamoDb.ts"
import { until } from "../support/until.ts"

const tableName = newTableName()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })
const asBackend = (error: { readonly _tag: string }): Backend => {
  assert.strictEqual(error._tag, "Backend")
  return error as Backend
}
const logged = () => {
  const messages: Array<string> = []
  const layer = Logger.layer([
    Logger.make(({ logLevel, message }) => {
      if (logLevel === "Warn") messages.push(String(message))
    })
  ])
  return { messages, layer }
}
/** A client that counts the answers to the check of Time to Live, which the Layer sends in the background. */
const countingChecks = () => {
  const client = newClient()
  let checks = 0
  client.middlewareStack.add(
    (next, { commandName }) =>
      (args) =>
        next(args).finally(() => {
          if (commandName === "DescribeTimeToLiveCommand") checks++
        }),
    { step: "initialize" }
  )
  return { client, checks: () => checks }
}

describe.skipIf(endpoint === undefined)("DynamoDb's table", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    describe("is set up", () => {
      it.effect("by createTable, once", () =>
        Effect.gen(function* () {
          const client = yield* DynamoDb.Client
          const table = newTableName()
          yield* DynamoDb.createTable({ tableName: table })
          const { Table } = yield* Effect.promise(() => client.send(new DescribeTableCommand({ TableName: table })))
          assert.deepStrictEqual(Table?.KeySchema, [
            { AttributeName: "PK", KeyType: "HASH" },
            { AttributeName: "SK", KeyType: "RANGE" }
          ])
          assert.strictEqual(Table?.BillingModeSummary?.BillingMode, "PAY_PER_REQUEST")
          const { TimeToLiveDescription } = yield* Effect.promise(() =>
            client.send(new DescribeTimeToLiveCommand({ TableName: table }))
          )
          assert.deepStrictEqual(TimeToLiveDescription, { TimeToLiveStatus: "ENABLED", AttributeName: "expires_at" })
          const again = yield* Effect.flip(DynamoDb.createTable({ tableName: table }))
          assert.strictEqual(again.reason._tag, "Misconfigured")
          assert.include(again.message, "createTable failed: There is a table")
        })
      )

      it.effect("by ensureTable any number of times, also concurrently", () =>
        Effect.gen(function* () {
          const table = newTableName()
          const ensure = DynamoDb.ensureTable({ tableName: table })
          yield* Effect.all([ensure, ensure, ensure], { concurrency: "unbounded" })
          yield* ensure
          const other = DynamoDb.ensureTable({ tableName: table, attributes: { expiresAt: "ttl" } })
          assert.include((yield* Effect.flip(other)).message, "Time to Live on another attribute: expires_at")
        })
      )

      it.effect("with the names and prefixes that the options give", () =>
        Effect.gen(function* () {
          const client = yield* DynamoDb.Client
          const attributes = { partitionKey: "p", sortKey: "s", version: "v", data: "d", expiresAt: "e", writeId: "w" }
          const options = { tableName: newTableName(), attributes, ownerPrefix: "", idPrefix: "" }
          yield* DynamoDb.ensureTable(options)
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey("b")
            const expiresAt = DateTime.makeUnsafe(4_000_000_000_000)
            const record = yield* backend.putIfVersion(key, "one", 0, { expiresAt })
            yield* backend.putIfVersion(key, "two", record, { expiresAt })
            yield* backend.put(newKey("a"), "other")
            const page = yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            assert.deepStrictEqual(
              page.records.map(({ data, key }) => [key.id, data]),
              [["b", "two"]]
            )
            const { Item } = yield* Effect.promise(() =>
              client.send(
                new GetItemCommand({ TableName: options.tableName, Key: { p: { S: key.owner }, s: { S: "b" } } })
              )
            )
            assert.deepStrictEqual(Object.keys(Item ?? {}).sort(), ["d", "e", "p", "s", "v", "w"])
          }).pipe(Effect.provide(DynamoDb.layer(options)))
        })
      )
    })

    describe("is checked, and the error or the log says", () => {
      it.effect("that it does not exist, and how to create it", () =>
        Effect.gen(function* () {
          const { layer, messages } = logged()
          const missing = newTableName()
          const error = yield* StorageBackend.use((backend) =>
            Effect.andThen(
              until(() => messages.length > 0),
              Effect.flip(backend.get(newKey()))
            )
          ).pipe(Effect.provide(DynamoDb.layer({ tableName: missing })), Effect.provide(layer))
          const backend = asBackend(error)
          assert.strictEqual(backend.reason._tag, "Misconfigured")
          assert.include(backend.message, `There is no table ${missing}: create it with DynamoDb.ensureTable`)
          assert.strictEqual(messages.length, 1)
        })
      )

      it.effect("that it has another key schema", () =>
        Effect.gen(function* () {
          const client = yield* DynamoDb.Client
          const other = newTableName()
          yield* Effect.promise(() =>
            client.send(
              new CreateTableCommand({
                TableName: other,
                BillingMode: "PAY_PER_REQUEST",
                AttributeDefinitions: [{ AttributeName: "id", AttributeType: "S" }],
                KeySchema: [{ AttributeName: "id", KeyType: "HASH" }]
              })
            )
          )
          const operations = StorageBackend.use((backend) =>
            Effect.all([Effect.flip(backend.get(newKey())), Effect.flip(backend.put(newKey(), "data"))])
          )
          for (const error of yield* Effect.provide(operations, DynamoDb.layer({ tableName: other }))) {
            const backend = asBackend(error)
            assert.strictEqual(backend.reason._tag, "Misconfigured")
            assert.strictEqual(backend.outcome, "not-applied")
            assert.include(backend.message, "another key schema")
          }
          const ensured = asBackend(yield* Effect.flip(DynamoDb.ensureTable({ tableName: other })))
          assert.include(ensured.message, "another key schema: id HASH")
        })
      )

      it.effect("that Time to Live is not on, once", () =>
        Effect.gen(function* () {
          const client = yield* DynamoDb.Client
          const table = newTableName()
          yield* DynamoDb.createTable({ tableName: table })
          const run = (options: DynamoDb.Options) =>
            Effect.gen(function* () {
              const { layer, messages } = logged()
              const { checks, client } = countingChecks()
              yield* StorageBackend.use((backend) =>
                Effect.gen(function* () {
                  yield* backend.put(newKey(), "data")
                  yield* until(() => checks() === 1)
                  // By the time that a request sent after the check is answered, the check's warning is in the log.
                  yield* backend.put(newKey(), "data")
                  assert.strictEqual(checks(), 1)
                })
              ).pipe(
                Effect.provide(DynamoDb.layer(options)),
                Effect.provide(Layer.succeed(DynamoDb.Client, client)),
                Effect.provide(layer)
              )
              return messages
            })
          assert.deepStrictEqual(yield* run({ tableName: table }), [])
          const elsewhere = yield* run({ tableName: table, attributes: { expiresAt: "ttl" } })
          assert.strictEqual(elsewhere.length, 1)
          assert.include(elsewhere[0], "is not on for attribute ttl")
          yield* Effect.promise(() =>
            client.send(
              new UpdateTimeToLiveCommand({
                TableName: table,
                TimeToLiveSpecification: { AttributeName: "expires_at", Enabled: false }
              })
            )
          )
          assert.strictEqual((yield* run({ tableName: table })).length, 1)
        })
      )
    })
  })
})
