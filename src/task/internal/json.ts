import { byteLength, isLongerThan } from "../../internal/utf8.ts"

export interface Limits {
  /** How deeply arrays and objects may be nested: 0 is for neither. */
  readonly maxDepth: number
  readonly maxBytes: number
  readonly maxStringBytes?: number
}

/** Why a value can't be stored. `path` leads to the place. */
export type Problem =
  | { readonly problem: "TooDeep" | "NotJson" | "StringTooLong"; readonly path: ReadonlyArray<string> }
  | { readonly problem: "TooLarge"; readonly actual: number }

/**
 * The depth that no limit goes beyond, `Infinity` included. `JSON.stringify` overflows the stack at a few thousand levels,
 * and the walk below at some more.
 */
export const deepest = 1000

/**
 * The first problem of a value that is to be stored as JSON. Input from JavaScript may be anything: the depth bounds the
 * walk of a cyclic value, and the bytes counted so far bound that of one whose parts occur again and again.
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
    // By index, so that the gaps of an array are seen.
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

/** The bytes that a value takes as JSON, if they are more than a limit. */
export const bytesOver = (value: unknown, limit: number): number | undefined => {
  const actual = byteLength(JSON.stringify(value))
  return actual > limit ? actual : undefined
}

/** Whether a value is an object as JSON has it, of this or of another realm. */
export const isPlainObject = (value: unknown): value is object => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}
