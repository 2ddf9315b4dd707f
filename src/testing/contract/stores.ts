/** Promises 2 and 4, as typed records show them: entity tags, and times to live. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import * as VersionedStore from "../../VersionedStore.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import { failsWith, toWholeSecond } from "../internal/support.ts"

const counters = VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })

export const stores: ReadonlyArray<Draft> = [
  example(
    2,
    "an entity tag names one write, also if the record is deleted and created again",
    Effect.fnUntraced(function* (_, owner) {
      const store = yield* counters
      const key = { owner, id: "a" }
      const first = yield* store.create(key, 1)
      assert.strictEqual((yield* store.get(key)).etag, first.etag)
      const second = yield* store.setIfMatch(key, first.etag, 2)
      const conflict = yield* failsWith(store.setIfMatch(key, first.etag, 3), "VersionConflict")
      assert.strictEqual(conflict.actual, second.version)
      yield* failsWith(store.removeIfMatch(key, first.etag), "VersionConflict")
      yield* store.removeIfMatch(key, second.etag)
      yield* failsWith(store.setIfMatch(key, second.etag, 3), "RecordNotFound")
      const again = yield* store.create(key, 1)
      assert.strictEqual(again.version, first.version)
      yield* failsWith(store.setIfMatch(key, first.etag, 3), "VersionConflict")
      yield* failsWith(store.removeIfMatch(key, first.etag), "VersionConflict")
      assert.strictEqual((yield* store.get(key)).etag, again.etag)
    })
  ),

  example(
    4,
    "a time to live counts from the write: set takes it away, update keeps it, and touch gives another",
    Effect.fnUntraced(function* (_, owner) {
      const store = yield* counters
      const idsNow = Effect.map(store.getMany(owner, ["kept", "set", "touched"]), (found) =>
        found.flatMap(Option.toArray).map(({ key }) => key.id)
      )
      yield* toWholeSecond
      for (const id of ["kept", "set", "touched"]) yield* store.create({ owner, id }, 1, { ttl: "10 seconds" })
      yield* TestClock.adjust("8 seconds")
      assert.deepStrictEqual(yield* idsNow, ["kept", "set", "touched"])
      yield* store.update({ owner, id: "kept" }, (n) => n + 1)
      yield* store.set({ owner, id: "set" }, 2)
      yield* store.touch({ owner, id: "touched" }, "10 seconds")
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(yield* idsNow, ["set", "touched"])
      yield* TestClock.adjust("8 seconds")
      assert.deepStrictEqual(yield* idsNow, ["set"])
      yield* store.upsert({ owner, id: "kept" }, () => 3, { ttl: "10 seconds" })
      assert.deepStrictEqual(yield* idsNow, ["kept", "set"])
    })
  )
]
