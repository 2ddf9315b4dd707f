import { assert, describe, it } from "@effect/vitest"
import { Context, Deferred, Duration, Effect, Fiber, Layer, Logger, Schema, type Scope, Stream } from "effect"
import { PersistedQueue } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as StoragePersistedQueue from "../../src/persistence/StoragePersistedQueue.ts"
import { defaultMaxDataBytes, StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { counting, failing, storedIds } from "../support/persistence.ts"

const owner = "alice"

/** A process of its own on a backend: what is asked of it is counted, and fails while it is stopped. */
const newProcess = Effect.fnUntraced(function* (
  service: StorageBackend["Service"],
  { maxAttempts = 2, ...options }: Partial<StoragePersistedQueue.Options> & { readonly maxAttempts?: number } = {}
) {
  let isStopped = false
  const { backend, requests, taken } = Faults.backend(service, () => (isStopped ? "drop" : "pass"))
  const storage = Layer.succeed(StorageBackend, backend)
  const store = yield* Layer.build(
    Layer.fresh(
      PersistedQueue.layer.pipe(
        Layer.provide(StoragePersistedQueue.layer({ owner, ...options })),
        Layer.provide(storage),
        Layer.provideMerge(Logger.layer([]))
      )
    )
  )
  const queue = yield* Effect.provideContext(PersistedQueue.make({ name: "q", schema: Schema.Int, maxAttempts }), store)
  return {
    queue,
    requests,
    taken,
    stop: Effect.sync(() => {
      isStopped = true
    }),
    wake: Effect.sync(() => {
      isStopped = false
    })
  }
})

/** A handler that runs until it is told how it ends. */
const begin = Effect.fnUntraced(function* (queue: PersistedQueue.PersistedQueue<number>) {
  const begun = yield* Deferred.make<readonly [number, number]>()
  const end = yield* Deferred.make<void, string>()
  const fiber = yield* Effect.forkChild(
    queue.take((n, { attempts }) => Effect.andThen(Deferred.succeed(begun, [n, attempts]), Deferred.await(end)))
  )
  return { taken: Deferred.await(begun), end, fiber }
})

const kindsOf = Effect.map(storedIds(owner), (ids) => ids.map((id) => id.split("/")[1]))

describe("StoragePersistedQueue, between processes", () => {
  const test = (
    title: string,
    effect: Effect.Effect<void, unknown, Scope.Scope | StorageBackend>,
    { service } = counting()
  ) => it.effect(title, () => Effect.provideService(Effect.scoped(effect), StorageBackend, service))

  test(
    "keeps a message from others for as long as its handler runs",
    Effect.gen(function* () {
      const service = yield* StorageBackend
      const [one, other] = [yield* newProcess(service), yield* newProcess(service)]
      yield* one.queue.offer(1)
      const first = yield* begin(one.queue)
      yield* first.taken
      const second = yield* begin(other.queue)
      yield* TestClock.adjust("10 minutes")
      yield* one.queue.offer(2, { id: "b" })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* second.taken, [2, 1])
      yield* Deferred.succeed(first.end, undefined)
      yield* Deferred.succeed(second.end, undefined)
      yield* Effect.all([Fiber.join(first.fiber), Fiber.join(second.fiber)])
      assert.deepStrictEqual(yield* kindsOf, ["done", "id"])
    })
  )

  for (const [how, end] of [
    ["completes", (end) => Deferred.succeed(end, undefined)],
    ["fails", (end) => Deferred.fail(end, "no")]
  ] as ReadonlyArray<readonly [string, (end: Deferred.Deferred<void, string>) => Effect.Effect<boolean>]>) {
    test(
      `lets a process that was stopped and ${how} change nothing about another's delivery`,
      Effect.gen(function* () {
        const service = yield* StorageBackend
        const [one, other] = [yield* newProcess(service), yield* newProcess(service)]
        yield* one.queue.offer(1, { id: "a" })
        const first = yield* begin(one.queue)
        assert.deepStrictEqual(yield* first.taken, [1, 1])
        yield* one.stop
        const second = yield* begin(other.queue)
        yield* TestClock.adjust("89 seconds")
        assert.isUndefined(second.fiber.pollUnsafe())
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(yield* second.taken, [1, 2])
        yield* one.wake
        yield* end(first.end)
        yield* Fiber.await(first.fiber)
        // The message is still the other's: nobody gets it while that one works, and then it is done once.
        assert.deepStrictEqual(yield* kindsOf, ["due", "id"])
        yield* TestClock.adjust("5 minutes")
        assert.deepStrictEqual(yield* kindsOf, ["due", "id"])
        yield* Deferred.succeed(second.end, undefined)
        yield* Fiber.join(second.fiber)
        assert.deepStrictEqual(yield* kindsOf, ["done", "id"])
      })
    )
  }

  for (const fate of ["lose", "drop"] as const) {
    test(
      `has a message done once if a renewal was ${fate === "lose" ? "made and its answer lost" : "not made, and not answered"}`,
      Effect.gen(function* () {
        const service = yield* StorageBackend
        let commits = 0
        // The offer, the delivery and the first renewal.
        const faulty = Faults.backend(service, ({ name }) => (name === "commit" && ++commits === 3 ? fate : "pass"))
        const one = yield* newProcess(faulty.backend)
        yield* one.queue.offer(1, { id: "a" })
        const { end, fiber, taken } = yield* begin(one.queue)
        yield* taken
        yield* TestClock.adjust("31 seconds")
        assert.strictEqual(commits, 3)
        yield* Deferred.succeed(end, undefined)
        yield* Fiber.join(fiber)
        assert.strictEqual(commits, 4)
        assert.deepStrictEqual(yield* kindsOf, ["done", "id"])
      })
    )
  }

  test(
    "gives back a message whose take is interrupted at any moment of its delivery",
    Effect.gen(function* () {
      const service = yield* StorageBackend
      const { queue } = yield* newProcess(service)
      for (let steps = 0; steps < 40; steps++) {
        yield* queue.offer(steps)
        const fiber = yield* Effect.forkChild(queue.take(() => Effect.never))
        for (let step = 0; step < steps; step++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* queue.take((n, { attempts }) => Effect.succeed([n, attempts])), [steps, 1])
      }
    })
  )

  test(
    "claims messages one by one if another process has taken some of them",
    Effect.gen(function* () {
      const service = yield* StorageBackend
      const [one, other] = [yield* newProcess(service), yield* newProcess(service)]
      for (let n = 0; n < 8; n++) yield* one.queue.offer(n)
      assert.strictEqual(yield* one.queue.take(Effect.succeed), 0)
      assert.strictEqual(yield* other.queue.take(Effect.succeed), 1)
      one.requests.length = 0
      const taken = yield* Effect.replicateEffect(one.queue.take(Effect.succeed), 6, { concurrency: "unbounded" })
      assert.deepStrictEqual(
        taken.sort((a, b) => a - b),
        [2, 3, 4, 5, 6, 7]
      )
      // One for all, which is refused, one for each of six, one for the last, and one for the end of each.
      assert.deepStrictEqual(one.requests.filter((name) => name === "commit").length, 1 + 6 + 1 + 6)
    })
  )

  test(
    "keeps a message as failed if the process died at the last attempt",
    Effect.gen(function* () {
      const service = yield* StorageBackend
      const processes = [yield* newProcess(service), yield* newProcess(service)]
      for (const [i, one] of processes.entries()) {
        if (i === 0) yield* one.queue.offer(1, { id: "a" })
        const { taken } = yield* begin(one.queue)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* taken, [1, i + 1])
        yield* one.stop
        yield* TestClock.adjust("90 seconds")
      }
      yield* TestClock.adjust("1 second")
      const last = yield* newProcess(service)
      yield* last.queue.offer(2)
      assert.strictEqual(yield* last.queue.take(Effect.succeed), 2)
      assert.deepStrictEqual(yield* kindsOf, ["failed", "id"])
      // What is interrupted when the test ends is settled, which waits for an answer.
      for (const one of processes) yield* one.wake
    })
  )

  test(
    "finds what another process has offered at the next look, without a hint",
    Effect.gen(function* () {
      const service = yield* StorageBackend
      const deaf = { ...service, hints: () => Stream.never }
      const [one, other] = [yield* newProcess(service), yield* newProcess(deaf, { pollInterval: "5 seconds" })]
      const fiber = yield* Effect.forkChild(other.queue.take(Effect.succeed))
      while (other.requests.length < 2) yield* Effect.yieldNow
      yield* TestClock.adjust(1)
      yield* one.queue.offer(1)
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(other.requests, ["listByPrefix", "listByPrefix"])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), 1)
    })
  )

  test(
    "finds what another process has offered by a hint, and looks ten times a second at most by hints",
    Effect.gen(function* () {
      const service = yield* StorageBackend
      const [one, other] = [yield* newProcess(service), yield* newProcess(service, { pollInterval: "1 hour" })]
      const fiber = yield* Effect.forkChild(other.queue.take(Effect.succeed))
      while (other.requests.length < 2) yield* Effect.yieldNow
      yield* TestClock.adjust(1)
      yield* one.queue.offer(1)
      yield* TestClock.adjust("20 millis")
      assert.strictEqual(yield* Fiber.join(fiber), 1)
      const waiting = yield* Effect.forkChild(other.queue.take(Effect.succeed))
      yield* TestClock.adjust("1 second")
      other.requests.length = 0
      for (let i = 0; i < 100; i++) {
        yield* one.queue.offer(2, { delay: "1 hour" })
        yield* TestClock.adjust("10 millis")
      }
      assert.isAbove(other.requests.length, 4)
      assert.isAtMost(other.requests.length, 11)
      yield* Fiber.interrupt(waiting)
    })
  )

  test(
    "delivers each message once to many takers of several processes",
    Effect.gen(function* () {
      const service = yield* StorageBackend
      const processes = yield* Effect.forEach([0, 1, 2], () => newProcess(service))
      const many = Array.from({ length: 120 }, (_, n) => n)
      for (const n of many) yield* (processes[0] as (typeof processes)[0]).queue.offer(n)
      const fiber = yield* Effect.forkChild(
        Effect.forEach(many, (n) => (processes[n % 3] as (typeof processes)[0]).queue.take(Effect.succeed), {
          concurrency: 24
        })
      )
      while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(
        (yield* Fiber.join(fiber)).sort((a, b) => a - b),
        many
      )
      assert.deepStrictEqual(yield* storedIds(owner), [])
    })
  )
})

describe("StoragePersistedQueue, in requests", () => {
  for (const waiting of [1, 10, 1000]) {
    it.effect(`takes a message in at most three requests if ${waiting} wait`, () =>
      Effect.gen(function* () {
        const { service } = counting()
        const { queue, requests } = yield* newProcess(service)
        for (let n = 0; n < waiting; n++) yield* queue.offer(n)
        assert.strictEqual(requests.length, waiting)
        requests.length = 0
        yield* queue.take(Effect.succeed)
        assert.deepStrictEqual(requests, ["listByPrefix", "commit", "commit"])
        if (waiting < 10) return
        // The next ones were in the same page.
        for (let i = 0; i < 9; i++) yield* queue.take(Effect.succeed)
        assert.strictEqual(requests.length, 3 + 9 * 2)
      })
    )
  }

  it.effect("claims the messages of takes that come together in one commit", () =>
    Effect.gen(function* () {
      const { service } = counting()
      const { queue, requests } = yield* newProcess(service)
      for (let n = 0; n < 50; n++) yield* queue.offer(n)
      requests.length = 0
      yield* Effect.replicateEffect(queue.take(Effect.succeed), 50, { concurrency: "unbounded" })
      assert.strictEqual(requests.filter((name) => name === "listByPrefix").length, 1)
      assert.strictEqual(requests.filter((name) => name === "commit").length, 1 + 50)
    })
  )

  it.effect("loses no message if every third answer to a write is lost, and delivers none to two at a time", () =>
    Effect.gen(function* () {
      const { service } = counting()
      let writes = 0
      const { backend } = Faults.backend(service, ({ name }) =>
        name === "commit" && ++writes % 3 === 0 ? (writes % 2 === 0 ? "lose" : "drop") : "pass"
      )
      const { queue } = yield* newProcess(backend, { maxAttempts: 20 })
      const many = Array.from({ length: 30 }, (_, n) => n)
      yield* Effect.forEach(many, (n) => Effect.retry(queue.offer(n, { id: `${n}` }), { times: 3 }))
      const seen = new Set<number>()
      const running = new Set<number>()
      const fiber = yield* Effect.forkChild(
        queue
          .take((n) =>
            Effect.sync(() => {
              assert.isFalse(running.has(n))
              running.add(n)
            }).pipe(
              Effect.andThen(Effect.sleep("1 second")),
              Effect.andThen(Effect.sync(() => running.delete(n) && seen.add(n)))
            )
          )
          .pipe(Effect.forever, Effect.replicateEffect(8, { concurrency: "unbounded" }))
      )
      for (let i = 0; i < 600 && seen.size < many.length; i++) yield* TestClock.adjust("1 second")
      assert.strictEqual(seen.size, many.length)
      yield* TestClock.adjust("5 minutes")
      yield* Fiber.interrupt(fiber)
      const left = yield* Effect.provideService(kindsOf, StorageBackend, service)
      assert.deepStrictEqual(
        left.filter((kind) => kind === "due"),
        []
      )
    })
  )
})

describe("StoragePersistedQueue, in failures", () => {
  const build = (storage: Layer.Layer<StorageBackend>) =>
    Layer.build(Layer.fresh(StoragePersistedQueue.layer({ owner })).pipe(Layer.provide(storage))).pipe(
      Effect.map((context) => Context.get(context, PersistedQueue.PersistedQueueStore))
    )
  const options = { name: "q", maxAttempts: 2, retryDelay: () => Effect.succeed(Duration.zero) }

  it.effect("names the error of the storage, and the owner if that is invalid", () =>
    Effect.gen(function* () {
      const store = yield* build(failing)
      const message = { name: "q", id: "a", element: 1, isCustomId: false }
      const ttl = Duration.zero
      for (const operation of [store.offer(message), store.cleanup({ timeToLive: ttl, failedTimeToLive: ttl })]) {
        const error = yield* Effect.flip(operation)
        assert.instanceOf(error, PersistedQueue.PersistedQueueError)
        assert.match(error.message, /persisted queue: .*no table/)
        assert.strictEqual((error.cause as { readonly _tag?: string })._tag, "Backend")
      }
      const invalid = StoragePersistedQueue.layer({ owner: "" }).pipe(Layer.provide(failing))
      assert.strictEqual((yield* Effect.flip(Layer.build(invalid)))._tag, "InvalidKey")
    })
  )

  it.effect("delivers and keeps a message of the largest size, and refuses a larger one when it is offered", () =>
    Effect.gen(function* () {
      const { service, storage } = counting()
      const store = yield* build(storage)
      const offer = (length: number) =>
        store.offer({ name: "q", id: "a", element: "x".repeat(length), isCustomId: true })
      const rest = JSON.stringify({ queue: "q", id: "a", element: "", offered: "!queue/id/q:a" })
      const most = defaultMaxDataBytes - rest.length
      const error = yield* Effect.flip(offer(most + 1))
      assert.strictEqual((error.cause as { readonly _tag?: string })._tag, "CapacityExceeded")
      yield* offer(most)
      for (const attempt of [1, 2]) {
        const taken = store.take(options).pipe(
          Effect.tap(({ attempts, element }) => {
            assert.deepStrictEqual([attempts, (element as string).length], [attempt, most])
            return Effect.fail("no")
          })
        )
        assert.strictEqual(yield* Effect.flip(Effect.scoped(taken)), "no")
      }
      assert.deepStrictEqual(yield* Effect.provideService(kindsOf, StorageBackend, service), ["failed", "id"])
    })
  )

  it.effect("keeps a record of another program as failed, and delivers the next message", () =>
    Effect.gen(function* () {
      const { service, storage } = counting()
      const store = yield* build(storage)
      const id = `!queue/due/q:00000000000000-00000000-${crypto.randomUUID()}-0`
      yield* service.put(makeUnsafe({ owner, id }), "no message")
      yield* TestClock.adjust(1)
      yield* store.offer({ name: "q", id: "a", element: 1, isCustomId: false })
      assert.deepInclude(yield* Effect.scoped(store.take(options)), { id: "a", element: 1 })
      assert.deepStrictEqual(yield* Effect.provideService(kindsOf, StorageBackend, service), ["failed"])
    })
  )

  it.effect("waits while the storage fails", () =>
    Effect.gen(function* () {
      const { service } = counting()
      let isDown = true
      const { backend } = Faults.backend(service, () => (isDown ? "deny" : "pass"))
      const { queue } = yield* newProcess(backend)
      const fiber = yield* Effect.forkChild(queue.take(Effect.succeed))
      yield* TestClock.adjust("10 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      isDown = false
      yield* queue.offer(1)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), 1)
    })
  )
})
