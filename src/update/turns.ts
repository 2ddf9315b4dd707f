import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"

interface Lane {
  readonly semaphore: Semaphore.Semaphore
  users: number
}

/**
 * Lets the fibers of this process take turns by key: of those that would only be each other's conflicts, one runs at a
 * time. Others wait in the order in which they came.
 */
export const make = () => {
  const lanes = new Map<string, Lane>()

  const enter = (key: string): Lane => {
    const lane = lanes.get(key) ?? { semaphore: Semaphore.makeUnsafe(1), users: 0 }
    lanes.set(key, lane)
    lane.users++
    return lane
  }

  const leave = (key: string, lane: Lane) => {
    if (--lane.users === 0) lanes.delete(key)
  }

  return (key: string) =>
    <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.acquireUseRelease(
        Effect.sync(() => enter(key)),
        ({ semaphore }) => semaphore.withPermit(effect),
        (lane) => Effect.sync(() => leave(key, lane))
      )
}
