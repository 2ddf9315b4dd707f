import { assert } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import type { StorageKey } from "../../StorageKey.ts"

/** What a client of a key did, and what it saw. `start` and `end` are instants of one logical clock. */
export interface Event {
  readonly start: number
  readonly end: number
  /** The version that was written, or seen by a read or in a conflict. */
  readonly version: number
  readonly data: string | undefined
  /** What a write went over, where it said so; undefined: not a write. */
  readonly over: number | "anything" | undefined
}

const Step = Schema.Literals(["get", "put", "putIfVersion", "putIfVersion", "putIfVersion"])

/** What each of a few fibers does to one key. */
export const programs = Arbitrary.array(Arbitrary.array(Arbitrary.schema(Step), { maxLength: 8 }), {
  minLength: 2,
  maxLength: 6
})

/** Runs the programs at once on one key and records what they did and saw. */
export const record = Effect.fnUntraced(function* (
  key: StorageKey,
  clients: ReadonlyArray<StorageBackend["Service"]>,
  programs: ReadonlyArray<ReadonlyArray<typeof Step.Type>>
) {
  const events: Array<Event> = []
  let clock = 0
  const first = yield* (clients[0] ?? (yield* StorageBackend)).put(key, "start")
  events.push({ start: clock++, end: clock++, version: first.version, data: first.data, over: "anything" })

  const timed = <E>(
    over: Event["over"],
    operation: Effect.Effect<VersionedRecord, E>
  ): Effect.Effect<VersionedRecord, E> =>
    Effect.suspend(() => {
      const start = clock++
      return Effect.tap(operation, ({ data, version }) => {
        events.push({ start, end: clock++, version, data, over })
        return Effect.void
      })
    })

  const run = Effect.fnUntraced(function* (program: ReadonlyArray<typeof Step.Type>, fiber: number) {
    const backend = clients[fiber % clients.length] ?? (yield* StorageBackend)
    let seen: VersionedRecord = first
    for (const [index, step] of program.entries()) {
      const data = `fiber ${fiber}, step ${index}`
      yield* Effect.yieldNow
      if (step === "get") {
        seen = yield* timed(undefined, backend.get(key))
      } else if (step === "put") {
        seen = yield* timed("anything", backend.put(key, data))
      } else {
        const start = clock++
        seen = yield* timed(seen.version, backend.putIfVersion(key, data, seen)).pipe(
          Effect.catchTag("VersionConflict", (conflict) => {
            events.push({
              start,
              end: clock++,
              version: conflict.actual,
              data: conflict.current?.data,
              over: undefined
            })
            return conflict.current === undefined
              ? timed(undefined, backend.get(key))
              : Effect.succeed(conflict.current)
          })
        )
      }
    }
  })
  yield* Effect.forEach(programs, run, { concurrency: "unbounded", discard: true })
  return events
})

/**
 * Asserts that a history is linearizable. Each write makes a version of its own, so the versions are the only order
 * that the writes can have had, and it is enough that it agrees with real time and with what was seen.
 */
export const assertLinearizable = (events: ReadonlyArray<Event>): void => {
  const writes = events.filter((event) => event.over !== undefined).sort((a, b) => a.version - b.version)
  for (const [index, write] of writes.entries()) {
    const before = writes[index - 1]
    assert.notStrictEqual(write.version, before?.version, "two writes made the same version")
    if (typeof write.over === "number") {
      assert.strictEqual(before?.version, write.over, "a compare-and-set went over another version than it expected")
    }
  }
  const byVersion = new Map(writes.map((write) => [write.version, write]))
  for (const event of events) {
    const write = byVersion.get(event.version)
    assert.isDefined(write, "a version was seen that nobody wrote")
    if (event.data !== undefined) assert.strictEqual(event.data, write?.data, "a version was seen with other data")
    assert.isBelow(write?.start ?? 0, event.end, "a version was seen before its write began")
  }
  for (const earlier of events) {
    for (const later of events) {
      if (earlier.end >= later.start) continue
      if (later.over === undefined) assert.isAtLeast(later.version, earlier.version, "a read went back in time")
      else assert.isAbove(later.version, earlier.version, "a write went back in time")
    }
  }
}
