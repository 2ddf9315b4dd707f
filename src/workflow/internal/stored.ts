/** The records of workflows, as they are stored: each is JSON. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schema from "effect/Schema"
import * as Workflow from "effect/workflow/Workflow"
import { RecordTooLarge } from "./RecordTooLarge.ts"

/** What was started. */
const Execution = Schema.Struct({
  workflow: Schema.String,
  payload: Schema.Unknown,
  parent: Schema.optionalKey(Schema.Struct({ workflow: Schema.String, executionId: Schema.String }))
})
export type Execution = typeof Execution.Type

/** The process that runs an execution: the lease that it holds, by its number and its token. */
export const Worker = Schema.Struct({ slot: Schema.Int, token: Schema.Int })
export type Worker = typeof Worker.Type

const Run = Schema.Struct({
  /**
   * `ready` waits for a worker, and `suspended` for something that happens. `died` ended by a defect that is not a
   * result: a wake begins another run.
   */
  state: Schema.Literals(["ready", "running", "suspended", "complete", "died"]),
  /** Each worker that takes the execution raises it. */
  epoch: Schema.Int,
  worker: Schema.optionalKey(Worker),
  /** The versions of the inbox and of the resumes that the last run knew of. */
  inbox: Schema.Int,
  resumes: Schema.Int,
  /** Whether the last run was suspended by a failure, so that only a resume or an interruption begins another one. */
  failed: Schema.Boolean,
  /** When it was completed. */
  endedMillis: Schema.optionalKey(Schema.Finite),
  /** What the last run came to: the exit of a `Workflow.Result`. */
  outcome: Schema.optionalKey(Schema.Unknown)
})
export type Run = typeof Run.Type

/** Whether nothing runs or waits any more. */
export const isOver = ({ state }: Run): boolean => state === "complete" || state === "died"

/** A thing to do: at once, or at a time. */
const Entry = Schema.Struct({
  executionId: Schema.String,
  workflow: Schema.String,
  what: Schema.String,
  atMillis: Schema.optionalKey(Schema.Finite),
  /** The worker that keeps the time. Others leave the entry to it for as long as it lives. */
  worker: Schema.optionalKey(Worker)
})
export type Entry = typeof Entry.Type

const Clock = Schema.Struct({ atMillis: Schema.Finite })
const Interrupt = Schema.Struct({ unsafe: Schema.Boolean })

const Step = Schema.Struct({
  exit: Schema.optionalKey(Schema.Unknown),
  tooLarge: Schema.optionalKey(RecordTooLarge)
})

/** Records that do not decode were written by another program, or by a later version of this one. */
const json = <A>(schema: Schema.Codec<A, unknown>) => {
  const codec = Schema.fromJsonString(Schema.toCodecJson(schema))
  const [decode, encode, decodeOption] = [
    Schema.decodeSync(codec),
    Schema.encodeSync(codec),
    Schema.decodeOption(codec)
  ]
  return {
    decode: (record: { readonly data: string }) => decode(record.data),
    decodeOption: (record: { readonly data: string }) => decodeOption(record.data),
    encode
  }
}

export const execution = json(Execution)
export const run = json(Run)
export const entry = json(Entry)
export const clock = json(Clock)
export const interrupt = json(Interrupt)
const step = json(Step)

// -----------------------------------------------------------------------------

const AnyOrVoid = Schema.Union([Schema.Undefined, Schema.Any])

/** Successes and errors come encoded. Defects of an activity do not, and those of a deferred do. */
const activityExit = Schema.toCodecJson(Schema.Exit(AnyOrVoid, AnyOrVoid, Schema.Defect()))
const deferredExit = Schema.toCodecJson(Schema.Exit(AnyOrVoid, AnyOrVoid, Schema.Any))

type StepExit = Exit.Exit<unknown, unknown>

const stepOf = (codec: Schema.Codec<StepExit, unknown>) => {
  const [encodeExit, decodeExit] = [Schema.encodeSync(codec), Schema.decodeUnknownSync(codec)]
  return {
    encode: (exit: StepExit): string => step.encode({ exit: encodeExit(exit) }),
    decode: (record: { readonly data: string }): StepExit => {
      const { exit, tooLarge } = step.decode(record)
      return tooLarge === undefined ? decodeExit(exit) : Exit.die(tooLarge)
    }
  }
}

export const activity = stepOf(activityExit)
export const deferred = stepOf(deferredExit)
export const tooLarge = (error: RecordTooLarge): string => step.encode({ tooLarge: error })

// -----------------------------------------------------------------------------

export type Outcome = Exit.Exit<Workflow.Result<unknown, unknown>>

/** Making the codecs of a workflow costs more than to use them. */
const codecsOf = (workflow: Workflow.Any) => {
  const known = codecs.get(workflow)
  if (known !== undefined) return known
  const result = Workflow.Result({ success: workflow.successSchema, error: workflow.errorSchema })
  const outcome = Schema.toCodecJson(Schema.Exit(result, Schema.Never, Schema.Defect()))
  const payload = Schema.toCodecJson(workflow.payloadSchema)
  const made = {
    // What the schemas need is the caller's, as in Effect's own engines.
    outcome: coder(outcome as unknown as Schema.Codec<Outcome, unknown>),
    payload: coder(payload as unknown as Schema.Codec<object, unknown>)
  }
  codecs.set(workflow, made)
  return made
}

const coder = <A>(codec: Schema.Codec<A, unknown>) => ({
  encode: Schema.encodeEffect(codec),
  decode: Schema.decodeUnknownEffect(codec)
})

const codecs = new WeakMap<
  Workflow.Any,
  {
    readonly outcome: ReturnType<typeof coder<Outcome>>
    readonly payload: ReturnType<typeof coder<object>>
  }
>()

export const encodeOutcome = (workflow: Workflow.Any, outcome: Outcome) => codecsOf(workflow).outcome.encode(outcome)

export const decodeOutcome = (workflow: Workflow.Any, encoded: unknown): Effect.Effect<Outcome> =>
  Effect.orDie(codecsOf(workflow).outcome.decode(encoded))

export const encodePayload = (workflow: Workflow.Any, payload: object): Effect.Effect<unknown> =>
  Effect.orDie(codecsOf(workflow).payload.encode(payload))

export const decodePayload = (workflow: Workflow.Any, payload: unknown): Effect.Effect<object> =>
  Effect.orDie(codecsOf(workflow).payload.decode(payload))
