import { connect } from "node:net"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import { inject } from "vitest"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { clientOf, layerOwnTable, newTable, send } from "../support/postgres.ts"
import { killServer, makeWriters } from "../support/postgresWriters.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { steadyPort } from "../support/redisServer.ts"

const failovers = 3

/** Each acknowledged commit is on the disk of the standby as well. */
const settings = ["synchronous_commit=on", "synchronous_standby_names=*", "fsync=on"]

interface Server {
  readonly folder: string
  readonly port: number
  readonly url: string
  readonly end: Effect.Effect<void>
}

/** Starts a primary, or the standby of one. */
const start = Effect.fnUntraced(function* (primary?: Server) {
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const commandOf = primary === undefined ? undefined : PostgresServer.replicaOf(primary.url)
  const cluster = yield* Scope.provide(PostgresServer.makeCluster(settings, steadyPort, commandOf), scope)
  yield* Scope.provide(cluster.run, scope)
  const { folder, url } = cluster
  const server: Server = { folder, url, port: Number(new URL(url).port), end: Scope.close(scope, Exit.void) }
  return server
})

const ask = ({ url }: Server, text: string) =>
  Effect.scoped(Effect.flatMap(Layer.build(clientOf(url)), (context) => Effect.provide(send(text), context)))

/** Waits until each commit of the primary waits for its standby. */
const isSynchronous = (primary: Server) =>
  Effect.repeat(ask(primary, "SELECT count(*)::int FROM pg_stat_replication WHERE sync_state = 'sync'"), {
    until: ([row]) => row?.[0] === 1
  })

describe.skipIf(!inject("hasPostgresServer"))("Postgres with a synchronous standby", () => {
  it.live(
    `keeps every acknowledged write through ${failovers} failovers`,
    () =>
      Effect.gen(function* () {
        const random = randomFrom(newSeed("failovers"))
        let primary = yield* start()
        let standby = yield* start(primary)
        yield* isSynchronous(primary)
        const tableName = newTable()
        const retrySchedule = Schedule.upTo(Schedule.spaced("20 millis"), { duration: "30 seconds" })
        const context = yield* Postgres.layer({ tableName, retrySchedule }).pipe(
          Layer.provide(layerOwnTable({ tableName })),
          // As a name of DNS would, it leads to the server that is the primary by now.
          Layer.provide(clientOf(primary.url, { stream: () => connect(primary.port, "127.0.0.1") })),
          Layer.build
        )
        const writers = makeWriters(yield* Effect.provide(StorageBackend, context))
        let lost = 0
        for (let round = 1; round <= failovers; round++) {
          const running = yield* writers.start
          // Kills at a random moment of the writing: this waits for nothing.
          yield* Effect.sleep(Math.floor(random() * 500))
          killServer(primary.folder)
          yield* ask(standby, "SELECT pg_promote()")
          const killed = primary
          primary = standby
          standby = yield* start(primary)
          yield* isSynchronous(primary)
          writers.stop()
          yield* Fiber.join(running)
          yield* killed.end
          lost += yield* writers.countLost
        }
        const { acknowledged, refused, unknown } = writers.counts
        console.log(
          `${failovers} failovers: ${acknowledged} acknowledged, ${unknown} unknown, ${refused} not applied, ${lost} lost`
        )
        assert.isAtLeast(acknowledged, failovers)
        assert.strictEqual(lost, 0)
      }),
    120_000
  )
})
