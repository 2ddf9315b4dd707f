/** Sends commands and scripts to Redis, each up to a time-out. */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Redis from "effect/persistence/Redis"
import { toMillis } from "../../../internal/time.ts"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { startTimer } from "../timer.ts"
import { failureOf } from "./failure.ts"
import type { Script } from "./scripts.ts"
import { type Timed, type Timeout, timedOf } from "./timed.ts"

/** The failure of a command that changes nothing, so its outcome is `not-applied`. */
export const asRead = (
  { operation, reason: { _tag: reason, cause, description } }: Backend,
  newOperation = operation
): Backend => makeBackend({ operation: newOperation, outcome: "not-applied", reason, description, cause })

export const makeTimeout = (requestTimeout: Duration.Input): Timeout => {
  const millis = toMillis("requestTimeout", requestTimeout)
  const failure = Effect.suspend(() => {
    const description = `Redis did not answer within ${Duration.format(Duration.millis(millis))}`
    return Effect.fail(makeBackend({ reason: "Timeout", outcome: "unknown", description }))
  })
  return { millis, failure }
}

/**
 * Runs one command of a service that any client may supply, up to a time-out. The command runs in a fiber of its own,
 * which is interrupted when the time is up. That is one fiber a command, where `Effect.timeoutOrElse` takes two and a
 * race.
 */
export const makeRun =
  ({ failure, millis }: Timeout) =>
  <A>(command: Effect.Effect<A, Redis.RedisError>): Effect.Effect<A, Backend> =>
    Effect.withFiber<A, Backend>(({ context }) =>
      Effect.callback((resume) => {
        const fiber = Effect.runForkWith(context)(command)
        const clearTimer = startTimer(millis, () => resume(Effect.andThen(Fiber.interrupt(fiber), failure)))
        fiber.addObserver((exit) => {
          clearTimer()
          resume(Exit.mapError(exit, failureOf))
        })
        return Effect.suspend(() => {
          clearTimer()
          return Fiber.interrupt(fiber)
        })
      })
    )

/** Sends commands and scripts, each up to a time-out. */
export interface Commands {
  readonly send: <A>(...command: readonly [name: string, ...args: ReadonlyArray<string>]) => Effect.Effect<A, Backend>
  readonly run: <Reply>(
    script: Script<Reply>,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<string | number>
  ) => Effect.Effect<Reply, Backend>
}

const toBackend = (error: Redis.RedisError | Backend): Backend => (error._tag === "Backend" ? error : failureOf(error))

const makeTimedCommands = (timed: Timed): Commands => ({
  send: (...command) => Effect.mapError(timed.send(...command), toBackend),
  run: (script, keys, args) => Effect.mapError(timed.eval(script)(keys, args), toBackend)
})

export const makeCommands = (redis: Redis.Redis["Service"], requestTimeout: Duration.Input): Commands => {
  const timeout = makeTimeout(requestTimeout)
  const timed = timedOf(redis, timeout)
  if (timed !== undefined) return makeTimedCommands(timed)
  const run = makeRun(timeout)
  return {
    send: (...command) => run(redis.send(...command)),
    run: (script, keys, args) => run(redis.eval(script)(keys, args))
  }
}
