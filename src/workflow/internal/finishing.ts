/** What remains to be done for an execution that is complete, or that its worker has left. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as Workflow from "effect/workflow/Workflow"
import { type Execution, wakeAgain } from "./execution.ts"
import type { Leaving } from "./leaving.ts"
import { ids, removal } from "./names.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"
import type { Taker, Wish } from "./taking.ts"

export type Finishing = ReturnType<typeof makeFinishing>

export const makeFinishing = (shared: Shared, leaving: Leaving, taker: Taker) => {
  const { agenda, clock, executions, lock, lookBy, names, records, retentionMillis, untilAnswered } = shared

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
    yield* records.count(executionId, ids.inbox)
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

  const recover = Effect.fnUntraced(function* (executionId: string, isDead: (worker: Stored.Worker) => boolean) {
    for (;;) {
      const { execution, run } = yield* records.read(executionId)
      if (execution === undefined || run === undefined) return
      const [stored, state] = [Stored.execution.decode(execution), Stored.run.decode(run)]
      if (Stored.isOver(state)) return yield* wrapUp(executionId, stored, state)
      const isLeft = state.state === "running" && state.worker !== undefined && isDead(state.worker)
      // What the dead worker sent may land meanwhile.
      if (!isLeft || (yield* leaving.publish(executionId, stored.workflow, run, state))) return
    }
  })

  return {
    wrapUp,

    /** Runs an execution that died once more. */
    again: (executionId: string) => Effect.ignore(wake(executionId, "explicit")),

    /** Puts right what a worker has left of an execution before another one took its slot. */
    recover: (executionId: string, current: Stored.Worker) =>
      recover(executionId, ({ slot, token }) => slot === current.slot && token < current.token),

    /** Gives an execution that has ended here to the other workers, if it is still this process's. */
    abandon: Effect.fnUntraced(function* (execution: Execution) {
      const { held, id, run, state, stored } = execution
      yield* Scope.close(execution.scope, Exit.void)
      if (executions.get(id) === execution) executions.delete(id)
      const handOver = Effect.gen(function* () {
        const isPublished = yield* leaving.publish(id, stored.workflow, run, state)
        // A write whose answer was lost may have landed, also the result.
        if (!isPublished) yield* recover(id, ({ slot, token }) => slot === held.slot && token === held.token)
        yield* leaving.unmarkOnce(id, held)
      })
      const handed = yield* Effect.exit(lock(id, handOver))
      Deferred.doneUnsafe(execution.settled, Exit.succeed(new Workflow.Suspended({})))
      if (Exit.isFailure(handed)) yield* Effect.ignore(Effect.retry(lock(id, handOver), { schedule: untilAnswered }))
    })
  }
}
