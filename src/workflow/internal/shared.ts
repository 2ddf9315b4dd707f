import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import type { StorageBackend } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import type { StorageKey } from "../../StorageKey.ts"
import type { Agenda } from "./agenda.ts"
import { type Execution, type Registered, runningIn } from "./execution.ts"
import type { Names } from "./names.ts"
import { RecordTooLarge } from "./RecordTooLarge.ts"
import { isTooLarge, type Records } from "./records.ts"
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
  readonly fork: (effect: Effect.Effect<unknown>) => unknown
  /** Runs an effect that goes on if its caller is interrupted: what it has begun in the storage, it must end. */
  readonly apart: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
  /** Has the part of the agenda in which an entry is looked at again at a time at the latest. */
  readonly lookBy: (entry: StorageKey, atMillis: number) => void
  /** Repeats until there is an answer. If a run's writes get none, its worker loses its lease. */
  readonly untilAnswered: Schedule.Schedule<unknown>
}

/**
 * A request of an operation. If a run makes it, it is repeated until there is an answer. Otherwise a failure of the
 * storage is a defect, since Effect's engine has no error channel for it.
 */
export const answered =
  ({ executions, records }: Pick<Shared, "executions" | "records">, workflow: string, executionId: string, part = "") =>
  <A>(request: Effect.Effect<A, Backend | CapacityExceeded>): Effect.Effect<A> =>
    Effect.serviceOption(WorkflowEngine.WorkflowInstance).pipe(
      Effect.flatMap((caller) => {
        const execution = Option.isNone(caller) ? undefined : runningIn(executions, caller.value.executionId)
        return execution === undefined ? request : records.insist(execution, request)
      }),
      Effect.catch((error) =>
        Effect.die(isTooLarge(error) ? RecordTooLarge.of(workflow, executionId, part, error) : error)
      )
    )
