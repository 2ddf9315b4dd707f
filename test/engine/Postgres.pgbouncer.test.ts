import { assert, describe, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { inject } from "vitest"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { clientOf, layerOwnTable, lossy, newTable, plant, send } from "../support/postgres.ts"

const bouncer = inject("pgBouncerUrl")

describe.skipIf(bouncer === undefined)("Through PgBouncer in transaction mode", () => {
  const client = clientOf(bouncer ?? "", { prepare: false, maxConnections: 20 })
  const tableName = newTable()
  StorageContract.suite(
    "Postgres",
    Postgres.layer({ tableName }).pipe(Layer.provideMerge(layerOwnTable({ tableName })), Layer.provideMerge(client)),
    { shared: true, plant: plant(tableName), lossy: lossy(tableName) }
  )

  const other = newTable()
  const layerOther = Postgres.layer({ tableName: other }).pipe(
    Layer.provideMerge(layerOwnTable({ tableName: other })),
    Layer.provideMerge(client)
  )
  layer(layerOther, { excludeTestServices: true })((it) => {
    it.effect("a client with more connections than PgBouncer has loses no write", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const all = Array.from({ length: 1000 }, (_, i) => i)
        const concurrently = { concurrency: 64, discard: true } as const
        const keyOf = (i: number) => makeUnsafe({ owner: "alice", id: String(i % 50) })
        yield* Effect.forEach(all, (i) => backend.put(keyOf(i), String(i)), concurrently)
        const steps = (i: number) =>
          ["a", "b"].map((id) => ({ _tag: "Write" as const, id: `${id}${i}`, data: "x", expected: 0 }))
        yield* Effect.forEach(all, (i) => backend.commit("bob", steps(i)), concurrently)
        const counts = yield* send(
          `SELECT sum(version)::int, count(*)::int FROM "${other}" GROUP BY owner ORDER BY owner`
        )
        assert.deepStrictEqual(counts, [
          [1000, 50],
          [2000, 2000]
        ])
      })
    )
  })
})
