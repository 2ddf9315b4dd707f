/** Processes that run workflows, which are killed and stopped, and the process that gives them orders. */
import { type ChildProcess, spawn } from "node:child_process"
import { appendFileSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Exit, Option } from "effect"
import { DurableDeferred } from "effect/workflow"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import type { Backend, InvalidCursor } from "../../src/StorageError.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { clientOf, send } from "./postgres.ts"
import { withDatabase } from "./sqlite.ts"
import { until } from "./until.ts"
import type { Begun, Execution } from "./workflowNotes.ts"
import {
  Approval,
  Delivery,
  Errand,
  type ErrandPayload,
  type Note,
  Order,
  type OrderPayload,
  owner,
  type Store,
  type Work
} from "./workflowWorker.ts"

interface Worker {
  readonly name: string
  readonly child: ChildProcess
  isReady: boolean
}

/** The file that has what the workers print, which are the warnings of their engines. */
export const logOf = (notes: string) => `${notes}.log`

const startWorker = (work: Work): Worker => {
  const script = join(import.meta.dirname, "workflowWorker.ts")
  const child = spawn("node", [script, JSON.stringify(work)], { stdio: ["pipe", "pipe", "inherit"] })
  const worker: Worker = { name: work.worker, child, isReady: false }
  child.stdout.on("data", (chunk: Buffer) => {
    worker.isReady ||= `${chunk}`.includes("ready")
    appendFileSync(logOf(work.notes), `${work.worker}: ${chunk}`)
  })
  return worker
}

const hasEnded = ({ child }: Worker) => child.exitCode !== null || child.signalCode !== null

const end = (worker: Worker) =>
  Effect.callback<void>((resume) => {
    if (hasEnded(worker)) return resume(Effect.void)
    worker.child.once("exit", () => resume(Effect.void))
    worker.child.kill("SIGKILL")
  })

export type Fleet = Effect.Success<ReturnType<typeof makeFleet>>

/** A number of workers. Those that are killed are replaced. They end with the scope. */
export const makeFleet = Effect.fnUntraced(function* (work: Omit<Work, "worker">, size: number, random: () => number) {
  let started = 0
  const crashed: Array<string> = []
  const start = () => {
    const worker = startWorker({ ...work, worker: `w${started++}` })
    worker.child.once("exit", (code) => code === null || crashed.push(`${worker.name} ended with code ${code}`))
    return worker
  }
  const workers = yield* Effect.acquireRelease(
    Effect.sync(() => Array.from({ length: size }, start)),
    (workers) => Effect.forEach(workers, end, { concurrency: "unbounded" })
  )
  const ready = until(() => workers.every(({ isReady }) => isReady))
  const anyWorker = Effect.suspend(() => {
    const worker = workers[Math.floor(random() * workers.length)]
    return worker === undefined ? Effect.die("There are no workers") : Effect.succeed(worker)
  })
  /** Once all are at work, waits for a random time, so that the moment is a random one. */
  const randomMoment = Effect.andThen(
    ready,
    Effect.suspend(() => Effect.sleep(random() * 800))
  )
  const killNow = Effect.gen(function* () {
    const worker = yield* anyWorker
    yield* end(worker)
    workers[workers.indexOf(worker)] = start()
  })
  return {
    workers,
    crashed,
    ready,
    add: Effect.sync(() => {
      workers.push(start())
    }),
    killNow,
    kill: Effect.andThen(randomMoment, killNow),
    /** Stops a worker for so long that the others take what it was running. */
    stop: Effect.gen(function* () {
      yield* randomMoment
      const { child } = yield* anyWorker
      child.kill("SIGSTOP")
      yield* Effect.sleep(2.5 * work.leaseMillis)
      child.kill("SIGCONT")
    })
  }
})

/**
 * Stops a process. If it holds the lock of an SQLite file, or those of a transaction in PostgreSQL, others can't go on
 * while it is stopped. So it goes on until it can be stopped without a lock.
 */
export const stopWithoutLock = (store: Store, child: ChildProcess): Effect.Effect<void> =>
  Effect.gen(function* () {
    child.kill("SIGSTOP")
    // The signal takes effect at the latest when the system call is over in which the process may be.
    yield* Effect.sleep(10)
    const isLocked =
      "filename" in store
        ? isFileLocked(store.filename)
        : "postgresUrl" in store && (yield* hasTransactions(store.postgresUrl))
    if (!isLocked) return
    child.kill("SIGCONT")
    yield* stopWithoutLock(store, child)
  })

const isFileLocked = (filename: string) =>
  withDatabase(filename, (db) => {
    try {
      db.exec("PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK")
      return false
    } catch {
      return true
    }
  })

/** Whether any client has a transaction open and is not running a statement. */
const hasTransactions = (url: string) =>
  send("SELECT count(*)::int FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'").pipe(
    Effect.map(([row]) => Number(row?.[0]) > 0),
    Effect.provide(clientOf(url)),
    Effect.orDie
  )

export const readNotes = (filename: string): ReadonlyArray<Note> =>
  readFileSync(filename, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))

/** All records of an execution, in the order of their ids. */
export const recordsOf = Effect.fnUntraced(function* (execution: string) {
  const backend = yield* StorageBackend
  const records: Array<VersionedRecord> = []
  let cursor: string | undefined
  do {
    const prefix = makePrefix({ owner: `${owner}/executions/${execution}`, idPrefix: "" })
    const page = yield* backend.listByPrefix(prefix, cursor === undefined ? {} : { cursor })
    records.push(...page.records)
    cursor = page.cursor
  } while (cursor !== undefined)
  return records
})

/**
 * What is compared of records to tell that nothing was written. The inbox only counts what others have sent, and a
 * child's end is sent again if the process that had sent it has died.
 */
export const writesOf = (records: ReadonlyArray<VersionedRecord>) =>
  records.filter(({ key }) => key.id !== "inbox").map(({ key, version, writeId }) => `${key.id} ${version} ${writeId}`)

/** The tokens in the stored results of an execution's activities. */
const storedTokens = (records: ReadonlyArray<VersionedRecord>, begins: ReadonlyArray<Begun>) => {
  const stored: Record<string, string> = {}
  for (const { data, key } of records) {
    const [, activity] = /\bactivity\/([^/]+)\//.exec(key.id) ?? []
    if (activity === undefined) continue
    const token = begins.find((begun) => begun.activity === activity && data.includes(`"${begun.token}"`))?.token
    if (token !== undefined) stored[activity] = token
  }
  return stored
}

/** An execution that has ended: how, what must have run, and the records that it has left. */
export interface Ended {
  readonly id: string
  readonly activities: ReadonlyArray<string>
  readonly result: Readonly<Record<string, string>>
  readonly records: ReadonlyArray<VersionedRecord>
}

export const executionOf = ({ activities, id, records, result }: Ended, notes: ReadonlyArray<Note>): Execution => {
  const begins = notes.filter((note): note is Begun => note._tag === "Begun" && note.execution === id)
  return { id, activities, result, stored: storedTokens(records, begins) }
}

const endedOf = Effect.fnUntraced(function* (
  id: string,
  activities: ReadonlyArray<string>,
  result: Readonly<Record<string, string>>,
  note: (note: Note) => void
): Effect.fn.Return<Ended, Backend | InvalidCursor, StorageBackend> {
  note({ _tag: "Ended", worker: "driver", execution: id, at: Date.now() })
  return { id, activities, result, records: yield* recordsOf(id) }
})

/** The records of an execution as text. */
const describe = (id: string) =>
  Effect.map(recordsOf(id), (records) => records.map(({ data, key }) => `${key.id} ${data}`).join("\n"))

/** The value of an execution. It may take a while, but must not hang. */
const inTime = <A, E, R>(id: string, effect: Effect.Effect<A, E, R>) =>
  Effect.timeoutOrElse(effect, {
    duration: "60 seconds",
    orElse: () => Effect.flatMap(describe(id), (records) => Effect.die(`${id} has not ended. Its records:\n${records}`))
  })

/** Places an order, approves it after a while, and waits for its end. Gives the order and its delivery. */
export const placeOrder = Effect.fnUntraced(function* (
  note: (note: Note) => void,
  payload: OrderPayload,
  approveAfterMillis: number
) {
  const id = yield* Order.execute(payload, { discard: true })
  const token = DurableDeferred.tokenFromExecutionId(Approval, { workflow: Order, executionId: id })
  yield* Effect.sleep(approveAfterMillis)
  yield* DurableDeferred.succeed(Approval, { token, value: "the driver" })
  const exit = yield* inTime(id, Effect.exit(Order.execute(payload)))
  const tokens = Exit.isSuccess(exit) ? exit.value.steps : Option.getOrUndefined(Exit.findErrorOption(exit))
  const approvedBy = Exit.isSuccess(exit) ? exit.value.approvedBy : "the driver"
  if (tokens === undefined || Exit.isSuccess(exit) !== payload.isInStock || approvedBy !== "the driver") {
    return yield* Effect.die(`${id} has the result ${exit}. Its records:\n${yield* describe(id)}`)
  }
  const { deliver, ...own } = tokens
  const delivery = yield* Delivery.executionId(payload)
  return [
    yield* endedOf(id, ["reserve", "charge", payload.isInStock ? "pack" : "release"], own, note),
    yield* endedOf(delivery, ["deliver"], { deliver }, note)
  ]
})

/** Waits for the end of an errand that may have been started before. */
export const runErrand = Effect.fnUntraced(function* (note: (note: Note) => void, payload: ErrandPayload) {
  const id = yield* Errand.executionId(payload)
  const result = yield* inTime(id, Errand.execute(payload))
  return yield* endedOf(id, ["go", "come"], result, note)
})
