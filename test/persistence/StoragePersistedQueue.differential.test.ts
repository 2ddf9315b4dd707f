/**
 * Random operations on a queue, on Effect's store in memory and on ours. `FAULT_SEED` repeats a run.
 *
 * The order in which messages come is not compared, since Effect's own stores differ in it.
 */
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer, Schedule, Schema } from "effect"
import { PersistedQueue } from "effect/persistence"
import { TestClock } from "effect/testing"
import * as StoragePersistedQueue from "../../src/persistence/StoragePersistedQueue.ts"
import { newOwner } from "../support/persistence.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { engines, orEmpty } from "../support/services.ts"

type Operation =
  | { readonly _tag: "Offer"; readonly n: number; readonly id: string | undefined; readonly delaySeconds: number }
  | { readonly _tag: "Drain" | "Interrupt" }
  | { readonly _tag: "Pass"; readonly seconds: number }
  | { readonly _tag: "Cleanup"; readonly seconds: number; readonly failedSeconds: number | undefined }

const operationsFrom = (seed: number, count: number): ReadonlyArray<Operation> => {
  const random = randomFrom(seed)
  const pick = <A>(...values: readonly [A, ...ReadonlyArray<A>]): A =>
    values[Math.floor(random() * values.length)] ?? values[0]
  return Array.from({ length: count }, (_, n): Operation => {
    const kind = pick("Offer", "Offer", "Offer", "Offer", "Drain", "Drain", "Interrupt", "Pass", "Pass", "Cleanup")
    switch (kind) {
      case "Offer":
        return { _tag: kind, n, id: pick(undefined, "a", "b", "c", "d"), delaySeconds: pick(0, 0, 5, 20) }
      case "Pass":
        return { _tag: kind, seconds: pick(1, 5, 10, 30) }
      case "Cleanup":
        return { _tag: kind, seconds: pick(0, 20, 60), failedSeconds: pick(undefined, 0, 60) }
      default:
        return { _tag: kind }
    }
  })
}

/** How a delivery ends, which follows from the message and its attempt, so that it does not depend on the order. */
const endOf = (seed: number, n: number, attempts: number): Effect.Effect<void, string> => {
  const part = randomFrom(seed + 31 * n + 7919 * attempts)()
  if (part < 0.5) return Effect.void
  return part < 0.9 ? Effect.fail("no") : Effect.die("no")
}

const interpret = Effect.fnUntraced(function* (seed: number, operations: ReadonlyArray<Operation>) {
  const store = yield* PersistedQueue.PersistedQueueStore
  const queue = yield* PersistedQueue.make({
    name: "q",
    schema: Schema.Int,
    maxAttempts: 3,
    retrySchedule: Schedule.exponential("3 seconds")
  })
  const taken: Array<ReadonlyArray<string>> = []
  let marks = 0

  for (const operation of operations) {
    switch (operation._tag) {
      case "Offer": {
        const { delaySeconds, id, n } = operation
        yield* queue.offer(n, { id, delay: Duration.seconds(delaySeconds) })
        break
      }
      case "Pass":
        yield* TestClock.adjust(Duration.seconds(operation.seconds))
        break
      case "Cleanup":
        yield* store.cleanup({
          timeToLive: Duration.seconds(operation.seconds),
          failedTimeToLive:
            operation.failedSeconds === undefined ? undefined : Duration.seconds(operation.failedSeconds)
        })
        break
      case "Interrupt": {
        // Whichever message comes, that does not count.
        yield* queue.offer(--marks)
        const begun = yield* Deferred.make<void>()
        const handler = Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
        const fiber = yield* Effect.forkChild(queue.take(() => handler))
        yield* Deferred.await(begun)
        yield* Fiber.interrupt(fiber)
        break
      }
      case "Drain": {
        const [mark, found] = [--marks, [] as Array<string>]
        yield* queue.offer(mark)
        for (let last = 0; last !== mark; ) {
          const handle = (n: number, { attempts }: { readonly attempts: number }) => {
            last = n
            if (n < 0) return Effect.void
            found.push(`${n} for the ${attempts}. time`)
            return endOf(seed, n, attempts)
          }
          yield* Effect.exit(queue.take(handle))
        }
        taken.push(found.sort())
        break
      }
    }
  }
  return taken
}, Effect.provide(PersistedQueue.layer))

const count = 200

describe("StoragePersistedQueue, beside Effect's store in memory", () => {
  for (const [name, storage] of Object.entries(engines())) {
    it.effect.skipIf(storage === undefined)(`takes the same from random operations, on ${name}`, () =>
      Effect.gen(function* () {
        const seed = newSeed(`StoragePersistedQueue on ${name}`)
        const operations = operationsFrom(seed, count)
        const ours = StoragePersistedQueue.layer({ owner: newOwner() }).pipe(Layer.provide(orEmpty(storage)))
        const run = (layer: Layer.Layer<PersistedQueue.PersistedQueueStore, unknown>) =>
          interpret(seed, operations).pipe(Effect.provide(layer), Effect.provide(TestClock.layer()))
        const expected = yield* run(PersistedQueue.layerStoreMemory)
        assert.isAbove(expected.flat().length, count / 10)
        assert.deepStrictEqual(yield* run(ours), expected)
      })
    )
  }
})
