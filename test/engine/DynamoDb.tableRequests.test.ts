import type { DynamoDBClient } from "@aws-sdk/client-dynamodb"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import type { Backend } from "../../src/StorageError.ts"

type Answers = Readonly<Record<string, (count: number) => object | "hang">>

/** An AWS client that sends nothing: it notes each request, and takes the nth answer, or error, for its name. */
const stub = (answers: Answers) => {
  const sent: Array<readonly [name: string, input: object]> = []
  const send = (command: { readonly constructor: { readonly name: string }; readonly input: object }) => {
    const name = command.constructor.name.replace("Command", "")
    const count = sent.filter(([other]) => other === name).length
    sent.push([name, command.input])
    const answer = answers[name]?.(count) ?? {}
    if (answer === "hang") return new Promise(() => {})
    return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer)
  }
  return {
    names: () => sent.map(([name]) => name),
    inputOf: (name: string) => sent.find(([other]) => other === name)?.[1],
    client: Layer.succeed(DynamoDb.Client, { send } as unknown as DynamoDBClient)
  }
}

const refusal = (name: string, message = "") => Object.assign(new Error(message), { name })
const missing = refusal("ResourceNotFoundException")
const throttled = refusal("ThrottlingException")

const table = (
  status: string,
  keys: ReadonlyArray<readonly [name: string, type: string]> = [
    ["PK", "S"],
    ["SK", "S"]
  ]
) => ({
  Table: {
    TableStatus: status,
    // In another order than the keys.
    AttributeDefinitions: keys.map(([AttributeName, AttributeType]) => ({ AttributeName, AttributeType })).reverse(),
    KeySchema: keys.map(([AttributeName], i) => ({ AttributeName, KeyType: i === 0 ? "HASH" : "RANGE" }))
  }
})

const timeToLive = (TimeToLiveStatus: string, AttributeName?: string) => ({
  TimeToLiveDescription: { TimeToLiveStatus, AttributeName }
})

/** Runs an operation as time passes, and gives the requests that it sent and how it ended. */
const run = Effect.fnUntraced(function* (operation: Effect.Effect<void, Backend, DynamoDb.Client>, answers: Answers) {
  const { client, ...requests } = stub(answers)
  const fiber = yield* Effect.forkChild(Effect.result(Effect.provide(operation, client)))
  for (let i = 0; i < 60; i++) {
    yield* TestClock.withLive(Effect.sleep(0))
    yield* TestClock.adjust("1 second")
  }
  assert.isDefined(fiber.pollUnsafe(), `still running after ${requests.names().join(", ")}`)
  const result = yield* Fiber.join(fiber)
  return { ...requests, error: result._tag === "Failure" ? result.failure : undefined }
})

const attributes = { partitionKey: "p", sortKey: "s", expiresAt: "until" }
const named = table("ACTIVE", [
  ["p", "S"],
  ["s", "S"]
])

const created = {
  TableName: "records",
  BillingMode: "PAY_PER_REQUEST",
  AttributeDefinitions: [
    { AttributeName: "p", AttributeType: "S" },
    { AttributeName: "s", AttributeType: "S" }
  ],
  KeySchema: [
    { AttributeName: "p", KeyType: "HASH" },
    { AttributeName: "s", KeyType: "RANGE" }
  ]
}
const enabled = { TableName: "records", TimeToLiveSpecification: { AttributeName: "until", Enabled: true } }

describe("DynamoDb.createTable", () => {
  const create = DynamoDb.createTable({ tableName: "records", attributes })

  it.effect("creates the table, waits until it is active, and then switches Time to Live on", () =>
    Effect.gen(function* () {
      const { error, inputOf, names } = yield* run(create, {
        DescribeTable: (count) => [missing, table("CREATING")][count] ?? named
      })
      assert.isUndefined(error)
      const describes = ["DescribeTable", "DescribeTable", "DescribeTable"]
      assert.deepStrictEqual(names(), ["CreateTable", ...describes, "UpdateTimeToLive"])
      assert.deepStrictEqual(inputOf("CreateTable"), created)
      assert.deepStrictEqual(inputOf("DescribeTable"), { TableName: "records" })
      assert.deepStrictEqual(inputOf("UpdateTimeToLive"), enabled)
    })
  )

  it.effect("fails if there is one already, and changes nothing", () =>
    Effect.gen(function* () {
      const { error, names } = yield* run(create, { CreateTable: () => refusal("ResourceInUseException") })
      assert.deepStrictEqual(names(), ["CreateTable"])
      assert.deepInclude(error, { operation: "createTable", outcome: "not-applied" })
      assert.include(error?.message, "There is a table records already: use DynamoDb.ensureTable")
    })
  )

  it.effect("tries again after a failure that passes by itself, and takes Time to Live that is on already", () =>
    Effect.gen(function* () {
      const once = (count: number) => (count === 0 ? throttled : {})
      const { error, names } = yield* run(create, {
        CreateTable: once,
        DescribeTable: (count) => (count === 0 ? throttled : named),
        UpdateTimeToLive: (count) =>
          count === 0 ? throttled : refusal("ValidationException", "TimeToLive is already enabled")
      })
      assert.isUndefined(error)
      assert.deepStrictEqual(
        names(),
        ["CreateTable", "DescribeTable", "UpdateTimeToLive"].flatMap((name) => [name, name])
      )
    })
  )

  it.effect("does not try again after another failure, or after 30 seconds without an answer", () =>
    Effect.gen(function* () {
      const denied = yield* run(create, {
        DescribeTable: () => named,
        UpdateTimeToLive: () => refusal("AccessDeniedException")
      })
      assert.deepInclude(denied.error, { operation: "UpdateTimeToLive", outcome: "not-applied" })
      const hanging = yield* run(create, { CreateTable: () => "hang" })
      assert.deepStrictEqual(hanging.names(), ["CreateTable"])
      assert.include(hanging.error?.message, "did not answer within 30s")
    }).pipe(Effect.provide(Logger.layer([])))
  )
})

describe("DynamoDb.ensureTable", () => {
  const ensure = DynamoDb.ensureTable({ tableName: "records", attributes })

  it.effect("creates a table that is missing, also if another process was first", () =>
    Effect.gen(function* () {
      for (const answer of [{}, refusal("ResourceInUseException")]) {
        const { error, inputOf, names } = yield* run(ensure, {
          CreateTable: () => answer,
          DescribeTable: (count) => (count === 0 ? missing : named)
        })
        assert.isUndefined(error)
        const found = ["DescribeTable", "DescribeTimeToLive", "UpdateTimeToLive"]
        assert.deepStrictEqual(names(), ["DescribeTable", "CreateTable", ...found])
        assert.deepStrictEqual(inputOf("CreateTable"), created)
        assert.deepStrictEqual(inputOf("DescribeTimeToLive"), { TableName: "records" })
        assert.deepStrictEqual(inputOf("UpdateTimeToLive"), enabled)
      }
    })
  )

  it.effect("switches Time to Live on unless it is on or about to be", () =>
    Effect.gen(function* () {
      for (const [status, isSwitchedOn] of [
        ["ENABLED", false],
        ["ENABLING", false],
        ["DISABLED", true],
        ["DISABLING", true]
      ] as const) {
        const { error, names } = yield* run(ensure, {
          DescribeTable: () => named,
          DescribeTimeToLive: () => timeToLive(status, "until")
        })
        assert.isUndefined(error)
        assert.strictEqual(names().includes("UpdateTimeToLive"), isSwitchedOn, status)
        assert.notInclude(names(), "CreateTable")
      }
    })
  )

  it.effect("fails if Time to Live is on another attribute, or the key schema is another, and changes nothing", () =>
    Effect.gen(function* () {
      const other = yield* run(ensure, {
        DescribeTable: () => named,
        DescribeTimeToLive: () => timeToLive("ENABLED", "gone")
      })
      assert.include(other.error?.message, "Table records has Time to Live on another attribute: gone")
      assert.notInclude(other.names(), "UpdateTimeToLive")
      for (const [keys, schema] of [
        [[["p", "S"]], "p HASH S"],
        [
          [
            ["p", "S"],
            ["s", "N"]
          ],
          "p HASH S, s RANGE N"
        ],
        [
          [
            ["p", "N"],
            ["s", "S"]
          ],
          "p HASH N, s RANGE S"
        ],
        [
          [
            ["PK", "S"],
            ["s", "S"]
          ],
          "PK HASH S, s RANGE S"
        ],
        [
          [
            ["p", "S"],
            ["SK", "S"]
          ],
          "p HASH S, SK RANGE S"
        ]
      ] as const) {
        const { error, names } = yield* run(ensure, { DescribeTable: () => table("ACTIVE", keys) })
        assert.deepInclude(error, { operation: "ensureTable", outcome: "not-applied" })
        assert.include(error?.message, `Table records has another key schema: ${schema}.`)
        assert.deepStrictEqual(new Set(names()), new Set(["DescribeTable"]))
      }
    })
  )
})

describe("the Layer of DynamoDb warns", () => {
  const warnings = Effect.fnUntraced(function* (answer: object) {
    const lines: Array<string> = []
    const logger = Logger.layer([Logger.make(({ logLevel, message }) => void lines.push(`${logLevel} ${message}`))])
    const { client, inputOf } = stub({ DescribeTimeToLive: () => answer })
    const layer = DynamoDb.layer({ tableName: "records", attributes }).pipe(Layer.provide(client))
    yield* Effect.scoped(Effect.andThen(Layer.build(layer), TestClock.withLive(Effect.sleep(5)))).pipe(
      Effect.provide(logger)
    )
    assert.deepStrictEqual(inputOf("DescribeTimeToLive"), { TableName: "records" })
    return lines
  })

  it.effect("if Time to Live is off or on another attribute, or the table is missing, and only then", () =>
    Effect.gen(function* () {
      for (const answer of [timeToLive("ENABLED", "until"), timeToLive("ENABLING", "until"), throttled]) {
        assert.deepStrictEqual(yield* warnings(answer), [])
      }
      for (const answer of [{}, timeToLive("DISABLED", "until"), timeToLive("ENABLED", "gone")]) {
        const [line, ...rest] = yield* warnings(answer)
        assert.include(line, "Warn Time to Live of table records is not on for attribute until")
        assert.deepStrictEqual(rest, [])
      }
      const [line, ...rest] = yield* warnings(missing)
      assert.include(line, "Warn There is no table records: create it")
      assert.deepStrictEqual(rest, [])
    })
  )
})
