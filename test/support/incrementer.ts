/** A process of its own that increments one record in a table so many times. */
import { Effect, Layer, Schedule, Schema } from "effect"
import * as DynamoDb from "../../src/backend/DynamoDb.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"

const [endpoint, region, tableName = "", owner = "", times] = process.argv.slice(2)

const backend = DynamoDb.layer({ tableName }).pipe(
  Layer.provide(
    DynamoDb.layerClient({
      ...(endpoint === undefined ? {} : { endpoint }),
      ...(region === undefined ? {} : { region }),
      ...(process.env.AWS_ACCESS_KEY_ID === undefined
        ? { credentials: { accessKeyId: "local", secretAccessKey: "local" } }
        : {})
    })
  )
)

const program = Effect.gen(function* () {
  const counters = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
  const increment = counters.update({ owner, id: "counter" }, (n) => n + 1, {
    retrySchedule: Schedule.jittered(Schedule.min([Schedule.exponential("20 millis"), Schedule.spaced("1 second")]))
  })
  yield* Effect.repeat(increment, { times: Number(times) - 1 })
})

await Effect.runPromise(Effect.provide(program, backend))
