/** What the cases of workflows are made of: a workflow of one's own, and ways to wait for what becomes of it. */
import { Cause, Context, Effect, Exit, Layer, Option, Schedule, Schema, type Scope } from "effect"
import { Activity, DurableDeferred, Workflow, type WorkflowEngine } from "effect/workflow"

/** A case that holds on each engine. It has a workflow of its own, so that cases can share an engine. */
export interface Case {
  readonly name: string
  readonly run: Effect.Effect<void, unknown, WorkflowEngine.WorkflowEngine | Scope.Scope>
}

export const test = (name: string, run: Case["run"]): Case => ({ name, run })

const payload = { id: Schema.String }

export const newWorkflow = (annotations: Context.Context<never> = Context.empty()) =>
  Workflow.make(`case-${crypto.randomUUID()}`, {
    payload,
    success: Schema.String,
    error: Schema.String,
    idempotencyKey: ({ id }) => id,
    annotations
  })

export type TestWorkflow = ReturnType<typeof newWorkflow>

/** What the body of a workflow may use. */
export type InRun = WorkflowEngine.WorkflowEngine | WorkflowEngine.WorkflowInstance | Scope.Scope

type Body = (payload: { readonly id: string }, executionId: string) => Effect.Effect<string, string, InRun>

/** Registers a workflow until the case ends. */
export const register = (workflow: TestWorkflow, body: Body) => Effect.asVoid(Layer.build(workflow.toLayer(body)))

/** A new workflow with a body, registered until the case ends. */
export const define = (body: Body, annotations?: Context.Context<never>) =>
  Effect.suspend(() => {
    const workflow = newWorkflow(annotations)
    return Effect.as(register(workflow, body), workflow)
  })

/** Starts an execution, and returns its id. */
export const start = (workflow: TestWorkflow, id = "1") => workflow.execute({ id }, { discard: true })

/** An activity that notes each time it runs, and answers its name if nothing else is said. */
export const step = (
  notes: Array<string>,
  name: string,
  result: Effect.Effect<string, string, InRun> = Effect.succeed(name)
) =>
  Activity.make({
    name,
    success: Schema.String,
    error: Schema.String,
    execute: Effect.suspend(() => {
      notes.push(name)
      return result
    })
  })

/** What a workflow waits for: something that is said from outside, under a name. */
export const word = (name: string) => DurableDeferred.make(name, { success: Schema.String, error: Schema.String })

/** Says the word that an execution waits for. */
export const say = (workflow: TestWorkflow, executionId: string, name: string, value = name) =>
  sayExit(workflow, executionId, name, Exit.succeed(value))

export const sayExit = (workflow: TestWorkflow, executionId: string, name: string, exit: Exit.Exit<string, string>) =>
  DurableDeferred.done(word(name), {
    token: DurableDeferred.tokenFromExecutionId(word(name), { workflow, executionId }),
    exit
  })

/** Asks again until the answer is the one waited for. If it never comes, the case's time-out ends it. */
export const eventually = <A, E, R>(effect: Effect.Effect<A, E, R>, isIt: (answer: A) => boolean) =>
  Effect.repeat(effect, { until: isIt, schedule: Schedule.spaced("2 millis") })

/** Waits until something is so in this process. */
export const untilTrue = (isIt: () => boolean) => eventually(Effect.sync(isIt), (answer) => answer)

/** Waits until an execution is suspended, and returns how. */
export const suspended = (workflow: TestWorkflow, executionId: string) =>
  Effect.flatMap(
    eventually(workflow.poll(executionId), (result) => Option.isSome(result) && result.value._tag === "Suspended"),
    (result) =>
      Option.isSome(result) && result.value._tag === "Suspended" ? Effect.succeed(result.value) : Effect.never
  )

/** Waits until an execution has ended, and returns its exit as a text. */
export const ended = (workflow: TestWorkflow, executionId: string) =>
  Effect.map(
    eventually(workflow.poll(executionId), (result) => Option.isSome(result) && result.value._tag === "Complete"),
    shownResult
  )

/** The end of an execution that is awaited by its caller, as a text. */
export const outcome = (workflow: TestWorkflow, id = "1") => Effect.map(Effect.exit(workflow.execute({ id })), shown)

/** What poll answers, as a text. */
export const polled = (workflow: TestWorkflow, executionId: string) =>
  Effect.map(workflow.poll(executionId), shownResult)

export const shownResult = (result: Option.Option<Workflow.Result<unknown, unknown>>): string => {
  if (Option.isNone(result)) return "none"
  return result.value._tag === "Complete" ? shown(result.value.exit) : "suspended"
}

/** An exit as a text. A defect is its message; who interrupted is left out, since it differs between engines. */
export const shown = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit) ? `succeeded with ${String(exit.value)}` : shownCause(exit.cause)

export const shownCause = (cause: Cause.Cause<unknown>): string =>
  cause.reasons
    .map((reason) => {
      if (Cause.isFailReason(reason)) return `failed with ${String(reason.error)}`
      if (Cause.isDieReason(reason)) {
        return `died of ${reason.defect instanceof Error ? reason.defect.message : String(reason.defect)}`
      }
      return "interrupted"
    })
    .join(", ")

export const captureNoDefects = Context.make(Workflow.CaptureDefects, false)
export const suspendOnFailure = Context.make(Workflow.SuspendOnFailure, true)
