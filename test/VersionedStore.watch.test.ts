import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Logger, Option, Queue, Schedule, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../src/engine/InMemory.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import * as Faults from "../src/testing/Faults.ts"
import * as VersionedStore from "../src/VersionedStore.ts"

type Backend = StorageBackend["Service"]

const key = { owner: "alice", id: "visits" }
const counters = VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })

/** A store whose backend counts its requests, with some of its operations changed. */
const openWith = Effect.fnUntraced(function* (
  change: (backend: Backend) => Partial<Backend> = () => ({}),
  fateOf?: Parameters<typeof Faults.backend>[1]
) {
  const backend = yield* StorageBackend
  const faults = Faults.backend({ ...backend, ...change(backend) }, fateOf)
  return { ...faults, store: yield* Effect.provideService(counters, StorageBackend, faults.backend) }
})

/** A backend of which no hint comes. */
const silent = () => ({ hints: () => Stream.never })

/** Watches a record in a fiber of its own. Gives what comes, as values or undefined. */
const watching = Effect.fnUntraced(function* (
  store: VersionedStore.VersionedStore<number>,
  options?: VersionedStore.WatchOptions
) {
  const events = yield* Queue.unbounded<number | undefined, Cause.Done | Cause.NoSuchElementError>()
  const fiber = yield* Effect.forkScoped(
    Stream.runForEach(store.watch(key, options), (record) =>
      Queue.offer(events, Option.getOrUndefined(Option.map(record, ({ value }) => value)))
    )
  )
  return { next: Queue.take(events), size: Queue.size(events), fiber }
})

const provided = Effect.provide(InMemory.layer)

describe("a watch", () => {
  it.effect("emits what is there, and then each change of this backend without waiting for its schedule", () =>
    Effect.gen(function* () {
      const { store } = yield* openWith()
      const { next } = yield* watching(store)
      assert.isUndefined(yield* next)
      const created = yield* store.create(key, 1)
      assert.strictEqual(yield* next, 1)
      yield* store.update(key, (n) => n + 1)
      assert.strictEqual(yield* next, 2)
      yield* store.remove(key)
      assert.isUndefined(yield* next)
      yield* store.set(key, 3)
      assert.strictEqual(yield* next, 3)
      const backend = yield* StorageBackend
      const current = (yield* store.get(key)).stored
      yield* backend.commit(key.owner, [
        { _tag: "Write", id: current.key.id, expected: current, data: "4" },
        { _tag: "Write", id: "another", expected: 0, data: "1" }
      ])
      assert.strictEqual(yield* next, 4)
      yield* store.removeIfVersion(yield* store.get(key))
      assert.isUndefined(yield* next)
      assert.strictEqual(created.version, 1)
    }).pipe(provided)
  )

  it.effect("reads every second without a hint, or on its schedule, and emits only what has changed", () =>
    Effect.gen(function* () {
      const { store, taken } = yield* openWith(silent)
      for (const [options, millis] of [
        [{}, 1000],
        [{ schedule: Schedule.spaced("3 seconds") }, 3000]
      ] as const) {
        yield* store.set(key, 1)
        const { fiber, next, size } = yield* watching(store, options)
        assert.strictEqual(yield* next, 1)
        taken()
        yield* TestClock.adjust(millis - 1)
        assert.deepStrictEqual(taken(), [])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(taken(), ["get"])
        assert.strictEqual(yield* size, 0)
        yield* store.set(key, 2)
        yield* TestClock.adjust(millis)
        assert.strictEqual(yield* next, 2)
        yield* Fiber.interrupt(fiber)
      }
    }).pipe(provided)
  )

  it.effect("emits a change also if only its write differs, and not its version", () =>
    Effect.gen(function* () {
      const { store } = yield* openWith(silent)
      yield* store.create(key, 1)
      const { next } = yield* watching(store)
      assert.strictEqual(yield* next, 1)
      yield* store.remove(key)
      yield* store.create(key, 2)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* next, 2)
    }).pipe(provided)
  )

  it.effect("emits None in the second in which the record expires, without a hint or its schedule", () =>
    Effect.gen(function* () {
      const { store, taken } = yield* openWith(silent)
      yield* store.create(key, 1, { ttl: "40 days" })
      const { next, size } = yield* watching(store, { schedule: Schedule.spaced("1000 days") })
      assert.strictEqual(yield* next, 1)
      taken()
      yield* TestClock.adjust("40 days")
      assert.isUndefined(yield* next)
      assert.deepStrictEqual(taken(), ["get"])
      yield* TestClock.adjust("100 days")
      assert.deepStrictEqual(taken(), [])
      assert.strictEqual(yield* size, 0)
    }).pipe(provided)
  )

  it.effect("waits for the new expiry of a record that was touched", () =>
    Effect.gen(function* () {
      const { store } = yield* openWith()
      yield* store.create(key, 1, { ttl: "10 seconds" })
      const { next, size } = yield* watching(store, { schedule: Schedule.spaced("1000 days") })
      assert.strictEqual(yield* next, 1)
      yield* TestClock.adjust("5 seconds")
      yield* store.touch(key, "10 seconds")
      assert.strictEqual(yield* next, 1)
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(yield* size, 0)
      yield* TestClock.adjust("1 second")
      assert.isUndefined(yield* next)
    }).pipe(provided)
  )

  it.effect("ends with its schedule, after the read of its last step", () =>
    Effect.gen(function* () {
      const { store, taken } = yield* openWith()
      yield* store.create(key, 1)
      taken()
      const fiber = yield* Effect.forkChild(Stream.runCollect(store.watch(key, { schedule: Schedule.recurs(2) })))
      const seen = yield* Fiber.join(fiber)
      assert.strictEqual(seen.length, 1)
      assert.deepStrictEqual(taken(), ["get", "get", "get"])
    }).pipe(provided)
  )

  it.effect("dies of a defect of its schedule", () =>
    Effect.gen(function* () {
      const { store } = yield* openWith()
      const schedule = Schedule.forever.pipe(Schedule.tap(() => Effect.die("broken")))
      const exit = yield* Effect.exit(Stream.runDrain(store.watch(key, { schedule })))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
    }).pipe(provided)
  )

  it.effect("gives a slow consumer the newest state, for one read however many changes came", () =>
    Effect.gen(function* () {
      const { store, taken } = yield* openWith()
      yield* store.create(key, 0)
      const gate = yield* Deferred.make<void>()
      const seen = yield* Queue.unbounded<number>()
      const slow = Stream.runForEach(store.watch(key), (record) =>
        Effect.andThen(Queue.offer(seen, Option.getOrThrow(record).value), Deferred.await(gate))
      )
      yield* Effect.forkScoped(slow)
      assert.strictEqual(yield* Queue.take(seen), 0)
      // With a turn for others after each write, each of its hints is taken.
      for (let n = 1; n <= 1000; n++) yield* Effect.andThen(store.set(key, n), Effect.yieldNow)
      taken()
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual(yield* Queue.take(seen), 1000)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(taken(), ["get"])
    }).pipe(provided)
  )

  it.effect("misses no change that comes while it reads", () =>
    Effect.gen(function* () {
      const { store: writer } = yield* openWith()
      yield* writer.create(key, 1)
      let isFirst = true
      const { store } = yield* openWith(undefined, ({ name }) => {
        if (name !== "get" || !isFirst) return "pass"
        isFirst = false
        return { after: writer.set(key, 2) }
      })
      const { next } = yield* watching(store)
      assert.strictEqual(yield* next, 1)
      assert.strictEqual(yield* next, 2)
    }).pipe(provided)
  )

  it.effect("is not woken by changes of other records, of the same owner or of another one", () =>
    Effect.gen(function* () {
      const { store, taken } = yield* openWith()
      yield* store.create(key, 1)
      const { next } = yield* watching(store)
      assert.strictEqual(yield* next, 1)
      taken()
      yield* store.set({ ...key, id: "other" }, 1)
      yield* store.set({ ...key, owner: "bob" }, 1)
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(taken(), ["put", "put"])
    }).pipe(provided)
  )

  it.effect("reads once for many hints, and not at all once it is interrupted", () =>
    Effect.gen(function* () {
      let listening = 0
      const { store, taken } = yield* openWith((backend) => ({
        hints: (key) =>
          Stream.unwrap(
            Effect.as(
              Effect.acquireRelease(
                Effect.sync(() => listening++),
                () => Effect.sync(() => listening--)
              ),
              backend.hints(key)
            )
          )
      }))
      yield* store.create(key, 1)
      const watchers = yield* Effect.forEach(Array.from({ length: 50 }), () => watching(store))
      for (const { next } of watchers) assert.strictEqual(yield* next, 1)
      taken()
      yield* store.set(key, 2)
      for (const { next } of watchers) assert.strictEqual(yield* next, 2)
      assert.strictEqual(taken().length, 51)
      assert.strictEqual(listening, 50)
      yield* Effect.forEach(watchers, ({ fiber }) => Fiber.interrupt(fiber))
      assert.strictEqual(listening, 0)
      yield* store.set(key, 3)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(taken(), ["put"])
    }).pipe(provided)
  )

  it.effect(
    "goes on through failures that pass, logs one warning for all in a row, and then emits what it has missed",
    () =>
      Effect.gen(function* () {
        let isDown = false
        const warnings: Array<unknown> = []
        const logger = Logger.layer([
          Logger.make(({ logLevel, message }) => {
            if (logLevel === "Warn") warnings.push(message)
          })
        ])
        yield* Effect.gen(function* () {
          const { store } = yield* openWith(undefined, ({ name }) => (isDown && name === "get" ? "throttle" : "pass"))
          yield* store.create(key, 1)
          const { next, size } = yield* watching(store)
          assert.strictEqual(yield* next, 1)
          isDown = true
          yield* store.set(key, 2)
          yield* TestClock.adjust("10 seconds")
          assert.strictEqual(yield* size, 0)
          assert.strictEqual(warnings.length, 1)
          isDown = false
          yield* TestClock.adjust("1 second")
          assert.strictEqual(yield* next, 2)
          isDown = true
          yield* TestClock.adjust("2 seconds")
          assert.strictEqual(warnings.length, 2)
        }).pipe(Effect.provide(logger))
      }).pipe(provided)
  )

  it.effect(
    "fails if a failure does not pass by itself, if the record does not decode, and if the key is invalid",
    () =>
      Effect.gen(function* () {
        const errorOf = (stream: Stream.Stream<unknown, { readonly _tag: string }>) =>
          Effect.map(Effect.flip(Stream.runDrain(stream)), ({ _tag }) => _tag)
        const denied = yield* openWith(undefined, () => "deny")
        assert.strictEqual(yield* errorOf(denied.store.watch(key)), "Backend")
        const { store } = yield* openWith()
        yield* StorageBackend.use((backend) => backend.put(makeUnsafe({ ...key, id: "counter/visits" }), '"text"'))
        assert.strictEqual(yield* errorOf(store.watch(key)), "SchemaError")
        assert.strictEqual(yield* errorOf(store.watch({ ...key, id: "" })), "InvalidKey")
      }).pipe(provided)
  )

  it.effect("can be shared by many consumers, who then take one read together", () =>
    Effect.gen(function* () {
      const { store, taken } = yield* openWith()
      yield* store.create(key, 1)
      taken()
      const shared = yield* Stream.share(store.watch(key), { capacity: 1, strategy: "sliding", replay: 1 })
      const fibers = yield* Effect.forEach(Array.from({ length: 10 }), () =>
        Effect.forkChild(Stream.runCollect(Stream.take(shared, 2)))
      )
      yield* TestClock.adjust(0)
      yield* store.set(key, 2)
      for (const fiber of fibers) assert.strictEqual((yield* Fiber.join(fiber)).length, 2)
      assert.deepStrictEqual(taken(), ["get", "put", "get"])
    }).pipe(provided)
  )
})
