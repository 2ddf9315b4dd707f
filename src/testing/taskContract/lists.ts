/** Lists, newest first. */
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeUnsafe } from "../../StorageKey.ts"
import * as Task from "../../task/Task.ts"
import type * as TaskStore from "../../task/TaskStore.ts"
import * as assert from "../internal/assert.ts"
import { dies, failsWith, newOwner } from "../internal/support.ts"
import {
  bring,
  type Case,
  counted,
  example,
  keyOf,
  makeTasks,
  requestMethod,
  statuses
} from "../internal/taskDrafts.ts"

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
  ),

  example(
    "a list of one status or several has just their tasks, in bounded pages, and all that can't be read",
    Effect.fnUntraced(function* () {
      const { backend, requests } = yield* counted()
      const tasks = yield* Effect.provideService(makeTasks(), StorageBackend, backend)
      const ownerId = yield* newOwner
      const created: Array<Task.TaskRecord> = []
      for (const status of [...statuses, ...statuses]) {
        const record = yield* tasks.create({ ownerId, requestMethod })
        yield* bring(tasks, keyOf(record), status)
        created.unshift(yield* tasks.get(keyOf(record)))
        yield* TestClock.adjust(1)
      }
      yield* backend.put(makeUnsafe({ owner: ownerId, id: "1-damaged" }), "half a rec")

      /** All that a list has, and how many pages it takes. */
      const listAll = Effect.fnUntraced(function* (status: TaskStore.ListOptions["status"], limit: number) {
        const [found, unreadable, sizes]: [Array<Task.TaskRecord>, Array<string>, Array<number>] = [[], [], []]
        let cursor: string | undefined
        requests.length = 0
        do {
          const page = yield* tasks.list({ ownerId, status, limit, cursor })
          found.push(...page.tasks)
          unreadable.push(...page.unreadable)
          sizes.push(page.tasks.length)
          cursor = page.cursor
        } while (cursor !== undefined)
        assert.deepStrictEqual(
          requests,
          sizes.map(() => "listByPrefix" as const)
        )
        assert.deepStrictEqual(unreadable, ["1-damaged"])
        return { found, sizes }
      })

      for (const limit of [1, 3, 100]) {
        for (const status of statuses) {
          const { found, sizes } = yield* listAll(status, limit)
          assert.deepStrictEqual(
            found,
            created.filter(({ task }) => task.status === status)
          )
          // No page reads on until it is full.
          assert.isAtLeast(sizes.length, Math.ceil(11 / limit))
          for (const size of sizes) assert.isAtMost(size, limit)
        }
        const { found } = yield* listAll(["working", "input_required"], limit)
        assert.deepStrictEqual(
          found,
          created.filter(({ task }) => !Task.isTerminal(task.status))
        )
        assert.deepStrictEqual((yield* listAll([], limit)).found, [])
        assert.deepStrictEqual((yield* listAll(undefined, limit)).found, created)
      }
      const status = "paused" as unknown as Task.Status
      yield* dies(tasks.list({ ownerId, status }), /list takes one of the statuses working, .*: it was given paused/)
      yield* dies(tasks.list({ ownerId, status: ["working", status] }), /it was given paused/)
    })
  )
]
