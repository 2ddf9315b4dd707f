import * as Cache from "effect/Cache"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import { goneMeanwhile, retryConflicts } from "../../internal/conflicts.ts"
import { toDate } from "../../internal/time.ts"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import { backend as backendError, type RecordNotFound, type VersionConflict } from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import { TooManyTasks } from "../TaskError.ts"
import * as Ledger from "./ledger.ts"

/** The id of an owner's ledger. Ids that start with `!` are no tasks. */
const ledgerId = "!places"

/** How many owners' ledgers are remembered, each to be started from without a read. */
const remembered = 10_000

/** How long others may be first, again and again, before a reservation is given up. */
const schedule = Schedule.min([Schedule.exponential("10 millis"), Schedule.spaced("200 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "10 seconds" })
)

interface Owner {
  /** One change at a time from this process: more would only be each other's conflicts. */
  readonly lock: Semaphore.Semaphore
  /** The ledger as it was last seen. */
  ledger: VersionedRecord | undefined
}

/**
 * Counts the tasks that each owner has, in a record an owner that holds for each task the second until which it counts. A
 * place is reserved before its task is created, so that a limit is never passed. If the process dies in between, the
 * place stays taken until the task would have expired.
 */
export const make = Effect.fnUntraced(function* (limit: number) {
  const backend = yield* StorageBackend
  const owners = yield* Cache.make({
    capacity: remembered,
    lookup: (_: string) => Effect.sync((): Owner => ({ lock: Semaphore.makeUnsafe(1), ledger: undefined }))
  })

  const live = (ledger: VersionedRecord | undefined) =>
    Effect.gen(function* () {
      if (ledger === undefined) return []
      const { places } = yield* Effect.mapError(Schema.decodeEffect(Ledger.Ledger)(ledger.data), (error) =>
        backendError({
          reason: "Corrupt",
          outcome: "not-applied",
          operation: "places",
          description: `The ledger of tasks at ${ledger.key} is damaged, delete it to start anew: ${error.message}`
        })
      )
      return Ledger.takenAt(places, Math.floor((yield* Clock.currentTimeMillis) / 1000))
    })

  const write = Effect.fnUntraced(function* (
    key: StorageKey.StorageKey,
    owner: Owner,
    ledger: VersionedRecord | undefined,
    places: Ledger.Pairs
  ) {
    const until = places.at(-1)?.[0] ?? undefined
    const data = yield* Effect.orDie(Schema.encodeEffect(Ledger.Ledger)({ places }))
    const lost = (error: VersionConflict | RecordNotFound) =>
      Effect.succeed(Result.fail(error._tag === "VersionConflict" ? error : goneMeanwhile(key, ledger)))
    return yield* backend
      .putIfVersion(key, data, ledger ?? 0, {
        expiresAt: until === undefined ? undefined : toDate(until)
      })
      .pipe(
        Effect.map((written) => {
          owner.ledger = written
          return Result.succeed(undefined)
        }),
        Effect.catchTags({ VersionConflict: lost, RecordNotFound: lost, InvalidData: Effect.die })
      )
  })

  /** One change of an owner's ledger, from the one last seen where there is one. */
  const change = Effect.fnUntraced(function* <E>(
    ownerId: string,
    f: (places: Ledger.Pairs, isFresh: boolean) => Effect.Effect<Ledger.Pairs | "read first" | undefined, E>
  ) {
    const key = yield* Effect.fromResult(StorageKey.make({ owner: ownerId, id: ledgerId }))
    const owner = yield* Cache.get(owners, ownerId)
    const read = Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined)
    const attempt = Effect.fnUntraced(function* (carried: VersionedRecord | undefined) {
      const last = carried ?? owner.ledger
      owner.ledger = undefined
      let ledger = last ?? (yield* read)
      let next = yield* f(yield* live(ledger), last === undefined || carried !== undefined)
      if (next === "read first") {
        ledger = yield* read
        next = yield* f(yield* live(ledger), true)
      }
      owner.ledger = ledger
      if (next === undefined || next === "read first") return Result.succeed(undefined)
      owner.ledger = undefined
      return yield* write(key, owner, ledger, next)
    })
    return yield* owner.lock.withPermit(retryConflicts(schedule, attempt))
  })

  return {
    /** Takes a place, or fails with `TooManyTasks`. One request, and one more to look again before it refuses. */
    reserve: (ownerId: string, until: number | null) =>
      change(ownerId, (places, isFresh) => {
        if (Ledger.countOf(places) + 1 <= limit) return Effect.succeed(Ledger.add(places, until))
        return isFresh ? Effect.fail(new TooManyTasks({ limit })) : Effect.succeed("read first" as const)
      }),

    /** Gives a place back, unless it has come free by itself. One request. */
    release: Effect.fnUntraced(function* (ownerId: string, until: number | null) {
      if (Ledger.orForever(until) * 1000 <= (yield* Clock.currentTimeMillis)) return
      yield* change(ownerId, (places, isFresh) =>
        Effect.succeed(Ledger.subtract(places, until) ?? (isFresh ? undefined : ("read first" as const)))
      )
    })
  }
})
