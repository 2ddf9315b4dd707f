/** The assertions of the contract suites, on `node:assert`, so that the suites run under any test runner. */
import * as assert from "node:assert"
import { inspect } from "node:util"

export const strictEqual: (actual: unknown, expected: unknown, message?: string) => void = assert.strictEqual

export const notStrictEqual: (actual: unknown, expected: unknown, message?: string) => void = assert.notStrictEqual

export const deepStrictEqual = <A>(actual: A, expected: NoInfer<A>, message?: string): void =>
  assert.deepStrictEqual(actual, expected, message)

export function isTrue(value: unknown, message?: string): asserts value is true {
  assert.strictEqual(value, true, message)
}

export const isFalse = (value: unknown, message?: string): void => assert.strictEqual(value, false, message)

export const isDefined = (value: unknown, message = "expected a value, but it is undefined"): void =>
  assert.ok(value !== undefined, message)

export const isUndefined = (value: unknown, message?: string): void => assert.strictEqual(value, undefined, message)

export const match = (value: string, pattern: RegExp): void => assert.match(value, pattern)

const compared =
  (holds: (value: number, limit: number) => boolean, relation: string) =>
  (value: number, limit: number, message?: string): void =>
    assert.ok(holds(value, limit), message ?? `expected ${value} to be ${relation} ${limit}`)

export const isAbove = compared((value, limit) => value > limit, "above")

export const isAtLeast = compared((value, limit) => value >= limit, "at least")

export const isBelow = compared((value, limit) => value < limit, "below")

export const isAtMost = compared((value, limit) => value <= limit, "at most")

export const include = <A>(all: ReadonlyArray<A> | string, part: A): void =>
  assert.ok(
    typeof all === "string" ? all.includes(String(part)) : all.includes(part),
    `expected ${inspect(all)} to include ${inspect(part)}`
  )

/** The same strings, each as often, in any order. */
export const sameMembers = (actual: ReadonlyArray<string>, expected: ReadonlyArray<string>): void =>
  assert.deepStrictEqual(actual.toSorted(), expected.toSorted())
