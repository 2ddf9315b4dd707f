/** Hears channels with node-redis. */
import * as Effect from "effect/Effect"
import type * as Redis from "effect/persistence/Redis"
import type * as Scope from "effect/Scope"
import type { Listen, Listener } from "../../engine/internal/redis/listen.ts"

type Change = (channel: string, listener: (message: string | Buffer) => void) => Promise<void>

/** A client for a server or a cluster, and who hears channels by it. */
export interface Subscriber {
  readonly client: Readonly<Record<"subscribe" | "unsubscribe" | "sSubscribe" | "sUnsubscribe", Change>>
  /** Whoever makes the subscriber tells these after each gap. */
  readonly listeners: Set<Listener>
}

export const tellGap = (listeners: Iterable<Listener>): void => {
  for (const { onHeard } of listeners) onHeard()
}

/** `attempt` runs what the client does. */
export const makeListen =
  (
    subscriber: Effect.Effect<Subscriber, Redis.RedisError, Scope.Scope>,
    attempt: <A>(f: () => Promise<A>) => Effect.Effect<A, Redis.RedisError>
  ): Listen =>
  ({ isSharded, name }, listener) =>
    Effect.scoped(
      Effect.gen(function* () {
        const { client, listeners } = yield* subscriber
        const onMessage = (message: string | Buffer) => listener.onMessage(String(message))
        // Nobody waits for the server to confirm it, which may be gone.
        const leave = Effect.sync(() => {
          listeners.delete(listener)
          const left = isSharded ? client.sUnsubscribe(name, onMessage) : client.unsubscribe(name, onMessage)
          left.catch(() => {})
        })
        yield* Effect.addFinalizer(() => leave)
        yield* attempt(() => (isSharded ? client.sSubscribe(name, onMessage) : client.subscribe(name, onMessage)))
        listeners.add(listener)
        listener.onHeard()
        return yield* Effect.never
      })
    )
