/**
 * What Effect's own engine of workflows does, as cases that run unchanged on any Layer of `WorkflowEngine`.
 *
 * | file | what is promised |
 * | --- | --- |
 * | `executions.ts` | an execution runs once by its key, and its end is kept |
 * | `activities.ts` | an activity that ended is not run again |
 * | `clocks.ts` | sleeps outlast the run |
 * | `deferreds.ts` | what is completed from anywhere wakes who waits for it, once and for all |
 * | `children.ts` | a workflow within a workflow |
 * | `compensation.ts` | what is undone if a workflow fails, and what is released when it ends |
 * | `interruption.ts` | a workflow that is told to stop |
 * | `suspension.ts` | a workflow that waits after a failure, and what `poll` and `resume` do |
 * | `queue.ts` | Effect's `DurableQueue`, which stands on the engine |
 */
import { layer } from "@effect/vitest"
import type { Layer } from "effect"
import type { WorkflowEngine } from "effect/workflow"
import { activityCases } from "./cases/activities.ts"
import { childCases } from "./cases/children.ts"
import { clockCases } from "./cases/clocks.ts"
import { compensationCases } from "./cases/compensation.ts"
import { deferredCases } from "./cases/deferreds.ts"
import { executionCases } from "./cases/executions.ts"
import { interruptionCases } from "./cases/interruption.ts"
import { queueCases } from "./cases/queue.ts"
import { suspensionCases } from "./cases/suspension.ts"

export const cases = [
  executionCases,
  activityCases,
  clockCases,
  deferredCases,
  childCases,
  compensationCases,
  interruptionCases,
  suspensionCases,
  queueCases
].flat()

/** Runs the cases on an engine that they share. */
export const runCases = (name: string, engine: Layer.Layer<WorkflowEngine.WorkflowEngine, unknown>) =>
  layer(engine, { excludeTestServices: true, timeout: "60 seconds" })(name, (it) => {
    for (const { name, run } of cases) it.effect(name, () => run, { timeout: 30_000 })
  })
