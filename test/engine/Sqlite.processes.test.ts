import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { countOf } from "../support/durableWriter.ts"
import { killedWriter } from "../support/killedWriter.ts"
import { increment } from "../support/processes.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { newFiles, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const alices = StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "" })

describe("Sqlite, from separate processes", () => {
  const filename = newFile()

  it.live("2 of 8 fibers each, with 100 increments each of one record, lose none and meet no error from locking", () =>
    Effect.gen(function* () {
      const counters = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
      const key = { owner: "everybody", id: "counter" }
      yield* counters.create(key, 0)
      const told = yield* increment(2, { store: { filename }, key, fibers: 8, times: 100 })
      console.log(`2 processes of 8 fibers on one file: ${told.join("; ")}`)
      const final = yield* counters.get(key)
      assert.strictEqual(final.value, 1600)
      assert.strictEqual(final.version, 1601)
    }).pipe(Effect.provide(Sqlite.layer({ filename })))
  )

  it.live(
    "100 of them killed at random moments lose no write that was acknowledged, and leave no record half written",
    () =>
      Effect.gen(function* () {
        const random = randomFrom(newSeed("SQLite, killed"))
        const told = { kills: 0, acknowledged: 0, lost: 0 }
        /** One writer after another on one file; each goes on with what the one before has left. */
        const killWriters = Effect.fnUntraced(function* (times: number) {
          const filename = newFile()
          const acknowledged = new Map<string, number>()
          for (let i = 0; i < times; i++) {
            for (const line of yield* killedWriter("durableWriter.ts", [filename], random() * 60)) {
              const [id = "", count = ""] = line.split(" ")
              acknowledged.set(id, Number(count))
              told.acknowledged++
            }
            told.kills++
            const found = yield* StorageBackend.use((backend) => backend.listByPrefix(alices)).pipe(
              Effect.provide(Sqlite.layer({ filename }))
            )
            const counts = new Map(found.records.map(({ data, key }) => [key.id, countOf(data)]))
            for (const [id, count] of acknowledged) {
              const is = counts.get(id) ?? 0
              if (is < count) told.lost++
              assert.isAtMost(is, count + 1, "more was written than was in flight")
            }
            for (const [id, count] of counts) acknowledged.set(id, count)
            for (const count of counts.values()) assert.isNotNaN(count, "a record is not whole")
            for (const { data, version } of found.records) assert.strictEqual(version, countOf(data))
          }
          const check = withDatabase(filename, (db) => db.prepare("PRAGMA integrity_check").get())
          assert.deepStrictEqual({ ...check }, { integrity_check: "ok" })
        })
        yield* Effect.forEach([1, 2, 3, 4], () => killWriters(25), { concurrency: "unbounded", discard: true })
        console.log(`SQLite, killed: ${told.kills} kills, ${told.acknowledged} acknowledged, ${told.lost} lost`)
        assert.strictEqual(told.kills, 100)
        assert.strictEqual(told.lost, 0)
        assert.isAbove(told.acknowledged, 100)
      })
  )
})
