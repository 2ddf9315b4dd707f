/**
 * Counts each owner's tasks, in a record an owner that holds for each task the second until which it counts. A place is
 * taken before its task is created, and given back after its task has ended or was removed, so the limit is never
 * passed. If the process dies in between, the place stays taken until the task would have expired.
 */
import * as Cache from "effect/Cache"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { toDate } from "../../internal/time.ts"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import { Backend, makeBackend, VersionConflict } from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import type { Decision } from "../../update/attempt.ts"
import * as Update from "../../update/run.ts"
import { TooManyTasks } from "../TaskError.ts"
import * as Ledger from "./ledger.ts"

/** The id of an owner's ledger. No task's id starts with `!`. */
const ledgerId = "!places"

/** How many owners' ledgers are remembered, so that a change of one takes no read. */
const remembered = 10_000

/** Retries until a place is given back, unless it comes free by itself. */
const untilGivenBack = Schedule.spaced("5 seconds")

/** An owner's ledger as it was seen last: its record, and the places that its data holds. */
interface Remembered {
  record: VersionedRecord | undefined
  data: string | undefined
  places: Ledger.Pairs
}

export const make = Effect.fnUntraced(function* (limit: number) {
  const backend = yield* StorageBackend
  const scope = yield* Effect.scope
  const update = Update.make(backend)
  const ledgers = yield* Cache.make({
    capacity: remembered,
    lookup: (_: string) => Effect.sync((): Remembered => ({ record: undefined, data: undefined, places: [] }))
  })

  /**
   * Changes an owner's ledger, from the one that was seen last if there is one. If `f` returns undefined, the ledger
   * stays as it is. Once sent, the write is not interrupted, so that its outcome is known; `onLanded` runs when it has
   * landed.
   */
  const change = Effect.fnUntraced(function* <E>(
    ownerId: string,
    f: (places: Ledger.Pairs) => Result.Result<Ledger.Pairs | undefined, E>,
    onLanded: () => void = () => {}
  ) {
    const key = yield* Effect.fromResult(StorageKey.make({ owner: ownerId, id: ledgerId }))
    const seen = yield* Cache.get(ledgers, ownerId)
    const decide = (current: VersionedRecord | undefined) => {
      // Within a group, a record that has not landed has no write id.
      if (current?.writeId !== undefined) seen.record = current
      return Effect.flatMapEager(placesIn(seen, current), (places) =>
        Effect.withFiber((fiber) => {
          const nowSeconds = Math.floor(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe() / 1000)
          return Effect.fromResult(Result.map(f(Ledger.takenAt(places, nowSeconds)), (next) => decisionOf(seen, next)))
        })
      )
    }
    const landed = (written: VersionedRecord | undefined) => {
      seen.record = written
      onLanded()
    }
    yield* update<VersionedRecord | undefined, E | Backend, never>({
      key,
      decide,
      isShared: true,
      known: seen.record,
      onLanded: landed
    })
  })

  /** Gives a place back in one request, or none if the place has come free by itself. */
  const release = Effect.fnUntraced(function* (ownerId: string, until: number | null) {
    if (Ledger.orForever(until) * 1000 <= (yield* Clock.currentTimeMillis)) return
    yield* change(ownerId, (places) => Result.succeed(Ledger.subtract(places, until)))
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
            ? Result.succeed(Ledger.add(places, until))
            : Result.fail(new TooManyTasks({ limit })),
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

export type Quota = Effect.Success<ReturnType<typeof make>>

/** The places of a ledger. They are decoded only if its data is not the data that was seen last. */
const placesIn = (seen: Remembered, ledger: VersionedRecord | undefined): Effect.Effect<Ledger.Pairs, Backend> => {
  if (ledger === undefined) return Effect.succeed([])
  if (ledger.data === seen.data) return Effect.succeed(seen.places)
  return Effect.matchEffect(Schema.decodeEffect(Ledger.Ledger)(ledger.data), {
    onSuccess: ({ places }) => {
      seen.data = ledger.data
      seen.places = places
      return Effect.succeed(places)
    },
    onFailure: () =>
      Effect.fail(
        makeBackend({
          reason: "Corrupt",
          outcome: "not-applied",
          operation: "places",
          description: `The ledger of tasks at ${ledger.key} is damaged. Delete it: the count of tasks then starts at zero`
        })
      )
  })
}

/** Writes the next places, which are remembered so that the next change need not decode them. */
const decisionOf = (seen: Remembered, next: Ledger.Pairs | undefined): Decision<VersionedRecord | undefined> => {
  if (next === undefined) return { _tag: "Keep", answer: (current) => current }
  const data = JSON.stringify({ places: next })
  seen.data = data
  seen.places = next
  const until = next.at(-1)?.[0] ?? undefined
  return {
    _tag: "Write",
    data,
    expiresAt: until === undefined ? undefined : toDate(until),
    answer: (written) => written
  }
}

/** Whether a creation has certainly created nothing. */
const isNotApplied = (exit: Exit.Exit<unknown, { readonly _tag: string }>): boolean =>
  Exit.isFailure(exit) &&
  exit.cause.reasons.every(
    (reason) => Cause.isFailReason(reason) && !(reason.error instanceof Backend && reason.error.outcome === "unknown")
  )

const isWorthARetry = (error: { readonly _tag: string }): boolean =>
  error instanceof VersionConflict || (error instanceof Backend && error.isRetryable)
