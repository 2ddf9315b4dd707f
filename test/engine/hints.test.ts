import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Queue, Schedule, Stream } from "effect"
import { type Engine, make } from "../../src/Engine.ts"
import type { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { makeEngine } from "../support/memoryEngine.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const retrySchedule = Schedule.recurs(0)

/** Counts the hints that come for a record from now on. */
const counting = Effect.fnUntraced(function* (backend: StorageBackend["Service"], watched = key) {
  const hints = yield* Queue.unbounded<void>()
  const fiber = yield* Effect.forkScoped(
    Stream.runForEach(backend.hints(watched), () => Queue.offer(hints, undefined)),
    { startImmediately: true }
  )
  // Those who take hints run before this fiber runs on.
  return {
    taken: Effect.andThen(
      Effect.yieldNow,
      Effect.map(Queue.clear(hints), ({ length }) => length)
    ),
    fiber
  }
})

describe("a hint", () => {
  it.effect("follows an operation that may have been applied, although it failed", () =>
    Effect.gen(function* () {
      const { engine } = Faults.engine(makeEngine().engine, ({ name }) => (name === "read" ? "deny" : "lose"))
      const backend = make(engine, { retrySchedule })
      const { taken } = yield* counting(backend)
      const write = { _tag: "Write", expected: 0, data: "1" } as const
      for (const operation of [
        backend.put(key, "1"),
        backend.putIfVersion(key, "2", 1),
        backend.deleteIfVersion(key, 2),
        backend.delete(key),
        backend.commit("alice", [
          { ...write, id: "a" },
          { ...write, id: "b" }
        ])
      ]) {
        const error = yield* Effect.flip<unknown, { readonly _tag: string }, never>(operation)
        assert.propertyVal(error, "_tag", "Backend")
        assert.propertyVal(error, "outcome", "unknown")
        assert.strictEqual(yield* taken, 1)
      }
    })
  )

  it.effect("follows an operation that was interrupted", () =>
    Effect.gen(function* () {
      const sent = yield* Deferred.make<void>()
      const { engine } = Faults.engine(makeEngine().engine, () => ({
        after: Effect.andThen(Deferred.succeed(sent, undefined), Effect.never)
      }))
      const backend = make(engine, { retrySchedule })
      const { taken } = yield* counting(backend)
      const fiber = yield* Effect.forkChild(backend.put(key, "1"))
      yield* Deferred.await(sent)
      assert.strictEqual(yield* taken, 0)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* taken, 1)
    })
  )

  it.effect("follows no read, no check and no refusal of an engine in this process", () =>
    Effect.gen(function* () {
      const backend = make(makeEngine().engine)
      yield* backend.put(key, "1")
      const { taken } = yield* counting(backend)
      yield* backend.get(key)
      yield* Effect.flip(backend.putIfVersion(key, "2", 7))
      yield* Effect.flip(backend.deleteIfVersion(key, 7))
      yield* backend.delete(makeUnsafe({ owner: "alice", id: "never there" }))
      yield* backend.commit("alice", [
        { _tag: "Check", id: "a", expected: 1 },
        { _tag: "Write", id: "b", expected: 0, data: "1" }
      ])
      assert.strictEqual(yield* taken, 0)
      yield* backend.put(key, "2")
      assert.strictEqual(yield* taken, 1)
    })
  )
})

describe("the hints of an engine", () => {
  it.effect("reach those who watch the record, or all of the owner's, and run once while somebody watches", () =>
    Effect.gen(function* () {
      const said = yield* Queue.unbounded<string | undefined>()
      const runs: Array<string> = []
      const hints: Engine["hints"] = (owner) =>
        Stream.unwrap(
          Effect.as(
            Effect.acquireRelease(
              Effect.sync(() => runs.push(`start ${owner}`)),
              () => Effect.sync(() => runs.push(`end ${owner}`))
            ),
            owner === "alice" ? Stream.fromQueue(said) : Stream.never
          )
        )
      const backend = make({ ...makeEngine().engine, hints })
      assert.deepStrictEqual(runs, [])
      const keys = [key, key, makeUnsafe({ owner: "alice", id: "b" }), makeUnsafe({ owner: "bob", id: "a" })]
      const watchers = yield* Effect.forEach(keys, (key) => counting(backend, key))
      const taken = Effect.andThen(
        Effect.yieldNow,
        Effect.forEach(watchers, ({ taken }) => taken)
      )
      assert.deepStrictEqual(runs, ["start alice", "start bob"])
      yield* Queue.offer(said, "a")
      assert.deepStrictEqual(yield* taken, [1, 1, 0, 0])
      yield* Queue.offer(said, undefined)
      assert.deepStrictEqual(yield* taken, [1, 1, 1, 0])
      yield* Effect.forEach(watchers.slice(0, 2), ({ fiber }) => Fiber.interrupt(fiber))
      assert.strictEqual(runs.length, 2)
      yield* Effect.forEach(watchers, ({ fiber }) => Fiber.interrupt(fiber))
      assert.deepStrictEqual(runs, ["start alice", "start bob", "end alice", "end bob"])
      yield* counting(backend)
      assert.strictEqual(runs.length, 5)
    })
  )

  it.effect("do not hold up who watches no more, however long the engine takes to end them", () =>
    Effect.gen(function* () {
      const hints: Engine["hints"] = () => Stream.fromEffect(Effect.uninterruptible(Effect.never))
      const { fiber } = yield* counting(make({ ...makeEngine().engine, hints }))
      const leaving = yield* Effect.forkChild(Fiber.interrupt(fiber))
      for (let turn = 0; turn < 10; turn++) yield* Effect.yieldNow
      assert.isDefined(leaving.pollUnsafe())
    })
  )
})
