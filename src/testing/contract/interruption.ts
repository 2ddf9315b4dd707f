/** Promise 10: interruption. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
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
      let inFlight = 0
      let isInstant = false
      for (let turns = 0; turns < 40; turns++) {
        const before = yield* backend.get(key)
        const data = String((turns + 1) % 10).repeat(10_000)
        const fiber = yield* Effect.forkChild(backend.put(key, data), { startImmediately: true })
        if (turns === 0) isInstant = fiber.pollUnsafe() !== undefined
        // Each turn of the event loop lets the request go on, so the interruptions fall into different moments of it.
        for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
        if (fiber.pollUnsafe() === undefined) inFlight++
        yield* Fiber.interrupt(fiber)
        const after = yield* backend.get(key)
        if (after.version === before.version) assertSame(after, before)
        assert.isTrue(after.data === after.data.charAt(0).repeat(10_000), "half a record was written")
      }
      assert.isTrue(isInstant || inFlight > 0, "no interruption fell into a write")
    })
  )
]
