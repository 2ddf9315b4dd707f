/** Promise 1: versions. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { maxVersion } from "../../StorageBackend.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, planted } from "../internal/drafts.ts"
import { assertSame, dies, failsWith, keyOf } from "../internal/support.ts"

export const versions: ReadonlyArray<Draft> = [
  example(
    1,
    "a put of a new key makes version 1, and each further write a higher one",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const first = yield* backend.put(key, "one")
      assert.strictEqual(first.version, 1)
      const second = yield* backend.put(key, "two")
      assert.isAbove(second.version, first.version)
      const third = yield* backend.putIfVersion(key, "three", second)
      assert.isAbove(third.version, second.version)
    })
  ),

  example(
    1,
    "a deleted key may be created again",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      yield* backend.put(key, "one")
      assert.isTrue(yield* backend.delete(key))
      assert.isFalse(yield* backend.delete(key))
      yield* failsWith(backend.get(key), "RecordNotFound")
      const again = yield* backend.putIfVersion(key, "two", 0)
      assertSame(yield* backend.get(key), again)
    })
  ),

  planted(
    1,
    "no write goes past the last safe version",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const key = keyOf(owner, "a")
      yield* plant(key, { data: "old", version: maxVersion - 1, writeId: undefined, expiresAtSeconds: undefined })
      const last = yield* backend.putIfVersion(key, "last", yield* backend.get(key))
      assert.strictEqual(last.version, maxVersion)
      for (const write of [
        backend.put(key, "more"),
        backend.putIfVersion(key, "more", last),
        backend.putIfVersion(key, "more", maxVersion)
      ]) {
        assert.strictEqual((yield* failsWith(write, "CapacityExceeded")).resource, "Versions")
        assertSame(yield* backend.get(key), last)
      }
      yield* failsWith(backend.putIfVersion(key, "more", maxVersion - 1), "VersionConflict")
      yield* failsWith(backend.putIfVersion(keyOf(owner, "b"), "more", maxVersion), "RecordNotFound")
      yield* backend.deleteIfVersion(key, last)
      assert.strictEqual((yield* backend.put(key, "anew")).version, 1)
    })
  ),

  planted(
    1,
    "no write goes past the last safe version of an expired record that the engine still holds",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const key = keyOf(owner, "a")
      const expiresAtSeconds = Math.floor((yield* Clock.currentTimeMillis) / 1000) - 1
      yield* plant(key, { data: "old", version: maxVersion, writeId: undefined, expiresAtSeconds })
      for (const write of [backend.putIfVersion(key, "more", 0), backend.put(key, "more")]) {
        assert.strictEqual((yield* failsWith(write, "CapacityExceeded")).resource, "Versions")
        yield* failsWith(backend.get(key), "RecordNotFound")
      }
    })
  ),

  planted(
    1,
    "a compare-and-set raises the version by its increment, over any record and none",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const key = keyOf(owner, "a")
      const created = yield* backend.putIfVersion(key, "one", 0, { increment: 3 })
      assert.strictEqual(created.version, 3)
      assertSame(yield* backend.get(key), created)
      const byRecord = yield* backend.putIfVersion(key, "two", created, { increment: 64 })
      assert.strictEqual(byRecord.version, 67)
      const byVersion = yield* backend.putIfVersion(key, "three", 67, { increment: 2 })
      assert.strictEqual(byVersion.version, 69)
      assertSame(yield* backend.get(key), byVersion)
      yield* failsWith(backend.putIfVersion(key, "lost", 68, { increment: 2 }), "VersionConflict")

      const expired = keyOf(owner, "expired")
      const expiresAtSeconds = Math.floor((yield* Clock.currentTimeMillis) / 1000) - 1
      yield* plant(expired, { data: "old", version: 7, writeId: undefined, expiresAtSeconds })
      assert.strictEqual((yield* backend.putIfVersion(expired, "new", 0, { increment: 5 })).version, 12)

      const foreign = keyOf(owner, "foreign")
      yield* plant(foreign, { data: "theirs", version: 7, writeId: undefined, expiresAtSeconds: undefined })
      const ours = yield* backend.putIfVersion(foreign, "ours", yield* backend.get(foreign), { increment: 5 })
      assert.strictEqual(ours.version, 12)
    })
  ),

  planted(
    1,
    "no increment goes past the last safe version, and one that is not an integer from 1 is a defect",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const key = keyOf(owner, "a")
      yield* plant(key, { data: "old", version: maxVersion - 3, writeId: undefined, expiresAtSeconds: undefined })
      const old = yield* backend.get(key)
      for (const increment of [4, maxVersion]) {
        const refused = backend.putIfVersion(key, "more", old, { increment })
        assert.strictEqual((yield* failsWith(refused, "CapacityExceeded")).resource, "Versions")
      }
      for (const increment of [0, -1, 1.5, Number.NaN, Infinity, maxVersion + 1]) {
        yield* dies(backend.putIfVersion(key, "more", old, { increment }), /increment of a version is an integer/)
      }
      assertSame(yield* backend.get(key), old)
      assert.strictEqual((yield* backend.putIfVersion(key, "last", old, { increment: 3 })).version, maxVersion)
    })
  )
]
