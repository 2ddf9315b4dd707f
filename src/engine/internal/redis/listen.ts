import * as Effect from "effect/Effect"
import type * as Redis from "effect/persistence/Redis"
import * as Queue from "effect/Queue"

/** What is done while a channel is heard. */
export interface Listener {
  /** Called once the channel is heard, and again after each gap, such as a lost connection. */
  readonly onHeard: () => void
  readonly onMessage: (message: string) => void
}

export interface Channel {
  readonly name: string
  /** Whether it is a channel of one shard of a Redis Cluster (`SSUBSCRIBE`, from Redis 7.0 on). */
  readonly isSharded: boolean
}

/** Hears a channel until it is interrupted. Fails if it can't hear it. */
export type Listen = (channel: Channel, listener: Listener) => Effect.Effect<never, Redis.RedisError>

type Service = Redis.Redis["Service"]

const listens = new WeakMap<Service, Listen>()

/** Says how a service hears channels. `RedisClient` hears them all on one connection, and tells of gaps. */
export const registerListen = (redis: Service, listen: Listen): Service => {
  listens.set(redis, listen)
  return redis
}

/** Hears a channel by the `subscribe` of any other service, which tells of no gaps and knows no channels of shards. */
const listenBySubscribe =
  (redis: Service): Listen =>
  ({ isSharded, name }, { onHeard, onMessage }) =>
    isSharded
      ? Effect.never
      : Effect.scoped(
          Effect.gen(function* () {
            const messages = yield* redis.subscribe(name)
            // If the service could not subscribe, only its queue has failed. `onHeard` stands for all messages so far.
            yield* Queue.clear(messages)
            onHeard()
            return yield* Effect.forever(Effect.map(Queue.take(messages), ({ message }) => onMessage(message)))
          })
        )

export const listenOf = (redis: Service): Listen => listens.get(redis) ?? listenBySubscribe(redis)
