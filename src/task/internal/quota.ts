/**
 * Counts each owner's tasks, in a record an owner that holds for each task the second until which it counts. A place is
 * taken before its task is created, so the limit is never passed. If the process dies in between, the place stays taken
 * until the task would have expired.
 */
import * as Cache from "effect/Cache"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { backoffFor } from "../../internal/backoff.ts"
import { toDate } from "../../internal/time.ts"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import { Backend, makeBackend, VersionConflict } from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import * as UpdateLoop from "../../update/loop.ts"
import * as Turns from "../../update/turns.ts"
import { TooManyTasks } from "../TaskError.ts"
import * as Ledger from "./ledger.ts"

/** The id of an owner's ledger. No task's id starts with `!`. */
const ledgerId = "!places"

/** How many owners' ledgers are remembered, so that a change of one takes no read. */
const remembered = 10_000

/** How long a change of a ledger is retried while others are first. */
const retrySchedule = backoffFor("10 millis", "200 millis", "10 seconds")

/** Retries until a place is given back, unless it comes free by itself. */
const untilGivenBack = Schedule.spaced("5 seconds")

interface Remembered {
  ledger: VersionedRecord | undefined
}

export const make = Effect.fnUntraced(function* (limit: number) {
  const backend = yield* StorageBackend
  const scope = yield* Effect.scope
  const takeTurn = Turns.make()
  const ledgers = yield* Cache.make({
    capacity: remembered,
    lookup: (_: string) => Effect.sync((): Remembered => ({ ledger: undefined }))
  })

  /**
   * Changes an owner's ledger, from the one that was seen last if there is one. If `f` returns undefined, the ledger
   * stays as it is. Once sent, the write is not interrupted, so that its outcome is known; `onLanded` runs when it has
   * landed.
   */
  const change = Effect.fnUntraced(function* <E>(
    ownerId: string,
    f: (places: Ledger.Pairs) => Effect.Effect<Ledger.Pairs | undefined, E>,
    onLanded: () => void = () => {}
  ) {
    const key = yield* Effect.fromResult(StorageKey.make({ owner: ownerId, id: ledgerId }))
    const owner = yield* Cache.get(ledgers, ownerId)
    const decide = Effect.fnUntraced(function* (current: VersionedRecord | undefined) {
      owner.ledger = current
      const next = yield* f(yield* takenPlaces(current))
      if (next === undefined) return { _tag: "Keep", answer: current } as const
      owner.ledger = undefined
      const until = next.at(-1)?.[0] ?? undefined
      return {
        _tag: "Write",
        data: yield* Effect.orDie(Schema.encodeEffect(Ledger.Ledger)({ places: next })),
        expiresAt: until === undefined ? undefined : toDate(until),
        answer: (written: VersionedRecord) => written
      } as const
    })
    const landed = (written: VersionedRecord | undefined) => {
      owner.ledger = written
      onLanded()
    }
    yield* takeTurn(ownerId)(
      Effect.suspend(() =>
        UpdateLoop.run<VersionedRecord | undefined, E | Backend, never>({
          backend,
          key,
          decide,
          retrySchedule,
          known: owner.ledger,
          onLanded: landed
        })
      )
    )
  })

  /** Gives a place back in one request, or none if the place has come free by itself. */
  const release = Effect.fnUntraced(function* (ownerId: string, until: number | null) {
    if (Ledger.orForever(until) * 1000 <= (yield* Clock.currentTimeMillis)) return
    yield* change(ownerId, (places) => Effect.succeed(Ledger.subtract(places, until)))
  })

  /**
   * Gives a place back. If that fails and has changed nothing, it is tried again in the background until it succeeds or
   * the place comes free by itself. It is not tried again if it may have been applied, since that could free the place
   * of another task.
   */
  const giveBack = (ownerId: string, until: number | null): Effect.Effect<void> => {
    const warn = (error: unknown) =>
      Effect.logWarning(`A place of ${ownerId} stays taken until its task would have expired`, error)
    return release(ownerId, until).pipe(
      Effect.catchIf(isWorthARetry, () =>
        release(ownerId, until).pipe(
          Effect.retry({ schedule: untilGivenBack, while: isWorthARetry }),
          Effect.catch(warn),
          Effect.delay("5 seconds"),
          Effect.forkIn(scope),
          Effect.asVoid
        )
      ),
      Effect.catch(warn)
    )
  }

  /**
   * Takes a place and runs the creation of its task, which is not interrupted once it has begun. If the creation fails,
   * or the fiber is interrupted before it, the place is given back, unless the task may have been created. Fails with
   * `TooManyTasks` if no place is free. One request, and one more to look again before it refuses.
   */
  const withPlace = <A, E extends { readonly _tag: string }>(
    ownerId: string,
    until: number | null,
    creation: Effect.Effect<A, E>
  ) =>
    Effect.suspend(() => {
      let isWithoutTask = false
      const reserve = change(
        ownerId,
        (places) =>
          Ledger.countOf(places) + 1 <= limit
            ? Effect.succeed(Ledger.add(places, until))
            : Effect.fail(new TooManyTasks({ limit })),
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
    })

  return { withPlace, giveBack }
})

/** The places of a ledger that have not come free by themselves. */
const takenPlaces = Effect.fnUntraced(function* (ledger: VersionedRecord | undefined) {
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

/** Whether a creation has certainly created nothing. */
const isNotApplied = (exit: Exit.Exit<unknown, { readonly _tag: string }>): boolean =>
  Exit.isFailure(exit) &&
  exit.cause.reasons.every(
    (reason) => Cause.isFailReason(reason) && !(reason.error instanceof Backend && reason.error.outcome === "unknown")
  )

const isWorthARetry = (error: { readonly _tag: string }): boolean =>
  error instanceof VersionConflict || (error instanceof Backend && error.isRetryable)
