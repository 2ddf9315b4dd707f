/** Interrupted changes of the quota. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import { StorageBackend } from "../../StorageBackend.ts"
import * as Task from "../../task/Task.ts"
import * as TaskStore from "../../task/TaskStore.ts"
import * as assert from "../internal/assert.ts"
import {
  type Case,
  counted,
  endings,
  example,
  LayerStore,
  makeTasks,
  newTask,
  requestMethod,
  type Tasks
} from "../internal/taskDrafts.ts"

/** Interrupts what is done with a store at one of its requests, before or after it. True if it took so many. */
const interruptAt = Effect.fnUntraced(function* (
  options: TaskStore.Options,
  step: number,
  isAfter: boolean,
  use: (tasks: Tasks) => Effect.Effect<unknown, unknown>
) {
  let fiber: Fiber.Fiber<unknown, unknown> | undefined
  const interrupt = Effect.andThen(
    Effect.sync(() => fiber?.interruptUnsafe()),
    Effect.yieldNow
  )
  const { backend, requests } = yield* counted(({ index }) =>
    index !== step ? "pass" : isAfter ? { after: interrupt } : { before: interrupt }
  )
  const scope = yield* Scope.make()
  const layer = Layer.provide((yield* LayerStore)(options), Layer.succeed(StorageBackend, backend))
  const interrupted = Context.get(yield* Layer.buildWithScope(Layer.fresh(layer), scope), TaskStore.TaskStore)
  fiber = yield* Effect.forkChild(Effect.andThen(Effect.yieldNow, use(interrupted)))
  yield* Fiber.await(fiber)
  // This waits for what the interrupted fiber has left to others.
  yield* Scope.close(scope, Exit.void)
  return requests.length > step
})

export const interruptions: ReadonlyArray<Case> = [
  example(
    "a creation or removal that is interrupted at any of its requests leaves a place for each task, and for no other",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 1 }
      const tasks = yield* makeTasks(options)
      for (const isRemoval of [false, true]) {
        for (const isAfter of [false, true]) {
          for (let step = 0, goesOn = true; goesOn; step++) {
            assert.isBelow(step, 10)
            const { key } = yield* newTask(tasks)
            if (!isRemoval) yield* tasks.remove(key)
            goesOn = yield* interruptAt(options, step, isAfter, (tasks) =>
              isRemoval ? tasks.remove(key) : tasks.create({ ...key, requestMethod })
            )
            const isThere = (yield* tasks.list(key)).tasks.length > 0
            const next = yield* Effect.result(tasks.create({ ...key, requestMethod }))
            assert.strictEqual(
              next._tag === "Failure" ? next.failure._tag : "created",
              isThere ? "TooManyTasks" : "created",
              `${isRemoval ? "a removal" : "a creation"}, ${isAfter ? "after" : "before"} request ${step}`
            )
          }
        }
      }
    })
  ),

  example(
    "an end that is interrupted at any of its requests frees the task's place if the task has ended, and only then",
    Effect.fnUntraced(function* () {
      const options = { maxTasksPerOwner: 1, countTerminal: false }
      const tasks = yield* makeTasks(options)
      const seen = { ended: 0, goesOn: 0 }
      for (const end of endings) {
        for (const isAfter of [false, true]) {
          for (let step = 0, goesOn = true; goesOn; step++) {
            assert.isBelow(step, 10)
            const { key } = yield* newTask(tasks)
            goesOn = yield* interruptAt(options, step, isAfter, (tasks) => end(tasks, key))
            const hasEnded = Task.isTerminal((yield* tasks.get(key)).task.status)
            seen[hasEnded ? "ended" : "goesOn"]++
            const next = yield* Effect.result(tasks.create({ ...key, requestMethod }))
            assert.strictEqual(
              next._tag === "Failure" ? next.failure._tag : "created",
              hasEnded ? "created" : "TooManyTasks",
              `${isAfter ? "after" : "before"} request ${step}`
            )
          }
        }
      }
      for (const count of Object.values(seen)) assert.isAbove(count, 0)
    })
  )
]
