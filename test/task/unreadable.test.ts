import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"

const ownerId = "alice"

/** How many unreadable records are remembered as logged. */
const remembered = 10_000

describe("records that can't be read as tasks", () => {
  for (const count of [remembered, remembered + 1]) {
    it.effect(`are logged once each as long as there are at most 10,000, and again after that: ${count}`, () => {
      let lines = 0
      return Effect.gen(function* () {
        const tasks = yield* TaskStore.TaskStore
        const backend = yield* StorageBackend
        for (let i = 0; i < count; i++) yield* backend.put(makeUnsafe({ owner: ownerId, id: `${i}` }), "half a rec")
        const listAll = Effect.gen(function* () {
          let cursor: string | undefined
          do cursor = (yield* tasks.list({ ownerId, limit: 1000, cursor })).cursor
          while (cursor !== undefined)
        })
        yield* listAll
        assert.strictEqual(lines, count)
        yield* listAll
        // If there is one more, all are forgotten, and logged again.
        assert.strictEqual(lines, count === remembered ? count : 2 * count)
      }).pipe(
        Effect.provide([
          Layer.provideMerge(TaskStore.layer, InMemory.layer),
          Logger.layer([Logger.make(() => void lines++)])
        ])
      )
    })
  }
})
