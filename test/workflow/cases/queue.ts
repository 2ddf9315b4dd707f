import { assert } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { PersistedQueue } from "effect/persistence"
import { DurableQueue, Workflow } from "effect/workflow"
import { type Case, newWorkflow, shown, test } from "../support.ts"

export const queueCases: ReadonlyArray<Case> = [
  test(
    "waits for the worker of a queue, and ends with what it answers",
    Effect.gen(function* () {
      const handled: Array<string> = []
      const queue = DurableQueue.make({
        name: crypto.randomUUID(),
        payload: { id: Schema.String },
        success: Schema.String,
        error: Schema.String,
        idempotencyKey: ({ id }) => id
      })
      const workflow = Workflow.make(newWorkflow()._tag, {
        payload: { id: Schema.String },
        success: Schema.String,
        error: Schema.String,
        idempotencyKey: ({ id }) => id
      })
      const body = workflow.toLayer(({ id }) =>
        Effect.gen(function* () {
          const first = yield* DurableQueue.process(queue, { id: `${id} first` })
          const second = yield* DurableQueue.process(queue, { id: `${id} second` })
          return `${first}, ${second}`
        })
      )
      const worker = DurableQueue.worker(queue, ({ id }) => {
        handled.push(id)
        return id.startsWith("good") ? Effect.succeed(`did ${id}`) : Effect.fail(`can't do ${id}`)
      })
      const queues = PersistedQueue.layer.pipe(Layer.provide(PersistedQueue.layerStoreMemory))
      yield* Layer.build(Layer.mergeAll(body, worker).pipe(Layer.provide(queues)))
      const [good, bad] = yield* Effect.all(
        [Effect.exit(workflow.execute({ id: "good" })), Effect.exit(workflow.execute({ id: "bad" }))],
        { concurrency: 2 }
      )
      assert.strictEqual(shown(good), "succeeded with did good first, did good second")
      assert.strictEqual(shown(bad), "failed with can't do bad first")
      assert.deepStrictEqual(handled.toSorted(), ["bad first", "good first", "good second"])
    })
  )
]
