/** What remains to be done for an execution that is complete, or that a dead worker has left. */
import * as Effect from "effect/Effect"
import { type Execution, wakeAgain } from "./execution.ts"
import type { Leaving } from "./leaving.ts"
import { removal } from "./names.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"
import type { Taker, Wish } from "./taking.ts"

export type Finishing = ReturnType<typeof makeFinishing>

export const makeFinishing = (
  { agenda, clock, executions, lock, lookBy, names, records, retentionMillis }: Shared,
  leaving: Leaving,
  taker: Taker
) => {
  const wake = (executionId: string, wish: Wish) =>
    lock(
      executionId,
      Effect.map(taker.take(executionId, wish), (taking) => {
        const execution: Execution | undefined = executions.get(executionId)
        if (taking === "Running" && execution !== undefined) wakeAgain(execution, "automatic")
        return taking
      })
    )

  /** Wakes a parent. The child's mark stands until that is done, so the parent needs no entry before. */
  const wakeParent = Effect.fnUntraced(function* (executionId: string, workflow: string) {
    const taking = yield* wake(executionId, "automatic")
    if (taking === "Unregistered") yield* agenda.put({ executionId, workflow, what: "child" })
    if (taking !== "Elsewhere" && taking !== "Unregistered") return
    yield* records.count(executionId, "inbox")
    // It may have been suspended just before.
    if (taking === "Elsewhere") yield* wake(executionId, "news")
  })

  /** Wakes the parent of a complete execution, and has the execution removed in time. It may be repeated. */
  const wrapUp = Effect.fnUntraced(function* (
    executionId: string,
    { parent, workflow }: Stored.Execution,
    { endedMillis = clock.currentTimeMillisUnsafe(), worker }: Stored.Run
  ) {
    if (parent !== undefined) yield* wakeParent(parent.executionId, parent.workflow)
    if (!Number.isFinite(retentionMillis)) return
    const atMillis = endedMillis + retentionMillis
    yield* agenda.put({ executionId, workflow, what: removal, atMillis, ...(worker && { worker }) })
    lookBy(names.entry(executionId, removal), atMillis)
  })

  return {
    wrapUp,

    /** Runs an execution that died once more. */
    again: (executionId: string) => Effect.ignore(wake(executionId, "explicit")),

    /** Puts right what a worker has left of an execution before another one took its slot. */
    recover: Effect.fnUntraced(function* (executionId: string, current: Stored.Worker) {
      for (;;) {
        const { execution, run } = yield* records.read(executionId)
        if (execution === undefined || run === undefined) return
        const [stored, state] = [Stored.execution.decode(execution), Stored.run.decode(run)]
        if (Stored.isOver(state)) return yield* wrapUp(executionId, stored, state)
        const isLeft =
          state.state === "running" && state.worker?.slot === current.slot && state.worker.token < current.token
        // What the dead worker sent may land meanwhile.
        if (!isLeft || (yield* leaving.publish(executionId, stored.workflow, run, state))) return
      }
    })
  }
}
