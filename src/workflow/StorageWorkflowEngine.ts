/**
 * Effect's `WorkflowEngine` on any backend. Workflows of `effect/workflow` run on it unchanged, and survive the
 * processes that run them.
 */
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import { toMillis } from "../internal/time.ts"
import { StorageBackend } from "../StorageBackend.ts"
import * as StorageKey from "../StorageKey.ts"
import { makeEngine } from "./internal/engine.ts"

export { RecordTooLarge } from "./internal/RecordTooLarge.ts"

/**
 * The owner of the workflows' records, and the times of their workers.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The owner of the records. Each execution has an owner of its own below it, `<owner>/executions/<execution id>`. */
  readonly owner: string
  /**
   * How long after its last sign of life a process is taken for dead, and its executions go on elsewhere; 15 seconds by
   * default. A process gives a sign of life every third of that time.
   */
  readonly leaseTtl?: Duration.Input | undefined
  /** How often a process looks for work that it hears nothing of; 2 seconds by default. */
  readonly pollInterval?: Duration.Input | undefined
  /**
   * How many executions that it finds a process runs at once, besides those that it starts itself; 100 by default. The
   * others are left to other processes, or wait.
   */
  readonly concurrency?: number | undefined
  /** For how long a finished execution is kept, with its result and all its records; 7 days by default. */
  readonly retention?: Duration.Input | undefined
}

/** The longest owner leaves room for an execution's id. */
const maxOwnerBytes = StorageKey.maxOwnerBytes - 512

/**
 * Supplies Effect's `WorkflowEngine`: activities, durable clocks and deferreds, child workflows, compensation,
 * interruption, `SuspendOnFailure`, poll and resume, as `WorkflowEngine.layerMemory` has them, in the records of any
 * backend. Many processes share the work.
 *
 * **Who runs what.** A process that registers a workflow (`toLayer`) is a worker. It runs what it starts itself, and
 * what it finds ready: executions that other processes have started, whose sleep is over, or whose worker has died. A
 * process that registers nothing can start an execution, wait for it, interrupt it, and complete its deferreds.
 *
 * **If a process dies.** Its executions go on in others within twice `leaseTtl`. An activity whose result was stored
 * never runs again. One that was cut off runs again, so what it does elsewhere must be idempotent:
 * `Activity.idempotencyKey` is the same each time. Each write of a run is one commit that checks that the execution is
 * still this worker's. So a process that was stopped and wakes up changes nothing about it: its run is interrupted, and
 * its compensations do not run there.
 *
 * **Closing.** If the Layer or a workflow's registration is closed, its runs are interrupted, and are at once ready for
 * other workers.
 *
 * **Costs.** A workflow of n activities takes n + 5 requests from its start to its end: a mark before and after, the
 * creation, one for each activity, the result, and an entry for its removal, which later takes five. A durable sleep
 * takes eight more: its entry and its clock, a suspension, and what begins the next run. On DynamoDB the creation, the
 * steps and the suspension are transactions of two or three items. Steps that end at the same time share a commit. A
 * process that waits sends four requests each `pollInterval` and each minute, and about seven each `leaseTtl`.
 *
 * **Waiting.** In the same process, what happens to an execution wakes it at once. In others, hints do. On DynamoDB, and
 * on PostgreSQL without its option `hints`, there are none, so the look each `pollInterval` does. A sleep ends when the
 * clock of the process that keeps it says so.
 *
 * Since Effect's engine has no error channel, a failure of the storage is a defect of `execute`, `poll` and so on, with
 * the `Backend` error in it. What a run writes is sent again until there is an answer. What is too large for a record
 * is a {@link RecordTooLarge}. If the owner is invalid, building the Layer fails with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageWorkflowEngine } from "effect-versioned-store"
 * import { Effect, Layer, Schema } from "effect"
 * import { Activity, DurableClock, Workflow } from "effect/workflow"
 *
 * const Greeting = Workflow.make("Greeting", {
 *   payload: { name: Schema.String },
 *   success: Schema.String,
 *   idempotencyKey: ({ name }) => name
 * })
 *
 * const Greetings = Greeting.toLayer(
 *   Effect.fnUntraced(function* ({ name }) {
 *     const text = yield* Activity.make({
 *       name: "write",
 *       success: Schema.String,
 *       execute: Effect.succeed(`Hello, ${name}`)
 *     })
 *     yield* DurableClock.sleep({ name: "wait", duration: "10 millis", inMemoryThreshold: 0 })
 *     return text
 *   })
 * )
 *
 * const layer = Greetings.pipe(
 *   Layer.provideMerge(StorageWorkflowEngine.layer({ owner: "shop" })),
 *   Layer.provide(InMemory.layer)
 * )
 * const text = await Effect.runPromise(Greeting.execute({ name: "Ada" }).pipe(Effect.provide(layer)))
 * assert.strictEqual(text, "Hello, Ada")
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ({
  concurrency = 100,
  leaseTtl = "15 seconds",
  owner,
  pollInterval = "2 seconds",
  retention = "7 days"
}: Options): Layer.Layer<WorkflowEngine.WorkflowEngine, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    WorkflowEngine.WorkflowEngine,
    Effect.gen(function* () {
      const invalid = StorageKey.checkPart("owner", owner, maxOwnerBytes)
      if (invalid !== undefined) return yield* invalid
      return yield* makeEngine({
        owner,
        backend: yield* StorageBackend,
        clock: yield* Clock.Clock,
        concurrency: toConcurrency(concurrency),
        leaseMillis: toFiniteMillis("leaseTtl", leaseTtl),
        pollMillis: toFiniteMillis("pollInterval", pollInterval),
        retentionMillis: toMillis("retention", retention)
      })
    })
  )

const toFiniteMillis = (name: string, input: Duration.Input): number => {
  const millis = toMillis(name, input)
  if (millis > 0 && Number.isFinite(millis)) return millis
  throw new RangeError(`${name} must be a finite duration above zero, such as "5 seconds": it is ${millis} ms`)
}

const toConcurrency = (concurrency: number): number => {
  if (Number.isInteger(concurrency) && concurrency > 0) return concurrency
  throw new RangeError(`concurrency must be an integer of one or more: it is ${String(concurrency)}`)
}
