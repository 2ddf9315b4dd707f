/** A long-running operation as a task: a worker works on it, and a client sees how far it is and how it ends. */
import { Console, Effect, Layer, Schedule, Stream } from "effect"
import { InMemory, TaskStore } from "effect-versioned-store"

const text = "no update is ever lost"

/** Counts words. All that it knows is in the task, so if this process dies, a worker in another one can go on. */
const work = Effect.fnUntraced(function* (key: TaskStore.TaskKey) {
  const tasks = yield* TaskStore.TaskStore
  const { variables } = yield* tasks.get(key)
  const words = String(variables.text).split(" ")
  for (let counted = Number(variables.counted ?? 0); counted < words.length; counted++) {
    yield* Effect.sleep("50 millis") // the work
    yield* tasks.setVariables(key, { counted: counted + 1 })
  }
  yield* tasks.completeWithResult(key, { status: "completed", result: { words: words.length } })
})

const client = Effect.gen(function* () {
  const tasks = yield* TaskStore.TaskStore
  const { task } = yield* tasks.create({
    ownerId: "alice",
    requestMethod: "tools/call",
    variables: { text },
    ttl: "10 minutes"
  })
  const key = { ownerId: "alice", taskId: task.taskId }
  yield* Effect.forkChild(work(key)) // in an application, this is a process of its own
  yield* tasks
    .changes(key, { schedule: Schedule.spaced("10 millis") })
    .pipe(Stream.runForEach(({ task, variables }) => Console.log(`${task.status}: ${variables.counted ?? 0} words`)))
  yield* Console.log("result:", yield* tasks.getResult(key))
})

await Effect.runPromise(client.pipe(Effect.provide(TaskStore.layer.pipe(Layer.provide(InMemory.layer)))))
