import { createServer, type IncomingHttpHeaders } from "node:http"
import type { AddressInfo } from "node:net"
import { afterEach, assert, beforeEach, describe, it, vi } from "@effect/vitest"
import { Config, ConfigProvider, DateTime, Effect, Layer, Logger } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })

interface Request {
  readonly operation: string
  readonly headers: IncomingHttpHeaders
  readonly body: Record<string, unknown>
}

/** Answers each request over HTTP as DynamoDB does if nothing is there, or with an error, and notes it. */
const listening = (answer: "{}" | "error" | "nothing" = "{}") =>
  Effect.acquireRelease(
    Effect.callback<{ readonly requests: Array<Request>; readonly endpoint: string; readonly close: () => void }>(
      (resume) => {
        const requests: Array<Request> = []
        const server = createServer((incoming, outgoing) => {
          const chunks: Array<Buffer> = []
          incoming.on("data", (chunk) => chunks.push(chunk))
          incoming.on("end", () => {
            const operation = String(incoming.headers["x-amz-target"]).split(".")[1] ?? ""
            if (operation !== "DescribeTimeToLive") {
              requests.push({ operation, headers: incoming.headers, body: JSON.parse(String(Buffer.concat(chunks))) })
            }
            if (answer === "nothing" && operation !== "DescribeTimeToLive") return
            outgoing.writeHead(answer === "error" ? 400 : 200, { "content-type": "application/x-amz-json-1.0" })
            outgoing.end(answer === "error" ? '{"__type":"com.amazonaws#ThrottlingException","message":""}' : "{}")
          })
        })
        const close = () => {
          server.closeAllConnections()
          server.close()
        }
        server.listen(0, "127.0.0.1", () => {
          const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
          resume(Effect.succeed({ requests, endpoint, close }))
        })
      }
    ),
    ({ close }) => Effect.sync(close)
  )

beforeEach(() => {
  vi.stubEnv("AWS_ACCESS_KEY_ID", "local")
  vi.stubEnv("AWS_SECRET_ACCESS_KEY", "local")
  vi.stubEnv("AWS_REGION", "eu-central-1")
})
afterEach(() => vi.unstubAllEnvs())

/** Runs an effect with a backend that the environment sets up. */
const withEnv = <A, E>(
  layer: Layer.Layer<StorageBackend, Backend | Config.ConfigError>,
  env: Record<string, string>,
  f: (backend: StorageBackend["Service"]) => Effect.Effect<A, E>
) =>
  StorageBackend.use(f).pipe(
    Effect.provide(Layer.fresh(layer)),
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: { DYNAMODB_VERIFY: "false", ...env } }))),
    Effect.provide(Logger.layer([]))
  )

const put = (backend: StorageBackend["Service"]) =>
  backend.put(key, "data", { expiresAt: DateTime.makeUnsafe(4_000_000_000_000) })

describe("DynamoDb.layerFromEnv", () => {
  it.live("has the defaults that it documents", () =>
    Effect.gen(function* () {
      const { endpoint, requests } = yield* listening()
      yield* withEnv(DynamoDb.layerFromEnv, { DYNAMODB_ENDPOINT: endpoint }, (backend) =>
        Effect.andThen(put(backend), Effect.ignore(backend.get(key)))
      )
      assert.deepInclude(requests[0]?.body, {
        TableName: "pmcp_tasks",
        Key: { PK: { S: "OWNER#alice" }, SK: { S: "TASK#a" } },
        ExpressionAttributeNames: { "#v": "version", "#d": "data", "#e": "expires_at", "#w": "write_id" }
      })
      assert.strictEqual(requests[1]?.body.ConsistentRead, true)
      assert.include(requests[0]?.headers.authorization, "/eu-central-1/dynamodb/")
    })
  )

  it.live("takes each setting from its variable", () =>
    Effect.gen(function* () {
      const { endpoint, requests } = yield* listening()
      const env = {
        DYNAMODB_TABLE: "records",
        DYNAMODB_ENDPOINT: endpoint,
        DYNAMODB_REGION: "us-west-2",
        DYNAMODB_CONSISTENT_READ: "false",
        DYNAMODB_OWNER_PREFIX: "o/",
        DYNAMODB_ID_PREFIX: "id/",
        DYNAMODB_PARTITION_KEY: "p",
        DYNAMODB_SORT_KEY: "s",
        DYNAMODB_VERSION_ATTRIBUTE: "v",
        DYNAMODB_DATA_ATTRIBUTE: "d",
        DYNAMODB_EXPIRES_AT_ATTRIBUTE: "e",
        DYNAMODB_WRITE_ID_ATTRIBUTE: "w"
      }
      const operations = (backend: StorageBackend["Service"]) =>
        Effect.andThen(put(backend), Effect.ignore(backend.get(key)))
      yield* withEnv(DynamoDb.layerFromEnv, env, operations)
      yield* withEnv(DynamoDb.layerFromEnvWithTable("named"), env, operations)
      for (const i of [0, 2]) {
        assert.deepInclude(requests[i]?.body, {
          TableName: i === 0 ? "records" : "named",
          Key: { p: { S: "o/alice" }, s: { S: "id/a" } },
          ExpressionAttributeNames: { "#v": "v", "#d": "d", "#e": "e", "#w": "w" }
        })
        assert.strictEqual(requests[i + 1]?.body.ConsistentRead, false)
        assert.include(requests[i]?.headers.authorization, "/us-west-2/dynamodb/")
      }
    })
  )

  it.live("takes zero for no retries, no waiting and no data", () =>
    Effect.gen(function* () {
      const throttling = yield* listening("error")
      const local = { DYNAMODB_ENDPOINT: throttling.endpoint }
      const throttled = yield* Effect.flip(
        withEnv(DynamoDb.layerFromEnv, { ...local, DYNAMODB_RETRIES: "0" }, (backend) => backend.get(key))
      )
      assert.include(`${throttled}`, "throttles requests to table pmcp_tasks")
      assert.strictEqual(throttling.requests.length, 1)
      yield* Effect.flip(
        withEnv(DynamoDb.layerFromEnv, { ...local, DYNAMODB_RETRIES: "2" }, (backend) => backend.get(key))
      )
      assert.strictEqual(throttling.requests.length, 1 + 3)
      const full = yield* Effect.flip(withEnv(DynamoDb.layerFromEnv, { ...local, DYNAMODB_MAX_DATA_BYTES: "0" }, put))
      assert.deepInclude(full, { _tag: "CapacityExceeded", resource: "RecordBytes", limit: 0 })
      const silent = yield* listening("nothing")
      for (const [timeout, words] of [
        ["0 millis", "within 0"],
        ["70 millis", "within 70ms"]
      ] as const) {
        const env = { DYNAMODB_ENDPOINT: silent.endpoint, DYNAMODB_RETRIES: "0", DYNAMODB_REQUEST_TIMEOUT: timeout }
        const error = yield* Effect.flip(withEnv(DynamoDb.layerFromEnv, env, (backend) => backend.get(key)))
        assert.include(`${error}`, words)
        assert.propertyVal(error, "outcome", "not-applied")
        const write = yield* Effect.flip(withEnv(DynamoDb.layerFromEnv, env, put))
        assert.include(`${write}`, words)
        assert.propertyVal(write, "outcome", "unknown")
      }
    })
  )
})

describe("DynamoDb.layerConfig", () => {
  it.live("gives the client the endpoint and the region, and leaves to the AWS SDK what is missing", () =>
    Effect.gen(function* () {
      const { endpoint, requests } = yield* listening()
      const tableName = Config.succeed("records")
      yield* withEnv(DynamoDb.layerConfig({ tableName, endpoint: Config.succeed(endpoint) }), {}, put)
      vi.stubEnv("AWS_ENDPOINT_URL_DYNAMODB", endpoint)
      yield* withEnv(DynamoDb.layerConfig({ tableName, region: Config.succeed("us-west-2") }), {}, put)
      const regions = requests.map(({ headers }) => headers.authorization?.split("/")[2])
      assert.deepStrictEqual(regions, ["eu-central-1", "us-west-2"])
    })
  )
})

describe("DynamoDb.layerClient", () => {
  it.effect("destroys the client that it made when the scope closes", () =>
    Effect.gen(function* () {
      let destroyed = 0
      yield* Effect.scoped(
        Effect.gen(function* () {
          const client = yield* Effect.provide(DynamoDb.Client, yield* Layer.build(DynamoDb.layerClient({})))
          vi.spyOn(client, "destroy").mockImplementation(() => void destroyed++)
          assert.strictEqual(destroyed, 0)
        })
      )
      assert.strictEqual(destroyed, 1)
    })
  )
})
