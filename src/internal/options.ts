/**
 * Checks of options when a Layer is built. What is wrong is a mistake in the program, often one that only JavaScript lets
 * pass, and throws: so it is a defect of the Layer.
 */
import * as Schedule from "effect/Schedule"

/** A value as a defect's message shows it. */
const shown = (value: unknown): string => (typeof value === "string" ? `"${value}"` : String(value))

const mustBe = (name: string, what: string, value: unknown) =>
  new RangeError(`${name} must be ${what}: it is ${shown(value)}`)

/** A string, which may be empty. */
export const checkString = (name: string, value: string): string => {
  if (typeof value === "string") return value
  throw mustBe(name, "a string", value)
}

/** A string that is not empty. */
export const checkName = (name: string, value: string): string => {
  if (typeof value === "string" && value !== "") return value
  throw mustBe(name, "a string that is not empty", value)
}

/** True or false. */
export const checkBoolean = (name: string, value: boolean): boolean => {
  if (typeof value === "boolean") return value
  throw mustBe(name, "true or false", value)
}

/** A schedule of Effect's, or undefined. */
export const checkSchedule = (name: string, value: unknown): void => {
  if (value !== undefined && !Schedule.isSchedule(value)) throw mustBe(name, "a Schedule", value)
}

/**
 * A limit: zero or more, or Infinity for none. Every comparison with NaN is false, so such a limit would never hold.
 */
export const checkLimit = (name: string, value: number): number => {
  if (typeof value === "number" && value >= 0) return value
  throw mustBe(name, "a number of zero or more, or Infinity for no limit", value)
}
