/** Reads the options of a Layer from configuration, with errors that name the setting in their first line. */
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as SchemaIssue from "effect/SchemaIssue"

/** A `ConfigError` of Effect with another message. Effect's own has the name of the setting in its second line. */
class NamedConfigError extends Config.ConfigError {
  readonly #message: string

  constructor(cause: Config.ConfigError["cause"], message: string) {
    super(cause)
    this.#message = message
  }

  override get message() {
    return this.#message
  }
}

const toStandardIssues = SchemaIssue.makeFormatterStandardSchemaV1()

/**
 * The name of a setting. A variable of the environment has the parts of a nested name with underscores between them.
 * Other providers have other names.
 */
const nameOf = (path: ConfigProvider.Path): string =>
  path.length === 1 ? String(path[0]) : `${path.join(".")} (in the environment ${path.join("_")})`

const withName = Effect.fnUntraced(function* (error: Config.ConfigError) {
  // The provider's own failure says what it could not read.
  if (error.cause._tag === "SourceError") return error
  const provider = yield* ConfigProvider.ConfigProvider
  const lines = yield* Effect.forEach(toStandardIssues(error.cause.issue).issues, ({ message, path = [] }) => {
    const names = path.map((part) => (typeof part === "object" ? part.key : part)) as ConfigProvider.Path
    if (names.length === 0) return Effect.succeed(message)
    return Effect.map(Effect.option(provider.load(names)), (found) => {
      const isMissing = found._tag === "Some" && found.value === undefined
      return `${nameOf(names)} is ${isMissing ? "missing" : "wrong"}. ${message}`
    })
  })
  return new NamedConfigError(error.cause, lines.join("\n"))
})

/** Reads options. An error says in its first line which setting is missing or wrong, and what is expected. */
export const readOptions = <Options>(options: Config.Wrap<Options>): Effect.Effect<Options, Config.ConfigError> =>
  Effect.catch(Config.unwrap<Options>(options), (error) => Effect.flatMap(withName(error), Effect.fail))
