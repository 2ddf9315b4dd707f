import * as Clock from "effect/Clock"
import type * as Fiber from "effect/Fiber"

/**
 * The instant of one operation. It is read from Effect's Clock when it is first needed, and at most once (promise 4).
 * In memory it is seldom needed: only for a record that expires. Reading the Clock takes a fifth of a get's time.
 */
export interface Instant {
  /** In whole epoch seconds, rounded down. */
  readonly seconds: number
}

class InstantImpl implements Instant {
  readonly #fiber: Fiber.Fiber<unknown, unknown>
  #seconds: number | undefined = undefined

  constructor(fiber: Fiber.Fiber<unknown, unknown>) {
    this.#fiber = fiber
  }

  get seconds(): number {
    this.#seconds ??= Math.floor(this.#fiber.getRef(Clock.Clock).currentTimeMillisUnsafe() / 1000)
    return this.#seconds
  }
}

/** The instant of the operation that a fiber runs, by the fiber's Clock. */
export const makeInstant = (fiber: Fiber.Fiber<unknown, unknown>): Instant => new InstantImpl(fiber)
