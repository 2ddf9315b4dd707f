/** Promise 2: a compare-and-set, by one client after another. */
import * as Effect from "effect/Effect"
import { maxVersion } from "../../StorageBackend.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, planted } from "../internal/drafts.ts"
import { assertSame, dies, failsWith, keyOf } from "../internal/support.ts"

export const compareAndSet: ReadonlyArray<Draft> = [
  example(
    2,
    "a create makes version 1, and is a conflict where a record is",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const created = yield* backend.putIfVersion(key, "one", 0)
      assert.strictEqual(created.version, 1)
      const conflict = yield* failsWith(backend.putIfVersion(key, "two", 0), "VersionConflict")
      assert.strictEqual(conflict.expected, 0)
      assert.strictEqual(conflict.actual, 1)
      assertSame(yield* backend.get(key), created)
    })
  ),

  example(
    2,
    "a compare-and-set on an old version is a conflict that tells the true one",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const first = yield* backend.put(key, "one")
      yield* backend.put(key, "two")
      const third = yield* backend.put(key, "three")
      for (const expected of [first, first.version, third.version + 1]) {
        const conflict = yield* failsWith(backend.putIfVersion(key, "four", expected), "VersionConflict")
        assert.strictEqual(conflict.key, key)
        assert.strictEqual(conflict.expected, typeof expected === "number" ? expected : expected.version)
        assert.strictEqual(conflict.actual, third.version)
        if (conflict.current !== undefined) assertSame(conflict.current, third)
        const refused = yield* failsWith(backend.deleteIfVersion(key, expected), "VersionConflict")
        assert.strictEqual(refused.actual, third.version)
      }
      assertSame(yield* backend.get(key), third)
    })
  ),

  example(
    2,
    "a compare-and-set on a record that is not there is RecordNotFound",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const record = yield* backend.put(key, "one")
      yield* backend.deleteIfVersion(key, record.version)
      for (const expected of [record, record.version]) {
        assert.strictEqual((yield* failsWith(backend.putIfVersion(key, "two", expected), "RecordNotFound")).key, key)
        assert.strictEqual((yield* failsWith(backend.deleteIfVersion(key, expected), "RecordNotFound")).key, key)
      }
      yield* failsWith(backend.get(key), "RecordNotFound")
    })
  ),

  example(
    2,
    "a record deleted and created again is a conflict for whoever read it before",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const read = yield* backend.put(key, "same")
      yield* backend.delete(key)
      const again = yield* backend.put(key, "same")
      const conflict = yield* failsWith(backend.putIfVersion(key, "lost", read), "VersionConflict")
      assert.strictEqual(conflict.actual, again.version)
      yield* failsWith(backend.deleteIfVersion(key, read), "VersionConflict")
      assertSame(yield* backend.get(key), again)
    })
  ),

  planted(
    2,
    "a record that another client wrote without a write id is compared by its data",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const key = keyOf(owner, "a")
      const foreign = { data: "theirs", version: 7, writeId: undefined, expiresAtSeconds: undefined }
      yield* plant(key, foreign)
      const read = yield* backend.get(key)
      assert.strictEqual(read.writeId, undefined)
      yield* plant(key, { ...foreign, data: "theirs, again" })
      const conflict = yield* failsWith(backend.putIfVersion(key, "ours", read), "VersionConflict")
      assert.strictEqual(conflict.actual, 7)
      yield* failsWith(backend.deleteIfVersion(key, read), "VersionConflict")
      const newest = yield* backend.get(key)
      assert.strictEqual(newest.data, "theirs, again")
      const ours = yield* backend.putIfVersion(key, "ours", newest)
      assert.isDefined(ours.writeId)
      yield* plant(key, { ...foreign, version: ours.version, data: "ours" })
      yield* failsWith(backend.putIfVersion(key, "lost", ours), "VersionConflict")
    })
  ),

  planted(
    2,
    "a record that was read without a write id is in conflict with a write of the same version and data that has one",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const key = keyOf(owner, "a")
      const foreign = { data: "same", version: 7, writeId: undefined, expiresAtSeconds: undefined }
      yield* plant(key, foreign)
      const read = yield* backend.get(key)
      assert.strictEqual(read.writeId, undefined)
      yield* plant(key, { ...foreign, version: 6 })
      const ours = yield* backend.putIfVersion(key, "same", 6)
      assert.deepStrictEqual([ours.version, ours.data], [read.version, read.data])
      const conflict = yield* failsWith(backend.putIfVersion(key, "lost", read), "VersionConflict")
      assert.strictEqual(conflict.actual, 7)
      yield* failsWith(backend.deleteIfVersion(key, read), "VersionConflict")
      assertSame(yield* backend.get(key), ours)
    })
  ),

  example(
    2,
    "an expected version that can't be is a defect",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      for (const version of [-1, 1.5, Number.NaN, maxVersion + 1, Infinity]) {
        yield* dies(backend.putIfVersion(key, "data", version), /expected version/)
        yield* dies(backend.deleteIfVersion(key, version), /expected version/)
      }
    })
  )
]
