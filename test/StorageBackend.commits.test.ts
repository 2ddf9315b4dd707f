import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Schedule } from "effect"
import { TestClock } from "effect/testing"
import { type Commit, type Engine, make } from "../src/Engine.ts"
import type { Step, StorageBackend, VersionedRecord } from "../src/StorageBackend.ts"
import { makeBackend } from "../src/StorageError.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import { makeEngine } from "./support/memoryEngine.ts"

const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })
const write = (id: string, expected: Step["expected"]) => ({ _tag: "Write", id, expected, data: `ours ${id}` }) as const
const check = (id: string, expected: Step["expected"]) => ({ _tag: "Check", id, expected }) as const
const remove = (id: string, expected: Step["expected"]) => ({ _tag: "Remove", id, expected }) as const

/** What becomes of a request. `late`: it is not answered, and reaches the engine only after the operation has ended. */
type Fate = "pass" | "lose" | "drop" | "late" | "throttle"

const noAnswer = Effect.suspend(() =>
  Effect.fail(makeBackend({ reason: "Timeout", outcome: "unknown", description: "" }))
)

/** An engine whose first requests have these fates, and who has made how many commits. */
const faulty = (
  remembers: boolean,
  fates: ReadonlyArray<Fate>,
  retrySchedule: Schedule.Schedule<unknown>,
  beforeSecond: Effect.Effect<unknown, unknown> = Effect.void
) => {
  const { engine } = makeEngine()
  const { commit: makeCommit = () => Effect.die("none") } = engine
  const memory = new Map<string, number>()
  const late: Array<Effect.Effect<unknown, unknown>> = []
  let [made, requests] = [0, 0]

  const commit: NonNullable<Engine["commit"]> = (commit: Commit, nowSeconds) =>
    Effect.gen(function* () {
      const now = yield* Clock.currentTimeMillis
      const at = memory.get(commit.token)
      if (remembers && at !== undefined && now - at < 600_000) return { _tag: "Committed" } as const
      const answer = yield* makeCommit(commit, nowSeconds)
      if (answer._tag === "Committed") {
        memory.set(commit.token, now)
        made++
      }
      return answer
    })

  const withFate = <A, E>(request: Effect.Effect<A, E>) =>
    Effect.gen(function* () {
      const fate = fates[requests++] ?? "pass"
      if (requests === 2) yield* Effect.orDie(beforeSecond)
      if (fate === "throttle") {
        return yield* Effect.fail(makeBackend({ reason: "Throttled", outcome: "not-applied", description: "" }))
      }
      if (fate === "late") late.push(request)
      if (fate === "drop" || fate === "late") return yield* noAnswer
      const answer = yield* request
      return fate === "lose" ? yield* noAnswer : answer
    })

  return {
    direct: make(engine),
    backend: make(
      {
        ...engine,
        remembersCommits: remembers,
        read: (key) => withFate(engine.read(key)),
        commit: (...args) => withFate(commit(...args))
      },
      { retrySchedule }
    ),
    deliverLate: Effect.suspend(() => Effect.forEach(late, (request) => Effect.ignore(request), { discard: true })),
    made: () => made,
    requests: () => requests
  }
}

describe("a commit whose answers are lost", () => {
  const kinds: Record<string, (a: VersionedRecord, b: VersionedRecord) => ReadonlyArray<Step>> = {
    "changes records by their write ids": (a, b) => [write("a", a), write("b", b)],
    "changes one and creates one": (a) => [write("a", a), write("new", 0)],
    "changes records by their versions": () => [write("a", 1), write("b", 1)],
    "creates records": () => [write("new", 0), write("other", 0)],
    "checks one by its write id and creates one": (a) => [check("a", a), write("new", 0)],
    "removes records by their write ids": (a, b) => [remove("a", a), remove("b", b)],
    "removes records by their versions": () => [remove("a", 1), remove("b", 1)],
    "removes one and creates one": (a) => [remove("a", a), write("new", 0)],
    "checks records": (a, b) => [check("a", a), check("b", b)]
  }
  const ids = ["a", "b", "new", "other"]

  type Backend = StorageBackend["Service"]
  const deleteAll = (direct: Backend) => Effect.forEach(ids, (id) => direct.delete(keyOf(id)))
  const putAll = (direct: Backend, data: string) => Effect.forEach(ids, (id) => direct.put(keyOf(id), data))

  /** What another client does before the second request. */
  const others: ReadonlyArray<(direct: Backend) => Effect.Effect<unknown, unknown>> = [
    () => Effect.void,
    deleteAll,
    (direct) => putAll(direct, "theirs"),
    (direct) => Effect.andThen(deleteAll(direct), putAll(direct, "theirs")),
    (direct) => direct.delete(keyOf("a")),
    (direct) => direct.delete(keyOf("new")),
    (direct) => direct.put(keyOf("b"), "theirs")
  ]
  const fates: ReadonlyArray<Fate> = ["pass", "lose", "drop", "late", "throttle"]
  const sequences = fates.flatMap((first) => fates.flatMap((second) => fates.map((third) => [first, second, third])))

  for (const [kind, stepsOf] of Object.entries(kinds)) {
    it.effect(`takes effect at most once, and its answer is true, if it ${kind}`, () =>
      Effect.gen(function* () {
        const ends = { success: 0, unknown: 0, definite: 0 }
        for (const remembers of [true, false]) {
          for (const sequence of sequences) {
            for (const other of others) {
              let direct: Backend | undefined
              const later = Effect.suspend(
                (): Effect.Effect<unknown, unknown> => (direct === undefined ? Effect.void : other(direct))
              )
              const store = faulty(remembers, sequence, Schedule.recurs(4), later)
              direct = store.direct
              const [a, b] = [yield* direct.put(keyOf("a"), "one"), yield* direct.put(keyOf("b"), "one")]
              const result = yield* Effect.result(store.backend.commit(owner, stepsOf(a, b)))
              const made = store.made()
              yield* store.deliverLate
              const label = `${remembers} ${sequence} ${others.indexOf(other)} ${result._tag}`
              const isReadOnly = stepsOf(a, b).every(({ _tag }) => _tag === "Check")
              if (!isReadOnly) assert.isAtMost(store.made(), 1, label)
              if (result._tag === "Success") {
                ends.success++
                if (!isReadOnly) assert.strictEqual(made, 1, label)
              } else if (result.failure._tag === "Backend" && result.failure.outcome === "unknown") {
                ends.unknown++
              } else {
                ends.definite++
                if (!isReadOnly) assert.strictEqual(store.made(), 0, label)
              }
            }
          }
        }
        assert.isAbove(Math.min(ends.success, ends.definite), 0)
      })
    )
  }
})

describe("a commit that its engine remembers", () => {
  for (const [minutes, requests] of [
    [8, 2],
    [11, 1]
  ] as const) {
    it.effect(`is sent ${requests === 1 ? "no more" : "again"} ${minutes} minutes later`, () =>
      Effect.gen(function* () {
        const store = faulty(true, ["lose"], Schedule.spaced(`${minutes} minutes`))
        const fiber = yield* Effect.forkChild(
          Effect.result(store.backend.commit(owner, [write("a", 0), write("b", 0)])),
          { startImmediately: true }
        )
        yield* store.direct.delete(keyOf("a"))
        yield* store.direct.delete(keyOf("b"))
        yield* TestClock.adjust("1 hour")
        const result = yield* Fiber.join(fiber)
        assert.strictEqual(store.requests(), requests)
        assert.strictEqual(store.made(), 1)
        if (requests === 2) assert.strictEqual(result._tag, "Success")
        else assert.propertyVal(result._tag === "Failure" && result.failure, "outcome", "unknown")
      })
    )
  }

  it.effect("is of unknown outcome if it is refused after its engine may have forgotten it", () =>
    Effect.gen(function* () {
      const store = faulty(true, ["lose"], Schedule.spaced("11 minutes"))
      const a = yield* store.direct.put(keyOf("a"), "one")
      const fiber = yield* Effect.forkChild(Effect.flip(store.backend.commit(owner, [write("a", a), check("b", 0)])), {
        startImmediately: true
      })
      yield* store.direct.put(keyOf("a"), "theirs")
      yield* TestClock.adjust("1 hour")
      assert.propertyVal(yield* Fiber.join(fiber), "outcome", "unknown")
      assert.deepStrictEqual([store.requests(), store.made()], [2, 1])
    })
  )
})
