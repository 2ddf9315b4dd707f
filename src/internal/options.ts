/**
 * Checks of options when a Layer is built. A wrong option is a mistake in the program, often one that the types exclude
 * and only JavaScript allows. So the check throws, and building the Layer dies with a defect.
 */
import * as Schedule from "effect/Schedule"

/** A value as a defect's message shows it. */
const show = (value: unknown): string => (typeof value === "string" ? `"${value}"` : String(value))

const optionError = (name: string, requirement: string, value: unknown) =>
  new RangeError(`${name} must be ${requirement}: it is ${show(value)}`)

/** Checks for a string, which may be empty. */
export const checkString = (name: string, value: string): string => {
  if (typeof value === "string") return value
  throw optionError(name, "a string", value)
}

/** Checks for a string that is not empty. */
export const checkName = (name: string, value: string): string => {
  if (typeof value === "string" && value !== "") return value
  throw optionError(name, "a string that is not empty", value)
}

/** Checks for true or false. */
export const checkBoolean = (name: string, value: boolean): boolean => {
  if (typeof value === "boolean") return value
  throw optionError(name, "true or false", value)
}

/** Checks for an Effect `Schedule`, or undefined. */
export const checkSchedule = (name: string, value: unknown): void => {
  if (value !== undefined && !Schedule.isSchedule(value)) throw optionError(name, "a Schedule", value)
}

/**
 * Checks for a limit: zero or more, or Infinity for no limit. NaN is refused, since every comparison with NaN is false,
 * so the limit would never hold.
 */
export const checkLimit = (name: string, value: number): number => {
  if (typeof value === "number" && value >= 0) return value
  throw optionError(name, "a number of zero or more, or Infinity for no limit", value)
}
