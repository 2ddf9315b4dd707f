import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

/** The last millisecond that a date can have (ECMAScript's "Time Values and Time Range"). */
export const lastMillisecond = 8.64e15

/** A value as a defect's message shows it. */
const show = (value: unknown): string =>
  value instanceof Date ? `the Date ${value}` : typeof value === "string" ? `"${value}"` : String(value)

/**
 * An expiry in whole epoch seconds, rounded up. The result is undefined if the record never expires: if the expiry is
 * left out, or is positive infinity. A time after the last possible date becomes the last date. If the value is not an
 * instant, this throws, since that is a mistake in the program, for example a `Date` or a string from JavaScript.
 */
export const toExpirySeconds = (expiresAt: DateTime.DateTime | undefined): number | undefined => {
  if (expiresAt === undefined) return undefined
  const millis = DateTime.isDateTime(expiresAt) ? expiresAt.epochMilliseconds : Number.NaN
  if (millis === Number.POSITIVE_INFINITY) return undefined
  if (!Number.isFinite(millis)) {
    const given = DateTime.isDateTime(expiresAt) ? `a DateTime of ${millis} ms` : show(expiresAt)
    throw new RangeError(`expiresAt must be a DateTime at an instant, or be left out for never: it is ${given}`)
  }
  return Math.ceil(Math.min(Math.max(millis, -lastMillisecond), lastMillisecond) / 1000)
}

/**
 * The date of whole epoch seconds. If another client wrote a time after the last possible date, it is the last date.
 */
export const toDate = (seconds: number): DateTime.Utc => DateTime.makeUnsafe(Math.min(seconds * 1000, lastMillisecond))

/**
 * The milliseconds of a duration option. If the value is not a duration, or is below zero, this throws and names the
 * option. Effect's `Duration` alone would treat NaN, a `Date` and an empty object as zero.
 */
export const toMillis = (name: string, input: Duration.Input): number => {
  const millis = hasOnlyNumbers(input) ? Option.getOrUndefined(Duration.fromInput(input)) : undefined
  const value = millis === undefined ? Number.NaN : Duration.toMillis(millis)
  if (value >= 0) return value
  throw new RangeError(`${name} must be a duration of zero or more, such as "5 seconds": it is ${show(input)}`)
}

const hasOnlyNumbers = (input: Duration.Input): boolean => {
  if (typeof input !== "object" || input === null || Duration.isDuration(input)) return !Number.isNaN(input)
  const parts = Object.values(input)
  return parts.length > 0 && parts.every((part) => typeof part === "number" && !Number.isNaN(part))
}
