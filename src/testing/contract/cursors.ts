/** Promise 6: the cursors of pages. */
import * as Effect from "effect/Effect"
import * as Cursor from "../../engine/internal/cursor.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import { failsWith, idsOf, newOwner, prefixOf, putAll } from "../internal/support.ts"

export const cursors: ReadonlyArray<Draft> = [
  example(
    6,
    "a cursor that is damaged, cut or of another listing is InvalidCursor",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["p/a", "p/b\u{1f600}", "p/c"]
      const other = yield* newOwner
      yield* putAll(owner, ids)
      yield* putAll(other, ids)
      const { cursor = "" } = yield* backend.listByPrefix(prefixOf(owner, "p/"), { limit: 2 })
      const rest = yield* backend.listByPrefix(prefixOf(owner, "p/"), { cursor })
      assert.deepStrictEqual(idsOf(rest.records), ["p/c"])

      const damaged = new Set(["", " ", "nonsense", `${cursor}A`, `${cursor}=`, ` ${cursor}`])
      for (let i = 0; i < cursor.length; i++) {
        damaged.add(cursor.slice(0, i)).add(cursor.slice(i + 1))
        for (const character of "AQgwz09-_ =é") damaged.add(cursor.slice(0, i) + character + cursor.slice(i + 1))
      }
      damaged.delete(cursor)
      for (const cursor of damaged) {
        yield* failsWith(backend.listByPrefix(prefixOf(owner, "p/"), { cursor }), "InvalidCursor")
      }
      for (const cursor of [1, null, {}] as ReadonlyArray<unknown> as ReadonlyArray<string>) {
        yield* failsWith(backend.listByPrefix(prefixOf(owner, "p/"), { cursor }), "InvalidCursor")
      }
      yield* failsWith(backend.listByPrefix(prefixOf(other, "p/"), { cursor }), "InvalidCursor")
      yield* failsWith(backend.listByPrefix(prefixOf(owner, "p"), { cursor }), "InvalidCursor")
      yield* failsWith(backend.listByPrefix(prefixOf(owner), { cursor }), "InvalidCursor")
      yield* failsWith(backend.listByPrefix(prefixOf(owner, "p/"), { cursor, order: "descending" }), "InvalidCursor")
    })
  ),

  example(
    6,
    "a forged cursor for an id outside the listing, or for what is not an id, is InvalidCursor",
    Effect.fnUntraced(function* (backend, owner) {
      yield* putAll(owner, ["a", "p/a", "p/b", "z"])
      const forged = {
        "": ["", "a\0", "a".repeat(513), "\u{1f600}".repeat(129)],
        "p/": ["", "a", "p", "z", "P/a", "p/\0", `p/${"a".repeat(511)}`]
      }
      for (const [idPrefix, ids] of Object.entries(forged)) {
        const prefix = prefixOf(owner, idPrefix)
        for (const order of ["ascending", "descending"] as const) {
          for (const id of ids) {
            const cursor = Cursor.encode(prefix, order, id)
            yield* failsWith(backend.listByPrefix(prefix, { cursor, order }), "InvalidCursor")
          }
        }
      }
    })
  )
]
