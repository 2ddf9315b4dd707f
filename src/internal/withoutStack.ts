/** Whether `Error.stackTraceLimit` may be set. It may not be in a hardened environment that freezes `Error`. */
const canLimit = Object.getOwnPropertyDescriptor(Error, "stackTraceLimit")?.writable === true

/**
 * Constructs an error that is an ordinary outcome. The error has no stack trace, since making one costs ten times as
 * much as the rest of the error.
 */
export const withoutStack = <A>(construct: () => A): A => {
  if (!canLimit) return construct()
  const limit = Error.stackTraceLimit
  Error.stackTraceLimit = 0
  try {
    return construct()
  } finally {
    Error.stackTraceLimit = limit
  }
}
