import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"

/** One effect at a time for each name. */
export const makeLocks = () => {
  const locks = new Map<string, { readonly semaphore: Semaphore.Semaphore; users: number }>()
  return <A, E, R>(name: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      const lock = locks.get(name) ?? { semaphore: Semaphore.makeUnsafe(1), users: 0 }
      locks.set(name, lock)
      lock.users++
      return Effect.ensuring(
        Semaphore.withPermit(lock.semaphore, effect),
        Effect.sync(() => {
          if (--lock.users === 0) locks.delete(name)
        })
      )
    })
}
