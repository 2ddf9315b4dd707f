import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Fiber, type Scope } from "effect"
import type { WorkflowEngine } from "effect/workflow"
import type { StorageBackend } from "../../src/StorageBackend.ts"
import { clientConfig, endpoint, newTableName } from "../support/dynamoDb.ts"
import { newTable, url as postgresUrl } from "../support/postgres.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { newKeyPrefix, url as redisUrl } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"
import { until } from "../support/until.ts"
import {
  type Ended,
  executionOf,
  logOf,
  makeFleet,
  placeOrder,
  readNotes,
  recordsOf,
  runErrand,
  stopWithoutLock,
  writesOf
} from "../support/workflowFleet.ts"
import { check } from "../support/workflowNotes.ts"
import { Errand, engineOf, type Note, noteTo, type Store, type Work } from "../support/workflowWorker.ts"

/** How many workers are killed, and how many are stopped, on each engine. */
const moments = Number(process.env.WORKFLOW_MOMENTS ?? 1)
/** How many errands three processes run. If it is given, they do so on every engine. */
const errands = Number(process.env.WORKFLOW_ERRANDS ?? 60)

const newFile = newFiles()

const stores: ReadonlyArray<{ readonly name: string; readonly newStore: () => Store | undefined }> = [
  { name: "SQLite", newStore: () => ({ filename: newFile() }) },
  { name: "Redis", newStore: () => (redisUrl === undefined ? undefined : { redisUrl, keyPrefix: newKeyPrefix() }) },
  {
    name: "PostgreSQL",
    newStore: () => (postgresUrl === undefined ? undefined : { postgresUrl, tableName: newTable() })
  },
  {
    name: "DynamoDB",
    newStore: () => (endpoint === undefined ? undefined : { dynamoDb: clientConfig, tableName: newTableName() })
  }
]

/** What a test has at hand: random numbers, whose seed is printed, and a file for the notes of all processes. */
interface Bench {
  readonly name: string
  readonly random: () => number
  readonly note: (note: Note) => void
  readonly work: Omit<Work, "worker">
}

type Program = (
  bench: Bench
) => Effect.Effect<void, unknown, StorageBackend | WorkflowEngine.WorkflowEngine | Scope.Scope>

const on =
  (name: string, newStore: () => Store | undefined, program: Program, leaseMillis = 1000) =>
  () => {
    const work = { store: newStore() ?? { filename: "" }, leaseMillis, pollMillis: 250, notes: newFile() }
    const bench = { name, random: randomFrom(newSeed(name)), note: noteTo(work.notes), work }
    return program(bench).pipe(
      Effect.tapCause((cause) => Effect.sync(() => console.log(notesOfFailure(work.notes, Cause.pretty(cause))))),
      Effect.scoped,
      Effect.provide(engineOf(work))
    )
  }

/** The notes of an execution that a failure names, and of all processes that stood still; and what workers printed. */
const notesOfFailure = (notes: string, failure: string) =>
  readNotes(notes)
    .filter((note) => note._tag === "Stood" || failure.includes(note.execution))
    .map((note) => JSON.stringify(note))
    .join("\n")
    .concat("\n", readFileSync(logOf(notes), "utf8"))

/** The times that an order or an errand takes. */
const timesOf = (id: string, random: () => number) => ({
  id,
  sleepMillis: 1 + Math.floor(random() * 300),
  workMillis: Math.floor(random() * 100)
})

const orderOf = (id: string, random: () => number) => ({ ...timesOf(id, random), isInStock: random() < 0.7 })

/** Checks that each execution ended once and ran each activity once to its end, and that nothing was written since. */
const checkAll = Effect.fnUntraced(function* ({ name, work }: Bench, executions: ReadonlyArray<Ended>) {
  for (const { id, records } of executions) {
    assert.deepStrictEqual(writesOf(yield* recordsOf(id)), writesOf(records), `what was written to ${id} after its end`)
  }
  const notes = readNotes(work.notes)
  const { faults, ...counts } = check(
    notes,
    executions.map((ended) => executionOf(ended, notes))
  )
  console.log(`${name}: ${executions.length} executions ended, ${JSON.stringify(counts)}`)
  if (process.env.WORKFLOW_LOGS !== undefined) console.log(readFileSync(logOf(work.notes), "utf8"))
  assert.deepStrictEqual(faults, [], faults.join("\n"))
})

/** Waits until each worker has begun a run since now, and not of these executions: one that was stopped works again. */
const allWork = ({ work }: Bench, workers: ReadonlyArray<{ readonly name: string }>, ended: ReadonlyArray<Ended>) => {
  const since = Date.now()
  const old = new Set(ended.map(({ id }) => id))
  const idle = () => {
    const runs = readNotes(work.notes).filter(
      (note) => note._tag === "Run" && note.at >= since && !old.has(note.execution)
    )
    return workers.filter(({ name }) => !runs.some(({ worker }) => worker === name)).map(({ name }) => name)
  }
  return Effect.timeoutOrElse(
    Effect.repeat(Effect.delay(Effect.sync(idle), 50), { until: ({ length }) => length === 0 }),
    { duration: "30 seconds", orElse: () => Effect.die(`These workers do not work any more: ${idle()}`) }
  )
}

/** Twelve orders at a time are placed and ended, while workers are killed, replaced, stopped and continued. */
const disturbed: Program = Effect.fnUntraced(function* (bench) {
  const { note, random, work } = bench
  const fleet = yield* makeFleet(work, 3, random)
  let isDisturbed = true
  let placed = 0
  const lane = Effect.gen(function* () {
    const ended: Array<Ended> = []
    while (isDisturbed) {
      ended.push(...(yield* placeOrder(note, orderOf(`order ${placed++}`, random), random() * 500)))
    }
    return ended
  })
  const lanes = yield* Effect.forkChild(Effect.replicateEffect(lane, 12, { concurrency: "unbounded" }))
  const acts = Array.from({ length: moments }, () => [fleet.kill, fleet.stop])
    .flat()
    .map((act) => ({ act, order: random() }))
    .sort((a, b) => a.order - b.order)
  const disturb = Effect.andThen(
    Effect.forEach(acts, ({ act }) => act),
    Effect.suspend(() => allWork(bench, fleet.workers, []))
  )
  // If an order fails, the test ends at once.
  yield* Effect.raceFirst(disturb, Effect.andThen(Fiber.join(lanes), Effect.never))
  isDisturbed = false
  yield* checkAll(bench, (yield* Fiber.join(lanes)).flat())
  assert.deepStrictEqual(fleet.crashed, [])
})

/** A worker is stopped in the middle of its orders, and goes on when another one has ended them. */
const woken: Program = Effect.fnUntraced(function* (bench) {
  const { note, random, work } = bench
  const place = (id: string) => placeOrder(note, orderOf(id, random), 0)
  const fleet = yield* makeFleet(work, 1, random)
  yield* fleet.ready
  const [stopped] = fleet.workers
  if (stopped === undefined) return assert.fail("There is no worker")
  const orders = yield* Effect.forkChild(
    Effect.forEach(["a", "b", "c", "d", "e", "f"], place, { concurrency: "unbounded" })
  )
  yield* until(() => readNotes(work.notes).some(({ _tag }) => _tag === "Begun"))
  yield* Effect.sleep(random() * 400)
  yield* stopWithoutLock(work.store, stopped.child)
  yield* fleet.add
  const ended = (yield* Fiber.join(orders)).flat()
  stopped.child.kill("SIGCONT")

  // Once it runs another order, it has done what it was about to do when it was stopped.
  const later: Array<Ended> = []
  const placeMore = Effect.suspend(() => place(`later ${later.length}`)).pipe(
    Effect.map((placed) => later.push(...placed)),
    Effect.forever
  )
  yield* Effect.raceFirst(allWork(bench, [stopped], ended), placeMore)
  yield* checkAll(bench, [...ended, ...later])
  assert.deepStrictEqual(fleet.crashed, [])
})

const crowd: Program = Effect.fnUntraced(function* (bench) {
  const { name, note, random, work } = bench
  const fleet = yield* makeFleet(work, 3, random)
  yield* fleet.ready
  const payloads = Array.from({ length: errands }, (_, n) => timesOf(`errand ${n}`, random))
  const from = performance.now()
  // In the middle of the work, a quarter of all activities has begun.
  const isUnderWay = Effect.map(
    Effect.delay(
      Effect.sync(() => readNotes(work.notes)),
      20
    ),
    (notes) => notes.filter(({ _tag }) => _tag === "Begun").length >= errands / 2
  )
  const killed = yield* Effect.forkChild(
    Effect.andThen(Effect.repeat(isUnderWay, { until: (is) => is }), fleet.killNow)
  )
  yield* Effect.forEach(payloads, (payload) => Errand.execute(payload, { discard: true }), { concurrency: 16 })
  const started = performance.now()
  const ended = yield* Effect.forEach(payloads, (payload) => runErrand(note, payload), { concurrency: 16 })
  const seconds = [started - from, performance.now() - from].map((millis) => (millis / 1000).toFixed(1))
  yield* Fiber.join(killed)
  console.log(`${name}: ${errands} errands were started in ${seconds[0]} s, and had ended after ${seconds[1]} s`)
  yield* checkAll(bench, ended)
  assert.deepStrictEqual(fleet.crashed, [])
})

for (const { name, newStore } of stores) {
  describe.skipIf(newStore() === undefined)(`StorageWorkflowEngine, with processes on ${name}`, () => {
    it.live(
      `ends each order once while workers are killed, and stopped beyond their lease (${moments} of each)`,
      on(name, newStore, disturbed),
      moments * 30_000 + 120_000
    )

    it.live(
      "a process that was stopped while another one ended its orders writes nothing to them when it goes on",
      on(name, newStore, woken)
    )

    it.live.skipIf(name !== "SQLite" && process.env.WORKFLOW_ERRANDS === undefined)(
      `three end ${errands} errands, although one of them is killed`,
      // All errands are sent at once. The more they are, the later comes the answer to a renewal.
      on(name, newStore, crowd, Math.max(1000, 5 * errands)),
      errands * 1000 + 120_000
    )
  })
}

describe("check, on notes of an execution", () => {
  const of = { worker: "w0", execution: "a", at: 0 }
  const run: Note = { _tag: "Run", ...of }
  const ended: Note = { _tag: "Ended", ...of, worker: "driver", at: 500 }
  const begun = (token: string, at = 0): Note => ({ _tag: "Begun", ...of, at, token, activity: "go" })
  const stood = (from: number, at: number): Note => ({ _tag: "Stood", worker: "w0", from, at })
  const faultsOf = (notes: ReadonlyArray<Note>, told = "1", stored = "1") =>
    check(notes, [{ id: "a", activities: ["go"], stored: { go: stored }, result: { go: told } }])

  it("finds nothing if the begin whose result is stored is the last one", () => {
    const { faults, ...counts } = faultsOf([run, begun("0"), run, begun("1"), ended])
    assert.deepStrictEqual(faults, [])
    assert.deepStrictEqual(counts, { begunAgain: 1, begunLate: 0, runs: 2, activities: 1 })
  })

  it("counts a begin of a process that had stood still since the one whose result is stored", () => {
    const { begunLate, faults } = faultsOf([begun("1", 100), begun("2", 301), stood(50, 300), ended])
    assert.deepStrictEqual([begunLate, faults], [1, []])
  })

  const bad: Record<string, [ReturnType<typeof faultsOf>, string]> = {
    "an activity that began after its result was stored": [
      faultsOf([begun("1"), begun("2"), ended]),
      "go began as 2 after 1, whose result is stored"
    ],
    "one that a process began which had gone on long before": [
      faultsOf([stood(10, 90), begun("1", 100), begun("2", 300), ended]),
      "go began as 2 after 1, whose result is stored"
    ],
    "an activity without a stored result": [
      faultsOf([begun("1"), ended], "1", "none"),
      "go has the result none, and began as 1"
    ],
    "a result of another begin": [
      faultsOf([begun("0"), begun("1"), ended], "0"),
      "go ended as 1, but the execution has the result of 0"
    ],
    "an activity that the execution does not have": [
      faultsOf([begun("1"), { ...begun("2"), activity: "release" } as Note, ended]),
      "release began, which this execution does not have"
    ],
    "an execution without an end": [faultsOf([begun("1")]), "it ended 0 times"],
    "an execution with two ends": [faultsOf([begun("1"), ended, ended]), "it ended 2 times"],
    "a run after the end": [faultsOf([begun("1"), ended, { ...run, at: 600 }]), "w0 ran it after it had ended"]
  }
  for (const [name, [{ faults }, fault]] of Object.entries(bad)) {
    it(`finds ${name}`, () => assert.deepStrictEqual(faults, [`a: ${fault}`]))
  }
})
