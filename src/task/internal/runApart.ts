import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"

/**
 * Makes a function that runs an Effect in a fiber of the current scope, and waits for its result. If the caller is
 * interrupted, it interrupts that fiber but does not wait for it. So a timeout of the caller ends in time even if the
 * storage hangs, and the fiber still puts in order what it has begun. Closing the scope interrupts such fibers and
 * waits for them. Once the scope is closed, new fibers belong to no scope.
 *
 * The fiber starts at once, so that `Effect.runSync` works if the Effect does not wait.
 */
export const make = Effect.map(
  Effect.scope,
  (scope) =>
    <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(
          scope.state._tag === "Closed"
            ? Effect.forkDetach(effect, { startImmediately: true })
            : Effect.forkIn(effect, scope, { startImmediately: true }),
          (fiber) =>
            Effect.onInterrupt(restore(Fiber.join(fiber)), () =>
              Effect.withFiber((caller) => Effect.sync(() => fiber.interruptUnsafe(caller.id)))
            )
        )
      )
)

export type RunApart = Effect.Success<typeof make>
