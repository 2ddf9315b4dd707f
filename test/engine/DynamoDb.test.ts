import { DynamoDBClient } from "@aws-sdk/client-dynamodb"
import { assert, describe, layer, vi } from "@effect/vitest"
import { Effect, Fiber, Layer, Schedule, Schema } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { clientConfig, counting, endpoint, layerTable, lossy, newTableName, plant } from "../support/dynamoDb.ts"
import { type Answer, dynamoDbProxy } from "../support/dynamoDbProxy.ts"
import { until } from "../support/until.ts"

const tableName = newTableName()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

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
describe.skipIf(endpoint === undefined)("DynamoDb", () => {
  StorageContract.suite("DynamoDb", layerTable({ tableName }), {
    shared: true,
    plant: plant(tableName),
    lossy: lossy(tableName)
  })

  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    describe("sends", () => {
      it.effect("one request for each operation, whether it succeeds or meets a conflict", () =>
        Effect.gen(function* () {
          const { backend, sent } = counting(tableName)
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
          const { backend, sent } = counting(tableName)
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

      it.effect("each request once, whatever retries the user's client has", () =>
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

    describe("reads", () => {
      it.effect("and lists consistently by default", () =>
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

      it.effect("eventually if told to, but consistently if it looks for its own write", () =>
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
    })

    describe("lets go", () => {
      it.effect("of the request when the fiber is interrupted", () =>
        Effect.gen(function* () {
          const proxy = yield* dynamoDbProxy(endpoint ?? "", (operation) => (operation === "GetItem" ? "hang" : "pass"))
          const context = yield* Layer.build(
            DynamoDb.layer({ tableName, requestTimeout: "1 hour" }).pipe(
              Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint }))
            )
          )
          const fiber = yield* Effect.forkChild(
            StorageBackend.use((backend) => backend.get(newKey())).pipe(Effect.provide(context))
          )
          yield* until(() => proxy.requests.includes("GetItem"))
          assert.deepStrictEqual(proxy.abandoned, [])
          yield* Fiber.interrupt(fiber)
          yield* until(() => proxy.abandoned.length > 0)
          assert.deepStrictEqual(proxy.abandoned, ["GetItem"])
        })
      )

      it.effect("of the client that its Layer made when the scope closes, but not of a client that it was given", () =>
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
  })
})
