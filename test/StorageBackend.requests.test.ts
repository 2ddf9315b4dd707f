import { assert, describe, it } from "@effect/vitest"
import { Effect, Schedule } from "effect"
import * as InMemory from "../src/backend/InMemory.ts"
import {
  isAsExpected,
  isExpired,
  make,
  maxVersion,
  type Primitives,
  type StorageBackend,
  type StoredRecord
} from "../src/StorageBackend.ts"
import * as StorageError from "../src/StorageError.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../src/StoragePrefix.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const prefix = makePrefix({ owner: "alice", idPrefix: "" })

/** A backend on a memory engine some of whose primitives are changed, and the engine. */
const changed = (change: (primitives: Primitives) => Partial<Primitives>) => {
  const engine = InMemory.makeEngine()
  const backend = make(
    { ...engine.primitives, ...change(engine.primitives) },
    { retrySchedule: Schedule.recurs(0), maxDataBytes: 100 }
  )
  return { backend, plant: engine.plant }
}

describe("an error of the engine", () => {
  it.effect("names the operation that failed", () =>
    Effect.gen(function* () {
      for (const outcome of ["not-applied", "unknown"] as const) {
        const fail = () =>
          Effect.fail(StorageError.backend({ reason: "Unauthorized", outcome, description: "told to fail" }))
        const { backend } = changed(() => ({
          read: fail,
          put: fail,
          swap: fail,
          remove: fail,
          list: fail,
          cleanup: fail
        }))
        const operations: ReadonlyArray<readonly [keyof StorageBackend["Service"], Effect.Effect<unknown, unknown>]> = [
          ["get", backend.get(key)],
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
      const lost = () =>
        Effect.fail(StorageError.backend({ reason: "Timeout", outcome: "unknown", description: "told to time out" }))
      const { backend, plant } = changed(() => ({ put: lost, swap: lost }))
      plant(key, { data: "theirs", version: 1, writeId: "theirs", expiresAt: undefined })
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
      let requests = 0
      const { primitives } = InMemory.makeEngine()
      const lost = StorageError.backend({ reason: "Timeout", outcome: "unknown", description: "told to time out" })
      const remove: Primitives["remove"] = (...args) =>
        Effect.flatMap(primitives.remove(...args), (answer) =>
          requests++ === 0 ? Effect.fail(lost) : Effect.succeed(answer)
        )
      const backend = make({ ...primitives, remove }, { retrySchedule: Schedule.recurs(1) })
      const record = yield* backend.put(key, "one")
      const error = yield* Effect.flip(backend.deleteIfVersion(key, record))
      assert.isTrue(error._tag === "Backend" && error.operation === "deleteIfVersion" && error.outcome === "unknown")
      assert.strictEqual(requests, 2)
    })
  )
})

describe("before anything is sent", () => {
  const unreachable = () => changed(() => ({ put: () => assert.fail("a put"), swap: () => assert.fail("a swap") }))

  it.effect("data that is not a string is refused, which only JavaScript lets pass", () =>
    Effect.gen(function* () {
      const { backend } = unreachable()
      for (const data of [5, null, undefined, { toString: () => "{}" }] as ReadonlyArray<unknown>) {
        for (const write of [backend.put(key, data as string), backend.putIfVersion(key, data as string, 0)]) {
          const error = yield* Effect.flip(write)
          assert.strictEqual(error._tag, "InvalidData")
          assert.strictEqual(error.message, "The data for alice:a is not a string")
        }
      }
    })
  )

  it.effect("a write past the last version is refused, and says what the version would be", () =>
    Effect.gen(function* () {
      const { backend, plant } = unreachable()
      plant(key, { data: "one", version: maxVersion, writeId: "w", expiresAt: undefined })
      const error = yield* Effect.flip(backend.putIfVersion(key, "two", maxVersion))
      assert.strictEqual(error._tag, "CapacityExceeded")
      if (error._tag !== "CapacityExceeded") return
      assert.deepStrictEqual([error.resource, error.limit, error.actual], ["Versions", maxVersion, maxVersion + 1])
    })
  )

  it("a limit that would never hold is refused under its name", () => {
    const { primitives } = InMemory.makeEngine()
    assert.throws(() => make(primitives, { maxDataBytes: Number.NaN }), /^maxDataBytes must be/)
    assert.throws(() => InMemory.makeEngine({ maxBytes: -1 }), /^maxBytes must be/)
    assert.throws(() => InMemory.makeEngine({ maxRecords: Number.NaN }), /^maxRecords must be/)
  })
})

describe("a page", () => {
  const record = (id: string) => ({ id, data: "data", version: 1, writeId: "w", expiresAt: undefined })

  it.effect("takes at most four requests, and then goes on by a cursor", () =>
    Effect.gen(function* () {
      let requests = 0
      const { backend } = changed(() => ({
        list: () => Effect.sync(() => ({ records: [], next: `id${++requests}` }))
      }))
      const first = yield* backend.listByPrefix(prefix)
      assert.deepStrictEqual([first.records.length, requests], [0, 4])
      assert.isDefined(first.cursor)
    })
  )

  it.effect("asks for what it lacks, after what it has, and stops when it is full", () =>
    Effect.gen(function* () {
      const asked: Array<readonly [string | undefined, number]> = []
      const { backend } = changed(() => ({
        list: (_, { after, limit }) => {
          asked.push([after, limit])
          const id = `id${asked.length}`
          return Effect.succeed({ records: [record(id)], next: id })
        }
      }))
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
  const stored: StoredRecord = { data: "data", version: 2, writeId: "w", expiresAt: 10 }
  const holds = (current: StoredRecord, change: Partial<Omit<StoredRecord, "expiresAt">>, now = 9) =>
    isAsExpected(current, { ...stored, ...change, key, expiresAt: undefined }, now)

  it("compares a record by its version and its write, whatever its data", () => {
    assert.isTrue(holds(stored, {}))
    assert.isTrue(holds(stored, { data: "other" }))
    assert.isFalse(holds(stored, { version: 1 }))
    assert.isFalse(holds(stored, { writeId: "other" }))
    assert.isFalse(holds(stored, { writeId: undefined }))
    assert.isFalse(holds({ ...stored, writeId: undefined }, {}))
  })

  it("compares a record without a write by its version and its data", () => {
    const foreign = { ...stored, writeId: undefined }
    assert.isTrue(holds(foreign, { writeId: undefined }))
    assert.isFalse(holds(foreign, { writeId: undefined, data: "other" }))
    assert.isFalse(holds(foreign, { writeId: undefined, version: 1 }))
  })

  it("takes an expired record for none", () => {
    assert.isTrue(isExpired(stored, 10))
    assert.isFalse(isExpired(stored, 9))
    assert.isFalse(holds(stored, {}, 10))
    assert.isTrue(isAsExpected(stored, 0, 10))
    assert.isFalse(isAsExpected(stored, 0, 9))
    assert.isTrue(isAsExpected(stored, 2, 9))
    assert.isFalse(isAsExpected(stored, 2, 10))
  })
})
