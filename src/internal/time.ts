import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

/** The last millisecond that a date can have (ECMAScript's "Time Values and Time Range"). */
export const lastMillisecond = 8.64e15

/** A value as a defect's message shows it. */
const shown = (value: unknown): string =>
  value instanceof Date ? `the Date ${value}` : typeof value === "string" ? `"${value}"` : String(value)

/**
 * An expiry in whole epoch seconds, rounded up; undefined is never. Positive infinity is never, and what lies beyond all
 * dates is the last date. What is not an instant throws: it is a mistake in the program, often one that only JavaScript
 * lets pass, such as a `Date` or a string.
 */
export const toExpirySeconds = (expiresAt: DateTime.DateTime | undefined): number | undefined => {
  if (expiresAt === undefined) return undefined
  const millis = DateTime.isDateTime(expiresAt) ? expiresAt.epochMilliseconds : Number.NaN
  if (millis === Number.POSITIVE_INFINITY) return undefined
  if (!Number.isFinite(millis)) {
    const given = DateTime.isDateTime(expiresAt) ? `one of ${millis} ms` : shown(expiresAt)
    throw new RangeError(`expiresAt must be a DateTime at an instant, or be left out for never: it is ${given}`)
  }
  return Math.ceil(Math.min(Math.max(millis, -lastMillisecond), lastMillisecond) / 1000)
}

/** A date of whole epoch seconds. Another client may have written a time beyond all dates: it is the last date. */
export const toDate = (seconds: number): DateTime.Utc => DateTime.makeUnsafe(Math.min(seconds * 1000, lastMillisecond))

/**
 * The milliseconds of a duration that the caller gave under a name. What is not a duration, or is below zero, throws.
 * Effect's `Duration` alone would take NaN, a `Date` and an empty object for zero.
 */
export const toMillis = (name: string, input: Duration.Input): number => {
  const millis = hasOnlyNumbers(input) ? Option.getOrUndefined(Duration.fromInput(input)) : undefined
  const value = millis === undefined ? Number.NaN : Duration.toMillis(millis)
  if (value >= 0) return value
  throw new RangeError(`${name} must be a duration of zero or more, such as "5 seconds": it is ${shown(input)}`)
}

const hasOnlyNumbers = (input: Duration.Input): boolean => {
  if (typeof input !== "object" || input === null || Duration.isDuration(input)) return !Number.isNaN(input)
  const parts = Object.values(input)
  return parts.length > 0 && parts.every((part) => typeof part === "number" && !Number.isNaN(part))
}
