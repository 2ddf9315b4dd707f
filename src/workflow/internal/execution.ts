/** What this process knows of an execution that it runs, or has just run. */
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import type * as Workflow from "effect/workflow/Workflow"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import type { VersionedRecord, Write } from "../../StorageBackend.ts"
import type { CapacityExceeded } from "../../StorageError.ts"
import { ids } from "./names.ts"
import * as Stored from "./stored.ts"

/** A workflow that this process can run. */
export interface Registered {
  readonly workflow: Workflow.Any
  readonly execute: (
    payload: object,
    executionId: string
  ) => Effect.Effect<unknown, unknown, WorkflowEngine.WorkflowInstance | WorkflowEngine.WorkflowEngine>
  /** What the schemas need. */
  readonly services: Context.Context<never>
}

/** Who asks for a run: a person does so explicitly, and what happens to the execution automatically. */
export type WakeMode = "explicit" | "automatic"

/** Why this process has stopped to run an execution: others have it, or the workflow's Layer closes. */
export type End = "Lost" | "Stopped"

/** What became of a step: its record, or that there is one already, or that the run is another worker's. */
export type Written = VersionedRecord | "Refused" | "Lost"

/** A step that is to be written. */
export interface PendingStep {
  readonly step: Write
  readonly written: Deferred.Deferred<Written, CapacityExceeded>
}

export interface Execution {
  readonly id: string
  readonly of: Registered
  readonly stored: Stored.Execution
  /** The worker whose mark it has. */
  readonly held: Stored.Worker
  /** The steps that have landed, as far as this process knows. */
  readonly steps: Map<string, VersionedRecord>
  /** The run's record as this process wrote it. A write that finds another one changes nothing. */
  run: VersionedRecord
  state: Stored.Run
  inbox: VersionedRecord | undefined
  resumes: number
  interrupted: boolean
  interruptedUnsafe: boolean
  /** The steps that are to be written, and whether a commit is under way. */
  readonly pending: Array<PendingStep>
  isWriting: boolean
  /** The strongest wake that came while it ran. */
  again: WakeMode | undefined
  end: End | undefined
  /** The scopes of its runs. Those of runs that were suspended stay open, as in Effect's engines. */
  readonly scope: Scope.Closeable
  readonly instances: Set<WorkflowEngine.WorkflowInstance["Service"]>
  instance: WorkflowEngine.WorkflowInstance["Service"]
  /** The sleeps whose entries this process has put. */
  readonly sleeps: Set<string>
  /** Whether the workflow's body has ended in this run, and its finalizers are at work. */
  isEnding: boolean
  /** Whether it has run before, here or elsewhere. */
  isReplay: boolean
  /** The deferreds that this run has found not to be completed. Only their completions interrupt it. */
  readonly missed: Set<string>
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  /** What the runs of this taking come to. */
  settled: Deferred.Deferred<Workflow.Result<unknown, unknown>>
  /** Since when it is suspended here, in monotonic milliseconds. Undefined while it runs. */
  idleSinceMillis: number | undefined
}

export const makeExecution = (
  parts: Pick<Execution, "id" | "of" | "stored" | "held" | "run" | "state" | "inbox" | "resumes" | "isReplay">
): Execution => {
  const scope = Scope.makeUnsafe()
  return {
    ...parts,
    steps: new Map(),
    interrupted: false,
    interruptedUnsafe: false,
    pending: [],
    isWriting: false,
    again: undefined,
    end: undefined,
    scope,
    instances: new Set(),
    instance: WorkflowEngine.WorkflowInstance.initial(parts.of.workflow, parts.id, { scope }),
    isEnding: false,
    missed: new Set(),
    sleeps: new Set(),
    fiber: undefined,
    settled: Deferred.makeUnsafe(),
    idleSinceMillis: undefined
  }
}

/** Begins a run: each has a scope of its own, so that a replay makes its compensations anew. */
export const nextInstance = (execution: Execution): WorkflowEngine.WorkflowInstance["Service"] => {
  // What the runs before waited for is kept by their finalizers, for as long as the execution runs.
  execution.instance.awaitedDeferreds.clear()
  execution.instance.completedDeferreds.clear()
  execution.instance = WorkflowEngine.WorkflowInstance.initial(execution.of.workflow, execution.id, {
    scope: Scope.forkUnsafe(execution.scope)
  })
  execution.isReplay ||= execution.instances.size > 0
  execution.instances.add(execution.instance)
  execution.missed.clear()
  execution.isEnding = false
  return execution.instance
}

export const runningIn = (executions: ReadonlyMap<string, Execution>, id: string): Execution | undefined => {
  const execution = executions.get(id)
  return execution !== undefined && isRunning(execution) ? execution : undefined
}

export const isRunning = ({ idleSinceMillis }: Execution): boolean => idleSinceMillis === undefined

/** Remembers a step. An interruption that was stored counts from then on. */
export const addStep = (execution: Execution, step: VersionedRecord): void => {
  execution.steps.set(step.key.id, step)
  if (step.key.id !== ids.interrupt) return
  execution.interrupted = true
  execution.interruptedUnsafe ||= Stored.interrupt.decode(step).unsafe
}

/** Asks for one more run after this one. A wake that is explicit counts for more. */
export const wakeAgain = (execution: Execution, mode: WakeMode): void => {
  execution.again = mode === "explicit" ? mode : (execution.again ?? mode)
}

/** Stops to run an execution here. The finalizers of its workflow do not run, since it goes on elsewhere. */
export const end = (execution: Execution, why: End): void => {
  execution.end ??= why
  for (const instance of execution.instances) instance.abandoned = true
  execution.fiber?.interruptUnsafe()
}
