import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, Effect, type Redacted, Schema } from "effect"
import { readOptions } from "../../src/internal/config.ts"

interface Options {
  readonly name: string
  readonly size?: number | undefined
  readonly password?: Redacted.Redacted<string> | undefined
}

/** The error of options, read from an environment. */
const failing = <A>(options: Config.Wrap<A>, env: Record<string, string> = {}) =>
  Effect.flip(readOptions(options)).pipe(
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))),
    Effect.map((error) => {
      assert.instanceOf(error, Config.ConfigError)
      // What a program prints begins with the message.
      assert.strictEqual(Cause.pretty(Cause.fail(error)).split("\n")[0]?.replace(/ \{$/, ""), firstLine(error))
      return error
    })
  )

const firstLine = ({ message }: Config.ConfigError) => `ConfigError: ${message.split("\n")[0]}`

describe("Options from configuration", () => {
  it.effect("are read", () =>
    Effect.gen(function* () {
      const options = yield* readOptions<Options>({ name: Config.String("NAME"), size: Config.Int("SIZE") })
      assert.deepStrictEqual(options, { name: "records", size: 7 })
    }).pipe(Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: { NAME: "records", SIZE: "7" } }))))
  )

  it.effect("fail with the name of a variable that is missing, and what it should be", () =>
    Effect.gen(function* () {
      const missing = yield* failing<Options>({ name: Config.String("RECORDS_NAME") })
      assert.strictEqual(missing.message, "RECORDS_NAME is missing. Expected string")
      const empty = yield* failing<Options>({ name: Config.NonEmptyString("RECORDS_NAME") }, { RECORDS_NAME: "" })
      assert.strictEqual(empty.message, "RECORDS_NAME is missing. Expected string")
    })
  )

  it.effect("fail with the name of a variable that is wrong, and what it should be", () =>
    Effect.gen(function* () {
      const name = Config.succeed("records")
      const wrong = yield* failing<Options>({ name, size: Config.Int("SIZE") }, { SIZE: "many" })
      assert.strictEqual(wrong.message, "SIZE is wrong. Expected an integer")
      // The cause is still Effect's own.
      assert.include(String(wrong.cause), 'at ["SIZE"]')
    })
  )

  it.effect("fail with what the setting is, not with what the text is that it is made of", () =>
    Effect.gen(function* () {
      const name = Config.succeed("records")
      const expected = (size: Config.Config<number>, env: Record<string, string> = {}) =>
        Effect.map(failing<Options>({ name, size }, env), ({ message }) => message)
      assert.strictEqual(yield* expected(Config.Int("SIZE")), "SIZE is missing. Expected an integer")
      assert.strictEqual(yield* expected(Config.Int("SIZE"), { SIZE: "1.5" }), "SIZE is wrong. Expected an integer")
      const number = "Expected a finite number"
      assert.strictEqual(yield* expected(Config.Finite("SIZE")), `SIZE is missing. ${number}`)
      assert.strictEqual(yield* expected(Config.Finite("SIZE"), { SIZE: "many" }), `SIZE is wrong. ${number}`)
      assert.strictEqual(
        yield* expected(Config.Port("SIZE"), { SIZE: "many" }),
        "SIZE is wrong. Expected an integer and a value between 1 and 65535"
      )
    })
  )

  it.effect("fail with the whole name of a nested setting", () =>
    Effect.gen(function* () {
      const error = yield* failing<Options>({ name: Config.nested(Config.String("NAME"), "RECORDS") })
      assert.strictEqual(error.message, "RECORDS.NAME (in the environment RECORDS_NAME) is missing. Expected string")
    })
  )

  it.effect("fail with one line for each setting that is wrong", () =>
    Effect.gen(function* () {
      const schema = Schema.Struct({ name: Schema.String, size: Schema.Int })
      const error = yield* Effect.flip(readOptions(Config.schema(schema))).pipe(
        Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown({ size: "many" })))
      )
      for (const line of error.message.split("\n"))
        assert.match(line, /^(name is missing\. Missing key|size is wrong\. Expected an integer)$/)
    })
  )

  it.effect("fail with the provider's own error if it can't be read", () =>
    Effect.gen(function* () {
      const source = new ConfigProvider.SourceError({ message: "the parameter store is away" })
      const error = yield* Effect.flip(readOptions<Options>({ name: Config.String("NAME") })).pipe(
        Effect.provide(ConfigProvider.layer(ConfigProvider.make(() => Effect.fail(source))))
      )
      assert.include(error.message, "the parameter store is away")
    })
  )

  it.effect("do not repeat a value that is wrong, since it may be a secret", () =>
    Effect.gen(function* () {
      const name = Config.succeed("records")
      const password = Config.schema(Schema.RedactedFromValue(Schema.String.check(Schema.isMinLength(20))), "PASSWORD")
      const error = yield* failing<Options>({ name, password }, { PASSWORD: "hush" })
      assert.match(error.message, /^PASSWORD is wrong\. /)
      assert.notInclude(Cause.pretty(Cause.fail(error)), "hush")
      const size = yield* failing<Options>({ name, size: Config.Int("SIZE") }, { SIZE: "hush" })
      assert.notInclude(Cause.pretty(Cause.fail(size)), "hush")
    })
  )
})
