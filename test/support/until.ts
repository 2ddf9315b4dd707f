import { setTimeout } from "node:timers/promises"
import { Effect } from "effect"

/**
 * Waits until a condition holds that something outside of this fiber brings about: a proxy that counts, a server that
 * closes a connection. It looks every millisecond of real time, whatever clock the test has. If the condition never
 * holds, the test's own time-out ends it.
 */
export const until = (condition: () => boolean): Effect.Effect<void> =>
  Effect.promise(async (signal) => {
    while (!condition()) await setTimeout(1, undefined, { signal })
  })
