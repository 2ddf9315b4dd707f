/** Promise 5: the order of listings. */
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as assert from "../internal/assert.ts"
import { type Draft, example, property } from "../internal/drafts.ts"
import { idsOf, inOrder, listAll, prefixOf, putAll, text } from "../internal/support.ts"

export const order: ReadonlyArray<Draft> = [
  example(
    5,
    "a listing is in the order of the ids' UTF-8, which is not that of UTF-16",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["a", "\u{1f600}", "\uffff", "\ue000", "\u{10000}", "é", "z", "B", "a\u{1f600}", "a\uffff"]
      yield* putAll(owner, ids)
      const ascending = inOrder(ids, "ascending")
      assert.isBelow(ascending.indexOf("\uffff"), ascending.indexOf("\u{1f600}"))
      assert.deepStrictEqual(idsOf((yield* backend.listByPrefix(prefixOf(owner))).records), ascending)
      const descending = yield* backend.listByPrefix(prefixOf(owner), { order: "descending" })
      assert.deepStrictEqual(idsOf(descending.records), ascending.toReversed())
    })
  ),

  property(
    5,
    "any ids are listed whole and in order, in pages of any size, by any prefix",
    Arbitrary.all({
      ids: Arbitrary.array(text({ minLength: 1, maxLength: 4 }), { maxLength: 12 }),
      idPrefix: text({ maxLength: 2 }),
      limit: Arbitrary.map(Arbitrary.array(Arbitrary.Constant(1), { maxLength: 6 }), (ones) => ones.length + 1)
    }),
    Effect.fnUntraced(function* ({ idPrefix, ids, limit }, owner) {
      yield* putAll(owner, ids)
      const matching = Array.from(new Set(ids)).filter((id) => id.startsWith(idPrefix))
      for (const order of ["ascending", "descending"] as const) {
        const listed = yield* listAll(prefixOf(owner, idPrefix), { limit, order })
        assert.deepStrictEqual(idsOf(listed), inOrder(matching, order))
        for (const record of listed) assert.strictEqual(record.data, `data of ${record.key.id}`)
      }
    }),
    { runs: 50 }
  )
]
