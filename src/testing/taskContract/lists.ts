/** Lists, newest first. */
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import * as assert from "../internal/assert.ts"
import { failsWith, newOwner } from "../internal/support.ts"
import { type Case, example, requestMethod } from "../internal/taskDrafts.ts"

export const lists: ReadonlyArray<Case> = [
  example(
    "a list is newest first, page by page, and holds one owner's tasks",
    Effect.fnUntraced(function* (tasks) {
      const [ownerId, other] = [yield* newOwner, yield* newOwner]
      const created: Array<string> = []
      for (let i = 0; i < 7; i++) {
        created.unshift((yield* tasks.create({ ownerId, requestMethod })).task.taskId)
        yield* TestClock.adjust(1)
        yield* tasks.create({ ownerId: other, requestMethod })
      }
      const listed: Array<string> = []
      let cursor: string | undefined
      do {
        const page = yield* tasks.list({ ownerId, limit: 3, cursor })
        assert.isAtMost(page.tasks.length, 3)
        listed.push(...page.tasks.map(({ task }) => task.taskId))
        cursor = page.cursor
      } while (cursor !== undefined)
      assert.deepStrictEqual(listed, created)
      const first = yield* tasks.list({ ownerId: other, limit: 3 })
      yield* failsWith(tasks.list({ ownerId, cursor: first.cursor ?? "" }), "InvalidCursor")
    })
  )
]
