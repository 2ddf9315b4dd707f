/**
 * What can go wrong with a stored record. Each error is told apart by its `_tag`, and stands only in the error channel
 * of the operations that can raise it.
 */
import * as Schema from "effect/Schema"
import { StorageKey } from "./StorageKey.ts"
import type { VersionedRecord } from "./VersionedRecord.ts"

/**
 * There is no live record at the key: none was written, or it was deleted, or it has expired.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * const program = StorageBackend.StorageBackend.use((backend) =>
 *   backend.get(key)
 * )
 * const error = Effect.runSync(Effect.flip(program).pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(error.message, "No record at alice:42")
 * ```
 */
export class RecordNotFound extends Schema.TaggedError<RecordNotFound>("effect-versioned-store/RecordNotFound")(
  "RecordNotFound",
  { key: StorageKey }
) {
  override get message(): string {
    return `No record at ${this.key}`
  }
}

/**
 * A record was to be created where there is one already.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, VersionedStore } from "effect-versioned-store"
 * import { Effect, Schema } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
 *   yield* counters.create({ owner: "alice", id: "visits" }, 1)
 *   yield* counters.create({ owner: "alice", id: "visits" }, 1)
 * }).pipe(Effect.catchTag("AlreadyExists", (error) => Effect.succeed(error.message)))
 * assert.strictEqual(
 *   Effect.runSync(program.pipe(Effect.provide(InMemory.layer))),
 *   "There is a record at alice:counter/visits already"
 * )
 * ```
 */
export class AlreadyExists extends Schema.TaggedError<AlreadyExists>("effect-versioned-store/AlreadyExists")(
  "AlreadyExists",
  { key: StorageKey }
) {
  override get message(): string {
    return `There is a record at ${this.key} already`
  }
}

/**
 * A compare-and-set found another record than the expected one, and wrote nothing. `actual` is the version that the
 * record really has. If `actual` equals `expected`, the record was deleted and created again in between. If it is 0, the
 * record is gone.
 *
 * If the engine hands over the record with the refusal, `current` has it, so that a retry needs no read. It is for the
 * program alone: it is not a field of the Schema, and no log, inspection or encoding of the error shows it.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * const program = StorageBackend.StorageBackend.use((backend) =>
 *   Effect.andThen(backend.put(key, "one"), backend.putIfVersion(key, "two", 7))
 * )
 * const error = Effect.runSync(Effect.flip(program).pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(error.message, "Expected version 7 at alice:42, found version 1")
 * assert.ok(error._tag === "VersionConflict" && error.current?.data === "one")
 * assert.ok(!JSON.stringify(error).includes("one"))
 * ```
 */
export class VersionConflict extends Schema.TaggedError<VersionConflict>("effect-versioned-store/VersionConflict")(
  "VersionConflict",
  { key: StorageKey, expected: Schema.Int, actual: Schema.Int }
) {
  // Private and behind a getter, so that not even an inspection of hidden properties shows the record's data.
  readonly #current: VersionedRecord | undefined

  constructor(
    props: {
      readonly key: StorageKey
      readonly expected: number
      readonly actual: number
      readonly current?: VersionedRecord | undefined
    },
    options?: Schema.MakeOptions
  ) {
    const { current, ...fields } = props
    super(fields, options)
    this.#current = current
  }

  /** The record that is there, if the engine handed it over. */
  get current(): VersionedRecord | undefined {
    return this.#current
  }

  override get message(): string {
    const found = this.actual === this.expected ? `another record of version ${this.actual}` : `version ${this.actual}`
    return `Expected ${this.expected === 0 ? "no record" : `version ${this.expected}`} at ${this.key}, found ${found}`
  }
}

/**
 * A write was refused for its size, and nothing was written. `resource` says which limit it met: the bytes of UTF-8 of
 * one record's data (`RecordBytes`), those of a whole item with what other programs keep in it (`ItemBytes`, where
 * `actual` counts the data alone), the records or bytes that the store may hold (`StoreRecords`, `StoreBytes`), or the
 * versions that one record may have (`Versions`).
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * const program = StorageBackend.StorageBackend.use((backend) =>
 *   backend.put(key, "x".repeat(500_000))
 * )
 * const error = Effect.runSync(Effect.flip(program).pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(
 *   error.message,
 *   "The data for alice:42 takes 500000 bytes of UTF-8, and at most 393216 are allowed"
 * )
 * ```
 */
export class CapacityExceeded extends Schema.TaggedError<CapacityExceeded>("effect-versioned-store/CapacityExceeded")(
  "CapacityExceeded",
  {
    key: StorageKey,
    resource: Schema.Literals(["RecordBytes", "ItemBytes", "StoreRecords", "StoreBytes", "Versions"]),
    limit: Schema.Finite,
    actual: Schema.Finite
  }
) {
  override get message(): string {
    return capacityMessages[this.resource](this)
  }
}

const capacityMessages = {
  RecordBytes: ({ actual, key, limit }: CapacityExceeded) =>
    `The data for ${key} takes ${actual} bytes of UTF-8, and at most ${limit} are allowed`,
  StoreRecords: ({ actual, key, limit }: CapacityExceeded) =>
    `Writing ${key} would make ${actual} records, and the store holds at most ${limit}`,
  StoreBytes: ({ actual, key, limit }: CapacityExceeded) =>
    `Writing ${key} would make ${actual} bytes, and the store holds at most ${limit}`,
  ItemBytes: ({ actual, key, limit }: CapacityExceeded) =>
    `The item of ${key} would take more than ${limit} bytes: ${actual} are the data's, and attributes of others the rest`,
  Versions: ({ key, limit }: CapacityExceeded) =>
    `The record at ${key} has had its last version, ${limit}: delete it and create it anew`
}

/**
 * The data has a lone surrogate, so it has no UTF-8 and would not come back as it was. Nothing was written.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * const program = StorageBackend.StorageBackend.use((backend) =>
 *   backend.put(key, "\ud83d")
 * )
 * const error = Effect.runSync(Effect.flip(program).pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(error.message, "The data for alice:42 has a lone surrogate")
 * ```
 */
export class InvalidData extends Schema.TaggedError<InvalidData>("effect-versioned-store/InvalidData")("InvalidData", {
  key: StorageKey,
  description: Schema.String
}) {
  override get message(): string {
    return `The data for ${this.key} ${this.description}`
  }
}

/**
 * A cursor that no page of this listing gave out: damaged, or of another owner, prefix or order.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StoragePrefix } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const prefix = StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "" })
 * const program = StorageBackend.StorageBackend.use((backend) => backend.listByPrefix(prefix, { cursor: "nonsense" }))
 * const error = Effect.runSync(Effect.flip(program).pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(error._tag, "InvalidCursor")
 * ```
 */
export class InvalidCursor extends Schema.TaggedError<InvalidCursor>("effect-versioned-store/InvalidCursor")(
  "InvalidCursor",
  {}
) {
  override get message(): string {
    return "The cursor is damaged, or belongs to another owner, prefix or order: list again from the start"
  }
}

const reasonFields = {
  description: Schema.String,
  isRetryable: Schema.Boolean,
  cause: Schema.optional(Schema.Defect())
}

/** The engine takes no more requests for now. */
export class Throttled extends Schema.TaggedError<Throttled>("effect-versioned-store/Throttled")(
  "Throttled",
  reasonFields
) {
  override get message(): string {
    return this.description
  }
}

/** The engine can't be reached, or failed by itself. */
export class Unavailable extends Schema.TaggedError<Unavailable>("effect-versioned-store/Unavailable")(
  "Unavailable",
  reasonFields
) {
  override get message(): string {
    return this.description
  }
}

/** No answer came in time. */
export class Timeout extends Schema.TaggedError<Timeout>("effect-versioned-store/Timeout")("Timeout", reasonFields) {
  override get message(): string {
    return this.description
  }
}

/** Credentials are missing, expired or wrong, or don't permit the request. */
export class Unauthorized extends Schema.TaggedError<Unauthorized>("effect-versioned-store/Unauthorized")(
  "Unauthorized",
  reasonFields
) {
  override get message(): string {
    return this.description
  }
}

/** The engine is not set up as it must be: a table is missing or has another schema, a disk is read-only. */
export class Misconfigured extends Schema.TaggedError<Misconfigured>("effect-versioned-store/Misconfigured")(
  "Misconfigured",
  reasonFields
) {
  override get message(): string {
    return this.description
  }
}

/** What is stored is no record of this library's, or a damaged one. */
export class Corrupt extends Schema.TaggedError<Corrupt>("effect-versioned-store/Corrupt")("Corrupt", reasonFields) {
  override get message(): string {
    return this.description
  }
}

/** An error of the engine that is none of the others. */
export class Unknown extends Schema.TaggedError<Unknown>("effect-versioned-store/Unknown")("Unknown", reasonFields) {
  override get message(): string {
    return this.description
  }
}

const reasons = { Throttled, Unavailable, Timeout, Unauthorized, Misconfigured, Corrupt, Unknown }

/**
 * Why an engine failed. `isRetryable` is true where the same operation may simply be called again: the fault passes by
 * itself, and nothing was applied.
 */
export type Reason = Throttled | Unavailable | Timeout | Unauthorized | Misconfigured | Corrupt | Unknown

/**
 * The engine failed. `outcome` says what became of a write: `not-applied`, or `unknown` where the request was sent and
 * no usable answer came back; a read afterwards tells what is there now. Of reads it is always `not-applied`.
 *
 * @example
 * ```ts
 * import { StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * export const program = Effect.gen(function* () {
 *   const backend = yield* StorageBackend.StorageBackend
 *   return yield* backend.put(key, "paid")
 * }).pipe(
 *   Effect.catchReason("Backend", "Throttled", (reason) => Effect.logWarning(reason.message)),
 *   Effect.catchTag("Backend", (error) => Effect.logError(`${error.outcome}: ${error.message}`))
 * )
 * ```
 */
export class Backend extends Schema.TaggedError<Backend>("effect-versioned-store/Backend")("Backend", {
  operation: Schema.String,
  outcome: Schema.Literals(["not-applied", "unknown"]),
  reason: Schema.Union([Throttled, Unavailable, Timeout, Unauthorized, Misconfigured, Corrupt, Unknown])
}) {
  override get message(): string {
    const told = `${this.operation} failed: ${this.reason.description}`
    return this.outcome === "unknown" ? `${told}. Whether it took effect is unknown: read the record to see` : told
  }

  /** Whether the same operation may simply be called again. */
  get isRetryable(): boolean {
    return this.reason.isRetryable
  }
}

/**
 * Whether a fault passes by itself, so that a backend tries again.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageError } from "effect-versioned-store"
 *
 * assert.strictEqual(StorageError.isTransient("Throttled"), true)
 * assert.strictEqual(StorageError.isTransient("Misconfigured"), false)
 * ```
 */
export const isTransient = (reason: Reason["_tag"]): boolean =>
  reason === "Throttled" || reason === "Unavailable" || reason === "Timeout"

/**
 * A `Backend` error as a backend raises it: `isRetryable` follows from the reason and the outcome. `StorageBackend.make`
 * puts in the name of the operation.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageError } from "effect-versioned-store"
 *
 * const description = "the server closed the connection before it answered"
 * const error = StorageError.makeBackend({ reason: "Unavailable", outcome: "unknown", description })
 * assert.strictEqual(error.reason._tag, "Unavailable")
 * assert.strictEqual(error.isRetryable, false)
 * ```
 */
export const makeBackend = (options: {
  readonly reason: Reason["_tag"]
  readonly outcome: Backend["outcome"]
  readonly description: string
  readonly operation?: string | undefined
  readonly cause?: unknown
}): Backend => {
  const { cause, description, operation = "storage", outcome } = options
  const isRetryable = isTransient(options.reason) && outcome === "not-applied"
  return new Backend({ operation, outcome, reason: new reasons[options.reason]({ description, isRetryable, cause }) })
}
