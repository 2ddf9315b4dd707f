/**
 * Effect's `BackingPersistence` on any backend, for a single owner. `Persistence`, `PersistedCache` and persisted chats
 * run on it unchanged, and share their values with other processes and machines.
 */
import * as Arr from "effect/Array"
import type * as Clock from "effect/Clock"
import * as Digest from "effect/crypto/Digest"
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Persistence from "effect/persistence/Persistence"
import * as Schema from "effect/Schema"
import { lastMillisecond } from "../internal/time.ts"
import type { StorageBackend } from "../StorageBackend.ts"
import * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import { concurrency, hash, hashLength, isPlain, makeEntries } from "./internal/entries.ts"

/**
 * The owner of the stores' records.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The owner of the records. The owner may have tasks and other records as well. */
  readonly owner: string
}

/** Ids of tasks do not start with `!`, so the owner may have tasks as well. */
const persistencePrefix = "!persistence/"

const expiryOf = (clock: Clock.Clock, ttl: Duration.Duration | undefined): DateTime.Utc | undefined => {
  const millis = Persistence.unsafeTtlToExpires(clock, ttl)
  return millis === null ? undefined : DateTime.makeUnsafe(Math.min(Math.max(Math.ceil(millis), 0), lastMillisecond))
}

const toPersistenceError = (action: string) =>
  Effect.mapError(
    (cause: Error) => new Persistence.PersistenceError({ message: `Failed to ${action}: ${cause.message}`, cause })
  )

const makeBackingStore = Effect.fnUntraced(function* (owner: string, storeId: string) {
  // The colons of a store's id are escaped, and one colon is added at the end. So no name starts with another name. The
  // hash of a key must fit behind the name.
  const name = StorageKey.formatText(storeId, "")
  const fits = isPlain(`${persistencePrefix}${"#".repeat(hashLength)}`, name)
  // A value may be anything that `JSON.stringify` accepts, as in Effect's own Layers that store JSON.
  const entries = yield* makeEntries<object>(
    { owner },
    `${persistencePrefix}${fits ? name : yield* hash(name)}`,
    Schema.Any
  )

  const getFailure = (key: string) => toPersistenceError(`get key ${key} from backing store`)

  const set = (key: string, value: object, ttl: Duration.Duration | undefined) =>
    Effect.clockWith((clock) => entries.set(key, value, expiryOf(clock, ttl))).pipe(
      toPersistenceError(`set key ${key} in backing store`)
    )

  return {
    get: (key) => entries.get(key).pipe(getFailure(key)),
    getMany: (keys) =>
      Effect.map(entries.getMany(keys), (values) => Arr.map(keys, (_, i) => values[i])).pipe(
        toPersistenceError("getMany from backing store")
      ),
    set,
    // If several entries have the same key, the last one counts. A commit would have to read the entries first, would
    // fail if another writer came in between, and costs twice the units on DynamoDB.
    setMany: (many) =>
      Effect.forEach(new Map(many.map((entry) => [entry[0], entry])).values(), (entry) => set(...entry), {
        concurrency,
        discard: true
      }),
    remove: (key) => entries.remove(key).pipe(toPersistenceError(`remove key ${key} from backing store`)),
    clear: entries.clear.pipe(toPersistenceError("clear backing store"))
  } satisfies Persistence.BackingPersistenceStore
})

/**
 * A `BackingPersistence` in an owner's records, for `Persistence.layer` and the services that stand on it. The records
 * of a store are those whose ids start with `!persistence/`, the store's id with `%` and `:` percent-encoded, and `:`.
 * The rest of an id is the key, as in `StorageKeyValueStore`. A store's id that does not fit is hashed in the same way.
 *
 * A time to live is exact to the millisecond by Effect's `Clock`. From the next whole second on, the engine may remove
 * the record. Some engines remove expired records themselves, and others need `StorageBackend.layerCleanup`.
 *
 * `get`, `set` and `remove` take one request. `getMany` takes one for each 100 entries. `setMany` takes one for each
 * entry, 50 at a time, and `clear` one for each entry and one for each 100. None of the three is atomic.
 *
 * Operations fail with `PersistenceError`, whose `cause` is the error of the storage: `Backend`; `CapacityExceeded` if
 * a value is too large; `SchemaError` if a record does not belong to this store, or a value is not JSON. `getMany`
 * leaves out such a record, as Effect's own Layers do. If the owner is invalid, building the Layer fails with
 * `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StoragePersistence } from "effect-versioned-store"
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
 *   Layer.provide(StoragePersistence.layer({ owner: "alice" })),
 *   Layer.provide(InMemory.layer)
 * )
 * // Two caches, as in two processes. The second one finds the answer of the first one.
 * const answers = Effect.runSync(Effect.all([ask, ask]).pipe(Effect.provide(layer)))
 * assert.deepStrictEqual(answers, ["name 1 of 1", "name 1 of 1"])
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ({
  owner
}: Options): Layer.Layer<Persistence.BackingPersistence, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    Persistence.BackingPersistence,
    Effect.gen(function* () {
      yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix: persistencePrefix }))
      const context = yield* Effect.context<StorageBackend | Digest.Digest>()
      return Persistence.BackingPersistence.of({
        // The owner was checked above, and every prefix fits, so the keys are valid.
        make: (storeId) => Effect.orDie(Effect.provideContext(makeBackingStore(owner, storeId), context))
      })
    })
  ).pipe(Layer.provide(Digest.layerWebCrypto))
