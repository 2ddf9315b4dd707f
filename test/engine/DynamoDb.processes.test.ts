import { assert, describe, layer } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { clientConfig, endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { increment } from "../support/processes.ts"

const tableName = newTableName()

describe.skipIf(endpoint === undefined)("DynamoDb, from separate processes", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    it.effect("16 with 200 increments each of one record lose none", () =>
      Effect.gen(function* () {
        const counters = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
        const key = { owner: "everybody", id: "counter" }
        yield* counters.create(key, 0)
        yield* increment(16, { store: { tableName, client: clientConfig }, key, fibers: 1, times: 200 })
        const final = yield* counters.get(key)
        assert.strictEqual(final.value, 3200)
        assert.strictEqual(final.version, 3201)
      })
    )
  })
})
