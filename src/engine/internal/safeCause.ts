/** The fields of an engine's error that its copy keeps. */
interface EngineError extends Error {
  readonly code?: unknown
  readonly errcode?: unknown
}

/** A URL's user and password, for example in `redis://user:password@host`. */
const userInfo = /\/\/\S*@/g

/** Removes the user and the password of a URL from a text of an engine or its client. */
export const withoutUserInfo = (text: string): string => text.replace(userInfo, "//")

/**
 * A copy of an engine's error that is safe to log. A client's error may hold the request, the response or a URL in its
 * properties, and its message may repeat record data or credentials. So the copy has only the name, the codes and the
 * stack of the error, and the message that the caller gives.
 */
export const safeCause = (error: EngineError, message: string): Error => {
  const name = nameOf(error)
  const safeMessage = withoutUserInfo(message)
  const frames = String(error.stack ?? "").match(/^ {4}at .*$/gm) ?? []
  const copy = new Error(safeMessage)
  const define = (property: string, value: unknown) =>
    Object.defineProperty(copy, property, { value, enumerable: false, writable: true, configurable: true })
  define("name", name)
  define("stack", [safeMessage === "" ? name : `${name}: ${safeMessage}`, ...frames].join("\n"))
  for (const property of ["code", "errcode"] as const) {
    const value = error[property]
    if (typeof value === "number" || (typeof value === "string" && /^\w+$/.test(value))) define(property, value)
  }
  return copy
}

/** The class of an error. The errors of node-redis all have the name "Error". */
const nameOf = (error: Error): string => (error.name === "Error" ? error.constructor.name : error.name)
