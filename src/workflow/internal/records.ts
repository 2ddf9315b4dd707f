/** Reads and writes of an execution's records. */
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import { maxCommitSteps, type Step, type StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import type { StoragePrefix } from "../../StoragePrefix.ts"
import type { Execution } from "./execution.ts"
import { ids, type Names } from "./names.ts"

/** What is there of an execution, besides its steps. */
export interface Seen {
  readonly execution: VersionedRecord | undefined
  readonly run: VersionedRecord | undefined
  readonly inbox: VersionedRecord | undefined
  readonly resumes: VersionedRecord | undefined
  readonly interrupt: VersionedRecord | undefined
}

/** What became of a commit that is made only if the run is still as this process wrote it. */
export type Fenced =
  | { readonly _tag: "Landed"; readonly records: ReadonlyArray<VersionedRecord | undefined> }
  /** Another worker has the execution. */
  | { readonly _tag: "Lost" }
  /** The record with that id is not as expected. */
  | { readonly _tag: "Refused"; readonly id: string }

const lost: Fenced = { _tag: "Lost" }

/** Repeats until there is an answer. If a run's writes get none, its worker loses its lease. */
export const untilAnswered = Schedule.min([Schedule.exponential(100), Schedule.spaced(5000)])

export type Records = ReturnType<typeof makeRecords>

export const makeRecords = (backend: StorageBackend["Service"], names: Names) => {
  const all = (prefix: StoragePrefix) =>
    Effect.gen(function* () {
      const records: Array<VersionedRecord> = []
      let cursor: string | undefined
      do {
        const page = yield* Effect.catchTag(
          backend.listByPrefix(prefix, { cursor, limit: 1000 }),
          "InvalidCursor",
          Effect.die
        )
        records.push(...page.records)
        cursor = page.cursor
      } while (cursor !== undefined)
      return records
    })

  const get = (executionId: string, id: string): Effect.Effect<VersionedRecord | undefined, Backend> =>
    Effect.catchTag(
      Effect.suspend(() => backend.get(names.keyOf(executionId, id))),
      "RecordNotFound",
      () => Effect.undefined
    )

  /** Whether a write of the run landed, although it was refused when it was sent again. */
  const isWritten = (execution: Execution, data: string) =>
    Effect.map(get(execution.id, ids.run), (record) => {
      if (record?.data !== data) return false
      execution.run = record
      return true
    })

  const commit = (execution: Execution, steps: ReadonlyArray<Step>, next?: string) => {
    const run = { id: ids.run, expected: execution.run }
    const refused = ({ key }: { readonly key: { readonly id: string } }): Effect.Effect<Fenced, Backend> => {
      if (key.id !== ids.run) return Effect.succeed({ _tag: "Refused", id: key.id })
      if (next === undefined) return Effect.succeed(lost)
      return Effect.map(isWritten(execution, next), (is) => (is ? { _tag: "Landed", records: [] } : lost))
    }
    return backend
      .commit(names.ownerOf(execution.id), [
        next === undefined ? { _tag: "Check", ...run } : { _tag: "Write", ...run, data: next },
        ...steps
      ])
      .pipe(
        Effect.map(([written, ...records]): Fenced => {
          if (written !== undefined) execution.run = written
          return { _tag: "Landed", records }
        }),
        Effect.catchTags({
          VersionConflict: refused,
          RecordNotFound: refused,
          InvalidData: Effect.die,
          InvalidCommit: Effect.die
        })
      )
  }

  return {
    get,

    /** Raises the version of a record that only counts. */
    count: (executionId: string, id: "inbox" | "resumes") =>
      Effect.suspend(() => backend.put(names.keyOf(executionId, id), "")).pipe(
        Effect.catchTags({ InvalidData: Effect.die, CapacityExceeded: Effect.die })
      ),

    /** Writes a step from outside of a run, unless it is there already. */
    createStep: (executionId: string, id: string, data: string) =>
      Effect.suspend(() => backend.putIfVersion(names.keyOf(executionId, id), data, 0)).pipe(
        Effect.catchTags({
          VersionConflict: () => Effect.void,
          RecordNotFound: () => Effect.void,
          InvalidData: Effect.die
        })
      ),

    putStep: (executionId: string, id: string, data: string) =>
      Effect.catchTag(
        Effect.suspend(() => backend.put(names.keyOf(executionId, id), data)),
        "InvalidData",
        Effect.die
      ),

    read: (executionId: string): Effect.Effect<Seen, Backend> =>
      Effect.suspend(() =>
        Effect.map(
          backend.getMany(
            [ids.execution, ids.run, ids.inbox, ids.resumes, ids.interrupt].map((id) => names.keyOf(executionId, id))
          ),
          ([execution, run, inbox, resumes, interrupt]) => ({ execution, run, inbox, resumes, interrupt })
        )
      ),

    /** All steps of an execution that have landed. */
    steps: (executionId: string): Effect.Effect<Map<string, VersionedRecord>, Backend> =>
      Effect.suspend(() =>
        Effect.map(
          all(names.steps(executionId)),
          (records) => new Map(records.map((record) => [record.key.id, record]))
        )
      ),

    /** Repeats a request of a run until it is answered. */
    insist: <A, E>(execution: Execution, request: Effect.Effect<A, E | Backend>) =>
      Effect.retry(request, {
        schedule: untilAnswered,
        while: (error) => !isTooLarge(error) && execution.end === undefined
      }),

    /** Commits steps if and only if the run is still as this process wrote it, and writes the run if need be. */
    fenced: (
      execution: Execution,
      steps: ReadonlyArray<Step>,
      next?: string
    ): Effect.Effect<Fenced, CapacityExceeded> =>
      Effect.suspend(() => (execution.end === "Lost" ? Effect.succeed(lost) : commit(execution, steps, next))).pipe(
        Effect.retry({
          schedule: untilAnswered,
          while: (error) => !isTooLarge(error) && execution.end === undefined
        }),
        Effect.catch((error) => (isTooLarge(error) ? Effect.fail(error) : Effect.succeed(lost)))
      ),

    /**
     * Removes an execution with all that belongs to it, in steps of a hundred records, and its own records last.
     * Returns false if a record has changed meanwhile.
     */
    removeAll: (executionId: string, { execution, inbox, resumes, run }: Seen): Effect.Effect<boolean, Backend> => {
      const remove = (records: ReadonlyArray<VersionedRecord | undefined>) => {
        const steps = records.flatMap((record) =>
          record === undefined ? [] : [{ _tag: "Remove", id: record.key.id, expected: record } as const]
        )
        return steps.length === 0 ? Effect.void : backend.commit(names.ownerOf(executionId), steps)
      }
      return Effect.gen(function* () {
        let isLast = false
        while (!isLast) {
          const page = yield* backend.listByPrefix(names.steps(executionId), { limit: maxCommitSteps })
          yield* remove(page.records)
          isLast = page.cursor === undefined
        }
        yield* remove([execution, inbox, resumes, run])
        return true
      }).pipe(
        Effect.catchTags({
          VersionConflict: () => Effect.succeed(false),
          RecordNotFound: () => Effect.succeed(false),
          InvalidCursor: Effect.die,
          InvalidData: Effect.die,
          InvalidCommit: Effect.die,
          CapacityExceeded: Effect.die
        })
      )
    }
  }
}

/** Whether a record's data is too large. All other failures may pass, also those of a store that is full. */
export const isTooLarge = (error: unknown): error is CapacityExceeded =>
  Predicate.isTagged(error, "CapacityExceeded") &&
  ["RecordBytes", "ItemBytes"].includes((error as CapacityExceeded).resource)
