/** Promise 2: compare-and-set by many clients at once. */
import * as Effect from "effect/Effect"
import { StorageBackend } from "../../StorageBackend.ts"
import { anomaly } from "../History.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, property } from "../internal/drafts.ts"
import * as History from "../internal/historyOf.ts"
import { failsWith, increment, keyOf, newOwner } from "../internal/support.ts"

export const races: ReadonlyArray<Draft> = [
  example(
    2,
    "of many writers that expect the same version exactly one wins",
    Effect.fnUntraced(function* (backend, owner) {
      for (const [id, expected] of [
        ["by record", yield* backend.put(keyOf(owner, "by record"), "start")],
        ["by version", (yield* backend.put(keyOf(owner, "by version"), "start")).version],
        ["created", 0]
      ] as const) {
        const key = keyOf(owner, id)
        const results = yield* Effect.forEach(
          Array.from({ length: 32 }, (_, writer) => `writer ${writer}`),
          (data) => Effect.result(Effect.andThen(Effect.yieldNow, backend.putIfVersion(key, data, expected))),
          { concurrency: "unbounded" }
        )
        const won = results.flatMap((result) => (result._tag === "Success" ? [result.success] : []))
        const lost = results.flatMap((result) => (result._tag === "Failure" ? [result.failure] : []))
        assert.strictEqual(won.length, 1)
        for (const error of lost) {
          assert.strictEqual(error._tag, "VersionConflict")
          if (error._tag === "VersionConflict") assert.strictEqual(error.actual, won[0]?.version)
        }
        assert.strictEqual((yield* backend.get(key)).data, won[0]?.data)
      }
    })
  ),

  example(
    2,
    "fibers that retry on the conflict's record lose no increment",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "counter")
      yield* backend.put(key, "0")
      const eachOf = { concurrency: "unbounded", discard: true } as const
      yield* Effect.forEach(
        Array.from({ length: 8 }),
        () => Effect.forEach(Array.from({ length: 25 }), () => increment(backend, key), { discard: true }),
        eachOf
      )
      assert.strictEqual((yield* backend.get(key)).data, "200")
    })
  ),

  property(
    2,
    "any history of one key is linearizable",
    History.programs,
    Effect.fnUntraced(function* (programs, owner, { shared, twoBuilds }) {
      const clients = shared ? yield* twoBuilds : ([yield* StorageBackend] as const)
      assert.isUndefined(anomaly(yield* History.historyOf(keyOf(owner, "a"), clients, programs)))
    }),
    { runs: 50 }
  ),

  {
    promise: 2,
    name: "separate builds of the Layer race on one record and lose no increment",
    shared: true,
    run: Effect.fnUntraced(function* ({ twoBuilds }) {
      const [first, second] = yield* twoBuilds
      const key = keyOf(yield* newOwner, "counter")
      yield* first.put(key, "0")
      const times = Array.from({ length: 50 })
      yield* Effect.forEach(
        [first, second, first, second],
        (backend) => Effect.forEach(times, () => increment(backend, key), { discard: true }),
        { concurrency: "unbounded", discard: true }
      )
      assert.strictEqual((yield* first.get(key)).data, "200")
    })
  },

  {
    promise: 2,
    name: "separate builds of the Layer are separate stores",
    shared: false,
    run: Effect.fnUntraced(function* ({ twoBuilds }) {
      const [first, second] = yield* twoBuilds
      const key = keyOf(yield* newOwner, "a")
      yield* first.put(key, "data")
      yield* failsWith(second.get(key), "RecordNotFound")
    })
  }
]
