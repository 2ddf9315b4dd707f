/**
 * An owner and the start of some ids. A listing returns the records of that owner whose ids have that start.
 */
import * as Effect from "effect/Effect"
import { hasProperty } from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as StorageKey from "./StorageKey.ts"

const TypeId = "~effect-versioned-store/StoragePrefix"

/**
 * All records of an owner whose ids start with `idPrefix`. {@link make} and {@link fromString} make one.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoragePrefix {
  readonly [TypeId]: typeof TypeId
  readonly owner: string
  readonly idPrefix: string
}

class StoragePrefixImpl implements StoragePrefix {
  readonly owner: string
  readonly idPrefix: string
  constructor(owner: string, idPrefix: string) {
    this.owner = owner
    this.idPrefix = idPrefix
  }
  get [TypeId](): typeof TypeId {
    return TypeId
  }
  toString(): string {
    return format(this)
  }
}

/**
 * Whether a value is a `StoragePrefix`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StoragePrefix } from "effect-versioned-store"
 *
 * assert.strictEqual(StoragePrefix.isStoragePrefix({ owner: "alice", idPrefix: "" }), false)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isStoragePrefix = (u: unknown): u is StoragePrefix => hasProperty(u, TypeId)

/**
 * Checks an owner and an id prefix by the rules of a `StorageKey`, except that the prefix may be empty. If one of them
 * breaks a rule, the result is a failure with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StoragePrefix } from "effect-versioned-store"
 * import { Result } from "effect"
 *
 * assert.ok(Result.isSuccess(StoragePrefix.make({ owner: "alice", idPrefix: "" })))
 * assert.ok(Result.isFailure(StoragePrefix.make({ owner: "", idPrefix: "order/" })))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (parts: {
  readonly owner: string
  readonly idPrefix: string
}): Result.Result<StoragePrefix, StorageKey.InvalidKey> => {
  const invalid =
    StorageKey.checkPart("owner", parts.owner, StorageKey.maxOwnerBytes) ??
    StorageKey.checkPart("idPrefix", parts.idPrefix, StorageKey.maxIdBytes)
  return invalid === undefined
    ? Result.succeed(new StoragePrefixImpl(parts.owner, parts.idPrefix))
    : Result.fail(invalid)
}

/**
 * Like {@link make}, but throws the `InvalidKey`. Use it for prefixes that are written in the program itself.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StoragePrefix } from "effect-versioned-store"
 *
 * assert.strictEqual(StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "order/" }).idPrefix, "order/")
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeUnsafe = (parts: { readonly owner: string; readonly idPrefix: string }): StoragePrefix =>
  Result.getOrThrow(make(parts))

/**
 * The text form `owner:idPrefix`, encoded as in {@link StorageKey.format}.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StoragePrefix } from "effect-versioned-store"
 *
 * assert.strictEqual(StoragePrefix.format(StoragePrefix.makeUnsafe({ owner: "50%", idPrefix: "" })), "50%25:")
 * ```
 *
 * @category encoding
 * @since 0.1.0
 */
export const format = (prefix: StoragePrefix): string => StorageKey.formatText(prefix.owner, prefix.idPrefix)

/**
 * Parses the text form, as {@link StorageKey.fromString} does.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StoragePrefix } from "effect-versioned-store"
 * import { Result } from "effect"
 *
 * assert.strictEqual(Result.getOrThrow(StoragePrefix.fromString("alice:order/")).owner, "alice")
 * ```
 *
 * @category decoding
 * @since 0.1.0
 */
export const fromString = (text: string): Result.Result<StoragePrefix, StorageKey.InvalidKey> =>
  Result.flatMap(StorageKey.parseText(text), ({ owner, rest }) => make({ owner, idPrefix: rest }))

/**
 * The Schema of a prefix, encoded as `{ owner, idPrefix }`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StoragePrefix } from "effect-versioned-store"
 * import { Schema } from "effect"
 *
 * const prefix = Schema.decodeUnknownSync(StoragePrefix.StoragePrefix)({ owner: "alice", idPrefix: "order/" })
 * assert.strictEqual(prefix.owner, "alice")
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const StoragePrefix: Schema.Codec<StoragePrefix, { readonly owner: string; readonly idPrefix: string }> =
  Schema.Struct({ owner: Schema.String, idPrefix: Schema.String }).pipe(
    Schema.decodeTo(
      Schema.declare(isStoragePrefix, { identifier: "StoragePrefix" }),
      SchemaTransformation.transformEffect({
        decode: (parts) => StorageKey.fromResult(make(parts)),
        encode: ({ owner, idPrefix }) => Effect.succeed({ owner, idPrefix })
      })
    )
  )
