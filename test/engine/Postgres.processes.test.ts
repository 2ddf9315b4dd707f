import { assert, describe, layer } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { layerTable, newTable, url } from "../support/postgres.ts"
import { increment } from "../support/processes.ts"

const tableName = newTable()

describe.skipIf(url === undefined)("Postgres, from separate processes", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    for (const [processes, fibers, times] of [
      [2, 64, 50],
      [8, 1, 100]
    ] as const) {
      it.effect(`${processes} with ${fibers} fibers and ${times} increments each of one record lose none`, () =>
        Effect.gen(function* () {
          const counters = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
          const key = { owner: `everybody ${processes}`, id: "counter" }
          yield* counters.create(key, 0)
          yield* increment(processes, { store: { tableName, postgresUrl: url ?? "" }, key, fibers, times })
          const count = processes * fibers * times
          assert.deepInclude(yield* counters.get(key), { value: count, version: count + 1 })
        })
      )
    }
  })
})
