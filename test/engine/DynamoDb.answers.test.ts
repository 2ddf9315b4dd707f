import { afterEach, assert, describe, layer, vi } from "@effect/vitest"
import { Effect, Layer, Schedule } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import type { Fate } from "../support/ambiguity.ts"
import { clientConfig, endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { type Answer, dynamoDbProxy } from "../support/dynamoDbProxy.ts"

const tableName = newTableName()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })
const asBackend = (error: { readonly _tag: string }): Backend => {
  assert.strictEqual(error._tag, "Backend")
  return error as Backend
}
afterEach(() => vi.unstubAllEnvs())

describe.skipIf(endpoint === undefined)("DynamoDb fails with a reason, an outcome and advice", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    it.effect("for each error that DynamoDB or the network gives", () =>
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
          [{ status: 400, type: "ExpiredTokenException", message: "" }, "Unauthorized", "not-applied", false, /renew/],
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
          [{ status: 400, type: "SomethingNew", message: "odd" }, "Unknown", "not-applied", false, /SomethingNew: odd/]
        ]
        for (const [fate, reason, outcome, isRetryable, message] of cases) {
          const proxy = yield* dynamoDbProxy(endpoint ?? "", () => fate)
          const backend = DynamoDb.layer({
            tableName,
            // Whoever answers has as long as a slow machine takes.
            requestTimeout: fate === "hang" ? "300 millis" : "1 minute",
            retrySchedule: Schedule.recurs(0)
          }).pipe(Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint })))
          const error = yield* StorageBackend.use((backend) => Effect.flip(backend.put(newKey(), "hush hush"))).pipe(
            Effect.provide(backend)
          )
          const found = asBackend(error)
          const name = JSON.stringify(fate)
          assert.strictEqual(found.reason._tag, reason, name)
          assert.strictEqual(found.outcome, outcome, name)
          assert.strictEqual(found.isRetryable, isRetryable, name)
          assert.strictEqual(found.reason.isRetryable, isRetryable, name)
          assert.match(found.message, message, name)
          assert.notInclude(found.message, "hush", name)
          assert.strictEqual(found.operation, "put", name)
        }
      })
    )

    it.effect("if DynamoDB can't be reached, or settings are missing", () =>
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
})
