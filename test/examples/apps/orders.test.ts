import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Layer, Schema, Stream } from "effect"
import { InMemory, StorageBackend, StorageError, VersionedStore } from "effect-versioned-store"
import * as DynamoDb from "effect-versioned-store/DynamoDb"
import * as Faults from "effect-versioned-store/Faults"
import { inject } from "vitest"
import { type Event, makeHandler } from "../../../examples/apps/orders.ts"

const post = (requestId: string | undefined, body: unknown, owner = "alice"): Event => ({
  rawPath: `/${owner}/orders`,
  rawQueryString: "",
  headers: {
    "content-type": "application/json",
    ...(requestId === undefined ? {} : { "idempotency-key": requestId })
  },
  requestContext: { http: { method: "POST" } },
  body: Buffer.from(JSON.stringify(body)).toString("base64"),
  isBase64Encoded: true
})

const tea = { items: ["tea"] }

/** A function on a store in memory, some of whose answers to writes are lost, and the numbers of the orders there. */
const makeFunction = async (fateOf?: Parameters<typeof Faults.backend>[1]) => {
  const memory = await Effect.runPromise(Effect.provide(StorageBackend.StorageBackend, InMemory.layer))
  const { backend } = Faults.backend(memory, fateOf)
  const orders = VersionedStore.make({ idPrefix: "order/", schema: Schema.Struct({ number: Schema.Int }) })
  const numbers = orders.pipe(
    Effect.flatMap((orders) => Stream.runCollect(orders.stream({ owner: "alice" }))),
    Effect.map((records) => records.map(({ value }) => value.number)),
    Effect.provideService(StorageBackend.StorageBackend, memory)
  )
  const layer = Layer.succeed(StorageBackend.StorageBackend, backend)
  return {
    handler: await makeHandler(layer),
    another: await makeHandler(layer),
    numbers: () => Effect.runPromise(numbers)
  }
}

describe("the function that takes orders", () => {
  it("places the order of a request once, and answers the same each time", async () => {
    const { another, handler, numbers } = await makeFunction()
    const answers = await Promise.all([handler, another, handler, another].map((f) => f(post("r1", tea))))
    for (const { body, statusCode } of [...answers, await handler(post("r1", tea))]) {
      assert.strictEqual(statusCode, 200)
      assert.strictEqual(body, answers[0]?.body)
    }
    assert.strictEqual((await handler(post("r2", tea))).statusCode, 200)
    assert.strictEqual((await numbers()).length, 2)
  })

  it("places it once although answers of the storage are lost and the client tries again", async () => {
    const { handler, numbers } = await makeFunction(Faults.chance(7, { lose: 0.2 }))
    let failures = 0
    for (let i = 0; i < 10; i++) {
      for (;;) {
        const { statusCode } = await handler(post(`r${i}`, tea))
        if (statusCode === 200) break
        assert.strictEqual(statusCode, 503)
        failures++
      }
    }
    assert.isAbove(failures, 0)
    assert.strictEqual((await numbers()).length, 10)
  })

  it("refuses another request under the same key, and what is no order", async () => {
    const { handler } = await makeFunction()
    await handler(post("r1", tea))
    assert.strictEqual((await handler(post("r1", { items: ["milk"] }))).statusCode, 422)
    assert.strictEqual((await handler(post("r2", { items: [] }))).statusCode, 400)
    assert.strictEqual((await handler(post(undefined, tea))).statusCode, 400)
    assert.strictEqual((await handler(post("r3", tea, "%00"))).statusCode, 400)
    assert.strictEqual((await handler(post("r4", { items: ["x".repeat(400_000)] }))).statusCode, 413)
    assert.strictEqual((await handler({ ...post("r5", tea), rawPath: "/alice/bills" })).statusCode, 404)
  })

  it("fails the cold start if the storage does", async () => {
    const wrong = Layer.effect(
      StorageBackend.StorageBackend,
      Effect.fail(
        StorageError.makeBackend({ reason: "Misconfigured", outcome: "not-applied", description: "no table" })
      )
    )
    const error = await makeHandler(wrong).then(
      () => undefined,
      (error) => error
    )
    assert.include(String(error), "no table")
  })

  const endpoint = inject("dynamoDbEndpoint")

  const environment = { DYNAMODB_TABLE: `test-${crypto.randomUUID()}`, DYNAMODB_ENDPOINT: endpoint ?? "" }
  const credentials = { AWS_ACCESS_KEY_ID: "local", AWS_SECRET_ACCESS_KEY: "local", AWS_REGION: "us-east-1" }

  it.skipIf(endpoint === undefined)("fails the cold start if the table is missing", async () => {
    Object.assign(process.env, { ...credentials, ...process.env })
    const env = { ...environment, DYNAMODB_TABLE: "test-missing" }
    const storage = DynamoDb.layerFromEnv.pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))))
    const error = await makeHandler(storage).then(
      () => undefined,
      (error) => error
    )
    assert.include(String(error), "There is no table test-missing")
  })

  it.skipIf(endpoint === undefined)("runs on the table that the environment names", async () => {
    Object.assign(process.env, { ...credentials, ...process.env, ...environment })
    await Effect.runPromise(
      DynamoDb.ensureTable({ tableName: environment.DYNAMODB_TABLE }).pipe(
        Effect.provide(DynamoDb.layerClient({ endpoint: environment.DYNAMODB_ENDPOINT }))
      )
    )
    const { handler } = await import("../../../examples/apps/lambda.ts")
    const answers = await Promise.all(Array.from({ length: 5 }, () => handler(post("r1", tea))))
    for (const { body, statusCode } of answers) assert.deepStrictEqual([statusCode, body], [200, answers[0]?.body])
  })
})
