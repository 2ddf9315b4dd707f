/** How executions are interrupted and resumed, from any process. */
import * as Effect from "effect/Effect"
import type * as Workflow from "effect/workflow/Workflow"
import type { Step, VersionedRecord } from "../../StorageBackend.ts"
import { end, runningIn, wakeAgain } from "./execution.ts"
import { ids } from "./names.ts"
import { answered, type Shared } from "./shared.ts"
import * as Stored from "./stored.ts"
import type { Taker } from "./taking.ts"
import type { Wakes } from "./wakes.ts"

export const makeInterrupting = (shared: Shared, taker: Taker, wakes: Wakes) => {
  const { executions, lock, records } = shared

  /** Stores an interruption in an execution that runs here, or takes the execution with it. */
  const tell = Effect.fnUntraced(function* (
    executionId: string,
    stepOver: (stored: VersionedRecord | undefined) => Step
  ) {
    const execution = runningIn(executions, executionId)
    if (execution === undefined) return yield* taker.take(executionId, "explicit", stepOver)
    const written = yield* records.fenced(execution, [stepOver(execution.steps.get(ids.interrupt))])
    if (written._tag === "Lost") end(execution, "Lost")
    if (written._tag !== "Landed") return "Elsewhere"
    if (written.records[0] !== undefined) wakes.deliver(execution, written.records[0])
    return "Running"
  })

  const interrupt = Effect.fnUntraced(function* (workflow: Workflow.Any, executionId: string, unsafe: boolean) {
    const data = Stored.interrupt.encode({ unsafe })
    const request = answered(shared, workflow._tag, executionId)
    const taking = yield* request(
      shared.apart(
        lock(
          executionId,
          tell(executionId, (stored) => ({
            _tag: "Write",
            id: ids.interrupt,
            expected: stored ?? 0,
            // An unsafe interruption stays one.
            data: stored !== undefined && !unsafe ? stored.data : data
          }))
        )
      )
    )
    if (taking !== "Elsewhere" && taking !== "Unregistered" && taking !== "Refused") return
    const store = unsafe
      ? records.putStep(executionId, ids.interrupt, data)
      : records.createStep(executionId, ids.interrupt, data)
    yield* request(wakes.send({ executionId, workflow: workflow._tag, what: "interrupt", mode: "explicit", store }))
  })

  const resume = Effect.fnUntraced(function* (workflow: Workflow.Any, executionId: string) {
    const request = answered(shared, workflow._tag, executionId)
    const wake = Effect.tap(taker.take(executionId, "explicit"), (taking) =>
      Effect.sync(() => {
        const execution = runningIn(executions, executionId)
        if (taking === "Running" && execution !== undefined) wakeAgain(execution, "explicit")
      })
    )
    const taking = yield* request(shared.apart(lock(executionId, wake)))
    if (taking !== "Elsewhere" && taking !== "Unregistered") return
    const message = {
      executionId,
      workflow: workflow._tag,
      what: "resume",
      mode: "explicit",
      store: Effect.void
    } as const
    yield* request(wakes.send(message))
  })

  return {
    resume,
    interrupt: (workflow: Workflow.Any, executionId: string) => interrupt(workflow, executionId, false),
    interruptUnsafe: (workflow: Workflow.Any, executionId: string) => interrupt(workflow, executionId, true)
  }
}
