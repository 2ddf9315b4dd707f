import { assert, describe, it } from "@effect/vitest"
import { checkLimit } from "../../src/internal/options.ts"

describe("checkLimit", () => {
  it("takes zero, any number above it and Infinity", () => {
    for (const limit of [0, 0.5, 1000, Number.POSITIVE_INFINITY]) {
      assert.strictEqual(checkLimit("maxBytes", limit), limit)
    }
  })

  it("throws on anything else, and shows it, a string in quotes", () => {
    for (const [limit, shown] of [
      [Number.NaN, /: it is NaN$/],
      [-1, /: it is -1$/],
      ["5", /: it is "5"$/],
      [null, /: it is null$/],
      [undefined, /: it is undefined$/]
    ] as ReadonlyArray<readonly [unknown, RegExp]>) {
      assert.throws(() => checkLimit("maxBytes", limit as number), /^maxBytes must be a number of zero or more/)
      assert.throws(() => checkLimit("maxBytes", limit as number), shown)
    }
  })
})
