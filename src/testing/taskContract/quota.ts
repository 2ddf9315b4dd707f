/** The limit of tasks that an owner may have. */
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../../StorageBackend.ts"
import { makeBackend } from "../../StorageError.ts"
import * as assert from "../internal/assert.ts"
import { failsWith, newOwner, toWholeSecond } from "../internal/support.ts"
import { type Case, counted, example, keyOf, makeTasks, requestMethod } from "../internal/taskDrafts.ts"

export const quota: ReadonlyArray<Case> = [
  example(
    "200 creations at once by two processes, with a limit of 100, make exactly 100 tasks",
    Effect.fnUntraced(function* (tasks) {
      const other = yield* makeTasks()
      const ownerId = yield* newOwner
      const results = yield* Effect.forEach(
        Array.from({ length: 200 }, (_, i) => (i % 2 === 0 ? tasks : other)),
        (tasks) => Effect.result(tasks.create({ ownerId, requestMethod })),
        { concurrency: "unbounded" }
      )
      const refused = results.flatMap((result) => (result._tag === "Failure" ? [result.failure._tag] : []))
      assert.deepStrictEqual(
        refused,
        Array.from({ length: 100 }, () => "TooManyTasks" as const)
      )
      assert.strictEqual((yield* tasks.list({ ownerId, limit: 1000 })).tasks.length, 100)
    })
  ),

  example(
    "a place is free when its task expires, and one that never does holds it",
    Effect.fnUntraced(function* () {
      yield* toWholeSecond
      const tasks = yield* makeTasks({ maxTasksPerOwner: 2, maxTtl: "Infinity" })
      const ownerId = yield* newOwner
      yield* tasks.create({ ownerId, requestMethod, ttl: "Infinity" })
      const short = yield* tasks.create({ ownerId, requestMethod, ttl: "10 seconds" })
      yield* TestClock.adjust(9999)
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust(1)
      yield* tasks.create({ ownerId, requestMethod, ttl: "10 seconds" })
      yield* tasks.remove(keyOf(short))
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("1 day")
      yield* tasks.create({ ownerId, requestMethod })
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
    })
  ),

  example(
    "a creation that dies in the middle holds a place until its task would have expired, and one that fails holds none",
    Effect.fnUntraced(function* () {
      let outcome: "unknown" | "not-applied" = "unknown"
      const { backend: watched } = yield* counted(({ key, name }) =>
        name === "putIfVersion" && !key?.id.startsWith("!")
          ? makeBackend({ reason: "Unavailable", outcome, description: "told to" })
          : "pass"
      )
      const dying = yield* Effect.provideService(makeTasks({ maxTasksPerOwner: 1 }), StorageBackend, watched)
      const tasks = yield* makeTasks({ maxTasksPerOwner: 1 })
      const ownerId = yield* newOwner
      yield* failsWith(dying.create({ ownerId, requestMethod, ttl: "1 minute" }), "Backend")
      yield* failsWith(tasks.create({ ownerId, requestMethod }), "TooManyTasks")
      yield* TestClock.adjust("61 seconds")
      outcome = "not-applied"
      yield* failsWith(dying.create({ ownerId, requestMethod }), "Backend")
      yield* tasks.create({ ownerId, requestMethod })
    })
  )
]
