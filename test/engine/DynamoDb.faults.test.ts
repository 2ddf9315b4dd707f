import { assert, describe, layer } from "@effect/vitest"
import { Effect, Layer, Schedule } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { ambiguityCases, assertUnknown, type Fate, first, newKey } from "../support/ambiguity.ts"
import { clientConfig, endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { dynamoDbProxy } from "../support/dynamoDbProxy.ts"
import { until } from "../support/until.ts"

const tableName = newTableName()

/** A backend whose requests go through a proxy, which decides their fate. */
const through = (fateOf: (isWrite: boolean) => Fate, options: Partial<DynamoDb.Options> = {}) =>
  Effect.gen(function* () {
    const proxy = yield* dynamoDbProxy(endpoint ?? "", (name) => fateOf(["UpdateItem", "DeleteItem"].includes(name)))
    const faulty = DynamoDb.layer({ tableName, retrySchedule: Schedule.recurs(20), ...options }).pipe(
      Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint }))
    )
    const backend = yield* Effect.provide(StorageBackend, yield* Layer.build(faulty))
    return { proxy, backend, requests: () => proxy.requests.filter((name) => name !== "DescribeTimeToLive") }
  })

describe.skipIf(endpoint === undefined)("DynamoDb, if answers are lost,", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    ambiguityCases(it, {
      through: (fateOf, { isPatient } = { isPatient: true }) =>
        through(fateOf, isPatient ? {} : { retrySchedule: Schedule.recurs(3) }),
      write: "UpdateItem",
      read: "GetItem"
    })

    it.effect("a request that hangs times out, and its connection is closed", () =>
      Effect.gen(function* () {
        const { backend, proxy } = yield* through(() => "hang", {
          requestTimeout: "200 millis",
          retrySchedule: Schedule.recurs(0)
        })
        const read = yield* Effect.flip(backend.get(newKey()))
        assert.isTrue(read._tag === "Backend" && read.reason._tag === "Timeout" && read.isRetryable)
        const write = yield* Effect.flip(backend.put(newKey(), "data"))
        assertUnknown(write)
        assert.include(write.message, "within 200ms")
        yield* until(() => ["GetItem", "UpdateItem"].every((name) => proxy.abandoned.includes(name)))
      })
    )

    it.effect("a request that hangs once is sent again if that is safe", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const key = newKey()
        const record = yield* direct.put(key, "before")
        const { backend } = yield* through(first("hang"), { requestTimeout: "1 second" })
        assert.strictEqual((yield* backend.putIfVersion(key, "after", record)).version, 2)
      })
    )
  })
})
