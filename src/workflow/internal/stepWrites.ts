/** Writes of a run's steps. Those that come while a commit is under way land together in the next one. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { maxCommitBytes, maxCommitSteps, type Write } from "../../StorageBackend.ts"
import type { CapacityExceeded } from "../../StorageError.ts"
import type { Execution, PendingStep, Written } from "./execution.ts"
import type { Shared } from "./shared.ts"

/** Room for what a commit adds to a step, and for characters of several bytes. */
const bytesOf = ({ step }: PendingStep): number => 2000 + 3 * (step.id.length + step.data.length)

export const makeStepWrites = ({ fork, records }: Pick<Shared, "fork" | "records">) => {
  /** Lands a group of steps. One that can't be written keeps no other from it. */
  const landGroup = Effect.fnUntraced(function* (execution: Execution, group: ReadonlyArray<PendingStep>) {
    let rest = group
    const settle = (id: string, exit: Effect.Effect<Written, CapacityExceeded>) => {
      // If it is none of them, it is the run itself, which has no room for any.
      const others = rest.filter(({ step }) => step.id !== id)
      const settled = others.length === rest.length ? rest : rest.filter((pending) => !others.includes(pending))
      for (const { written } of settled) Deferred.doneUnsafe(written, exit)
      rest = rest.filter((pending) => !settled.includes(pending))
    }
    while (rest.length > 0) {
      const written = yield* Effect.result(
        records.fenced(
          execution,
          rest.map(({ step }) => step)
        )
      )
      if (Result.isFailure(written)) {
        settle(written.failure.key.id, Effect.fail(written.failure))
      } else if (written.success._tag === "Refused") {
        settle(written.success.id, Effect.succeed("Refused"))
      } else {
        const { success } = written
        for (const [index, { written }] of rest.entries()) {
          const record = success._tag === "Landed" ? success.records[index] : undefined
          Deferred.doneUnsafe(written, Effect.succeed(record ?? "Lost"))
        }
        rest = []
      }
    }
  })

  const land = Effect.fnUntraced(function* (execution: Execution) {
    while (execution.pending.length > 0) yield* landGroup(execution, takeGroup(execution.pending))
    execution.isWriting = false
  })

  return (execution: Execution, step: Write): Effect.Effect<Written, CapacityExceeded> =>
    Effect.suspend(() => {
      const written = Deferred.makeUnsafe<Written, CapacityExceeded>()
      execution.pending.push({ step, written })
      if (!execution.isWriting) {
        execution.isWriting = true
        fork(land(execution))
      }
      return Deferred.await(written)
    })
}

/** Takes from a queue what fits into one commit, with its check of the run. */
const takeGroup = (queue: Array<PendingStep>): Array<PendingStep> => {
  const ids = new Set<string>()
  let bytes = 0
  const end = queue.findIndex((pending, index) => {
    bytes += bytesOf(pending)
    const fits = index < maxCommitSteps - 1 && (index === 0 || bytes <= maxCommitBytes) && !ids.has(pending.step.id)
    ids.add(pending.step.id)
    return !fits
  })
  return queue.splice(0, end === -1 ? queue.length : end)
}
