import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import { inject } from "vitest"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { clientOf, layerOwnTable, newTable } from "../support/postgres.ts"
import { killServer, makeWriters } from "../support/postgresWriters.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { steadyPort } from "../support/redisServer.ts"

const kills = 20

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
        const writers = makeWriters(yield* Effect.provide(StorageBackend, context))
        let lost = 0
        for (let round = 1; round <= kills; round++) {
          const running = yield* writers.start
          // Kills at a random moment of the writing: this waits for nothing.
          yield* Effect.sleep(Math.floor(random() * 200))
          killServer(cluster.folder)
          writers.stop()
          yield* Scope.close(server, Exit.void)
          server = yield* start
          yield* Fiber.join(running)
          lost += yield* writers.countLost
        }
        const { acknowledged, refused, unknown } = writers.counts
        console.log(
          `${kills} kills: ${acknowledged} acknowledged, ${unknown} unknown, ${refused} not applied, ${lost} lost`
        )
        assert.isAtLeast(acknowledged, kills)
        assert.strictEqual(lost, 0)
      }),
    120_000
  )
})
