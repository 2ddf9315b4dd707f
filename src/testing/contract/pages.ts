/** Promise 6: pages. */
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as TestClock from "effect/testing/TestClock"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import { dies, idsOf, inOrder, inSeconds, keyOf, listAll, listPages, prefixOf, putAll } from "../internal/support.ts"

export const pages: ReadonlyArray<Draft> = [
  example(
    6,
    "a page has 100 records unless another limit is given",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = Array.from({ length: 120 }, (_, i) => String(i).padStart(3, "0"))
      yield* putAll(owner, ids)
      const page = yield* backend.listByPrefix(prefixOf(owner))
      assert.deepStrictEqual(idsOf(page.records), ids.slice(0, 100))
      assert.isDefined(page.cursor)
      const rest = yield* backend.listByPrefix(prefixOf(owner), { cursor: page.cursor })
      assert.deepStrictEqual(idsOf(rest.records), ids.slice(100))
      assert.strictEqual((yield* backend.listByPrefix(prefixOf(owner), { limit: 1000 })).records.length, 120)
      assert.deepStrictEqual(yield* backend.listByPrefix(prefixOf(owner, "x")), { records: [], cursor: undefined })
    })
  ),

  example(
    6,
    "walking pages while others insert and delete neither repeats nor skips a record that stays",
    Effect.fnUntraced(function* (backend, owner) {
      const stay = Array.from({ length: 40 }, (_, i) => `${String(i).padStart(3, "0")}/stays`)
      yield* putAll(owner, stay)
      for (const order of ["ascending", "descending"] as const) {
        let turn = 0
        const churn = Effect.suspend(() => {
          const at = String((turn++ * 7) % 40).padStart(3, "0")
          return Effect.all([
            backend.put(keyOf(owner, `${at}/a comes`), "data"),
            backend.put(keyOf(owner, `${at}/z comes`), "data"),
            backend.delete(keyOf(owner, `${String((turn * 3) % 40).padStart(3, "0")}/a comes`)),
            backend.put(keyOf(owner, `${at}/stays`), "changed")
          ])
        })
        const pages = yield* listPages(prefixOf(owner), { limit: 3, order }, churn)
        const listed = pages.flatMap((page) => idsOf(page.records))
        assert.deepStrictEqual(listed, inOrder(new Set(listed), order))
        assert.deepStrictEqual(
          listed.filter((id) => id.endsWith("/stays")),
          inOrder(stay, order)
        )
      }
    })
  ),

  example(
    6,
    "a page goes on where the one before ended, though the last record of that was deleted or expired meanwhile",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["a", "b", "c", "d", "e"]
      for (const order of ["ascending", "descending"] as const) {
        for (const gone of ["deleted", "expired"]) {
          yield* putAll(owner, ids)
          const first = yield* backend.listByPrefix(prefixOf(owner), { limit: 2, order })
          const last = keyOf(owner, order === "ascending" ? "b" : "d")
          if (gone === "deleted") yield* backend.delete(last)
          else yield* backend.put(last, "gone", { expiresAt: yield* inSeconds(-1) })
          const rest = yield* backend.listByPrefix(prefixOf(owner), { cursor: first.cursor, order })
          assert.deepStrictEqual(idsOf([...first.records, ...rest.records]), inOrder(ids, order))
        }
      }
    })
  ),

  example(
    6,
    "a few live records among thousands of expired ones are all found",
    Effect.fnUntraced(function* (_, owner) {
      const ids = Array.from({ length: 2000 }, (_, i) => String(i).padStart(4, "0"))
      const live = ids.filter((_, i) => i % 400 === 399)
      yield* putAll(
        owner,
        ids.filter((id) => !live.includes(id)),
        yield* inSeconds(1)
      )
      yield* putAll(owner, live)
      yield* TestClock.adjust("2 seconds")
      for (const order of ["ascending", "descending"] as const) {
        assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner), { limit: 50, order })), inOrder(live, order))
      }
    })
  ),

  example(
    6,
    "a page that meets expired records is filled up to its limit and no further",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = Array.from({ length: 9 }, (_, i) => String(i))
      const expired = ["1", "7"]
      const live = ids.filter((id) => !expired.includes(id))
      yield* putAll(owner, expired, yield* inSeconds(1))
      yield* putAll(owner, live)
      yield* TestClock.adjust("2 seconds")
      for (const order of ["ascending", "descending"] as const) {
        const page = yield* backend.listByPrefix(prefixOf(owner), { limit: 4, order })
        assert.isAtMost(page.records.length, 4)
        assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner), { limit: 4, order })), inOrder(live, order))
      }
    })
  ),

  example(
    6,
    "a page that ends at the first or the last id that there can be is followed by nothing",
    Effect.fnUntraced(function* (backend, owner) {
      const [first, last] = ["a", `a${"\u{10FFFF}".repeat(127)}\u00ff`]
      const between = ["a/b", "a/😀"]
      yield* Effect.forEach(between, (id) => backend.put(keyOf(owner, id), id))
      yield* Effect.forEach([first, last], (id) => backend.put(keyOf(owner, id), id))
      const prefix = prefixOf(owner, "a")
      for (const order of ["ascending", "descending"] as const) {
        const ids = inOrder([first, ...between, last], order)
        for (const limit of [1, 2, 4]) assert.deepStrictEqual(idsOf(yield* listAll(prefix, { limit, order })), ids)
      }
      // The last page still examines an expired record, and is then to be filled up from after the first id.
      yield* Effect.forEach(between, (id) => backend.put(keyOf(owner, id), id, { expiresAt: DateTime.makeUnsafe(0) }))
      assert.deepStrictEqual(idsOf(yield* listAll(prefix, { limit: 3, order: "descending" })), [last, first])
    })
  ),

  example(
    6,
    "a limit or an order that can't be is a defect",
    Effect.fnUntraced(function* (backend, owner) {
      for (const limit of [0, -1, 1.5, Number.NaN, 1001, Infinity]) {
        yield* dies(backend.listByPrefix(prefixOf(owner), { limit }), /limit of a page/)
      }
      for (const order of ["ASC", "", null] as ReadonlyArray<unknown> as ReadonlyArray<"ascending">) {
        yield* dies(backend.listByPrefix(prefixOf(owner), { order }), /order of a listing/)
      }
    })
  )
]
