/**
 * A process with a PostgreSQL whose table, and then whose write-ahead log, is on a disk of its own, which becomes full.
 * It prints the results. Run it as root with permission to mount: `unshare --mount`.
 */
import { execFileSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import { chmodSync, chownSync, mkdirSync, statSync } from "node:fs"
import { join } from "node:path"
import { PgClient } from "@effect/sql-pg"
import { Effect, Exit, Fiber, Layer, Redacted, Schedule, Scope } from "effect"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"

const [folder = ""] = process.argv.slice(2)
chmodSync(folder, 0o755) // the server runs as another user

const mount = (disk: string, ...args: ReadonlyArray<string>) => execFileSync("mount", [...args, "tmpfs", disk])

/** A disk of a size, with a folder in it that the server's user owns. */
const makeDisk = (name: string, size: string) => {
  const disk = join(folder, name)
  mkdirSync(disk)
  mount(disk, "-t", "tmpfs", "-o", `size=${size}`)
  return { disk, enlarge: Effect.sync(() => mount(disk, "-o", "remount,size=200m")) }
}

const keyOf = (i: number) => makeUnsafe({ owner: "alice", id: String(i) })

/** What PostgreSQL can't compress. */
const newData = () => randomBytes(40_000).toString("base64")

const fieldsOf = ({ message, outcome, reason }: Backend) => ({ message, outcome, reason: reason._tag })

const backendOf = Effect.fnUntraced(function* (
  config: PgClient.PgPoolConfig,
  retrySchedule: Schedule.Schedule<unknown> = Schedule.recurs(0)
) {
  const layer = Postgres.layer({ retrySchedule }).pipe(
    Layer.provide(Layer.effectDiscard(Postgres.ensureTable())),
    Layer.provide(Postgres.layerClient(config))
  )
  return yield* Effect.provide(StorageBackend, yield* Layer.build(layer))
})

/** Writes until a write fails. Returns how many were acknowledged, and the failure. */
const fill = Effect.fnUntraced(function* (backend: StorageBackend["Service"]) {
  let acknowledged = 0
  const next = Effect.suspend(() => Effect.map(backend.put(keyOf(acknowledged), newData()), () => acknowledged++))
  const failure = fieldsOf((yield* Effect.flip(Effect.forever(next))) as Backend)
  return { acknowledged, failure }
})

/** How many of the first records are there. */
const countThere = (backend: StorageBackend["Service"], count: number) =>
  Effect.map(
    Effect.forEach(Array.from({ length: count }), (_, i) => backend.get(keyOf(i))),
    ({ length }) => length
  )

const withFullTable = Effect.gen(function* () {
  const { disk, enlarge } = makeDisk("table", "8m")
  const { folder, run, url } = yield* PostgresServer.makeCluster(["fsync=off"])
  yield* run
  const space = join(disk, "space")
  mkdirSync(space)
  const { gid, uid } = statSync(folder)
  chownSync(space, uid, gid)
  const admin = yield* Layer.build(Postgres.layerClient({ url: Redacted.make(url) }))
  const sql = yield* Effect.provide(PgClient.PgClient, admin)
  yield* sql.unsafe(`CREATE TABLESPACE small LOCATION '${space}'`)
  const config = { url: Redacted.make(url), startupParameters: { default_tablespace: "small" } }
  const backend = yield* backendOf(config)
  const { acknowledged, failure } = yield* fill(backend)
  const there = yield* countThere(backend, acknowledged)
  const refused = (yield* Effect.flip(backend.get(keyOf(acknowledged))))._tag
  const removed = yield* backend.delete(keyOf(0))
  const patient = yield* backendOf(config, Schedule.spaced("20 millis"))
  const large = newData().repeat(4)
  const waiting = yield* Effect.forkChild(patient.put(keyOf(acknowledged), large))
  yield* enlarge
  const isWritten = Exit.isSuccess(yield* Fiber.await(waiting))
  return { acknowledged, failure, there, refused, removed, isWritten }
})

const withFullLog = Effect.gen(function* () {
  const { disk, enlarge } = makeDisk("log", "40m")
  const cluster = yield* PostgresServer.makeCluster(["fsync=on", "max_wal_size=10GB"], undefined, (data) => {
    const { gid, uid } = statSync(join(data, ".."))
    chownSync(disk, uid, gid)
    return [...PostgresServer.initdb(data), "--waldir", join(disk, "log")]
  })
  const start = Effect.gen(function* () {
    const scope = yield* Scope.make()
    yield* Effect.retry(Scope.provide(cluster.run, scope), Schedule.spaced("100 millis"))
    return scope
  })
  const stopped = yield* start
  const backend = yield* backendOf({ url: Redacted.make(cluster.url) })
  const { acknowledged, failure } = yield* fill(backend)
  const isDown = (error: { readonly _tag: string; readonly outcome?: string }) => error.outcome === "not-applied"
  const put = Effect.flip(backend.put(keyOf(0), "again"))
  const down = fieldsOf((yield* Effect.repeat(put, { until: isDown })) as Backend)
  yield* enlarge
  yield* Scope.close(stopped, Exit.void)
  const running = yield* start
  yield* Effect.addFinalizer(() => Scope.close(running, Exit.void))
  const there = yield* countThere(backend, acknowledged)
  return { acknowledged, failure, down, there, version: (yield* backend.put(keyOf(0), "again")).version }
})

const results = Effect.all({ fullTable: Effect.scoped(withFullTable), fullLog: Effect.scoped(withFullLog) })
console.log(JSON.stringify(await Effect.runPromise(results)))
