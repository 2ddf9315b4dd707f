/** Processes on one storage, each of which is a Layer with a backend of its own. */
import { Context, Effect, Exit, Layer, Scope } from "effect"
import type { WorkflowEngine } from "effect/workflow"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"
import * as StorageWorkflowEngine from "../../src/workflow/StorageWorkflowEngine.ts"
import { newOwner } from "../support/persistence.ts"

export type Backend = StorageBackend["Service"]
type Options = Partial<StorageWorkflowEngine.Options>

/** Times that no test lives to see, so that nothing that happens is due to them. */
const patient: Options = { leaseTtl: "5 minutes", pollInterval: "2 minutes" }

/** A storage in memory, and processes on it. */
export const makeStorage = Effect.gen(function* () {
  const backend = Context.get(yield* Layer.build(InMemory.layer), StorageBackend)
  const owner = newOwner()
  const scope = yield* Effect.scope
  return {
    owner,

    /** A process that lives until `close`, or until the test ends. */
    process: (options: Options = patient, change: (backend: Backend) => Backend = (backend) => ({ ...backend })) =>
      Effect.gen(function* () {
        const own = yield* Scope.fork(scope)
        const layer = StorageWorkflowEngine.layer({ owner, ...options }).pipe(
          Layer.provide(Layer.succeed(StorageBackend, change(backend)))
        )
        const context = yield* Layer.buildWithScope(Layer.fresh(layer), own)
        return {
          run: <A, E>(effect: Effect.Effect<A, E, WorkflowEngine.WorkflowEngine | Scope.Scope>) =>
            effect.pipe(Effect.provideContext(context), Effect.provideService(Scope.Scope, own)),
          close: Scope.close(own, Exit.void)
        }
      }),

    /** The records of an owner below the engine's. */
    records: (below: string) =>
      Effect.map(
        backend.listByPrefix(StoragePrefix.makeUnsafe({ owner: `${owner}/${below}`, idPrefix: "" }), { limit: 1000 }),
        ({ records }) => records
      )
  }
})
