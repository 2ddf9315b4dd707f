import type { CancellationReason, DynamoDBClient } from "@aws-sdk/client-dynamodb"
import { assert, describe, it, layer } from "@effect/vitest"
import { DateTime, Effect, Layer, Logger, Metric, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { defaultMaxDataBytes, type Step, StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Transaction from "../../src/Transaction.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import * as Bank from "../support/bank.ts"
import { counting, endpoint, layerTable, lossy, newTableName, putItem } from "../support/dynamoDb.ts"
import { newSeed, randomFrom } from "../support/random.ts"

const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })
const itemKey = (id: string) => ({ PK: { S: `OWNER#${owner}` }, SK: { S: `TASK#${id}` } })
const record = { key: keyOf("a"), data: "before", version: 7, writeId: "theirs", expiresAt: undefined }
const write = (id: string, expected: Step["expected"], data = "data") =>
  ({ _tag: "Write", id, expected, data }) as const
const check = (id: string, expected: Step["expected"]) => ({ _tag: "Check", id, expected }) as const
const remove = (id: string, expected: Step["expected"]) => ({ _tag: "Remove", id, expected }) as const

type Input = Record<string, unknown> & { readonly ClientRequestToken?: string }

/** The requests of a commit, 5,000.9 seconds after the epoch, to a client that takes its answers from a function. */
const requestsOf = Effect.fnUntraced(function* (
  steps: ReadonlyArray<Step>,
  answer: (index: number) => unknown = () => ({}),
  times = 0
) {
  const sent: Array<readonly [name: string, input: Input]> = []
  const send = (command: { readonly constructor: { readonly name: string }; readonly input: object }) => {
    const name = command.constructor.name.replace("Command", "")
    if (name === "DescribeTimeToLive") return Promise.resolve({})
    sent.push([name, command.input as Input])
    const answered = answer(sent.length - 1)
    return answered instanceof Error ? Promise.reject(answered) : Promise.resolve(answered)
  }
  const backend = DynamoDb.layer({ tableName: "records", retrySchedule: Schedule.recurs(times) }).pipe(
    Layer.provide(Layer.succeed(DynamoDb.Client, { send } as unknown as DynamoDBClient)),
    Layer.provide(Logger.layer([]))
  )
  yield* TestClock.setTime(5_000_900)
  const result = yield* Effect.result(StorageBackend.use((backend) => backend.commit(owner, steps))).pipe(
    Effect.provide(backend)
  )
  return { sent, result }
})

/** A request with "ours" in place of the write id and the token, which are random. */
const withoutIds = (input: Input | undefined) => {
  const token = input?.ClientRequestToken ?? ""
  assert.match(token, /^[\w-]{22}\.\w+$/)
  return JSON.parse(JSON.stringify(input).replaceAll(token, "ours"))
}

const refusal = (name: string, fields: object = {}, message = "") =>
  Object.assign(new Error(message), { name, $metadata: { httpStatusCode: 400 }, ...fields })

const cancelled = (...CancellationReasons: ReadonlyArray<CancellationReason>) =>
  refusal("TransactionCanceledException", { CancellationReasons })

const failed = (id: string, version: number): CancellationReason => ({
  Code: "ConditionalCheckFailed",
  Item: { ...itemKey(id), version: { N: String(version) }, data: { S: "theirs" }, write_id: { S: "w" } }
})
const none: CancellationReason = { Code: "None" }

describe("a commit on DynamoDB sends", () => {
  it.effect("one transaction, with a token, in which each step has its condition", () =>
    Effect.gen(function* () {
      const { sent } = yield* requestsOf([
        write("new", 0),
        { ...write("a", record), expiresAt: DateTime.makeUnsafe(6_000_000) },
        remove("gone", 3),
        check("absent", 0)
      ])
      const common = { TableName: "records", ReturnValuesOnConditionCheckFailure: "ALL_OLD" }
      const byVersion = "#v = :v AND NOT (#e <= :now)"
      const now = { ":now": { N: "5000" } }
      const written = { ":d": { S: "data" }, ":w": { S: "ours" } }
      const names = { "#v": "version", "#d": "data", "#e": "expires_at", "#w": "write_id" }
      assert.strictEqual(sent.length, 1)
      assert.strictEqual(sent[0]?.[0], "TransactWriteItems")
      assert.deepStrictEqual(withoutIds(sent[0]?.[1]), {
        ClientRequestToken: "ours",
        ReturnConsumedCapacity: "TOTAL",
        TransactItems: [
          {
            Update: {
              ...common,
              Key: itemKey("new"),
              ConditionExpression: "attribute_not_exists(#pk)",
              ExpressionAttributeNames: { "#pk": "PK", ...names },
              ExpressionAttributeValues: { ...written, ":next": { N: "1" } },
              UpdateExpression: "SET #d = :d, #w = :w, #v = :next REMOVE #e"
            }
          },
          {
            Update: {
              ...common,
              Key: itemKey("a"),
              ConditionExpression: `${byVersion} AND #w = :ow`,
              ExpressionAttributeNames: names,
              ExpressionAttributeValues: {
                ...{ ":v": { N: "7" }, ...now, ":ow": { S: "theirs" } },
                ...{ ...written, ":next": { N: "8" }, ":e": { N: "6000" } }
              },
              UpdateExpression: "SET #d = :d, #w = :w, #v = :next, #e = :e"
            }
          },
          {
            Delete: {
              ...common,
              Key: itemKey("gone"),
              ConditionExpression: byVersion,
              ExpressionAttributeNames: { "#v": "version", "#e": "expires_at" },
              ExpressionAttributeValues: { ":v": { N: "3" }, ...now }
            }
          },
          {
            ConditionCheck: {
              ...common,
              Key: itemKey("absent"),
              ConditionExpression: "attribute_not_exists(#pk) OR #e <= :now",
              ExpressionAttributeNames: { "#pk": "PK", "#e": "expires_at" },
              ExpressionAttributeValues: now
            }
          }
        ]
      })
    })
  )

  it.effect("one transaction that reads if it only checks, and one plain request if it has one step", () =>
    Effect.gen(function* () {
      const { sent } = yield* requestsOf([check("a", 0), check("b", 0)])
      const Get = (id: string) => ({ Get: { TableName: "records", Key: itemKey(id) } })
      assert.deepStrictEqual(sent, [
        ["TransactGetItems", { TransactItems: [Get("a"), Get("b")], ReturnConsumedCapacity: "TOTAL" }]
      ])
      for (const [step, name] of [
        [check("a", 0), "GetItem"],
        [write("a", 0), "UpdateItem"],
        [remove("a", 1), "DeleteItem"]
      ] as const) {
        assert.deepStrictEqual(
          (yield* requestsOf([step])).sent.map(([name]) => name),
          [name]
        )
      }
    })
  )

  it.effect("the same body and token again after another transaction, a throttling or a lost answer", () =>
    Effect.gen(function* () {
      const errors = [
        cancelled({ Code: "TransactionConflict" }, none),
        cancelled(none, { Code: "ThrottlingError" }),
        cancelled(none, { Code: "ProvisionedThroughputExceeded" }),
        refusal("TransactionInProgressException"),
        refusal("ProvisionedThroughputExceededException"),
        Object.assign(new Error("socket hang up"), { code: "ECONNRESET" }),
        refusal("TransactionInProgressException"),
        refusal("InternalServerError", { $metadata: { httpStatusCode: 500 } })
      ]
      const steps = [write("a", 0), write("b", 1)]
      const { result, sent } = yield* requestsOf(steps, (index) => errors[index] ?? {}, 10)
      assert.strictEqual(result._tag, "Success")
      assert.strictEqual(sent.length, errors.length + 1)
      for (const request of sent) assert.deepStrictEqual(request, sent[0])
    })
  )

  it.effect("a creation over an expired record once more, with another token, as an overwriting of just that one", () =>
    Effect.gen(function* () {
      const expired = { ...failed("new", 4), Item: { ...failed("new", 4).Item, expires_at: { N: "5000" } } }
      const { result, sent } = yield* requestsOf([write("a", 1), write("new", 0)], (index) =>
        index === 0 ? cancelled(none, expired) : {}
      )
      assert.strictEqual(sent.length, 2)
      const [first = "", second = ""] = sent.map(([, input]) => input.ClientRequestToken)
      assert.strictEqual(second, `${first}~1`)
      assert.isAtMost(second.length, 36)
      const [, { TransactItems }] = sent[1] as unknown as [string, { TransactItems: ReadonlyArray<{ Update: object }> }]
      assert.propertyVal(TransactItems[1]?.Update, "ConditionExpression", "#v = :v AND #e <= :now AND #w = :ow")
      const versions = result._tag === "Success" ? result.success.map((record) => record?.version) : []
      assert.deepStrictEqual(versions, [2, 5])
    })
  )
})

describe("a commit on DynamoDB fails", () => {
  const failureOf = Effect.fnUntraced(function* (steps: ReadonlyArray<Step>, error: Error, times = 0) {
    const { result, sent } = yield* requestsOf(steps, () => error, times)
    assert.strictEqual(result._tag, "Failure")
    const failure: object = result._tag === "Failure" ? result.failure : {}
    const { message = "", reason }: { readonly message?: string; readonly reason?: object } = failure
    return { failure, message, reason, sent: sent.length }
  })
  const steps = [write("a", 1), write("b", 2, "x".repeat(500)), write("c", 3)]

  it.effect("with the first step that was refused, and its true version, even if another one met a transaction", () =>
    Effect.gen(function* () {
      const reasons = [{ Code: "TransactionConflict" }, failed("b", 9), failed("c", 8)]
      const conflict = yield* failureOf(steps, cancelled(...reasons), 5)
      assert.deepInclude(conflict.failure, { _tag: "VersionConflict", expected: 2, actual: 9 })
      assert.strictEqual(conflict.sent, 1)
      const missing = yield* failureOf(steps, cancelled(none, { Code: "ConditionalCheckFailed" }, none))
      assert.deepInclude(missing.failure, { _tag: "RecordNotFound" })
    })
  )

  it.effect("with the record whose item would be too large, if DynamoDB says which", () =>
    Effect.gen(function* () {
      const Message = "Item size to update has exceeded the maximum allowed size"
      const named = yield* failureOf(steps, cancelled(none, none, { Code: "ValidationError", Message }))
      assert.deepInclude(named.failure, { _tag: "CapacityExceeded", resource: "ItemBytes", key: keyOf("c"), actual: 4 })
      const unnamed = yield* failureOf(steps, refusal("ValidationException", {}, Message))
      assert.deepInclude(unnamed.failure, {
        _tag: "CapacityExceeded",
        resource: "ItemBytes",
        key: keyOf("b"),
        actual: 500
      })
    })
  )

  it.effect("with an error that says what to do, and nothing is applied", () =>
    Effect.gen(function* () {
      const schema = "The provided key element does not match the schema"
      const cases = [
        [cancelled(none, { Code: "TransactionConflict" }), "Unavailable", /A transaction or another region is writing/],
        [cancelled({ Code: "ThrottlingError" }), "Throttled", /raise its capacity/],
        [cancelled({ Code: "ValidationError", Message: schema }), "Misconfigured", /has another key schema/],
        [
          cancelled({ Code: "ValidationError", Message: "No reason." }),
          "Unknown",
          /cancelled the transaction: No reason/
        ],
        [refusal("TransactionCanceledException", {}, "why"), "Unknown", /cancelled the transaction: .*why/],
        [
          refusal("ValidationException", {}, "The aggregate size of the items in the transaction cannot exceed 4 MB"),
          "Unsupported",
          /take more than the 4 MB of a transaction of DynamoDB: commit fewer/
        ],
        [
          refusal("AccessDeniedException", {}, "User: x is not authorized"),
          "Unauthorized",
          /grant dynamodb:UpdateItem, dynamodb:DeleteItem and dynamodb:ConditionCheckItem on table records/
        ]
      ] as const
      for (const [error, reason, message] of cases) {
        const found = yield* failureOf(steps, error)
        assert.deepInclude(found.failure, { _tag: "Backend", outcome: "not-applied" })
        assert.propertyVal(found.reason, "_tag", reason)
        assert.match(found.message, message)
      }
      const reading = yield* failureOf([check("a", 1), check("b", 1)], refusal("AccessDeniedException"))
      assert.match(reading.message, /grant dynamodb:GetItem on table records/)
    })
  )
})

const tableName = newTableName()

describe.skipIf(endpoint === undefined)("a commit on DynamoDB Local", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    const unitsSoFar = Effect.map(Metric.snapshot, (metrics) => {
      const counter = metrics.find(
        ({ attributes, id }) =>
          id === "effect_versioned_store.consumed_capacity" && attributes?.["db.collection.name"] === tableName
      )
      return counter?.type === "Counter" ? Number(counter.state.count) : 0
    })

    /** The requests of an Effect, and the capacity units that it is charged for. */
    const costOf = Effect.fnUntraced(function* (run: Effect.Effect<unknown, unknown, StorageBackend>) {
      const { backend, sent } = counting(tableName)
      const before = yield* unitsSoFar
      yield* Effect.result(Effect.provide(run, backend))
      return [sent.map((name) => name.replace("Command", "")), (yield* unitsSoFar) - before] as const
    })

    it.effect(
      "takes twice the units of a single write for each record, and twice those of a read if it only checks",
      () =>
        Effect.gen(function* () {
          const owner = crypto.randomUUID()
          const texts = yield* VersionedStore.make({ idPrefix: "", schema: Schema.String })
          for (const id of ["a", "b"]) yield* texts.create({ owner, id }, "x".repeat(500))
          const run = (
            f: (
              texts: VersionedStore.VersionedStore<string>,
              tx: Transaction.Transaction
            ) => Effect.Effect<unknown, unknown>
          ) =>
            costOf(
              Effect.flatMap(VersionedStore.make({ idPrefix: "", schema: Schema.String }), (texts) =>
                Transaction.run(owner, (tx) => f(texts, tx))
              )
            )
          const turn = (text: string) => `${text.slice(1)}${text[0]}`
          assert.deepStrictEqual(yield* run((texts, tx) => tx.update(texts, "a", turn)), [["GetItem", "UpdateItem"], 2])
          assert.deepStrictEqual(
            yield* run((texts, tx) => Effect.all([tx.update(texts, "a", turn), tx.update(texts, "b", turn)])),
            [["GetItem", "GetItem", "TransactWriteItems"], 2 + 4]
          )
          assert.deepStrictEqual(
            yield* run((texts, tx) => Effect.all([tx.get(texts, "a"), tx.update(texts, "b", turn)])),
            [["GetItem", "GetItem", "TransactWriteItems"], 2 + 4]
          )
          assert.deepStrictEqual(yield* run((texts, tx) => Effect.all([tx.get(texts, "a"), tx.get(texts, "b")])), [
            ["GetItem", "GetItem", "TransactGetItems"],
            2 + 4
          ])
        })
    )

    it.effect("fails with what to do if its records take more than 4 MB together, as they are stored", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const owner = crypto.randomUUID()
        const ids = Array.from({ length: 12 }, (_, i) => `${i}`)
        for (const id of ids) yield* backend.put(makeUnsafe({ owner, id }), "x".repeat(defaultMaxDataBytes))
        const checks = ids.map((id) => check(id, 1))
        const refused = [...ids.map((id) => check(id, 2)), write("new", 0)]
        for (const steps of [checks, refused]) {
          const error = yield* Effect.flip(backend.commit(owner, steps))
          assert.include(error.message, "take more than the 4 MB of a transaction of DynamoDB: commit fewer")
        }
      })
    )

    it.effect("names the record whose item would be too large because of attributes of other programs", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const foreign = { version: { N: "1" }, data: { S: "x" }, foreign: { S: "f".repeat(200_000) } }
        yield* putItem(tableName, { ...itemKey("b"), ...foreign })
        const steps = [write("a", 0, "x".repeat(300_000)), write("b", 1, "x".repeat(250_000))]
        const error = yield* Effect.flip(backend.commit(owner, steps))
        assert.deepInclude(error, { _tag: "CapacityExceeded", key: keyOf("b"), actual: 250_000 })
        assert.deepStrictEqual(yield* backend.getMany([keyOf("a")]), [undefined])
      })
    )

    for (const lost of [0.1, 0.3]) {
      it.effect(`of a transfer is whole with ${lost * 100}% of the answers lost, and none is unknown`, () =>
        Effect.gen(function* () {
          const random = randomFrom(newSeed(`DynamoDB, bank, ${lost} lost`))
          let lostAnswers = 0
          const backend = yield* lossy(tableName)(() => random() < lost && lostAnswers++ >= 0)
          const owner = `bank ${lost}`
          const bank = yield* Effect.provideService(Bank.openFor(owner), StorageBackend, backend)
          const direct = yield* Bank.openFor(owner)
          yield* Bank.openAccounts(direct)
          const ends = yield* Bank.transfers(bank, { fibers: 8, times: 20 }, random)
          console.log(`DynamoDB, ${lost} lost: ${lostAnswers} answers lost, ${JSON.stringify(Bank.counts(ends))}`)
          yield* Bank.assertBooks(direct, ends)
          assert.isAbove(lostAnswers, 5)
          assert.strictEqual(ends.unknown.size, 0)
        })
      )
    }
  })
})
