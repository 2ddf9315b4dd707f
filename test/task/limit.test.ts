import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"

const ownerId = "alice"

/** The places that the ledger counts now, and how many bytes and pairs it has. */
const readLedger = Effect.gen(function* () {
  const backend = yield* StorageBackend
  const { data } = yield* backend.get(makeUnsafe({ owner: ownerId, id: "!places" }))
  const { places } = JSON.parse(data) as { readonly places: ReadonlyArray<readonly [number | null, number]> }
  const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
  const taken = places.filter(([until]) => until === null || until * 1000 > now)
  return { taken: taken.reduce((sum, [, count]) => sum + count, 0), bytes: data.length, pairs: places.length }
})

/** Creates a task again and again, at a steady pace, and compares the places with the tasks that are alive. */
const createSteadily = Effect.fnUntraced(function* (options: {
  readonly limit: number
  readonly everyMillis: number
  readonly lifeMillis: number
  readonly creations: number
}) {
  const { creations, everyMillis, lifeMillis, limit } = options
  const tasks = yield* TaskStore.TaskStore
  const ends: Array<number> = []
  const seen = { refused: 0, refusedWith: Number.POSITIVE_INFINITY, alive: 0, beyond: 0, bytes: 0, pairs: 0 }
  for (let i = 0; i < creations; i++) {
    const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
    while ((ends[0] ?? Number.POSITIVE_INFINITY) <= now) ends.shift()
    const result = yield* Effect.result(tasks.create({ ownerId, requestMethod: "tools/call", ttl: lifeMillis }))
    if (result._tag === "Success") ends.push(now + lifeMillis)
    else {
      assert.strictEqual(result.failure._tag, "TooManyTasks")
      seen.refused++
      seen.refusedWith = Math.min(seen.refusedWith, ends.length)
    }
    const ledger = yield* readLedger
    seen.alive = Math.max(seen.alive, ends.length)
    seen.beyond = Math.max(seen.beyond, ledger.taken - ends.length)
    seen.bytes = Math.max(seen.bytes, ledger.bytes)
    seen.pairs = Math.max(seen.pairs, ledger.pairs)
    assert.isAtLeast(ledger.taken, ends.length)
    yield* TestClock.adjust(everyMillis)
  }
  console.log(`limit ${limit}, a task every ${everyMillis} ms: ${JSON.stringify(seen)}`)
  assert.isAtMost(seen.alive, limit)
  return seen
})

const run = (options: Parameters<typeof createSteadily>[0]) =>
  createSteadily(options).pipe(
    Effect.provide(TaskStore.layerWith({ maxTasksPerOwner: options.limit }).pipe(Layer.provideMerge(InMemory.layer)))
  )

describe("the limit of an owner's tasks", () => {
  for (const limit of [100, 300, 1000, 10_000]) {
    it.effect(`of ${limit} refuses nothing while fewer tasks are alive: a task every 2 s that lives 1,000 s`, () =>
      Effect.gen(function* () {
        const seen = yield* run({ limit, everyMillis: 2000, lifeMillis: 1_000_000, creations: 4000 })
        assert.strictEqual(seen.alive, Math.min(limit, 500))
        assert.isAtLeast(seen.refusedWith, limit)
        assert.isAtMost(seen.beyond, limit <= 512 ? 0 : 10)
        assert.isAtMost(seen.pairs, limit <= 512 ? limit : 102)
      })
    )
  }

  it.effect("of more than 512 refuses nothing while 98% of it are alive, if all tasks live equally long", () =>
    Effect.gen(function* () {
      const seen = yield* run({ limit: 1000, everyMillis: 900, lifeMillis: 1_000_000, creations: 4000 })
      assert.isAtLeast(seen.refusedWith, 980)
      assert.isAbove(seen.refused, 0)
    })
  )

  it.effect("is never passed and comes free again, whatever lives its tasks have and whichever are removed", () =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const lives = [1, 30, 100, 250, 1000, 7000, 86_400]
      const alive = new Map<string, number>()
      for (let i = 0; i < 3000; i++) {
        const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
        for (const [taskId, endsAt] of alive) if (endsAt <= now) alive.delete(taskId)
        const lifeMillis = (lives[i % lives.length] ?? 1) * 1000 + i
        const { task } = yield* tasks.create({
          ownerId,
          requestMethod: "tools/call",
          ttl: Math.min(lifeMillis, 86_400_000)
        })
        alive.set(task.taskId, now + Math.min(lifeMillis, 86_400_000))
        if (i % 3 === 0) {
          const [taskId = ""] = alive.keys()
          yield* tasks.remove({ ownerId, taskId })
          alive.delete(taskId)
        }
        assert.isAtLeast((yield* readLedger).taken, alive.size)
        yield* TestClock.adjust(700)
      }
      yield* TestClock.adjust("1 day")
      yield* TestClock.adjust("30 minutes")
      for (const taskId of alive.keys()) yield* Effect.ignore(tasks.remove({ ownerId, taskId }))
      yield* tasks.create({ ownerId, requestMethod: "tools/call" })
      assert.strictEqual((yield* readLedger).taken, 1)
    }).pipe(
      Effect.provide(
        TaskStore.layerWith({ maxTasksPerOwner: 100_000, grace: 0 }).pipe(Layer.provideMerge(InMemory.layer))
      )
    )
  )
})
