/** Promise 10: interruption. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import { assertSame, keyOf } from "../internal/support.ts"

export const interruption: ReadonlyArray<Draft> = [
  example(
    10,
    "an interrupted write leaves the record before it or the whole record",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      yield* backend.put(key, "0".repeat(10_000))
      for (let i = 1; i < 40; i++) {
        const before = yield* backend.get(key)
        const fiber = yield* Effect.forkChild(backend.put(key, String(i % 10).repeat(10_000)))
        yield* TestClock.withLive(Effect.sleep(i % 4))
        yield* Fiber.interrupt(fiber)
        const after = yield* backend.get(key)
        if (after.version === before.version) assertSame(after, before)
        assert.isTrue(after.data === after.data.charAt(0).repeat(10_000), "half a record was written")
      }
    })
  )
]
