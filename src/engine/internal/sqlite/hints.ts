/** Hints at what other processes commit to the file. */
import type { DatabaseSync } from "node:sqlite"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as RcRef from "effect/RcRef"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Engine } from "../../../Engine.ts"
import { attempted } from "./batch.ts"

/** How often the file is asked whether another process has committed to it. */
const interval = "15 millis"

/**
 * Asks for SQLite's `PRAGMA data_version`, which reads no record, and changes with each commit of another connection.
 * All watchers share one timer, which runs only while there are some.
 */
export const makeHints = Effect.fnUntraced(function* (
  db: DatabaseSync
): Effect.fn.Return<NonNullable<Engine["hints"]>, never, Scope.Scope> {
  const statement = db.prepare("PRAGMA data_version")
  const watchers = new Set<() => void>()

  let last: unknown

  const poll = Effect.repeat(
    Effect.sync(() => {
      // If the file can't be asked now, for example because it is locked, it is asked again.
      const version = Result.getOrUndefined(attempted(() => statement.get()?.data_version))
      if (version === undefined || version === last) return
      last = version
      for (const tell of watchers) tell()
    }),
    Schedule.spaced(interval)
  )
  const timer = yield* RcRef.make({ acquire: Effect.forkScoped(poll, { startImmediately: true }) })

  return () =>
    Stream.callback<undefined>(
      Effect.fnUntraced(function* (queue) {
        const tell = () => void Queue.offerUnsafe(queue, undefined)
        yield* Effect.acquireRelease(
          Effect.sync(() => watchers.add(tell)),
          () => Effect.sync(() => watchers.delete(tell))
        )
        yield* RcRef.get(timer)
      }),
      { bufferSize: 1, strategy: "dropping" }
    )
})
