import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  DateTime,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Metric,
  Option,
  References,
  Result,
  Schedule,
  Tracer
} from "effect"
import { TestClock } from "effect/testing"
import { make } from "../../src/Engine.ts"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import { makeBackend } from "../../src/StorageError.ts"
import type { Decision } from "../../src/update/attempt.ts"
import { updatesPerWrite } from "../../src/update/group.ts"
import { laneNames } from "../../src/update/lanes.ts"
import * as Update from "../../src/update/run.ts"
import { makeEngine } from "../support/memoryEngine.ts"
import { append, faulty, joinAll, key, makeGate, onMemory, start, write } from "./support.ts"

type Change = (current: VersionedRecord | undefined) => Effect.Effect<Decision<VersionedRecord>, string>

/** A lane whose leader is held before its write, so that all updates started meanwhile make one group. */
const held = Effect.fnUntraced(function* (fateOf: Parameters<typeof faulty>[0] = () => "pass") {
  const gate = yield* makeGate
  let isLed = false
  const faults = yield* faulty((request) => {
    if (isLed || request.name !== "putIfVersion")
      return isLed ? fateOf({ ...request, index: request.index - 2 }) : "pass"
    isLed = true
    return { before: gate.pass }
  })
  const run = Update.make(faults.backend)
  const update = (decide: Change) => run({ key, isShared: true, decide })
  yield* faults.other.put(key, "")
  const leader = yield* start(update(append("0")))
  yield* gate.isReached
  faults.taken()
  return { ...faults, gate, leader, run, update }
})

const throttled = makeBackend({ reason: "Throttled", outcome: "not-applied", description: "busy" })

describe("updates of one record that come while it is written", () => {
  it.effect("land in one write, each with its own version, in the order in which they came", () =>
    Effect.gen(function* () {
      const { gate, leader, other, taken, update } = yield* held()
      const members = yield* Effect.forEach(["1", "2", "3"], (text) => start(update(append(text))))
      yield* gate.open
      assert.deepInclude(yield* Fiber.join(leader), { version: 2, data: "0" })
      const records = yield* joinAll(members)
      assert.deepStrictEqual(
        records.map(({ data, version }) => [version, data]),
        [
          [3, "01"],
          [4, "012"],
          [5, "0123"]
        ]
      )
      assert.deepStrictEqual(taken(), ["putIfVersion"])
      assert.deepStrictEqual(yield* other.get(key), records[2])
      // Only the last one's record is current: a compare-and-set on another would wipe out those after it.
      for (const record of records.slice(0, 2)) {
        const error = yield* Effect.flip(other.putIfVersion(key, "wiped", record))
        assert.isTrue(error._tag === "VersionConflict" && error.actual === 5)
        assert.strictEqual((yield* Effect.flip(other.deleteIfVersion(key, record)))._tag, "VersionConflict")
      }
    }).pipe(onMemory)
  )

  it.effect("get their results only once the write has landed", () =>
    Effect.gen(function* () {
      const second = yield* makeGate
      const { gate, update } = yield* held(() => ({ after: second.pass }))
      const member = yield* start(update(append("1")))
      yield* gate.open
      yield* second.isReached
      assert.isUndefined(member.pollUnsafe())
      yield* second.open
      assert.strictEqual((yield* Fiber.join(member)).data, "01")
    }).pipe(onMemory)
  )

  it.effect("see text of their own, and each sees the expiry that the one before gave", () =>
    Effect.gen(function* () {
      const { gate, other, update } = yield* held()
      const seen: Array<VersionedRecord | undefined> = []
      const expiring =
        (millis: number): Change =>
        (current) => {
          seen.push(current)
          return Effect.succeed({ ...write("x"), expiresAt: DateTime.makeUnsafe(millis) } as Decision<VersionedRecord>)
        }
      const members = yield* Effect.forEach([1500, 0, 7000], (millis) => start(update(expiring(millis))))
      yield* gate.open
      const records = yield* joinAll(members)
      assert.deepStrictEqual(
        seen.map((current) => current?.expiresAt?.epochMilliseconds),
        // The second one's record has expired before the third one sees it.
        [undefined, 2000, undefined]
      )
      assert.isUndefined(seen[2])
      assert.deepStrictEqual(
        records.map(({ expiresAt }) => expiresAt?.epochMilliseconds),
        [2000, 0, 7000]
      )
      assert.deepStrictEqual(yield* other.get(key), records[2])
    }).pipe(onMemory)
  )

  it.effect("that fail, die or write nothing harm no other, and see what those before them wrote", () =>
    Effect.gen(function* () {
      const { gate, taken, update } = yield* held()
      const keep: Change = () => Effect.succeed({ _tag: "Keep", answer: (current) => current as VersionedRecord })
      const members = yield* Effect.forEach(
        [
          append("1"),
          (current: VersionedRecord | undefined) => Effect.fail(`failed on ${current?.data}`),
          keep,
          () => {
            throw new Error("thrown")
          },
          (current: VersionedRecord | undefined) =>
            Effect.succeed({
              ...write(`${current?.data}`),
              expiresAt: new Date()
            } as unknown as Decision<VersionedRecord>),
          append("2")
        ] as ReadonlyArray<Change>,
        (decide) => start(Effect.exit(update(decide)))
      )
      yield* gate.open
      const [first, failed, kept, thrown, invalid, last] = yield* joinAll(members)
      assert.deepStrictEqual(first && Exit.map(first, ({ version }) => version), Exit.succeed(3))
      assert.deepStrictEqual(failed, Exit.fail("failed on 01"))
      assert.deepStrictEqual(kept && Exit.map(kept, ({ data, version }) => [data, version]), Exit.succeed(["01", 3]))
      for (const exit of [thrown, invalid]) assert.isTrue(exit && Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      assert.deepStrictEqual(last && Exit.map(last, ({ data, version }) => [data, version]), Exit.succeed(["012", 4]))
      assert.deepStrictEqual(taken(), ["putIfVersion"])
    }).pipe(onMemory)
  )

  it.effect("are judged only on a record that was read since they came, if none of them writes", () =>
    Effect.gen(function* () {
      const { gate, leader, other, taken, update } = yield* held()
      const seen: Array<string | undefined> = []
      const keepOrFail =
        (text: string): Change =>
        (current) => {
          seen.push(`${text}${current?.data}`)
          if (text === "failed on ") return Effect.fail(text)
          return Effect.succeed({ _tag: "Keep", answer: (current) => current as VersionedRecord })
        }
      const kept = yield* start(update(keepOrFail("kept ")))
      const failed = yield* start(Effect.flip(update(keepOrFail("failed on "))))
      yield* gate.open
      yield* Fiber.join(leader)
      yield* other.put(key, "theirs")
      assert.deepInclude(yield* Fiber.join(kept), { data: "theirs", version: 3 })
      yield* Fiber.join(failed)
      assert.deepStrictEqual(seen, ["kept 0", "failed on 0", "kept theirs", "failed on theirs"])
      assert.deepStrictEqual(taken(), ["get"])
    }).pipe(onMemory)
  )

  it.effect("are judged on no record that a group has landed or read before they came", () =>
    Effect.gen(function* () {
      const keep: Decision<VersionedRecord> = { _tag: "Keep", answer: (current) => current as VersionedRecord }
      const keeping = () => Effect.succeed(keep)
      for (const isWrite of [true, false]) {
        const { put } = yield* StorageBackend
        const answer = yield* makeGate
        const { gate, update } = yield* held(({ index }) => (index === 0 ? { after: answer.pass } : "pass"))
        const first = yield* start(update(isWrite ? append("1") : keeping))
        yield* gate.open
        yield* answer.isReached
        yield* put(key, "newer")
        const late = yield* start(update(keeping))
        yield* answer.open
        assert.deepStrictEqual(
          (yield* joinAll([first, late])).map(({ data }) => data),
          [isWrite ? "01" : "0", "newer"]
        )
      }
    }).pipe(onMemory)
  )

  it.effect("find no record if the one that a group has landed expires before they run", () =>
    Effect.gen(function* () {
      const answer = yield* makeGate
      const { gate, update } = yield* held(({ index }) => (index === 0 ? { after: answer.pass } : "pass"))
      const expiring = yield* start(
        update(() =>
          Effect.succeed({ ...write("1"), expiresAt: DateTime.makeUnsafe(2000) } as Decision<VersionedRecord>)
        )
      )
      yield* gate.open
      yield* answer.isReached
      const late = yield* start(update(append("2")))
      yield* TestClock.adjust("3 seconds")
      yield* answer.open
      yield* Fiber.join(expiring)
      assert.strictEqual((yield* Fiber.join(late)).data, "2")
    }).pipe(onMemory)
  )

  it.effect("are judged on no record that a conflict carried before they came", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const answer = yield* makeGate
      const { gate, update } = yield* held(({ index }) =>
        index === 0 ? { before: Effect.orDie(put(key, "theirs")), after: answer.pass } : "pass"
      )
      const keep: Decision<VersionedRecord> = { _tag: "Keep", answer: (current) => current as VersionedRecord }
      const first = yield* start(
        update((current) => (current?.data === "0" ? append("1")(current) : Effect.succeed(keep)))
      )
      yield* gate.open
      yield* answer.isReached
      yield* put(key, "newer")
      const late = yield* start(update(() => Effect.succeed(keep)))
      yield* answer.open
      assert.deepStrictEqual(
        (yield* joinAll([first, late])).map(({ data }) => data),
        ["newer", "newer"]
      )
    }).pipe(onMemory)
  )

  it.effect("are judged on no record that the leader's conflict carried before they came", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const answer = yield* makeGate
      const { backend } = yield* faulty(({ index, name }) =>
        name === "putIfVersion" && index === 1
          ? { before: Effect.orDie(put(key, "theirs")), after: answer.pass }
          : "pass"
      )
      yield* put(key, "0")
      const run = Update.make(backend)
      const keep: Decision<VersionedRecord> = { _tag: "Keep", answer: (current) => current as VersionedRecord }
      const decide: Change = (current) => (current?.data === "0" ? append("1")(current) : Effect.succeed(keep))
      const leader = yield* start(run({ key, isShared: true, decide }))
      yield* answer.isReached
      yield* put(key, "newer")
      const late = yield* start(run({ key, isShared: true, decide }))
      yield* answer.open
      assert.deepStrictEqual(
        (yield* joinAll([leader, late])).map(({ data }) => data),
        ["newer", "newer"]
      )
    }).pipe(onMemory)
  )

  it.effect("run all again after a conflict, on the record that it carried", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const { gate, taken, update } = yield* held(({ index }) =>
        index === 0 ? { before: Effect.orDie(put(key, "theirs")) } : "pass"
      )
      const members = yield* Effect.forEach(["1", "2"], (text) => start(update(append(text))))
      yield* gate.open
      const data = (yield* joinAll(members)).map(({ data }) => data)
      assert.deepStrictEqual(data, ["theirs1", "theirs12"])
      assert.deepStrictEqual(taken(), ["putIfVersion", "putIfVersion"])
    }).pipe(onMemory)
  )

  it.effect("go on after the record is gone, each as its function says", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const { gate, update } = yield* held(({ index }) =>
        index === 0 ? { before: Effect.orDie(backend.delete(key)) } : "pass"
      )
      const strict: Change = (current) => (current === undefined ? Effect.fail("absent") : append("!")(current))
      const members = yield* Effect.forEach([strict, append("1"), strict], (decide) =>
        start(Effect.result(update(decide)))
      )
      yield* gate.open
      const results = (yield* joinAll(members)).map(Result.map(({ data, version }) => [data, version]))
      assert.deepStrictEqual(results, [Result.fail("absent"), Result.succeed(["1", 1]), Result.succeed(["1!", 2])])
    }).pipe(onMemory)
  )
})

describe("a write that groups share and that fails", () => {
  it.effect("with an unknown outcome fails those that wrote, and the others run again", () =>
    Effect.gen(function* () {
      for (const fate of ["lose", "drop"] as const) {
        const { gate, other, taken, update } = yield* held(({ index }) => (index === 0 ? fate : "pass"))
        const keep: Change = () => Effect.succeed({ _tag: "Keep", answer: (current) => current as VersionedRecord })
        const writers = yield* Effect.forEach(["1", "2"], (text) => start(Effect.flip(update(append(text)))))
        const kept = yield* start(update(keep))
        yield* gate.open
        for (const error of yield* joinAll(writers)) {
          assert.isTrue(typeof error === "object" && error._tag === "Backend" && error.outcome === "unknown")
        }
        assert.deepStrictEqual(yield* Fiber.join(kept), yield* other.get(key))
        assert.deepStrictEqual(taken(), ["putIfVersion", "get"])
      }
    }).pipe(onMemory)
  )

  it.effect("and was not applied comes out of those that wrote, as does the failure of a read out of all", () =>
    Effect.gen(function* () {
      const { gate, other, update } = yield* held(({ index }) =>
        index === 0 ? throttled : index === 1 ? "deny" : "pass"
      )
      const keep: Change = () => Effect.succeed({ _tag: "Keep", answer: (current) => current as VersionedRecord })
      const writer = yield* start(Effect.flip(update(append("1"))))
      const kept = yield* start(Effect.flip(update(keep)))
      yield* gate.open
      assert.strictEqual(yield* Fiber.join(writer), throttled)
      assert.deepInclude(yield* Fiber.join(kept), { _tag: "Backend", outcome: "not-applied" })
      assert.strictEqual((yield* other.get(key)).data, "0")
    }).pipe(onMemory)
  )

  it.effect("since the record is too large is halved, until only those are refused that are too large themselves", () =>
    Effect.gen(function* () {
      const limited = StorageBackend.of(make(makeEngine().engine, { maxDataBytes: 10 }))
      const { gate, other, update } = yield* Effect.provideService(held(), StorageBackend, limited)
      const texts = ["1", "22", "333", "4444", "5555", "6", "7"]
      const members = yield* Effect.forEach(texts, (text) => start(Effect.result(update(append(text)))))
      yield* gate.open
      const results = yield* joinAll(members)
      const landed = results.flatMap((result) => (Result.isSuccess(result) ? [result.success.data] : []))
      // One at a time: 0, 01, 0122, 0122333; 4444 and 5555 do not fit; 6 and 7 do.
      assert.deepStrictEqual(landed, ["01", "0122", "0122333", "01223336", "012233367"])
      for (const result of results.filter(Result.isFailure))
        assert.propertyVal(result.failure, "_tag", "CapacityExceeded")
      assert.strictEqual((yield* other.get(key)).data, "012233367")
    }).pipe(onMemory)
  )

  it.effect("since the record is too large is judged again on a record that was read since", () =>
    Effect.gen(function* () {
      const limited = StorageBackend.of(make(makeEngine().engine, { maxDataBytes: 10 }))
      const { gate, leader, other, update } = yield* Effect.provideService(held(), StorageBackend, limited)
      const member = yield* start(update(append("123456789a")))
      yield* gate.open
      yield* Fiber.join(leader)
      yield* other.put(key, "")
      assert.strictEqual((yield* Fiber.join(member)).data, "123456789a")
    }).pipe(onMemory)
  )

  it.effect("never stores or answers a record that the backend would have refused on its own", () =>
    Effect.gen(function* () {
      const limited = StorageBackend.of(make(makeEngine().engine, { maxDataBytes: 10 }))
      const { gate, other, update } = yield* Effect.provideService(held(), StorageBackend, limited)
      const replace =
        (data: string): Change =>
        () =>
          Effect.succeed(write(data))
      const members = yield* Effect.forEach(["12345678901", "small"], (data) =>
        start(Effect.result(update(replace(data))))
      )
      yield* gate.open
      const [large, small] = yield* joinAll(members)
      assert.isTrue(large && Result.isFailure(large))
      assert.isTrue(small && Result.isSuccess(small))
      assert.strictEqual((yield* other.get(key)).data, "small")
    }).pipe(onMemory)
  )
})

describe("a caller that is interrupted", () => {
  it.effect("is left out if its function has not been sent", () =>
    Effect.gen(function* () {
      const { gate, other, update } = yield* held()
      const members = yield* Effect.forEach(["1", "2", "3"], (text) => start(update(append(text))))
      yield* Fiber.interrupt(members[1] as Fiber.Fiber<unknown>)
      yield* gate.open
      yield* joinAll([members[0], members[2]] as typeof members)
      assert.strictEqual((yield* other.get(key)).data, "013")
    }).pipe(onMemory)
  )

  it.effect("is left out if its function has run, and that of another one still runs", () =>
    Effect.gen(function* () {
      const slow = yield* makeGate
      const { gate, other, update } = yield* held()
      const first = yield* start(update(append("1")))
      const second = yield* start(update((current) => Effect.andThen(slow.pass, append("2")(current))))
      yield* gate.open
      yield* slow.isReached
      yield* Fiber.interrupt(first)
      yield* slow.open
      yield* Fiber.join(second)
      assert.strictEqual((yield* other.get(key)).data, "02")
    }).pipe(onMemory)
  )

  it.effect("returns at once although its function has been sent, and is left out if the group runs again", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const second = yield* makeGate
      const { gate, other, update } = yield* held(({ index }) =>
        index === 0 ? { before: Effect.andThen(second.pass, Effect.orDie(put(key, "theirs"))) } : "pass"
      )
      const members = yield* Effect.forEach(["1", "2", "3"], (text) => start(update(append(text))))
      yield* gate.open
      yield* second.isReached
      yield* Fiber.interrupt(members[1] as Fiber.Fiber<unknown>)
      yield* second.open
      yield* joinAll([members[0], members[2]] as typeof members)
      assert.strictEqual((yield* other.get(key)).data, "theirs13")
    }).pipe(onMemory)
  )

  it.effect("cancels the request only if all callers of its group are interrupted", () =>
    Effect.gen(function* () {
      const second = yield* makeGate
      const cancelled = yield* Deferred.make<void>()
      const { gate, other, update } = yield* held(({ index }) =>
        index === 0 ? { before: Effect.onInterrupt(second.pass, () => Deferred.succeed(cancelled, undefined)) } : "pass"
      )
      const members = yield* Effect.forEach(["1", "2"], (text) => start(update(append(text))))
      yield* gate.open
      yield* second.isReached
      const later = yield* start(update(append("3")))
      yield* Fiber.interrupt(members[0] as Fiber.Fiber<unknown>)
      assert.isFalse(yield* Deferred.isDone(cancelled))
      yield* Fiber.interrupt(members[1] as Fiber.Fiber<unknown>)
      yield* Deferred.await(cancelled)
      assert.strictEqual((yield* Fiber.join(later)).data, "03")
      assert.strictEqual((yield* other.get(key)).data, "03")
    }).pipe(onMemory)
  )

  it.effect("frees the lane if it leads it", () =>
    Effect.gen(function* () {
      const { leader, other, update } = yield* held()
      const member = yield* start(update(append("1")))
      yield* Fiber.interrupt(leader)
      assert.strictEqual((yield* Fiber.join(member)).data, "1")
      assert.strictEqual((yield* other.get(key)).data, "1")
    }).pipe(onMemory)
  )

  it.effect("frees the lane however far it has come", () =>
    Effect.gen(function* () {
      const clock = yield* Clock.Clock
      const backend = yield* StorageBackend
      const run = Update.make(backend)
      for (const retrySchedule of [undefined, Schedule.recurs(3)]) {
        const update = run({ key, isShared: true, retrySchedule, decide: append(".") })
        // The fiber gives way after every few steps, so it can be interrupted between any two.
        for (const steps of [4, 5, 6, 7, 8, 9, 10]) {
          const slow = Effect.provideService(update, References.MaxOpsBeforeYield, steps)
          let isDone = false
          for (let turns = 0; !isDone; turns++) {
            assert.isBelow(turns, 1000)
            const fiber = yield* Effect.forkChild(slow)
            for (let i = 0; i < turns; i++) yield* Effect.yieldNow
            isDone = fiber.pollUnsafe() !== undefined
            yield* Fiber.interrupt(fiber)
            assert.deepStrictEqual(laneNames(backend, clock), [], `after ${turns} turns of ${steps} steps`)
          }
        }
      }
    }).pipe(onMemory)
  )

  it.effect("waits for its write if it must know whether that landed", () =>
    Effect.gen(function* () {
      const second = yield* makeGate
      const { gate, run } = yield* held(({ index }) => (index === 0 ? { before: second.pass } : "pass"))
      const landed: Array<string> = []
      const onLanded = ({ data }: VersionedRecord) => landed.push(data)
      const members = yield* Effect.forEach(["1", "2"], (text) =>
        start(run({ key, isShared: true, decide: append(text), onLanded }))
      )
      yield* gate.open
      yield* second.isReached
      // The request's fiber has gone on to this test. Now the lane sees that the request waits.
      yield* Effect.yieldNow
      const interruptions = yield* Effect.forEach(members, (member) => start(Fiber.interrupt(member)))
      for (const interruption of interruptions) assert.isUndefined(interruption.pollUnsafe())
      yield* second.open
      yield* joinAll(interruptions)
      assert.deepStrictEqual(landed, ["01", "012"])
    }).pipe(onMemory)
  )
})

describe("a lane", () => {
  it.effect("is gone when its queue is empty", () =>
    Effect.gen(function* () {
      const clock = yield* Clock.Clock
      const { backend, gate, leader, update } = yield* held()
      const member = yield* start(update(append("1")))
      assert.deepStrictEqual(laneNames(backend, clock), ["alice\0a"])
      yield* gate.open
      yield* Fiber.join(leader)
      yield* Fiber.join(member)
      yield* Effect.yieldNow
      assert.deepStrictEqual(laneNames(backend, clock), [])
    }).pipe(onMemory)
  )

  it.effect("holds one clock: calls with another one make a lane of their own", () =>
    Effect.gen(function* () {
      const { gate, taken, update } = yield* held()
      const other = { ...(yield* Clock.Clock) }
      const member = yield* start(Effect.provideService(update(append("1")), Clock.Clock, other))
      assert.strictEqual((yield* Fiber.join(member)).data, "1")
      assert.deepStrictEqual(taken(), ["get", "putIfVersion"])
      yield* gate.open
    }).pipe(onMemory)
  )

  it.effect("holds at most 256 updates a write", () =>
    Effect.gen(function* () {
      const { gate, taken, update } = yield* held()
      const members = yield* Effect.forEach(Array.from({ length: 300 }), () => start(update(append("."))))
      yield* gate.open
      yield* joinAll(members)
      assert.deepStrictEqual(taken(), ["putIfVersion", "putIfVersion"])
    }).pipe(onMemory)
  )

  it.effect("leaves functions that would hold the loop for long to the next group", () => {
    // A clock whose time passes as the functions say.
    let nanos = 0n
    return Effect.gen(function* () {
      const clock = yield* Clock.Clock
      const slow = Object.assign(Object.create(clock) as Clock.Clock, { monotonicTimeNanosUnsafe: () => nanos })
      const tick: Change = (current) => {
        nanos += 2_000_000n
        return append(".")(current)
      }
      yield* Effect.gen(function* () {
        const { gate, taken, update } = yield* held()
        const members = yield* Effect.forEach(Array.from({ length: 6 }), () => start(update(tick)))
        yield* gate.open
        assert.deepStrictEqual(
          (yield* joinAll(members)).map(({ data }) => data),
          ["0.", "0..", "0...", "0....", "0.....", "0......"]
        )
        assert.deepStrictEqual(taken(), ["putIfVersion", "putIfVersion"])
      }).pipe(Effect.provideService(Clock.Clock, slow))
    }).pipe(onMemory)
  })

  it.effect("lets a caller wait no longer than 30 seconds: then it goes on without the lane", () =>
    Effect.gen(function* () {
      const { gate, leader, run, taken, update } = yield* held()
      const member = yield* start(update(append("1")))
      const turn = yield* start(run({ key, isShared: true, retrySchedule: Schedule.recurs(3), decide: append("2") }))
      yield* TestClock.adjust("29 seconds")
      assert.deepStrictEqual(taken(), [])
      yield* TestClock.adjust("2 seconds")
      const records = yield* joinAll([member, turn])
      assert.sameMembers(
        records.map(({ data }) => data),
        ["1", "12"]
      )
      yield* gate.open
      // The leader's write is in conflict now, and its time is over.
      assert.propertyVal(yield* Effect.flip(Fiber.join(leader)), "_tag", "VersionConflict")
    }).pipe(onMemory)
  )

  it.effect("retries a conflict for 30 seconds from the call", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const { gate, leader, update } = yield* held(() => ({ before: Effect.orDie(put(key, "theirs")) }))
      const member = yield* start(update(append("1")))
      yield* TestClock.adjust("20 seconds")
      const late = yield* start(update(append("2")))
      yield* gate.open
      yield* Fiber.join(leader)
      yield* TestClock.adjust("9 seconds")
      assert.isUndefined(member.pollUnsafe())
      yield* TestClock.adjust("2 seconds")
      assert.propertyVal(yield* Effect.flip(Fiber.join(member)), "_tag", "VersionConflict")
      assert.isUndefined(late.pollUnsafe())
      yield* TestClock.adjust("20 seconds")
      assert.propertyVal(yield* Effect.flip(Fiber.join(late)), "_tag", "VersionConflict")
    }).pipe(onMemory)
  )

  it.effect("waits after each eight conflicts in a row, and then reads the record again", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const { gate, taken, update } = yield* held(({ name }) =>
        name === "putIfVersion" ? { before: Effect.orDie(put(key, "theirs")) } : "pass"
      )
      const member = yield* start(update(append("1")))
      yield* gate.open
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(
        taken(),
        Array.from({ length: 8 }, () => "putIfVersion")
      )
      yield* TestClock.adjust("2 millis")
      assert.deepStrictEqual(taken().slice(0, 2), ["get", "putIfVersion"])
      yield* Fiber.interrupt(member)
    }).pipe(onMemory)
  )

  it.effect("halves its groups after four conflicts in a row", () =>
    Effect.gen(function* () {
      const { put } = yield* StorageBackend
      const sizes: Array<number> = []
      let conflicts = 0
      const counted = Effect.map(StorageBackend, (backend) =>
        StorageBackend.of({
          ...backend,
          putIfVersion: (key, data, expected, options) => {
            if (options?.increment !== undefined) sizes.push(options.increment)
            return backend.putIfVersion(key, data, expected, options)
          }
        })
      )
      yield* Effect.gen(function* () {
        const { gate, update } = yield* held(() =>
          conflicts++ < 6 ? { before: Effect.orDie(put(key, "theirs")) } : "pass"
        )
        const members = yield* Effect.forEach(Array.from({ length: 16 }), () => start(update(append("."))))
        yield* gate.open
        yield* joinAll(members)
      }).pipe(Effect.provideServiceEffect(StorageBackend, counted))
      assert.deepStrictEqual(sizes.slice(0, 7), [16, 16, 16, 16, 8, 4, 2])
    }).pipe(onMemory)
  )

  it.effect("tells how many updates landed in each write of a group", () =>
    Effect.gen(function* () {
      const { gate, update } = yield* held()
      const members = yield* Effect.forEach(["1", "2", "3"], (text) => start(update(append(text))))
      yield* gate.open
      yield* joinAll(members)
      const { count, max, sum } = yield* Metric.value(updatesPerWrite)
      assert.deepStrictEqual({ count, max, sum }, { count: 1, max: 3, sum: 3 })
    }).pipe(onMemory, Effect.provideService(Metric.MetricRegistry, new Map()))
  )

  it.effect("sends its requests in spans without a parent, which are linked to the spans of its members", () =>
    Effect.gen(function* () {
      const spans: Array<Tracer.Span> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const { put } = yield* StorageBackend
      const traced = Effect.map(StorageBackend, (backend) =>
        StorageBackend.of({
          ...backend,
          putIfVersion: (...args) => Effect.withSpan(backend.putIfVersion(...args), "write")
        })
      )
      yield* Effect.gen(function* () {
        const { gate, update } = yield* held(({ index }) =>
          index === 0 ? { before: Effect.orDie(put(key, "theirs")) } : "pass"
        )
        const members = yield* Effect.forEach(["1", "2"], (text) =>
          start(Effect.withSpan(update(append(text)), `caller ${text}`))
        )
        yield* gate.open
        yield* joinAll(members)
      }).pipe(
        Effect.provideServiceEffect(StorageBackend, traced),
        Effect.withSpan("leader"),
        Effect.provideService(Tracer.Tracer, tracer)
      )
      const named = (name: string) => spans.find((span) => span.name === name)
      const grouped = spans.filter(({ links, name }) => name === "write" && links.length > 0)
      const linked = ["caller 1", "caller 2"].map((name) => named(name)?.spanId ?? "")
      // The first one is in conflict, and the second one lands.
      assert.strictEqual(grouped.length, 2)
      for (const { links, parent } of grouped) {
        assert.deepStrictEqual(
          links.map(({ span }) => span.spanId),
          linked
        )
        assert.isTrue(Option.isNone(parent))
      }
    }).pipe(onMemory)
  )
})

describe("GroupCommit", () => {
  it.effect("switched off, lets each update write on its own", () =>
    Effect.gen(function* () {
      const { gate, other, taken, update } = yield* held()
      const members = yield* Effect.forEach(["1", "2"], (text) =>
        start(Effect.provideService(update(append(text)), Update.GroupCommit, false))
      )
      const records = yield* joinAll(members)
      assert.strictEqual(new Set(records.map(({ writeId }) => writeId)).size, 2)
      assert.deepStrictEqual(taken(), ["get", "putIfVersion", "get", "putIfVersion"])
      yield* gate.open
      assert.strictEqual((yield* other.get(key)).data, "12")
    }).pipe(onMemory)
  )
})
