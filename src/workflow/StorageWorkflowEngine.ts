/**
 * Effect's `WorkflowEngine` on any backend. Workflows of `effect/workflow` run on it unchanged, and survive the processes
 * that run them.
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
  /** How often a process looks for work that it hears nothing of; 1 second by default. */
  readonly pollInterval?: Duration.Input | undefined
  /** For how long a finished execution is kept, with its result and all its records; 7 days by default. */
  readonly retention?: Duration.Input | undefined
}

/** The longest owner leaves room for an execution's id. */
const maxOwnerBytes = StorageKey.maxOwnerBytes - 512

/**
 * Supplies Effect's `WorkflowEngine`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ({
  leaseTtl = "15 seconds",
  owner,
  pollInterval = "1 second",
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
        leaseMillis: Math.max(toMillis("leaseTtl", leaseTtl), 10),
        pollMillis: Math.max(toMillis("pollInterval", pollInterval), 1),
        retentionMillis: toMillis("retention", retention)
      })
    })
  )
