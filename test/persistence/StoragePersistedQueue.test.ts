import { assert, describe, layer } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Layer, Schedule, Schema } from "effect"
import { PersistedQueue } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as StoragePersistedQueue from "../../src/persistence/StoragePersistedQueue.ts"
import { newOwner } from "../support/persistence.ts"
import { engines, orEmpty } from "../support/services.ts"

type Store = PersistedQueue.PersistedQueueStore

const make = (name: string, maxAttempts?: number) =>
  PersistedQueue.make({
    name,
    schema: Schema.Struct({ n: Schema.Int }),
    maxAttempts,
    retrySchedule: Schedule.exponential("10 seconds")
  })

/** Takes a message with its attempt, and ends its handler with an exit. */
const takeAs = <E>(queue: PersistedQueue.PersistedQueue<{ n: number }>, exit: Effect.Effect<unknown, E>) =>
  Effect.flatMap(Deferred.make<readonly [number, number]>(), (taken) =>
    queue
      .take(({ n }, { attempts }) => Effect.andThen(Deferred.succeed(taken, [n, attempts]), exit))
      .pipe(Effect.exit, Effect.andThen(Deferred.await(taken)))
  )

const take = (queue: PersistedQueue.PersistedQueue<{ n: number }>) => takeAs(queue, Effect.void)

/** Lets time pass until a fiber has ended. Each step is short, so what happens at a time happens near it. */
const passUntil = <A, E>(fiber: Fiber.Fiber<A, E>, step: Duration.Input = "100 millis") =>
  Effect.gen(function* () {
    const over = yield* Effect.forkChild(Effect.exit(Fiber.await(fiber)))
    while (over.pollUnsafe() === undefined) {
      yield* TestClock.adjust(step)
      yield* TestClock.withLive(Effect.sleep(1))
    }
    return yield* Fiber.join(fiber)
  })

/** That nothing can be taken: a message that is offered afterwards comes first. */
const assertEmpty = (queue: PersistedQueue.PersistedQueue<{ n: number }>) =>
  Effect.gen(function* () {
    yield* queue.offer({ n: -1 })
    assert.deepStrictEqual(yield* take(queue), [-1, 1])
  })

const cases = (name: string, storage: Layer.Layer<Store, unknown>) =>
  layer(PersistedQueue.layer.pipe(Layer.provideMerge(storage)))(name, (it) => {
    let names = 0
    const newName = () => `queue ${names++}`

    it.effect("delivers messages in the order of the offers, each once", () =>
      Effect.gen(function* () {
        const queue = yield* make(newName())
        yield* Effect.forEach([1, 2, 3, 4, 5], (n) => queue.offer({ n }))
        const taken = yield* Effect.forEach([1, 2, 3, 4, 5], () => take(queue))
        assert.deepStrictEqual(
          taken,
          [1, 2, 3, 4, 5].map((n) => [n, 1] as const)
        )
        yield* assertEmpty(queue)
      })
    )

    it.effect("hands a message to a take that waits", () =>
      Effect.gen(function* () {
        const queue = yield* make(newName())
        const fiber = yield* Effect.forkChild(take(queue))
        yield* Effect.yieldNow
        yield* queue.offer({ n: 1 })
        assert.deepStrictEqual(yield* Fiber.join(fiber), [1, 1])
      })
    )

    it.effect("gives each of many takers one message", () =>
      Effect.gen(function* () {
        const queue = yield* make(newName())
        const many = Array.from({ length: 70 }, (_, n) => n)
        const fiber = yield* Effect.forkChild(Effect.forEach(many, () => take(queue), { concurrency: "unbounded" }))
        yield* Effect.forEach(many, (n) => queue.offer({ n }), { concurrency: 8 })
        const taken = yield* Fiber.join(fiber)
        assert.deepStrictEqual(
          taken.map(([n]) => n).sort((a, b) => a - b),
          many
        )
        yield* assertEmpty(queue)
      })
    )

    it.effect("takes an id once, until its message has been done for the time to live", () =>
      Effect.gen(function* () {
        const store = yield* PersistedQueue.PersistedQueueStore
        const queue = yield* make(newName())
        const cleanup = store.cleanup({ timeToLive: Duration.hours(1), failedTimeToLive: undefined })
        assert.strictEqual(yield* queue.offer({ n: 1 }, { id: "a" }), "a")
        yield* queue.offer({ n: 2 }, { id: "a" })
        yield* TestClock.adjust("2 hours")
        yield* cleanup
        yield* queue.offer({ n: 2 }, { id: "a" })
        assert.deepStrictEqual(yield* take(queue), [1, 1])
        yield* queue.offer({ n: 2 }, { id: "a" })
        yield* TestClock.adjust("59 minutes")
        yield* cleanup
        yield* queue.offer({ n: 2 }, { id: "a" })
        yield* assertEmpty(queue)
        yield* TestClock.adjust("1 minute")
        yield* cleanup
        yield* queue.offer({ n: 3 }, { id: "a" })
        assert.deepStrictEqual(yield* take(queue), [3, 1])
      })
    )

    it.effect("delivers a message again after its failure, later each time, and no more after the last attempt", () =>
      Effect.gen(function* () {
        const store = yield* PersistedQueue.PersistedQueueStore
        const queue = yield* make(newName(), 3)
        yield* queue.offer({ n: 1 }, { id: "a" })
        for (const [attempt, exit, delay] of [
          [1, Effect.fail("no"), 10],
          [2, Effect.die("no"), 20],
          [3, Effect.fail("no"), 0]
        ] as const) {
          assert.deepStrictEqual(yield* takeAs(queue, exit), [1, attempt])
          if (delay === 0) break
          yield* TestClock.adjust(Duration.seconds(delay - 1))
          yield* assertEmpty(queue)
          yield* TestClock.adjust("1 second")
        }
        yield* TestClock.adjust("1 hour")
        yield* assertEmpty(queue)
        yield* queue.offer({ n: 1 }, { id: "a" })
        yield* store.cleanup({ timeToLive: Duration.zero, failedTimeToLive: undefined })
        yield* queue.offer({ n: 1 }, { id: "a" })
        yield* assertEmpty(queue)
        yield* store.cleanup({ timeToLive: Duration.zero, failedTimeToLive: Duration.hours(1) })
        yield* queue.offer({ n: 2 }, { id: "a" })
        assert.deepStrictEqual(yield* take(queue), [2, 1])
      })
    )

    it.effect("delivers a message again if its handler was interrupted, and does not count that", () =>
      Effect.gen(function* () {
        const queue = yield* make(newName())
        yield* queue.offer({ n: 1 })
        const taken = yield* Deferred.make<void>()
        const fiber = yield* Effect.forkChild(
          queue.take(() => Effect.andThen(Deferred.succeed(taken, undefined), Effect.never))
        )
        yield* Deferred.await(taken)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* take(queue), [1, 1])
        yield* assertEmpty(queue)
      })
    )

    it.effect("hands a message that is given back to a take that waits", () =>
      Effect.gen(function* () {
        const queue = yield* make(newName())
        yield* queue.offer({ n: 1 })
        const taken = yield* Deferred.make<void>()
        const handler = Effect.andThen(Deferred.succeed(taken, undefined), Effect.never)
        const fiber = yield* Effect.forkChild(queue.take(() => handler))
        yield* Deferred.await(taken)
        const other = yield* Effect.forkChild(take(queue))
        // In memory, it has looked and waits by then.
        for (let i = 0; i < 100; i++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* Fiber.join(other), [1, 1])
      })
    )

    it.effect("keeps nothing from others if a take is interrupted while it waits", () =>
      Effect.gen(function* () {
        const queue = yield* make(newName())
        const fiber = yield* Effect.forkChild(take(queue))
        yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        yield* queue.offer({ n: 1 })
        assert.deepStrictEqual(yield* take(queue), [1, 1])
        const other = yield* Effect.forkChild(take(queue))
        const offered = yield* Effect.forkChild(queue.offer({ n: 2 }))
        yield* Effect.yieldNow
        const exit = yield* Effect.andThen(Fiber.interrupt(other), Fiber.await(other))
        yield* Fiber.join(offered)
        if (Exit.isFailure(exit)) assert.deepStrictEqual(yield* take(queue), [2, 1])
      })
    )

    it.effect("delivers a message when its delay is over, and one without a delay at once", () =>
      Effect.gen(function* () {
        const queue = yield* make(newName())
        yield* queue.offer({ n: 1 }, { delay: "1 minute" })
        yield* queue.offer({ n: 0 }, { delay: "Infinity", id: "a" })
        yield* queue.offer({ n: 2 }, { delay: 0 })
        assert.deepStrictEqual(yield* take(queue), [2, 1])
        yield* TestClock.adjust("59 seconds")
        yield* assertEmpty(queue)
        const fiber = yield* Effect.forkChild(take(queue))
        assert.deepStrictEqual(yield* passUntil(fiber), [1, 1])
        yield* queue.offer({ n: 3 }, { id: "a" })
        assert.deepStrictEqual(yield* take(queue), [3, 1])
      })
    )

    it.effect("takes the next message instead of one that does not decode, and never delivers that", () =>
      Effect.gen(function* () {
        const name = newName()
        const texts = yield* PersistedQueue.make({ name, schema: Schema.String })
        const queue = yield* make(name)
        yield* texts.offer("not a number", { id: "a" })
        yield* queue.offer({ n: 1 })
        assert.deepStrictEqual(yield* take(queue), [1, 1])
        yield* TestClock.adjust("1 hour")
        yield* assertEmpty(queue)
        yield* queue.offer({ n: 2 }, { id: "a" })
        yield* assertEmpty(queue)
      })
    )

    it.effect("keeps queues and ids of any name apart", () =>
      Effect.gen(function* () {
        const prefix = newName()
        const texts = ["", "a", "a:", "a%3A", ":", "a/b", "#", "é", "\0", "x".repeat(300), "x".repeat(600)]
        const queues = yield* Effect.forEach(texts, (text) => make(`${prefix}${text}`))
        for (const [n, queue] of queues.entries()) {
          for (const [i, id] of texts.entries()) yield* queue.offer({ n: 100 * n + i }, { id })
          yield* queue.offer({ n: -1 }, { id: texts[1] ?? "" })
        }
        for (const [n, queue] of queues.entries()) {
          for (const i of texts.keys()) assert.deepStrictEqual(yield* take(queue), [100 * n + i, 1])
          yield* assertEmpty(queue)
        }
      })
    )
  })

cases("Effect's PersistedQueueStore in memory", PersistedQueue.layerStoreMemory)
for (const [name, storage] of Object.entries(engines())) {
  describe.skipIf(storage === undefined)("StoragePersistedQueue", () => {
    cases(`on ${name}`, StoragePersistedQueue.layer({ owner: newOwner() }).pipe(Layer.provide(orEmpty(storage))))
  })
}
