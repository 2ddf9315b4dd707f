import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { InMemory, type Task, VersionedStore } from "effect-versioned-store"
import { type Handlers, Jobs } from "../../../examples/apps/jobs.ts"

const layer = Jobs.layer.pipe(Layer.provideMerge(InMemory.layer))

const idsIn = Effect.fnUntraced(function* (status: Task.Status) {
  const { list } = yield* Jobs
  return (yield* Stream.runCollect(list("mail", status))).map(({ task }) => task.taskId).sort()
})

const send = (to: string) => ({ name: "send", arguments: { to } })

describe("the queue of jobs", () => {
  it.effect("works on each job once, with its input, however many workers there are", () =>
    Effect.gen(function* () {
      const { enqueue, work } = yield* Jobs
      const sent: Array<unknown> = []
      const handlers: Handlers = {
        send: (input) =>
          Effect.as(
            Effect.delay(
              Effect.sync(() => sent.push(input)),
              "1 second"
            ),
            "sent"
          )
      }
      for (let i = 10; i < 30; i++) yield* enqueue("mail", `${i}`, send(`${i}`))
      const workers = yield* Effect.forkChild(
        Effect.all(
          ["a", "b", "c"].map((worker) => work("mail", worker, handlers)),
          { concurrency: "unbounded" }
        )
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(workers)
      const ids = Array.from({ length: 20 }, (_, i) => `${i + 10}`)
      assert.deepStrictEqual(yield* idsIn("completed"), ids)
      assert.sameDeepMembers(
        sent,
        ids.map((to) => ({ to }))
      )
    }).pipe(Effect.provide(layer))
  )

  it.effect("enqueues a job once by its id, also after it has ended", () =>
    Effect.gen(function* () {
      const { enqueue, work } = yield* Jobs
      for (let i = 0; i < 3; i++) yield* enqueue("mail", "welcome", send("alice"))
      assert.deepStrictEqual(yield* idsIn("working"), ["welcome"])
      yield* work("mail", "a", { send: () => Effect.succeed("sent") })
      yield* enqueue("mail", "welcome", send("alice"))
      assert.deepStrictEqual([yield* idsIn("working"), yield* idsIn("completed")], [[], ["welcome"]])
    }).pipe(Effect.provide(layer))
  )

  it.effect("tries a job again that fails, and keeps the error of the last attempt", () =>
    Effect.gen(function* () {
      const { enqueue, list, work } = yield* Jobs
      yield* enqueue("mail", "1", send("nobody"))
      yield* enqueue("mail", "2", { name: "unknown" })
      let attempts = 0
      const handlers: Handlers = { send: () => Effect.suspend(() => Effect.fail(`attempt ${++attempts}`)) }
      for (let i = 0; i < 5; i++) yield* work("mail", "a", handlers)
      assert.strictEqual(attempts, 3)
      const failed = yield* Stream.runCollect(list("mail", "failed"))
      assert.sameDeepMembers(
        failed.map(({ task }) => [task.taskId, task.statusMessage]),
        [
          ["2", "There is no handler for unknown"],
          ["1", "attempt 3"]
        ]
      )
    }).pipe(Effect.provide(layer))
  )

  const slow: Handlers = { send: () => Effect.as(Effect.sleep("5 minutes"), "slow") }
  const fast: Handlers = { send: () => Effect.succeed("fast") }

  it.effect("leaves a job to its worker while that works, and to another worker once the claim has expired", () =>
    Effect.gen(function* () {
      const { enqueue, work } = yield* Jobs
      const claims = yield* VersionedStore.make({ idPrefix: "claim/", schema: Schema.String })
      yield* enqueue("mail", "slow", send("alice"))
      yield* enqueue("mail", "orphan", send("bob"))
      yield* claims.create({ owner: "claims of mail", id: "orphan" }, "a dead worker", { ttl: "30 seconds" })
      const worker = yield* Effect.forkChild(work("mail", "a", slow))
      yield* TestClock.adjust("29 seconds")
      yield* work("mail", "b", fast)
      assert.deepStrictEqual(yield* idsIn("completed"), [])
      yield* TestClock.adjust("1 second")
      yield* work("mail", "b", fast)
      assert.deepStrictEqual(yield* idsIn("completed"), ["orphan"])
      yield* TestClock.adjust("5 minutes")
      yield* Fiber.join(worker)
      assert.deepStrictEqual(yield* idsIn("completed"), ["orphan", "slow"])
    }).pipe(Effect.provide(layer))
  )

  it.effect("interrupts the work of a worker that has lost its claim", () =>
    Effect.gen(function* () {
      const { enqueue, work } = yield* Jobs
      const claims = yield* VersionedStore.make({ idPrefix: "claim/", schema: Schema.String })
      yield* enqueue("mail", "1", send("alice"))
      const worker = yield* Effect.forkChild(work("mail", "a", slow))
      yield* TestClock.adjust("1 second")
      yield* claims.set({ owner: "claims of mail", id: "1" }, "another worker", { ttl: "1 hour" })
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(worker)
      assert.deepStrictEqual(yield* idsIn("working"), ["1"])
      assert.strictEqual((yield* claims.get({ owner: "claims of mail", id: "1" })).value, "another worker")
    }).pipe(Effect.provide(layer))
  )
})
