import type * as Effect from "effect/Effect"
import type * as Redis from "effect/persistence/Redis"
import type { Backend } from "../../../StorageError.ts"

/** How long a command may wait for its answer, and the failure of one that has waited for longer. */
export interface Timeout {
  readonly millis: number
  readonly failure: Effect.Effect<never, Backend>
}

type Service = Redis.Redis["Service"]

/** `send` and `eval` of Effect's Redis service, except that each command has a time-out. */
export interface Timed {
  readonly send: <A>(...command: ReadonlyArray<string>) => Effect.Effect<A, Redis.RedisError | Backend>
  readonly eval: <Config extends { readonly params: ReadonlyArray<unknown>; readonly result: unknown }>(
    script: Redis.Script<Config>
  ) => (...params: Config["params"]) => Effect.Effect<Config["result"], Redis.RedisError | Backend>
}

const makers = new WeakMap<Service, (timeout: Timeout) => Timed>()

/**
 * Says how commands with a time-out are sent by a service. `RedisClient` does so for its own services, which give up a
 * command by themselves. A command of any other service needs a fiber that can be interrupted.
 *
 * The service itself is the key. A copy of it, in which `send` may be another function, is any other service.
 */
export const registerTimed = (redis: Service, make: (timeout: Timeout) => Timed): Service => {
  makers.set(redis, make)
  return redis
}

/** The commands of a service with a time-out, if the service is one that `registerTimed` knows. */
export const timedOf = (redis: Service, timeout: Timeout): Timed | undefined => makers.get(redis)?.(timeout)
