import { assert, it } from "@effect/vitest"
import { Effect, Option, Schema, SchemaGetter } from "effect"
import * as InMemory from "../src/engine/InMemory.ts"
import * as Transaction from "../src/Transaction.ts"
import * as VersionedStore from "../src/VersionedStore.ts"
import { newSeed, randomFrom } from "./support/random.ts"

const owner = "alice"
const ids = ["a", "b", "c", "d"] as const

it.effect("trees of transactions within transactions, run at the same time, keep what succeeded and nothing else", () =>
  Effect.gen(function* () {
    const random = randomFrom(newSeed("trees of transactions"))
    const below = (n: number) => Math.floor(random() * n)
    const pause = Effect.suspend(() => Effect.repeat(Effect.yieldNow, { times: below(3) }))
    const Slow = Schema.Int.pipe(
      Schema.decodeTo(Schema.Int, {
        decode: SchemaGetter.transformEffect((n: number) => Effect.as(pause, n)),
        encode: SchemaGetter.transformEffect((n: number) => Effect.as(pause, n))
      })
    )
    let failed = 0

    for (let round = 0; round < 60; round++) {
      const store = yield* VersionedStore.make({ idPrefix: `${round}/`, schema: Slow })
      for (const id of ids) yield* store.create({ owner, id }, 100)
      yield* store.create({ owner, id: "transfers" }, 0)

      const transfer = Effect.fnUntraced(function* (tx: Transaction.Transaction) {
        const [from = "a", to = "a", amount] = [ids[below(4)], ids[below(4)], below(20)]
        yield* tx.update(store, from, (n) => n - amount)
        if (below(2) === 0) {
          // A set relies on what was read before, so other fibers of the transaction must not come in between.
          yield* Transaction.run(
            owner,
            Effect.fnUntraced(function* (inner) {
              const there = yield* inner.get(store, to)
              yield* pause
              yield* inner.set(store, to, there + amount)
            })
          )
        } else yield* tx.update(store, to, (n) => n + amount)
        yield* tx.update(store, "transfers", (n) => n + 1)
      })

      /** Returns how many transfers it has made, those within it included. */
      const tree = (depth: number): Effect.Effect<number, unknown> =>
        Transaction.run(
          owner,
          Effect.fnUntraced(function* (tx) {
            yield* transfer(tx)
            const inner = Array.from({ length: depth === 0 ? 0 : 1 + below(3) }, () =>
              Effect.catch(tree(depth - 1), () =>
                Effect.sync(() => {
                  failed++
                  return 0
                })
              )
            )
            const made = yield* Effect.all(inner, { concurrency: below(2) === 0 ? 1 : "unbounded" })
            if (depth < 2 && below(4) === 0) return yield* Effect.fail("on purpose")
            return made.reduce((sum, n) => sum + n, 1)
          })
        )

      const made = yield* Effect.all([tree(2), tree(2)], { concurrency: "unbounded" })
      const found = yield* store.getMany(owner, [...ids, "transfers"])
      const values = found.map((record) => Option.getOrThrow(record).value)
      assert.strictEqual(values.pop(), made[0] + made[1])
      assert.strictEqual(
        values.reduce((sum, n) => sum + n, 0),
        400
      )
    }
    assert.isAbove(failed, 10)
  }).pipe(Effect.provide(InMemory.layer))
)
