/** Promise 4: which dates an expiry may be. */
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import * as assert from "../internal/assert.ts"
import { type Draft, example, planted } from "../internal/drafts.ts"
import { assertSame, dies, failsWith, idsOf, inSeconds, keyOf, listAll, prefixOf, view } from "../internal/support.ts"

export const expiryDates: ReadonlyArray<Draft> = [
  planted(
    4,
    "a record that another client wrote with an expiry beyond all dates is there, and can be changed",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const key = keyOf(owner, "a")
      for (const expiresAtSeconds of [8.64e12, 8.64e12 + 1, Number.MAX_SAFE_INTEGER]) {
        yield* plant(key, { data: "theirs", version: 1, writeId: undefined, expiresAtSeconds })
        const read = yield* backend.get(key)
        assert.strictEqual(read.expiresAt?.epochMilliseconds, 8.64e15)
        yield* failsWith(backend.putIfVersion(key, "ours", 0), "VersionConflict")
        assert.strictEqual((yield* backend.putIfVersion(key, "ours", read, read)).version, 2)
        yield* backend.deleteIfVersion(key, 2)
      }
    })
  ),

  example(
    4,
    "an expiry at the start of 1970, or before it, has come",
    Effect.fnUntraced(function* (backend, owner) {
      for (const seconds of [0, -1, -86_400]) {
        const key = keyOf(owner, String(seconds))
        const put = yield* backend.put(key, "gone", { expiresAt: DateTime.makeUnsafe(seconds * 1000) })
        assert.strictEqual(put.expiresAt?.epochMilliseconds, seconds * 1000)
        yield* failsWith(backend.get(key), "RecordNotFound")
        yield* failsWith(backend.putIfVersion(key, "late", put), "RecordNotFound")
        assert.isFalse(yield* backend.delete(key))
      }
      assert.deepStrictEqual(yield* listAll(prefixOf(owner)), [])
    })
  ),

  example(
    4,
    "an expiry that is not an instant is a defect, and nothing is written",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const record = yield* backend.put(key, "one")
      const now = yield* DateTime.now
      const noInstants: ReadonlyArray<unknown> = [
        DateTime.add(now, { days: 1e9 }),
        DateTime.addDuration(now, Duration.negativeInfinity),
        new Date(),
        "2030-01-01T00:00:00Z",
        1_900_000_000,
        null
      ]
      for (const expiresAt of noInstants as ReadonlyArray<DateTime.Utc>) {
        yield* dies(backend.put(key, "two", { expiresAt }), /expiresAt must be a DateTime at an instant/)
        yield* dies(backend.put(keyOf(owner, "b"), "two", { expiresAt }), /expiresAt must be a DateTime at an instant/)
        yield* dies(
          backend.putIfVersion(key, "two", record, { expiresAt }),
          /expiresAt must be a DateTime at an instant/
        )
      }
      assert.deepStrictEqual((yield* listAll(prefixOf(owner))).map(view), [view(record)])
    })
  ),

  example(
    4,
    "an expiry of positive infinity is never, and one beyond all dates is the last date",
    Effect.fnUntraced(function* (backend, owner) {
      const now = yield* DateTime.now
      const never = DateTime.addDuration(now, Duration.infinity)
      const beyond = DateTime.addDuration(now, Duration.days(1e9))
      for (const [id, expiresAt, expected] of [
        ["never", never, undefined],
        ["beyond", beyond, 8.64e15]
      ] as const) {
        const key = keyOf(owner, id)
        const put = yield* backend.put(key, "one", { expiresAt })
        assert.strictEqual(put.expiresAt?.epochMilliseconds, expected)
        assertSame(yield* backend.get(key), put)
        const swapped = yield* backend.putIfVersion(key, "two", put, { expiresAt })
        assert.strictEqual(swapped.expiresAt?.epochMilliseconds, expected)
        assertSame(yield* backend.get(key), swapped)
      }
      // What other records expire is collected as before.
      yield* backend.put(keyOf(owner, "soon"), "data", { expiresAt: yield* inSeconds(1) })
      yield* TestClock.adjust("2 seconds")
      yield* backend.cleanupExpired
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["beyond", "never"])
    })
  )
]
