import { runInNewContext } from "node:vm"
import { assert, describe, it } from "@effect/vitest"
import { bytesOver, deepest, isPlainObject, problemIn } from "../../../src/task/internal/json.ts"

const nested = (depth: number): unknown => {
  let value: unknown = 1
  for (let i = 0; i < depth; i++) value = [value]
  return value
}

const unlimited = { maxDepth: Number.POSITIVE_INFINITY, maxBytes: Number.POSITIVE_INFINITY }
const problem = (value: unknown, limits: Partial<Parameters<typeof problemIn>[1]> = {}) =>
  problemIn(value, { ...unlimited, ...limits })

describe("a value to be stored as JSON", () => {
  it("may be as deep as the limit, and never deeper than 1,000", () => {
    assert.isUndefined(problem(1, { maxDepth: 0 }))
    assert.deepStrictEqual(problem([1], { maxDepth: 0 }), { problem: "TooDeep", path: ["0"] })
    assert.isUndefined(problem(nested(3), { maxDepth: 3 }))
    assert.deepStrictEqual(problem(nested(4), { maxDepth: 3 }), { problem: "TooDeep", path: ["0", "0", "0", "0"] })
    assert.isUndefined(problem(nested(deepest)))
    assert.propertyVal(problem(nested(deepest + 1)), "problem", "TooDeep")
  })

  it("is too large as soon as its values and the letters of its strings are more than the limit", () => {
    for (const [value, bytes] of [
      ["abcd", 5],
      [["ab", "c"], 6],
      [{ name: "ab", other: null }, 5],
      [[1, true, []], 4]
    ] as const) {
      assert.isUndefined(problem(value, { maxBytes: bytes }), JSON.stringify(value))
      const found = problem(value, { maxBytes: bytes - 1 })
      assert.deepStrictEqual(found, { problem: "TooLarge", actual: bytes }, JSON.stringify(value))
    }
  })

  it("may have strings of as many bytes as their limit, and says where a longer one is", () => {
    assert.isUndefined(problem({ a: ["éé"] }, { maxStringBytes: 4 }))
    assert.deepStrictEqual(problem({ a: ["éé"] }, { maxStringBytes: 3 }), {
      problem: "StringTooLong",
      path: ["a", "0"]
    })
    assert.isUndefined(problem("x".repeat(100_000)))
  })

  it("has nothing that JSON has not, gaps of arrays among it", () => {
    for (const value of [null, true, false, 0, -1.5, "", [], {}, Object.create(null), { "": [{}] }]) {
      assert.isUndefined(problem(value), JSON.stringify(value))
    }
    // biome-ignore lint/suspicious/noSparseArray: it is what is tested
    for (const gaps of [[1, , 2], new Array(2)]) assert.propertyVal(problem(gaps), "problem", "NotJson")
    for (const value of [
      undefined,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      1n,
      Symbol(),
      () => 1,
      new Date(0),
      new Map()
    ]) {
      assert.deepStrictEqual(problem({ fine: 1, a: [1, value] }), { problem: "NotJson", path: ["a", "1"] })
    }
  })
})

describe("an object as JSON has it", () => {
  it("is of this or another realm, and neither an array, a function, null nor of a class", () => {
    for (const value of [{}, { a: 1 }, Object.create(null), runInNewContext("({})")])
      assert.isTrue(isPlainObject(value))
    const functionWithoutPrototype = Object.setPrototypeOf(() => 1, null)
    const arrayWithoutPrototype = Object.setPrototypeOf([1], null)
    for (const value of [
      ...[null, undefined, 1, "a", [], [1], () => 1, new Date(0), new (class A {})(), Object.create({})],
      ...[functionWithoutPrototype, arrayWithoutPrototype, Object.prototype.toString]
    ]) {
      assert.isFalse(isPlainObject(value))
    }
  })
})

describe("the bytes of a value as JSON", () => {
  it("are told if they are more than the limit, and only then", () => {
    assert.isUndefined(bytesOver({ a: "é" }, 10))
    assert.strictEqual(bytesOver({ a: "é" }, 9), 10)
  })
})
