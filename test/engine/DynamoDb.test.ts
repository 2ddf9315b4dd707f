import {
  CreateTableCommand,
  DescribeTableCommand,
  DescribeTimeToLiveCommand,
  DynamoDBClient,
  GetItemCommand,
  UpdateTimeToLiveCommand
} from "@aws-sdk/client-dynamodb"
import { afterEach, assert, describe, layer, vi } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  DateTime,
  Effect,
  Fiber,
  Layer,
  Logger,
  Metric,
  Schedule,
  Schema,
  Tracer
} from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import type { Fate } from "../support/ambiguity.ts"
import {
  clientConfig,
  endpoint,
  layerTable,
  lossy,
  newClient,
  newTableName,
  plant,
  putItem
} from "../support/dynamoDb.ts"
import { type Answer, dynamoDbProxy } from "../support/dynamoDbProxy.ts"

const tableName = newTableName()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

/** The item as it stands in the table. */
const getItem = (owner: string, id: string, table = tableName) =>
  Effect.flatMap(DynamoDb.Client, (client) =>
    Effect.promise(() =>
      client.send(
        new GetItemCommand({
          TableName: table,
          Key: { PK: { S: `OWNER#${owner}` }, SK: { S: `TASK#${id}` } },
          ConsistentRead: true
        })
      )
    )
  ).pipe(Effect.map(({ Item }) => Item))

/** A client of the user's own, and the commands that were sent through it. */
const counting = () => {
  const client = newClient()
  const sent: Array<string> = []
  client.middlewareStack.add(
    (next, context) => (args) => {
      if (context.commandName !== "DescribeTimeToLiveCommand") sent.push(String(context.commandName))
      return next(args)
    },
    { step: "deserialize" }
  )
  const backend = DynamoDb.layer({ tableName }).pipe(
    Layer.provide(
      Layer.effect(
        DynamoDb.Client,
        Effect.acquireRelease(Effect.succeed(client), (client) => Effect.sync(() => client.destroy()))
      )
    )
  )
  return { backend, sent }
}

/** A client, and whether each read that was sent through it asked for consistency. */
const watchingReads = (config: { readonly endpoint?: string } = {}) => {
  const client = new DynamoDBClient({ ...clientConfig, ...config })
  const consistency: Array<boolean | undefined> = []
  client.middlewareStack.add(
    (next) => (args) => {
      if ("ConsistentRead" in args.input) consistency.push(args.input.ConsistentRead)
      return next(args)
    },
    { step: "initialize" }
  )
  return { client, consistency }
}

afterEach(() => vi.unstubAllEnvs())

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

describe.skipIf(endpoint === undefined)("DynamoDb", () => {
  StorageContract.suite("DynamoDb", layerTable({ tableName }), {
    shared: true,
    plant: plant(tableName),
    lossy: lossy(tableName)
  })

  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    describe("sends", () => {
      it.effect("one request for each operation, won or lost", () =>
        Effect.gen(function* () {
          const { backend, sent } = counting()
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey()
            const expect = (name: string, commands: ReadonlyArray<string>) => {
              assert.deepStrictEqual(sent.splice(0), commands, name)
            }
            const created = yield* backend.putIfVersion(key, "one", 0)
            expect("create", ["UpdateItemCommand"])
            yield* Effect.flip(backend.putIfVersion(key, "one", 0))
            expect("create, lost", ["UpdateItemCommand"])
            yield* backend.get(key)
            expect("get", ["GetItemCommand"])
            const put = yield* backend.put(key, "two")
            expect("put", ["UpdateItemCommand"])
            yield* backend.putIfVersion(key, "three", put)
            expect("putIfVersion", ["UpdateItemCommand"])
            yield* Effect.flip(backend.putIfVersion(key, "four", created))
            expect("putIfVersion, lost", ["UpdateItemCommand"])
            yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            expect("page", ["QueryCommand"])
            yield* Effect.flip(backend.deleteIfVersion(key, created))
            expect("deleteIfVersion, lost", ["DeleteItemCommand"])
            yield* backend.delete(key)
            expect("delete", ["DeleteItemCommand"])
            yield* backend.delete(key)
            expect("delete of nothing", ["DeleteItemCommand"])
            yield* backend.cleanupExpired
            expect("cleanup", [])
          }).pipe(Effect.provide(backend))
        })
      )

      it.effect("one request for the first retry of an update after a conflict", () =>
        Effect.gen(function* () {
          const { backend, sent } = counting()
          const other = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
          const key = { owner: newKey().owner, id: "a" }
          yield* other.create(key, 0)
          yield* Effect.gen(function* () {
            const counters = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
            let runs = 0
            const record = yield* counters.updateEffect(key, (n) =>
              Effect.as(runs++ === 0 ? Effect.orDie(other.update(key, (n) => n + 10)) : Effect.void, n + 1)
            )
            assert.strictEqual(record.value, 11)
            assert.deepStrictEqual(sent, ["GetItemCommand", "UpdateItemCommand", "UpdateItemCommand"])
          }).pipe(Effect.provide(backend))
        })
      )

      it.effect("a request once, whatever retries the user's client has", () =>
        Effect.gen(function* () {
          const failing: Answer = { status: 500, type: "InternalServerError", message: "told to" }
          const proxy = yield* dynamoDbProxy(endpoint ?? "", () => failing)
          const backend = DynamoDb.layer({ tableName, retrySchedule: Schedule.recurs(0) }).pipe(
            Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint, maxAttempts: 4 }))
          )
          yield* Effect.flip(
            Effect.provide(
              StorageBackend.use((backend) => backend.put(newKey(), "data")),
              backend
            )
          )
          assert.deepStrictEqual(
            proxy.requests.filter((request) => request !== "DescribeTimeToLive"),
            ["UpdateItem", "GetItem"]
          )
        })
      )
    })

    describe("expires records", () => {
      it.effect("by whole seconds in the attribute of DynamoDB's Time to Live", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          yield* backend.put(key, "data", { expiresAt: DateTime.makeUnsafe(4_000_000_000_001) })
          assert.deepStrictEqual((yield* getItem(key.owner, "a"))?.expires_at, { N: "4000000001" })
          yield* backend.put(key, "data")
          assert.isUndefined((yield* getItem(key.owner, "a"))?.expires_at)
        })
      )

      it.effect("and lets one request create over an expired one", () =>
        Effect.gen(function* () {
          const { backend, sent } = counting()
          const key = newKey()
          const expired = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, expires_at: { N: "1000000000" } }
          yield* putItem(tableName, { ...expired, version: { N: "7" }, data: { S: "old" } })
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
            assert.strictEqual((yield* Effect.flip(backend.putIfVersion(key, "new", 7)))._tag, "RecordNotFound")
            sent.length = 0
            const created = yield* backend.putIfVersion(key, "new", 0)
            assert.strictEqual(created.version, 8)
            assert.deepStrictEqual(sent, ["UpdateItemCommand"])
          }).pipe(Effect.provide(backend))
          assert.isUndefined((yield* getItem(key.owner, "a"))?.expires_at)
        })
      )

      it.effect("but never one whose expiry is no number, which can be changed and deleted", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          for (const expiresAt of [{ S: "1000000000" }, { NULL: true }, { BOOL: false }] as const) {
            yield* putItem(tableName, { ...item, expires_at: expiresAt })
            const record = yield* backend.get(key)
            assert.isUndefined(record.expiresAt)
            const page = yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            assert.strictEqual(page.records.length, 1)
            assert.strictEqual((yield* Effect.flip(backend.putIfVersion(key, "y", 0)))._tag, "VersionConflict")
            assert.strictEqual((yield* backend.putIfVersion(key, "y", record)).version, 2)
            yield* putItem(tableName, { ...item, expires_at: expiresAt })
            assert.isTrue(yield* backend.delete(key))
          }
        })
      )

      it.effect("and takes any number that another program wrote for one", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          for (const [expiry, live] of [
            ["4000000000.5", true],
            ["1e100", true],
            ["-1e100", false],
            ["0", false]
          ] as const) {
            yield* putItem(tableName, { ...item, expires_at: { N: expiry } })
            const exit = yield* Effect.result(backend.get(key))
            assert.strictEqual(exit._tag === "Success", live, expiry)
          }
        })
      )
    })

    describe("shares a table with pmcp-tasks", () => {
      it.effect("reading and changing what that crate wrote, without a write id", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey("6f1c2e9a-7f0b-4a5e-9d1e-0c8a3a5b7d11")
          const item = {
            PK: { S: `OWNER#${key.owner}` },
            SK: { S: `TASK#${key.id}` },
            version: { N: "3" },
            data: { S: '{"task":{"status":"working"}}' },
            expires_at: { N: "4000000000" }
          }
          yield* putItem(tableName, item)
          const read = yield* backend.get(key)
          assert.deepStrictEqual([read.version, read.data, read.writeId], [3, item.data.S, undefined])
          const written = yield* backend.putIfVersion(key, "changed", read, { expiresAt: read.expiresAt })
          assert.deepStrictEqual(yield* getItem(key.owner, key.id), {
            ...item,
            version: { N: "4" },
            data: { S: "changed" },
            write_id: { S: written.writeId ?? "" }
          })
          yield* putItem(tableName, { ...item, version: { N: "5" } })
          const conflict = yield* Effect.flip(backend.putIfVersion(key, "ours", written))
          assert.isTrue(conflict._tag === "VersionConflict" && conflict.actual === 5)
        })
      )

      it.effect("keeping the attributes that other programs put into an item", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const foreign = { note: { S: "theirs" }, list: { L: [{ N: "1" }] } }
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          yield* putItem(tableName, { ...item, ...foreign })
          yield* backend.putIfVersion(key, "y", yield* backend.get(key))
          yield* backend.put(key, "z")
          const after = yield* getItem(key.owner, "a")
          assert.deepStrictEqual([after?.note, after?.list], [foreign.note, foreign.list])
        })
      )
    })

    describe("tells of", () => {
      const assertCorrupt = (error: { readonly _tag: string }, problem: RegExp) => {
        const backend = asBackend(error)
        assert.strictEqual(backend.reason._tag, "Corrupt")
        assert.strictEqual(backend.outcome, "not-applied")
        assert.isFalse(backend.isRetryable)
        assert.match(backend.message, problem)
        assert.include(backend.message, tableName)
      }

      it.effect("an item that is damaged or not ours, which can be deleted", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          for (const [attributes, problem] of [
            [{ data: { S: "x" } }, /no version/],
            [{ data: { S: "x" }, version: { S: "1" } }, /no version/],
            [{ data: { S: "x" }, version: { N: "1.5" } }, /no version/],
            [{ data: { S: "x" }, version: { N: "0" } }, /no version/],
            [{ data: { S: "x" }, version: { N: "9007199254740992" } }, /no version/],
            [{ version: { N: "1" } }, /no data/],
            [{ data: { N: "1" }, version: { N: "1" } }, /no data/],
            [{ data: { S: "x" }, version: { N: "1" }, write_id: { N: "1" } }, /write_id that is not a string/]
          ] as const) {
            const key = newKey()
            yield* putItem(tableName, { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, ...attributes })
            assertCorrupt(yield* Effect.flip(backend.get(key)), problem)
            assertCorrupt(yield* Effect.flip(backend.putIfVersion(key, "y", 0)), problem)
            const listing = backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            assertCorrupt(yield* Effect.flip(listing), problem)
            assert.isTrue(yield* backend.delete(key))
            yield* backend.putIfVersion(key, "y", 0)
          }
        })
      )

      it.effect("an item that foreign attributes push over DynamoDB's limit", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const item = { PK: { S: `OWNER#${key.owner}` }, SK: { S: "TASK#a" }, version: { N: "1" }, data: { S: "x" } }
          yield* putItem(tableName, { ...item, theirs: { S: "y".repeat(300_000) } })
          const data = "z".repeat(200_000)
          for (const write of [backend.put(key, data), backend.putIfVersion(key, data, yield* backend.get(key))]) {
            const error = yield* Effect.flip(write)
            assert.isTrue(error._tag === "CapacityExceeded" && error.resource === "ItemBytes")
            assert.include(error.message, "attributes of others")
          }
          assert.strictEqual((yield* backend.get(key)).version, 1)
        })
      )

      it.effect("a table that is not there", () =>
        Effect.gen(function* () {
          const { layer, messages } = logged()
          const missing = newTableName()
          const error = yield* StorageBackend.use((backend) =>
            Effect.flip(Effect.delay(backend.get(newKey()), "200 millis"))
          ).pipe(Effect.provide(DynamoDb.layer({ tableName: missing })), Effect.provide(layer))
          const backend = asBackend(error)
          assert.strictEqual(backend.reason._tag, "Misconfigured")
          assert.include(backend.message, `There is no table ${missing}: create it with DynamoDb.ensureTable`)
          assert.strictEqual(messages.length, 1)
        })
      )

      it.effect("a table with another key schema", () =>
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

      it.effect("Time to Live that is not on, in the log, once", () =>
        Effect.gen(function* () {
          const client = yield* DynamoDb.Client
          const table = newTableName()
          yield* DynamoDb.createTable({ tableName: table })
          const run = (options: DynamoDb.Options) =>
            Effect.gen(function* () {
              const { layer, messages } = logged()
              yield* StorageBackend.use((backend) =>
                Effect.gen(function* () {
                  yield* backend.put(newKey(), "data")
                  yield* Effect.sleep("200 millis")
                  yield* backend.put(newKey(), "data")
                })
              ).pipe(Effect.provide(DynamoDb.layer(options)), Effect.provide(layer))
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

      it.effect("what the engine and the way there answer, each by its reason, outcome and what to do", () =>
        Effect.gen(function* () {
          const cases: ReadonlyArray<readonly [Answer | Fate, string, Backend["outcome"], boolean, RegExp]> = [
            [
              { status: 400, type: "ThrottlingException", message: "" },
              "Throttled",
              "not-applied",
              true,
              /raise its capacity/
            ],
            [
              { status: 400, type: "ProvisionedThroughputExceededException", message: "" },
              "Throttled",
              "not-applied",
              true,
              /raise its capacity/
            ],
            [{ status: 400, type: "RequestLimitExceeded", message: "" }, "Throttled", "not-applied", true, /throttles/],
            [
              { status: 400, type: "TransactionConflictException", message: "" },
              "Unavailable",
              "not-applied",
              true,
              /transaction/
            ],
            [
              { status: 500, type: "InternalServerError", message: "" },
              "Unavailable",
              "unknown",
              false,
              /no usable answer/
            ],
            [
              { status: 503, type: "ServiceUnavailable", message: "" },
              "Unavailable",
              "unknown",
              false,
              /no usable answer/
            ],
            ["drop", "Unavailable", "unknown", false, /no usable answer/],
            ["hang", "Timeout", "unknown", false, /within 300ms/],
            [
              { status: 400, type: "AccessDeniedException", message: "not you" },
              "Unauthorized",
              "not-applied",
              false,
              /grant dynamodb:UpdateItem on table .*not you/
            ],
            [
              { status: 400, type: "UnrecognizedClientException", message: "" },
              "Unauthorized",
              "not-applied",
              false,
              /does not accept the credentials/
            ],
            [
              { status: 400, type: "ExpiredTokenException", message: "" },
              "Unauthorized",
              "not-applied",
              false,
              /renew/
            ],
            [
              { status: 400, type: "InvalidSignatureException", message: "Signature expired: 1 is now earlier than 2" },
              "Unavailable",
              "not-applied",
              true,
              /clock/
            ],
            [
              { status: 400, type: "InvalidSignatureException", message: "The request signature does not match" },
              "Unauthorized",
              "not-applied",
              false,
              /check the key/
            ],
            [
              { status: 400, type: "SomethingNew", message: "odd" },
              "Unknown",
              "not-applied",
              false,
              /SomethingNew: odd/
            ]
          ]
          for (const [fate, reason, outcome, isRetryable, message] of cases) {
            const proxy = yield* dynamoDbProxy(endpoint ?? "", () => fate)
            const backend = DynamoDb.layer({
              tableName,
              requestTimeout: "300 millis",
              retrySchedule: Schedule.recurs(0)
            }).pipe(Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint })))
            const error = yield* StorageBackend.use((backend) => Effect.flip(backend.put(newKey(), "hush hush"))).pipe(
              Effect.provide(backend)
            )
            const told = asBackend(error)
            const name = JSON.stringify(fate)
            assert.strictEqual(told.reason._tag, reason, name)
            assert.strictEqual(told.outcome, outcome, name)
            assert.strictEqual(told.isRetryable, isRetryable, name)
            assert.strictEqual(told.reason.isRetryable, isRetryable, name)
            assert.match(told.message, message, name)
            assert.notInclude(told.message, "hush", name)
            assert.strictEqual(told.operation, "put", name)
          }
        })
      )

      it.effect("an engine that can't be reached, and settings that are missing", () =>
        Effect.gen(function* () {
          const fail = (config: Parameters<typeof DynamoDb.layerClient>[0]) =>
            StorageBackend.use((backend) => Effect.flip(backend.put(newKey(), "data"))).pipe(
              Effect.provide(
                DynamoDb.layer({ tableName, retrySchedule: Schedule.recurs(0) }).pipe(
                  Layer.provide(DynamoDb.layerClient(config))
                )
              ),
              Effect.map(asBackend)
            )
          const refused = yield* fail({ ...clientConfig, endpoint: "http://127.0.0.1:1" })
          assert.deepStrictEqual([refused.reason._tag, refused.outcome], ["Unavailable", "not-applied"])
          assert.include(refused.message, "can't be reached")
          const unknownHost = yield* fail({ ...clientConfig, endpoint: "http://dynamodb.invalid" })
          assert.deepStrictEqual([unknownHost.reason._tag, unknownHost.outcome], ["Unavailable", "not-applied"])
          const noUrl = yield* fail({ ...clientConfig, endpoint: "no url" })
          assert.deepStrictEqual([noUrl.reason._tag, noUrl.outcome], ["Misconfigured", "not-applied"])
          // The AWS SDK's own chain, in an environment that has nothing for it.
          for (const name of Object.keys(process.env)) if (name.startsWith("AWS_")) vi.stubEnv(name, undefined)
          vi.stubEnv("AWS_EC2_METADATA_DISABLED", "true")
          vi.stubEnv("HOME", "/nonexistent")
          const noCredentials = yield* fail({ endpoint: endpoint ?? "", region: "us-east-1" })
          assert.deepStrictEqual([noCredentials.reason._tag, noCredentials.outcome], ["Unauthorized", "not-applied"])
          assert.include(noCredentials.message, "set AWS_ACCESS_KEY_ID")
          const noRegion = yield* fail({ credentials: { accessKeyId: "a", secretAccessKey: "b" } })
          assert.deepStrictEqual([noRegion.reason._tag, noRegion.outcome], ["Misconfigured", "not-applied"])
          assert.include(noRegion.message, "set AWS_REGION")
        })
      )
    })

    describe("lets go", () => {
      it.effect("of the request when the fiber is interrupted", () =>
        Effect.gen(function* () {
          const proxy = yield* dynamoDbProxy(endpoint ?? "", () => "hang")
          const context = yield* Layer.build(
            DynamoDb.layer({ tableName }).pipe(
              Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint }))
            )
          )
          const fiber = yield* Effect.forkChild(
            StorageBackend.use((backend) => backend.get(newKey())).pipe(Effect.provide(context))
          )
          yield* Effect.sleep("200 millis")
          assert.include(proxy.requests, "GetItem")
          const closed = proxy.closed()
          yield* Fiber.interrupt(fiber)
          yield* Effect.sleep("100 millis")
          assert.strictEqual(proxy.closed(), closed + 1)
        })
      )

      it.effect("of a client that it made when the scope closes, and not of one that it was given", () =>
        Effect.gen(function* () {
          const handler = () => ({ handle: () => Promise.reject(new Error("not in this test")), destroy: vi.fn() })
          const made = handler()
          const client = yield* Effect.scoped(
            Effect.flatMap(Layer.build(DynamoDb.layerClient({ ...clientConfig, requestHandler: made })), () => {
              assert.strictEqual(made.destroy.mock.calls.length, 0)
              return Effect.succeed(new DynamoDBClient({ ...clientConfig, requestHandler: handler() }))
            })
          )
          assert.strictEqual(made.destroy.mock.calls.length, 1)
          client.destroy = vi.fn()
          const given = DynamoDb.layer({ tableName }).pipe(Layer.provide(Layer.succeed(DynamoDb.Client, client)))
          yield* Effect.scoped(Layer.build(given))
          assert.strictEqual(vi.mocked(client.destroy).mock.calls.length, 0)
        })
      )
    })

    describe("is observed by", () => {
      /** Runs an Effect and gives the spans that it made. */
      const spansOf = <A, E, R>(effect: Effect.Effect<A, E, R>) => {
        const spans: Array<Tracer.NativeSpan> = []
        const tracer = Tracer.make({
          span: (options) => {
            const span = new Tracer.NativeSpan(options)
            spans.push(span)
            return span
          }
        })
        return Effect.as(Effect.provideService(effect, Tracer.Tracer, tracer), spans)
      }

      it.effect("a span an operation, with OpenTelemetry's attributes of databases, and no keys or data", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = makeUnsafe({ owner: `confidential-${crypto.randomUUID()}`, id: "confidential" })
          const spans = yield* spansOf(
            Effect.gen(function* () {
              const record = yield* backend.put(key, "confidential")
              yield* backend.putIfVersion(key, "confidential", record)
              yield* Effect.flip(backend.putIfVersion(key, "confidential", record))
              yield* backend.get(key)
              yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "confidential" }))
              yield* backend.delete(key)
              const again = yield* backend.put(key, "confidential")
              yield* backend.deleteIfVersion(key, again)
              yield* backend.cleanupExpired
            })
          )
          const told = spans.map(({ attributes, kind, name }) => ({
            name,
            kind,
            operation: attributes.get("db.operation.name"),
            system: attributes.get("db.system.name"),
            table: attributes.get("db.collection.name"),
            conflict: attributes.get("effect_versioned_store.conflict"),
            requests: ((attributes.get("aws.dynamodb.consumed_capacity") ?? []) as ReadonlyArray<string>).length
          }))
          const expected = [
            ["put", false, 1],
            ["putIfVersion", false, 1],
            ["putIfVersion", true, 0],
            ["get", false, 1],
            ["listByPrefix", false, 1],
            ["delete", false, 1],
            ["put", false, 1],
            ["deleteIfVersion", false, 1],
            ["cleanupExpired", false, 0]
          ] as const
          assert.deepStrictEqual(
            told,
            expected.map(([operation, conflict, requests]) => ({
              name: `${operation} ${tableName}`,
              kind: "client",
              operation,
              system: "aws.dynamodb",
              table: tableName,
              conflict,
              requests
            }))
          )
          for (const span of spans) {
            assert.notInclude(JSON.stringify([span.name, ...span.attributes, span.events]), "confidential")
          }
          const capacity = spans[0]?.attributes.get("aws.dynamodb.consumed_capacity")
          assert.match(String(capacity), /"CapacityUnits":1/)
        })
      )

      it.effect("counters of requests, conflicts, retries, ambiguous attempts and capacity", () =>
        Effect.gen(function* () {
          const table = newTableName()
          yield* DynamoDb.createTable({ tableName: table })
          let writes = 0
          const proxy = yield* dynamoDbProxy(endpoint ?? "", (operation) =>
            operation === "UpdateItem" && ++writes === 2 ? "lose" : "pass"
          )
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey()
            const record = yield* backend.put(key, "one")
            yield* backend.putIfVersion(key, "two", record)
            yield* Effect.flip(backend.putIfVersion(key, "three", record))
          }).pipe(
            Effect.provide(
              DynamoDb.layer({ tableName: table }).pipe(
                Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint }))
              )
            )
          )
          const counters = (yield* Metric.snapshot).flatMap((metric) =>
            metric.attributes?.["db.collection.name"] === table && metric.type === "Counter"
              ? [[metric.id.replace("effect_versioned_store.", ""), metric.state.count]]
              : []
          )
          assert.deepStrictEqual(Object.fromEntries(counters), {
            requests: 4,
            conflicts: 1,
            retries: 1,
            ambiguous: 1,
            consumed_capacity: 1
          })
        })
      )

      it.effect("a counter of requests that counts each operation once, reads that may be stale among them", () =>
        Effect.gen(function* () {
          const table = newTableName()
          yield* DynamoDb.createTable({ tableName: table })
          const requests = Effect.map(Metric.snapshot, (metrics) =>
            metrics.flatMap((metric) =>
              metric.id === "effect_versioned_store.requests" &&
              metric.attributes?.["db.collection.name"] === table &&
              metric.type === "Counter"
                ? [metric.state.count]
                : []
            )
          )
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey()
            const operations = [
              backend.put(key, "one"),
              backend.get(key),
              backend.putIfVersion(key, "two", 1),
              backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" })),
              backend.delete(key)
            ]
            for (const [i, operation] of operations.entries()) {
              yield* operation as Effect.Effect<unknown, unknown>
              assert.deepStrictEqual(yield* requests, [i + 1])
            }
          }).pipe(Effect.provide(DynamoDb.layer({ tableName: table, consistentRead: false })))
        })
      )
    })

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

      it.effect("by ensureTable as often as one likes, at once too", () =>
        Effect.gen(function* () {
          const table = newTableName()
          const ensure = DynamoDb.ensureTable({ tableName: table })
          yield* Effect.all([ensure, ensure, ensure], { concurrency: "unbounded" })
          yield* ensure
          const other = DynamoDb.ensureTable({ tableName: table, attributes: { expiresAt: "ttl" } })
          assert.include((yield* Effect.flip(other)).message, "Time to Live on another attribute: expires_at")
        })
      )

      it.effect("with names and prefixes of its own", () =>
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

      it.effect("with a limit of one record's data", () =>
        Effect.gen(function* () {
          const backend = yield* StorageBackend
          yield* backend.put(newKey(), "1234")
          assert.strictEqual((yield* Effect.flip(backend.put(newKey(), "12345")))._tag, "CapacityExceeded")
        }).pipe(Effect.provide(DynamoDb.layer({ tableName, maxDataBytes: 4 })))
      )

      it.effect("to read and to list consistently, unless another setting is given", () =>
        Effect.gen(function* () {
          const { client, consistency } = watchingReads()
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey()
            yield* backend.put(key, "data")
            yield* backend.get(key)
            const prefix = makePrefix({ owner: key.owner, idPrefix: "" })
            yield* backend.listByPrefix(prefix)
            yield* backend.listByPrefix(prefix, { limit: 1, order: "descending" })
          }).pipe(Effect.provide(DynamoDb.layer({ tableName })), Effect.provide(Layer.succeed(DynamoDb.Client, client)))
          assert.deepStrictEqual(consistency, [true, true, true])
        })
      )

      it.effect("to read eventually, but never where it looks for its own write", () =>
        Effect.gen(function* () {
          const { client, consistency } = watchingReads()
          const backend = DynamoDb.layer({ tableName, consistentRead: false }).pipe(
            Layer.provide(Layer.succeed(DynamoDb.Client, client))
          )
          yield* Effect.gen(function* () {
            const backend = yield* StorageBackend
            const key = newKey()
            yield* backend.put(key, "data")
            yield* backend.get(key)
            yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" }))
            assert.deepStrictEqual(consistency, [false, false])
          }).pipe(Effect.provide(backend))
          let lost = false
          const proxy = yield* dynamoDbProxy(endpoint ?? "", (operation) => {
            if (operation !== "UpdateItem" || lost) return "pass"
            lost = true
            return "lose"
          })
          const recovering = watchingReads({ endpoint: proxy.endpoint })
          yield* StorageBackend.use((backend) => backend.put(newKey(), "data")).pipe(
            Effect.provide(
              DynamoDb.layer({ tableName, consistentRead: false }).pipe(
                Layer.provide(Layer.succeed(DynamoDb.Client, recovering.client))
              )
            )
          )
          assert.deepStrictEqual(recovering.consistency, [true])
        })
      )

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
          assert.isDefined(yield* getItem(key.owner, "a", "pmcp_tasks"))

          yield* provide(DynamoDb.layerFromEnvWithTable(tableName), { ...local, DYNAMODB_DATA_ATTRIBUTE: "payload" })
          assert.deepStrictEqual((yield* getItem(key.owner, "a"))?.payload, { S: "data" })

          const named = { ...local, DYNAMODB_TABLE: tableName, DYNAMODB_OWNER_PREFIX: "OWNER#x", DYNAMODB_RETRIES: "0" }
          yield* provide(DynamoDb.layerFromEnv, named)
          assert.isDefined(yield* getItem(`x${key.owner}`, "a"))

          const configured = DynamoDb.layerConfig({
            tableName: Config.String("RECORDS"),
            endpoint: Config.String("DYNAMODB_ENDPOINT"),
            idPrefix: Config.succeed("TASK#config/")
          })
          yield* provide(configured, { ...local, RECORDS: tableName })
          assert.isDefined(yield* getItem(key.owner, "config/a"))

          const wrong = provide(DynamoDb.layerFromEnv, { ...local, DYNAMODB_REQUEST_TIMEOUT: "soon" })
          assert.include(String(yield* Effect.flip(wrong)), "DYNAMODB_REQUEST_TIMEOUT")
          const missing = provide(configured, local)
          assert.include(String(yield* Effect.flip(missing)), "RECORDS")
        })
      )
    })
  })
})
