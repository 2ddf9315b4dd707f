/**
 * Records in this process's memory, for tests and for state that may be lost when the process ends.
 *
 * A get takes O(1), a write O(log n), a page O(page) and a cleanup O(expired). A cleanup works in slices, between which
 * other fibers run. Expired records take memory until `cleanupExpired` runs. A store at its capacity drops expired
 * records before it refuses a write.
 */
import type * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Engine from "../Engine.ts"
import { makeFrom } from "../internal/config.ts"
import { StorageBackend } from "../StorageBackend.ts"
import { makeLocalEngine } from "./internal/inmemory/requests.ts"

/**
 * The bounds of a store.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The most records that the store holds; unbounded by default. */
  readonly maxRecords?: number | undefined
  /** The most bytes of UTF-8 that keys and data take together; unbounded by default. */
  readonly maxBytes?: number | undefined
  /** The most bytes of UTF-8 that one record's data may take; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
}

/**
 * A store without bounds, fresh for every build of the Layer.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })
 * const program = StorageBackend.StorageBackend.use((backend) => backend.put(key, "data"))
 * const record = Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(record.version, 1)
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<StorageBackend> = Layer.sync(StorageBackend)(() => makeStore({}))

/**
 * A store with bounds, fresh for every build of the Layer. If a write would go past a bound, it fails with
 * `CapacityExceeded`. A full store first drops expired records.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const backend = yield* StorageBackend.StorageBackend
 *   yield* backend.put(StorageKey.makeUnsafe({ owner: "alice", id: "1" }), "data")
 *   return yield* Effect.flip(backend.put(StorageKey.makeUnsafe({ owner: "alice", id: "2" }), "data"))
 * })
 * const error = Effect.runSync(program.pipe(Effect.provide(InMemory.layerWith({ maxRecords: 1 }))))
 * assert.strictEqual(error._tag, "CapacityExceeded")
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (options: Options): Layer.Layer<StorageBackend> =>
  Layer.sync(StorageBackend)(() => makeStore(options))

/**
 * A store with bounds from configuration, fresh for every build of the Layer.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import { Config } from "effect"
 *
 * export const Storage = InMemory.layerConfig({
 *   maxRecords: Config.withDefault(Config.Int("MAX_RECORDS"), 10_000)
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (options: Config.Wrap<Options>): Layer.Layer<StorageBackend, Config.ConfigError> =>
  Layer.effect(
    StorageBackend,
    makeFrom(options, (options) => Effect.sync(() => makeStore(options)))
  )

const makeStore = (options: Options) => Engine.makeLocal(makeLocalEngine(options).engine, options)
