import type { AddressInfo } from "node:net"
import { createServer } from "node:net"
import { CreateTableCommand, type ScalarAttributeType, ScanCommand } from "@aws-sdk/client-dynamodb"
import { assert, beforeEach, describe, layer, vi } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Logger } from "effect"
import { afterEach } from "vitest"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import type { Fate } from "../support/ambiguity.ts"
import { clientConfig, endpoint, layerClient, newTableName } from "../support/dynamoDb.ts"
import { type Answer, dynamoDbProxy } from "../support/dynamoDbProxy.ts"

beforeEach(() => {
  vi.stubEnv("AWS_ACCESS_KEY_ID", process.env.AWS_ACCESS_KEY_ID ?? "local")
  vi.stubEnv("AWS_SECRET_ACCESS_KEY", process.env.AWS_SECRET_ACCESS_KEY ?? "local")
  vi.stubEnv("AWS_REGION", clientConfig.region)
})
afterEach(() => vi.unstubAllEnvs())

const quiet = Layer.provide(Logger.layer([]))

/** Builds the Layer that the environment sets up. */
const build = (env: Record<string, string>) =>
  Effect.scoped(Layer.build(Layer.fresh(DynamoDb.layerFromEnv))).pipe(
    Effect.provide(
      ConfigProvider.layer(ConfigProvider.fromEnv({ env: { DYNAMODB_ENDPOINT: endpoint ?? "", ...env } }))
    ),
    Effect.provide(Logger.layer([])),
    Effect.asVoid
  )

const assertFails = Effect.fnUntraced(function* (
  env: Record<string, string>,
  reason: Backend["reason"]["_tag"],
  says: string
) {
  const error = (yield* Effect.flip(build(env))) as Backend
  assert.deepStrictEqual([error._tag, error.operation, error.outcome], ["Backend", "open", "not-applied"], `${error}`)
  assert.strictEqual(error.reason._tag, reason, error.message)
  assert.include(error.message, says)
})

/** Creates a table with the keys that are given. */
const newTable = Effect.fnUntraced(function* (...keys: ReadonlyArray<readonly [string, ScalarAttributeType]>) {
  const tableName = newTableName()
  const client = yield* DynamoDb.Client
  yield* Effect.promise(() =>
    client.send(
      new CreateTableCommand({
        TableName: tableName,
        BillingMode: "PAY_PER_REQUEST",
        AttributeDefinitions: keys.map(([AttributeName, AttributeType]) => ({ AttributeName, AttributeType })),
        KeySchema: keys.map(([AttributeName], i) => ({ AttributeName, KeyType: i === 0 ? "HASH" : "RANGE" }))
      })
    )
  )
  return tableName
})

/** A DynamoDB that denies some requests, as AWS does. DynamoDB Local permits all. */
const denying = (...denied: ReadonlyArray<string>) =>
  dynamoDbProxy(endpoint ?? "", (operation): Fate | Answer =>
    denied.includes(operation)
      ? { status: 400, type: "AccessDeniedException", message: `not authorized to perform: dynamodb:${operation}` }
      : "pass"
  )

describe.skipIf(endpoint === undefined)("DynamoDb.layerFromEnv verifies the table, and", () => {
  layer(layerClient, { excludeTestServices: true })((it) => {
    it.effect("builds, with one request of each kind, which leave the table empty", () =>
      Effect.gen(function* () {
        const tableName = yield* newTable(["PK", "S"], ["SK", "S"])
        const proxy = yield* denying()
        yield* build({ DYNAMODB_ENDPOINT: proxy.endpoint, DYNAMODB_TABLE: tableName })
        const sent = proxy.requests.filter((name) => name !== "DescribeTimeToLive").sort()
        assert.deepStrictEqual(sent, ["BatchGetItem", "DeleteItem", "GetItem", "Query", "UpdateItem"])
        const client = yield* DynamoDb.Client
        const { Count } = yield* Effect.promise(() => client.send(new ScanCommand({ TableName: tableName })))
        assert.strictEqual(Count, 0)
        // A record at the address of the requests stays as it is.
        const own = makeUnsafe({ owner: "effect-versioned-store", id: "verify" })
        const backend = yield* Effect.provide(StorageBackend, yield* Layer.build(quiet(DynamoDb.layer({ tableName }))))
        const record = yield* backend.put(own, "data")
        yield* build({ DYNAMODB_TABLE: tableName })
        assert.deepStrictEqual(yield* backend.get(own), record)
        // The prefixes may be empty, and the keys may have other names.
        const other = yield* newTable(["p", "S"], ["s", "S"])
        const keys = { DYNAMODB_PARTITION_KEY: "p", DYNAMODB_SORT_KEY: "s" }
        yield* build({ ...keys, DYNAMODB_TABLE: other, DYNAMODB_OWNER_PREFIX: "", DYNAMODB_ID_PREFIX: "" })
      })
    )

    it.effect("fails if the table is missing", () =>
      assertFails(
        { DYNAMODB_TABLE: "nowhere" },
        "Misconfigured",
        "open failed: There is no table nowhere: create it with DynamoDb.ensureTable, or set the right name, region"
      )
    )

    it.effect("fails if the keys have other names or types, and says which they are", () =>
      Effect.gen(function* () {
        for (const [keys, says] of [
          [[["id", "S"]], "has the key schema id HASH S, and the backend needs PK HASH S, SK RANGE S"],
          [
            [
              ["pk", "S"],
              ["sk", "S"]
            ],
            "has the key schema pk HASH S, sk RANGE S, and"
          ],
          [
            [
              ["PK", "S"],
              ["SK", "N"]
            ],
            "has the key schema PK HASH S, SK RANGE N, and"
          ],
          [
            [
              ["SK", "S"],
              ["PK", "S"]
            ],
            "has the key schema SK HASH S, PK RANGE S, and"
          ]
        ] as ReadonlyArray<readonly [ReadonlyArray<readonly [string, ScalarAttributeType]>, string]>) {
          const tableName = yield* newTable(...keys)
          yield* assertFails({ DYNAMODB_TABLE: tableName }, "Misconfigured", `Table ${tableName} ${says}`)
          yield* assertFails({ DYNAMODB_TABLE: tableName }, "Misconfigured", "DYNAMODB_PARTITION_KEY")
          // A role may not be permitted to describe the table.
          const { endpoint } = yield* denying("DescribeTable")
          const env = { DYNAMODB_ENDPOINT: endpoint, DYNAMODB_TABLE: tableName }
          yield* assertFails(env, "Misconfigured", `Table ${tableName} has another key schema`)
        }
      })
    )

    it.effect("fails if a permission of an operation is missing, and needs no other one", () =>
      Effect.gen(function* () {
        const tableName = yield* newTable(["PK", "S"], ["SK", "S"])
        for (const operation of ["GetItem", "BatchGetItem", "Query", "UpdateItem", "DeleteItem"]) {
          const { endpoint } = yield* denying(operation)
          const env = { DYNAMODB_ENDPOINT: endpoint, DYNAMODB_TABLE: tableName }
          yield* assertFails(env, "Unauthorized", `grant dynamodb:${operation} on table ${tableName}`)
          yield* assertFails(env, "Unauthorized", "switch verify off (DYNAMODB_VERIFY=false)")
          yield* build({ ...env, DYNAMODB_VERIFY: "false" })
        }
        const { endpoint } = yield* denying("DescribeTable", "DescribeTimeToLive")
        yield* build({ DYNAMODB_ENDPOINT: endpoint, DYNAMODB_TABLE: tableName })
      })
    )

    it.effect("fails once, after the request's time-out, if the server hangs", () =>
      Effect.gen(function* () {
        const proxy = yield* dynamoDbProxy(endpoint ?? "", () => "hang")
        yield* assertFails(
          { DYNAMODB_ENDPOINT: proxy.endpoint, DYNAMODB_REQUEST_TIMEOUT: "300 millis" },
          "Timeout",
          "open failed: DynamoDB did not answer within 300ms. Check the endpoint, the region, and the network"
        )
        assert.strictEqual(proxy.requests.length, 5)
      })
    )

    it.effect("fails if nothing or a stranger answers at the endpoint", () =>
      Effect.gen(function* () {
        const env = { DYNAMODB_RETRIES: "0" }
        const nothing = { ...env, DYNAMODB_ENDPOINT: "http://127.0.0.1:1" }
        yield* assertFails(
          nothing,
          "Unavailable",
          "can't be reached: connect ECONNREFUSED 127.0.0.1:1. Check the endpoint"
        )
        const port = yield* stranger
        const strange = { ...env, DYNAMODB_ENDPOINT: `http://127.0.0.1:${port}` }
        yield* assertFails(strange, "Misconfigured", "The server at the endpoint is not DynamoDB")
      })
    )

    it.effect("is patient with a server that fails for a moment", () =>
      Effect.gen(function* () {
        const tableName = yield* newTable(["PK", "S"], ["SK", "S"])
        let failures = 3
        const proxy = yield* dynamoDbProxy(endpoint ?? "", (): Fate | Answer =>
          failures-- > 0 ? { status: 500, type: "InternalServerError", message: "" } : "pass"
        )
        yield* build({ DYNAMODB_ENDPOINT: proxy.endpoint, DYNAMODB_TABLE: tableName })
      })
    )
  })
})

/** A server that answers with the page of a web site. */
const stranger = Effect.map(
  Effect.acquireRelease(
    Effect.callback<ReturnType<typeof createServer>>((resume) => {
      const page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>"
      const server = createServer((socket) => {
        socket.on("error", () => {}).on("data", () => socket.end(page))
      })
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) => Effect.sync(() => server.close())
  ),
  (server) => (server.address() as AddressInfo).port
)
