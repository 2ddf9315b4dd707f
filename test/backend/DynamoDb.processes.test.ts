import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { clientConfig, endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"

const run = promisify(execFile)
const tableName = newTableName()

describe.skipIf(endpoint === undefined)("DynamoDb, from separate processes", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    it.effect(
      "16 with 200 increments each of one record lose none",
      () =>
        Effect.gen(function* () {
          const counters = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
          const key = { owner: "everybody", id: "counter" }
          yield* counters.create(key, 0)
          const script = join(import.meta.dirname, "../support/incrementer.ts")
          const args = [script, clientConfig.endpoint, clientConfig.region, tableName, key.owner, "200"]
          yield* Effect.forEach(Array.from({ length: 16 }), () => Effect.promise(() => run("node", args)), {
            concurrency: "unbounded",
            discard: true
          })
          const final = yield* counters.get(key)
          assert.strictEqual(final.value, 3200)
          assert.strictEqual(final.version, 3201)
        }),
      240_000
    )
  })
})
