/**
 * For any interleaving of updates that share writes, and of others, each result is one that some order of single
 * updates gives. A run is checked against the states of the record: each version's text, from the writes that landed and
 * from the records that the callers got.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, References, Result } from "effect"
import { make } from "../../src/Engine.ts"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import type { Backend, CapacityExceeded, VersionConflict } from "../../src/StorageError.ts"
import * as Faults from "../../src/testing/Faults.ts"
import type { Decision } from "../../src/update/attempt.ts"
import * as Update from "../../src/update/run.ts"
import { makeEngine } from "../support/memoryEngine.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { key, write } from "./support.ts"

const limit = 60

/** What a member's function makes of the text that is there. */
interface Operation {
  readonly name: string
  readonly kind: "append" | "shrink" | "keep" | "fail" | "effect"
  /** How many steps pass before it starts, and before its caller is interrupted, if it is. */
  readonly delay: number
  readonly interruptAfter: number | undefined
  /** Whether its caller then makes a compare-and-set on the record that it got. */
  readonly thenSwaps: boolean
}

interface Seen {
  readonly version: number
  readonly data: string
}

class Failed {
  readonly _tag = "Failed"
  readonly seen: Seen
  constructor(seen: Seen) {
    this.seen = seen
  }
}

const next = ({ kind, name }: Operation, data: string): string =>
  kind === "shrink" ? name : `${data}${name}${"_".repeat(name.length % 3)}`

type Ended = Result.Result<VersionedRecord, Failed | VersionConflict | CapacityExceeded | Backend>

/** One operation that came to an end, and the versions between which it ran. */
interface Event {
  readonly operation: Operation
  readonly from: number
  readonly to: number
  readonly result: Ended | "interrupted"
}

const steps = (count: number) => Effect.forEach(Array.from({ length: count }), () => Effect.yieldNow, { discard: true })

const operationsFrom = (random: () => number, count: number): ReadonlyArray<Operation> =>
  Array.from({ length: count }, (_, i) => {
    const kinds = ["append", "append", "append", "append", "shrink", "keep", "fail", "effect"] as const
    return {
      name: `${String.fromCharCode(97 + (i % 26))}${i}`,
      kind: kinds[Math.floor(random() * kinds.length)] ?? "append",
      delay: Math.floor(random() * 12),
      interruptAfter: random() < 0.15 ? Math.floor(random() * 12) : undefined,
      thenSwaps: random() < 0.25
    }
  })

const play = Effect.fnUntraced(function* (seed: number) {
  const random = randomFrom(seed)
  const states = new Map<number, string>()
  const problems: Array<string> = []
  const note = ({ data, version }: Seen, by: string) => {
    if ((states.get(version) ?? data) !== data)
      problems.push(`${by}: version ${version} is ${data} and ${states.get(version)}`)
    if (data.length > limit) problems.push(`${by}: version ${version} is too large: ${data}`)
    states.set(version, data)
  }
  const { engine } = makeEngine()
  let current = 0
  const noted = <A extends { readonly _tag: string }>(data: string, answer: A) => {
    if (answer._tag === "Written" && "version" in answer && typeof answer.version === "number") {
      current = answer.version
      note({ version: answer.version, data }, "landed")
    }
    return answer
  }
  const direct = make(
    {
      ...engine,
      put: (key, write, now) => Effect.mapEager(engine.put(key, write, now), (answer) => noted(write.data, answer)),
      swap: (key, write, expectation, now) =>
        Effect.mapEager(engine.swap(key, write, expectation, now), (answer) => noted(write.data, answer))
    },
    { maxDataBytes: limit }
  )
  let others = 0
  const overwrite = Effect.suspend(() => Effect.orDie(direct.put(key, `<${others++}>`)))
  const fateOf = (): Faults.Fate => {
    const before = steps(Math.floor(random() * 6))
    const after = steps(Math.floor(random() * 6))
    const chance = random()
    if (chance < 0.12) return { before: Effect.andThen(before, overwrite), after }
    if (chance < 0.17) return { before, after, outcome: "lose" }
    if (chance < 0.22) return { before, after, outcome: "drop" }
    if (chance < 0.25) return { before, after, outcome: "throttle" }
    return { before, after }
  }
  const { backend } = Faults.backend(StorageBackend.of(direct), ({ name }) =>
    name === "get" || name === "putIfVersion" ? fateOf() : "pass"
  )
  yield* direct.put(key, "")
  const update = Update.make(backend)
  const decide = (operation: Operation) => (record: VersionedRecord | undefined) => {
    const seen = { version: record?.version ?? -1, data: record?.data ?? "?" }
    if (operation.kind === "fail") return Effect.fail(new Failed(seen))
    if (operation.kind === "keep") {
      const keep: Decision<VersionedRecord> = { _tag: "Keep", answer: (current) => current as VersionedRecord }
      return Effect.succeed(keep)
    }
    const written = Effect.succeed(write(next(operation, seen.data)))
    return operation.kind === "effect" ? Effect.andThen(steps(2), written) : written
  }
  const events: Array<Event> = []
  const swaps: Array<{ readonly on: VersionedRecord; readonly made: VersionedRecord }> = []
  const call = Effect.fnUntraced(function* (operation: Operation) {
    yield* steps(operation.delay)
    const from = current
    const isShared = operation.kind !== "effect"
    const fiber = yield* Effect.forkChild(
      Effect.result(update<VersionedRecord, Failed, never>({ key, isShared, decide: decide(operation) }))
    )
    if (operation.interruptAfter !== undefined) {
      yield* steps(operation.interruptAfter)
      yield* Fiber.interrupt(fiber)
    }
    const exit = yield* Fiber.await(fiber)
    const result = exit._tag === "Success" ? exit.value : "interrupted"
    events.push({ operation, from, to: current, result })
    if (!operation.thenSwaps || result === "interrupted" || Result.isFailure(result)) return
    yield* steps(operation.delay % 3)
    const made = yield* Effect.result(direct.putIfVersion(key, `(${operation.name})`, result.success))
    if (Result.isSuccess(made)) swaps.push({ on: result.success, made: made.success })
  })
  // A fiber may be paused after any of its steps.
  const opsBeforeYield = random() < 0.5 ? 8 + Math.floor(random() * 40) : 2048
  yield* Effect.forEach(operationsFrom(random, 40), call, { concurrency: "unbounded", discard: true }).pipe(
    Effect.provideService(References.MaxOpsBeforeYield, opsBeforeYield)
  )
  return { events, problems, states, note, swaps }
})

/** What is wrong with a run. */
const check = ({ events, note, problems, states, swaps }: Effect.Success<ReturnType<typeof play>>) => {
  const wrong = (operation: Operation, why: string) => problems.push(`${operation.kind} ${operation.name} ${why}`)
  const records = events.flatMap(({ operation, result }) =>
    result !== "interrupted" && Result.isSuccess(result) ? [{ operation, record: result.success }] : []
  )
  for (const { operation, record } of records) note(record, operation.name)
  for (const { on, made } of swaps) {
    if (made.version !== on.version + 1) problems.push(`a swap on version ${on.version} made ${made.version}`)
  }
  const writers = new Map<number, string>()
  for (const { from, operation, result, to } of events) {
    if (result === "interrupted") continue
    if (Result.isSuccess(result)) {
      const { data, version } = result.success
      const isWrite = operation.kind !== "keep"
      if (version < from + (isWrite ? 1 : 0) || version > to)
        wrong(operation, `got ${version} between ${from} and ${to}`)
      if (!isWrite) continue
      const before = states.get(version - 1)
      // A version is unknown if its caller was interrupted after its function was sent.
      const isUnknown = before === undefined && events.some(({ result }) => result === "interrupted")
      const isMade = isUnknown ? data.endsWith(next(operation, "")) : next(operation, before ?? "?") === data
      if (!isMade) wrong(operation, `made ${data} of ${before}`)
      if (writers.has(version)) wrong(operation, `shares version ${version} with ${writers.get(version)}`)
      writers.set(version, operation.name)
    } else if (result.failure._tag === "Failed") {
      const { data, version } = result.failure.seen
      const isUnknown = !states.has(version) && events.some(({ result }) => result === "interrupted")
      if (!isUnknown && states.get(version) !== data)
        wrong(operation, `failed on ${data}, which version ${version} is not`)
      if (version < from || version > to) wrong(operation, `failed on ${version}, not between ${from} and ${to}`)
    } else if (result.failure._tag === "CapacityExceeded") {
      const { actual } = result.failure
      const isTrue = Array.from(states).some(
        ([version, data]) => version >= from && version <= to && next(operation, data).length === actual
      )
      if (!isTrue) wrong(operation, `was refused for ${actual} characters`)
    } else if (result.failure._tag === "VersionConflict") {
      wrong(operation, "gave up")
    }
  }
  // Nothing is applied twice or lost: an operation's name is in a text only if it is in the text before, or made it.
  const named = new Set<string>()
  for (const [version, data] of Array.from(states).toSorted(([a], [b]) => a - b)) {
    for (const { operation, result } of events) {
      const times = data.split(new RegExp(`${operation.name}(?![0-9])`)).length - 1
      if (times > 1) wrong(operation, `is there ${times} times at version ${version}`)
      const isRefused =
        result !== "interrupted" &&
        Result.isFailure(result) &&
        !(result.failure._tag === "Backend" && result.failure.outcome === "unknown")
      if (times === 1 && isRefused) wrong(operation, `was refused, and is there at version ${version}`)
      const wasThere = (states.get(version - 1) ?? data).match(new RegExp(`${operation.name}(?![0-9])`))
      if (times === 1 && !wasThere && named.has(operation.name)) wrong(operation, `came again at version ${version}`)
      if (times === 1) named.add(operation.name)
    }
  }
  return problems
}

describe("updates that share writes", () => {
  it.live(
    "give what some order of single updates gives, for any interleaving",
    () =>
      Effect.gen(function* () {
        const seed = newSeed("updates that share writes")
        const runs = Number(process.env.FAULT_RUNS ?? 300)
        let shared = 0
        for (let i = 0; i < runs; i++) {
          const run = yield* play(seed + i)
          assert.deepStrictEqual(check(run), [], `FAULT_SEED=${seed + i} FAULT_RUNS=1`)
          shared += run.events.length
        }
        assert.isAbove(shared, runs)
      }),
    60_000
  )
})
