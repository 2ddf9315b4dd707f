import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber } from "effect"
import * as Turns from "../../src/update/turns.ts"

describe("Turns", () => {
  it.effect(
    "lets the fibers of one key run one at a time in the order that they came, and those of others beside them",
    () =>
      Effect.gen(function* () {
        const takeTurn = Turns.make()
        const gates = { a1: yield* Deferred.make<void>(), b1: yield* Deferred.make<void>() }
        const events: Array<string> = []
        const run = (name: string, wait: Effect.Effect<void> = Effect.void) =>
          Effect.sync(() => events.push(`${name} begins`)).pipe(
            Effect.andThen(wait),
            Effect.andThen(Effect.sync(() => events.push(`${name} ends`))),
            takeTurn(name.charAt(0)),
            Effect.forkChild({ startImmediately: true })
          )
        const a1 = yield* run("a1", Deferred.await(gates.a1))
        const a2 = yield* run("a2")
        const a3 = yield* run("a3")
        const b1 = yield* run("b1", Deferred.await(gates.b1))
        assert.deepStrictEqual(events, ["a1 begins", "b1 begins"])
        yield* Deferred.succeed(gates.b1, undefined)
        yield* Fiber.join(b1)
        yield* Deferred.succeed(gates.a1, undefined)
        yield* Effect.all([Fiber.join(a1), Fiber.join(a2), Fiber.join(a3)])
        assert.deepStrictEqual(events.slice(2), ["b1 ends", "a1 ends", "a2 begins", "a2 ends", "a3 begins", "a3 ends"])
      })
  )

  it.effect("passes the turn on if a fiber fails or is interrupted, in its turn or before it", () =>
    Effect.gen(function* () {
      const takeTurn = Turns.make()
      const first = yield* Effect.forkChild(takeTurn("a")(Effect.never), { startImmediately: true })
      const waiting = yield* Effect.forkChild(takeTurn("a")(Effect.die("not to run")), { startImmediately: true })
      const last = yield* Effect.forkChild(Effect.flip(takeTurn("a")(Effect.fail("failed"))), {
        startImmediately: true
      })
      yield* Fiber.interrupt(waiting)
      yield* Fiber.interrupt(first)
      assert.strictEqual(yield* Fiber.join(last), "failed")
      assert.strictEqual(yield* takeTurn("a")(Effect.succeed("free")), "free")
    })
  )
})
