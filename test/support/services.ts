import { Effect, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import type { StorageBackend } from "../../src/StorageBackend.ts"
import { endpoint, layerTable, newTableName } from "./dynamoDb.ts"
import { layerKeys, newKeyPrefix, url } from "./redis.ts"
import { newFiles } from "./sqlite.ts"

/** The storage of each engine, on a table, a file or keys of its own. It is undefined if the engine is missing. */
export const engines = (): Record<string, Layer.Layer<StorageBackend, unknown> | undefined> => ({
  InMemory: InMemory.layer,
  Sqlite: Sqlite.layer({ filename: newFiles()() }),
  DynamoDb: endpoint === undefined ? undefined : layerTable({ tableName: newTableName() }),
  Redis: url === undefined ? undefined : layerKeys({ keyPrefix: newKeyPrefix() })
})

export const orEmpty = <A>(layer: Layer.Layer<A, unknown> | undefined): Layer.Layer<A, unknown> =>
  layer ?? (Layer.empty as never)

/** Builds a Layer at the time of the engines, which remove what has expired by their own clocks. */
export const atRealTime = <A>(layer: Layer.Layer<A, unknown>) =>
  TestClock.withLive(Effect.clockWith((clock) => clock.currentTimeMillis)).pipe(
    Effect.flatMap((millis) => TestClock.setTime(Math.ceil(millis / 1000) * 1000 + 60_000)),
    Effect.as(layer),
    Layer.unwrap
  )
