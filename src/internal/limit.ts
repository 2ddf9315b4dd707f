/**
 * A limit that the caller gave under a name: zero or more, or Infinity for none. Anything else throws, since every
 * comparison with NaN is false, so that such a limit would never hold.
 */
export const checkLimit = (name: string, value: number): number => {
  if (typeof value === "number" && value >= 0) return value
  const given = typeof value === "string" ? `"${value}"` : String(value)
  throw new RangeError(`${name} must be a number of zero or more, or Infinity for no limit: it is ${given}`)
}
