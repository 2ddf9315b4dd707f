import { createServer, type RequestListener } from "node:http"
import type { AddressInfo } from "node:net"
import { CreateTableCommand } from "@aws-sdk/client-dynamodb"
import { assert, describe, it } from "@effect/vitest"
import { Cause, ConfigProvider, Effect, Layer, Logger, Schedule } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import type { Fate } from "../support/ambiguity.ts"
import { clientConfig, endpoint, layerClient, layerTable, newTableName } from "../support/dynamoDb.ts"
import { type Answer, dynamoDbProxy } from "../support/dynamoDbProxy.ts"
import { assertHides } from "../support/shown.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const page = makePrefix({ owner: "alice", idPrefix: "" })

type Config = Parameters<typeof DynamoDb.layerClient>[0]

/** A backend that tries once, on a client with this configuration. */
const build = (config: Config, options: Partial<DynamoDb.Options> = {}) =>
  DynamoDb.layer({ tableName: "records", retrySchedule: Schedule.recurs(0), ...options }).pipe(
    Layer.provide(DynamoDb.layerClient({ ...clientConfig, ...config })),
    Layer.provide(Logger.layer([])),
    Layer.build,
    Effect.flatMap((context) => Effect.provide(StorageBackend, context))
  )

/** The errors of what only reads, and of what writes. */
const errorsOf = Effect.fnUntraced(function* (backend: StorageBackend["Service"], config: Config, tableName: string) {
  const reads: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
    backend.get(key),
    backend.listByPrefix(page),
    DynamoDb.ensureTable({ tableName }).pipe(Effect.provide(DynamoDb.layerClient({ ...clientConfig, ...config })))
  ]
  const writes: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
    backend.put(key, "hush"),
    backend.putIfVersion(key, "hush", 0),
    backend.putIfVersion(key, "hush", 1),
    backend.delete(key),
    backend.deleteIfVersion(key, 1)
  ]
  const errors = Effect.all([...reads, ...writes].map((operation) => Effect.map(Effect.flip(operation), asBackend)))
  const found = yield* errors
  return { reads: found.slice(0, reads.length), writes: found.slice(reads.length) }
})

const asBackend = (error: unknown) => {
  assert.strictEqual((error as Backend)._tag, "Backend")
  return error as Backend
}

const assertRead = ({ message, outcome }: Backend) => {
  assert.strictEqual(outcome, "not-applied", message)
  assert.notInclude(message, "unknown")
}

/** Serves HTTP as something that is not DynamoDB, and gives its endpoint, which has a password. */
const stranger = (listener: RequestListener) =>
  Effect.acquireRelease(
    Effect.callback<ReturnType<typeof createServer>>((resume) => {
      const server = createServer(listener)
      server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
    }),
    (server) =>
      Effect.sync(() => {
        server.closeAllConnections()
        server.close()
      })
  ).pipe(Effect.map((server) => `http://app:pass-word@127.0.0.1:${(server.address() as AddressInfo).port}`))

const answering =
  (status: number, type: string, body: string): RequestListener =>
  (_, response) => {
    response.writeHead(status, { "content-type": type })
    response.end(body)
  }

describe("DynamoDb says that the endpoint is not DynamoDB's, if it answers with", () => {
  for (const [name, listener, reason, outcome] of [
    ["a page of HTML", answering(200, "text/html", "<html>hush</html>"), "Misconfigured", "unknown"],
    ["an answer without a body", answering(200, "text/plain", ""), "Misconfigured", "unknown"],
    ["JSON of its own", answering(200, "application/json", '{"hush":true}'), "Misconfigured", "unknown"],
    ["no such page", answering(404, "text/html", "<html>hush</html>"), "Misconfigured", "not-applied"],
    ["an error in JSON", answering(404, "application/json", '{"message":"hush"}'), "Misconfigured", "not-applied"],
    ["an error in XML", answering(400, "application/xml", "<Error>hush</Error>"), "Misconfigured", "not-applied"],
    ["a redirection", answering(302, "text/html", ""), "Misconfigured", "not-applied"],
    ["a proxy without a server", answering(503, "text/html", "<html>hush</html>"), "Unavailable", "unknown"],
    [
      "no HTTP",
      ({ socket }: Parameters<RequestListener>[0]) => void socket.end("SSH-2.0-hush\r\n"),
      "Misconfigured",
      "unknown"
    ]
  ] as const) {
    it.live(name, () =>
      Effect.gen(function* () {
        const config = { endpoint: yield* stranger(listener) }
        const backend = yield* build(config)
        const transient = reason === "Unavailable"
        const { reads, writes } = transient
          ? {
              reads: [yield* Effect.flip(backend.get(key))] as Array<Backend>,
              writes: [yield* Effect.flip(backend.delete(key))]
            }
          : yield* errorsOf(backend, config, "records")
        for (const error of reads) assertRead(error)
        for (const error of writes) assert.strictEqual(error.outcome, outcome, error.message)
        for (const error of [...reads, ...writes]) {
          assert.strictEqual(error.reason._tag, reason, error.message)
          assert.include(error.message, "The server at the endpoint is not DynamoDB")
          assert.include(error.message, "Check the endpoint's URL")
          assertHides(error, "hush", "pass-word", "$response", "hidden field")
        }
      })
    )
  }
})

describe("DynamoDb shows no credentials and no data in an error", () => {
  it.live("if the endpoint is not a URL, or nothing answers there", () =>
    Effect.gen(function* () {
      for (const [url, message] of [
        ["pass-word", "The endpoint is not a URL"],
        ["http://app:pass-word@localhost:port", "The endpoint is not a URL"],
        ["http://app:pass-word@127.0.0.1:1", "can't be reached"],
        ["http://app:pass-word@dynamodb.invalid", "can't be reached"]
      ] as const) {
        const backend = yield* build({ endpoint: url })
        for (const error of [yield* Effect.flip(backend.get(key)), yield* Effect.flip(backend.put(key, "hush"))]) {
          assert.include(error.message, message)
          assertHides(error, "pass-word", "hush")
        }
        const ensured = Effect.provide(
          DynamoDb.createTable({ tableName: "records" }),
          DynamoDb.layerClient({ ...clientConfig, endpoint: url })
        )
        if (message.includes("URL")) assertHides(yield* Effect.flip(ensured), "pass-word")
      }
    })
  )

  it.live("if AWS or something on the way repeats them", () =>
    Effect.gen(function* () {
      const canonical = "The Canonical String for this request should have been 'POST x-amz-security-token:pass-word'"
      const json = "application/x-amz-json-1.0"
      const error = (type: string, message: string) => JSON.stringify({ __type: `com.amazonaws#${type}`, message })
      for (const [status, body] of [
        [400, error("InvalidSignatureException", `The signature does not match. ${canonical}`)],
        [400, error("IncompleteSignatureException", "not a key=value pair: 'Credential=pass-word'")],
        [400, error("ValidationException", "1 validation error detected: Value 'hush' at 'item' is too long")],
        [400, error("ValidationException", "1 validation error detected: Value 'hu\nsh hush' at 'item'")],
        [200, '{"Item":{"data":{"S":"hush hush'],
        [200, "hush"],
        [500, "hush"]
      ] as const) {
        const backend = yield* build({ endpoint: yield* stranger(answering(status, json, body)) })
        for (const error of [yield* Effect.flip(backend.get(key)), yield* Effect.flip(backend.put(key, "hush"))]) {
          assert.strictEqual(error._tag, "Backend")
          assertHides(error, "pass-word", "hush", "$response", "hidden field")
        }
      }
    })
  )

  it.live("if the client fails in a way of its own, and keeps the class and stack of its error", () =>
    Effect.gen(function* () {
      class CustomError extends Error {
        override readonly name = "CustomError"
        readonly request = "hush"
        readonly code = "E_CUSTOM"
      }
      const requestHandler = { handle: () => Promise.reject(new CustomError("see http://app:pass-word@host/")) }
      const backend = yield* build({ requestHandler: requestHandler as never })
      const error = yield* Effect.flip(backend.delete(key))
      assertHides(error, "pass-word", "hush")
      const { cause } = (error as Backend).reason
      assert.instanceOf(cause, Error)
      assert.deepInclude(cause as object, { name: "CustomError", code: "E_CUSTOM", message: "see http://host/" })
      assert.include((cause as Error).stack, "DynamoDb.errors.test.ts")
    })
  )
})

describe("DynamoDb, when its Layer is built,", () => {
  it.effect("dies if an option is not valid, and names the option", () =>
    Effect.gen(function* () {
      const wrong: ReadonlyArray<readonly [object, string | RegExp]> = [
        [{ tableName: "" }, 'tableName must be a string that is not empty: it is ""'],
        [{ tableName: undefined }, "tableName must be a string that is not empty: it is undefined"],
        [{ tableName: null }, "tableName must be a string that is not empty: it is null"],
        [{ ownerPrefix: 7 }, "ownerPrefix must be a string: it is 7"],
        [{ idPrefix: null }, "idPrefix must be a string: it is null"],
        [{ attributes: { data: "" } }, 'attributes.data must be a string that is not empty: it is ""'],
        [{ attributes: { sortKey: null } }, "attributes.sortKey must be a string that is not empty: it is null"],
        [{ attributes: { data: "PK" } }, 'attributes must have different names: "PK" is the name of two attributes'],
        [{ consistentRead: "false" }, 'consistentRead must be true or false: it is "false"'],
        [{ verify: "yes" }, 'verify must be true or false: it is "yes"'],
        [{ requestTimeout: Number.NaN }, /^requestTimeout must be a duration of zero or more.*: it is NaN$/],
        [{ requestTimeout: "soon" }, /^requestTimeout must be a duration of zero or more.*: it is "soon"$/],
        [{ requestTimeout: "-1 seconds" }, /^requestTimeout must be a duration of zero or more/],
        [{ requestTimeout: null }, /^requestTimeout must be a duration of zero or more.*: it is null$/],
        [{ maxDataBytes: Number.NaN }, /^maxDataBytes must be .*: it is NaN$/],
        [{ maxDataBytes: null }, /^maxDataBytes must be .*: it is null$/],
        [{ retrySchedule: "often" }, 'retrySchedule must be a Schedule: it is "often"']
      ]
      for (const [options, message] of wrong) {
        const cause = yield* Effect.flip(Effect.sandbox(build({ endpoint: "http://127.0.0.1:1" }, options)))
        const defect = Cause.squash(cause)
        assert.instanceOf(defect, RangeError, String(message))
        if (typeof message === "string") assert.strictEqual((defect as Error).message, message)
        else assert.match((defect as Error).message, message)
      }
      const table = DynamoDb.ensureTable({ tableName: "" }).pipe(Effect.provide(DynamoDb.layerClient(clientConfig)))
      assert.include(String(Cause.squash(yield* Effect.flip(Effect.sandbox(table)))), "tableName must be a string")
    })
  )

  it.effect("fails if a variable is not valid, and names the variable", () =>
    Effect.gen(function* () {
      for (const [name, value] of [
        ["DYNAMODB_RETRIES", "-1"],
        ["DYNAMODB_RETRIES", "NaN"],
        ["DYNAMODB_RETRIES", "1.5"],
        ["DYNAMODB_MAX_DATA_BYTES", "-5"],
        ["DYNAMODB_MAX_DATA_BYTES", "much"],
        ["DYNAMODB_REQUEST_TIMEOUT", "-1 seconds"],
        ["DYNAMODB_REQUEST_TIMEOUT", "soon"],
        ["DYNAMODB_CONSISTENT_READ", "perhaps"]
      ] as const) {
        const env = { DYNAMODB_ENDPOINT: "http://127.0.0.1:1", DYNAMODB_REGION: "us-east-1", [name]: value }
        const cause = yield* Effect.flip(
          Effect.sandbox(
            Layer.build(DynamoDb.layerFromEnv).pipe(
              Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))),
              Effect.scoped
            )
          )
        )
        const error = Cause.squash(cause) as { readonly _tag: string; readonly message: string }
        assert.strictEqual(error._tag, "ConfigError", name)
        assert.include(error.message, name)
        if (value.startsWith("-")) assert.match(error.message, /Expected .* of zero or more, got -/)
      }
    })
  )
})

describe.skipIf(endpoint === undefined)("DynamoDb fails", () => {
  it.live("with Misconfigured, if the table has any other key schema", () =>
    Effect.gen(function* () {
      for (const keys of [
        [["id", "S"]],
        [["PK", "S"]],
        [
          ["PK", "N"],
          ["SK", "S"]
        ],
        [
          ["PK", "S"],
          ["SK", "N"]
        ],
        [
          ["p", "S"],
          ["s", "S"]
        ],
        [
          ["PK", "S"],
          ["data", "S"]
        ]
      ] as const) {
        const tableName = newTableName()
        const client = yield* Effect.provide(DynamoDb.Client, yield* Layer.build(layerClient))
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
        const backend = yield* build({}, { tableName })
        const { reads, writes } = yield* errorsOf(backend, {}, tableName)
        for (const error of [...reads, ...writes]) {
          assert.strictEqual(error.reason._tag, "Misconfigured", error.message)
          assert.include(error.message, "has another key schema")
          assert.strictEqual(error.outcome, "not-applied")
        }
      }
    })
  )

  it.live("with DynamoDB's own words, if a refusal mentions a key but is not about the schema", () =>
    Effect.gen(function* () {
      const tableName = newTableName()
      yield* Layer.build(layerTable({ tableName }))
      // DynamoDB's partition keys end at 2,048 bytes.
      const backend = yield* build({}, { tableName, ownerPrefix: "x".repeat(2048) })
      for (const error of [yield* Effect.flip(backend.get(key)), yield* Effect.flip(backend.put(key, "hush"))]) {
        assert.strictEqual((error as Backend).reason._tag, "Unknown")
        assert.match(error.message, /DynamoDB refused the request: ValidationException: .*under 2048 bytes/)
        assert.notInclude(error.message, "key schema")
        assert.strictEqual((error as Backend).outcome, "not-applied")
      }
      // DynamoDB's numbers end at 10^126.
      const answer = { status: 400, type: "ValidationException", message: "Number overflow for key :e" }
      const proxy = yield* dynamoDbProxy(endpoint ?? "", () => answer)
      const other = yield* build({ endpoint: proxy.endpoint }, { tableName })
      assert.notInclude((yield* Effect.flip(other.put(key, "hush"))).message, "key schema")
    })
  )

  it.live("with the outcome not-applied if the operation only reads, whatever happens to the request", () =>
    Effect.gen(function* () {
      const tableName = newTableName()
      yield* Layer.build(layerTable({ tableName }))
      const internal: Answer = { status: 500, type: "InternalServerError", message: "" }
      for (const fate of ["drop", "lose", "hang", internal] as const satisfies ReadonlyArray<Fate | Answer>) {
        const proxy = yield* dynamoDbProxy(endpoint ?? "", () => fate)
        const backend = yield* build({ endpoint: proxy.endpoint }, { tableName, requestTimeout: "300 millis" })
        assertRead((yield* Effect.flip(backend.get(key))) as Backend)
        assertRead((yield* Effect.flip(backend.listByPrefix(page))) as Backend)
        const put = (yield* Effect.flip(backend.put(key, "hush"))) as Backend
        assert.strictEqual(put.outcome, "unknown")
      }
    })
  )

  it.live("but not if an answer about the table is lost once, since asking again changes nothing", () =>
    Effect.gen(function* () {
      const tableName = newTableName()
      let asked = 0
      const proxy = yield* dynamoDbProxy(endpoint ?? "", (operation) =>
        operation === "DescribeTable" && ++asked === 1 ? "lose" : "pass"
      )
      const ensure = DynamoDb.ensureTable({ tableName })
      const client = DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint })
      yield* Effect.provide(ensure, client)
      assert.isAtLeast(asked, 2)
    })
  )
})
