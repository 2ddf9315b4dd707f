/**
 * A queue of jobs that outlive the processes which work on them. Producers enqueue a job once, by its id. Workers of
 * any number of processes claim jobs. If one dies, its claim expires, and another worker takes the job.
 */
import { Cause, Context, Effect, Exit, Layer, Option, Ref, Schema, Stream } from "effect"
import { Task, TaskStore, VersionedStore } from "effect-versioned-store"

/** What a worker does for a job, by the job's name. It may run more than once, and fails with a message. */
export type Handlers = Readonly<Record<string, (input: unknown) => Effect.Effect<Schema.Json, string>>>

// --- claims -------------------------------------------------------------------

/** How long a claim stands without its worker. */
const ttl = "30 seconds"

/** Claims of jobs. They have an owner of their own, since a queue's tasks are all the records of its owner. */
const makeClaims = Effect.map(VersionedStore.make({ idPrefix: "claim/", schema: Schema.String }), (claims) => ({
  /** Works on a job while no other worker does. If the claim is lost, the work is interrupted. */
  whileClaimed: <E>(job: TaskStore.TaskKey, worker: string, work: Effect.Effect<void, E>) =>
    Effect.acquireUseRelease(
      Effect.flatMap(claims.create({ owner: `claims of ${job.ownerId}`, id: job.taskId }, worker, { ttl }), Ref.make),
      (held) => {
        const renew = Ref.get(held).pipe(
          Effect.flatMap((claim) => claims.setIfVersion(claim, worker, { ttl })),
          Effect.flatMap((claim) => Ref.set(held, claim)),
          Effect.delay("10 seconds"),
          Effect.forever
        )
        return Effect.raceFirst(work, renew)
      },
      (held) => Effect.ignore(Effect.flatMap(Ref.get(held), claims.removeIfVersion))
    )
}))

// --- jobs ---------------------------------------------------------------------

const maxAttempts = 3

/** Runs a job, and ends its task. After a failure the task stays open for another attempt, up to a limit. */
const run = Effect.fnUntraced(function* (
  tasks: TaskStore.TaskStore["Service"],
  job: TaskStore.TaskKey,
  handlers: Handlers
) {
  const record = yield* tasks.get(job)
  // Another worker may have ended the task before it gave up its claim.
  if (record.task.status !== "working") return
  const { arguments: input, name = "" } = Task.request(record) ?? {}
  const attempt = Number(record.variables.attempt ?? 0) + 1
  yield* tasks.setVariables(job, { attempt })
  const handler = handlers[name] ?? (() => Effect.fail(`There is no handler for ${name}`))
  const exit = yield* Effect.exit(handler(input))
  if (Exit.isSuccess(exit)) {
    yield* tasks.completeWithResult(job, { status: "completed", result: exit.value })
  } else {
    const message = Option.getOrElse(Exit.findErrorOption(exit), () => Cause.pretty(exit.cause))
    yield* attempt < maxAttempts
      ? tasks.setStatusMessage(job, message)
      : tasks.fail(job, { code: -32_000, message }, message)
  }
})

export class Jobs extends Context.Service<Jobs>()("Jobs", {
  make: Effect.gen(function* () {
    const tasks = yield* TaskStore.TaskStore
    const { whileClaimed } = yield* makeClaims

    /** Enqueues a job. If the queue has had a job with this id, nothing happens. */
    const enqueue = (queue: string, id: string, request: Task.Request) =>
      tasks
        .create({ ownerId: queue, requestMethod: "jobs/run", id, request })
        .pipe(Effect.catchTag("TaskAlreadyExists", () => tasks.get({ ownerId: queue, taskId: id })))

    /** The jobs of a status, newest first. */
    const list = (queue: string, status: Task.Status) =>
      Stream.paginate(undefined as string | undefined, (cursor) =>
        Effect.map(tasks.list({ ownerId: queue, status, cursor }), (page) => [
          page.tasks,
          Option.fromUndefinedOr(page.cursor)
        ])
      )

    /** Works on the open jobs of a queue that nobody has claimed, four at a time, and ends when it has seen all. */
    const work = (queue: string, worker: string, handlers: Handlers) =>
      list(queue, "working").pipe(
        Stream.mapEffect(
          ({ task: { taskId } }) => {
            const job = { ownerId: queue, taskId }
            const skip = () => Effect.logDebug(`${taskId} is another worker's`)
            return Effect.catchTags(whileClaimed(job, worker, run(tasks, job, handlers)), {
              AlreadyExists: skip, // another worker has claimed the job
              RecordNotFound: skip, // the claim has expired
              VersionConflict: skip, // the claim has expired, and another worker has claimed the job
              InvalidTransition: skip // another worker or a client has ended the job
            })
          },
          { concurrency: 4 }
        ),
        Stream.runDrain
      )

    return { enqueue, list, work }
  })
}) {
  /** On any backend. A queue has at most 10,000 open jobs. Jobs that have ended are kept until a day has passed. */
  static readonly layer = Layer.effect(this, this.make).pipe(
    Layer.provide(
      TaskStore.layerWith({ maxTasksPerOwner: 10_000, countTerminal: false, defaultTtl: "1 day", maxTtl: "1 day" })
    )
  )
}
