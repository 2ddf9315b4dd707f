/** Effect's `WorkflowEngine`, put together. */
import type * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Scope from "effect/Scope"
import * as WorkflowEngine from "effect/workflow/WorkflowEngine"
import { StorageBackend } from "../../StorageBackend.ts"
import { type Looks, makeAgenda, makeLooks } from "./agenda.ts"
import type { Registered } from "./execution.ts"
import { type Finishing, makeFinishing } from "./finishing.ts"
import { makeInterrupting } from "./interrupting.ts"
import { makeLeaving } from "./leaving.ts"
import { makeLocks } from "./locks.ts"
import { makeNames } from "./names.ts"
import { makeRecords, untilAnswered } from "./records.ts"
import { makeRemoving } from "./removing.ts"
import { makeRunning } from "./running.ts"
import type { Shared } from "./shared.ts"
import { makeStarting } from "./starting.ts"
import { makeSteps } from "./steps.ts"
import { makeTaking, type Taker } from "./taking.ts"
import { makeWakes } from "./wakes.ts"
import { makeWorker, type Worker } from "./worker.ts"

export interface Options {
  readonly owner: string
  readonly backend: StorageBackend["Service"]
  readonly clock: Clock.Clock
  readonly concurrency: number
  readonly leaseMillis: number
  readonly pollMillis: number
  readonly retentionMillis: number
}

export const makeEngine = Effect.fnUntraced(function* (options: Options) {
  const { backend, clock, concurrency, leaseMillis, pollMillis, retentionMillis } = options
  const names = makeNames(options.owner)
  const scope = yield* Scope.make()
  const context = yield* Effect.context<never>()
  const fibers = yield* Effect.provideService(FiberSet.make(), Scope.Scope, scope)
  const run = <A, E>(effect: Effect.Effect<A, E>) => {
    const fiber = Effect.runForkWith(context)(effect)
    FiberSet.addUnsafe(fibers, fiber)
    return fiber
  }

  const worker: Worker = yield* makeWorker(names, {
    leaseMillis,
    recover: (executionId, dead) => finishing.recover(executionId, dead),
    whileHeld: Effect.suspend(() => whileHeld),
    onLost: Effect.suspend(() => leaving.stop("Lost"))
  }).pipe(Effect.provideService(StorageBackend, backend))

  const shared: Shared = {
    backend,
    names,
    records: makeRecords(backend, names),
    agenda: makeAgenda(backend, names, clock, leaseMillis),
    worker,
    clock,
    leaseMillis,
    retentionMillis,
    registered: new Map(),
    executions: new Map(),
    lock: makeLocks(),
    deferredState: WorkflowEngine.makeDeferredState(),
    fork: run,
    apart: (effect) => Effect.suspend(() => Fiber.join(run(effect))),
    lookBy: (entry, atMillis) => looks.by(entry, atMillis),
    untilAnswered
  }
  const leaving = makeLeaving(shared)
  const taker: Taker = makeTaking(shared, leaving, (execution) =>
    Effect.ensuring(
      running.drive(execution),
      Effect.sync(() => {
        if (wakes.hasRoomAgain()) looks.now()
      })
    )
  )
  const finishing: Finishing = makeFinishing(shared, leaving, taker)
  const running = makeRunning(shared, leaving, finishing, () => engine)
  const wakes = makeWakes(shared, taker, makeRemoving(shared), concurrency)
  const looks: Looks = yield* makeLooks(backend, names, {
    ...wakes,
    pollMillis,
    longestMillis: leaseMillis
  })
  const whileHeld: Effect.Effect<void> = Effect.all(
    [looks.run, Effect.forever(Effect.delay(leaving.forgetIdle, leaseMillis / 4))],
    { concurrency: "unbounded", discard: true }
  )

  // What runs here is handed to others first, while this worker still has its lease.
  const close = Effect.andThen(leaving.stop("Stopped"), FiberSet.awaitEmpty(fibers))
  yield* Effect.addFinalizer(() =>
    Effect.andThen(Effect.timeoutOption(close, leaseMillis), Scope.close(scope, Exit.void))
  )

  let works = false
  const work = Effect.suspend(() => {
    if (works) return Effect.sync(looks.now)
    works = true
    return Effect.asVoid(Effect.forkIn(worker.run, scope))
  })

  const engine: WorkflowEngine.WorkflowEngine["Service"] = WorkflowEngine.makeUnsafe({
    ...makeStarting(shared, taker, pollMillis),
    ...makeSteps(shared, taker, wakes),
    ...makeInterrupting(shared, taker, wakes),

    register: Effect.fnUntraced(function* (workflow, execute) {
      const of: Registered = { workflow, execute, services: yield* Effect.context<never>() }
      shared.registered.set(workflow._tag, of)
      yield* Effect.addFinalizer(() =>
        Effect.suspend(() => {
          if (shared.registered.get(workflow._tag) !== of) return Effect.void
          shared.registered.delete(workflow._tag)
          return Effect.asVoid(Effect.timeoutOption(leaving.stop("Stopped", workflow._tag), leaseMillis))
        })
      )
      yield* work
    })
  })
  return engine
})
