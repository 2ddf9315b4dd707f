import { Context, Effect, Layer, Schedule } from "effect"
import { type Engine, make, makeLocal, type StoredRecord } from "../../src/Engine.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { StorageKey } from "../../src/StorageKey.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { makeEngine } from "./memoryEngine.ts"

type Backend = StorageBackend["Service"]

/** What a test can do with the store beside the service. */
export class Plantable extends Context.Service<
  Plantable,
  {
    /** Puts a record into the store, as another client of an engine would. */
    readonly plant: (key: StorageKey, record: StoredRecord) => void
    /** A client of the store that loses the answers to some writes. */
    readonly lossy: (isLost: () => boolean) => Backend
  }
>()("test/Plantable") {}

export const plant = (key: StorageKey, record: StoredRecord) => Effect.map(Plantable, ({ plant }) => plant(key, record))

export const lossy = (isLost: () => boolean) => Effect.map(Plantable, ({ lossy }) => lossy(isLost))

/**
 * The in-memory backend with `Plantable`, and with its engine or the service changed, in a store of its own by default.
 */
export const layerPlantable = (
  changeEngine?: (engine: Engine) => Partial<Engine>,
  changeService: (backend: Backend) => Partial<Backend> = () => ({}),
  makeStore: () => ReturnType<typeof makeEngine> = makeEngine
): Layer.Layer<StorageBackend | Plantable> =>
  Layer.effectContext(
    Effect.sync(() => {
      const { engine: memory, local, plant } = makeStore()
      const engine = { ...memory, ...changeEngine?.(memory) }
      const serve = (backend: Backend) => ({ ...backend, ...changeService(backend) })
      const lossy = (isLost: () => boolean) => {
        const isWrite = (name: keyof Engine) => ["put", "swap", "remove", "commit"].includes(name)
        const faults = Faults.engine(engine, ({ name }) => (isWrite(name) && isLost() ? "lose" : "pass"))
        return serve(make(faults.engine, { retrySchedule: Schedule.recurs(20) }))
      }
      const backend = changeEngine === undefined ? makeLocal(local) : make(engine)
      return Context.make(StorageBackend, serve(backend)).pipe(Context.add(Plantable, { plant, lossy }))
    })
  )
