/**
 * Effect's `KeyValueStore` and `Persistence.BackingPersistence` on whichever backend the Layer below provides, for one
 * owner: what is written for those services, `PersistedCache` and persisted chats for two, runs on it unchanged and
 * shares what it holds with other processes and machines.
 *
 * They behave as Effect's own Layers in memory do, for any key, with values of up to 384 KiB as JSON (bytes as base64,
 * which is a third longer). `KeyValueStore.modify` is atomic among all clients.
 */
import * as Clock from "effect/Clock"
import * as Digest from "effect/crypto/Digest"
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Persistence from "effect/persistence/Persistence"
import * as RcMap from "effect/RcMap"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import * as UndefinedOr from "effect/UndefinedOr"
import { lastMillisecond } from "../internal/time.ts"
import { StorageBackend, type VersionedRecord } from "../StorageBackend.ts"
import type { VersionConflict } from "../StorageError.ts"
import * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import * as VersionedStore from "../VersionedStore.ts"

/** Whose records a store is kept in. */
export interface Options {
  readonly owner: string
}

/** Whose records a key-value store is kept in, and how its `modify` is retried. */
export interface KeyValueStoreOptions extends Options {
  /**
   * How a `modify` is retried where another process was first: by default at once, then exponentially from 20 ms, capped
   * at 200 ms before a jitter of 20%, for a minute.
   */
  readonly retrySchedule?: Schedule.Schedule<unknown, VersionConflict> | undefined
}

/** What starts with `!` is no task, so that an owner may have both. */
const keyValuePrefix = "!kv/"
const persistencePrefix = "!persistence/"

/** How many requests of one operation run at once. */
const concurrency = 16

const untilItLands = Schedule.min([Schedule.exponential("10 millis"), Schedule.spaced("200 millis")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "1 minute" })
)

const encoder = new TextEncoder()

// -----------------------------------------------------------------------------
// What both share: values by keys of any kind
// -----------------------------------------------------------------------------

/** Whether a key may be an id as it is. One that looks hashed may not. */
const isPlain = (idPrefix: string, key: string): boolean =>
  key !== "" &&
  !key.startsWith("#") &&
  StorageKey.checkPart("id", `${idPrefix}${key}`, StorageKey.maxIdBytes) === undefined

/** What stands for a key that may not. JSON keeps lone surrogates apart, which are all one in UTF-8. */
const hash = (key: string): Effect.Effect<string, never, Digest.Digest> =>
  Digest.Digest.use((digest) =>
    Effect.map(digest.digestHex(Digest.sha256, encoder.encode(JSON.stringify(key))), (hex) => `#${hex}`)
  )

const hashLength = "#".length + 2 * Digest.sha256.outputLength

const HashedEntry = Schema.fromJsonString(Schema.Struct({ key: Schema.String }))

const makeEntries = Effect.fnUntraced(function* <A>(
  { owner, retrySchedule }: KeyValueStoreOptions,
  idPrefix: string,
  value: Schema.Codec<A, unknown>
) {
  const backend = yield* StorageBackend
  const digest = yield* Effect.context<Digest.Digest>()
  const store = yield* VersionedStore.make({
    idPrefix,
    schema: Schema.Struct({
      value,
      /** To the millisecond; that of the record is rounded up to a second. */
      expiresAt: Schema.optionalKey(Schema.DateTimeUtc),
      /** What the id is a hash of, where it is one. */
      key: Schema.optionalKey(Schema.String)
    }),
    retrySchedule
  })

  const locate = Effect.fnUntraced(function* (key: string) {
    return { owner, id: isPlain(idPrefix, key) ? key : yield* Effect.provideContext(hash(key), digest) }
  })

  const keyOf = ({ data, key }: VersionedRecord) => {
    const id = key.id.slice(idPrefix.length)
    return id.startsWith("#")
      ? Effect.map(Schema.decodeEffect(HashedEntry)(data), ({ key }) => key)
      : Effect.succeed(id)
  }

  /** As they are stored, so that those are counted and cleared too that do not decode. */
  const records = (more = "", limit?: number) =>
    Stream.paginate(undefined as string | undefined, (cursor) =>
      Effect.fromResult(StoragePrefix.make({ owner, idPrefix: `${idPrefix}${more}` })).pipe(
        Effect.flatMap((prefix) => backend.listByPrefix(prefix, { cursor, limit })),
        Effect.catchTag("InvalidCursor", Effect.die),
        Effect.map((page) => [page.records, Option.fromUndefinedOr(page.cursor)])
      )
    )
  const all = records()

  /** A key with a plain prefix is plain itself, or hashed; with any other, half a character for one, it may be anywhere. */
  const startingWith = (prefix: string) => {
    const filtered = (found: typeof all) =>
      Stream.filterEffect(found, (record) => Effect.map(keyOf(record), (key) => key.startsWith(prefix)))
    return isPlain(idPrefix, prefix) ? Stream.concat(records(prefix), filtered(records("#"))) : filtered(all)
  }

  const remove = <E>(found: Stream.Stream<VersionedRecord, E>) =>
    Stream.runDrain(Stream.mapEffect(found, ({ key }) => backend.delete(key), { concurrency, unordered: true }))

  return {
    get: Effect.fnUntraced(function* (key: string) {
      const record = yield* Effect.catchTag(store.get(yield* locate(key)), "RecordNotFound", () => Effect.undefined)
      if (record === undefined) return undefined
      const { expiresAt, value } = record.value
      const now = yield* Clock.currentTimeMillis
      return expiresAt !== undefined && expiresAt.epochMilliseconds <= now ? undefined : value
    }),

    set: Effect.fnUntraced(function* (key: string, value: A, expiresAt?: DateTime.Utc) {
      const at = yield* locate(key)
      const entry = {
        value,
        ...(expiresAt === undefined ? {} : { expiresAt }),
        ...(at.id === key ? {} : { key })
      }
      yield* store.set(at, entry, { expiresAt })
    }),

    modify: Effect.fnUntraced(function* (key: string, f: (value: A) => A) {
      const updated = store.update(yield* locate(key), (entry) => ({ ...entry, value: f(entry.value) }))
      return (yield* Effect.catchTag(updated, "RecordNotFound", () => Effect.undefined))?.value.value
    }),

    remove: (key: string) => Effect.asVoid(Effect.flatMap(locate(key), store.remove)),
    clear: remove(all),
    clearPrefix: (prefix: string) => remove(startingWith(prefix)),
    size: Stream.runCount(all),
    isEmpty: Effect.map(Stream.runHead(records("", 1)), Option.isNone),
    keys: Stream.runCollect(Stream.mapEffect(all, keyOf))
  }
})

// -----------------------------------------------------------------------------
// KeyValueStore
// -----------------------------------------------------------------------------

const StringOrBytes = Schema.Union([Schema.String, Schema.Struct({ bytes: Schema.Uint8Array })])
type StringOrBytes = typeof StringOrBytes.Type

const toValue = (given: string | Uint8Array): StringOrBytes => (typeof given === "string" ? given : { bytes: given })
const toText = (value: StringOrBytes): string => (typeof value === "string" ? value : Base64.encode(value.bytes))
const toBytes = (value: StringOrBytes): Uint8Array => (typeof value === "string" ? encoder.encode(value) : value.bytes)

const keyValueFailure = (method: string, attempted: string, key?: string) =>
  Effect.mapError(
    (cause: Error) =>
      new KeyValueStore.KeyValueStoreError({
        method,
        ...(key === undefined ? {} : { key }),
        message: `Unable to ${attempted}${key === undefined ? "" : ` ${key}`}: ${cause.message}`,
        cause
      })
  )

/**
 * A `KeyValueStore` in an owner's records: all those whose id starts with `!kv/`.
 *
 * An id goes on with the key itself, so that records are found in the engine's console: `!kv/theme`. A key that no id can
 * hold is kept as well, its id being `#` and the SHA-256 of it, and the key in the data: one that is empty, has a lone
 * surrogate or U+0000, takes over 508 bytes of UTF-8, or starts with `#`. A string is kept as a string and bytes as
 * base64, and each is read as the other the way `KeyValueStore.layerMemory` does it.
 *
 * `modify` is a compare-and-set, retried on a conflict; its function may run several times. Modifies of one key from one
 * process take turns. `KeyValueStore.toSchemaStore` has a `modify` of its own that gets and then sets: `VersionedStore`
 * is what changes typed values atomically.
 *
 * `get`, `set`, `remove`, `has` and `isEmpty` take one request, and `modify` two without a conflict. `size` and `keys`
 * take one for each 100 records; `clear` and `clearPrefix` one more for each record removed, and are no atomic step.
 *
 * What fails is a `KeyValueStoreError` whose `cause` is the error of the storage: `Backend`, `CapacityExceeded` for a
 * value that is too large, `VersionConflict` for a `modify` whose schedule is spent, or a `SchemaError` for a record that
 * does not belong to this store. An invalid owner is `InvalidKey` when the Layer is built.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Bridge, InMemory } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 * import { KeyValueStore } from "effect/persistence"
 *
 * const program = Effect.gen(function* () {
 *   const store = yield* KeyValueStore.KeyValueStore
 *   yield* store.set("visits", "41")
 *   return yield* store.modify("visits", (n) => String(Number(n) + 1))
 * })
 *
 * const layer = Bridge.layerKeyValueStore({ owner: "alice" }).pipe(Layer.provide(InMemory.layer))
 * assert.strictEqual(Effect.runSync(program.pipe(Effect.provide(layer))), "42")
 * ```
 */
export const layerKeyValueStore = ({
  owner,
  retrySchedule = untilItLands
}: KeyValueStoreOptions): Layer.Layer<KeyValueStore.KeyValueStore, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    KeyValueStore.KeyValueStore,
    Effect.gen(function* () {
      yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix: keyValuePrefix }))
      const entries = yield* makeEntries({ owner, retrySchedule }, keyValuePrefix, StringOrBytes)
      const locks = yield* RcMap.make({ lookup: (_: string) => Semaphore.make(1) })

      const get = <A>(method: string, key: string, view: (value: StringOrBytes) => A) =>
        entries.get(key).pipe(Effect.map(UndefinedOr.map(view)), keyValueFailure(method, "get item with key", key))

      /** One at a time from this process: more would only be each other's conflicts. */
      const modify = <A extends string | Uint8Array>(
        method: string,
        key: string,
        view: (value: StringOrBytes) => A,
        f: (value: A) => A
      ) =>
        RcMap.get(locks, key).pipe(
          Effect.flatMap((lock) => lock.withPermit(entries.modify(key, (value) => toValue(f(view(value)))))),
          Effect.scoped,
          Effect.map(UndefinedOr.map(view)),
          keyValueFailure(method, "modify item with key", key)
        )

      return KeyValueStore.make({
        get: (key) => get("get", key, toText),
        getUint8Array: (key) => get("getUint8Array", key, toBytes),
        set: (key, value) => entries.set(key, toValue(value)).pipe(keyValueFailure("set", "set item with key", key)),
        remove: (key) => entries.remove(key).pipe(keyValueFailure("remove", "remove item with key", key)),
        clear: entries.clear.pipe(keyValueFailure("clear", "clear storage")),
        clearPrefix: (prefix) =>
          entries.clearPrefix(prefix).pipe(keyValueFailure("clearPrefix", "clear items with prefix", prefix)),
        size: entries.size.pipe(keyValueFailure("size", "get size")),
        keys: entries.keys.pipe(keyValueFailure("keys", "get keys")),
        isEmpty: entries.isEmpty.pipe(keyValueFailure("isEmpty", "get size")),
        modify: (key, f) => modify("modify", key, toText, f),
        modifyUint8Array: (key, f) => modify("modifyUint8Array", key, toBytes, f)
      })
    })
  ).pipe(Layer.provide(Digest.layerWebCrypto))

// -----------------------------------------------------------------------------
// BackingPersistence
// -----------------------------------------------------------------------------

const expiryOf = (clock: Clock.Clock, ttl: Duration.Duration | undefined): DateTime.Utc | undefined => {
  const at = Persistence.unsafeTtlToExpires(clock, ttl)
  return at === null ? undefined : DateTime.makeUnsafe(Math.min(Math.max(Math.ceil(at), 0), lastMillisecond))
}

const persistenceFailure = (attempted: string) =>
  Effect.mapError(
    (cause: Error) => new Persistence.PersistenceError({ message: `Failed to ${attempted}: ${cause.message}`, cause })
  )

const makeBackingStore = Effect.fnUntraced(function* (owner: string, storeId: string) {
  // With its colons escaped and one at its end, no store's name starts with another's. Hashes of keys must fit behind it.
  const name = StorageKey.formatText(storeId, "")
  const fits = isPlain(`${persistencePrefix}${"#".repeat(hashLength)}`, name)
  // Values are what `JSON.stringify` takes, as in Effect's own Layers that keep JSON.
  const entries = yield* makeEntries<object>(
    { owner },
    `${persistencePrefix}${fits ? name : yield* hash(name)}`,
    Schema.Any
  )

  const getFailure = (key: string) => persistenceFailure(`get key ${key} from backing store`)

  const set = (key: string, value: object, ttl: Duration.Duration | undefined) =>
    Effect.clockWith((clock) => entries.set(key, value, expiryOf(clock, ttl))).pipe(
      persistenceFailure(`set key ${key} in backing store`)
    )

  return {
    get: (key) => entries.get(key).pipe(getFailure(key)),
    getMany: (keys) =>
      Effect.forEach(
        keys,
        (key) =>
          entries.get(key).pipe(
            Effect.catchTag("SchemaError", () => Effect.undefined),
            getFailure(key)
          ),
        { concurrency }
      ),
    set,
    // Of several entries for one key, the last one stays.
    setMany: (many) =>
      Effect.forEach(new Map(many.map((entry) => [entry[0], entry])).values(), (entry) => set(...entry), {
        concurrency,
        discard: true
      }),
    remove: (key) => entries.remove(key).pipe(persistenceFailure(`remove key ${key} from backing store`)),
    clear: entries.clear.pipe(persistenceFailure("clear backing store"))
  } satisfies Persistence.BackingPersistenceStore
})

/**
 * A `BackingPersistence` in an owner's records, for `Persistence.layer` and all that stands on it. The records of a store
 * are those whose id starts with `!persistence/`, the store's id, in which `%` and `:` are percent-encoded, and `:`. What
 * follows is the key, as in {@link layerKeyValueStore}; a store's id that does not fit is hashed in the same way.
 *
 * A time to live is kept to the millisecond, and ends by Effect's `Clock`. The engine collects the record from the next
 * whole second on: some by themselves, others by `StorageBackend.layerCleanup`.
 *
 * `get`, `set` and `remove` take one request. `getMany` and `setMany` take one for each entry, 16 at a time, and are no
 * atomic step; nor is `clear`, which takes one for each entry and one for each 100.
 *
 * What fails is a `PersistenceError` whose `cause` is the error of the storage: `Backend`, `CapacityExceeded` for a value
 * that is too large, or a `SchemaError` for a record that does not belong to this store or a value that is no JSON. `getMany`
 * leaves out such a record, as Effect's own Layers do. An invalid owner is `InvalidKey` when the Layer is built.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Bridge, InMemory } from "effect-versioned-store"
 * import { Effect, Layer, Schema } from "effect"
 * import { Persistable, PersistedCache, Persistence } from "effect/persistence"
 *
 * class GetName extends Persistable.Class<{ payload: { id: number } }>()("GetName", {
 *   primaryKey: ({ id }) => String(id),
 *   success: Schema.String
 * }) {}
 *
 * let lookups = 0
 * const ask = Effect.gen(function* () {
 *   const names = yield* PersistedCache.make(({ id }: GetName) => Effect.sync(() => `name ${id} of ${++lookups}`), {
 *     storeId: "names",
 *     timeToLive: () => "1 hour"
 *   })
 *   return yield* names.get(new GetName({ id: 1 }))
 * }).pipe(Effect.scoped)
 *
 * const layer = Persistence.layer.pipe(
 *   Layer.provide(Bridge.layerBackingPersistence({ owner: "alice" })),
 *   Layer.provide(InMemory.layer)
 * )
 * // Two caches, as of two processes: the second finds what the first has looked up.
 * const answers = Effect.runSync(Effect.all([ask, ask]).pipe(Effect.provide(layer)))
 * assert.deepStrictEqual(answers, ["name 1 of 1", "name 1 of 1"])
 * ```
 */
export const layerBackingPersistence = ({
  owner
}: Options): Layer.Layer<Persistence.BackingPersistence, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    Persistence.BackingPersistence,
    Effect.gen(function* () {
      yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix: persistencePrefix }))
      const context = yield* Effect.context<StorageBackend | Digest.Digest>()
      return Persistence.BackingPersistence.of({
        // The owner and every prefix are good.
        make: (storeId) => Effect.orDie(Effect.provideContext(makeBackingStore(owner, storeId), context))
      })
    })
  ).pipe(Layer.provide(Digest.layerWebCrypto))
