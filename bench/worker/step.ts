/** Runs one step of a group, and sends its figures to the process that started this one. */
import "../oneCopy.ts"
import { NodeRuntime } from "@effect/platform-node"
import { Cause, Effect, Exit } from "effect"
import type { Figure, Settings, Step } from "../measure.ts"

/** The figures of a step, or what it failed with. */
export type Answer = { readonly figures: ReadonlyArray<Figure> } | { readonly failure: string }

const [group = "", index = "", speed = ""] = process.argv.slice(2)

const program = Effect.gen(function* () {
  const { stepsOf }: { stepsOf: (settings: Settings) => ReadonlyArray<Step> } = yield* Effect.promise(
    () => import(`../group/${group}.ts`)
  )
  const step = stepsOf({ quick: speed === "quick" })[Number(index)]
  if (step === undefined) return yield* Effect.die(`There is no step ${index} of the group ${group}`)
  const exit = yield* Effect.exit(Effect.scoped(step.run))
  const answer: Answer = Exit.isSuccess(exit) ? { figures: exit.value } : { failure: Cause.pretty(exit.cause) }
  yield* Effect.callback<void>((resume) => {
    process.send?.(answer, () => resume(Effect.void))
  })
  process.off("disconnect", end)
  process.disconnect()
})

/** If the process that started this one is gone, the step ends, and cleans up. */
const end = () => process.kill(process.pid, "SIGTERM")
process.once("disconnect", end)

NodeRuntime.runMain(program)
