const canLimit = Object.getOwnPropertyDescriptor(Error, "stackTraceLimit")?.writable === true

/** Constructs an error that is an ordinary outcome: without a stack trace, which costs ten times the rest. */
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
