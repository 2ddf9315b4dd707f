/**
 * The address of one record: the owner of the record, and the id of the record among that owner's records.
 *
 * Every `StorageKey` has been checked, so code that takes a key does not check it again. No owner or id can address
 * another owner's record, whatever text it contains.
 */
import * as Effect from "effect/Effect"
import { hasProperty } from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Struct from "effect/Struct"
import { byteLength, isLongerThan } from "./internal/utf8.ts"

const TypeId = "~effect-versioned-store/StorageKey"

/**
 * How many bytes of UTF-8 an owner may take at most.
 *
 * @category configuration
 * @since 0.1.0
 */
export const maxOwnerBytes = 1024

/**
 * How many bytes of UTF-8 an id may take at most.
 *
 * @category configuration
 * @since 0.1.0
 */
export const maxIdBytes = 512

const problems = {
  NotAString: "is not a string",
  Empty: "is empty",
  TooLong: "is too long",
  LoneSurrogate: "has a lone surrogate, which is not a character and has no UTF-8",
  NullCharacter: "has a null character (U+0000)",
  Reserved: "starts with !, and such ids are reserved",
  NoSeparator: "has no colon between the owner and the id",
  BadEscape: "has a percent sign in its owner that is not part of %25 or %3A"
}

/**
 * An owner or an id can't be part of a key. `part` names it, and `problem` says why. If `problem` is `TooLong`,
 * `actual` and `limit` are bytes of UTF-8.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageKey } from "effect-versioned-store"
 * import { Result } from "effect"
 *
 * const result = StorageKey.make({ owner: "", id: "42" })
 * assert.ok(Result.isFailure(result))
 * assert.strictEqual(result.failure._tag, "InvalidKey")
 * assert.strictEqual(result.failure.message, "Invalid key: the owner is empty")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidKey extends Schema.TaggedError<InvalidKey>("effect-versioned-store/InvalidKey")(
  "InvalidKey",
  {
    part: Schema.Literals(["owner", "id", "idPrefix", "text"]),
    problem: Schema.Literals(Struct.keys(problems)),
    limit: Schema.optional(Schema.Int),
    actual: Schema.optional(Schema.Int)
  },
  { httpApiStatus: 400 }
) {
  override get message(): string {
    const explanation =
      this.problem === "TooLong"
        ? `takes ${this.actual} bytes of UTF-8, and at most ${this.limit} are allowed`
        : problems[this.problem]
    return `Invalid key: the ${this.part} ${explanation}`
  }
}

/** @internal */
export const checkPart = (part: "owner" | "id" | "idPrefix", text: string, limit: number): InvalidKey | undefined => {
  if (typeof text !== "string") return new InvalidKey({ part, problem: "NotAString" })
  if (text === "" && part !== "idPrefix") return new InvalidKey({ part, problem: "Empty" })
  if (!text.isWellFormed()) return new InvalidKey({ part, problem: "LoneSurrogate" })
  if (text.includes("\0")) return new InvalidKey({ part, problem: "NullCharacter" })
  if (isLongerThan(text, limit)) return new InvalidKey({ part, problem: "TooLong", limit, actual: byteLength(text) })
}

/**
 * The address of one record. {@link make} and {@link fromString} make one.
 *
 * @category models
 * @since 0.1.0
 */
export interface StorageKey {
  readonly [TypeId]: typeof TypeId
  readonly owner: string
  readonly id: string
}

class StorageKeyImpl implements StorageKey {
  readonly owner: string
  readonly id: string
  constructor(owner: string, id: string) {
    this.owner = owner
    this.id = id
  }
  get [TypeId](): typeof TypeId {
    return TypeId
  }
  toString(): string {
    return format(this)
  }
}

/** @internal */
export const unchecked = (owner: string, id: string): StorageKey => new StorageKeyImpl(owner, id)

/**
 * Whether a value is a `StorageKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageKey } from "effect-versioned-store"
 *
 * assert.strictEqual(StorageKey.isStorageKey(StorageKey.makeUnsafe({ owner: "alice", id: "42" })), true)
 * assert.strictEqual(StorageKey.isStorageKey({ owner: "alice", id: "42" }), false)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isStorageKey = (u: unknown): u is StorageKey => hasProperty(u, TypeId)

/**
 * Checks an owner and an id, and makes a key of them. Both must be non-empty, well-formed strings without U+0000. The
 * owner may take up to 1,024 bytes of UTF-8, and the id up to 512. If one of them breaks a rule, the result is a
 * failure with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageKey } from "effect-versioned-store"
 * import { Result } from "effect"
 *
 * const key = StorageKey.make({ owner: "alice", id: "order/42" })
 * assert.ok(Result.isSuccess(key))
 * assert.strictEqual(key.success.id, "order/42")
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (parts: { readonly owner: string; readonly id: string }): Result.Result<StorageKey, InvalidKey> => {
  const invalid = checkPart("owner", parts.owner, maxOwnerBytes) ?? checkPart("id", parts.id, maxIdBytes)
  return invalid === undefined ? Result.succeed(unchecked(parts.owner, parts.id)) : Result.fail(invalid)
}

/**
 * Like {@link make}, but throws the `InvalidKey`. Use it for keys that are written in the program itself.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageKey } from "effect-versioned-store"
 *
 * assert.strictEqual(StorageKey.makeUnsafe({ owner: "alice", id: "42" }).owner, "alice")
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeUnsafe = (parts: { readonly owner: string; readonly id: string }): StorageKey =>
  Result.getOrThrow(make(parts))

/** @internal */
export const formatText = (owner: string, id: string): string =>
  `${owner.replace(/[%:]/g, (character) => (character === "%" ? "%25" : "%3A"))}:${id}`

/** @internal */
export const parseText = (
  text: string
): Result.Result<{ readonly owner: string; readonly rest: string }, InvalidKey> => {
  const colon = text.indexOf(":")
  if (colon < 0) return Result.fail(new InvalidKey({ part: "text", problem: "NoSeparator" }))
  const owner = text.slice(0, colon)
  return /%(?!25|3A)/.test(owner)
    ? Result.fail(new InvalidKey({ part: "text", problem: "BadEscape" }))
    : Result.succeed({
        owner: owner.replace(/%25|%3A/g, (escaped) => (escaped === "%25" ? "%" : ":")),
        rest: text.slice(colon + 1)
      })
}

/**
 * The text form `owner:id`, in which `%` and `:` of the owner are percent-encoded. Two different keys have different
 * texts.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageKey } from "effect-versioned-store"
 *
 * assert.strictEqual(StorageKey.format(StorageKey.makeUnsafe({ owner: "a:b", id: "c:d" })), "a%3Ab:c:d")
 * ```
 *
 * @category encoding
 * @since 0.1.0
 */
export const format = (key: StorageKey): string => formatText(key.owner, key.id)

/**
 * Parses the text form. The text before the first `:` is the owner, and the text after it is the id. If the text is not
 * that of a key, the result is a failure with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageKey } from "effect-versioned-store"
 * import { Result } from "effect"
 *
 * const key = Result.getOrThrow(StorageKey.fromString("a%3Ab:c:d"))
 * assert.strictEqual(key.owner, "a:b")
 * assert.strictEqual(key.id, "c:d")
 * ```
 *
 * @category decoding
 * @since 0.1.0
 */
export const fromString = (text: string): Result.Result<StorageKey, InvalidKey> =>
  Result.flatMap(parseText(text), ({ owner, rest }) => make({ owner, id: rest }))

/** @internal */
export const fromResult = <A>(result: Result.Result<A, InvalidKey>): Effect.Effect<A, SchemaIssue.Issue> =>
  Effect.mapError(Effect.fromResult(result), (invalid) => new SchemaIssue.InvalidValue({ message: invalid.message }))

/**
 * The Schema of a key, encoded as `{ owner, id }`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageKey } from "effect-versioned-store"
 * import { Schema } from "effect"
 *
 * const key = Schema.decodeUnknownSync(StorageKey.StorageKey)({ owner: "alice", id: "42" })
 * assert.deepStrictEqual(Schema.encodeSync(StorageKey.StorageKey)(key), { owner: "alice", id: "42" })
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const StorageKey: Schema.Codec<StorageKey, { readonly owner: string; readonly id: string }> = Schema.Struct({
  owner: Schema.String,
  id: Schema.String
}).pipe(
  Schema.decodeTo(
    Schema.declare(isStorageKey, { identifier: "StorageKey" }),
    SchemaTransformation.transformEffect({
      decode: (parts) => fromResult(make(parts)),
      encode: ({ owner, id }) => Effect.succeed({ owner, id })
    })
  )
)
