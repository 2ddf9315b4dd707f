import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, DateTime, Effect, Exit, Fiber, Option, Schedule, Schema, SchemaGetter, Stream } from "effect"
import { TestClock } from "effect/testing"
import { type Engine, make as makeBackend } from "../src/Engine.ts"
import * as InMemory from "../src/engine/InMemory.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import { VersionConflict } from "../src/StorageError.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import * as Faults from "../src/testing/Faults.ts"
import * as VersionedStore from "../src/VersionedStore.ts"
import { makeEngine } from "./support/memoryEngine.ts"
import { layerPlantable } from "./support/plantable.ts"

const Order = Schema.Struct({ total: Schema.Number, paid: Schema.Boolean })
const order = { total: 10, paid: false }
const key = { owner: "alice", id: "42" }

const makeOrders = VersionedStore.make({ idPrefix: "order/", schema: Order })
const makeCounters = VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })

/** Runs an Effect on a memory backend whose requests are counted, with something done before each swap. */
const withRequests = <A, E, R>(
  effect: (requests: Array<keyof Engine>, other: StorageBackend["Service"]) => Effect.Effect<A, E, R>,
  beforeSwap: (swaps: number, other: StorageBackend["Service"]) => Effect.Effect<unknown, unknown> = () => Effect.void
) => {
  const { engine } = makeEngine()
  const other = makeBackend(engine)
  let swaps = 0
  const { engine: counted, requests } = Faults.engine(engine, ({ name }) =>
    name === "swap" ? { before: beforeSwap(++swaps, other) } : "pass"
  )
  return Effect.provideService(effect(requests, other), StorageBackend, makeBackend(counted))
}

const stored = makeUnsafe({ owner: "alice", id: "counter/42" })

describe("VersionedStore", () => {
  it.effect("creates, gets, sets and removes records", () =>
    Effect.gen(function* () {
      const orders = yield* makeOrders
      const created = yield* orders.create(key, order)
      assert.deepStrictEqual(created.key, key)
      assert.deepStrictEqual(created.value, order)
      assert.strictEqual(created.version, 1)
      assert.strictEqual(created.expiresAt, undefined)
      assert.deepStrictEqual(yield* orders.get(key), created)
      assert.strictEqual((yield* Effect.flip(orders.create(key, order)))._tag, "AlreadyExists")
      const set = yield* orders.set(key, { total: 20, paid: true })
      assert.deepStrictEqual(set.value, { total: 20, paid: true })
      assert.deepStrictEqual(yield* orders.get(key), set)
      assert.isTrue(yield* orders.remove(key))
      assert.isFalse(yield* orders.remove(key))
      assert.strictEqual((yield* Effect.flip(orders.get(key)))._tag, "RecordNotFound")
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("keeps a value as JSON under the store's prefix", () =>
    Effect.gen(function* () {
      const orders = yield* makeOrders
      yield* orders.create(key, order)
      const record = yield* StorageBackend.use((backend) => backend.get(makeUnsafe({ owner: "alice", id: "order/42" })))
      assert.deepStrictEqual(JSON.parse(record.data), order)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("refuses keys and prefixes that can't be", () =>
    Effect.gen(function* () {
      const orders = yield* makeOrders
      for (const key of [
        { owner: "", id: "42" },
        { owner: "alice", id: "" },
        { owner: "alice", id: "a".repeat(507) }
      ]) {
        assert.strictEqual((yield* Effect.flip(orders.get(key)))._tag, "InvalidKey")
        assert.strictEqual((yield* Effect.flip(orders.create(key, order)))._tag, "InvalidKey")
      }
      assert.strictEqual((yield* Effect.flip(orders.list({ owner: "" })))._tag, "InvalidKey")
      // A prefix that can't be is a mistake in the program.
      const exit = yield* Effect.exit(VersionedStore.make({ idPrefix: "\ud800", schema: Order }))
      const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.propertyVal(
        defect,
        "message",
        "Invalid key: the idPrefix has a lone surrogate, which is not a character and has no UTF-8"
      )
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("updates and modifies with functions and with Effects", () =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      yield* counters.create(key, 1)
      assert.strictEqual((yield* counters.update(key, (n) => n + 1)).value, 2)
      assert.strictEqual(yield* counters.modify(key, (n) => [`was ${n}`, n + 1]), "was 2")
      assert.strictEqual((yield* counters.updateEffect(key, (n) => Effect.succeed(n + 1))).version, 4)
      assert.strictEqual(yield* counters.modifyEffect(key, (n) => Effect.succeed([n, n + 1])), 4)
      assert.strictEqual((yield* counters.get(key)).value, 5)
      const other = { owner: "alice", id: "43" }
      assert.strictEqual((yield* Effect.flip(counters.update(other, (n) => n + 1)))._tag, "RecordNotFound")
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("writes nothing where the caller's function fails or throws", () =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      const created = yield* counters.create(key, 1)
      assert.strictEqual(yield* Effect.flip(counters.updateEffect(key, () => Effect.fail("no"))), "no")
      const thrown = yield* Effect.exit(
        counters.update(key, () => {
          throw new Error("thrown")
        })
      )
      assert.include(String(thrown), "thrown")
      assert.deepStrictEqual(yield* counters.get(key), created)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("writes over and removes exactly the record that was read", () =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      const first = yield* counters.create(key, 1)
      const second = yield* counters.setIfVersion(first, 2)
      assert.strictEqual(second.version, 2)
      assert.strictEqual((yield* Effect.flip(counters.setIfVersion(first, 3)))._tag, "VersionConflict")
      assert.strictEqual((yield* Effect.flip(counters.removeIfVersion(first)))._tag, "VersionConflict")
      yield* counters.remove(key)
      yield* counters.create(key, 1)
      yield* counters.update(key, () => 9)
      assert.strictEqual((yield* Effect.flip(counters.setIfVersion(second, 3)))._tag, "VersionConflict")
      yield* counters.removeIfVersion(yield* counters.get(key))
      assert.strictEqual((yield* Effect.flip(counters.setIfVersion(second, 3)))._tag, "RecordNotFound")
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("neither writes over nor removes a record of the same version that was created again since", () =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      const read = yield* counters.create(key, 1)
      yield* counters.remove(key)
      const again = yield* counters.create(key, 1)
      assert.strictEqual(again.version, read.version)
      assert.strictEqual((yield* Effect.flip(counters.setIfVersion(read, 2)))._tag, "VersionConflict")
      assert.strictEqual((yield* Effect.flip(counters.removeIfVersion(read)))._tag, "VersionConflict")
      assert.deepStrictEqual(yield* counters.get(key), again)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("keeps a record's expiry across updates unless it is changed", () =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      const now = yield* DateTime.now
      const at = (seconds: number) => DateTime.add(now, { seconds })
      const created = yield* counters.create(key, 1, { expiresAt: at(10) })
      assert.deepStrictEqual(created.expiresAt, at(10))
      assert.deepStrictEqual((yield* counters.update(key, (n) => n + 1)).expiresAt, at(10))
      yield* counters.modify(key, (n) => [n, n + 1])
      const kept = yield* counters.get(key)
      assert.deepStrictEqual(kept.expiresAt, at(10))
      assert.deepStrictEqual((yield* counters.setIfVersion(kept, 7)).expiresAt, at(10))
      assert.deepStrictEqual((yield* counters.update(key, (n) => n, { expiresAt: at(20) })).expiresAt, at(20))
      assert.deepStrictEqual((yield* counters.upsert(key, () => 1)).expiresAt, at(20))
      assert.deepStrictEqual((yield* counters.update(key, (n) => n, { expiresAt: "never" })).expiresAt, undefined)
      assert.deepStrictEqual((yield* counters.set(key, 1, { expiresAt: at(5) })).expiresAt, at(5))
      assert.deepStrictEqual((yield* counters.set(key, 1)).expiresAt, undefined)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("writes nothing if updateSome or modifySome decides so, and returns the record as it is", () =>
    withRequests(
      Effect.fnUntraced(function* (requests) {
        const counters = yield* makeCounters
        const created = yield* counters.create(key, 1)
        const take = (n: number) => (n > 0 ? Option.some(n - 1) : Option.none())
        assert.deepStrictEqual((yield* counters.updateSome(key, take)).version, 2)
        assert.strictEqual(yield* counters.modifySome(key, (n) => [`has ${n}`, take(n)]), "has 0")
        const kept = yield* counters.updateSome(key, take)
        assert.deepStrictEqual([kept.value, kept.version], [0, 2])
        assert.notStrictEqual(kept.stored.writeId, created.stored.writeId)
        assert.deepStrictEqual(requests, ["swap", "read", "swap", "read", "read"])
        const missing = { owner: "alice", id: "43" }
        assert.strictEqual((yield* Effect.flip(counters.updateSome(missing, take)))._tag, "RecordNotFound")
      })
    )
  )
})

describe("VersionedStore, on a conflict", () => {
  const overwriteUntil = (times: number) => (swaps: number, other: StorageBackend["Service"]) =>
    swaps <= times ? other.put(stored, String(swaps * 100)) : Effect.void

  it.effect("first retries at once and from the record that the conflict carried: one request", () =>
    withRequests(
      Effect.fnUntraced(function* (requests) {
        const counters = yield* makeCounters
        yield* counters.set(key, 1)
        const record = yield* counters.update(key, (n) => n + 1)
        assert.strictEqual(record.value, 101)
        assert.deepStrictEqual(requests, ["put", "read", "swap", "swap"])
      }),
      overwriteUntil(1)
    )
  )

  it.effect("then waits as the schedule says, and reads again", () =>
    withRequests(
      Effect.fnUntraced(function* (requests) {
        const counters = yield* VersionedStore.make({
          idPrefix: "counter/",
          schema: Schema.Int,
          retrySchedule: Schedule.exponential("10 millis")
        })
        yield* counters.set(key, 1)
        const fiber = yield* Effect.forkChild(counters.update(key, (n) => n + 1))
        yield* TestClock.adjust("19 millis")
        assert.deepStrictEqual(requests, ["put", "read", "swap", "swap"])
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(requests, ["put", "read", "swap", "swap", "read", "swap"])
        yield* TestClock.adjust("40 millis")
        assert.strictEqual((yield* Fiber.join(fiber)).value, 301)
      }),
      overwriteUntil(3)
    )
  )

  it.effect("starts from the conflict's record whenever the schedule does not wait", () =>
    withRequests(
      Effect.fnUntraced(function* (requests) {
        const counters = yield* makeCounters
        yield* counters.set(key, 1)
        const record = yield* counters.update(key, (n) => n + 1, { retrySchedule: Schedule.forever })
        assert.strictEqual(record.value, 501)
        assert.deepStrictEqual(requests, ["put", "read", ...Array.from({ length: 6 }, () => "swap")])
      }),
      overwriteUntil(5)
    )
  )

  it.effect("raises the conflict when the schedule is spent", () =>
    withRequests(
      Effect.fnUntraced(function* (requests) {
        const counters = yield* makeCounters
        yield* counters.set(key, 1)
        const once = yield* Effect.flip(counters.update(key, (n) => n + 1, { retrySchedule: Schedule.recurs(0) }))
        assert.strictEqual(once._tag, "VersionConflict")
        assert.deepStrictEqual(requests, ["put", "read", "swap"])
        const spent = Effect.fnUntraced(function* (options?: VersionedStore.UpdateOptions) {
          const fiber = yield* Effect.forkChild(Effect.flip(counters.update(key, (n) => n + 1, options)))
          yield* TestClock.adjust("29900 millis")
          assert.isUndefined(fiber.pollUnsafe())
          yield* TestClock.adjust("1 second")
          return yield* Fiber.join(fiber)
        })
        for (const grouped of [true, false]) {
          const error = yield* Effect.provideService(spent(), VersionedStore.GroupCommit, grouped)
          assert.strictEqual(error._tag, "VersionConflict")
        }
        assert.strictEqual(
          (yield* spent({ retrySchedule: VersionedStore.defaultRetrySchedule }))._tag,
          "VersionConflict"
        )
      }),
      overwriteUntil(Infinity)
    )
  )

  it.effect("gives the schedule the conflict, so that it may decide on it", () =>
    withRequests(
      Effect.fnUntraced(function* (requests) {
        const counters = yield* makeCounters
        yield* counters.set(key, 1)
        const retrySchedule = Schedule.forever.pipe(
          Schedule.setInputType<VersionConflict>(),
          Schedule.while(({ input }) => input.actual < 4)
        )
        const error = yield* Effect.flip(counters.update(key, (n) => n + 1, { retrySchedule }))
        assert.isTrue(error._tag === "VersionConflict" && error.actual === 4)
        assert.strictEqual(requests.filter((request) => request === "swap").length, 3)
      }),
      overwriteUntil(Infinity)
    )
  )

  it.effect("runs the function again on the newest record, so that its checks hold", () =>
    withRequests(
      Effect.fnUntraced(function* () {
        const counters = yield* makeCounters
        yield* counters.set(key, 1)
        const seen: Array<number> = []
        const error = yield* Effect.flip(
          counters.updateEffect(key, (n) => {
            seen.push(n)
            return n > 50 ? Effect.fail("too much" as const) : Effect.succeed(n + 1)
          })
        )
        assert.strictEqual(error, "too much")
        assert.deepStrictEqual(seen, [1, 100])
      }),
      overwriteUntil(1)
    )
  )

  it.effect("does not retry a conflict that the caller's own Effect raises", () =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      yield* counters.create(key, 1)
      let runs = 0
      const own = new VersionConflict({ key: stored, expected: 1, actual: 2, current: undefined })
      const error = yield* Effect.flip(
        counters.updateEffect(key, () => {
          runs++
          return Effect.fail(own)
        })
      )
      assert.strictEqual(error, own)
      assert.strictEqual(runs, 1)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("fails with RecordNotFound where the record goes meanwhile", () =>
    withRequests(
      Effect.fnUntraced(function* () {
        const counters = yield* makeCounters
        yield* counters.set(key, 1)
        assert.strictEqual((yield* Effect.flip(counters.update(key, (n) => n + 1)))._tag, "RecordNotFound")
      }),
      (_, other) => other.delete(stored)
    )
  )
})

describe("VersionedStore.upsert", () => {
  const count = Option.match({ onNone: () => 1, onSome: (n: number) => n + 1 })

  it.effect("creates a record, and updates one that is there", () =>
    withRequests(
      Effect.fnUntraced(function* (requests) {
        const counters = yield* makeCounters
        assert.strictEqual((yield* counters.upsert(key, count)).value, 1)
        assert.strictEqual((yield* counters.upsert(key, count)).value, 2)
        assert.deepStrictEqual(requests, ["read", "swap", "read", "swap"])
      })
    )
  )

  it.effect("updates a record that another creates meanwhile", () =>
    withRequests(
      Effect.fnUntraced(function* () {
        const counters = yield* makeCounters
        assert.strictEqual((yield* counters.upsert(key, count)).value, 8)
      }),
      (swaps, other) => (swaps === 1 ? other.put(stored, "7") : Effect.void)
    )
  )

  it.effect("creates a record anew that another removes meanwhile", () =>
    withRequests(
      Effect.fnUntraced(function* () {
        const counters = yield* makeCounters
        yield* counters.set(key, 7)
        assert.strictEqual((yield* counters.upsert(key, count)).value, 1)
      }),
      (swaps, other) => (swaps === 1 ? other.delete(stored) : Effect.void)
    )
  )

  it.effect(
    "creates a record anew without a retry of the schedule or a read, since there is nothing to conflict with",
    () =>
      withRequests(
        Effect.fnUntraced(function* (requests) {
          const counters = yield* makeCounters
          yield* counters.set(key, 7)
          const record = yield* counters.upsert(key, count, { retrySchedule: Schedule.recurs(0) })
          assert.deepStrictEqual([record.value, record.version], [1, 1])
          assert.deepStrictEqual(requests, ["put", "read", "swap", "swap"])
        }),
        (swaps, other) => (swaps === 1 ? other.delete(stored) : Effect.void)
      )
  )
})

describe("VersionedStore, from many fibers", () => {
  const increments = (fibers: number, times: number, schedule?: Schedule.Schedule<unknown>) =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      yield* counters.create(key, 0)
      yield* Effect.forEach(
        Array.from({ length: fibers }),
        () =>
          Effect.forEach(
            Array.from({ length: times }),
            () => counters.update(key, (n) => n + 1, { retrySchedule: schedule }),
            { discard: true }
          ),
        { concurrency: "unbounded", discard: true }
      )
      return (yield* counters.get(key)).value
    })

  it.live("64 fibers with 1,000 increments each of one record lose none", () =>
    Effect.gen(function* () {
      assert.strictEqual(yield* Effect.provide(increments(64, 1000), InMemory.layer), 64_000)
    })
  )

  it.live("and lose some on a backend that ignores the version", () =>
    Effect.gen(function* () {
      const broken = layerPlantable(({ put, swap }) => ({
        swap: (key, write, expectation, nowSeconds) =>
          expectation._tag === "Absent"
            ? swap(key, write, expectation, nowSeconds)
            : // Otherwise a fiber may always be paused after its write, as its steps fall.
              Effect.flatMap(Effect.yieldNow, () => put(key, write, nowSeconds))
      }))
      const lost = Effect.provideService(increments(16, 20), VersionedStore.GroupCommit, false)
      assert.isBelow(yield* Effect.provide(lost, broken), 320)
    })
  )

  it.live("none is lost where fibers change places between every request", () =>
    Effect.gen(function* () {
      const yielding = layerPlantable(({ read, swap }) => ({
        read: (key) => Effect.flatMap(Effect.yieldNow, () => read(key)),
        swap: (key, write, expectation, nowSeconds) =>
          Effect.flatMap(Effect.yieldNow, () => swap(key, write, expectation, nowSeconds))
      }))
      assert.strictEqual(yield* Effect.provide(increments(16, 20, Schedule.forever), yielding), 320)
    })
  )
})

describe("VersionedStore, with Schemas", () => {
  it.effect("works with another encoded form, with classes and with values that JSON has not", () =>
    Effect.gen(function* () {
      class Event extends Schema.Class<Event>("Event")({
        at: Schema.DateTimeUtc,
        size: Schema.BigInt,
        tags: Schema.ReadonlySet(Schema.String),
        note: Schema.Option(Schema.String)
      }) {}
      const events = yield* VersionedStore.make({ idPrefix: "event/", schema: Event })
      const event = new Event({
        at: DateTime.makeUnsafe(1_700_000_000_123),
        size: 2n ** 70n,
        tags: new Set(["a", "b"]),
        note: Option.some("\ud800 is no character")
      })
      yield* events.create(key, event)
      const read = yield* events.get(key)
      assert.instanceOf(read.value, Event)
      assert.deepStrictEqual(read.value, event)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("works with schemas that need services", () =>
    Effect.gen(function* () {
      class Offset extends Context.Service<Offset, number>()("test/Offset") {}
      const Shifted = Schema.Number.pipe(
        Schema.decodeTo(Schema.Number, {
          decode: SchemaGetter.transformEffect((n: number) => Effect.map(Offset, (offset) => n - offset)),
          encode: SchemaGetter.transformEffect((n: number) => Effect.map(Offset, (offset) => n + offset))
        })
      )
      const shifted = yield* VersionedStore.make({ idPrefix: "counter/", schema: Shifted })
      yield* Effect.gen(function* () {
        yield* shifted.create(key, 1)
        assert.strictEqual((yield* shifted.update(key, (n) => n + 1)).value, 2)
      }).pipe(Effect.provideService(Offset, 100))
      const raw = yield* StorageBackend.use((backend) => backend.get(stored))
      assert.strictEqual(raw.data, "102")
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("names the key of a record that does not decode, in every operation that reads it", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const orders = yield* makeOrders
      yield* orders.create({ owner: "alice", id: "41" }, order)
      for (const data of ["not JSON", '{"total":"ten","paid":true}']) {
        yield* backend.put(makeUnsafe({ owner: "alice", id: "order/42" }), data)
        const errors = [
          yield* Effect.flip(orders.get(key)),
          yield* Effect.flip(orders.update(key, (order) => order)),
          yield* Effect.flip(orders.upsert(key, () => order)),
          yield* Effect.flip(orders.list({ owner: "alice" })),
          yield* Effect.flip(Stream.runCollect(orders.stream({ owner: "alice" })))
        ]
        for (const error of errors) {
          assert.isTrue(Schema.isSchemaError(error))
          assert.include(error.message, "alice:order/42")
        }
      }
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("names the key of a value that does not encode, and writes nothing", () =>
    Effect.gen(function* () {
      const counters = yield* makeCounters
      yield* counters.create(key, 1)
      for (const write of [counters.set(key, 1.5), counters.update(key, () => Number.NaN)]) {
        const error = yield* Effect.flip(write)
        assert.isTrue(Schema.isSchemaError(error))
        assert.include(error.message, "alice:counter/42")
      }
      assert.strictEqual((yield* counters.get(key)).version, 1)
    }).pipe(Effect.provide(InMemory.layer))
  )
})

describe("VersionedStore.list and stream", () => {
  const ids = Array.from({ length: 250 }, (_, i) => String(i).padStart(3, "0"))

  const filled = Effect.gen(function* () {
    const [orders, counters] = [yield* makeOrders, yield* makeCounters]
    for (const id of ids) yield* orders.create({ owner: "alice", id }, { total: Number(id), paid: false })
    yield* orders.create({ owner: "bob", id: "000" }, order)
    yield* counters.create(key, 1)
    return orders
  })

  const idsOf = (records: ReadonlyArray<VersionedStore.Record<unknown>>) => records.map((record) => record.key.id)

  it.effect("list gives pages of one store's records of one owner", () =>
    Effect.gen(function* () {
      const orders = yield* filled
      const first = yield* orders.list({ owner: "alice" })
      assert.deepStrictEqual(idsOf(first.records), ids.slice(0, 100))
      assert.deepStrictEqual(first.records[7]?.value, { total: 7, paid: false })
      const second = yield* orders.list({ owner: "alice", limit: 1000, cursor: first.cursor })
      assert.deepStrictEqual(idsOf(second.records), ids.slice(100))
      assert.isUndefined(second.cursor)
      const last = yield* orders.list({ owner: "alice", limit: 2, order: "descending", idPrefix: "19" })
      assert.deepStrictEqual(idsOf(last.records), ["199", "198"])
      const wrong = yield* Effect.flip(orders.list({ owner: "bob", cursor: first.cursor }))
      assert.strictEqual(wrong._tag, "InvalidCursor")
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("stream gives all records, page by page", () =>
    Effect.gen(function* () {
      const orders = yield* filled
      const all = yield* Stream.runCollect(orders.stream({ owner: "alice" }))
      assert.deepStrictEqual(idsOf(all), ids)
      const descending = yield* Stream.runCollect(orders.stream({ owner: "alice", order: "descending" }))
      assert.deepStrictEqual(idsOf(descending), ids.toReversed())
      const some = yield* Stream.runCollect(orders.stream({ owner: "alice", idPrefix: "24" }))
      assert.strictEqual(some.length, 10)
      assert.deepStrictEqual(yield* Stream.runCollect(orders.stream({ owner: "carol" })), [])
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("stream goes past pages without a live record", () =>
    Effect.gen(function* () {
      const orders = yield* makeOrders
      const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 1 })
      for (let i = 0; i < 1500; i++) {
        yield* orders.create({ owner: "alice", id: `a${i}` }, order, { expiresAt })
      }
      yield* orders.create({ owner: "alice", id: "b" }, order)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(idsOf(yield* Stream.runCollect(orders.stream({ owner: "alice" }))), ["b"])
    }).pipe(Effect.provide(InMemory.layer))
  )
})
