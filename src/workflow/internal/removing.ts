/** How executions are removed, with all that belongs to them, after their time. */
import * as Effect from "effect/Effect"
import type { VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import type { Sighting } from "./agenda.ts"
import { ids, removal } from "./names.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

export type Removing = ReturnType<typeof makeRemoving>

export const makeRemoving = ({ agenda, backend, clock, records, retentionMillis }: Shared) => {
  /** Has an execution removed as long from now as a complete one is kept. */
  const removeLater = ({ executionId, workflow }: Stored.Entry): Effect.Effect<void, Backend> => {
    const atMillis = clock.currentTimeMillisUnsafe() + retentionMillis
    return Number.isFinite(atMillis) ? agenda.put({ executionId, workflow, what: removal, atMillis }) : Effect.void
  }

  const handle = Effect.fnUntraced(function* ({ entry, record }: Sighting) {
    const { execution, run } = yield* records.read(entry.executionId)
    const parent = execution === undefined ? undefined : Stored.execution.decode(execution).parent
    // An older entry may come due, of a time before it was started, or of a run that died.
    if (run !== undefined && isKept(Stored.run.decode(run))) return yield* agenda.remove(record)
    // A parent that runs again asks for the result again.
    if (parent !== undefined && (yield* isGoingOn(parent.executionId))) yield* removeLater(entry)
    else if (run === undefined || (yield* isForGood(run))) yield* records.removeAll(entry.executionId)
    return yield* agenda.remove(record)
  })

  const isKept = ({ endedMillis = 0 }: Stored.Run) =>
    Math.ceil(endedMillis + retentionMillis) > clock.currentTimeMillisUnsafe()

  const isGoingOn = (executionId: string) =>
    Effect.map(records.get(executionId, ids.run), (run) => run !== undefined && !Stored.isOver(Stored.run.decode(run)))

  /** Whether an execution is over. One that died may be resumed, so that is ruled out first. */
  const isForGood = (record: VersionedRecord): Effect.Effect<boolean, Backend | CapacityExceeded> => {
    const run = Stored.run.decode(record)
    if (run.state !== "died") return Effect.succeed(run.state === "complete")
    return backend.putIfVersion(record.key, Stored.run.encode({ ...run, state: "complete" }), record).pipe(
      Effect.as(true),
      Effect.catchTags({
        VersionConflict: () => Effect.succeed(false),
        RecordNotFound: () => Effect.succeed(false),
        InvalidData: Effect.die
      })
    )
  }

  return { handle, removeLater }
}
