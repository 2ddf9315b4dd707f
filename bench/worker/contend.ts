/** Updates a record when it is told to, and sends back what became of the updates. */
import { once } from "node:events"
import { Effect } from "effect"
import { contend, type Load, makeBackend } from "../contention/contend.ts"

const load: Load = JSON.parse(process.argv[2] ?? "")

const program = Effect.gen(function* () {
  const backend = yield* makeBackend(load.engine, load.address)
  // The first update opens connections, and lets the engine of JavaScript see the code.
  yield* contend(backend, { ...load, id: `${load.id}/${process.pid}`, millis: 200 })
  process.send?.("ready")
  yield* Effect.promise(() => once(process, "message"))
  const outcome = yield* contend(backend, load)
  yield* Effect.callback<void>((resume) => {
    process.send?.(outcome, () => resume(Effect.void))
  })
})

process.once("disconnect", () => process.exit())
await Effect.runPromise(Effect.scoped(program))
process.disconnect()
