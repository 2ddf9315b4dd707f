import * as Schema from "effect/Schema"

/**
 * What a workflow would store is larger than one record may be. `part` names it, for example `activity charge`,
 * `payload`, `result` or `deferred answer`. Effect's `WorkflowEngine` has no error channel of its own, so this is a
 * defect, at the moment it happens:
 *
 * - of the activity whose result is too large. It is stored as the activity's result, so the activity does not run
 *   again, and `Effect.catchDefect` in the workflow sees it.
 * - of `execute` if the payload is too large, and of `DurableDeferred.done` and the like: nothing is stored then.
 * - of the workflow, as its result, if its own result is too large.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageWorkflowEngine } from "effect-versioned-store"
 * import { Cause, Effect, Exit, Layer, Schema } from "effect"
 * import { Activity, Workflow } from "effect/workflow"
 *
 * const Report = Workflow.make("Report", { payload: { id: Schema.String }, idempotencyKey: ({ id }) => id })
 * const Reports = Report.toLayer(() =>
 *   Activity.make({ name: "render", success: Schema.String, execute: Effect.succeed("x".repeat(500_000)) })
 * )
 *
 * const exit = await Effect.runPromiseExit(
 *   Report.execute({ id: "1" }).pipe(
 *     Effect.provide(Layer.provideMerge(Reports, StorageWorkflowEngine.layer({ owner: "shop" }))),
 *     Effect.provide(InMemory.layer)
 *   )
 * )
 * const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
 * assert.ok(error instanceof Error)
 * assert.match(error.message, /activity render .* takes 5\d+ bytes, and at most 393216 are allowed/)
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class RecordTooLarge extends Schema.TaggedError<RecordTooLarge>("effect-versioned-store/RecordTooLarge")(
  "RecordTooLarge",
  {
    workflow: Schema.String,
    executionId: Schema.String,
    part: Schema.String,
    /** Bytes of UTF-8. */
    limit: Schema.Finite,
    actual: Schema.Finite
  },
  { httpApiStatus: 413 }
) {
  /** @internal */
  static of(
    workflow: string,
    executionId: string,
    part: string,
    { actual, limit }: { readonly actual: number; readonly limit: number }
  ): RecordTooLarge {
    return new RecordTooLarge({ workflow, executionId, part, limit, actual })
  }

  override get message(): string {
    return (
      `The ${this.part} of ${this.workflow} (execution ${this.executionId}) takes ${this.actual} bytes, and at most ` +
      `${this.limit} are allowed: store it elsewhere, and pass on where it is`
    )
  }
}
