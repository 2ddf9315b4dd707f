import { Context, Effect, Layer } from "effect"
import { type Engine, make, type StoredRecord } from "../../src/Engine.ts"
import { makeEngine } from "../../src/engine/internal/inmemory/requests.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { StorageKey } from "../../src/StorageKey.ts"

/** Stores a record without the service, as another client of an engine would. */
export class Plant extends Context.Service<Plant, (key: StorageKey, record: StoredRecord) => void>()("test/Plant") {}

export const plant = (key: StorageKey, record: StoredRecord) => Effect.map(Plant, (plant) => plant(key, record))

/** The backend in memory with `Plant`, and with changes to its engine or its service. */
export const layerPlantable = (
  changeEngine: (engine: Engine) => Partial<Engine> = () => ({}),
  changeService: (backend: StorageBackend["Service"]) => Partial<StorageBackend["Service"]> = () => ({})
): Layer.Layer<StorageBackend | Plant> =>
  Layer.effectContext(
    Effect.sync(() => {
      const engine = makeEngine()
      const backend = make({ ...engine.engine, ...changeEngine(engine.engine) })
      return Context.make(StorageBackend, { ...backend, ...changeService(backend) }).pipe(
        Context.add(Plant, engine.plant)
      )
    })
  )
