/** A workflow of some activities that do nothing, with a durable sleep after the first one, if it is to sleep. */
import { Effect, Schema } from "effect"
import { Activity, DurableClock, Workflow } from "effect/workflow"

export const Errand = Workflow.make("Errand", {
  payload: { id: Schema.String, activities: Schema.Int, sleepMillis: Schema.Int },
  success: Schema.Int,
  idempotencyKey: ({ id }) => id
})

const step = (n: number) => Activity.make({ name: `step ${n}`, success: Schema.Int, execute: Effect.succeed(n) })

export const layerErrand = Errand.toLayer(
  Effect.fnUntraced(function* ({ activities, sleepMillis }) {
    let sum = 0
    for (let n = 0; n < activities; n++) {
      sum += yield* step(n)
      if (n === 0 && sleepMillis > 0) {
        yield* DurableClock.sleep({ name: "pause", duration: sleepMillis, inMemoryThreshold: 0 })
      }
    }
    return sum
  })
)
