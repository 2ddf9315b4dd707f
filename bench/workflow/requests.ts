/**
 * What a workflow costs on each engine, in operations of the backend, requests of its client, and units of DynamoDB:
 * started and run to its end in one process, by its number of activities, and with a durable sleep. Then what a process
 * costs that waits for work. Run it by `npx node bench/workflow/requests.ts`.
 */
import { Effect, Layer } from "effect"
import type { WorkflowEngine } from "effect/workflow"
import * as StorageWorkflowEngine from "../../src/workflow/StorageWorkflowEngine.ts"
import { counted, type Engine, engines, type Sent } from "./engines.ts"
import { Errand, layerErrand } from "./errand.ts"

const idleMinutes = Number(process.env.IDLE_MINUTES ?? 1)
const times = 20

const per = (count: number) => (value: number) => Number((value / count).toFixed(2))

const show = ({ operations, requests, units }: Sent, count: number) => {
  const each = per(count)
  const ops = Object.entries(operations)
    .sort(([, a], [, b]) => b - a)
    .map(([name, calls]) => `${name} ${each(calls)}`)
  const capacity = units === undefined ? "" : `, units: read ${each(units.read)}, write ${each(units.write)}`
  const all = Object.values(operations).reduce((sum, calls) => sum + calls, 0)
  return `${each(all)} operations (${ops.join(", ")}), ${each(requests)} requests${capacity}`
}

type Started = Effect.Success<Engine["start"]>

/** Runs a program with a worker whose requests are counted. */
const withWorker = <A>(
  { counter, layer }: Started,
  options: Partial<StorageWorkflowEngine.Options>,
  program: (counts: {
    readonly reset: Effect.Effect<unknown>
    readonly sent: Effect.Effect<Sent>
  }) => Effect.Effect<A, never, WorkflowEngine.WorkflowEngine>
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const counts = yield* counted(layer, counter)
      const engine = StorageWorkflowEngine.layer({ owner: "shop", ...options }).pipe(Layer.provide(counts.layer))
      const context = yield* Layer.build(Layer.fresh(Layer.provideMerge(layerErrand, engine)))
      return yield* Effect.provide(program(counts), context)
    })
  )

const measureErrands = Effect.fnUntraced(function* (name: string, started: Started) {
  // With these times, nothing but the workflows sends requests.
  yield* withWorker(started, { leaseTtl: "1 hour", pollInterval: "1 hour" }, ({ reset, sent }) =>
    Effect.gen(function* () {
      for (const [activities, sleepMillis, isAwaited] of [
        [0, 0, true],
        [2, 0, true],
        [10, 0, true],
        [2, 50, true],
        [2, 50, false]
      ] as const) {
        const payload = () => ({ id: crypto.randomUUID(), activities, sleepMillis })
        const run = isAwaited
          ? Effect.suspend(() => Errand.execute(payload()))
          : Effect.andThen(
              Effect.suspend(() => Errand.execute(payload(), { discard: true })),
              Effect.sleep(sleepMillis + 200)
            )
        yield* run
        yield* Effect.sleep(500)
        yield* reset
        for (let n = 0; n < times; n++) yield* run
        // What follows the end of the last one.
        yield* Effect.sleep(500)
        const what = `${activities} activities${sleepMillis > 0 ? " and a sleep" : ""}${isAwaited ? "" : ", not awaited"}`
        console.log(`${name}: ${what}: ${show(yield* sent, times)}`)
      }
    })
  )
})

const measureIdle = Effect.fnUntraced(function* (name: string, started: Started) {
  yield* withWorker(started, {}, ({ reset, sent }) =>
    Effect.gen(function* () {
      yield* Errand.execute({ id: crypto.randomUUID(), activities: 2, sleepMillis: 0 })
      yield* Effect.sleep("15 seconds")
      yield* reset
      yield* Effect.sleep(idleMinutes * 60_000)
      console.log(`${name}, idle for a minute: ${show(yield* sent, idleMinutes)}`)
    })
  )
})

const measure = Effect.fnUntraced(function* ({ missing, name, start }: Engine) {
  const reason = missing()
  if (reason !== undefined) return console.log(`${name} is skipped: ${reason}`)
  const started = yield* start
  yield* measureErrands(name, started)
  if (name !== "memory" && idleMinutes > 0) yield* measureIdle(name, started)
})

const only = process.argv[2]
for (const engine of engines.filter(({ name }) => only === undefined || name === only)) {
  await Effect.runPromise(Effect.scoped(measure(engine)))
}
