/** How executions are removed, with all that belongs to them, after their time. */
import * as Effect from "effect/Effect"
import type { VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import type { Sighting } from "./agenda.ts"
import { ids, removal } from "./names.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

/** When a removal is tried again that another write came in between of. */
const tryAgainMillis = 1000

export type Removing = ReturnType<typeof makeRemoving>

export const makeRemoving = ({ agenda, backend, clock, records, retentionMillis }: Shared) => {
  /** Has an execution removed as long from now as a complete one is kept. */
  const removeLater = ({ executionId, workflow }: Stored.Entry): Effect.Effect<void, Backend> => {
    const atMillis = clock.currentTimeMillisUnsafe() + retentionMillis
    return Number.isFinite(atMillis) ? agenda.put({ executionId, workflow, what: removal, atMillis }) : Effect.void
  }

  /** Handles a removal that is due. Returns after how long it is tried again, if it must be. */
  const handle = Effect.fnUntraced(function* ({ entry, record }: Sighting) {
    const seen = yield* records.read(entry.executionId)
    const parent = seen.execution === undefined ? undefined : Stored.execution.decode(seen.execution).parent
    // An older entry may come due, of a time before it was started, or of a run that died.
    if (seen.run !== undefined && isKept(Stored.run.decode(seen.run))) return yield* agenda.remove(record)
    const run = yield* ruledOut(seen.run)
    if (run === "GoesOn") return yield* agenda.remove(record)
    // A parent that runs again asks for the result again.
    if (parent !== undefined && (yield* isGoingOn(parent.executionId))) yield* removeLater(entry)
    else if (!(yield* records.removeAll(entry.executionId, { ...seen, run }))) return tryAgainMillis
    return yield* agenda.remove(record)
  })

  const isKept = ({ endedMillis = 0 }: Stored.Run) =>
    Math.ceil(endedMillis + retentionMillis) > clock.currentTimeMillisUnsafe()

  const isGoingOn = (executionId: string) =>
    Effect.map(records.get(executionId, ids.run), (run) => run !== undefined && !Stored.isOver(Stored.run.decode(run)))

  /** The run of an execution that is over. One that died may be resumed, so that is ruled out first. */
  const ruledOut = (
    record: VersionedRecord | undefined
  ): Effect.Effect<VersionedRecord | undefined | "GoesOn", Backend | CapacityExceeded> => {
    const run = record === undefined ? undefined : Stored.run.decode(record)
    if (record === undefined || run === undefined || run.state === "complete") return Effect.succeed(record)
    if (run.state !== "died") return Effect.succeed("GoesOn")
    return backend.putIfVersion(record.key, Stored.run.encode({ ...run, state: "complete" }), record).pipe(
      Effect.catchTags({
        VersionConflict: () => Effect.succeed("GoesOn" as const),
        RecordNotFound: () => Effect.succeed("GoesOn" as const),
        InvalidData: Effect.die
      })
    )
  }

  return { handle, removeLater }
}
