import { Context, Effect, Layer } from "effect"
import * as InMemory from "../../src/backend/InMemory.ts"
import { make, type Primitives, StorageBackend, type StoredRecord } from "../../src/StorageBackend.ts"
import type { StorageKey } from "../../src/StorageKey.ts"

/** Puts a record into the store beside the service, as another client of an engine would. */
export class Plant extends Context.Service<Plant, (key: StorageKey, record: StoredRecord) => void>()("test/Plant") {}

export const plant = (key: StorageKey, record: StoredRecord) => Effect.map(Plant, (plant) => plant(key, record))

/** The in-memory backend with `Plant`, and with its primitives or the service changed. */
export const layerPlantable = (
  changePrimitives: (primitives: Primitives) => Partial<Primitives> = () => ({}),
  changeService: (backend: StorageBackend["Service"]) => Partial<StorageBackend["Service"]> = () => ({})
): Layer.Layer<StorageBackend | Plant> =>
  Layer.effectContext(
    Effect.sync(() => {
      const engine = InMemory.makeEngine()
      const backend = make({ ...engine.primitives, ...changePrimitives(engine.primitives) })
      return Context.make(StorageBackend, { ...backend, ...changeService(backend) }).pipe(
        Context.add(Plant, engine.plant)
      )
    })
  )
