/**
 * What is to be done with executions: now, or at a time. A worker looks at what is due, and at nothing else.
 *
 * An entry is written before the record that it points to, and removed after. So a crash leaves an entry too many at
 * most, and never an execution that nobody finds.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Stream from "effect/Stream"
import type { StorageBackend, VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import type { StoragePrefix } from "../../StoragePrefix.ts"
import { monotonicMillis } from "../../update/retry.ts"
import type { Names } from "./names.ts"
import * as Stored from "./stored.ts"

/** How many entries are handled at the same time. */
const concurrency = 16

/** How long the next look waits at least, since hints may come fast. */
const pauseMillis = 20

/** How many entries the first page of a look has. Mostly none is due. */
const firstPageSize = 10
const pageSize = 100

/** How often removals are looked for. */
const removalsPollMillis = 60_000

/** An entry, and since when this worker has seen it unchanged. */
export interface Sighting {
  readonly entry: Stored.Entry
  readonly record: VersionedRecord
  readonly sinceMillis: number
  count: number
}

export type Agenda = ReturnType<typeof makeAgenda>

export const makeAgenda = (
  backend: StorageBackend["Service"],
  names: Names,
  clock: Clock.Clock,
  leaseMillis: number
) => {
  const put = (entry: Stored.Entry) =>
    Effect.suspend(() =>
      backend.put(names.entry(entry.executionId, entry.what, entry.atMillis), Stored.entry.encode(entry))
    ).pipe(Effect.asVoid, Effect.catchTags({ InvalidData: Effect.die, CapacityExceeded: Effect.die }))

  return {
    put,

    /**
     * Puts an entry, and then writes what it points to. If that takes long, a worker may have removed the entry, since it
     * pointed to nothing for so long, so it is put again.
     */
    announce: <A, E>(entry: Stored.Entry, write: Effect.Effect<A, E>) =>
      Effect.gen(function* () {
        yield* put(entry)
        const sinceMillis = monotonicMillis(clock)
        const written = yield* write
        if (monotonicMillis(clock) - sinceMillis > leaseMillis / 2) yield* put(entry)
        return written
      }),

    /** Removes an entry that has not been written again. */
    remove: (record: VersionedRecord): Effect.Effect<undefined, Backend> =>
      Effect.as(
        Effect.catchTags(backend.deleteIfVersion(record.key, record), {
          VersionConflict: () => Effect.void,
          RecordNotFound: () => Effect.void
        }),
        undefined
      )
  }
}

export interface LookOptions {
  readonly pollMillis: number
  /** When an entry that has a time is this worker's to handle. */
  readonly dueAtMillis: (entry: Stored.Entry, atMillis: number) => number
  /** Handles an entry. Returns after how long it must be looked at again, if it must. */
  readonly handle: (sighting: Sighting) => Effect.Effect<number | undefined, Backend | CapacityExceeded>
}

export type Looks = Effect.Success<ReturnType<typeof makeLooks>>

/** Looks at the agenda: when something is due, on hints, and from time to time. */
export const makeLooks = Effect.fnUntraced(function* (
  backend: StorageBackend["Service"],
  names: Names,
  { dueAtMillis, handle, pollMillis }: LookOptions
) {
  const clock = yield* Clock.Clock
  const now = () => clock.currentTimeMillisUnsafe()
  const latch = Latch.makeUnsafe(false)
  const newPart = (all: StoragePrefix, everyMillis: number) => ({
    all,
    everyMillis,
    nextAtMillis: 0,
    sightings: new Map<string, Sighting>()
  })
  const parts = [
    ...names.agenda.map(({ all }) => newPart(all, pollMillis)),
    ...names.agenda.map(({ removals }) => newPart(removals, removalsPollMillis))
  ]
  type Part = (typeof parts)[number]

  const soon = (part: Part, atMillis: number) => {
    part.nextAtMillis = Math.min(part.nextAtMillis, atMillis)
    latch.openUnsafe()
  }

  const atOwner = (owner: string, atMillis: number) => {
    for (const part of parts) if (part.all.owner === owner) soon(part, atMillis)
  }

  const sight = (part: Part, record: VersionedRecord): Sighting => {
    const seen = part.sightings.get(record.key.id)
    if (seen !== undefined && seen.record.version === record.version && seen.record.writeId === record.writeId) {
      seen.count++
      return seen
    }
    return { entry: Stored.entry.decode(record), record, sinceMillis: monotonicMillis(clock), count: 1 }
  }

  const lookAt = Effect.fnUntraced(function* (part: Part) {
    const sightings = new Map<string, Sighting>()
    let [nextAtMillis, cursor, limit] = [now() + part.everyMillis, undefined as string | undefined, firstPageSize]
    part.nextAtMillis = nextAtMillis
    const again = (atMillis: number) => {
      nextAtMillis = Math.min(nextAtMillis, atMillis)
    }
    do {
      const page = yield* Effect.catchTag(
        backend.listByPrefix(part.all, { cursor, limit }),
        "InvalidCursor",
        Effect.die
      )
      cursor = page.cursor
      limit = pageSize
      const due: Array<Sighting> = []
      for (const record of page.records) {
        const sighting = sight(part, record)
        const { atMillis } = sighting.entry
        const dueAt = atMillis === undefined ? 0 : dueAtMillis(sighting.entry, atMillis)
        if (dueAt > now()) again(dueAt)
        else due.push(sighting)
        sightings.set(record.key.id, sighting)
        // The entries come in the order of their times.
        if (atMillis !== undefined && atMillis > now()) {
          cursor = undefined
          break
        }
      }
      yield* Effect.forEach(
        due,
        (sighting) =>
          handle(sighting).pipe(
            // One entry that can't be handled keeps no other waiting.
            Effect.catchCause((cause) =>
              Effect.logWarning(`Could not handle ${sighting.entry.what} of ${sighting.entry.executionId}`, cause)
            ),
            Effect.tap((millis) => Effect.sync(() => again(now() + (millis ?? part.everyMillis))))
          ),
        { concurrency, discard: true }
      )
    } while (cursor !== undefined)
    part.sightings = sightings
    part.nextAtMillis = Math.min(part.nextAtMillis, nextAtMillis)
  })

  const lookAtAll = Effect.suspend(() =>
    Effect.forEach(
      parts.filter(({ nextAtMillis }) => nextAtMillis <= now()),
      (part) =>
        Effect.catchCause(lookAt(part), (cause) => Effect.logWarning("Workflows could not be looked for", cause)),
      { concurrency: "unbounded", discard: true }
    )
  )

  const rest = Effect.suspend(() => {
    latch.closeUnsafe()
    const millis = Math.min(...parts.map(({ nextAtMillis }) => nextAtMillis)) - now()
    return millis <= 0 ? Effect.void : Effect.raceFirst(latch.await, Effect.sleep(millis))
  })

  return {
    /** Looks at once. */
    now: (): void => {
      for (const { now } of names.agenda) atOwner(now.owner, 0)
    },
    /** Looks again at a time at the latest. */
    at: (executionId: string, atMillis: number): void => atOwner(names.entry(executionId, "at").owner, atMillis),
    /** Looks for as long as it runs. */
    run: Effect.all(
      [
        Effect.forever(Effect.andThen(Effect.andThen(rest, lookAtAll), Effect.sleep(pauseMillis))),
        ...names.agenda.map(({ now }) =>
          Stream.runForEach(backend.hints(now), () => Effect.sync(() => atOwner(now.owner, 0)))
        )
      ],
      { concurrency: "unbounded", discard: true }
    )
  }
})
