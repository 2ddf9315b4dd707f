import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import { inject } from "vitest"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { clientOf, layerOwnTable, newTable } from "../support/postgres.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { steadyPort } from "../support/redisServer.ts"
import { until } from "../support/until.ts"

const kills = 20
const writers = [0, 1, 2, 3]
const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })

/** Text with its checksum, by which half of it would show. */
const sealed = (text: string) => `${text}#${createHash("sha1").update(text).digest("hex")}`

/** The names in the data of a record to which writers add theirs. */
const namesIn = (data: string) => {
  const text = data.slice(0, data.lastIndexOf("#"))
  assert.strictEqual(data, sealed(text), "half of a record")
  return text === "" ? [] : text.split(",")
}

type Outcome = "acknowledged" | "unknown" | "refused"

describe.skipIf(!inject("hasPostgresServer"))("Postgres with synchronous_commit on", () => {
  it.live(
    `keeps every acknowledged write, and no half of one, even if it is killed ${kills} times`,
    () =>
      Effect.gen(function* () {
        const random = randomFrom(newSeed("kills"))
        const cluster = yield* PostgresServer.makeCluster(["synchronous_commit=on", "fsync=on"], steadyPort)
        const start = Effect.gen(function* () {
          const scope = yield* Scope.make()
          // Until the processes of the killed server have ended, no other one starts.
          yield* Effect.retry(Scope.provide(cluster.run, scope), Schedule.spaced("50 millis"))
          return scope
        })
        let server = yield* start
        yield* Effect.addFinalizer(() => Scope.close(server, Exit.void))
        const tableName = newTable()
        const retrySchedule = Schedule.upTo(Schedule.spaced("20 millis"), { duration: "20 seconds" })
        const context = yield* Postgres.layer({ tableName, retrySchedule }).pipe(
          Layer.provide(layerOwnTable({ tableName })),
          Layer.provide(clientOf(cluster.url)),
          Layer.build
        )
        const backend = yield* Effect.provide(StorageBackend, context)
        const counts: Record<Outcome, number> = { acknowledged: 0, unknown: 0, refused: 0 }
        /** What became of each name, by the record to which it was added. */
        const told = new Map<string, Map<string, Outcome>>()
        let stopped = false

        const note = <E extends { readonly _tag: string }>(
          ids: ReadonlyArray<string>,
          name: string,
          write: Effect.Effect<unknown, E>
        ) =>
          Effect.map(Effect.result(write), (result) => {
            let outcome: Outcome = "acknowledged"
            if (result._tag === "Failure") {
              const failure = result.failure as { readonly _tag: string; readonly outcome?: string }
              assert.include(["Backend", "VersionConflict"], failure._tag, String(failure))
              outcome = failure.outcome === "unknown" ? "unknown" : "refused"
            }
            counts[outcome]++
            for (const id of ids) told.set(id, (told.get(id) ?? new Map()).set(name, outcome))
          })

        const added = (record: VersionedRecord | undefined, name: string) =>
          sealed([...(record === undefined ? [] : namesIn(record.data)), name].join(","))

        const write = Effect.fnUntraced(function* (writer: number, name: string) {
          const own = `own ${writer}`
          const pair = ["left", "right"]
          const [mine, shared, left, right] = yield* backend.getMany([own, "shared", ...pair].map(keyOf))
          yield* note([own], name, backend.put(keyOf(own), added(mine, name)))
          yield* note(["shared"], name, backend.putIfVersion(keyOf("shared"), added(shared, name), shared ?? 0))
          const steps = [left, right].map((record, i) => ({
            _tag: "Write" as const,
            id: pair[i] ?? "",
            data: added(record, name),
            expected: record ?? 0
          }))
          yield* note(pair, name, backend.commit(owner, steps))
        })

        const run = Effect.fnUntraced(function* (writer: number, round: number) {
          for (let i = 0; !stopped; i++) yield* write(writer, `${writer}.${round}.${i}`)
        })

        /** How many acknowledged writes are not there. */
        const verify = Effect.gen(function* () {
          let lost = 0
          for (const [id, names] of told) {
            const there = namesIn((yield* backend.get(keyOf(id))).data)
            assert.strictEqual(new Set(there).size, there.length, "a write was applied twice")
            for (const name of there) assert.include(["acknowledged", "unknown"], names.get(name), `${id}: ${name}`)
            // A put of unknown outcome is followed by one that may know nothing of it. All others build on each other.
            for (const [name, outcome] of names) if (outcome === "acknowledged" && !there.includes(name)) lost++
          }
          const [left, right] = yield* backend.getMany(["left", "right"].map(keyOf))
          assert.strictEqual(left?.data, right?.data, "half of a commit")
          return lost
        })

        let lost = 0
        for (let round = 1; round <= kills; round++) {
          stopped = false
          const running = yield* Effect.forkChild(
            Effect.forEach(writers, (writer) => run(writer, round), { concurrency: "unbounded", discard: true })
          )
          const before = counts.acknowledged
          yield* Effect.raceFirst(
            until(() => counts.acknowledged > before),
            Fiber.join(running)
          )
          // Kills at a random moment of the writing: this waits for nothing.
          yield* Effect.sleep(Math.floor(random() * 200))
          const [pid] = readFileSync(join(cluster.folder, "data", "postmaster.pid"), "utf8").split("\n")
          process.kill(Number(pid), "SIGKILL")
          stopped = true
          yield* Scope.close(server, Exit.void)
          server = yield* start
          yield* Fiber.join(running)
          lost += yield* verify
        }
        console.log(
          `${kills} kills: ${counts.acknowledged} acknowledged, ${counts.unknown} unknown, ` +
            `${counts.refused} not applied, ${lost} lost`
        )
        assert.isAtLeast(counts.acknowledged, kills)
        assert.strictEqual(lost, 0)
      }),
    120_000
  )
})
