/** Promise 4: an expired record is absent. */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import {
  assertSame,
  failsWith,
  idsOf,
  inSeconds,
  keyOf,
  listAll,
  prefixOf,
  putAll,
  toWholeSecond
} from "../internal/support.ts"

export const expiry: ReadonlyArray<Draft> = [
  example(
    4,
    "a record is there until its expiry, rounded up to a second, and absent from then on",
    Effect.fnUntraced(function* (backend, owner) {
      yield* toWholeSecond
      const key = keyOf(owner, "a")
      const now = yield* Clock.currentTimeMillis
      const record = yield* backend.put(key, "data", { expiresAt: yield* inSeconds(1.001) })
      assert.strictEqual(record.expiresAt?.epochMilliseconds, now + 2000)
      yield* TestClock.adjust(1999)
      assertSame(yield* backend.get(key), record)
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["a"])
      const again = yield* backend.putIfVersion(key, "again", record, { expiresAt: record.expiresAt })
      yield* TestClock.adjust(1)
      yield* failsWith(backend.get(key), "RecordNotFound")
      yield* failsWith(backend.putIfVersion(key, "late", again), "RecordNotFound")
      yield* failsWith(backend.putIfVersion(key, "late", again.version), "RecordNotFound")
      yield* failsWith(backend.deleteIfVersion(key, again), "RecordNotFound")
      assert.isFalse(yield* backend.delete(key))
      assert.deepStrictEqual(yield* listAll(prefixOf(owner)), [])
    })
  ),

  example(
    4,
    "an expired record may be created again, and put over",
    Effect.fnUntraced(function* (backend, owner) {
      const keys = [keyOf(owner, "created"), keyOf(owner, "put")] as const
      for (const key of keys) yield* backend.put(key, "old", { expiresAt: yield* inSeconds(1) })
      yield* TestClock.adjust("2 seconds")
      const created = yield* backend.putIfVersion(keys[0], "new", 0)
      const put = yield* backend.put(keys[1], "new")
      assertSame(yield* backend.get(keys[0]), created)
      assertSame(yield* backend.get(keys[1]), put)
      assert.strictEqual(created.expiresAt, undefined)
      assert.strictEqual(put.expiresAt, undefined)
    })
  ),

  example(
    4,
    "a record written with an expiry that has come is absent at once",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      yield* backend.put(key, "here")
      yield* backend.put(key, "gone", { expiresAt: yield* inSeconds(-1) })
      yield* failsWith(backend.get(key), "RecordNotFound")
      assert.deepStrictEqual(yield* listAll(prefixOf(owner)), [])
      yield* backend.putIfVersion(key, "new", 0)
    })
  ),

  example(
    4,
    "a write without an expiry takes it away, and one with another sets it",
    Effect.fnUntraced(function* (backend, owner) {
      const expiresAt = yield* inSeconds(10)
      const [put, swapped, longer] = [keyOf(owner, "put"), keyOf(owner, "swapped"), keyOf(owner, "longer")] as const
      yield* backend.put(put, "one", { expiresAt })
      const first = yield* backend.put(swapped, "one", { expiresAt })
      const second = yield* backend.put(longer, "one", { expiresAt })
      assert.strictEqual((yield* backend.put(put, "two")).expiresAt, undefined)
      assert.strictEqual((yield* backend.putIfVersion(swapped, "two", first)).expiresAt, undefined)
      yield* backend.putIfVersion(longer, "two", second, { expiresAt: DateTime.add(expiresAt, { seconds: 10 }) })
      yield* TestClock.adjust("12 seconds")
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["longer", "put", "swapped"])
      yield* TestClock.adjust("12 seconds")
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["put", "swapped"])
    })
  ),

  example(
    4,
    "a cleanup removes nothing that is live",
    Effect.fnUntraced(function* (backend, owner) {
      yield* putAll(owner, ["expired 1", "expired 2"], yield* inSeconds(1))
      yield* putAll(owner, ["later"], yield* inSeconds(100))
      yield* putAll(owner, ["never"])
      yield* TestClock.adjust("2 seconds")
      yield* backend.cleanupExpired
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["later", "never"])
      yield* failsWith(backend.get(keyOf(owner, "expired 1")), "RecordNotFound")
    })
  )
]
