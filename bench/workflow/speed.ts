/**
 * Workflows a second on each engine, of two activities that do nothing, one at a time and 64 at once, beside Effect's
 * own engine in memory. Run it by `npx node bench/workflow/speed.ts`, with `--quick` for rougher figures.
 */
import { type Context, Effect, Layer } from "effect"
import { WorkflowEngine } from "effect/workflow"
import type { StorageBackend } from "../../src/StorageBackend.ts"
import * as StorageWorkflowEngine from "../../src/workflow/StorageWorkflowEngine.ts"
import { type Contender, compare, type Figure, inProgram } from "../measure.ts"
import { engines } from "./engines.ts"
import { Errand, layerErrand } from "./errand.ts"

/** Runs workflows on an engine, so many at the same time. */
export const makeContender = Effect.fnUntraced(function* (
  name: string,
  layer: Layer.Layer<WorkflowEngine.WorkflowEngine, unknown>,
  fibers: number
) {
  const context = yield* Layer.build(Layer.fresh(Layer.provideMerge(layerErrand, layer)))
  const run = Effect.suspend(() => Errand.execute({ id: crypto.randomUUID(), activities: 2, sleepMillis: 0 }))
  return inProgram(name, (times) =>
    Effect.provideContext(
      Effect.replicateEffect(run, times * fibers, { concurrency: fibers, discard: true }),
      context as Context.Context<WorkflowEngine.WorkflowEngine>
    )
  )
})

const perSecond = (nanos: number) => (1e9 / nanos).toPrecision(3)

export const print = (figures: ReadonlyArray<Figure>) => {
  for (const { contender, measure, ratio, setting, value } of figures) {
    if (measure !== "wall") continue
    const { lower = 0, median = 0, over, upper = 0 } = ratio ?? {}
    console.log(
      `${setting}, ${contender}: ${perSecond(value.median)}/s (${perSecond(value.upper)} to ${perSecond(value.lower)}), ` +
        `takes ${median.toPrecision(3)} (${lower.toPrecision(3)} to ${upper.toPrecision(3)}) times the time of ${over}`
    )
  }
}

/** Measures engines in turns, one workflow at a time and 64 at once. */
export const compareEngines = Effect.fnUntraced(function* (
  all: ReadonlyArray<readonly [name: string, layer: Layer.Layer<WorkflowEngine.WorkflowEngine, unknown>]>
) {
  for (const fibers of [1, 64]) {
    const contenders: Array<Contender> = []
    for (const [name, layer] of all) contenders.push(yield* makeContender(name, layer, fibers))
    const [first, ...others] = contenders
    if (first === undefined) continue
    const comparison = {
      operation: "a workflow of two activities",
      setting: fibers === 1 ? "one at a time" : "64 at once",
      contenders: [first, ...others],
      perRun: fibers
    } as const
    print(yield* compare({ quick: process.argv.includes("--quick") }, "workflows", comparison))
  }
})

/** An engine of workflows on a backend. */
export const onStorage = (layer: Layer.Layer<StorageBackend, unknown>) =>
  StorageWorkflowEngine.layer({ owner: "shop" }).pipe(Layer.provide(layer))

const program = Effect.gen(function* () {
  const found: Array<readonly [string, Layer.Layer<WorkflowEngine.WorkflowEngine, unknown>]> = [
    ["Effect's memory engine", WorkflowEngine.layerMemory]
  ]
  for (const { missing, name, start } of engines) {
    const reason = missing()
    if (reason === undefined) found.push([name, onStorage((yield* start).layer)])
    else console.log(`${name} is skipped: ${reason}`)
  }
  yield* compareEngines(found)
})

if (process.argv[1] === import.meta.filename) {
  await Effect.runPromise(Effect.scoped(program))
  process.exit()
}
