import { byteLength, isLongerThan } from "../../internal/utf8.ts"

export interface Limits {
  /** How deeply arrays and objects may be nested. With 0, a value can't be an array or an object. */
  readonly maxDepth: number
  readonly maxBytes: number
  /** The bytes of one string's UTF-8. */
  readonly maxStringBytes?: number
}

/** Why a value can't be stored. `path` leads to the part that is wrong. */
export type Problem =
  | { readonly problem: "TooDeep" | "NotJson" | "StringTooLong"; readonly path: ReadonlyArray<string> }
  | { readonly problem: "TooLarge"; readonly actual: number }

/**
 * The largest depth, even if a limit is `Infinity`. `JSON.stringify` overflows the stack at a few thousand levels, and
 * the walk below at more.
 */
export const deepest = 1000

/**
 * The first problem that keeps a value from being stored as JSON. A value from JavaScript may be anything. The depth
 * ends the walk of a cyclic value. The count of bytes ends the walk of a value that contains the same large part many
 * times.
 */
export const problemIn = (root: unknown, limits: Limits): Problem | undefined => {
  const maxDepth = Math.min(limits.maxDepth, deepest)
  const path: Array<string> = []
  let bytes = 0

  const visitAll = (values: Iterable<readonly [string, unknown]>): Problem | undefined => {
    for (const [name, value] of values) {
      path.push(name)
      const problem = visit(value)
      if (problem !== undefined) return problem
      path.pop()
    }
  }

  const visit = (value: unknown): Problem | undefined => {
    if (path.length > maxDepth) return { problem: "TooDeep", path }
    bytes += 1 + (typeof value === "string" ? value.length : 0)
    if (bytes > limits.maxBytes) return { problem: "TooLarge", actual: bytes }
    if (typeof value === "string") {
      const { maxStringBytes = Number.POSITIVE_INFINITY } = limits
      return isLongerThan(value, maxStringBytes) ? { problem: "StringTooLong", path } : undefined
    }
    if (value === null || typeof value === "boolean" || Number.isFinite(value)) return undefined
    // By index, since an iteration over the elements that exist would skip the gaps of a sparse array.
    if (Array.isArray(value)) return visitAll(indexed(value))
    return isPlainObject(value) ? visitAll(named(value)) : { problem: "NotJson", path }
  }

  return visit(root)
}

function* indexed(array: ReadonlyArray<unknown>): Iterable<readonly [string, unknown]> {
  for (let i = 0; i < array.length; i++) yield [String(i), array[i]]
}

function* named(object: object): Iterable<readonly [string, unknown]> {
  for (const name of Object.keys(object)) yield [name, (object as Record<string, unknown>)[name]]
}

/** How many bytes a value takes as JSON, if that is more than a limit. */
export const bytesOver = (value: unknown, limit: number): number | undefined => {
  const actual = byteLength(JSON.stringify(value))
  return actual > limit ? actual : undefined
}

/** Whether a value is an object that JSON can hold, made in this realm or in another one. */
export const isPlainObject = (value: unknown): value is object => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}
