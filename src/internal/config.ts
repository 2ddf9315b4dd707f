/** Reads the options of a Layer from configuration, with errors that name the setting in their first line. */
import * as Config from "effect/Config"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"
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

/** What the checks of a type expect, for example "an integer". */
const expectedBy = (ast: SchemaAST.AST): string | undefined => {
  const expected = ast.checks?.flatMap(({ annotations }) => annotations?.expected ?? []) ?? []
  return expected.length === 0 ? undefined : expected.join(" and ")
}

/**
 * The same issue, except that it says what the setting is, and not what the text is that the setting is made of. Effect
 * says of a number that is missing that a string is expected.
 */
const ofDecoded = (issue: SchemaIssue.Issue): SchemaIssue.Issue => {
  switch (issue._tag) {
    case "Pointer":
      return new SchemaIssue.Pointer(issue.path, ofDecoded(issue.issue))
    case "Composite":
      return new SchemaIssue.Composite(issue.ast, mapIssues(issue.issues))
    case "Encoding": {
      const { issue: inner } = issue
      const isText = (inner._tag === "InvalidType" || inner._tag === "Composite") && inner.ast._tag === "String"
      const expected = isText ? (expectedBy(issue.ast) ?? expectedBy(inner.ast)) : undefined
      return expected === undefined ? issue : new SchemaIssue.InvalidValue({ expected })
    }
    default:
      return issue
  }
}

const mapIssues = ([first, ...rest]: SchemaIssue.Composite["issues"]): SchemaIssue.Composite["issues"] => [
  ofDecoded(first),
  ...rest.map(ofDecoded)
]

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
  const lines = yield* Effect.forEach(
    toStandardIssues(ofDecoded(error.cause.issue)).issues,
    ({ message, path = [] }) => {
      const names = path.map((part) => (typeof part === "object" ? part.key : part)) as ConfigProvider.Path
      if (names.length === 0) return Effect.succeed(message)
      return Effect.map(Effect.option(provider.load(names)), (found) => {
        const isMissing = found._tag === "Some" && found.value === undefined
        return `${nameOf(names)} is ${isMissing ? "missing" : "wrong"}. ${message}`
      })
    }
  )
  return new NamedConfigError(error.cause, lines.join("\n"))
})

/** Reads options. An error says in its first line which setting is missing or wrong, and what is expected. */
export const readOptions = <Options>(options: Config.Wrap<Options>): Effect.Effect<Options, Config.ConfigError> =>
  Effect.catch(Config.unwrap<Options>(options), (error) => Effect.flatMap(withName(error), Effect.fail))

/** The settings that one option is read from, as far as they are set. */
const settingsOf = Effect.fnUntraced(function* (option: Config.Wrap<unknown> | undefined) {
  const provider = yield* ConfigProvider.ConfigProvider
  const names = new Set<string>()
  const recording = ConfigProvider.make((path) =>
    Effect.tap(provider.load(path), (found) => {
      if (found !== undefined) names.add(nameOf(path))
      return Effect.void
    })
  )
  if (option !== undefined) {
    yield* Effect.ignore(Effect.provideService(Config.unwrap(option), ConfigProvider.ConfigProvider, recording))
  }
  return Array.from(names)
})

/**
 * Makes something from options that are read from configuration. If a value has the right type and is refused all the
 * same, the error names its setting as well. The refusal of an option begins with the option's name.
 */
export const makeFrom = <Options, A, E, R>(
  options: Config.Wrap<Options>,
  make: (options: Options) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | Config.ConfigError, R> =>
  Effect.flatMap(readOptions(options), (read) =>
    Effect.catchDefect(
      Effect.suspend(() => make(read)),
      (defect): Effect.Effect<never, Config.ConfigError> => {
        const option = defect instanceof RangeError ? /^(\w+)(?=[ .].*must)/.exec(defect.message)?.[1] : undefined
        const wrapped = Object.entries(options).find(([name]) => name === option)?.[1] as Config.Wrap<unknown>
        if (!(defect instanceof RangeError) || wrapped === undefined) return Effect.die(defect)
        return Effect.flatMap(settingsOf(wrapped), (names) => {
          const settings = names.length === 0 ? option : names.join(" and ")
          const message = `${settings} ${names.length > 1 ? "are" : "is"} wrong. ${defect.message}`
          const issue = new SchemaIssue.InvalidValue({ message })
          return Effect.fail(new NamedConfigError(new Schema.SchemaError(issue), message))
        })
      }
    )
  )
