import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Schedule } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as UpdateLoop from "../../src/update/loop.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const retrySchedule = Schedule.recurs(3)

/** The service in memory, with the operations that it was asked for. */
const counted = Effect.gen(function* () {
  const backend = yield* StorageBackend
  const requests: Array<string> = []
  const count =
    <Args extends ReadonlyArray<unknown>, A>(name: string, operation: (...args: Args) => A) =>
    (...args: Args) => {
      requests.push(name)
      return operation(...args)
    }
  return {
    requests,
    other: backend,
    backend: StorageBackend.of({
      ...backend,
      get: count("get", backend.get),
      putIfVersion: count("putIfVersion", backend.putIfVersion),
      deleteIfVersion: count("deleteIfVersion", backend.deleteIfVersion)
    })
  }
})

const write = (data: string): UpdateLoop.Decision<string> => ({
  _tag: "Write",
  data,
  expiresAt: undefined,
  answer: (written) => `${written.version}: ${written.data}`
})

const append = (current: VersionedRecord | undefined) => Effect.succeed(write(`${current?.data ?? ""}+`))

describe("the update loop", () => {
  it.effect("writes on a record that is known without a read", () =>
    Effect.gen(function* () {
      const { backend, other, requests } = yield* counted
      const known = yield* other.put(key, "one")
      const answer = yield* UpdateLoop.run({ backend, key, retrySchedule, known, decide: append })
      assert.strictEqual(answer, "2: one+")
      assert.deepStrictEqual(requests, ["putIfVersion"])
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("starts from the newest record if the known one is out of date", () =>
    Effect.gen(function* () {
      const { backend, other, requests } = yield* counted
      const known = yield* other.put(key, "one")
      yield* other.put(key, "two")
      assert.strictEqual(yield* UpdateLoop.run({ backend, key, retrySchedule, known, decide: append }), "3: two+")
      assert.deepStrictEqual(requests, ["putIfVersion", "putIfVersion"])
      yield* other.delete(key)
      assert.strictEqual(yield* UpdateLoop.run({ backend, key, retrySchedule, known, decide: append }), "1: +")
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("neither fails nor writes nothing on a known record before it has read", () =>
    Effect.gen(function* () {
      const { backend, other, requests } = yield* counted
      const known = yield* other.put(key, "old")
      const newest = yield* other.put(key, "new")
      const seen: Array<string | undefined> = []
      const decide = (then: (data: string | undefined) => Effect.Effect<UpdateLoop.Decision<string>, string>) =>
        UpdateLoop.run({
          backend,
          key,
          retrySchedule,
          known,
          decide: (current) => {
            seen.push(current?.data)
            return then(current?.data)
          }
        })
      assert.strictEqual(yield* Effect.flip(decide((data) => Effect.fail(`failed on ${data}`))), "failed on new")
      assert.strictEqual(yield* decide((data) => Effect.succeed({ _tag: "Keep", answer: `kept ${data}` })), "kept new")
      assert.deepStrictEqual(seen, ["old", "new", "old", "new"])
      assert.deepStrictEqual(requests, ["get", "get"])
      assert.strictEqual((yield* other.get(key)).version, newest.version)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("removes exactly the record that was decided on", () =>
    Effect.gen(function* () {
      const { backend, other, requests } = yield* counted
      yield* other.put(key, "one")
      let isFirst = true
      const decide = (current: VersionedRecord | undefined) =>
        Effect.gen(function* () {
          if (isFirst) yield* Effect.orDie(other.put(key, "two"))
          isFirst = false
          return { _tag: "Remove", answer: current?.data } as const
        })
      const removed = yield* UpdateLoop.run<string | undefined, never, never>({ backend, key, retrySchedule, decide })
      assert.strictEqual(removed, "two")
      assert.deepStrictEqual(requests, ["get", "deleteIfVersion", "deleteIfVersion"])
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("tells of what has landed although its fiber was interrupted meanwhile, if it is asked to", () =>
    Effect.gen(function* () {
      const { backend } = yield* counted
      const [sent, answered] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const slow = StorageBackend.of({
        ...backend,
        putIfVersion: (...args) =>
          Deferred.succeed(sent, undefined).pipe(
            Effect.andThen(Deferred.await(answered)),
            Effect.andThen(backend.putIfVersion(...args))
          )
      })
      const landed: Array<string> = []
      const update = { backend: slow, key, retrySchedule, decide: append }
      const fiber = yield* Effect.forkChild(
        UpdateLoop.run<string, never, never>({ ...update, onLanded: (answer) => landed.push(answer) })
      )
      yield* Deferred.await(sent)
      const interruption = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      assert.deepStrictEqual(landed, [])
      yield* Deferred.succeed(answered, undefined)
      yield* Fiber.join(interruption)
      assert.deepStrictEqual(landed, ["1: +"])
    }).pipe(Effect.provide(InMemory.layer))
  )
})
