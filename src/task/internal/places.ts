import * as Cache from "effect/Cache"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import { goneMeanwhile, retryConflicts } from "../../internal/conflicts.ts"
import { toDate } from "../../internal/time.ts"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import { Backend, makeBackend, type RecordNotFound, VersionConflict } from "../../StorageError.ts"
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
  const scope = yield* Effect.scope
  const owners = yield* Cache.make({
    capacity: remembered,
    lookup: (_: string) => Effect.sync((): Owner => ({ lock: Semaphore.makeUnsafe(1), ledger: undefined }))
  })

  const live = (ledger: VersionedRecord | undefined) =>
    Effect.gen(function* () {
      if (ledger === undefined) return []
      const { places } = yield* Effect.mapError(Schema.decodeEffect(Ledger.Ledger)(ledger.data), () =>
        makeBackend({
          reason: "Corrupt",
          outcome: "not-applied",
          operation: "places",
          description: `The ledger of tasks at ${ledger.key} is damaged. Delete it: the count of tasks then starts at zero`
        })
      )
      return Ledger.takenAt(places, Math.floor((yield* Clock.currentTimeMillis) / 1000))
    })

  /** Once sent, a write is not interrupted, so that its outcome is known. */
  const write = Effect.fnUntraced(function* (
    key: StorageKey.StorageKey,
    owner: Owner,
    ledger: VersionedRecord | undefined,
    places: Ledger.Pairs,
    whenWritten: () => void
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
          whenWritten()
          return Result.succeed(undefined)
        }),
        Effect.catchTags({ VersionConflict: lost, RecordNotFound: lost, InvalidData: Effect.die })
      )
  }, Effect.uninterruptible)

  /** One change of an owner's ledger, from the one last seen if there is one. */
  const change = Effect.fnUntraced(function* <E>(
    ownerId: string,
    f: (places: Ledger.Pairs, isFresh: boolean) => Effect.Effect<Ledger.Pairs | "read first" | undefined, E>,
    whenWritten: () => void = () => {}
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
      return yield* write(key, owner, ledger, next, whenWritten)
    })
    return yield* owner.lock.withPermit(retryConflicts(schedule, attempt))
  })

  /** One request, and none if the place has come free by itself. */
  const release = Effect.fnUntraced(function* (ownerId: string, until: number | null) {
    if (Ledger.orForever(until) * 1000 <= (yield* Clock.currentTimeMillis)) return
    yield* change(ownerId, (places, isFresh) =>
      Effect.succeed(Ledger.subtract(places, until) ?? (isFresh ? undefined : ("read first" as const)))
    )
  })

  /**
   * Gives a place back. If that fails and has changed nothing, it is tried again in the background until it succeeds or
   * the place comes free by itself. It is not tried again if it may have been applied, since that could free the place of
   * another task.
   */
  const giveBack = (ownerId: string, until: number | null): Effect.Effect<void> => {
    const keepsTaken = (error: unknown) =>
      Effect.logWarning(`A place of ${ownerId} stays taken until its task would have expired`, error)
    return release(ownerId, until).pipe(
      Effect.catchIf(isWorthARetry, () =>
        release(ownerId, until).pipe(
          Effect.retry({ schedule: Schedule.spaced("5 seconds"), while: isWorthARetry }),
          Effect.catch(keepsTaken),
          Effect.delay("5 seconds"),
          Effect.forkIn(scope),
          Effect.asVoid
        )
      ),
      Effect.catch(keepsTaken)
    )
  }

  return {
    /**
     * Takes a place and runs the creation of its task, which is not interrupted once it has begun. If that fails, or the
     * fiber is interrupted before it, the place is given back, unless the task may have been created. Fails with
     * `TooManyTasks` if no place is free. One request, and one more to look again before it refuses.
     */
    withPlace: <A, E extends { readonly _tag: string }>(
      ownerId: string,
      until: number | null,
      creation: Effect.Effect<A, E>
    ) =>
      Effect.suspend(() => {
        let isWithoutTask = false
        const reserve = change(
          ownerId,
          (places, isFresh) => {
            if (Ledger.countOf(places) + 1 <= limit) return Effect.succeed(Ledger.add(places, until))
            return isFresh ? Effect.fail(new TooManyTasks({ limit })) : Effect.succeed("read first" as const)
          },
          () => {
            isWithoutTask = true
          }
        )
        const create = Effect.onExit(creation, (exit) =>
          Effect.sync(() => {
            isWithoutTask = isNotApplied(exit)
          })
        )
        return Effect.andThen(reserve, Effect.uninterruptible(create)).pipe(
          Effect.onExit(() => (isWithoutTask ? giveBack(ownerId, until) : Effect.void))
        )
      }),

    giveBack
  }
})

/** Whether a creation has certainly created nothing. */
const isNotApplied = (exit: Exit.Exit<unknown, { readonly _tag: string }>): boolean =>
  Exit.isFailure(exit) &&
  exit.cause.reasons.every(
    (reason) => Cause.isFailReason(reason) && !(reason.error instanceof Backend && reason.error.outcome === "unknown")
  )

const isWorthARetry = (error: { readonly _tag: string }): boolean =>
  error instanceof VersionConflict || (error instanceof Backend && error.isRetryable)
