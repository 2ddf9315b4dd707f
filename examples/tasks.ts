/**
 * A worker and a client of tasks, in separate processes that share only the storage.
 *
 * The task counts, and asks for a name in the middle. Its worker is killed while the task waits. The client answers
 * while no worker runs. Another worker continues the task from its stored state. A second task is cancelled
 * while its worker works on it.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Fiber, Layer, Schedule, Stream } from "effect"
import { Command, Flag } from "effect/cli"
import { ChildProcess } from "effect/process"
import { Task, TaskStore } from "effect-versioned-store"
import { asUserError, backendFlags, flagsOf, layerBackend, share } from "./backends.ts"

const steps = 6

const often = { schedule: Schedule.spaced("50 millis") }

// --- the worker ---------------------------------------------------------------

/** Works on a task. The whole state is in the task, so any worker can continue a task that another worker has begun. */
const work = Effect.fnUntraced(function* (key: TaskStore.TaskKey) {
  const tasks = yield* TaskStore.TaskStore
  let record = yield* tasks.get(key)
  while (record.task.status === "working") {
    const step = Number(record.variables.step ?? 0)
    const name = record.inputResponses?.name
    if (step === steps / 2 && name === undefined) {
      yield* Console.log("worker: asks for a name")
      record = yield* tasks.recordInputRequests(key, {
        name: { method: "elicitation/create", params: { message: "Whom shall I greet?" } }
      })
    } else if (step < steps) {
      yield* Effect.sleep("100 millis")
      record = yield* tasks.setVariables(key, { step: step + 1 })
      yield* Console.log(`worker: step ${step + 1} of ${steps}`)
    } else {
      const result = { content: [{ type: "text", text: `Hello ${name}` }] }
      record = yield* tasks.completeWithResult(key, { status: "completed", result })
    }
  }
  if (Task.isTerminal(record.task.status)) yield* Console.log(`worker: the task is ${record.task.status}, so it stops`)
})

const worker = Command.make(
  "worker",
  { owner: Flag.String("owner").pipe(Flag.withDescription("The owner of the tasks")), ...backendFlags },
  ({ owner: ownerId, ...choice }) =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const open = (yield* tasks.list({ ownerId })).tasks.filter(({ task }) => task.status === "working")
      yield* Effect.forEach(open, ({ task: { taskId } }) =>
        // Another process was first, and has ended or changed the task.
        Effect.catchTag(work({ ownerId, taskId }), "InvalidTransition", (error) =>
          Console.log(`worker: ${error.message}`)
        )
      )
    }).pipe(
      Effect.repeat(often.schedule),
      Effect.provide(TaskStore.layer.pipe(Layer.provide(layerBackend(choice)))),
      asUserError("shared")
    )
).pipe(Command.withDescription("Works on the tasks of an owner until it is stopped"))

// --- the client ---------------------------------------------------------------

/** Waits until the state of a task fulfils a condition. */
const awaitState = Effect.fnUntraced(function* (
  key: TaskStore.TaskKey,
  condition: (record: Task.TaskRecord) => boolean
) {
  const tasks = yield* TaskStore.TaskStore
  return yield* Stream.runDrain(tasks.changes(key, often).pipe(Stream.takeUntil(condition)))
})

const client = Effect.fnUntraced(function* (ownerId: string, startWorker: ReturnType<typeof workerProcess>) {
  const tasks = yield* TaskStore.TaskStore
  const create = Effect.map(
    tasks.create({ ownerId, requestMethod: "tools/call", ttl: "10 minutes" }),
    ({ task: { taskId } }) => ({ ownerId, taskId })
  )

  const greeting = yield* create
  yield* Console.log(`client: has created task ${greeting.taskId}`)
  const first = yield* startWorker
  yield* awaitState(greeting, ({ task }) => task.status === "input_required")
  yield* first.kill
  yield* Console.log("client: has killed the worker")
  yield* tasks.deliverInputs(greeting, { name: "Luca" })
  yield* Console.log("client: has answered, with no worker there")
  const second = yield* startWorker
  yield* tasks.awaitTerminal(greeting, often)
  yield* Console.log(`client: the result is ${JSON.stringify(yield* tasks.getResult(greeting))}`)
  yield* second.stops

  const unwanted = yield* create
  const third = yield* startWorker
  yield* awaitState(unwanted, ({ variables }) => variables.step === 2)
  yield* tasks.cancel(unwanted, "not wanted any more")
  yield* Console.log("client: has cancelled the second task")
  yield* third.stops
  const states = (yield* tasks.list({ ownerId })).tasks.map(({ task }) => task.status)
  yield* Console.log(`client: the tasks are ${states.join(" and ")}`)
})

/** Starts a worker, and prints its output. `stops` waits until the worker has said that it stops. */
const workerProcess = Effect.fnUntraced(function* (flags: ReadonlyArray<string>) {
  const handle = yield* ChildProcess.make("node", [import.meta.filename, "worker", ...flags], { stderr: "inherit" })
  const output = yield* handle.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.tap((line) => Console.log(line)),
    Stream.takeUntil((line) => line.endsWith("so it stops")),
    Stream.runDrain,
    Effect.forkScoped
  )
  const kill = handle.kill({ killSignal: "SIGKILL" })
  return { kill, stops: Effect.andThen(Fiber.join(output), kill) }
})

// --- the command --------------------------------------------------------------

const command = Command.make("tasks", backendFlags, (flags) =>
  Effect.gen(function* () {
    const choice = yield* share(flags)
    const ownerId = `client-${crypto.randomUUID()}`
    yield* client(ownerId, workerProcess(["--owner", ownerId, ...flagsOf(choice)])).pipe(
      Effect.provide(TaskStore.layer.pipe(Layer.provide(layerBackend(choice))))
    )
  }).pipe(Effect.scoped, asUserError("shared"))
).pipe(
  Command.withDescription("Runs two tasks with a client and workers that are killed on the way"),
  Command.withSubcommands([worker])
)

Command.run(command, { version: "0.1.0" }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
