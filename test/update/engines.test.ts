import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { layerTable as layerPostgres, newTable, url as postgresUrl } from "../support/postgres.ts"
import { layerKeys, newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"

const key = { owner: "everybody", id: "counter" }
const [fibers, times] = [64, 10]

const engines: Record<string, Layer.Layer<StorageBackend, unknown> | undefined> = {
  InMemory: InMemory.layer,
  Sqlite: Sqlite.layer({ filename: newFiles()() }),
  DynamoDb: endpoint === undefined ? undefined : layerTable({ tableName: newTableName() }),
  Redis: url === undefined ? undefined : layerKeys({ keyPrefix: newKeyPrefix() }),
  Postgres: postgresUrl === undefined ? undefined : layerPostgres({ tableName: newTable() })
}

/** The counter, updated by many fibers, and the requests that this took. */
const updateByMany = (isGrouped: boolean) =>
  Effect.gen(function* () {
    const { backend, requests } = Faults.backend(yield* StorageBackend)
    const counters = yield* Effect.provideService(
      VersionedStore.make({ idPrefix: `${isGrouped}/`, schema: Schema.Int }),
      StorageBackend,
      backend
    )
    yield* counters.create(key, 0)
    requests.length = 0
    const one = Effect.forEach(Array.from({ length: times }), () => counters.update(key, (n) => n + 1))
    const records = (yield* Effect.forEach(Array.from({ length: fibers }), () => one, {
      concurrency: "unbounded"
    })).flat()
    return { counters, records, requests: requests.length }
  }).pipe(Effect.provideService(VersionedStore.GroupCommit, isGrouped))

for (const [name, layer] of Object.entries(engines)) {
  describe.skipIf(layer === undefined)(`${fibers} fibers that update one record, on ${name}`, () => {
    for (const isGrouped of [true, false]) {
      it.live(
        isGrouped ? "lose none, and share writes" : "lose none without group commit",
        () =>
          Effect.gen(function* () {
            const { counters, records, requests } = yield* updateByMany(isGrouped)
            const count = fibers * times
            const last = yield* counters.get(key)
            assert.deepInclude(last, { value: count, version: count + 1 })
            // Each update has a version of its own, one for each value.
            const versions = records.map(({ value, version }) => [value, version] as const)
            assert.deepStrictEqual(
              versions.toSorted(([a], [b]) => a - b),
              Array.from({ length: count }, (_, i) => [i + 1, i + 2] as const)
            )
            // A compare-and-set on any record but the last one is a conflict.
            for (const record of records.filter(({ version }) => version > count - 20 && version <= count)) {
              const error = yield* Effect.flip(counters.setIfVersion(record, -1))
              assert.isTrue(error._tag === "VersionConflict" && error.actual === count + 1)
            }
            assert.strictEqual((yield* counters.get(key)).value, count)
            if (isGrouped && name !== "InMemory") assert.isBelow(requests, count / 8)
          }).pipe(Effect.provide(layer ?? (Layer.empty as never))),
        60_000
      )
    }
  })
}
