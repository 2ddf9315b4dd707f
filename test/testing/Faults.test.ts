import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { make } from "../../src/Engine.ts"
import { makeBackend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { makeEngine } from "../support/memoryEngine.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })

/** A backend that tries each request once, on an engine with these fates, and an undisturbed client. */
const faulty = (fateOf: Parameters<typeof Faults.engine>[1]) => {
  const { engine } = makeEngine()
  const { engine: faultyEngine, ...requests } = Faults.engine(engine, fateOf)
  return { ...requests, backend: make(faultyEngine, { retrySchedule: Schedule.recurs(0) }), other: make(engine) }
}

describe("Faults", () => {
  it.effect("applies what is lost, and nothing that is dropped, throttled, denied or fails", () =>
    Effect.gen(function* () {
      const error = makeBackend({ reason: "Corrupt", outcome: "not-applied", description: "damaged" })
      const fates = { lose: "unknown", drop: "unknown", throttle: "not-applied", deny: "not-applied" } as const
      for (const fate of ["lose", "drop", "throttle", "deny", error] as const) {
        const { backend, other } = faulty(() => fate)
        const failure = yield* Effect.flip(backend.delete(yield* Effect.map(other.put(key, "one"), () => key)))
        assert.strictEqual(failure.outcome, typeof fate === "string" ? fates[fate] : "not-applied")
        const isThere = (yield* Effect.exit(other.get(key)))._tag === "Success"
        assert.strictEqual(isThere, fate !== "lose", `${fate}`)
      }
    })
  )

  it.effect("does what it is asked to before the request and before the answer", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const { backend, other } = faulty(() => ({
        before: Effect.map(other.get(key), ({ data }) => seen.push(data)),
        after: Effect.map(other.get(key), ({ data }) => seen.push(data))
      }))
      yield* other.put(key, "before")
      yield* backend.put(key, "after")
      assert.deepStrictEqual(seen, ["before", "after"])
    })
  )

  it.effect("counts the requests, and how many of them run at the same time", () =>
    Effect.gen(function* () {
      const keys: Array<string | undefined> = []
      const { backend, mostRunning, taken } = faulty(({ index, key }) => {
        keys.push(`${index} ${key?.id}`)
        return { before: Effect.yieldNow }
      })
      yield* Effect.all([backend.put(key, "one"), backend.delete(key)], { concurrency: "unbounded" })
      assert.strictEqual(mostRunning(), 2)
      yield* backend.cleanupExpired
      assert.deepStrictEqual(taken(), ["put", "remove", "cleanup"])
      assert.deepStrictEqual(taken(), [])
      assert.deepStrictEqual(keys, ["0 a", "1 a", "2 undefined"])
      const fiber = yield* Effect.forkChild(backend.put(key, "two"))
      yield* Fiber.interrupt(fiber)
      yield* backend.put(key, "three")
      assert.strictEqual(mostRunning(), 2)
    })
  )

  it("gives the same fates for the same seed, about as often as their probability says", () => {
    const fates = (seed: number) => {
      const fateOf = Faults.chance(seed, { lose: 0.1, drop: 0.2 })
      return Array.from({ length: 10_000 }, fateOf)
    }
    assert.deepStrictEqual(fates(1), fates(1))
    assert.notDeepEqual(fates(1), fates(2))
    const share = (fate: Faults.Fate) => fates(1).filter((other) => other === fate).length / 10_000
    assert.closeTo(share("lose"), 0.1, 0.02)
    assert.closeTo(share("drop"), 0.2, 0.02)
    assert.closeTo(share("pass"), 0.7, 0.02)
    assert.strictEqual(share("deny"), 0)
  })
})
