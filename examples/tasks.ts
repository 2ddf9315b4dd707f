/**
 * A client and three workers of tasks, in processes of their own that share only the storage.
 *
 * The first task counts, and asks for a name in the middle. Its worker is killed while the task waits. The client
 * answers while no worker runs. Another worker continues the task from its stored state. A second task is cancelled
 * while its worker works on it.
 */
import { styleText } from "node:util"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, Fiber, Layer, Schedule, Stream } from "effect"
import { CliError, Command, Flag } from "effect/cli"
import { Task, TaskStore } from "effect-versioned-store"
import { asUserError, backendFlags, flagsOf, layerBackend, placeOf, share } from "./backends.ts"
import { boundProcess } from "./server.ts"

const often = { schedule: Schedule.spaced("50 millis") }

// --- the worker ---------------------------------------------------------------

/** Works on a task. The whole state is in the task, so any worker can continue a task that another worker has begun. */
const work = Effect.fnUntraced(function* (key: TaskStore.TaskKey) {
  const tasks = yield* TaskStore.TaskStore
  let record = yield* tasks.get(key)
  if (record.variables.step !== undefined) {
    const answer = record.inputResponses?.name === undefined ? "" : `, and the answer "${record.inputResponses.name}"`
    yield* Console.log(`finds the task after step ${record.variables.step}${answer}`)
  }
  while (record.task.status === "working") {
    const { asksAfter, steps } = record.variables
    const step = Number(record.variables.step ?? 0)
    const name = record.inputResponses?.name
    if (step === asksAfter && name === undefined) {
      const message = "Whom shall I greet?"
      yield* Console.log(`asks "${message}", so the task waits for an answer`)
      record = yield* tasks.recordInputRequests(key, { name: { method: "elicitation/create", params: { message } } })
    } else if (step < Number(steps)) {
      yield* Effect.sleep("100 millis")
      record = yield* tasks.setVariables(key, { step: step + 1 })
      if (record.task.status === "working") yield* Console.log(`step ${step + 1} of ${steps}`)
    } else {
      const result = { content: [{ type: "text", text: `Hello ${name}` }] }
      record = yield* tasks.completeWithResult(key, { status: "completed", result })
    }
  }
  const { status } = record.task
  if (Task.isTerminal(status)) yield* Console.log(`stops, since the task is ${status}`)
  return Task.isTerminal(status)
})

const worker = Command.make(
  "worker",
  { owner: Flag.String("owner").pipe(Flag.withDescription("The owner of the tasks")), ...backendFlags },
  ({ owner: ownerId, ...choice }) =>
    Effect.gen(function* () {
      const tasks = yield* TaskStore.TaskStore
      const open = (yield* tasks.list({ ownerId })).tasks.find(({ task }) => task.status === "working")
      return open !== undefined && (yield* work({ ownerId, taskId: open.task.taskId }))
    }).pipe(
      // If the task has ended or changed meanwhile, it looks at the task again.
      Effect.catchTag("InvalidTransition", () => Effect.succeed(false)),
      Effect.repeat({ ...often, until: (hasEnded) => hasEnded }),
      Effect.provide(TaskStore.layer.pipe(Layer.provide(layerBackend(choice)))),
      asUserError("shared")
    )
).pipe(Command.withDescription("Works on the tasks of an owner until one has ended"))

// --- the client ---------------------------------------------------------------

const colors = { client: "cyan", "worker 1": "yellow", "worker 2": "green", "worker 3": "magenta" } as const

const say = (who: keyof typeof colors, what: string) =>
  Console.log(`  ${styleText(["bold", colors[who]], who.padEnd(8))}  ${what}`)

/** Starts a worker, and prints its output. */
const startWorker = Effect.fnUntraced(function* (name: keyof typeof colors, flags: ReadonlyArray<string>) {
  const handle = yield* boundProcess([process.execPath, import.meta.filename, "worker", ...flags], {
    stderr: "inherit"
  })
  const output = yield* handle.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((line) => say(name, line.startsWith("step") ? styleText("dim", line) : line)),
    Effect.forkScoped
  )
  const ended = Effect.andThen(Fiber.join(output), handle.exitCode)
  const failed = Effect.flatMap(ended, (code) =>
    code === 0 ? Effect.never : new CliError.UserError({ cause: `The process of ${name} has ended with code ${code}` })
  )
  return {
    ended,
    kill: Effect.andThen(handle.kill({ killSignal: "SIGKILL" }), Fiber.join(output)),
    /** Waits for something that the worker should do, and no longer than the worker runs. */
    until: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.raceFirst(effect, failed)
  }
})

/** Waits until the state of a task fulfils a condition. */
const awaitState = Effect.fnUntraced(function* (
  key: TaskStore.TaskKey,
  condition: (record: Task.TaskRecord) => boolean
) {
  const tasks = yield* TaskStore.TaskStore
  return yield* Stream.runDrain(tasks.changes(key, often).pipe(Stream.takeUntil(condition)))
})

const client = Effect.fnUntraced(function* (ownerId: string, flags: ReadonlyArray<string>) {
  const tasks = yield* TaskStore.TaskStore
  const create = (variables: Readonly<Record<string, number>>) =>
    Effect.map(
      tasks.create({ ownerId, requestMethod: "tools/call", ttl: "10 minutes", variables }),
      ({ task: { taskId } }) => ({ ownerId, taskId })
    )

  yield* say("client", "creates a task: greet somebody, in six steps")
  const greeting = yield* create({ steps: 6, asksAfter: 3 })
  const first = yield* startWorker("worker 1", flags)
  yield* first.until(awaitState(greeting, ({ task }) => task.status === "input_required"))
  yield* first.kill
  yield* say("client", styleText("red", "kills worker 1 with SIGKILL"))
  yield* tasks.deliverInputs(greeting, { name: "Luca" })
  yield* say("client", 'answers "Luca" while no worker runs')
  const second = yield* startWorker("worker 2", flags)
  yield* second.until(tasks.awaitTerminal(greeting, often))
  yield* second.ended
  yield* say("client", `gets the result: ${JSON.stringify(yield* tasks.getResult(greeting))}\n`)

  yield* say("client", "creates another task, in a hundred steps")
  const unwanted = yield* create({ steps: 100 })
  const third = yield* startWorker("worker 3", flags)
  yield* third.until(awaitState(unwanted, ({ variables }) => Number(variables.step) >= 2))
  yield* tasks.cancel(unwanted, "not wanted any more")
  yield* say("client", styleText("red", "cancels the task while worker 3 works on it"))
  yield* third.ended
  const states = (yield* tasks.list({ ownerId })).tasks.map(({ task }) => task.status)
  yield* say("client", `lists its tasks, newest first: ${states.join(", ")}\n`)
})

// --- the command --------------------------------------------------------------

const command = Command.make("tasks", backendFlags, (flags) =>
  Effect.gen(function* () {
    const choice = yield* share(flags)
    yield* Console.log(
      `\nA client and three workers. Each is a process of its own.\nThey share only ${placeOf(choice)}.\n`
    )
    const ownerId = `client-${crypto.randomUUID()}`
    yield* client(ownerId, ["--owner", ownerId, ...flagsOf(choice)]).pipe(
      Effect.provide(TaskStore.layer.pipe(Layer.provide(layerBackend(choice))))
    )
    yield* Console.log(
      "All that is known of a task is one record, and each change of it is a compare-and-set.\n" +
        "So a worker may die at any moment, and another one goes on where it was."
    )
  }).pipe(
    Effect.scoped,
    Effect.onInterrupt(() => Console.log("\nStopped, and the workers as well.")),
    asUserError("shared")
  )
).pipe(
  Command.withDescription("Runs two tasks with a client and workers that are killed on the way"),
  Command.withSubcommands([worker])
)

Command.run(command, { version: "0.1.0" }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
