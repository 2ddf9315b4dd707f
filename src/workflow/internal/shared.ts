import type * as Clock from "effect/Clock"
import type * as Effect from "effect/Effect"
import type * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import type { StorageBackend } from "../../StorageBackend.ts"
import type { Agenda } from "./agenda.ts"
import type { Execution, Registered } from "./execution.ts"
import type { Names } from "./names.ts"
import type { Records } from "./records.ts"
import type { Worker } from "./worker.ts"

/** What the parts of one engine share. */
export interface Shared {
  readonly backend: StorageBackend["Service"]
  readonly names: Names
  readonly records: Records
  readonly agenda: Agenda
  readonly worker: Worker
  readonly clock: Clock.Clock
  readonly leaseMillis: number
  readonly retentionMillis: number
  /** The workflows that this process can run, by their tags. */
  readonly registered: Map<string, Registered>
  /** The executions that this process runs, or ran a short time ago. */
  readonly executions: Map<string, Execution>
  /** Changes of one execution happen one after the other. */
  readonly lock: <A, E, R>(executionId: string, effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  readonly deferredState: WorkflowEngine.DeferredState
  /** Runs an effect beside its caller, for as long as the engine lives. */
  readonly fork: (effect: Effect.Effect<unknown>) => void
}
