import type { DynamoDBClient } from "@aws-sdk/client-dynamodb"
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Layer, Logger, Metric, Schedule, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import * as Cursor from "../../src/engine/internal/cursor.ts"
import { maxVersion, StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const Key = { PK: { S: "OWNER#alice" }, SK: { S: "TASK#a" } }
const common = { TableName: "records", Key, ReturnConsumedCapacity: "TOTAL" }

type Answer = (name: string, input: Record<string, unknown>) => unknown

/** An AWS client that sends nothing: it notes each request, and takes its answer, or its error, from a function. */
const stub = (answer: Answer = () => ({})) => {
  const sent: Array<readonly [name: string, input: Record<string, unknown>]> = []
  const send = (command: { readonly constructor: { readonly name: string }; readonly input: object }) => {
    const name = command.constructor.name.replace("Command", "")
    const { ExpressionAttributeValues: values, ...rest } = command.input as Record<string, unknown>
    const written = values === undefined ? rest : { ...rest, ExpressionAttributeValues: withoutWriteId(values) }
    sent.push([name, written])
    const answered = answer(name, command.input as Record<string, unknown>)
    return answered instanceof Error ? Promise.reject(answered) : Promise.resolve(answered)
  }
  return { sent, client: Layer.succeed(DynamoDb.Client, { send } as unknown as DynamoDBClient) }
}

/** Write ids are random. */
const withoutWriteId = (values: unknown) => {
  const { ":w": writeId, ...rest } = values as Record<string, { readonly S: string }>
  if (writeId === undefined) return rest
  assert.match(writeId.S, /^[\w-]{22}\.\w+$/)
  return { ...rest, ":w": { S: "ours" } }
}

/** What one operation sends, 5,000.9 seconds after the epoch. */
const requestOf = Effect.fnUntraced(function* (
  operation: (backend: StorageBackend["Service"]) => Effect.Effect<unknown, unknown>,
  options: Partial<DynamoDb.Options> = {},
  answer?: Answer
) {
  const { client, sent } = stub(answer)
  const layer = DynamoDb.layer({ tableName: "records", retrySchedule: Schedule.recurs(0), ...options }).pipe(
    Layer.provide(client),
    Layer.provide(Logger.layer([]))
  )
  yield* TestClock.setTime(5_000_900)
  const result = yield* StorageBackend.use((backend) => Effect.result(operation(backend))).pipe(Effect.provide(layer))
  return { requests: sent.filter(([name]) => name !== "DescribeTimeToLive"), result }
})

const sends = (
  operation: (backend: StorageBackend["Service"]) => Effect.Effect<unknown, unknown>,
  name: string,
  input: object,
  options?: Partial<DynamoDb.Options>
) =>
  Effect.map(requestOf(operation, options), ({ requests }) => {
    assert.deepStrictEqual(requests, [[name, input as Record<string, unknown>]])
  })

const record = { key, data: "before", version: 7, writeId: "theirs", expiresAt: undefined }
const max = { ":max": { N: String(maxVersion - 1) } }
const now = { ":now": { N: "5000" } }
const written = { ":d": { S: "data" }, ":w": { S: "ours" } }
const byVersion = "#v = :v AND NOT (#e <= :now)"
const updateNames = { "#v": "version", "#d": "data", "#e": "expires_at", "#w": "write_id" }

describe("DynamoDb sends", () => {
  it.effect("a read that is consistent, unless that is switched off", () =>
    Effect.gen(function* () {
      yield* sends((backend) => backend.get(key), "GetItem", { ...common, ConsistentRead: true })
      const eventually = { consistentRead: false }
      yield* sends((backend) => backend.get(key), "GetItem", { ...common, ConsistentRead: false }, eventually)
    })
  )

  it.effect("a put that counts up whatever is there, below the last version", () =>
    sends((backend) => backend.put(key, "data"), "UpdateItem", {
      ...common,
      UpdateExpression: "SET #d = :d, #w = :w ADD #v :increment REMOVE #e",
      ConditionExpression: "attribute_not_exists(#v) OR #v <= :max",
      ExpressionAttributeNames: updateNames,
      ExpressionAttributeValues: { ...max, ...written, ":increment": { N: "1" } },
      ReturnValues: "UPDATED_NEW",
      ReturnValuesOnConditionCheckFailure: "ALL_OLD"
    })
  )

  it.effect("a creation over nothing or an expired record, with its expiry", () =>
    sends(
      (backend) => backend.putIfVersion(key, "data", 0, { expiresAt: DateTime.makeUnsafe(6_000_000) }),
      "UpdateItem",
      {
        ...common,
        UpdateExpression: "SET #d = :d, #w = :w, #e = :e ADD #v :increment",
        ConditionExpression: "attribute_not_exists(#pk) OR (#e <= :now AND #v <= :max)",
        ExpressionAttributeNames: { "#pk": "PK", ...updateNames },
        ExpressionAttributeValues: { ...max, ...now, ...written, ":increment": { N: "1" }, ":e": { N: "6000" } },
        ReturnValues: "UPDATED_OLD",
        ReturnValuesOnConditionCheckFailure: "ALL_OLD"
      }
    )
  )

  for (const [name, expected, condition, values] of [
    ["a version", 7, byVersion, {}],
    ["a write", record, `${byVersion} AND #w = :ow`, { ":ow": { S: "theirs" } }],
    [
      "data, and no write id",
      { ...record, writeId: undefined },
      `${byVersion} AND attribute_not_exists(#w) AND #d = :od`,
      { ":od": { S: "before" } }
    ]
  ] as const) {
    const expectation = { ":v": { N: "7" }, ...now, ...values }

    it.effect(`a compare-and-set of ${name}, of a live record, to the next version`, () =>
      sends((backend) => backend.putIfVersion(key, "data", expected), "UpdateItem", {
        ...common,
        UpdateExpression: "SET #d = :d, #w = :w, #v = :next REMOVE #e",
        ConditionExpression: `${condition} AND #v <= :max`,
        ExpressionAttributeNames: updateNames,
        ExpressionAttributeValues: { ...expectation, ...max, ...written, ":next": { N: "8" } },
        ReturnValues: "NONE",
        ReturnValuesOnConditionCheckFailure: "ALL_OLD"
      })
    )

    it.effect(`a delete of ${name}, of a live record, that returns what it was refused by`, () =>
      sends((backend) => backend.deleteIfVersion(key, expected), "DeleteItem", {
        ...common,
        ConditionExpression: condition,
        ExpressionAttributeNames: Object.fromEntries(
          Object.entries(updateNames).filter(([placeholder]) => condition.includes(placeholder))
        ),
        ExpressionAttributeValues: expectation,
        ReturnValuesOnConditionCheckFailure: "ALL_OLD"
      })
    )
  }

  it.effect("a delete of any live record, that returns nothing", () =>
    sends((backend) => backend.delete(key), "DeleteItem", {
      ...common,
      ConditionExpression: "attribute_exists(#pk) AND NOT (#e <= :now)",
      ExpressionAttributeNames: { "#pk": "PK", "#e": "expires_at" },
      ExpressionAttributeValues: now,
      ReturnValuesOnConditionCheckFailure: "NONE"
    })
  )

  it.effect("one batch for many records, each key once", () =>
    Effect.gen(function* () {
      const other = makeUnsafe({ owner: "bob", id: "b" })
      const batch = (ConsistentRead: boolean) => ({
        RequestItems: {
          records: { Keys: [Key, { PK: { S: "OWNER#bob" }, SK: { S: "TASK#b" } }], ConsistentRead }
        },
        ReturnConsumedCapacity: "TOTAL"
      })
      yield* sends((backend) => backend.getMany([key, other, key]), "BatchGetItem", batch(true))
      const options = { consistentRead: false }
      yield* sends((backend) => backend.getMany([key, other]), "BatchGetItem", batch(false), options)
    })
  )

  it.effect("the keys that a batch left unprocessed, alone, and gives the records in the order asked", () =>
    Effect.gen(function* () {
      const keys = ["a", "b", "c", "a"].map((id) => makeUnsafe({ owner: "alice", id }))
      const itemOf = (id: string) => ({ PK: { S: "OWNER#alice" }, SK: { S: `TASK#${id}` } })
      const stored = (id: string) => ({ ...itemOf(id), version: { N: "1" }, data: { S: id } })
      const answers = [
        { Responses: { records: [stored("c")] }, UnprocessedKeys: { records: { Keys: [itemOf("a"), itemOf("b")] } } },
        { Responses: { records: [stored("a")] } }
      ]
      const { requests, result } = yield* requestOf(
        (backend) => backend.getMany(keys),
        { retrySchedule: Schedule.recurs(0) },
        () => answers.shift() ?? {}
      )
      const asked = (...ids: ReadonlyArray<string>) => [
        "BatchGetItem",
        { RequestItems: { records: { Keys: ids.map(itemOf), ConsistentRead: true } }, ReturnConsumedCapacity: "TOTAL" }
      ]
      assert.deepStrictEqual<unknown>(requests, [asked("a", "b", "c"), asked("a", "b")])
      assert.isTrue(result._tag === "Success")
      if (result._tag !== "Success") return
      const found = result.success as ReadonlyArray<VersionedRecord | undefined>
      assert.deepStrictEqual(
        found.map((record) => record?.data),
        ["a", undefined, "c", "a"]
      )
    })
  )

  it.effect("a listing of the live records of one owner that start with a prefix, in either order", () =>
    Effect.gen(function* () {
      const prefix = makePrefix({ owner: "alice", idPrefix: "jobs/" })
      const query = {
        TableName: "records",
        KeyConditionExpression: "#pk = :pk AND begins_with(#sk, :sk)",
        FilterExpression: "NOT (#e <= :now)",
        ExpressionAttributeNames: { "#pk": "PK", "#sk": "SK", "#e": "expires_at" },
        ExpressionAttributeValues: { ":pk": { S: "OWNER#alice" }, ...now, ":sk": { S: "TASK#jobs/" } },
        ConsistentRead: true,
        Limit: 100,
        ScanIndexForward: true,
        ExclusiveStartKey: undefined,
        ReturnConsumedCapacity: "TOTAL"
      }
      yield* sends((backend) => backend.listByPrefix(prefix), "Query", query)
      const options = { limit: 3, order: "descending" } as const
      const descending = { ...query, Limit: 3, ScanIndexForward: false }
      yield* sends((backend) => backend.listByPrefix(prefix, options), "Query", descending)
      const eventually = { ...query, ConsistentRead: false }
      yield* sends((backend) => backend.listByPrefix(prefix), "Query", eventually, { consistentRead: false })
      const { ":sk": _, ...values } = query.ExpressionAttributeValues
      const all = {
        ...query,
        KeyConditionExpression: "#pk = :pk",
        ExpressionAttributeNames: { "#pk": "PK", "#e": "expires_at" },
        ExpressionAttributeValues: values
      }
      const everything = makePrefix({ owner: "alice", idPrefix: "" })
      yield* sends((backend) => backend.listByPrefix(everything), "Query", all, { idPrefix: "" })
    })
  )

  it.effect("the key at which the page before ended, with the next page", () =>
    Effect.gen(function* () {
      const prefix = makePrefix({ owner: "alice", idPrefix: "" })
      const LastEvaluatedKey = { ...Key, SK: { S: "TASK#b" } }
      const item = { ...Key, version: { N: "1" }, data: { S: "data" }, expires_at: { N: "6000" } }
      let cursor: string | undefined
      const first = yield* requestOf(
        (backend) =>
          Effect.tap(backend.listByPrefix(prefix, { limit: 1 }), (page) => {
            cursor = page.cursor
            return Effect.sync(() =>
              assert.deepStrictEqual(
                page.records.map(({ key }) => key.id),
                ["a"]
              )
            )
          }),
        {},
        () => ({ Items: [item], LastEvaluatedKey })
      )
      assert.strictEqual(first.result._tag, "Success")
      const { requests } = yield* requestOf((backend) => backend.listByPrefix(prefix, { cursor }))
      assert.deepStrictEqual(requests[0]?.[1].ExclusiveStartKey, LastEvaluatedKey)
      assert.strictEqual(requests[0]?.[1].KeyConditionExpression, "#pk = :pk AND #sk BETWEEN :from AND :to")
    })
  )

  for (const [order, keys, bounds] of [
    ["ascending", "#sk BETWEEN :from AND :to", { ":to": { S: `TASK#ab${"\u{10FFFF}".repeat(128)}` } }],
    ["descending", "#sk BETWEEN :to AND :from", { ":to": { S: "TASK#ab" } }]
  ] as const) {
    it.effect(`a page in the middle, ${order}, that starts at its cursor and ends with the prefix`, () =>
      Effect.gen(function* () {
        const prefix = makePrefix({ owner: "alice", idPrefix: "ab" })
        const cursor = Cursor.encode(prefix, order, "abc")
        const { requests } = yield* requestOf((backend) => backend.listByPrefix(prefix, { cursor, order }))
        const input = requests[0]?.[1]
        assert.strictEqual(input?.KeyConditionExpression, `#pk = :pk AND ${keys}`)
        assert.deepStrictEqual(input?.ExclusiveStartKey, { ...Key, SK: { S: "TASK#abc" } })
        const partition = { ":pk": { S: "OWNER#alice" }, ":now": { N: "5000" } }
        const values = { ...partition, ":from": { S: "TASK#abc" }, ...bounds }
        assert.deepStrictEqual(input?.ExpressionAttributeValues, values)
      })
    )
  }

  it.effect("a descending page of everything without a lower bound, since a key can't be compared with no text", () =>
    Effect.gen(function* () {
      const prefix = makePrefix({ owner: "alice", idPrefix: "" })
      const cursor = Cursor.encode(prefix, "descending", "a")
      const list = (backend: StorageBackend["Service"]) => backend.listByPrefix(prefix, { cursor, order: "descending" })
      const { requests } = yield* requestOf(list, { idPrefix: "" })
      assert.strictEqual(requests[0]?.[1].KeyConditionExpression, "#pk = :pk AND #sk <= :from")
    })
  )
})

describe("DynamoDb takes the version of a write", () => {
  const versionOf = (
    operation: (backend: StorageBackend["Service"]) => Effect.Effect<{ readonly version: number }, unknown>,
    answer: object
  ) =>
    Effect.map(
      requestOf(operation, {}, () => answer),
      ({ result }) => (result._tag === "Success" ? (result.success as { readonly version: number }).version : undefined)
    )

  it.effect("from the answer of a put, from what a creation replaced, and from what a compare-and-set expected", () =>
    Effect.gen(function* () {
      const answer = { Attributes: { version: { N: "41" } } }
      assert.strictEqual(yield* versionOf((backend) => backend.put(key, "data"), answer), 41)
      assert.strictEqual(yield* versionOf((backend) => backend.putIfVersion(key, "data", 0), answer), 42)
      assert.strictEqual(yield* versionOf((backend) => backend.putIfVersion(key, "data", 0), {}), 1)
      assert.strictEqual(yield* versionOf((backend) => backend.putIfVersion(key, "data", 7), {}), 8)
    })
  )
})

describe("DynamoDb takes a refusal", () => {
  const refusal = (name: string, fields: object = {}, message = "") =>
    Object.assign(new Error(message), { name, $metadata: { httpStatusCode: 400 }, ...fields })
  const errorOf = (operation: (backend: StorageBackend["Service"]) => Effect.Effect<unknown, unknown>, error: Error) =>
    Effect.map(
      requestOf(operation, {}, () => error),
      ({ result }) => (result._tag === "Failure" ? (result.failure as object) : undefined)
    )
  const operations: Record<string, (backend: StorageBackend["Service"]) => Effect.Effect<unknown, unknown>> = {
    "a compare-and-set": (backend) => backend.putIfVersion(key, "data", 1),
    "a delete": (backend) => backend.deleteIfVersion(key, 1)
  }

  for (const [name, operation] of Object.entries(operations)) {
    it.effect(`of ${name} with the item that is there, or without one`, () =>
      Effect.gen(function* () {
        const Item = { ...Key, version: { N: "3" }, data: { S: "theirs" }, write_id: { S: "w" } }
        const conflict = yield* errorOf(operation, refusal("ConditionalCheckFailedException", { Item }))
        assert.propertyVal(conflict, "_tag", "VersionConflict")
        assert.deepInclude(conflict, { expected: 1, actual: 3 })
        const missing = yield* errorOf(operation, refusal("ConditionalCheckFailedException"))
        assert.propertyVal(missing, "_tag", "RecordNotFound")
      })
    )
  }

  it.effect("by an item with the write's own id as success", () =>
    Effect.gen(function* () {
      const { result } = yield* requestOf(
        (backend) => backend.putIfVersion(key, "data", 0),
        {},
        (name, { ExpressionAttributeValues: values }) => {
          if (name !== "UpdateItem") return {}
          const { ":w": writeId } = values as { readonly ":w": { readonly S: string } }
          const Item = { ...Key, version: { N: "1" }, data: { S: "data" }, write_id: writeId }
          return refusal("ConditionalCheckFailedException", { Item })
        }
      )
      assert.isTrue(result._tag === "Success")
      assert.deepInclude(result._tag === "Success" ? (result.success as object) : {}, { version: 1, data: "data" })
    })
  )

  it.effect("for an item that is too large as CapacityExceeded, and no other for that", () =>
    Effect.gen(function* () {
      const put = (backend: StorageBackend["Service"]) => backend.put(key, "dàta")
      const tooLarge = "Item size to update has exceeded the maximum allowed size"
      const full = yield* errorOf(put, refusal("ValidationException", {}, tooLarge))
      assert.deepInclude(full, { _tag: "CapacityExceeded", resource: "ItemBytes", limit: 409_600, actual: 5 })
      for (const other of [refusal("ValidationException", {}, "no"), refusal("Other", {}, tooLarge)]) {
        assert.propertyVal(yield* errorOf(put, other), "_tag", "Backend")
      }
    })
  )
})

describe("DynamoDb reads an item", () => {
  const read = (attributes: object) =>
    Effect.map(
      requestOf(
        (backend) => backend.get(key),
        {},
        () => ({ Item: { ...Key, ...attributes } })
      ),
      ({ result }) => (result._tag === "Failure" ? String(result.failure) : (result.success as object))
    )
  const data = { S: "data" }
  const version = { N: "1" }

  it.effect("that pmcp-tasks or another client wrote, with an expiry or a write id or without", () =>
    Effect.gen(function* () {
      const bare = yield* read({ data, version })
      assert.deepInclude(bare, { data: "data", version: 1, writeId: undefined, expiresAt: undefined })
      const whole = yield* read({
        data,
        version: { N: String(maxVersion) },
        write_id: { S: "w" },
        expires_at: { N: "6000" }
      })
      assert.deepInclude(whole, { version: maxVersion, writeId: "w", expiresAt: DateTime.makeUnsafe(6_000_000) })
      const text = yield* read({ data, version, expires_at: { S: "5" } })
      assert.deepInclude(text, { expiresAt: undefined })
    })
  )

  it.effect("that is damaged as such, with its address and what is wrong", () =>
    Effect.gen(function* () {
      for (const [attributes, problem] of [
        [{ data }, "no version that is a number"],
        [{ data, version: { S: "1" } }, "no version that is a number"],
        [{ data, version: { N: "1.5" } }, "no version that is a number"],
        [{ data, version: { N: "0" } }, "no version that is a number"],
        [{ data, version: { N: "-1" } }, "no version that is a number"],
        [{ data, version: { N: String(maxVersion + 1) } }, "no version that is a number"],
        [{ version }, "no data that is a string"],
        [{ version, data: { N: "1" } }, "no data that is a string"],
        [{ version, data, write_id: { N: "1" } }, "a write_id that is not a string"]
      ] as const) {
        const error = yield* read(attributes)
        assert.include(error, `The item at PK OWNER#alice, SK TASK#a in table records has ${problem}`)
      }
    })
  )
})

describe("DynamoDb notes the capacity that it is charged for", () => {
  it.effect("in a counter of the table, and in the span of the operation, one entry a request", () =>
    Effect.gen(function* () {
      const ConsumedCapacity = { CapacityUnits: 2.5, TableName: "charged" }
      const spans: Array<Tracer.NativeSpan> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const prefix = makePrefix({ owner: "alice", idPrefix: "" })
      const page = { Items: [], LastEvaluatedKey: Key, ConsumedCapacity }
      const answer: Answer = (name) => (name === "Query" ? page : {})
      yield* requestOf((backend) => backend.listByPrefix(prefix), {}, answer).pipe(Effect.withTracer(tracer))
      const span = spans.find((span) => span.attributes.has("aws.dynamodb.consumed_capacity"))
      const noted = span?.attributes.get("aws.dynamodb.consumed_capacity")
      assert.deepStrictEqual(
        noted,
        Array.from({ length: 4 }, () => JSON.stringify(ConsumedCapacity))
      )
      const snapshot = yield* Metric.snapshot
      const counter = snapshot.find(
        ({ attributes, id }) =>
          id === "effect_versioned_store.consumed_capacity" && attributes?.["db.collection.name"] === "charged"
      )
      assert.strictEqual(counter?.attributes?.["db.system.name"], "aws.dynamodb")
      assert.deepInclude(counter?.state, { count: 10 })
      const before = spans.length
      yield* requestOf((backend) => backend.get(key)).pipe(Effect.withTracer(tracer))
      for (const span of spans.slice(before)) assert.isFalse(span.attributes.has("aws.dynamodb.consumed_capacity"))
    })
  )
})

describe("DynamoDb, to whatever it sends,", () => {
  const prefix = makePrefix({ owner: "alice", idPrefix: "" })
  const operations: ReadonlyArray<
    readonly [name: string, (backend: StorageBackend["Service"]) => Effect.Effect<unknown, unknown>, answer: unknown]
  > = [
    ["GetItem", (backend) => Effect.flip(backend.get(key)), undefined],
    ["BatchGetItem", (backend) => backend.getMany([key]), [undefined]],
    ["UpdateItem", (backend) => Effect.asVoid(backend.put(key, "data")), undefined],
    ["DeleteItem", (backend) => backend.delete(key), true],
    ["DeleteItem", (backend) => backend.deleteIfVersion(key, 1), undefined],
    ["Query", (backend) => backend.listByPrefix(prefix), { records: [], cursor: undefined }]
  ]

  it.effect("takes an answer that has nothing but success", () =>
    Effect.gen(function* () {
      for (const [name, operation, answer] of operations) {
        const { result } = yield* requestOf(operation)
        assert.strictEqual(result._tag, "Success", name)
        if (name !== "GetItem" && result._tag === "Success") assert.deepStrictEqual(result.success, answer, name)
      }
    })
  )

  it.effect("names the permission that is missing", () =>
    Effect.gen(function* () {
      const denied = Object.assign(new Error("not you"), { name: "AccessDeniedException" })
      for (const [name, operation] of operations.slice(1)) {
        const { result } = yield* requestOf(operation, {}, () => denied)
        assert.isTrue(result._tag === "Failure" && String(result.failure).includes(`grant dynamodb:${name} on`), name)
      }
      const { result } = yield* requestOf(
        (backend) => backend.get(key),
        {},
        () => denied
      )
      assert.isTrue(result._tag === "Failure" && String(result.failure).includes("grant dynamodb:GetItem on"))
    })
  )

  it.effect("knows that what only reads is not applied, even if the answer is lost", () =>
    Effect.gen(function* () {
      const lost = Object.assign(new Error("socket hang up"), { code: "ECONNRESET" })
      for (const [operation, outcome] of [
        [(backend) => backend.get(key), "not-applied"],
        [(backend) => backend.getMany([key]), "not-applied"],
        [(backend) => backend.listByPrefix(prefix), "not-applied"],
        [(backend) => backend.put(key, "data"), "unknown"],
        [(backend) => backend.delete(key), "unknown"]
      ] as ReadonlyArray<readonly [(backend: StorageBackend["Service"]) => Effect.Effect<unknown, unknown>, string]>) {
        const { result } = yield* requestOf(operation, {}, () => lost)
        assert.isTrue(result._tag === "Failure")
        if (result._tag === "Failure") assert.propertyVal(result.failure, "outcome", outcome)
      }
    })
  )
})
