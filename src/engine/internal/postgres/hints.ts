/**
 * Hints at what other clients write, by `LISTEN`. All owners share one channel and one connection, which is held only
 * while somebody watches a record.
 */

import { Buffer } from "node:buffer"
import type { PgClient } from "@effect/sql-pg"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Stream from "effect/Stream"
import type { SqlError } from "effect/sql/SqlError"
import type { Engine } from "../../../Engine.ts"
import { fnv1a } from "../../../internal/fnv1a.ts"
import { failureOf } from "./failure.ts"
import { bytesOf, type Layout, textOf } from "./layout.ts"

/** The channel of a table. Its name may have 63 bytes, and the table's with its schema may have more. */
export const channelOf = ({ name }: Layout): string => `effect_versioned_store_${fnv1a(bytesOf(name)).toString(16)}`

/** How many characters of a payload are the owner's hash. */
const hashLength = 64

const hashOf = (owner: string) =>
  Effect.map(
    Effect.promise(() => crypto.subtle.digest("SHA-256", bytesOf(owner) as Uint8Array<ArrayBuffer>)),
    (hash) => Buffer.from(hash).toString("hex")
  )

/** Is told the id of a record that may have changed, or undefined if any may have. */
type Listener = (id: string | undefined) => void

export const makeHints = (sql: PgClient.PgClient, layout: Layout): NonNullable<Engine["hints"]> => {
  const listeners = new Map<string, Set<Listener>>()
  let fiber: Fiber.Fiber<unknown, unknown> | undefined
  let [isHeard, isWarned] = [false, false]

  const onHeard = () => {
    ;[isHeard, isWarned] = [true, false]
    for (const ofOwner of listeners.values()) for (const listener of ofOwner) listener(undefined)
  }

  const onPayload = (payload: string) => {
    const id = textOf(Buffer.from(payload.slice(hashLength), "hex"))
    for (const listener of listeners.get(payload.slice(0, hashLength)) ?? []) listener(id)
  }

  const warn = (error: SqlError) =>
    Effect.suspend(() => {
      if (isWarned) return Effect.void
      isWarned = true
      return Effect.logWarning(
        "Watches see what other processes change only when they next read, since PostgreSQL does not let them listen: " +
          failureOf(error, layout.name).reason.description
      )
    })

  /** Hears the channel until it is interrupted, and again after each gap, such as a lost connection. */
  const hear = Effect.scoped(
    Effect.flatMap(sql.listen(channelOf(layout)), (payloads) => {
      onHeard()
      return Effect.forever(Effect.map(Queue.take(payloads), ({ payload }) => onPayload(payload)))
    })
  ).pipe(
    Effect.ensuring(
      Effect.sync(() => {
        isHeard = false
      })
    ),
    Effect.tapError(warn),
    Effect.retry(Schedule.spaced("1 second"))
  )

  const join = (hash: string, listener: Listener) =>
    Effect.sync(() => {
      listeners.set(hash, (listeners.get(hash) ?? new Set()).add(listener))
      if (fiber === undefined) fiber = Effect.runFork(hear)
      else if (isHeard) listener(undefined)
    })

  const leave = (hash: string, listener: Listener) =>
    Effect.sync(() => {
      const ofOwner = listeners.get(hash)
      ofOwner?.delete(listener)
      if (ofOwner?.size === 0) listeners.delete(hash)
      if (listeners.size > 0) return
      fiber?.interruptUnsafe()
      fiber = undefined
    })

  return (owner) =>
    Stream.callback<string | undefined>((queue) =>
      Effect.flatMap(hashOf(owner), (hash) => {
        const listener: Listener = (id) => void Queue.offerUnsafe(queue, id)
        return Effect.andThen(
          Effect.acquireRelease(join(hash, listener), () => leave(hash, listener)),
          Effect.never
        )
      })
    )
}
