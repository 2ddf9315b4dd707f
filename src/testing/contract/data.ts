/** Promises 8 and 9: the size of data, and data that comes back as it was written. */
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import { defaultMaxDataBytes, StorageBackend } from "../../StorageBackend.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, property } from "../internal/drafts.ts"
import { assertSame, failsWith, inSeconds, keyOf, prefixOf, text } from "../internal/support.ts"

export const data: ReadonlyArray<Draft> = [
  example(
    9,
    "a write returns the record as a read then gives it",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const put = yield* backend.put(key, "one", { expiresAt: yield* inSeconds(60) })
      assertSame(yield* backend.get(key), put)
      const swapped = yield* backend.putIfVersion(key, "two", put)
      assertSame(yield* backend.get(key), swapped)
    })
  ),

  example(
    8,
    "data takes up to the limit in bytes of UTF-8, and one more is refused before anything is written",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      for (const full of ["", "a".repeat(defaultMaxDataBytes), "€".repeat(defaultMaxDataBytes / 3)]) {
        const record = yield* backend.put(key, full)
        assert.isTrue((yield* backend.get(key)).data === full, "the data came back changed")
        for (const write of [
          backend.put(key, `${"€".repeat(defaultMaxDataBytes / 3)}a`),
          backend.putIfVersion(key, "a".repeat(defaultMaxDataBytes + 1), record)
        ]) {
          const error = yield* failsWith(write, "CapacityExceeded")
          assert.strictEqual(error.resource, "RecordBytes")
          assert.strictEqual(error.limit, defaultMaxDataBytes)
          assert.strictEqual(error.actual, defaultMaxDataBytes + 1)
        }
        assert.strictEqual((yield* backend.get(key)).version, record.version)
      }
    })
  ),

  property(
    9,
    "any well-formed data comes back as it was",
    Arbitrary.map(Arbitrary.array(text({ maxLength: 10 }), { maxLength: 10 }), (parts) => parts.join("\0")),
    Effect.fnUntraced(function* (data, owner) {
      const backend = yield* StorageBackend
      const key = keyOf(owner, "a")
      assert.strictEqual((yield* backend.put(key, data)).data, data)
      assert.strictEqual((yield* backend.get(key)).data, data)
      const [listed] = (yield* backend.listByPrefix(prefixOf(owner))).records
      assert.strictEqual(listed?.data, data)
    }),
    { runs: 50 }
  ),

  example(
    9,
    "data with a lone surrogate is InvalidData, and nothing is written",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const record = yield* backend.put(key, "whole")
      for (const data of ["\ud83d", "a\ude00b", "\ude00\ud83d"]) {
        yield* failsWith(backend.put(key, data), "InvalidData")
        yield* failsWith(backend.putIfVersion(key, data, record), "InvalidData")
      }
      assertSame(yield* backend.get(key), record)
    })
  )
]
