/** A process that creates tasks and ends them, and prints each step once it is acknowledged, until it is killed. */
import { writeSync } from "node:fs"
import { Effect, Layer, Redacted } from "effect"
import * as Postgres from "../../src/engine/Postgres.ts"
import * as TaskStore from "../../src/task/TaskStore.ts"

const [tableName = "", url = "", ownerId = ""] = process.argv.slice(2)

const layer = TaskStore.layerWith({ maxTasksPerOwner: 100_000 }).pipe(
  Layer.provide(Postgres.layer({ tableName })),
  Layer.provide(Postgres.layerClient({ url: Redacted.make(url) }))
)

const program = Effect.gen(function* () {
  const tasks = yield* TaskStore.TaskStore
  const work = Effect.gen(function* () {
    const { task } = yield* tasks.create({ ownerId, requestMethod: "tools/call" })
    writeSync(1, `created ${task.taskId}\n`)
    yield* tasks.completeWithResult({ ownerId, taskId: task.taskId }, { status: "completed", result: task.taskId })
    writeSync(1, `completed ${task.taskId}\n`)
  })
  yield* Effect.replicateEffect(Effect.forever(work), 4, { concurrency: "unbounded" })
})

Effect.runFork(Effect.provide(program, layer))
