import { inspect } from "node:util"
import { Cause, Effect, Logger, Result, Schema } from "effect"
import { Backend } from "../../src/StorageError.ts"

/** The text that a logger writes for an error and for its cause. */
const logged = (logger: Logger.Logger<unknown, string>, error: unknown): string => {
  const lines: Array<string> = []
  const collect = Logger.map(logger, (line) => void lines.push(line))
  Effect.runSync(
    Effect.andThen(Effect.logError("failed", error), Effect.logError("failed", Cause.fail(error))).pipe(
      Effect.provide(Logger.layer([collect]))
    )
  )
  return lines.join("\n")
}

/** An error in each way in which a program may show it. */
export const waysToShow = (error: unknown): Record<string, string> => ({
  message: (error as Error).message,
  String: String(error),
  stack: String((error as Error).stack),
  "JSON.stringify": JSON.stringify(error),
  "util.inspect": inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true }),
  "Cause.pretty": Cause.pretty(Cause.fail(error)),
  "Cause of a defect": Cause.pretty(Cause.die(error)),
  "String(cause)": String(Cause.fail(error)),
  "inspect(cause)": inspect(Cause.fail(error), { depth: Number.POSITIVE_INFINITY, showHidden: true }),
  logfmt: logged(Logger.formatLogFmt, error),
  simple: logged(Logger.formatSimple, error),
  json: logged(Logger.formatJson, error),
  Schema: JSON.stringify(Result.getOrUndefined(Schema.encodeUnknownResult(Schema.toCodecJson(Backend))(error)) ?? null)
})

/** Throws if an error shows one of the secrets in any way. */
export const assertHides = (error: unknown, ...secrets: ReadonlyArray<string>): void => {
  for (const [way, text] of Object.entries(waysToShow(error))) {
    for (const secret of secrets) {
      if (text.includes(secret)) throw new Error(`${way} shows ${secret}: ${text.slice(0, 2000)}`)
    }
  }
}
