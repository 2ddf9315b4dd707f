import { assert, describe, layer } from "@effect/vitest"
import { Effect, Layer, Metric, Tracer } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { clientConfig, endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { dynamoDbProxy } from "../support/dynamoDbProxy.ts"

const tableName = newTableName()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })
describe.skipIf(endpoint === undefined)("DynamoDb is observed by", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
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
    it.effect("a span for each operation, with OpenTelemetry's attributes of databases, and no keys or data", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = makeUnsafe({ owner: `confidential-${crypto.randomUUID()}`, id: "confidential" })
        const spans = yield* spansOf(
          Effect.gen(function* () {
            const record = yield* backend.put(key, "confidential")
            yield* backend.putIfVersion(key, "confidential", record)
            yield* Effect.flip(backend.putIfVersion(key, "confidential", record))
            yield* backend.get(key)
            yield* backend.getMany([key, key])
            yield* backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "confidential" }))
            yield* backend.delete(key)
            const again = yield* backend.put(key, "confidential")
            yield* backend.deleteIfVersion(key, again)
            yield* backend.cleanupExpired
          })
        )
        const observed = spans.map(({ attributes, kind, name }) => ({
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
          ["getMany", false, 1],
          ["listByPrefix", false, 1],
          ["delete", false, 1],
          ["put", false, 1],
          ["deleteIfVersion", false, 1],
          ["cleanupExpired", false, 0]
        ] as const
        assert.deepStrictEqual(
          observed,
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

    it.effect("a counter of requests that counts each operation once, also reads that may be stale", () =>
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
})
