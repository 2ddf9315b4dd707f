import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, Queue, Schedule, Stream } from "effect"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import type { StorageBackend } from "../../src/StorageBackend.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"
import { newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"

const newFile = newFiles()
const onHintsAlone = { schedule: Schedule.spaced("1 hour") }

/** Two task stores on one engine, each with a connection of its own, as two processes have. */
const twoStores = <E>(layer: Layer.Layer<StorageBackend, E>) => {
  const build = Effect.map(Layer.build(Layer.fresh(Layer.provide(TaskStore.layer, Layer.fresh(layer)))), (context) =>
    Context.get(context, TaskStore.TaskStore)
  )
  return Effect.all([build, build])
}

const seesTheEnd = Effect.fnUntraced(function* <E>(layer: Layer.Layer<StorageBackend, E>) {
  const [client, worker] = yield* twoStores(layer)
  const { task } = yield* client.create({ ownerId: "alice", requestMethod: "tools/call" })
  const key = { ownerId: "alice", taskId: task.taskId }
  const statuses = yield* Queue.unbounded<string>()
  yield* Effect.forkScoped(
    Stream.runForEach(client.changes(key, onHintsAlone), ({ task }) => Queue.offer(statuses, task.status))
  )
  assert.strictEqual(yield* Queue.take(statuses), "working")
  const waiting = yield* Effect.forkScoped(client.awaitTerminal(key, onHintsAlone))
  yield* worker.recordInputRequests(key, { name: 1 })
  assert.strictEqual(yield* Queue.take(statuses), "input_required")
  yield* worker.deliverInputs(key, { name: "Luca" })
  assert.strictEqual(yield* Queue.take(statuses), "working")
  yield* worker.completeWithResult(key, { status: "completed", result: 1 })
  assert.strictEqual(yield* Queue.take(statuses), "completed")
  assert.strictEqual((yield* Fiber.join(waiting)).result, 1)
})

describe("who waits for a task", () => {
  it.live("sees by hints alone what another client does, on SQLite", () =>
    Effect.suspend(() => seesTheEnd(Sqlite.layer({ filename: newFile() })))
  )

  it.live.skipIf(url === undefined)("sees by hints alone what another client does, on Redis", () =>
    seesTheEnd(Redis.layer({ keyPrefix: newKeyPrefix() }).pipe(Layer.provide(RedisClient.layer({ url: url ?? "" }))))
  )
})
