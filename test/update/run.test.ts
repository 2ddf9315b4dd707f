import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schedule } from "effect"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import type { Decision } from "../../src/update/attempt.ts"
import * as Update from "../../src/update/run.ts"
import { append, faulty, joinAll, key, makeGate, onMemory, start } from "./support.ts"

for (const isShared of [true, false]) {
  describe(`an update alone, ${isShared ? "which could share a write" : "which shares none"}`, () => {
    it.effect("writes on a record that is known without a read", () =>
      Effect.gen(function* () {
        const { backend, other, requests } = yield* faulty()
        const known = yield* other.put(key, "one")
        const written = yield* Update.make(backend)({ key, isShared, known, decide: append("+") })
        assert.deepInclude(written, { version: 2, data: "one+" })
        assert.deepStrictEqual(requests, ["putIfVersion"])
      }).pipe(onMemory)
    )

    it.effect("starts from the newest record if the known one is out of date", () =>
      Effect.gen(function* () {
        const { backend, other, taken } = yield* faulty()
        const known = yield* other.put(key, "one")
        yield* other.put(key, "two")
        const update = { key, isShared, known, decide: append("+") }
        assert.deepInclude(yield* Update.make(backend)(update), { version: 3, data: "two+" })
        assert.deepStrictEqual(taken(), ["putIfVersion", "putIfVersion"])
        yield* other.delete(key)
        assert.deepInclude(yield* Update.make(backend)(update), { version: 1, data: "+" })
        assert.deepStrictEqual(taken(), ["putIfVersion", "putIfVersion"])
      }).pipe(onMemory)
    )

    it.effect("neither fails nor writes nothing on a known record before it has read", () =>
      Effect.gen(function* () {
        const { backend, other, requests } = yield* faulty()
        const known = yield* other.put(key, "old")
        const newest = yield* other.put(key, "new")
        const seen: Array<string | undefined> = []
        const decide = (then: (data: string | undefined) => Effect.Effect<Decision<string>, string>) =>
          Update.make(backend)({
            key,
            isShared,
            known,
            decide: (current) => {
              seen.push(current?.data)
              return then(current?.data)
            }
          })
        assert.strictEqual(yield* Effect.flip(decide((data) => Effect.fail(`failed on ${data}`))), "failed on new")
        const keep: Decision<string> = { _tag: "Keep", answer: (current) => `kept ${current?.data}` }
        assert.strictEqual(yield* decide(() => Effect.succeed(keep)), "kept new")
        assert.deepStrictEqual(seen, ["old", "new", "old", "new"])
        assert.deepStrictEqual(requests, ["get", "get"])
        assert.strictEqual((yield* other.get(key)).version, newest.version)
      }).pipe(onMemory)
    )

    it.effect("tells of what has landed although its fiber was interrupted meanwhile, if it is asked to", () =>
      Effect.gen(function* () {
        const gate = yield* makeGate
        const { backend } = yield* faulty(({ name }) => (name === "putIfVersion" ? { before: gate.pass } : "pass"))
        const landed: Array<string> = []
        const onLanded = ({ data }: VersionedRecord) => landed.push(data)
        const fiber = yield* start(Update.make(backend)({ key, isShared, decide: append("+"), onLanded }))
        yield* gate.isReached
        const interruption = yield* start(Fiber.interrupt(fiber))
        assert.deepStrictEqual(landed, [])
        yield* gate.open
        yield* Fiber.join(interruption)
        assert.deepStrictEqual(landed, ["+"])
      }).pipe(onMemory)
    )

    it.effect("asks its own schedule after each conflict, and never waits after the first one", () =>
      Effect.gen(function* () {
        const { put } = yield* StorageBackend
        const { backend, requests } = yield* faulty(({ name }) =>
          name === "putIfVersion" ? { before: put(key, "theirs") } : "pass"
        )
        const update = { key, isShared, decide: append("+") }
        const retrySchedule = Schedule.addDelay(Schedule.recurs(2), () => Effect.succeed("1 hour"))
        const once = yield* Effect.flip(Update.make(backend)({ ...update, retrySchedule: Schedule.recurs(1) }))
        assert.strictEqual(once._tag, "VersionConflict")
        assert.deepStrictEqual(requests.splice(0), ["get", "putIfVersion", "putIfVersion"])
        const fiber = yield* start(Update.make(backend)({ ...update, retrySchedule }))
        assert.deepStrictEqual(requests, ["get", "putIfVersion", "putIfVersion"])
        yield* Fiber.interrupt(fiber)
      }).pipe(onMemory)
    )
  })
}

describe("a removal", () => {
  it.effect("removes exactly the record that was decided on", () =>
    Effect.gen(function* () {
      const { backend, other, requests } = yield* faulty()
      yield* other.put(key, "one")
      let isFirst = true
      const decide = (current: VersionedRecord | undefined) =>
        Effect.gen(function* () {
          if (isFirst) yield* Effect.orDie(other.put(key, "two"))
          isFirst = false
          return { _tag: "Remove", answer: current?.data } as const
        })
      const removed = yield* Update.make(backend)<string | undefined, never, never>({ key, isShared: false, decide })
      assert.strictEqual(removed, "two")
      assert.deepStrictEqual(requests, ["get", "deleteIfVersion", "deleteIfVersion"])
    }).pipe(onMemory)
  )
})

const place = (id: string) => makeUnsafe({ owner: "alice", id })

describe("an update whose function is an Effect", () => {
  it.effect("takes its turn after a conflict, and so does not starve beside those that share writes", () =>
    Effect.gen(function* () {
      const gate = yield* makeGate
      let isFirst = true
      const { backend, other } = yield* faulty(({ name }) =>
        name === "putIfVersion" ? { before: Effect.yieldNow } : "pass"
      )
      const update = Update.make(backend)
      yield* other.put(key, "")
      const slow = yield* start(
        update({
          key,
          isShared: false,
          decide: (current) => {
            const wait = isFirst ? gate.pass : Effect.yieldNow
            isFirst = false
            return Effect.andThen(wait, append("slow")(current))
          }
        })
      )
      yield* gate.isReached
      // The others never stop while it waits.
      let isOver = false
      const busy = yield* start(
        Effect.forEach(
          Array.from({ length: 8 }),
          () =>
            Effect.whileLoop({
              while: () => !isOver,
              body: () => update({ key, isShared: true, decide: append(".") }),
              step: () => {}
            }),
          { concurrency: "unbounded" }
        )
      )
      yield* gate.open
      const written = yield* Fiber.join(slow)
      isOver = true
      yield* Fiber.join(busy)
      assert.match(written.data, /\.slow$/)
    }).pipe(onMemory)
  )

  it.effect("waits for no other turn from within its own, since two could wait for each other", () =>
    Effect.gen(function* () {
      const { backend, other } = yield* faulty()
      const update = Update.make(backend)
      const schedules = [undefined, Schedule.recurs(100)]
      for (const [outer, retrySchedule] of schedules.flatMap((a) => schedules.map((b) => [a, b] as const))) {
        const gates = { a: yield* makeGate, b: yield* makeGate }
        const nested = (id: "a" | "b", inner: string) => {
          const updateInner = update({ key: place(inner), isShared: true, retrySchedule, decide: append("i") })
          let isFirst = true
          const once = Effect.suspend(() => {
            const effect = isFirst ? Effect.andThen(gates[id].pass, Effect.orDie(updateInner)) : Effect.void
            isFirst = false
            return effect
          })
          const decide = (current: VersionedRecord | undefined) => Effect.andThen(once, append(id)(current))
          // It leads a lane, or with a schedule of its own has a turn, from the start.
          return start(update({ key: place(id), isShared: true, retrySchedule: outer, decide }))
        }
        const fibers = [yield* nested("a", "b"), yield* nested("b", "a")]
        yield* gates.a.isReached
        yield* gates.b.isReached
        yield* gates.a.open
        yield* gates.b.open
        yield* joinAll(fibers)
      }
      const sorted = (data: string) => Array.from(data).toSorted().join("")
      assert.strictEqual(sorted((yield* other.get(place("a"))).data), "aaaaiiii")
      assert.strictEqual(sorted((yield* other.get(place("b"))).data), "bbbbiiii")
    }).pipe(onMemory)
  )
})
