/**
 * Hints at what other clients write. Each script that changes records publishes their ids, on a channel of their owner.
 */
import * as Effect from "effect/Effect"
import type { RedisError } from "effect/persistence/Redis"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { Engine } from "../../../Engine.ts"
import { failureOf } from "./failure.ts"
import { keysOf } from "./layout.ts"
import type { Listen } from "./listen.ts"
import { idSeparator, type Publish } from "./scripts.ts"

/** By what `INFO` says. Clusters before Redis 7.0 do not know `SPUBLISH`, and elsewhere it has no use. */
export const publishBy = (info: string): Publish => {
  const [, major] = /redis_version:(\d+)/.exec(info) ?? []
  return /redis_mode:cluster/.test(info) && Number(major) >= 7 ? "SPUBLISH" : "PUBLISH"
}

export const makeHints =
  (listen: Listen, keyPrefix: string, publish: Publish): NonNullable<Engine["hints"]> =>
  (owner) =>
    Stream.callback<string | undefined>((queue) => {
      let isWarned = false
      const listener = {
        onHeard: () => {
          isWarned = false
          Queue.offerUnsafe(queue, undefined)
        },
        onMessage: (ids: string) => {
          for (const id of ids.split(idSeparator)) Queue.offerUnsafe(queue, id)
        }
      }
      const warn = (error: RedisError) =>
        Effect.suspend(() => {
          if (isWarned) return Effect.void
          isWarned = true
          return Effect.logWarning(
            `Watches see what other processes change only when they next read, since Redis does not let them ` +
              `subscribe to its channels: ${failureOf(error).reason.description}`
          )
        })
      return listen({ name: keysOf(keyPrefix, owner).index, isSharded: publish === "SPUBLISH" }, listener).pipe(
        Effect.tapError(warn),
        Effect.retry(Schedule.spaced("1 second")),
        // The schedule has no end.
        Effect.orDie
      )
    })
