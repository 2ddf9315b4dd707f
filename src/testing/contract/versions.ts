/** Promise 1: versions. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import { maxVersion } from "../../StorageBackend.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, planted } from "../internal/drafts.ts"
import { assertSame, failsWith, keyOf } from "../internal/support.ts"

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
  )
]
