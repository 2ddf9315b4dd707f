/**
 * A job that runs every second on one of several processes: on the one that holds its lease. Start it two or three
 * times on one file, and stop one of them:
 *
 *     node examples/cron.ts jobs.db alpha
 *
 * The process that has the lease goes on with the job. If it is killed, another one follows within the lease's time to
 * live. Each run is written by a commit that checks the lease. So a process that was stopped and goes on later can't
 * run the job beside the one that has followed it.
 */
import { Console, Effect, Schedule } from "effect"
import { Lease, StorageBackend, StorageKey } from "effect-versioned-store"
import * as Sqlite from "effect-versioned-store/Sqlite"

const [filename = "jobs.db", name = `process ${process.pid}`] = process.argv.slice(2)

/** How often the job has run. */
const runs = StorageKey.makeUnsafe({ owner: "jobs", id: "report/runs" })

const runOnce = Effect.fnUntraced(function* (lease: Lease.Lease) {
  const backend = yield* StorageBackend.StorageBackend
  const last = yield* Effect.catchTag(backend.get(runs), "RecordNotFound", () => Effect.undefined)
  const count = Number(last?.data ?? 0) + 1
  yield* lease.commit([{ _tag: "Write", id: runs.id, expected: last ?? 0, data: String(count) }])
  yield* Console.log(`${name}: run ${count}`)
})

const withLease = Lease.withLease({ owner: "jobs", id: "report" }, { ttl: "2 seconds", holder: name })

const program = withLease((lease) => Effect.repeat(runOnce(lease), Schedule.cron("* * * * * *"))).pipe(
  // A process that has lost the lease queues for it again.
  Effect.retry({ while: ({ _tag }) => _tag === "LeaseLost" })
)

await Effect.runPromise(program.pipe(Effect.provide(Sqlite.layer({ filename }))))
