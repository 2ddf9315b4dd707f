/** TypeScript's declaration of the limit is a number. */
const captureNone = undefined as unknown as number

/** Whether `Error.stackTraceLimit` may be set. It may not be in a hardened environment that freezes `Error`. */
const canLimit = Object.getOwnPropertyDescriptor(Error, "stackTraceLimit")?.writable === true

/**
 * Constructs an error that is an ordinary outcome. Its `stack` is undefined, since making one costs many times as much
 * as the rest of the error. A limit of 0 would still make a stack, without calls. A limit that is not a number makes
 * none.
 */
export const withoutStack = <A>(construct: () => A): A => {
  if (!canLimit) return construct()
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = captureNone
  try {
    return construct()
  } finally {
    Error.stackTraceLimit = limit
  }
}
