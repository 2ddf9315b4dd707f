import { assert, describe, it } from "@effect/vitest"
import { withoutStack } from "../../src/internal/withoutStack.ts"

describe("withoutStack", () => {
  it("constructs an error without a stack trace, and leaves those of other errors as long as they were", () => {
    const limit = Error.stackTraceLimit
    assert.isUndefined(withoutStack(() => new Error("an outcome")).stack)
    assert.strictEqual(Error.stackTraceLimit, limit)
    assert.include(new Error("a fault").stack, "    at ")
  })

  it("leaves them so even if the construction throws", () => {
    const limit = Error.stackTraceLimit
    const construct = () =>
      withoutStack(() => {
        throw new Error("not constructed")
      })
    assert.throws(construct, "not constructed")
    assert.strictEqual(Error.stackTraceLimit, limit)
  })
})
