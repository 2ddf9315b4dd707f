/**
 * Records typed by a Schema, on the backend that the Layer below provides. This is what applications use.
 *
 * Every change of a record is a compare-and-set on the record that was read, and is retried after a conflict. However
 * many fibers, processes and machines change one record at once, each change is made on the outcome of the one before.
 */
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Stream from "effect/Stream"
import { fullJitterFor } from "./internal/backoff.ts"
import * as ETag from "./internal/etag.ts"
import { lastMillisecond, toMillis } from "./internal/time.ts"
import { type ListOptions, maxKeysAtOnce, StorageBackend, type VersionedRecord } from "./StorageBackend.ts"
import * as StorageError from "./StorageError.ts"
import * as StorageKey from "./StorageKey.ts"
import * as StoragePrefix from "./StoragePrefix.ts"
import type { Decision } from "./update/attempt.ts"
import * as Looks from "./update/looks.ts"
import * as Update from "./update/run.ts"
import { outside } from "./update/transacting.ts"

/**
 * The address of a record in a store. The store puts its own `idPrefix` before the id.
 *
 * @category models
 * @since 0.1.0
 */
export interface Key {
  readonly owner: string
  readonly id: string
}

/**
 * One version of a record. `stored` is the same version as the backend holds it: not decoded, and under its whole id.
 *
 * @category models
 * @since 0.1.0
 */
export interface Record<out A> {
  readonly key: Key
  readonly value: A
  readonly version: number
  readonly expiresAt: DateTime.Utc | undefined
  /**
   * Names exactly this write, as a strong entity tag of HTTP with its quotes (RFC 9110, section 8.8.3). If the record
   * is deleted and created again, it has another tag. Treat it as opaque, and give it to `setIfMatch` or
   * `removeIfMatch`.
   */
  readonly etag: string
  readonly stored: VersionedRecord
}

/**
 * When a record that is written expires, rounded up to a whole second: at an instant, or after a time to live, but not
 * both. If both are left out, the record never expires, and an expiry that was there is gone.
 *
 * @category models
 * @since 0.1.0
 */
export interface ExpiryOptions {
  readonly expiresAt?: DateTime.Utc | undefined
  /** How long the record lives from the call on, for example "1 hour", or "Infinity". */
  readonly ttl?: Duration.Input | undefined
}

/**
 * When a record that is updated expires, rounded up to a whole second: at an instant, after a time to live, or never.
 * If both are left out, the expiry stays as it is.
 *
 * @category models
 * @since 0.1.0
 */
export interface NewExpiryOptions {
  readonly expiresAt?: DateTime.Utc | "never" | undefined
  /** How long the record lives from the call on, for example "1 hour", or "Infinity". */
  readonly ttl?: Duration.Input | undefined
}

/**
 * How a record is updated.
 *
 * @category models
 * @since 0.1.0
 */
export interface UpdateOptions extends NewExpiryOptions {
  /** How this call retries a conflict. With a schedule of its own, it shares no write with other updates. */
  readonly retrySchedule?: Schedule.Schedule<unknown, StorageError.VersionConflict> | undefined
}

/**
 * What becomes of a record that does not decode, where several are read: the read fails with its `SchemaError` ("fail",
 * the default), or leaves it out ("skip"), or leaves it out after a function has seen it, for example to log it.
 *
 * @category models
 * @since 0.1.0
 */
export type OnInvalid = "fail" | "skip" | ((stored: VersionedRecord, error: Schema.SchemaError) => Effect.Effect<void>)

/**
 * Which records are listed.
 *
 * @category models
 * @since 0.1.0
 */
export interface ListingOptions {
  readonly owner: string
  /** What the ids must start with, after the store's own prefix. */
  readonly idPrefix?: string | undefined
  /** By the bytes of the ids' UTF-8; ascending by default. */
  readonly order?: ListOptions["order"]
  /** What becomes of a record that does not decode; "fail" by default. */
  readonly onInvalid?: OnInvalid | undefined
}

/**
 * How a record is watched.
 *
 * @category models
 * @since 0.1.0
 */
export interface WatchOptions {
  /** When the record is read without a hint; every second by default. If the schedule ends, so does the stream. */
  readonly schedule?: Schedule.Schedule<unknown> | undefined
}

/**
 * One page of a listing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Page<out A> {
  readonly records: ReadonlyArray<Record<A>>
  /** Leads to the next page. A page may be short or empty and still have a cursor. You are done when there is none. */
  readonly cursor: string | undefined
}

/**
 * What a read fails with.
 *
 * @category errors
 * @since 0.1.0
 */
export type ReadError = StorageKey.InvalidKey | Schema.SchemaError | StorageError.Backend

/**
 * What a write fails with.
 *
 * @category errors
 * @since 0.1.0
 */
export type WriteError = ReadError | StorageError.CapacityExceeded

/**
 * What an update fails with. It fails with `VersionConflict` if its retry schedule is spent, or after 30 seconds of
 * conflicts if it has none.
 *
 * @category errors
 * @since 0.1.0
 */
export type UpdateError = WriteError | StorageError.RecordNotFound | StorageError.VersionConflict

/**
 * A store of records of one type. `RD` and `RE` are the services that its Schema needs for decoding and encoding.
 *
 * @category models
 * @since 0.1.0
 */
export interface VersionedStore<in out A, out RD = never, out RE = never> {
  /**
   * Reads the record as it is now. One request.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   assert.strictEqual((yield* counters.get(key)).value, 1)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly get: (key: Key) => Effect.Effect<Record<A>, ReadError | StorageError.RecordNotFound, RD>

  /**
   * Like `get`, but returns None if there is no record. One request.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const found = yield* counters.getOption({ owner: "alice", id: "visits" })
   *   assert.ok(Option.isNone(found))
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly getOption: (key: Key) => Effect.Effect<Option.Option<Record<A>>, ReadError, RD>

  /**
   * Reads several records of one owner: in the order of the ids, and None for each that is not there. If a record does
   * not decode, `onInvalid` says what becomes of it, and one that is left out is None as well. Each record is as of its
   * own read, so together they are no snapshot. One request for each 100 ids.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   yield* counters.create({ owner: "alice", id: "visits" }, 1)
   *   const found = yield* counters.getMany("alice", ["visits", "clicks"])
   *   assert.deepStrictEqual(found.map(Option.isSome), [true, false])
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly getMany: (
    owner: string,
    ids: ReadonlyArray<string>,
    options?: { readonly onInvalid?: OnInvalid | undefined }
  ) => Effect.Effect<ReadonlyArray<Option.Option<Record<A>>>, ReadError, RD>

  /**
   * Writes a record if there is none, and fails with `AlreadyExists` if there is one. If the record has expired,
   * `create` overwrites it. One request.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   const error = yield* Effect.flip(counters.create(key, 1))
   *   assert.strictEqual(error._tag, "AlreadyExists")
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly create: (
    key: Key,
    value: A,
    options?: ExpiryOptions
  ) => Effect.Effect<Record<A>, WriteError | StorageError.AlreadyExists, RE>

  /**
   * Writes a record, whatever is there. It takes the expiry away unless it gives one. One request.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.set(key, 1)
   *   assert.strictEqual((yield* counters.set(key, 2)).version, 2)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly set: (key: Key, value: A, options?: ExpiryOptions) => Effect.Effect<Record<A>, WriteError, RE>

  /**
   * Writes over exactly the record that was read, and never retries. If it gives no expiry, it keeps the record's. One
   * request.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   const read = yield* counters.create(key, 1)
   *   yield* counters.setIfVersion(read, 2)
   *   const error = yield* Effect.flip(counters.setIfVersion(read, 3))
   *   assert.strictEqual(error._tag, "VersionConflict")
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly setIfVersion: (
    record: Record<A>,
    value: A,
    options?: NewExpiryOptions
  ) => Effect.Effect<Record<A>, Exclude<UpdateError, StorageKey.InvalidKey>, RE>

  /**
   * Writes over exactly the write that an entity tag names, and never retries. It takes the expiry away unless it gives
   * one, since it does not read the record. If another write is there, or the tag is none of this store's, it fails
   * with `VersionConflict`, which is 412 in HTTP. One request; two if the tag names a record that another program
   * wrote without a write id.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   const { etag } = yield* counters.create(key, 1)
   *   yield* counters.setIfMatch(key, etag, 2)
   *   const error = yield* Effect.flip(counters.setIfMatch(key, etag, 3))
   *   assert.strictEqual(error._tag, "VersionConflict")
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly setIfMatch: (
    key: Key,
    etag: string,
    value: A,
    options?: ExpiryOptions
  ) => Effect.Effect<Record<A>, UpdateError, RE>

  /**
   * Reads a record, applies a function, and writes the outcome by compare-and-set. After a conflict the function runs
   * again on the newest record. So it may run several times, and must be pure. The update keeps the expiry unless the
   * options give another.
   *
   * Two requests if no other update of the record runs. Updates that run at the same time in one process share their
   * requests: see {@link GroupCommit}. After a conflict with another process, the update runs again on the record that
   * the conflict carried, which takes one request more, or two if it has waited and reads the record again.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   assert.strictEqual((yield* counters.update(key, (n) => n + 1)).value, 2)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly update: (
    key: Key,
    f: (value: A) => A,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, UpdateError, RD | RE>

  /**
   * Like `update`, with a function that is an Effect and may fail. The function runs again after each conflict, so its
   * effects may happen several times. It shares no write with other updates.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   assert.strictEqual((yield* counters.updateEffect(key, (n) => Effect.succeed(n + 1))).value, 2)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly updateEffect: <E, R>(
    key: Key,
    f: (value: A) => Effect.Effect<A, E, R>,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, UpdateError | E, RD | RE | R>

  /**
   * Like `update`, with a function that may decide to write nothing. If it returns None, the record stays as it is and
   * is returned, for one request if no other update of the record runs.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   const half = (n: number) => (n % 2 === 0 ? Option.some(n / 2) : Option.none())
   *   assert.strictEqual((yield* counters.updateSome(key, half)).version, 1)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly updateSome: (
    key: Key,
    f: (value: A) => Option.Option<A>,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, UpdateError, RD | RE>

  /**
   * Like `update`, with a function that also returns a result, which `modify` returns.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   assert.strictEqual(yield* counters.modify(key, (n) => [`was ${n}`, n + 1]), "was 1")
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly modify: <B>(
    key: Key,
    f: (value: A) => readonly [B, A],
    options?: UpdateOptions
  ) => Effect.Effect<B, UpdateError, RD | RE>

  /**
   * Like `modify`, with a function that is an Effect and may fail. The function runs again after each conflict, so its
   * effects may happen several times. It shares no write with other updates.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   assert.strictEqual(yield* counters.modifyEffect(key, (n) => Effect.succeed([`was ${n}`, n + 1])), "was 1")
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly modifyEffect: <B, E, R>(
    key: Key,
    f: (value: A) => Effect.Effect<readonly [B, A], E, R>,
    options?: UpdateOptions
  ) => Effect.Effect<B, UpdateError | E, RD | RE | R>

  /**
   * Like `modify`, with a function that may decide to write nothing: if it returns None beside its result, the record
   * stays as it is, for one request if no other update of the record runs.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   const take = (n: number) => [n > 0, n > 0 ? Option.some(n - 1) : Option.none()] as const
   *   assert.strictEqual(yield* counters.modifySome(key, take), true)
   *   assert.strictEqual(yield* counters.modifySome(key, take), false)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly modifySome: <B>(
    key: Key,
    f: (value: A) => readonly [B, Option.Option<A>],
    options?: UpdateOptions
  ) => Effect.Effect<B, UpdateError, RD | RE>

  /**
   * Like `update`, and creates the record if there is none. The function may run with None first and then, after a
   * conflict, with a value.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   const count = Option.match({ onNone: () => 1, onSome: (n: number) => n + 1 })
   *   yield* counters.upsert(key, count)
   *   assert.strictEqual((yield* counters.upsert(key, count)).value, 2)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly upsert: (
    key: Key,
    f: (value: Option.Option<A>) => A,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, WriteError | StorageError.VersionConflict, RD | RE>

  /**
   * Like `upsert`, with a function that is an Effect and may fail. The function runs again after each conflict. Costs
   * what `updateEffect` costs.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const count = (n: Option.Option<number>) => Effect.succeed(Option.getOrElse(n, () => 0) + 1)
   *   assert.strictEqual((yield* counters.upsertEffect({ owner: "alice", id: "visits" }, count)).value, 1)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly upsertEffect: <E, R>(
    key: Key,
    f: (value: Option.Option<A>) => Effect.Effect<A, E, R>,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, WriteError | StorageError.VersionConflict | E, RD | RE | R>

  /**
   * Gives a record another time to live, from the call on, and leaves its value as it is, even if that does not decode.
   * It is an update without a function: two requests, or a part of one beside other updates, and a new version.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema } from "effect"
   * import { TestClock } from "effect/testing"
   *
   * const program = Effect.gen(function* () {
   *   const sessions = yield* VersionedStore.make({ idPrefix: "session/", schema: Schema.String })
   *   const key = { owner: "alice", id: "1" }
   *   yield* sessions.create(key, "signed in", { ttl: "1 hour" })
   *   yield* TestClock.adjust("50 minutes")
   *   yield* sessions.touch(key, "1 hour")
   *   yield* TestClock.adjust("50 minutes")
   *   assert.ok(Option.isSome(yield* sessions.getOption(key)))
   * })
   * await Effect.runPromise(program.pipe(Effect.provide([InMemory.layer, TestClock.layer()])))
   * ```
   */
  readonly touch: (
    key: Key,
    ttl: Duration.Input,
    options?: Pick<UpdateOptions, "retrySchedule">
  ) => Effect.Effect<void, Exclude<UpdateError, Schema.SchemaError>>

  /**
   * Removes a record, whatever it holds. Returns true if there was one. One request.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   assert.strictEqual(yield* counters.remove(key), true)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly remove: (key: Key) => Effect.Effect<boolean, StorageKey.InvalidKey | StorageError.Backend>

  /**
   * Removes exactly the record that was read, and never retries. One request.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   const read = yield* counters.create(key, 1)
   *   yield* counters.set(key, 2)
   *   const error = yield* Effect.flip(counters.removeIfVersion(read))
   *   assert.strictEqual(error._tag, "VersionConflict")
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly removeIfVersion: (
    record: Record<A>
  ) => Effect.Effect<void, StorageError.RecordNotFound | StorageError.VersionConflict | StorageError.Backend>

  /**
   * Removes exactly the write that an entity tag names, and never retries. Costs and fails as `setIfMatch` does.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   const { etag } = yield* counters.create(key, 1)
   *   yield* counters.removeIfMatch(key, etag)
   *   const error = yield* Effect.flip(counters.removeIfMatch(key, etag))
   *   assert.strictEqual(error._tag, "RecordNotFound")
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly removeIfMatch: (
    key: Key,
    etag: string
  ) => Effect.Effect<
    void,
    StorageKey.InvalidKey | StorageError.RecordNotFound | StorageError.VersionConflict | StorageError.Backend
  >

  /**
   * Removes all of an owner's records, or those whose ids start with `idPrefix`, page by page. Returns how many it
   * removed. It is not atomic: what others write meanwhile may stay. One request a page of 100 records, and one for
   * each record.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   yield* counters.create({ owner: "alice", id: "2026/visits" }, 1)
   *   yield* counters.create({ owner: "alice", id: "2027/visits" }, 1)
   *   assert.strictEqual(yield* counters.removeAll({ owner: "alice", idPrefix: "2026/" }), 1)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly removeAll: (
    options: Pick<ListingOptions, "owner" | "idPrefix">
  ) => Effect.Effect<number, StorageKey.InvalidKey | StorageError.Backend>

  /**
   * Reads one page of an owner's records, in id order. One request, and at most three more if the page meets expired
   * records. If a record does not decode, `onInvalid` says what becomes of it.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   const page = yield* counters.list({ owner: "alice", limit: 10 })
   *   assert.deepStrictEqual(page.records.map(({ value }) => value), [1])
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly list: (
    options: ListingOptions & Pick<ListOptions, "limit" | "cursor">
  ) => Effect.Effect<Page<A>, ReadError | StorageError.InvalidCursor, RD>

  /**
   * Reads all of an owner's records, in id order and page by page.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Schema, Stream } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   const all = yield* Stream.runCollect(counters.stream({ owner: "alice" }))
   *   assert.strictEqual(all.length, 1)
   * })
   * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
   * ```
   */
  readonly stream: (options: ListingOptions) => Stream.Stream<Record<A>, ReadError, RD>

  /**
   * Emits the record as it is now, and again whenever it has changed; None if there is none, or it has expired. The
   * last change always comes. Of changes that follow each other closely, those in between may be left out, and a slow
   * consumer gets the newest state.
   *
   * It reads the record at first, on each hint that it may have changed, when it expires, and on a schedule, every
   * second by default. A change by this backend is seen at once. A change by another process is seen within
   * milliseconds on Redis and SQLite. On DynamoDB, and on PostgreSQL without the option `hints`, it is seen at the next
   * read on the schedule. Each watcher reads for
   * itself, one request a read: `Stream.share` lets many consumers share one.
   *
   * While the backend can't be reached, the watch goes on: it logs a warning, and emits again as soon as it can read.
   * If a failure does not pass by itself, such as a missing permission, the stream fails. It also fails if the record
   * does not decode.
   *
   * @example
   * ```ts
   * import * as assert from "node:assert"
   * import { InMemory, VersionedStore } from "effect-versioned-store"
   * import { Effect, Option, Schema, Stream } from "effect"
   *
   * const program = Effect.gen(function* () {
   *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
   *   const key = { owner: "alice", id: "visits" }
   *   yield* counters.create(key, 1)
   *   return yield* counters.watch(key).pipe(
   *     Stream.map((record) => Option.getOrThrow(record).value),
   *     Stream.tap((n) => (n < 3 ? counters.set(key, n + 1) : Effect.void)),
   *     Stream.take(3),
   *     Stream.runCollect
   *   )
   * })
   * const seen = await Effect.runPromise(program.pipe(Effect.provide(InMemory.layer)))
   * assert.deepStrictEqual(seen, [1, 2, 3])
   * ```
   */
  readonly watch: (key: Key, options?: WatchOptions) => Stream.Stream<Option.Option<Record<A>>, ReadError, RD>
}

export { GroupCommit } from "./update/run.ts"

/**
 * How an update that runs alone is retried by default, for schedules that are made from it. The first retry is at
 * once. Each later one waits for a random part of a delay that doubles from 20 ms up to 1 s, for 30 seconds in all.
 * Without a schedule of its own, an update shares writes with others: see {@link GroupCommit}.
 *
 * The first retry never waits, whatever the schedule says. The schedule only says whether there is one.
 *
 * @example
 * ```ts
 * import { VersionedStore } from "effect-versioned-store"
 * import { Effect, Schedule, Schema } from "effect"
 *
 * export const patient = VersionedStore.make({
 *   idPrefix: "counter/",
 *   schema: Schema.Int,
 *   retrySchedule: VersionedStore.defaultRetrySchedule.pipe(
 *     Schedule.tap(({ attempt }) => Effect.logDebug(`conflict ${attempt}`))
 *   )
 * })
 * ```
 *
 * @category configuration
 * @since 0.1.0
 */
export const defaultRetrySchedule: Schedule.Schedule<unknown> = fullJitterFor("10 millis", "30 seconds")

/**
 * Makes a store of the records whose ids start with `idPrefix`. Values are stored as JSON. A Schema may have another
 * encoded form and may need services. If a record does not decode, reading it fails with a `SchemaError` that names its
 * key.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, VersionedStore } from "effect-versioned-store"
 * import { Effect, Schema } from "effect"
 *
 * const Order = Schema.Struct({ total: Schema.Number, paid: Schema.Boolean })
 *
 * const program = Effect.gen(function* () {
 *   const orders = yield* VersionedStore.make({ idPrefix: "order/", schema: Order })
 *   const key = { owner: "alice", id: "42" }
 *   yield* orders.create(key, { total: 10, paid: false })
 *   return yield* orders.update(key, (order) => ({ ...order, paid: true }))
 * })
 *
 * const order = Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * assert.deepStrictEqual(order.value, { total: 10, paid: true })
 * assert.strictEqual(order.version, 2)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function* <S extends Schema.Constraint>(options: {
  readonly idPrefix: string
  readonly schema: S
  /** How a conflict is retried. Updates with a schedule of their own share no writes. */
  readonly retrySchedule?: Schedule.Schedule<unknown, StorageError.VersionConflict> | undefined
}): Effect.fn.Return<VersionedStore<S["Type"], S["DecodingServices"], S["EncodingServices"]>, never, StorageBackend> {
  type A = S["Type"]
  type Self = VersionedStore<A, S["DecodingServices"], S["EncodingServices"]>

  const backend = yield* StorageBackend
  const { idPrefix, schema } = options
  const invalid = StorageKey.checkPart("idPrefix", idPrefix, StorageKey.maxIdBytes)
  if (invalid !== undefined) return yield* Effect.die(invalid)

  const codec = makeCodec(backend, idPrefix, schema)
  const { decode, locate, write } = codec
  const change = makeChange(backend, codec, options.retrySchedule)

  const pageOf = (options: ListingOptions & Pick<ListOptions, "limit" | "cursor">) =>
    Effect.flatMap(
      Effect.fromResult(StoragePrefix.make({ owner: options.owner, idPrefix: `${idPrefix}${options.idPrefix ?? ""}` })),
      (prefix) => backend.listByPrefix(prefix, options)
    )

  /** The record that an entity tag names, as a compare-and-set expects it. If the tag has no write id, it is read. */
  const matching = (key: StorageKey.StorageKey, etag: string) => {
    const named = ETag.parse(etag)
    if (named !== undefined) return Effect.succeed({ ...named, key, data: "", expiresAt: undefined })
    return Effect.flatMap(backend.get(key), (current) =>
      ETag.make(current.version, current.writeId, current.data) === etag
        ? Effect.succeed(current)
        : // If the text names no version, the error says only that another write is there.
          Effect.fail(
            StorageError.versionConflict(key, ETag.versionIn(etag) ?? current.version, current.version, current)
          )
    )
  }

  const list: Self["list"] = Effect.fnUntraced(function* (options) {
    const page = yield* pageOf(options)
    const found = yield* Effect.forEach(page.records, decodeOr(options.onInvalid))
    return { records: found.flatMap(Option.toArray), cursor: page.cursor }
  })

  const decodeOr =
    (onInvalid: OnInvalid = "fail") =>
    (stored: VersionedRecord): Effect.Effect<Option.Option<Record<A>>, Schema.SchemaError, S["DecodingServices"]> =>
      Effect.matchEffect(decode(stored), {
        onSuccess: (record) => Effect.succeed(Option.some(record)),
        onFailure: (error) => {
          if (onInvalid === "fail") return Effect.fail(error)
          return Effect.as(onInvalid === "skip" ? Effect.void : onInvalid(stored, error), Option.none())
        }
      })

  const self: Self & WithInside<S["Type"], S["DecodingServices"], S["EncodingServices"]> = {
    [insideKey]: { backend, ...codec },
    ...makeUpdates(change.update),
    touch: change.touch,
    get: (key) => Effect.flatMapEager(locate(key), (key) => Effect.flatMap(backend.get(key), decode)),
    getOption: (key) =>
      Effect.matchEffect(self.get(key), {
        onSuccess: (record) => Effect.succeed(Option.some(record)),
        onFailure: (error) => (error._tag === "RecordNotFound" ? Effect.succeed(Option.none()) : Effect.fail(error))
      }),
    getMany: Effect.fnUntraced(function* (owner, ids, { onInvalid } = {}) {
      const keys = yield* Effect.forEach(ids, (id) => locate({ owner, id }))
      const found = yield* Effect.forEach(Arr.chunksOf(keys, maxKeysAtOnce), backend.getMany)
      const decode = decodeOr(onInvalid)
      return yield* Effect.forEach(found.flat(), (stored) =>
        stored === undefined ? Effect.succeed(Option.none()) : decode(stored)
      )
    }),
    create: (key, value, options) =>
      Effect.suspend(() =>
        withExpiry(options, locate(key), (key, expiresAt) =>
          write(key, value, (data) =>
            backend.putIfVersion(key, data, 0, { expiresAt: resolveExpiry(expiresAt, undefined) })
          ).pipe(
            Effect.catchTags({
              VersionConflict: () => Effect.fail(StorageError.alreadyExists(key)),
              RecordNotFound: Effect.die
            })
          )
        )
      ),
    set: (key, value, options) =>
      Effect.suspend(() =>
        withExpiry(options, locate(key), (key, expiresAt) =>
          write(key, value, (data) => backend.put(key, data, { expiresAt: resolveExpiry(expiresAt, undefined) }))
        )
      ),
    setIfVersion: ({ stored }, value, options) =>
      Effect.suspend(() =>
        withExpiry(options, Effect.succeed(stored), (stored, expiresAt) =>
          write(stored.key, value, (data) =>
            backend.putIfVersion(stored.key, data, stored, { expiresAt: resolveExpiry(expiresAt, stored) })
          )
        )
      ),
    setIfMatch: (key, etag, value, options) =>
      Effect.suspend(() =>
        withExpiry(options, locate(key), (key, expiresAt) =>
          Effect.flatMap(matching(key, etag), (expected) =>
            write(key, value, (data) =>
              backend.putIfVersion(key, data, expected, { expiresAt: resolveExpiry(expiresAt, undefined) })
            )
          )
        )
      ),
    removeIfMatch: (key, etag) =>
      Effect.flatMapEager(locate(key), (key) =>
        Effect.flatMap(matching(key, etag), (expected) => outside(backend, key, backend.deleteIfVersion(key, expected)))
      ),
    remove: (key) => Effect.flatMapEager(locate(key), (key) => outside(backend, key, backend.delete(key))),
    removeIfVersion: ({ stored }) => outside(backend, stored.key, backend.deleteIfVersion(stored.key, stored)),
    removeAll: Effect.fnUntraced(function* ({ idPrefix, owner }) {
      let removed = 0
      let cursor: string | undefined
      do {
        const page = yield* Effect.catchTag(pageOf({ owner, idPrefix, cursor }), "InvalidCursor", Effect.die)
        const remove = ({ key }: VersionedRecord) => outside(backend, key, backend.delete(key))
        const each = yield* Effect.forEach(page.records, remove, { concurrency: 16 })
        removed += each.filter((wasThere) => wasThere).length
        cursor = page.cursor
      } while (cursor !== undefined)
      return removed
    }),
    list,
    stream: (options) =>
      Stream.paginate(undefined as string | undefined, (cursor) =>
        Effect.map(Effect.catchTag(list({ ...options, cursor }), "InvalidCursor", Effect.die), (page) => [
          page.records,
          Option.fromUndefinedOr(page.cursor)
        ])
      ),
    watch: (key, { schedule = Schedule.spaced("1 second") } = {}) =>
      Stream.unwrap(
        Effect.map(locate(key), (key) =>
          Looks.make({
            look: Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined),
            hints: backend.hints(key),
            schedule,
            untilMillis: (stored: VersionedRecord | undefined) => stored?.expiresAt?.epochMilliseconds
          }).pipe(
            Stream.changesWith(isSameWrite),
            Stream.mapEffect((stored) =>
              stored === undefined ? Effect.succeed(Option.none()) : Effect.map(decode(stored), Option.some)
            )
          )
        )
      )
  }
  return self
})

// -----------------------------------------------------------------------------

/** Whether two reads have found the same write of a record, or none. */
const isSameWrite = (a: VersionedRecord | undefined, b: VersionedRecord | undefined): boolean =>
  a?.version === b?.version && a?.writeId === b?.writeId && (a?.writeId !== undefined || a?.data === b?.data)

/**
 * What a transaction needs of a store.
 *
 * @internal
 */
export interface Inside<A, RD, RE> {
  readonly backend: StorageBackend["Service"]
  readonly locate: (key: Key) => Effect.Effect<StorageKey.StorageKey, StorageKey.InvalidKey>
  readonly decodeValue: (stored: Pick<VersionedRecord, "key" | "data">) => Effect.Effect<A, Schema.SchemaError, RD>
  readonly encode: (key: StorageKey.StorageKey, value: A) => Effect.Effect<string, Schema.SchemaError, RE>
}

const insideKey = Symbol.for("effect-versioned-store/VersionedStore/inside")

interface WithInside<A, RD, RE> {
  readonly [insideKey]: Inside<A, RD, RE>
}

/** @internal */
export const insideOf = <A, RD, RE>(store: VersionedStore<A, RD, RE>): Inside<A, RD, RE> => {
  if (insideKey in store) return (store as WithInside<A, RD, RE>)[insideKey]
  throw new TypeError("This store was not made by VersionedStore.make, so it can't take part in a transaction")
}

type Codec<S extends Schema.Constraint> = ReturnType<typeof makeCodec<S>>

/** Where the records of a store are, and how they are written as JSON. */
const makeCodec = <S extends Schema.Constraint>(backend: StorageBackend["Service"], idPrefix: string, schema: S) => {
  type A = S["Type"]
  const { decodeData, encodeValue } = makeJson(schema)

  const withKeyInIssue = <B, R>(key: StorageKey.StorageKey, effect: Effect.Effect<B, Schema.SchemaError, R>) =>
    isSuccess(effect)
      ? effect
      : Effect.mapErrorEager(
          effect,
          (error) => new Schema.SchemaError(new SchemaIssue.Pointer([String(key)], error.issue))
        )

  const toRecord = (stored: VersionedRecord, value: A): Record<A> => ({
    key: { owner: stored.key.owner, id: stored.key.id.slice(idPrefix.length) },
    value,
    version: stored.version,
    expiresAt: stored.expiresAt,
    etag: ETag.make(stored.version, stored.writeId, stored.data),
    stored
  })

  const encode = (
    key: StorageKey.StorageKey,
    value: A
  ): Effect.Effect<string, Schema.SchemaError, S["EncodingServices"]> => withKeyInIssue(key, encodeValue(value))

  const decodeValue = (
    stored: Pick<VersionedRecord, "key" | "data">
  ): Effect.Effect<A, Schema.SchemaError, S["DecodingServices"]> => withKeyInIssue(stored.key, decodeData(stored.data))

  return {
    locate: ({ id, owner }: Key) =>
      Effect.fromResult(StorageKey.make({ owner, id: id === "" ? "" : `${idPrefix}${id}` })),

    toRecord,
    encode,

    decodeValue,

    decode: (stored: VersionedRecord): Effect.Effect<Record<A>, Schema.SchemaError, S["DecodingServices"]> =>
      Effect.mapEager(decodeValue(stored), (value) => toRecord(stored, value)),

    /** Encodes a value and writes it. Returns the record as written. */
    write: <E extends { readonly _tag: string }>(
      key: StorageKey.StorageKey,
      value: A,
      put: (data: string) => Effect.Effect<VersionedRecord, E | StorageError.InvalidData>
    ) =>
      Effect.flatMapEager(encode(key, value), (data) =>
        Effect.matchEffect(outside(backend, key, put(data)), {
          onSuccess: (stored) => Effect.succeed(toRecord(stored, value)),
          // The data is JSON, which has no lone surrogates.
          onFailure: (error): Effect.Effect<never, E> => (isInvalidData(error) ? Effect.die(error) : Effect.fail(error))
        })
      )
  }
}

const isInvalidData = (error: { readonly _tag: string }): error is StorageError.InvalidData =>
  error._tag === "InvalidData"

/** Whether an Effect has its answer already. */
const isSuccess = <B, E, R>(effect: Effect.Effect<B, E, R>): effect is Exit.Success<B> =>
  Exit.isExit(effect) && Exit.isSuccess(effect)

/**
 * Decodes and encodes JSON. Most Schemas do so at once, and the Effect is a finished `Exit`. The codec from a string
 * never answers at once and costs several times as much, so it only makes the errors.
 */
const makeJson = <S extends Schema.Constraint>(schema: S) => {
  const fromString = Schema.fromJsonString(Schema.toCodecJson(schema))
  const decodeString = Schema.decodeEffect(fromString)
  const encodeString = Schema.encodeEffect(fromString)
  const decodeJson = Schema.decodeUnknownEffect(Schema.toCodecJson(schema))
  const encodeJson = Schema.encodeEffect(Schema.toCodecJson(schema))
  return {
    decodeData: (data: string): Effect.Effect<S["Type"], Schema.SchemaError, S["DecodingServices"]> => {
      let json: unknown
      try {
        json = JSON.parse(data)
      } catch {
        return decodeString(data)
      }
      const decoded = decodeJson(json)
      return isSuccess(decoded) ? decoded : decodeString(data)
    },

    encodeValue: (value: S["Type"]): Effect.Effect<string, Schema.SchemaError, S["EncodingServices"]> => {
      const encoded = encodeJson(value)
      if (!isSuccess(encoded)) return encodeString(value)
      const data = toJson(encoded.value)
      return data === undefined ? encodeString(value) : Effect.succeed(data)
    }
  }
}

/** The JSON of a value, or undefined if it has none. */
const toJson = (value: unknown): string | undefined => {
  try {
    return JSON.stringify(value)
  } catch {
    return undefined
  }
}

type Change<S extends Schema.Constraint> = ReturnType<typeof makeChange<S>>

/**
 * The core of all updates. Returns what `answer` makes of what the function returned beside the next value, and of the
 * record as written, or as it is if there is no next value. If there is no record, `onAbsent` says what to create, or
 * fails.
 */
const makeChange = <S extends Schema.Constraint>(
  backend: StorageBackend["Service"],
  { decodeValue, encode, locate, toRecord }: Codec<S>,
  defaultSchedule: UpdateOptions["retrySchedule"]
) => {
  type A = S["Type"]
  const run = Update.make(backend)

  const touch = (key: Key, ttl: Duration.Input, options?: Pick<UpdateOptions, "retrySchedule">) =>
    withExpiry({ ttl }, locate(key), (key, expiresAt) =>
      run({
        key,
        isShared: true,
        retrySchedule: options?.retrySchedule ?? defaultSchedule,
        decide: (current): Effect.Effect<Decision<void>, StorageError.RecordNotFound> =>
          current === undefined
            ? notFound(key)
            : Effect.succeed({
                _tag: "Write",
                data: current.data,
                expiresAt: resolveExpiry(expiresAt, current),
                answer: () => undefined
              })
      })
    )

  const update = <B, C, E1, E2, R>(
    key: Key,
    isShared: boolean,
    onAbsent: (key: StorageKey.StorageKey) => Effect.Effect<readonly [B, A], E1, R>,
    onPresent: (value: A) => Effect.Effect<readonly [B, Option.Option<A>], E2, R>,
    answer: (beside: B, record: Record<A>) => C,
    options: UpdateOptions | undefined
  ) =>
    withExpiry(options, locate(key), (key, expiresAt) => {
      const write = (beside: B, value: A, current: VersionedRecord | undefined) =>
        Effect.mapEager(
          encode(key, value),
          (data): Decision<C> => ({
            _tag: "Write",
            data,
            expiresAt: resolveExpiry(expiresAt, current),
            answer: (stored) => answer(beside, toRecord(stored, value))
          })
        )
      // Without generators: if the codec and the function answer at once, so does the decision.
      const decide = (
        current: VersionedRecord | undefined
      ): Effect.Effect<
        Decision<C>,
        E1 | E2 | Schema.SchemaError,
        R | S["DecodingServices"] | S["EncodingServices"]
      > => {
        if (current === undefined) {
          return Effect.flatMapEager(onAbsent(key), ([beside, value]) => write(beside, value, current))
        }
        return Effect.flatMapEager(decodeValue(current), (value) =>
          Effect.flatMapEager(
            onPresent(value),
            ([beside, next]): Effect.Effect<Decision<C>, Schema.SchemaError, S["EncodingServices"]> =>
              Option.isSome(next)
                ? write(beside, next.value, current)
                : Effect.succeed({
                    _tag: "Keep",
                    answer: (stored) => answer(beside, toRecord(stored ?? current, value))
                  })
          )
        )
      }
      return run({ key, decide, isShared, retrySchedule: options?.retrySchedule ?? defaultSchedule })
    })

  return { touch, update }
}

/** The updates of a store. Those whose function does not return an Effect may share writes. */
const makeUpdates = <S extends Schema.Constraint>(
  change: Change<S>["update"]
): Pick<
  VersionedStore<S["Type"], S["DecodingServices"], S["EncodingServices"]>,
  "update" | "updateEffect" | "updateSome" | "modify" | "modifyEffect" | "modifySome" | "upsert" | "upsertEffect"
> => ({
  update: (key, f, options) =>
    change(key, true, notFound, (value) => Effect.succeed([undefined, Option.some(f(value))]), record, options),
  updateEffect: (key, f, options) =>
    change(
      key,
      false,
      notFound,
      (value) => Effect.map(f(value), (next) => [undefined, Option.some(next)]),
      record,
      options
    ),
  updateSome: (key, f, options) =>
    change(key, true, notFound, (value) => Effect.succeed([undefined, f(value)]), record, options),
  modify: (key, f, options) =>
    change(
      key,
      true,
      notFound,
      (value) => {
        const [answer, next] = f(value)
        return Effect.succeed([answer, Option.some(next)])
      },
      beside,
      options
    ),
  modifyEffect: (key, f, options) =>
    change(
      key,
      false,
      notFound,
      (value) => Effect.map(f(value), ([answer, next]) => [answer, Option.some(next)]),
      beside,
      options
    ),
  modifySome: (key, f, options) => change(key, true, notFound, (value) => Effect.succeed(f(value)), beside, options),
  upsert: (key, f, options) =>
    change(
      key,
      true,
      () => Effect.succeed([undefined, f(Option.none())]),
      (value) => Effect.succeed([undefined, Option.some(f(Option.some(value)))]),
      record,
      options
    ),
  upsertEffect: (key, f, options) =>
    change(
      key,
      false,
      () => Effect.map(f(Option.none()), (value) => [undefined, value]),
      (value) => Effect.map(f(Option.some(value)), (next) => [undefined, Option.some(next)]),
      record,
      options
    )
})

const notFound = (key: StorageKey.StorageKey) => Effect.fail(StorageError.recordNotFound(key))

const record = <A>(_: unknown, record: Record<A>): Record<A> => record
const beside = <B>(beside: B): B => beside

/**
 * Runs a function with the expiry that the options give. A time to live counts from the call on. Without one, nothing
 * is read from the Clock, and the function runs at once if the first Effect has its answer.
 *
 * @internal
 */
export const withExpiry = <B, C, E1, E2, R>(
  options: NewExpiryOptions | undefined,
  located: Effect.Effect<B, E1>,
  f: (located: B, expiresAt: NewExpiryOptions["expiresAt"]) => Effect.Effect<C, E2, R>
): Effect.Effect<C, E1 | E2, R> =>
  Effect.flatMapEager(located, (located) =>
    options?.ttl === undefined
      ? f(located, options?.expiresAt)
      : Effect.withFiber((fiber) => f(located, expiryAfter(options, fiber.getRef(Clock.Clock))))
  )

const expiryAfter = ({ expiresAt, ttl = "Infinity" }: NewExpiryOptions, clock: Clock.Clock): DateTime.Utc | "never" => {
  if (expiresAt !== undefined) throw new RangeError("Give either ttl or expiresAt, not both")
  const millis = toMillis("ttl", ttl)
  return millis === Number.POSITIVE_INFINITY
    ? "never"
    : DateTime.makeUnsafe(Math.min(clock.currentTimeMillisUnsafe() + millis, lastMillisecond))
}

/** @internal */
export const resolveExpiry = (
  expiresAt: UpdateOptions["expiresAt"],
  current: Pick<VersionedRecord, "expiresAt"> | undefined
): DateTime.Utc | undefined => (expiresAt === "never" ? undefined : (expiresAt ?? current?.expiresAt))
