/**
 * Effect's `KeyValueStore` on any backend, for a single owner. Code that is written for that service runs on it
 * unchanged, and shares its values with other processes and machines.
 *
 * It behaves as `KeyValueStore.layerMemory` does, for any key, with values of up to 384 KiB as JSON. Bytes are stored
 * as base64, which is a third longer. `modify` is atomic among all clients.
 */
import * as Digest from "effect/crypto/Digest"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Layer from "effect/Layer"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as UndefinedOr from "effect/UndefinedOr"
import type { StorageBackend } from "../StorageBackend.ts"
import type { VersionConflict } from "../StorageError.ts"
import type * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import { makeEntries } from "./internal/entries.ts"

/**
 * The owner of the store's records, and how `modify` is retried.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The owner of the records. The owner may have tasks and other records as well. */
  readonly owner: string
  /**
   * How a `modify` is retried after a conflict. Without a schedule, it is retried for 30 seconds, and calls for one key
   * that run at the same time share writes.
   */
  readonly retrySchedule?: Schedule.Schedule<unknown, VersionConflict> | undefined
}

/** Ids of tasks do not start with `!`, so the owner may have tasks as well. */
const idPrefix = "!kv/"

const encoder = new TextEncoder()

const StringOrBytes = Schema.Union([Schema.String, Schema.Struct({ bytes: Schema.Uint8Array })])
type StringOrBytes = typeof StringOrBytes.Type

const toValue = (given: string | Uint8Array): StringOrBytes => (typeof given === "string" ? given : { bytes: given })
const toText = (value: StringOrBytes): string => (typeof value === "string" ? value : Base64.encode(value.bytes))
const toBytes = (value: StringOrBytes): Uint8Array => (typeof value === "string" ? encoder.encode(value) : value.bytes)

const toKeyValueStoreError = (method: string, action: string, key?: string) =>
  Effect.mapError(
    (cause: Error) =>
      new KeyValueStore.KeyValueStoreError({
        method,
        ...(key === undefined ? {} : { key }),
        message: `Unable to ${action}${key === undefined ? "" : ` ${key}`}: ${cause.message}`,
        cause
      })
  )

/**
 * A `KeyValueStore` in an owner's records: those whose ids start with `!kv/`.
 *
 * The rest of an id is the key itself, so records are easy to find in the engine's console: `!kv/theme`. A key that
 * can't be part of an id is stored as well: its id is `#` and the SHA-256 of the key, and the key stands in the data.
 * Such a key is empty, has a lone surrogate or U+0000, takes over 508 bytes of UTF-8, or starts with `#`. A string is
 * stored as a string and bytes as base64, and each is read as the other as `KeyValueStore.layerMemory` does it.
 *
 * `modify` is a compare-and-set, retried after a conflict, so its function may run several times. Calls of `modify` for
 * one key that run at the same time in one process share writes. `KeyValueStore.toSchemaStore` has a `modify` of its
 * own that gets and then sets, so it may lose updates. To change typed values atomically, use `VersionedStore`.
 *
 * `get`, `set`, `remove`, `has` and `isEmpty` take one request, and `modify` two without a conflict. `size` and `keys`
 * take one for each 100 records. `clear` and `clearPrefix` take one more for each record that they remove, and are not
 * atomic.
 *
 * Operations fail with `KeyValueStoreError`, whose `cause` is the error of the storage: `Backend`; `CapacityExceeded`
 * if a value is too large; `VersionConflict` if the schedule of a `modify` is spent; `SchemaError` if a record does not
 * belong to this store. If the owner is invalid, building the Layer fails with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageKeyValueStore } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 * import { KeyValueStore } from "effect/persistence"
 *
 * const program = Effect.gen(function* () {
 *   const store = yield* KeyValueStore.KeyValueStore
 *   yield* store.set("visits", "41")
 *   return yield* store.modify("visits", (n) => String(Number(n) + 1))
 * })
 *
 * const layer = StorageKeyValueStore.layer({ owner: "alice" }).pipe(Layer.provide(InMemory.layer))
 * assert.strictEqual(Effect.runSync(program.pipe(Effect.provide(layer))), "42")
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ({
  owner,
  retrySchedule
}: Options): Layer.Layer<KeyValueStore.KeyValueStore, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    KeyValueStore.KeyValueStore,
    Effect.gen(function* () {
      yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix }))
      const entries = yield* makeEntries({ owner, retrySchedule }, idPrefix, StringOrBytes)

      const get = <A>(method: string, key: string, view: (value: StringOrBytes) => A) =>
        entries.get(key).pipe(Effect.map(UndefinedOr.map(view)), toKeyValueStoreError(method, "get item with key", key))

      const modify = <A extends string | Uint8Array>(
        method: string,
        key: string,
        view: (value: StringOrBytes) => A,
        f: (value: A) => A
      ) =>
        entries
          .modify(key, (value) => toValue(f(view(value))))
          .pipe(Effect.map(UndefinedOr.map(view)), toKeyValueStoreError(method, "modify item with key", key))

      return KeyValueStore.make({
        get: (key) => get("get", key, toText),
        getUint8Array: (key) => get("getUint8Array", key, toBytes),
        set: (key, value) =>
          entries.set(key, toValue(value)).pipe(toKeyValueStoreError("set", "set item with key", key)),
        remove: (key) => entries.remove(key).pipe(toKeyValueStoreError("remove", "remove item with key", key)),
        clear: entries.clear.pipe(toKeyValueStoreError("clear", "clear storage")),
        clearPrefix: (prefix) =>
          entries.clearPrefix(prefix).pipe(toKeyValueStoreError("clearPrefix", "clear items with prefix", prefix)),
        size: entries.size.pipe(toKeyValueStoreError("size", "get size")),
        keys: entries.keys.pipe(toKeyValueStoreError("keys", "get keys")),
        isEmpty: entries.isEmpty.pipe(toKeyValueStoreError("isEmpty", "get size")),
        modify: (key, f) => modify("modify", key, toText, f),
        modifyUint8Array: (key, f) => modify("modifyUint8Array", key, toBytes, f)
      })
    })
  ).pipe(Layer.provide(Digest.layerWebCrypto))
