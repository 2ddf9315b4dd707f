import type { Engine } from "../../src/Engine.ts"
import { type Bounds, makeLocalEngine } from "../../src/engine/internal/inmemory/requests.ts"

/** The engine in memory as an engine whose Clock is read for it, and a way to store a record of any version. */
export const makeEngine = (bounds?: Bounds) => {
  const { engine: local, plant } = makeLocalEngine(bounds)
  const engine: Engine = {
    ...local,
    put: (key, write, nowSeconds) => local.put(key, write, { seconds: nowSeconds }),
    swap: (key, write, expectation, nowSeconds) => local.swap(key, write, expectation, { seconds: nowSeconds }),
    remove: (key, expectation, nowSeconds) => local.remove(key, expectation, { seconds: nowSeconds }),
    commit: (commit, nowSeconds) => local.commit(commit, { seconds: nowSeconds }),
    list: (prefix, range, nowSeconds) => local.list(prefix, range, { seconds: nowSeconds }),
    cleanup: (nowSeconds) => local.cleanup({ seconds: nowSeconds })
  }
  return { engine, local, plant }
}
