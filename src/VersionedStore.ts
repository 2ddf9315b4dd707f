/**
 * Records typed by a Schema, on whichever backend the Layer below provides: what applications use.
 *
 * Every change of a record is a compare-and-set on what was read, wrapped in a retry schedule: of any number of fibers,
 * processes and machines that change one record at once, each change is made on the outcome of the one before.
 */
import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import * as Pipeable from "effect/Pipeable"
import { hasProperty } from "effect/Predicate"
import * as Result from "effect/Result"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Stream from "effect/Stream"
import { backoff } from "./internal/backoff.ts"
import { goneMeanwhile, retryConflicts } from "./internal/conflicts.ts"
import { withoutStack } from "./internal/withoutStack.ts"
import { type ListOptions, StorageBackend, type VersionedRecord, type WriteOptions } from "./StorageBackend.ts"
import * as StorageError from "./StorageError.ts"
import * as StorageKey from "./StorageKey.ts"
import * as StoragePrefix from "./StoragePrefix.ts"

const TypeId = "~effect-versioned-store/VersionedStore"

/**
 * The address of a record in a store. The store puts its own `idPrefix` before the id.
 */
export interface Key {
  readonly owner: string
  readonly id: string
}

/**
 * One version of a record. `stored` is the same as the backend holds it, undecoded and under its whole id.
 */
export interface Record<out A> {
  readonly key: Key
  readonly value: A
  readonly version: number
  readonly expiresAt: DateTime.Utc | undefined
  readonly stored: VersionedRecord
}

/** How a record is updated. */
export interface UpdateOptions {
  /** From when on the record is absent, rounded up to a whole second. Left out, it stays as it is. */
  readonly expiresAt?: DateTime.Utc | "never" | undefined
  /** How a conflict is retried in this call. */
  readonly retrySchedule?: Schedule.Schedule<unknown, StorageError.VersionConflict> | undefined
}

/** Which records are listed. */
export interface ListingOptions {
  readonly owner: string
  /** What ids must start with, after the store's own prefix. */
  readonly idPrefix?: string | undefined
  /** By the bytes of the ids' UTF-8; ascending by default. */
  readonly order?: ListOptions["order"]
}

/** One page of a listing. */
export interface Page<out A> {
  readonly records: ReadonlyArray<Record<A>>
  /** Leads to the next page. A page may be short or even empty and have one: only its absence is the end. */
  readonly cursor: string | undefined
}

/** What a read raises. */
export type ReadError = StorageKey.InvalidKey | Schema.SchemaError | StorageError.Backend

/** What a write raises. */
export type WriteError = ReadError | StorageError.CapacityExceeded

/** What an update of a record raises. The conflict comes out when the retry schedule is spent. */
export type UpdateError = WriteError | StorageError.RecordNotFound | StorageError.VersionConflict

/**
 * A store of records of one type. Each operation is at hand as a method, and as a function of this module that takes
 * the store first or last.
 */
export interface VersionedStore<in out A, out RD = never, out RE = never> extends Pipeable.Pipeable {
  readonly [TypeId]: typeof TypeId

  /** The record as it now is. One request. */
  readonly get: (key: Key) => Effect.Effect<Record<A>, ReadError | StorageError.RecordNotFound, RD>

  /** Writes a record where there must be none. One request. */
  readonly create: (
    key: Key,
    value: A,
    options?: WriteOptions
  ) => Effect.Effect<Record<A>, WriteError | StorageError.AlreadyExists, RE>

  /** Writes a record whatever is there. One request. */
  readonly set: (key: Key, value: A, options?: WriteOptions) => Effect.Effect<Record<A>, WriteError, RE>

  /** Writes over exactly the record that was read, and never retries. One request. */
  readonly setIfVersion: (
    record: Record<A>,
    value: A,
    options?: Pick<UpdateOptions, "expiresAt">
  ) => Effect.Effect<Record<A>, Exclude<UpdateError, StorageKey.InvalidKey>, RE>

  /**
   * Changes a record: reads it, applies a function and writes it by compare-and-set, retried on a conflict with the
   * newest record. Two requests; after a first conflict one more, after each later one two more.
   */
  readonly update: (
    key: Key,
    f: (value: A) => A,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, UpdateError, RD | RE>

  /** Like `update`, with a function that is an Effect and may fail. It runs again on each retry. */
  readonly updateEffect: <E, R>(
    key: Key,
    f: (value: A) => Effect.Effect<A, E, R>,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, UpdateError | E, RD | RE | R>

  /** Like `update`, with a function that also returns something, which is the result. */
  readonly modify: <B>(
    key: Key,
    f: (value: A) => readonly [B, A],
    options?: UpdateOptions
  ) => Effect.Effect<B, UpdateError, RD | RE>

  /** Like `modify`, with a function that is an Effect and may fail. It runs again on each retry. */
  readonly modifyEffect: <B, E, R>(
    key: Key,
    f: (value: A) => Effect.Effect<readonly [B, A], E, R>,
    options?: UpdateOptions
  ) => Effect.Effect<B, UpdateError | E, RD | RE | R>

  /** Like `update`, and creates the record where there is none. */
  readonly upsert: (
    key: Key,
    f: (value: Option.Option<A>) => A,
    options?: UpdateOptions
  ) => Effect.Effect<Record<A>, WriteError | StorageError.VersionConflict, RD | RE>

  /** Removes a record whatever it holds; true where there was one. One request. */
  readonly remove: (key: Key) => Effect.Effect<boolean, StorageKey.InvalidKey | StorageError.Backend>

  /** Removes exactly the record that was read, and never retries. One request. */
  readonly removeIfVersion: (
    record: Record<A>
  ) => Effect.Effect<void, StorageError.RecordNotFound | StorageError.VersionConflict | StorageError.Backend>

  /** One page of an owner's records, in id order. */
  readonly list: (
    options: ListingOptions & Pick<ListOptions, "limit" | "cursor">
  ) => Effect.Effect<Page<A>, ReadError | StorageError.InvalidCursor, RD>

  /** All of an owner's records, in id order, read page by page. */
  readonly stream: (options: ListingOptions) => Stream.Stream<Record<A>, ReadError, RD>
}

/**
 * How a conflict is retried by default: at once and from the record that the conflict carried, then exponentially from
 * 20 ms, capped at 1 s before a jitter of 20%, at most 10 times in all.
 *
 * The first retry never waits, whatever the schedule says; the schedule only says whether there is one.
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
 */
export const defaultRetrySchedule: Schedule.Schedule<unknown> = backoff("10 millis", 10)

/**
 * Whether a value is a `VersionedStore`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { VersionedStore } from "effect-versioned-store"
 *
 * assert.strictEqual(VersionedStore.isVersionedStore({}), false)
 * ```
 */
export const isVersionedStore = (u: unknown): u is VersionedStore<unknown, unknown, unknown> => hasProperty(u, TypeId)

/**
 * Makes a store of the records whose ids start with `idPrefix`. Values are kept as JSON; schemas with services and with
 * another encoded form work, and a record that does not decode is a `SchemaError` that names its key.
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
 */
export const make = Effect.fnUntraced(function* <S extends Schema.Constraint>(options: {
  readonly idPrefix: string
  readonly schema: S
  readonly retrySchedule?: Schedule.Schedule<unknown, StorageError.VersionConflict> | undefined
}): Effect.fn.Return<
  VersionedStore<S["Type"], S["DecodingServices"], S["EncodingServices"]>,
  StorageKey.InvalidKey,
  StorageBackend
> {
  type A = S["Type"]
  type RD = S["DecodingServices"]
  type Self = VersionedStore<A, RD, S["EncodingServices"]>

  const backend = yield* StorageBackend
  const { idPrefix } = options
  const invalid = StorageKey.checkPart("idPrefix", idPrefix, StorageKey.maxIdBytes)
  if (invalid !== undefined) return yield* invalid

  const json = Schema.fromJsonString(Schema.toCodecJson(options.schema))
  const decodeJson = Schema.decodeEffect(json)
  const encodeJson = Schema.encodeEffect(json)

  const locate = ({ id, owner }: Key) =>
    Effect.fromResult(StorageKey.make({ owner, id: id === "" ? "" : `${idPrefix}${id}` }))

  const at = (key: StorageKey.StorageKey) =>
    Effect.mapErrorEager(
      (error: Schema.SchemaError) => new Schema.SchemaError(new SchemaIssue.Pointer([String(key)], error.issue))
    )

  const toRecord = (stored: VersionedRecord, value: A): Record<A> => ({
    key: { owner: stored.key.owner, id: stored.key.id.slice(idPrefix.length) },
    value,
    version: stored.version,
    expiresAt: stored.expiresAt,
    stored
  })

  const decode = (stored: VersionedRecord): Effect.Effect<Record<A>, Schema.SchemaError, RD> =>
    Effect.mapEager(at(stored.key)(decodeJson(stored.data)), (value) => toRecord(stored, value))

  /** Encodes a value, writes it, and gives back the record as written. JSON has no lone surrogates. */
  const write = <E>(
    key: StorageKey.StorageKey,
    value: A,
    put: (data: string) => Effect.Effect<VersionedRecord, E | StorageError.InvalidData>
  ) =>
    at(key)(encodeJson(value)).pipe(
      Effect.flatMapEager((data) => Effect.catchTag(put(data), "InvalidData", Effect.die)),
      Effect.mapEager((stored) => toRecord(stored, value))
    )

  const swap = (
    key: StorageKey.StorageKey,
    value: A,
    expected: VersionedRecord | undefined,
    expiresAt: UpdateOptions["expiresAt"]
  ) =>
    write(key, value, (data) =>
      backend.putIfVersion(key, data, expected ?? 0, {
        expiresAt: expiresAt === "never" ? undefined : (expiresAt ?? expected?.expiresAt)
      })
    )

  /** What is behind every update. `missing` says what there being no record comes to, before and at the write. */
  const change = Effect.fnUntraced(function* <B, E1 extends StorageError.RecordNotFound, E2, R>(
    key: Key,
    missing: (error: StorageError.RecordNotFound) => Effect.Effect<undefined, E1>,
    f: (value: Option.Option<A>) => Effect.Effect<readonly [B, A], E2, R>,
    { expiresAt, retrySchedule = options.retrySchedule ?? defaultRetrySchedule }: UpdateOptions = {}
  ) {
    const located = yield* locate(key)
    return yield* retryConflicts(
      retrySchedule,
      Effect.fnUntraced(function* (carried) {
        const current = carried ?? (yield* Effect.catchTag(backend.get(located), "RecordNotFound", missing))
        const value = current === undefined ? Option.none() : Option.some((yield* decode(current)).value)
        const [result, next] = yield* f(value)
        return yield* swap(located, next, current, expiresAt).pipe(
          Effect.catchTag("RecordNotFound", (error) =>
            Effect.andThen(missing(error), Effect.fail(goneMeanwhile(located, current)))
          ),
          Effect.map((record) => Result.succeed({ result, record })),
          Effect.catchIf(isConflict, (conflict) => Effect.succeed(Result.fail(conflict)))
        )
      })
    )
  })

  const modifyEffect: Self["modifyEffect"] = (key, f, options) =>
    Effect.map(
      change(key, Effect.fail, (value) => f(Option.getOrThrow(value)), options),
      ({ result }) => result
    )

  const updateEffect: Self["updateEffect"] = (key, f, options) =>
    Effect.map(
      change(key, Effect.fail, (value) => Effect.map(f(Option.getOrThrow(value)), twice), options),
      ({ record }) => record
    )

  const prefixOf = ({ idPrefix: more = "", owner }: ListingOptions) =>
    Effect.fromResult(StoragePrefix.make({ owner, idPrefix: `${idPrefix}${more}` }))

  const list: Self["list"] = Effect.fnUntraced(function* (options) {
    const page = yield* backend.listByPrefix(yield* prefixOf(options), options)
    return { records: yield* Effect.forEach(page.records, decode), cursor: page.cursor }
  })

  const self: Self = {
    ...Pipeable.Prototype,
    [TypeId]: TypeId,
    get: (key) => Effect.flatMap(Effect.flatMap(locate(key), backend.get), decode),
    create: (key, value, options) =>
      Effect.flatMap(locate(key), (key) =>
        write(key, value, (data) => backend.putIfVersion(key, data, 0, options)).pipe(
          Effect.catchTags({
            VersionConflict: () => Effect.fail(withoutStack(() => new StorageError.AlreadyExists({ key }))),
            RecordNotFound: Effect.die
          })
        )
      ),
    set: (key, value, options) =>
      Effect.flatMap(locate(key), (key) => write(key, value, (data) => backend.put(key, data, options))),
    setIfVersion: ({ stored }, value, options) => swap(stored.key, value, stored, options?.expiresAt),
    update: (key, f, options) => updateEffect(key, (value) => Effect.succeed(f(value)), options),
    updateEffect,
    modify: (key, f, options) => modifyEffect(key, (value) => Effect.succeed(f(value)), options),
    modifyEffect,
    upsert: (key, f, options) =>
      Effect.map(
        change(
          key,
          () => Effect.undefined,
          (value) => Effect.succeed(twice(f(value))),
          options
        ),
        ({ record }) => record
      ),
    remove: (key) => Effect.flatMap(locate(key), backend.delete),
    removeIfVersion: ({ stored }) => backend.deleteIfVersion(stored.key, stored),
    list,
    stream: (options) =>
      Stream.paginate(undefined as string | undefined, (cursor) =>
        Effect.map(Effect.catchTag(list({ ...options, cursor }), "InvalidCursor", Effect.die), (page) => [
          page.records,
          Option.fromUndefinedOr(page.cursor)
        ])
      )
  }
  return self
})

const twice = <A>(value: A): readonly [A, A] => [value, value]

const isConflict = (error: unknown): error is StorageError.VersionConflict =>
  error instanceof StorageError.VersionConflict

const isDataFirst = (args: IArguments) => isVersionedStore(args[0])

/**
 * The record as it now is. One request.
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
 *   assert.strictEqual((yield* VersionedStore.get(counters, key)).value, 1)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const get: {
  (key: Key): <A, RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["get"]>
  <A, RD, RE>(self: VersionedStore<A, RD, RE>, key: Key): ReturnType<VersionedStore<A, RD, RE>["get"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(self: VersionedStore<A, RD, RE>, key: Key): ReturnType<VersionedStore<A, RD, RE>["get"]> => self.get(key)
)

/**
 * Writes a record where there must be none. One request.
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
 *   assert.strictEqual((yield* Effect.flip(VersionedStore.create(counters, key, 2)))._tag, "AlreadyExists")
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const create: {
  <A>(
    key: Key,
    value: A,
    options?: WriteOptions
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["create"]>
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    value: A,
    options?: WriteOptions
  ): ReturnType<VersionedStore<A, RD, RE>["create"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    value: A,
    options?: WriteOptions
  ): ReturnType<VersionedStore<A, RD, RE>["create"]> => self.create(key, value, options)
)

/**
 * Writes a record whatever is there. One request.
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
 *   assert.strictEqual((yield* VersionedStore.set(counters, key, 5)).value, 5)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const set: {
  <A>(
    key: Key,
    value: A,
    options?: WriteOptions
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["set"]>
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    value: A,
    options?: WriteOptions
  ): ReturnType<VersionedStore<A, RD, RE>["set"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    value: A,
    options?: WriteOptions
  ): ReturnType<VersionedStore<A, RD, RE>["set"]> => self.set(key, value, options)
)

/**
 * Writes over exactly the record that was read, and never retries. One request.
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
 *   assert.strictEqual((yield* VersionedStore.setIfVersion(counters, yield* counters.get(key), 7)).version, 2)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const setIfVersion: {
  <A>(
    record: Record<A>,
    value: A,
    options?: Pick<UpdateOptions, "expiresAt">
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["setIfVersion"]>
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    record: Record<A>,
    value: A,
    options?: Pick<UpdateOptions, "expiresAt">
  ): ReturnType<VersionedStore<A, RD, RE>["setIfVersion"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    record: Record<A>,
    value: A,
    options?: Pick<UpdateOptions, "expiresAt">
  ): ReturnType<VersionedStore<A, RD, RE>["setIfVersion"]> => self.setIfVersion(record, value, options)
)

/**
 * Changes a record by compare-and-set, retried on a conflict with the newest record. Two requests without one.
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
 *   assert.strictEqual((yield* VersionedStore.update(counters, key, (n) => n + 1)).value, 2)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const update: {
  <A>(
    key: Key,
    f: (value: A) => A,
    options?: UpdateOptions
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["update"]>
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => A,
    options?: UpdateOptions
  ): ReturnType<VersionedStore<A, RD, RE>["update"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => A,
    options?: UpdateOptions
  ): ReturnType<VersionedStore<A, RD, RE>["update"]> => self.update(key, f, options)
)

/**
 * Like {@link update}, with a function that is an Effect and may fail.
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
 *   assert.strictEqual((yield* VersionedStore.updateEffect(counters, key, (n) => Effect.succeed(n + 1))).value, 2)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const updateEffect: {
  <A, E, R>(
    key: Key,
    f: (value: A) => Effect.Effect<A, E, R>,
    options?: UpdateOptions
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => Effect.Effect<Record<A>, UpdateError | E, RD | RE | R>
  <A, RD, RE, E, R>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => Effect.Effect<A, E, R>,
    options?: UpdateOptions
  ): Effect.Effect<Record<A>, UpdateError | E, RD | RE | R>
} = dual(
  isDataFirst,
  <A, RD, RE, E, R>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => Effect.Effect<A, E, R>,
    options?: UpdateOptions
  ): Effect.Effect<Record<A>, UpdateError | E, RD | RE | R> => self.updateEffect(key, f, options)
)

/**
 * Like {@link update}, with a function that also returns something, which is the result.
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
 *   assert.strictEqual(yield* VersionedStore.modify(counters, key, (n) => [`was ${n}`, n + 1]), "was 1")
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const modify: {
  <A, B>(
    key: Key,
    f: (value: A) => readonly [B, A],
    options?: UpdateOptions
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => Effect.Effect<B, UpdateError, RD | RE>
  <A, RD, RE, B>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => readonly [B, A],
    options?: UpdateOptions
  ): Effect.Effect<B, UpdateError, RD | RE>
} = dual(
  isDataFirst,
  <A, RD, RE, B>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => readonly [B, A],
    options?: UpdateOptions
  ): Effect.Effect<B, UpdateError, RD | RE> => self.modify(key, f, options)
)

/**
 * Like {@link modify}, with a function that is an Effect and may fail.
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
 *   assert.strictEqual(yield* VersionedStore.modifyEffect(counters, key, (n) => Effect.succeed([`was ${n}`, n + 1])), "was 1")
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const modifyEffect: {
  <A, B, E, R>(
    key: Key,
    f: (value: A) => Effect.Effect<readonly [B, A], E, R>,
    options?: UpdateOptions
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => Effect.Effect<B, UpdateError | E, RD | RE | R>
  <A, RD, RE, B, E, R>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => Effect.Effect<readonly [B, A], E, R>,
    options?: UpdateOptions
  ): Effect.Effect<B, UpdateError | E, RD | RE | R>
} = dual(
  isDataFirst,
  <A, RD, RE, B, E, R>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: A) => Effect.Effect<readonly [B, A], E, R>,
    options?: UpdateOptions
  ): Effect.Effect<B, UpdateError | E, RD | RE | R> => self.modifyEffect(key, f, options)
)

/**
 * Like {@link update}, and creates the record where there is none.
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
 *   assert.strictEqual((yield* VersionedStore.upsert(counters, key, Option.match({ onNone: () => 1, onSome: (n) => n + 1 }))).value, 2)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const upsert: {
  <A>(
    key: Key,
    f: (value: Option.Option<A>) => A,
    options?: UpdateOptions
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["upsert"]>
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: Option.Option<A>) => A,
    options?: UpdateOptions
  ): ReturnType<VersionedStore<A, RD, RE>["upsert"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    key: Key,
    f: (value: Option.Option<A>) => A,
    options?: UpdateOptions
  ): ReturnType<VersionedStore<A, RD, RE>["upsert"]> => self.upsert(key, f, options)
)

/**
 * Removes a record whatever it holds; true where there was one. One request.
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
 *   assert.strictEqual(yield* VersionedStore.remove(counters, key), true)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const remove: {
  (key: Key): <A, RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["remove"]>
  <A, RD, RE>(self: VersionedStore<A, RD, RE>, key: Key): ReturnType<VersionedStore<A, RD, RE>["remove"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(self: VersionedStore<A, RD, RE>, key: Key): ReturnType<VersionedStore<A, RD, RE>["remove"]> =>
    self.remove(key)
)

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
 *   yield* counters.create(key, 1)
 *   assert.strictEqual(yield* VersionedStore.removeIfVersion(counters, yield* counters.get(key)), undefined)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 */
export const removeIfVersion: {
  <A>(
    record: Record<A>
  ): <RD, RE>(self: VersionedStore<A, RD, RE>) => ReturnType<VersionedStore<A, RD, RE>["removeIfVersion"]>
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    record: Record<A>
  ): ReturnType<VersionedStore<A, RD, RE>["removeIfVersion"]>
} = dual(
  isDataFirst,
  <A, RD, RE>(
    self: VersionedStore<A, RD, RE>,
    record: Record<A>
  ): ReturnType<VersionedStore<A, RD, RE>["removeIfVersion"]> => self.removeIfVersion(record)
)
