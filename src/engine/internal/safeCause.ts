/** What a copy of an engine's error keeps of it. */
interface EngineError extends Error {
  readonly code?: unknown
  readonly errcode?: unknown
}

/** A URL's user and password, for example in `redis://user:password@host`. */
const userInfo = /\/\/\S*@/g

/** A text that an engine or its client gave, without the user and the password of a URL in it. */
export const withoutUserInfo = (text: string): string => text.replace(userInfo, "//")

/**
 * A copy of an engine's error that is safe to log. Errors of clients hold the request, the response or a URL in further
 * properties, and their messages may repeat record data or credentials: the copy has the name, the codes and the stack
 * of the error, and of its message only what the caller gives.
 */
export const safeCause = (error: EngineError, message: string): Error => {
  const name = nameOf(error)
  const shown = withoutUserInfo(message)
  const frames = String(error.stack ?? "").match(/^ {4}at .*$/gm) ?? []
  const copy = new Error(shown)
  const define = (property: string, value: unknown) =>
    Object.defineProperty(copy, property, { value, enumerable: false, writable: true, configurable: true })
  define("name", name)
  define("stack", [shown === "" ? name : `${name}: ${shown}`, ...frames].join("\n"))
  for (const property of ["code", "errcode"] as const) {
    const value = error[property]
    if (typeof value === "number" || (typeof value === "string" && /^\w+$/.test(value))) define(property, value)
  }
  return copy
}

/** The class of an error, which node-redis does not put into the name. */
const nameOf = (error: Error): string => (error.name === "Error" ? error.constructor.name : error.name)
