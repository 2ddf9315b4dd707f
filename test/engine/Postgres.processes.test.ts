import { assert, describe, layer } from "@effect/vitest"
import { DateTime, Effect, Schedule, Schema } from "effect"
import { layerCleanup, StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { killedWriter } from "../support/killedWriter.ts"
import { layerTable, newTable, send, url } from "../support/postgres.ts"
import { increment } from "../support/processes.ts"
import { newSeed, randomFrom } from "../support/random.ts"

const kills = 20

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

    it.effect(`tasks survive that ${kills} processes are killed as they create and end them`, () =>
      Effect.gen(function* () {
        const random = randomFrom(newSeed("PostgreSQL, tasks, killed"))
        const tasks = yield* TaskStore.TaskStore
        const ownerId = "tasks"
        const printed = yield* Effect.forEach(
          Array.from({ length: kills }),
          () => killedWriter("taskWriter.ts", [tableName, url ?? "", ownerId], random() * 100),
          { concurrency: 4 }
        )
        const lines = printed.flat()
        for (const line of lines) {
          const [step, taskId = ""] = line.split(" ")
          const { task } = yield* tasks.get({ ownerId, taskId })
          if (step === "completed") assert.strictEqual(task.status, "completed")
          if (task.status === "completed") assert.strictEqual(yield* tasks.getResult({ ownerId, taskId }), taskId)
        }
        const acknowledged = lines.filter((line) => line.startsWith("created")).length
        console.log(`PostgreSQL: ${kills} kills of clients, ${acknowledged} tasks acknowledged, 0 lost`)
        assert.isAtLeast(acknowledged, kills)
      }).pipe(Effect.provide(TaskStore.layer))
    )

    it.effect("a cleanup in the background removes what has expired for more than five minutes", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const now = yield* DateTime.now
        const owner = "cleaned"
        for (let i = 0; i < 250; i++) {
          const expiresAt = DateTime.add(now, { minutes: i < 240 ? -6 : -4 })
          yield* backend.put(makeUnsafe({ owner, id: `${i}` }), "data", { expiresAt })
        }
        yield* backend.put(makeUnsafe({ owner, id: "stays" }), "data")
        const rows = send(`SELECT count(*)::int FROM "${tableName}" WHERE owner = 'cleaned'`)
        yield* Effect.gen(function* () {
          yield* Effect.repeat(rows, { until: ([row]) => row?.[0] === 11 })
          // It goes on.
          yield* backend.put(makeUnsafe({ owner, id: "later" }), "data", {
            expiresAt: DateTime.add(now, { minutes: -6 })
          })
          yield* Effect.repeat(rows, { until: ([row]) => row?.[0] === 11 })
        }).pipe(Effect.provide(layerCleanup(Schedule.spaced("50 millis"))))
      }).pipe(Effect.timeout("30 seconds"))
    )
  })
})
