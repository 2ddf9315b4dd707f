/**
 * The errors of stored records. Each error has a `_tag` of its own, and is only in the error channel of the operations
 * that can fail with it. Messages name keys. No error shows record data or credentials. As an error of an endpoint of
 * Effect's `HttpApi`, each has an HTTP status, its `httpApiStatus`.
 */
import * as Schema from "effect/Schema"
import type * as Types from "effect/Types"
import { withoutStack } from "./internal/withoutStack.ts"
import { StorageKey } from "./StorageKey.ts"
import type { VersionedRecord } from "./VersionedRecord.ts"

/**
 * Where Effect's constructor of errors keeps the fields once more, in a hidden property. `toJSON` and `Equal` read it.
 * Errors that {@link withoutFields} begins lack the property, so their classes have a getter in its place.
 */
const plainArgs: unique symbol = Symbol.for("effect/Data/Error/plainArgs")

/**
 * The key has no live record. Either no record was written there, or the record was deleted, or it has expired.
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
 *
 * @category errors
 * @since 0.1.0
 */
export class RecordNotFound extends Schema.TaggedError<RecordNotFound>("effect-versioned-store/RecordNotFound")(
  "RecordNotFound",
  { key: StorageKey },
  { httpApiStatus: 404 }
) {
  /** @internal */
  get [plainArgs](): object {
    return { ...this }
  }

  override get message(): string {
    return `No record at ${this.key}`
  }
}

/**
 * A create found a live record at the key, and wrote nothing.
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
 *
 * @category errors
 * @since 0.1.0
 */
export class AlreadyExists extends Schema.TaggedError<AlreadyExists>("effect-versioned-store/AlreadyExists")(
  "AlreadyExists",
  { key: StorageKey },
  { httpApiStatus: 409 }
) {
  /** @internal */
  get [plainArgs](): object {
    return { ...this }
  }

  override get message(): string {
    return `There is a record at ${this.key} already`
  }
}

class Same {
  constructor(object: object) {
    // biome-ignore lint/correctness/noConstructorReturn: a subclass adds its private field to what is returned here.
    return object
  }
}

/**
 * Adds the current record to a conflict, as a private field that not even an inspection of hidden properties shows. The
 * field is not in `VersionConflict` itself, since {@link versionConflict} does not run the constructor of that class.
 */
class Current extends Same {
  readonly #record: VersionedRecord | undefined

  constructor(conflict: VersionConflict, record: VersionedRecord | undefined) {
    super(conflict)
    this.#record = record
  }

  static of(conflict: object): VersionedRecord | undefined {
    return #record in conflict ? conflict.#record : undefined
  }
}

/**
 * A compare-and-set found another record than the expected one, and wrote nothing.
 *
 * `expected` and `actual` are versions. `actual` is the version that the record really has. If `actual` equals
 * `expected`, another write made a record of the same version, for example after a delete. If `actual` is 0, the record
 * is gone. If `expected` is 0, the write expected no record.
 *
 * If the engine returns the record with the refusal, the record is in `current`, so a retry needs no read. `current` is
 * for the program only. It is not a field of the Schema, and no log, inspection or encoding of the error shows it.
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
 *
 * @category errors
 * @since 0.1.0
 */
export class VersionConflict extends Schema.TaggedError<VersionConflict>("effect-versioned-store/VersionConflict")(
  "VersionConflict",
  { key: StorageKey, expected: Schema.Int, actual: Schema.Int },
  { httpApiStatus: 412 }
) {
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
    new Current(this, current)
  }

  /** The record at the key, if the engine returned it with the refusal. */
  get current(): VersionedRecord | undefined {
    return Current.of(this)
  }

  /** @internal */
  get [plainArgs](): object {
    return { ...this }
  }

  override get message(): string {
    const found = this.actual === this.expected ? `another record of version ${this.actual}` : `version ${this.actual}`
    return `Expected ${this.expected === 0 ? "no record" : `version ${this.expected}`} at ${this.key}, found ${found}`
  }
}

/**
 * An error of a class, still without its fields. It is for outcomes that are ordinary, and so must cost what a value
 * costs: Schema's constructor would check the fields, and take most of the time of a lost compare-and-set. The fields
 * need no check, since the key has been checked and the rest comes from the engine. So only the constructor of `Error`
 * runs.
 */
const withoutFields = <E extends Error>(errorClass: abstract new (...args: never) => E): Types.Mutable<E> =>
  withoutStack(() => Reflect.construct(Error, [], errorClass) as E)

/** @internal */
export const recordNotFound = (key: StorageKey): RecordNotFound => {
  const error = withoutFields(RecordNotFound)
  error._tag = "RecordNotFound"
  error.key = key
  return error
}

/** @internal */
export const alreadyExists = (key: StorageKey): AlreadyExists => {
  const error = withoutFields(AlreadyExists)
  error._tag = "AlreadyExists"
  error.key = key
  return error
}

/** @internal */
export const versionConflict = (
  key: StorageKey,
  expected: number,
  actual: number,
  current: VersionedRecord
): VersionConflict => {
  const error = withoutFields(VersionConflict)
  error._tag = "VersionConflict"
  error.key = key
  error.expected = expected
  error.actual = actual
  new Current(error, current)
  return error
}

/**
 * A write would exceed a limit, and wrote nothing. `resource` names the limit:
 *
 * - `RecordBytes`: one record's data, in bytes of UTF-8.
 * - `ItemBytes`: one DynamoDB item, in bytes. An item also holds the key and the attributes of other programs. `actual`
 *   counts the bytes of the data only.
 * - `StoreRecords` and `StoreBytes`: the records and the bytes of a whole store in memory.
 * - `Versions`: the last version that a record can have.
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
 *
 * @category errors
 * @since 0.1.0
 */
export class CapacityExceeded extends Schema.TaggedError<CapacityExceeded>("effect-versioned-store/CapacityExceeded")(
  "CapacityExceeded",
  {
    key: StorageKey,
    resource: Schema.Literals(["RecordBytes", "ItemBytes", "StoreRecords", "StoreBytes", "Versions"]),
    limit: Schema.Finite,
    actual: Schema.Finite
  },
  { httpApiStatus: 413 }
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
    `The item of ${key} would take more than ${limit} bytes: its data takes ${actual}, and its key and other ` +
    "attributes take the rest. Write less data, or remove attributes of other programs",
  Versions: ({ key, limit }: CapacityExceeded) =>
    `The record at ${key} has the last version, ${limit}: delete the record and create it again`
}

/**
 * The data has a lone surrogate, so it has no UTF-8 and could not be read back unchanged. Nothing was written.
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
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidData extends Schema.TaggedError<InvalidData>("effect-versioned-store/InvalidData")(
  "InvalidData",
  { key: StorageKey, description: Schema.String },
  { httpApiStatus: 400 }
) {
  override get message(): string {
    return `The data for ${this.key} ${this.description}`
  }
}

/**
 * The cursor did not come from a page of this listing. It is damaged, or it belongs to another owner, prefix or order.
 * Nothing was read.
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
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidCursor extends Schema.TaggedError<InvalidCursor>("effect-versioned-store/InvalidCursor")(
  "InvalidCursor",
  {},
  { httpApiStatus: 400 }
) {
  override get message(): string {
    return "The cursor is damaged, or belongs to another owner, prefix or order: list again from the start"
  }
}

/**
 * A commit that no engine could run, so nothing was sent. `problem` says why:
 *
 * - `InvalidKey`: the owner, or the id of a step, is no part of a key.
 * - `RepeatedKey`: two steps are of the same record.
 * - `TooManySteps` and `TooManyBytes`: the commit is over the limits of `StorageBackend.maxCommitSteps` or
 *   `StorageBackend.maxCommitBytes`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const check = { _tag: "Check", id: "a", expected: 0 } as const
 * const program = StorageBackend.StorageBackend.use((backend) => backend.commit("alice", [check, check]))
 * const error = Effect.runSync(Effect.flip(program).pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(error.message, "Invalid commit: steps 0 and 1 are of the same record, alice:a")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidCommit extends Schema.TaggedError<InvalidCommit>("effect-versioned-store/InvalidCommit")(
  "InvalidCommit",
  {
    problem: Schema.Literals(["InvalidKey", "RepeatedKey", "TooManySteps", "TooManyBytes"]),
    description: Schema.String
  },
  { httpApiStatus: 400 }
) {
  override get message(): string {
    return `Invalid commit: ${this.description}`
  }
}

const reasonFields = {
  description: Schema.String,
  isRetryable: Schema.Boolean,
  cause: Schema.optional(Schema.Defect())
}

const engineFailed = { httpApiStatus: 503 }

/**
 * The engine refuses requests for now, because there are too many.
 *
 * @category errors
 * @since 0.1.0
 */
export class Throttled extends Schema.TaggedError<Throttled>("effect-versioned-store/Throttled")(
  "Throttled",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

/**
 * The engine can't be reached, or has an internal failure.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unavailable extends Schema.TaggedError<Unavailable>("effect-versioned-store/Unavailable")(
  "Unavailable",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

/**
 * The engine did not answer in time.
 *
 * @category errors
 * @since 0.1.0
 */
export class Timeout extends Schema.TaggedError<Timeout>("effect-versioned-store/Timeout")(
  "Timeout",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

/**
 * Credentials are missing, expired or wrong, or don't permit the request.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unauthorized extends Schema.TaggedError<Unauthorized>("effect-versioned-store/Unauthorized")(
  "Unauthorized",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

/**
 * The setup of the engine is wrong. For example, a table is missing or has another schema, or a disk is read-only.
 *
 * @category errors
 * @since 0.1.0
 */
export class Misconfigured extends Schema.TaggedError<Misconfigured>("effect-versioned-store/Misconfigured")(
  "Misconfigured",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

/**
 * The stored record is damaged, or another program wrote it in another form.
 *
 * @category errors
 * @since 0.1.0
 */
export class Corrupt extends Schema.TaggedError<Corrupt>("effect-versioned-store/Corrupt")(
  "Corrupt",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

/**
 * The engine can't do this at all.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unsupported extends Schema.TaggedError<Unsupported>("effect-versioned-store/Unsupported")(
  "Unsupported",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

/**
 * The engine failed with an error that has no reason of its own here.
 *
 * @category errors
 * @since 0.1.0
 */
export class Unknown extends Schema.TaggedError<Unknown>("effect-versioned-store/Unknown")(
  "Unknown",
  reasonFields,
  engineFailed
) {
  override get message(): string {
    return this.description
  }
}

const reasons = { Throttled, Unavailable, Timeout, Unauthorized, Misconfigured, Corrupt, Unsupported, Unknown }

/**
 * Why an engine failed. `description` says what happened and what to do. `isRetryable` is true if the fault passes by
 * itself and nothing was applied, so the same operation may be called again. `cause` is the engine's own error, without
 * record data and credentials.
 *
 * @category errors
 * @since 0.1.0
 */
export type Reason = Throttled | Unavailable | Timeout | Unauthorized | Misconfigured | Corrupt | Unsupported | Unknown

/**
 * The engine failed. `reason` says why.
 *
 * `outcome` says what happened to a write. It is `not-applied` if the engine did not apply the write. It is `unknown`
 * if the request was sent and no usable answer came back. Read the record to see whether the write took effect. The
 * outcome of a read is always `not-applied`.
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
 *
 * @category errors
 * @since 0.1.0
 */
export class Backend extends Schema.TaggedError<Backend>("effect-versioned-store/Backend")(
  "Backend",
  {
    operation: Schema.String,
    outcome: Schema.Literals(["not-applied", "unknown"]),
    reason: Schema.Union([Throttled, Unavailable, Timeout, Unauthorized, Misconfigured, Corrupt, Unsupported, Unknown])
  },
  engineFailed
) {
  override get message(): string {
    const failure = `${this.operation} failed: ${this.reason.description}`
    return this.outcome === "unknown"
      ? `${failure}. Whether it took effect is unknown: read the record to see`
      : failure
  }

  /** Whether the same operation may be called again. If the outcome is `unknown`, this is false. */
  get isRetryable(): boolean {
    return this.reason.isRetryable
  }
}

/**
 * Whether a fault passes by itself: `Throttled`, `Unavailable` and `Timeout` do. A backend retries operations after
 * them.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { StorageError } from "effect-versioned-store"
 *
 * assert.strictEqual(StorageError.isTransient("Throttled"), true)
 * assert.strictEqual(StorageError.isTransient("Misconfigured"), false)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isTransient = (reason: Reason["_tag"]): boolean =>
  reason === "Throttled" || reason === "Unavailable" || reason === "Timeout"

/**
 * Makes the `Backend` error with which an engine fails. `isRetryable` follows from the reason and the outcome.
 * `Engine.make` replaces the name of the operation by that of the service's method.
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
 *
 * @category constructors
 * @since 0.1.0
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
