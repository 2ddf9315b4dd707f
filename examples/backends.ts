import { InMemory } from "effect-versioned-store"

/** The backends that the examples can run on, by the name that `--backend` takes. */
export const backends = {
  memory: InMemory.layer
}

export type BackendName = keyof typeof backends

export const backendNames = Object.keys(backends) as ReadonlyArray<BackendName>
