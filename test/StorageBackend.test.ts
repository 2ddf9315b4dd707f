import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, DateTime, Effect, Fiber, Layer, Logger, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"
import { make } from "../src/Engine.ts"
import { defaultRetrySchedule, layerCleanup, StorageBackend, type VersionedRecord } from "../src/StorageBackend.ts"
import type * as StorageError from "../src/StorageError.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../src/StoragePrefix.ts"
import * as Faults from "../src/testing/Faults.ts"
import { makeEngine } from "./support/memoryEngine.ts"

/** A backend on an engine whose attempts go wrong as a script says, and an undisturbed client of the same engine. */
const faulty = (fates: ReadonlyArray<Faults.Fate>, retrySchedule: Schedule.Schedule<unknown> = Schedule.recurs(10)) => {
  const { engine } = makeEngine()
  const { engine: faultyEngine, requests } = Faults.engine(engine, Faults.script(fates))
  return { backend: make(faultyEngine, { retrySchedule }), other: make(engine), attempts: requests }
}

/** An attempt that is applied, and whose answer is lost after another client did something. */
const overtakenBy = (other: () => Effect.Effect<unknown, unknown>): Faults.Fate => ({
  after: Effect.suspend(other),
  outcome: "lose"
})

const key = makeUnsafe({ owner: "alice", id: "a" })
const alices = makePrefix({ owner: "alice", idPrefix: "" })

const assertUnknown = (error: { readonly _tag: string }) => {
  assert.strictEqual(error._tag, "Backend")
  if (error._tag !== "Backend") return
  const backend = error as StorageError.Backend
  assert.strictEqual(backend.outcome, "unknown")
  assert.isFalse(backend.isRetryable)
  assert.include(backend.message, "read the record")
}

describe("Engine.make, after an ambiguous attempt", () => {
  it.live("sends a compare-and-set on a record again, and recognises its own write", () =>
    Effect.gen(function* () {
      for (const first of ["lose", "drop"] as const) {
        const { attempts, backend, other } = faulty([first, first, first])
        const record = yield* other.put(key, "one")
        const written = yield* backend.putIfVersion(key, "two", record)
        assert.deepStrictEqual(attempts, ["swap", "swap", "swap", "swap"])
        assert.strictEqual(written.version, 2)
        assert.deepStrictEqual(yield* other.get(key), written)
      }
    })
  )

  it.live("does not know of a compare-and-set that came back refused for another's write", () =>
    Effect.gen(function* () {
      const { backend, other } = faulty([overtakenBy(() => other.put(key, "theirs"))])
      const record = yield* other.put(key, "one")
      const error = yield* Effect.flip(backend.putIfVersion(key, "two", record))
      assertUnknown(error)
      assert.strictEqual((yield* other.get(key)).data, "theirs")
    })
  )

  it.live("recognises its own write though it has expired meanwhile", () =>
    Effect.gen(function* () {
      const { backend, other } = faulty(["lose"])
      const record = yield* other.put(key, "one")
      const expiresAt = yield* Effect.map(
        Effect.clockWith((clock) => clock.currentTimeMillis),
        (now) => now - 5000
      )
      const options = { expiresAt: Schema.decodeSync(Schema.DateTimeUtcFromMillis)(expiresAt) }
      assert.strictEqual((yield* backend.putIfVersion(key, "two", record, options)).version, 2)
    })
  )

  it.live("looks for a put, a create and a compare-and-set by version with one read, and sends none again", () =>
    Effect.gen(function* () {
      const operations = {
        put: (backend: StorageBackend["Service"]) => backend.put(key, "two"),
        byVersion: (backend: StorageBackend["Service"]) => backend.putIfVersion(key, "two", 1),
        create: (backend: StorageBackend["Service"]) => backend.putIfVersion(key, "two", 0)
      }
      for (const [name, operation] of Object.entries(operations)) {
        const { attempts, backend, other } = faulty(["lose"])
        if (name !== "create") yield* other.put(key, "one")
        const written = yield* operation(backend)
        assert.deepStrictEqual(attempts.slice(1), ["read"], name)
        assert.deepStrictEqual(yield* other.get(key), written)
      }
      for (const [name, operation] of Object.entries(operations)) {
        const { attempts, backend, other } = faulty(["drop"])
        if (name !== "create") yield* other.put(key, "one")
        assertUnknown(yield* Effect.flip(operation(backend)))
        assert.deepStrictEqual(attempts.slice(1), ["read"], name)
      }
      for (const [name, operation] of Object.entries(operations)) {
        const { backend, other } = faulty([overtakenBy(() => other.put(key, "theirs"))])
        if (name !== "create") yield* other.put(key, "one")
        assertUnknown(yield* Effect.flip(operation(backend)))
        assert.strictEqual((yield* other.get(key)).data, "theirs", name)
      }
      for (const [name, operation] of Object.entries(operations)) {
        const { backend, other } = faulty([overtakenBy(() => other.delete(key))])
        if (name !== "create") yield* other.put(key, "one")
        assertUnknown(yield* Effect.flip(operation(backend)))
        assert.strictEqual((yield* Effect.flip(other.get(key)))._tag, "RecordNotFound", name)
      }
    })
  )

  it.live("sends a compare-and-set on a record without a write id only once", () =>
    Effect.gen(function* () {
      const { attempts, backend, other } = faulty(["drop"])
      yield* other.put(key, "one")
      const foreign: VersionedRecord = { ...(yield* other.get(key)), writeId: undefined }
      assertUnknown(yield* Effect.flip(backend.putIfVersion(key, "two", foreign)))
      assert.deepStrictEqual(attempts, ["swap", "read"])
    })
  )

  it.live("never sends a delete again, save one of a record", () =>
    Effect.gen(function* () {
      const unconditional = faulty([overtakenBy(() => unconditional.other.put(key, "theirs"))])
      yield* unconditional.other.put(key, "one")
      assertUnknown(yield* Effect.flip(unconditional.backend.delete(key)))
      assert.deepStrictEqual(unconditional.attempts, ["remove"])
      assert.strictEqual((yield* unconditional.other.get(key)).data, "theirs")

      const byVersion = faulty([overtakenBy(() => byVersion.other.put(key, "theirs"))])
      yield* byVersion.other.put(key, "one")
      assertUnknown(yield* Effect.flip(byVersion.backend.deleteIfVersion(key, 1)))
      assert.deepStrictEqual(byVersion.attempts, ["remove"])
      assert.strictEqual((yield* byVersion.other.get(key)).data, "theirs")

      const dropped = faulty(["drop"])
      yield* dropped.backend.deleteIfVersion(key, yield* dropped.other.put(key, "one"))
      assert.deepStrictEqual(dropped.attempts, ["remove", "remove"])

      const lost = faulty(["lose"])
      assertUnknown(yield* Effect.flip(lost.backend.deleteIfVersion(key, yield* lost.other.put(key, "one"))))
      assert.deepStrictEqual(lost.attempts, ["remove", "remove"])
    })
  )

  it.live("treats an ambiguous attempt alike, whichever attempt it is", () =>
    Effect.gen(function* () {
      for (const throttled of [1, 2, 3]) {
        const before = Array.from({ length: throttled }, () => "throttle" as const)
        const name = `attempt ${throttled + 1}`
        const operations = {
          put: (backend: StorageBackend["Service"]) => backend.put(key, "two"),
          byVersion: (backend: StorageBackend["Service"]) => backend.putIfVersion(key, "two", 1),
          create: (backend: StorageBackend["Service"]) => backend.putIfVersion(key, "two", 0)
        }
        for (const [operation, run] of Object.entries(operations)) {
          const lost = faulty([...before, "lose"])
          if (operation !== "create") yield* lost.other.put(key, "one")
          const written = yield* run(lost.backend)
          assert.strictEqual(written.version, operation === "create" ? 1 : 2, `${operation}, ${name}`)
          assert.deepStrictEqual(yield* lost.other.get(key), written)
          assert.deepStrictEqual(lost.attempts.slice(throttled + 1), ["read"], `${operation}, ${name}`)

          const dropped = faulty([...before, "drop"])
          if (operation !== "create") yield* dropped.other.put(key, "one")
          assertUnknown(yield* Effect.flip(run(dropped.backend)))
          assert.deepStrictEqual(dropped.attempts.slice(throttled + 1), ["read"], `${operation}, ${name}`)
        }

        const overtaken = faulty([...before, overtakenBy(() => overtaken.other.put(key, "theirs"))])
        const record = yield* overtaken.other.put(key, "one")
        assertUnknown(yield* Effect.flip(overtaken.backend.putIfVersion(key, "two", record)))

        const spent = faulty([...before, "drop"], Schedule.recurs(throttled))
        yield* spent.other.put(key, "one")
        assertUnknown(yield* Effect.flip(spent.backend.delete(key)))
        assert.strictEqual(spent.attempts.length, throttled + 1)

        const deleted = faulty([...before, "lose"])
        yield* deleted.other.put(key, "one")
        assertUnknown(yield* Effect.flip(deleted.backend.delete(key)))
        assert.strictEqual(deleted.attempts.length, throttled + 1)

        const removed = faulty([...before, "lose"])
        const read = yield* removed.other.put(key, "one")
        assertUnknown(yield* Effect.flip(removed.backend.deleteIfVersion(key, read)))
      }
    })
  )

  it.live("does not know when every answer is lost, or the read fails too", () =>
    Effect.gen(function* () {
      const swaps = faulty(
        Array.from({ length: 20 }, () => "lose" as const),
        Schedule.recurs(3)
      )
      const record = yield* swaps.other.put(key, "one")
      assertUnknown(yield* Effect.flip(swaps.backend.putIfVersion(key, "two", record)))
      assert.strictEqual(swaps.attempts.length, 4)
      assert.strictEqual((yield* swaps.other.get(key)).data, "two")

      const put = faulty(["lose", "deny"])
      assertUnknown(yield* Effect.flip(put.backend.put(key, "two")))
      const throttled = faulty(["lose", "throttle", "deny"])
      assertUnknown(yield* Effect.flip(throttled.backend.putIfVersion(key, "two", record)))
    })
  )

  it.live("sends nothing again after a failure that would come again", () =>
    Effect.gen(function* () {
      const { attempts, backend, other } = faulty(["drop", "deny"])
      const record = yield* other.put(key, "one")
      assertUnknown(yield* Effect.flip(backend.putIfVersion(key, "two", record)))
      assert.deepStrictEqual(attempts, ["swap", "swap"])
    })
  )

  it.live("tells of a conflict only what is certain", () =>
    Effect.gen(function* () {
      const { backend, other } = faulty(["throttle", "throttle"])
      const old = yield* other.put(key, "one")
      yield* other.put(key, "two")
      assert.strictEqual((yield* Effect.flip(backend.putIfVersion(key, "three", old)))._tag, "VersionConflict")
    })
  )
})

describe("Engine.make, after a definite failure", () => {
  it.live("sends any write again that was throttled", () =>
    Effect.gen(function* () {
      const { attempts, backend } = faulty(["throttle", "throttle"])
      assert.strictEqual((yield* backend.put(key, "one")).version, 1)
      assert.deepStrictEqual(attempts, ["put", "put", "put"])
      assert.isTrue(yield* backend.delete(key))
    })
  )

  it.live("gives up when the schedule is spent, with an error that says it may be tried again", () =>
    Effect.gen(function* () {
      const { attempts, backend } = faulty(
        Array.from({ length: 20 }, () => "throttle" as const),
        Schedule.recurs(2)
      )
      const error = yield* Effect.flip(backend.put(key, "one"))
      assert.strictEqual(error._tag, "Backend")
      if (error._tag !== "Backend") return
      assert.strictEqual(error.outcome, "not-applied")
      assert.strictEqual(error.operation, "put")
      assert.strictEqual(error.reason._tag, "Throttled")
      assert.isTrue(error.isRetryable)
      assert.strictEqual(attempts.length, 3)
    })
  )

  it.live("does not send again what will fail again", () =>
    Effect.gen(function* () {
      const { attempts, backend } = faulty(["deny", "deny", "deny"])
      const write = yield* Effect.flip(backend.put(key, "one"))
      assert.isTrue(write._tag === "Backend" && write.outcome === "not-applied" && !write.isRetryable)
      assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "Backend")
      assert.strictEqual(attempts.length, 2)
    })
  )

  it.live("reads again whatever was lost, and a read is never of unknown outcome", () =>
    Effect.gen(function* () {
      const { backend, other } = faulty(["lose", "drop", "pass", "drop", "pass", "drop"])
      yield* other.put(key, "one")
      assert.strictEqual((yield* backend.get(key)).data, "one")
      const page = yield* backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: "" }))
      assert.strictEqual(page.records.length, 1)
      const spent = faulty(["lose"], Schedule.recurs(0))
      const error = yield* Effect.flip(spent.backend.get(key))
      assert.isTrue(error._tag === "Backend" && error.outcome === "not-applied" && error.isRetryable)
      assert.strictEqual(yield* backend.cleanupExpired, 0)
    })
  )

  it.live("names the operation and the reason in every failure", () =>
    Effect.gen(function* () {
      type Backend = StorageBackend["Service"]
      const operations = (record: VersionedRecord) => ({
        get: (backend: Backend) => backend.get(key),
        put: (backend: Backend) => backend.put(key, "two"),
        putIfVersion: (backend: Backend) => backend.putIfVersion(key, "two", record),
        delete: (backend: Backend) => backend.delete(key),
        deleteIfVersion: (backend: Backend) => backend.deleteIfVersion(key, record),
        listByPrefix: (backend: Backend) => backend.listByPrefix(alices),
        cleanupExpired: (backend: Backend) => backend.cleanupExpired
      })
      const reads = ["get", "listByPrefix", "cleanupExpired"]
      const fails = Effect.fnUntraced(function* (
        name: keyof ReturnType<typeof operations>,
        script: ReadonlyArray<Faults.Fate>,
        expected: readonly [StorageError.Backend["outcome"], StorageError.Reason["_tag"]]
      ) {
        const { backend, other } = faulty(script, Schedule.recurs(0))
        const run: (backend: Backend) => Effect.Effect<unknown, { readonly _tag: string }> = operations(
          yield* other.put(key, "one")
        )[name]
        const error = yield* Effect.flip(run(backend))
        assert.ok(error._tag === "Backend", name)
        const { message, operation, outcome, reason } = error as StorageError.Backend
        assert.deepStrictEqual([operation, outcome, reason._tag], [name, ...expected])
        assert.include(message, `told to be ${reason._tag}`)
      })
      for (const name of Object.keys(operations({} as never)) as Array<keyof ReturnType<typeof operations>>) {
        yield* fails(name, ["deny"], ["not-applied", "Unauthorized"])
        yield* fails(name, ["drop"], [reads.includes(name) ? "not-applied" : "unknown", "Timeout"])
      }
    })
  )

  it.live("names the operation where a refusal after an ambiguous attempt tells nothing", () =>
    Effect.gen(function* () {
      for (const name of ["put", "putIfVersion", "deleteIfVersion"] as const) {
        const meddled = faulty([overtakenBy(() => meddled.other.put(key, "theirs"))])
        const record = yield* meddled.other.put(key, "one")
        const operations = {
          put: meddled.backend.put(key, "two"),
          putIfVersion: meddled.backend.putIfVersion(key, "two", record),
          deleteIfVersion: meddled.backend.deleteIfVersion(key, record)
        }
        const error = yield* Effect.flip<unknown, { readonly _tag: string }, never>(operations[name])
        assertUnknown(error)
        assert.strictEqual((error as StorageError.Backend).operation, name)
      }
    })
  )

  it.effect("waits between attempts as the default schedule says", () =>
    Effect.gen(function* () {
      const { attempts, backend } = faulty(
        Array.from({ length: 20 }, () => "throttle" as const),
        defaultRetrySchedule
      )
      const fiber = yield* Effect.forkChild(Effect.flip(backend.put(key, "one")))
      yield* TestClock.adjust("19 millis")
      assert.strictEqual(attempts.length, 1)
      yield* TestClock.adjust("11 millis")
      assert.strictEqual(attempts.length, 2)
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual(attempts.length, 11)
    })
  )
})

describe("Engine.make, listing", () => {
  it.effect("asks the engine at most four times for one page, each time for what is missing", () =>
    Effect.gen(function* () {
      const { attempts, backend, other } = faulty([])
      const expiresAt = DateTime.makeUnsafe(0)
      for (let i = 0; i < 20; i++) {
        yield* other.put(makeUnsafe({ owner: "alice", id: String(i).padStart(2, "0") }), "data", { expiresAt })
      }
      yield* other.put(makeUnsafe({ owner: "alice", id: "20" }), "data")
      let cursor: string | undefined
      const requests: Array<number> = []
      do {
        const page = yield* backend.listByPrefix(alices, { limit: 2, cursor })
        requests.push(attempts.splice(0).length)
        cursor = page.cursor
      } while (cursor !== undefined)
      assert.deepStrictEqual(requests, [4, 4, 3])
    })
  )
})

describe("Engine.make, under random faults", () => {
  const faults = Arbitrary.array(
    Arbitrary.schema(Schema.Literals(["pass", "pass", "pass", "lose", "drop", "throttle"])),
    { minLength: 1, maxLength: 200 }
  )

  it.live.prop(
    "acknowledges no increment that was not made, and makes none twice",
    [faults],
    Effect.fnUntraced(function* ([script]) {
      const { backend, other } = faulty(script, Schedule.recurs(3))
      yield* other.put(key, "0")
      let acknowledged = 0
      let unknown = 0
      const increment = Effect.gen(function* () {
        const record = yield* other.get(key)
        yield* Effect.yieldNow
        const written = yield* backend.putIfVersion(key, String(Number(record.data) + 1), record)
        assert.strictEqual(written.version, record.version + 1)
        acknowledged++
      }).pipe(
        Effect.catchTag("VersionConflict", (conflict) =>
          Effect.sync(() => assert.notStrictEqual(conflict.actual, conflict.expected))
        ),
        Effect.catchTag("Backend", (error) => Effect.sync(() => (error.outcome === "unknown" ? unknown++ : undefined)))
      )
      yield* Effect.forEach(Array.from({ length: 4 }), () => Effect.repeat(increment, { times: 10 }), {
        concurrency: "unbounded"
      })
      const count = Number((yield* other.get(key)).data)
      assert.isAtLeast(count, acknowledged)
      assert.isAtMost(count, acknowledged + unknown)
    }),
    { arbitrary: { size: 200 } }
  )

  it.live.prop(
    "reports no conflict to a lone writer",
    [faults],
    Effect.fnUntraced(function* ([script]) {
      const { backend, other } = faulty(script, Schedule.recurs(300))
      let record = yield* other.put(key, "0")
      for (let i = 1; i <= 30; i++) record = yield* backend.putIfVersion(key, String(i), record)
      assert.strictEqual(record.version, 31)
      assert.strictEqual((yield* other.get(key)).data, "30")
    }),
    { arbitrary: { size: 200 } }
  )
})

describe("StorageBackend.layerCleanup", () => {
  it.effect("collects what has expired on a schedule, and goes on after a failure", () =>
    Effect.gen(function* () {
      const logged: Array<unknown> = []
      const { engine, requests } = Faults.engine(makeEngine().engine, Faults.script(["pass", "deny"]))
      const counted = Layer.sync(StorageBackend)(() => make(engine))
      yield* Effect.gen(function* () {
        yield* TestClock.adjust("59 seconds")
        assert.strictEqual(requests.length, 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(requests.length, 2)
        assert.strictEqual(logged.length, 1)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(requests.length, 3)
      }).pipe(
        Effect.provide(
          layerCleanup().pipe(
            Layer.provideMerge(counted),
            Layer.provide(Logger.layer([Logger.make(({ message }) => logged.push(message))]))
          )
        )
      )
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual(requests.length, 3)
    })
  )
})
