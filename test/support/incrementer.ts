/** A separate process in which a number of fibers increment one record, each of them a number of times. */
import { monitorEventLoopDelay } from "node:perf_hooks"
import { Effect, Layer, Redacted, Schedule, Schema } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"

export interface Work {
  readonly store:
    | { readonly filename: string }
    | { readonly tableName: string; readonly postgresUrl: string }
    | { readonly tableName: string; readonly client: object }
  readonly key: VersionedStore.Key
  readonly fibers: number
  readonly times: number
}

const { fibers, key, store, times }: Work = JSON.parse(process.argv[2] ?? "")

const backend =
  "filename" in store
    ? Sqlite.layer(store)
    : "postgresUrl" in store
      ? Postgres.layer(store).pipe(Layer.provide(Postgres.layerClient({ url: Redacted.make(store.postgresUrl) })))
      : DynamoDb.layer(store).pipe(Layer.provide(DynamoDb.layerClient(store.client)))

const program = Effect.gen(function* () {
  const counters = yield* VersionedStore.make({ idPrefix: "", schema: Schema.Int })
  const increment = counters.update(key, (n) => n + 1, {
    retrySchedule: Schedule.jittered(Schedule.min([Schedule.exponential("20 millis"), Schedule.spaced("1 second")]))
  })
  yield* Effect.forEach(Array.from({ length: fibers }), () => Effect.repeat(increment, { times: times - 1 }), {
    concurrency: "unbounded",
    discard: true
  })
})

const delay = monitorEventLoopDelay({ resolution: 1 })
const measured = Effect.acquireUseRelease(
  Effect.sync(() => delay.enable()),
  () => program,
  () => Effect.sync(() => delay.disable())
)
await Effect.runPromise(Effect.provide(measured, backend))
console.log(`the event loop stopped for at most ${Math.round(delay.max / 1e6)} ms`)
