/**
 * What is to be done with executions: now, or at a time. A worker looks at what is due, and at nothing else.
 *
 * An entry is written before the record that it points to, and removed after. So a crash leaves an entry too many at
 * most, and never an execution that nobody finds.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
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
     * Puts an entry, and then writes what it points to. If that takes long, a worker may have removed the entry, since
     * it pointed to nothing for so long, so it is put again.
     */
    announce: <A, E>(entry: Stored.Entry, write: Effect.Effect<A, E>) =>
      Effect.gen(function* () {
        const sinceMillis = monotonicMillis(clock)
        yield* put(entry)
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
  /** The longest pause between two looks. */
  readonly longestMillis: number
  /** Whether this worker can handle an entry at all. */
  readonly isOurs: (entry: Stored.Entry) => boolean
  /** Whether it has as much to do as it may. */
  readonly isBusy: () => boolean
  /** When an entry is this worker's to handle. */
  readonly dueAtMillis: (entry: Stored.Entry, atMillis: number) => number
  /** Handles an entry. Returns after how long it must be looked at again, if it must. */
  readonly handle: (sighting: Sighting) => Effect.Effect<number | undefined, Backend | CapacityExceeded>
}

/** What one part of the agenda is like, as of the last look. */
interface Part {
  readonly all: StoragePrefix
  readonly everyMillis: number
  /** Opens if the next look may be earlier. */
  readonly latch: Latch.Latch
  nextAtMillis: number
  sightings: Map<string, Sighting | undefined>
}

export type Looks = Effect.Success<ReturnType<typeof makeLooks>>

/** Looks at each part of the agenda: when something is due, on hints, and from time to time. */
export const makeLooks = Effect.fnUntraced(function* (
  backend: StorageBackend["Service"],
  names: Names,
  { dueAtMillis, handle, isBusy, isOurs, longestMillis, pollMillis }: LookOptions
) {
  const clock = yield* Clock.Clock
  const now = () => clock.currentTimeMillisUnsafe()
  const newPart = (all: StoragePrefix, everyMillis: number): Part => ({
    all,
    everyMillis,
    latch: Latch.makeUnsafe(false),
    nextAtMillis: 0,
    sightings: new Map()
  })
  const parts = [
    ...names.agenda.map(({ all }) => newPart(all, pollMillis)),
    ...names.agenda.map(({ removals }) => newPart(removals, Math.max(removalsPollMillis, pollMillis)))
  ]

  /** Looks again at a time at the latest. */
  const lookBy = ({ owner }: Pick<StoragePrefix, "owner">, atMillis: number): void => {
    for (const part of parts) {
      if (part.all.owner !== owner) continue
      part.nextAtMillis = Math.min(part.nextAtMillis, atMillis)
      part.latch.openUnsafe()
    }
  }

  /** What a record says. Undefined if a later version wrote it, or another program. */
  const sight = Effect.fnUntraced(function* (part: Part, record: VersionedRecord) {
    const seen = part.sightings.get(record.key.id)
    if (seen !== undefined && seen.record.version === record.version && seen.record.writeId === record.writeId) {
      seen.count++
      return seen
    }
    const entry = Stored.entry.decodeOption(record)
    if (Option.isSome(entry)) return { entry: entry.value, record, sinceMillis: monotonicMillis(clock), count: 1 }
    if (!part.sightings.has(record.key.id))
      yield* Effect.logWarning(`The record at ${record.key} is no entry of workflows`)
    return undefined
  })

  /** Handles an entry, and returns when it is looked at again. One that can't be handled keeps no other waiting. */
  const handleOne = (part: Part, sighting: Sighting): Effect.Effect<number> =>
    handle(sighting).pipe(
      Effect.catchCause((cause) =>
        Effect.logWarning(`Could not handle ${sighting.entry.what} of ${sighting.entry.executionId}`, cause)
      ),
      Effect.map((millis) => now() + (millis ?? part.everyMillis))
    )

  const lookAt = Effect.fnUntraced(function* (part: Part) {
    const sightings: Part["sightings"] = new Map()
    const times: Array<number> = []
    part.nextAtMillis = Number.POSITIVE_INFINITY
    let [cursor, limit, isLate, idlePages] = [undefined as string | undefined, firstPageSize, false, 0]
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
        const sighting = yield* sight(part, record)
        sightings.set(record.key.id, sighting)
        if (sighting === undefined) continue
        const { atMillis = 0 } = sighting.entry
        // The entries come in the order of their times.
        isLate ||= atMillis > now()
        if (!isOurs(sighting.entry)) continue
        const dueAt = dueAtMillis(sighting.entry, atMillis)
        if (dueAt > now()) times.push(dueAt)
        else due.push(sighting)
      }
      if (due.length === 0) idlePages++
      times.push(...(yield* Effect.forEach(due, (sighting) => handleOne(part, sighting), { concurrency })))
    } while (cursor !== undefined && !isLate && !isBusy())
    part.sightings = sightings
    // Many entries of workflows that only others run are not read all the time.
    const restMillis = Math.min(part.everyMillis * Math.max(idlePages, 1), Math.max(part.everyMillis, longestMillis))
    part.nextAtMillis = Math.min(part.nextAtMillis, now() + restMillis, ...times)
  })

  const look = (part: Part) =>
    Effect.catchCause(lookAt(part), (cause) => {
      part.nextAtMillis = now() + part.everyMillis
      return Effect.logWarning("Workflows could not be looked for", cause)
    })

  const rest = (part: Part) =>
    Effect.suspend(() => {
      part.latch.closeUnsafe()
      const millis = part.nextAtMillis - now()
      return millis <= 0 ? Effect.void : Effect.raceFirst(part.latch.await, Effect.sleep(millis))
    })

  const lookAlways = (part: Part) =>
    Effect.gen(function* () {
      for (;;) {
        while (part.nextAtMillis > now()) yield* rest(part)
        yield* look(part)
        yield* Effect.sleep(pauseMillis)
      }
    })

  return {
    /** Looks at once. */
    now: (): void => {
      for (const { now } of names.agenda) lookBy(now, 0)
    },
    by: lookBy,
    /** Looks for as long as it runs. */
    run: Effect.all(
      [
        ...parts.map(lookAlways),
        ...names.agenda.map(({ now }) => Stream.runForEach(backend.hints(now), () => Effect.sync(() => lookBy(now, 0))))
      ],
      { concurrency: "unbounded", discard: true }
    )
  }
})
