import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import { type Engine, type Expectation, isAsExpected, isExpired, make, type StoredRecord } from "../src/Engine.ts"
import { maxVersion, type StorageBackend } from "../src/StorageBackend.ts"
import * as StorageError from "../src/StorageError.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../src/StoragePrefix.ts"
import * as Faults from "../src/testing/Faults.ts"
import { makeEngine } from "./support/memoryEngine.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const prefix = makePrefix({ owner: "alice", idPrefix: "" })

/** A backend on a memory engine whose requests have these fates, and that engine's store. */
const faulty = (fateOf: (request: Faults.Request<keyof Engine>) => Faults.Fate = () => "pass", times = 0) => {
  const store = makeEngine()
  const { engine, requests } = Faults.engine(store.engine, fateOf)
  const backend = make(engine, { retrySchedule: Schedule.recurs(times), maxDataBytes: 100 })
  return { backend, requests, plant: store.plant }
}

/** A backend whose listings are made up. */
const listing = (list: Engine["list"]) => make({ ...makeEngine().engine, list })

describe("an error of the engine", () => {
  it.effect("names the operation that failed", () =>
    Effect.gen(function* () {
      for (const outcome of ["not-applied", "unknown"] as const) {
        const error = StorageError.makeBackend({ reason: "Unauthorized", outcome, description: "told to fail" })
        const { backend } = faulty(() => error)
        const operations: ReadonlyArray<readonly [keyof StorageBackend["Service"], Effect.Effect<unknown, unknown>]> = [
          ["get", backend.get(key)],
          ["getMany", backend.getMany([key])],
          ["put", backend.put(key, "one")],
          ["putIfVersion", backend.putIfVersion(key, "one", 1)],
          ["delete", backend.delete(key)],
          ["deleteIfVersion", backend.deleteIfVersion(key, 1)],
          ["listByPrefix", backend.listByPrefix(prefix)],
          ["cleanupExpired", backend.cleanupExpired]
        ]
        for (const [name, operation] of operations) {
          const error = yield* Effect.flip(operation)
          assert.isTrue(error instanceof StorageError.Backend && error.operation === name, `${name}: ${error}`)
        }
      }
    })
  )

  it.effect("names the write after which another's record was found", () =>
    Effect.gen(function* () {
      const { backend, plant } = faulty(({ name }) => (name === "read" ? "pass" : "drop"))
      plant(key, { data: "theirs", version: 1, writeId: "theirs", expiresAtSeconds: undefined })
      for (const [name, write] of [
        ["put", backend.put(key, "ours")],
        ["putIfVersion", backend.putIfVersion(key, "ours", 1)]
      ] as const) {
        const error = yield* Effect.flip(write)
        assert.isTrue(error._tag === "Backend" && error.operation === name && error.outcome === "unknown")
      }
    })
  )

  it.effect("names the removal that was refused after its answer was lost", () =>
    Effect.gen(function* () {
      const { backend, requests } = faulty(({ index }) => (index === 1 ? "lose" : "pass"), 1)
      const record = yield* backend.put(key, "one")
      const error = yield* Effect.flip(backend.deleteIfVersion(key, record))
      assert.isTrue(error._tag === "Backend" && error.operation === "deleteIfVersion" && error.outcome === "unknown")
      assert.deepStrictEqual(requests, ["put", "remove", "remove"])
    })
  )
})

describe("before anything is sent", () => {
  it.effect("data that is not a string is refused, which only JavaScript lets pass", () =>
    Effect.gen(function* () {
      const { backend, requests } = faulty()
      for (const data of [5, null, undefined, { toString: () => "{}" }] as ReadonlyArray<unknown>) {
        for (const write of [backend.put(key, data as string), backend.putIfVersion(key, data as string, 0)]) {
          const error = yield* Effect.flip(write)
          assert.strictEqual(error._tag, "InvalidData")
          assert.strictEqual(error.message, "The data for alice:a is not a string")
        }
      }
      assert.deepStrictEqual(requests, [])
    })
  )

  it.effect("a write past the last version is refused, and says what the version would be", () =>
    Effect.gen(function* () {
      const { backend, plant } = faulty()
      plant(key, { data: "one", version: maxVersion, writeId: "w", expiresAtSeconds: undefined })
      const error = yield* Effect.flip(backend.putIfVersion(key, "two", maxVersion))
      assert.strictEqual(error._tag, "CapacityExceeded")
      if (error._tag !== "CapacityExceeded") return
      assert.deepStrictEqual([error.resource, error.limit, error.actual], ["Versions", maxVersion, maxVersion + 1])
    })
  )

  it("a limit that would never hold is refused under its name", () => {
    const { engine } = makeEngine()
    assert.throws(() => make(engine, { maxDataBytes: Number.NaN }), /^maxDataBytes must be/)
    assert.throws(() => makeEngine({ maxBytes: -1 }), /^maxBytes must be/)
    assert.throws(() => makeEngine({ maxRecords: Number.NaN }), /^maxRecords must be/)
  })
})

describe("many records", () => {
  const keys = Array.from({ length: 5 }, (_, i) => makeUnsafe({ owner: "alice", id: `${i}` }))
  const stored = { data: "data", version: 1, writeId: "w", expiresAtSeconds: undefined }

  /** An engine that reads some of the records that it is asked for, and notes the ids. */
  const leavingOut = (isRead: (position: number) => boolean, retries: number) => {
    const asked: Array<ReadonlyArray<string>> = []
    const backend = make(
      {
        ...makeEngine().engine,
        readMany: (keys) => {
          asked.push(keys.map(({ id }) => id))
          return Effect.succeed(keys.map(({ id }, i) => (isRead(i) ? { ...stored, data: id } : "Unread")))
        }
      },
      { retrySchedule: Schedule.recurs(retries) }
    )
    return { asked, backend }
  }

  it.effect("are asked for again if the engine leaves them out, and those alone, also without retries", () =>
    Effect.gen(function* () {
      const { asked, backend } = leavingOut((position) => position % 2 === 0, 0)
      const found = yield* backend.getMany(keys)
      assert.deepStrictEqual(asked, [["0", "1", "2", "3", "4"], ["1", "3"], ["3"]])
      assert.deepStrictEqual(
        found.map((record) => record?.data),
        ["0", "1", "2", "3", "4"]
      )
    })
  )

  it.effect("are asked for again under the retry schedule if the engine leaves out all that it is asked for", () =>
    Effect.gen(function* () {
      const { asked, backend } = leavingOut((position) => position > 0, 2)
      const error = yield* Effect.flip(backend.getMany(keys))
      assert.deepStrictEqual(asked, [["0", "1", "2", "3", "4"], ["0"], ["0"], ["0"]])
      assert.deepStrictEqual(
        [error.operation, error.outcome, error.reason._tag],
        ["getMany", "not-applied", "Throttled"]
      )
      assert.include(error.message, "The engine has left out 1 of 5 records")
    })
  )

  it.effect("are asked for again if the answer is lost, and read one by one if the engine can't read many", () =>
    Effect.gen(function* () {
      const { backend, plant, requests } = faulty(({ index }) => (index === 0 ? "drop" : "pass"), 1)
      plant(key, stored)
      assert.strictEqual((yield* backend.getMany([key]))[0]?.version, 1)
      assert.deepStrictEqual(requests, ["readMany", "readMany"])
      const { readMany: _, ...engine } = makeEngine().engine
      const single = Faults.engine(engine, ({ index }) => (index === 0 ? "drop" : "pass"))
      const one = make(single.engine, { retrySchedule: Schedule.recurs(1) })
      assert.deepStrictEqual(yield* one.getMany(keys.slice(0, 2)), [undefined, undefined])
      assert.deepStrictEqual(single.requests, ["read", "read", "read"])
    })
  )
})

describe("a page", () => {
  const record = (id: string) => ({ id, data: "data", version: 1, writeId: "w", expiresAtSeconds: undefined })

  it.effect("takes at most four requests, and then goes on by a cursor", () =>
    Effect.gen(function* () {
      let requests = 0
      const backend = listing(() => Effect.sync(() => ({ records: [], next: `id${++requests}` })))
      const first = yield* backend.listByPrefix(prefix)
      assert.deepStrictEqual([first.records.length, requests], [0, 4])
      assert.isDefined(first.cursor)
    })
  )

  it.effect("asks for what it lacks, after what it has, and stops when it is full", () =>
    Effect.gen(function* () {
      const asked: Array<readonly [string | undefined, number]> = []
      const backend = listing((_, { after, limit }) => {
        asked.push([after, limit])
        const id = `id${asked.length}`
        return Effect.succeed({ records: [record(id)], next: id })
      })
      const page = yield* backend.listByPrefix(prefix, { limit: 3 })
      const after = [
        [undefined, 3],
        ["id1", 2],
        ["id2", 1]
      ] as const
      assert.deepStrictEqual(asked, [...after])
      const ids = page.records.map(({ key }) => key.id)
      assert.deepStrictEqual(ids, ["id1", "id2", "id3"])
      assert.isDefined(page.cursor)
    })
  )
})

describe("isAsExpected", () => {
  const stored: StoredRecord = { data: "data", version: 2, writeId: "w", expiresAtSeconds: 10 }
  const foreign = { ...stored, writeId: undefined }

  it("compares by the version alone, by the version and the write, or by the version and the data", () => {
    const holds = (current: StoredRecord, expectation: Expectation) => isAsExpected(current, expectation, 9)
    assert.isTrue(holds(stored, { _tag: "Version", version: 2 }))
    assert.isFalse(holds(stored, { _tag: "Version", version: 1 }))
    assert.isTrue(holds(stored, { _tag: "Write", version: 2, writeId: "w" }))
    assert.isFalse(holds(stored, { _tag: "Write", version: 1, writeId: "w" }))
    assert.isFalse(holds(stored, { _tag: "Write", version: 2, writeId: "other" }))
    assert.isFalse(holds(foreign, { _tag: "Write", version: 2, writeId: "w" }))
    assert.isTrue(holds(foreign, { _tag: "Data", version: 2, data: "data" }))
    assert.isFalse(holds(foreign, { _tag: "Data", version: 1, data: "data" }))
    assert.isFalse(holds(foreign, { _tag: "Data", version: 2, data: "other" }))
    assert.isFalse(holds(stored, { _tag: "Data", version: 2, data: "data" }))
  })

  it("takes an expired record for none", () => {
    assert.isTrue(isExpired(stored, 10))
    assert.isFalse(isExpired(stored, 9))
    assert.isTrue(isAsExpected(stored, { _tag: "Absent" }, 10))
    assert.isFalse(isAsExpected(stored, { _tag: "Absent" }, 9))
    assert.isTrue(isAsExpected(undefined, { _tag: "Absent" }, 9))
    assert.isTrue(isAsExpected(stored, { _tag: "Version", version: 2 }, 9))
    assert.isFalse(isAsExpected(stored, { _tag: "Version", version: 2 }, 10))
    assert.isFalse(isAsExpected(stored, { _tag: "Write", version: 2, writeId: "w" }, 10))
    assert.isFalse(isAsExpected(undefined, { _tag: "Version", version: 2 }, 9))
  })
})
