/** Promises 4, 7 and 9, where many records are read at once. */
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import { defaultMaxDataBytes, maxKeysAtOnce, type VersionedRecord } from "../../StorageBackend.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import { dies, inSeconds, keyOf, putAll, view } from "../internal/support.ts"

const views = (records: ReadonlyArray<VersionedRecord | undefined>) => records.map((record) => record && view(record))

export const many: ReadonlyArray<Draft> = [
  example(
    9,
    "records that are read at once come back as single reads give them, in the order asked",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = Array.from({ length: maxKeysAtOnce - 2 }, (_, i) => `${(i * 37) % 98}`)
      yield* putAll(owner, ids.slice(0, 90), yield* inSeconds(60))
      yield* backend.put(keyOf(owner, ids[0] ?? ""), 'changed "\\\u0001\u{1f600}')
      yield* backend.delete(keyOf(owner, ids[1] ?? ""))
      const asked = [...ids, "never there", ids[0] ?? ""].map((id) => keyOf(owner, id))
      const single = yield* Effect.forEach(
        asked,
        (key) => Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined),
        { concurrency: 16 }
      )
      assert.strictEqual(single.filter((record) => record === undefined).length, 10)
      assert.deepStrictEqual(views(yield* backend.getMany(asked)), views(single))
    })
  ),

  example(
    9,
    "records that are larger together than one answer of the engine come back whole",
    Effect.fnUntraced(function* (backend, owner) {
      const data = "a".repeat(defaultMaxDataBytes)
      const keys = Array.from({ length: 45 }, (_, i) => keyOf(owner, `${i}`))
      yield* Effect.forEach(keys, (key) => backend.put(key, data), { concurrency: 4 })
      const found = yield* backend.getMany(keys)
      assert.deepStrictEqual(
        found.map((record) => record?.key.id),
        keys.map(({ id }) => id)
      )
      assert.isTrue(
        found.every((record) => record?.data === data),
        "the data came back changed"
      )
    })
  ),

  example(
    4,
    "a record is not among many from the second of its expiry on",
    Effect.fnUntraced(function* (backend, owner) {
      const keys = ["expires", "stays"].map((id) => keyOf(owner, id))
      yield* putAll(owner, ["expires"], yield* inSeconds(10))
      yield* putAll(owner, ["stays"], yield* inSeconds(20))
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual(
        (yield* backend.getMany(keys)).map((record) => record?.key.id),
        ["expires", "stays"]
      )
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(
        (yield* backend.getMany(keys)).map((record) => record?.key.id),
        [undefined, "stays"]
      )
    })
  ),

  example(
    7,
    "records of several owners are read at once, each by its own owner and id",
    Effect.fnUntraced(function* (backend, owner) {
      const keys = [
        [owner, "a"],
        [`${owner}a`, "b"],
        [owner, "ab"],
        [`${owner}}{`, '"]["'],
        [`${owner}a`, "a"],
        [owner, "b"]
      ].map(([owner = "", id = ""]) => keyOf(owner, id))
      yield* Effect.forEach(keys.slice(0, 4), (key) => backend.put(key, `data of ${key}`))
      assert.deepStrictEqual(
        (yield* backend.getMany(keys)).map((record) => record && [`${record.key}`, record.data]),
        keys.map((key, i) => (i < 4 ? [`${key}`, `data of ${key}`] : undefined))
      )
    })
  ),

  example(
    7,
    "no key reads nothing, and more than a hundred are a defect",
    Effect.fnUntraced(function* (backend, owner) {
      assert.deepStrictEqual(yield* backend.getMany([]), [])
      const keys = Array.from({ length: maxKeysAtOnce + 1 }, (_, i) => keyOf(owner, `${i}`))
      yield* dies(backend.getMany(keys), /At most 100 records are read at once, not 101/)
    })
  )
]
