/** How executions are started, and their results awaited, from any process. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Workflow from "effect/workflow/Workflow"
import type * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import { monotonicMillis } from "../../update/retry.ts"
import { runningIn } from "./execution.ts"
import { ids } from "./names.ts"
import { answered, type Shared } from "./shared.ts"
import * as Stored from "./stored.ts"
import type { Taker } from "./taking.ts"

/** How many executions a process remembers to have been started. */
const maxKnown = 10_000

/** The longest pause between two looks at the result of an execution that runs elsewhere. */
const longestPollMillis = 30_000

type Encoded = WorkflowEngine.Encoded

export const makeStarting = (shared: Shared, taker: Taker, pollMillis: number) => {
  const { backend, clock, executions, lock, names, records, registered, worker } = shared
  const known = new Set<string>()
  const remember = (executionId: string) => {
    if (known.size >= maxKnown) known.delete(known.values().next().value ?? "")
    known.add(executionId)
  }

  const getRun = (executionId: string) =>
    Effect.map(answered(shared, "", executionId)(records.get(executionId, ids.run)), (record) => {
      if (record !== undefined) return Stored.run.decode(record)
      // It may have been removed after its time.
      known.delete(executionId)
    })

  const create = Effect.fnUntraced(function* (
    workflow: Workflow.Any,
    { detached, executionId, parent, payload }: Parameters<Encoded["execute"]>[1]
  ) {
    if (executions.has(executionId) || known.has(executionId)) return
    // A workflow that runs again has most likely started its children before.
    const isAgain = parent !== undefined && runningIn(executions, parent.executionId)?.isReplay !== false
    if (isAgain && (yield* getRun(executionId)) !== undefined) return remember(executionId)
    const of = registered.get(workflow._tag)
    const stored: Stored.Execution = {
      workflow: workflow._tag,
      payload: yield* Stored.encodePayload(workflow, payload),
      ...(parent !== undefined &&
        !detached && { parent: { workflow: parent.workflow._tag, executionId: parent.executionId } })
    }
    const created =
      of === undefined
        ? taker.createElsewhere(executionId, stored)
        : Effect.flatMap(worker.held, (held) => lock(executionId, taker.create(executionId, of, stored, held)))
    yield* answered(shared, workflow._tag, executionId, "payload")(shared.apart(created))
    remember(executionId)
  })

  const poll: Encoded["poll"] = Effect.fnUntraced(function* (workflow, executionId) {
    const run = yield* getRun(executionId)
    if (run?.outcome === undefined) return Option.none()
    return Option.some(yield* yield* Stored.decodeOutcome(workflow, run.outcome))
  })

  const execute = Effect.fnUntraced(function* (
    workflow: Workflow.Any,
    options: Parameters<Encoded["execute"]>[1]
  ): Effect.fn.Return<Workflow.Result<unknown, unknown> | undefined> {
    const { discard, executionId } = options
    if (discard && known.has(executionId)) yield* getRun(executionId)
    for (;;) {
      yield* create(workflow, options)
      if (discard) return
      const execution = runningIn(executions, executionId)
      if (execution !== undefined) return yield* Deferred.await(execution.settled)
      const result = yield* poll(workflow, executionId)
      if (Option.isSome(result)) return result.value
      if (known.has(executionId)) return new Workflow.Suspended({})
    }
  })

  const awaitComplete = Effect.fnUntraced(function* (_workflow: Workflow.Any, executionId: string) {
    const sinceMillis = monotonicMillis(clock)
    // The longer it takes, the less often one looks without a hint.
    const pause = Effect.suspend(() =>
      Effect.sleep(Math.min(longestPollMillis, Math.max(pollMillis, (monotonicMillis(clock) - sinceMillis) / 10)))
    )
    yield* Stream.merge(backend.hints(names.keyOf(executionId, ids.run)), Stream.fromEffectRepeat(pause)).pipe(
      Stream.prepend([undefined]),
      Stream.mapEffect(() => getRun(executionId)),
      Stream.takeUntil((run) => run === undefined || Stored.isOver(run)),
      Stream.runDrain
    )
  })

  return {
    // The result of the interface depends on a type parameter, which no implementation can meet.
    execute: execute as unknown as Encoded["execute"],
    poll,
    awaitComplete
  }
}
