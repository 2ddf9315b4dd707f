import { assert, describe, it } from "@effect/vitest"
import * as Cursor from "../../src/engine/internal/cursor.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"

const all = makePrefix({ owner: "alice", idPrefix: "" })
const orders = makePrefix({ owner: "alice", idPrefix: "order/" })

describe("a cursor", () => {
  it("gives the id back to the listing that it was made for", () => {
    for (const id of ["order/1", "order/€😀", "order/\ufeff"]) {
      assert.strictEqual(Cursor.decode(orders, "ascending", Cursor.encode(orders, "ascending", id)), id)
    }
  })

  it("is none of another owner's, prefix's or order's listing", () => {
    const cursor = Cursor.encode(orders, "ascending", "order/1")
    assert.isUndefined(Cursor.decode(makePrefix({ owner: "bob", idPrefix: "order/" }), "ascending", cursor))
    assert.isUndefined(Cursor.decode(all, "ascending", cursor))
    assert.isUndefined(Cursor.decode(orders, "descending", cursor))
  })

  it("is refused if its id is outside the prefix, even with a hash that fits", () => {
    assert.isUndefined(Cursor.decode(orders, "ascending", Cursor.encode(orders, "ascending", "customer/1")))
  })

  it("is refused if its id can't be one, even with a hash that fits", () => {
    for (const id of ["", "a\0b", "a".repeat(513)]) {
      assert.isUndefined(Cursor.decode(all, "ascending", Cursor.encode(all, "ascending", id)))
    }
  })

  it("is refused if a character of it is changed, added or lost", () => {
    const cursor = Cursor.encode(orders, "ascending", "order/1")
    for (let i = 0; i < cursor.length; i++) {
      const changed = cursor[i] === "A" ? "B" : "A"
      assert.isUndefined(Cursor.decode(orders, "ascending", cursor.slice(0, i) + changed + cursor.slice(i + 1)))
      assert.isUndefined(Cursor.decode(orders, "ascending", cursor.slice(0, i) + cursor.slice(i + 1)))
    }
    for (const damaged of ["", "*", `${cursor}A`, `${cursor}=`]) {
      assert.isUndefined(Cursor.decode(orders, "ascending", damaged), damaged)
    }
  })
})
