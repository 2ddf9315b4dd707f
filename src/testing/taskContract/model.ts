/** A model that any sequence of operations is compared with. */
import type * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import { checked } from "../internal/drafts.ts"
import { type Case, makeTasks } from "../internal/taskDrafts.ts"
import { agreesWithModel, commands, options } from "../internal/taskModel.ts"

/** Checks a store, in which tasks that have ended count or not, against the model of it. */
const agrees = (check: Arbitrary.CheckOptions | undefined, countTerminal: boolean) =>
  Effect.flatMap(makeTasks({ ...options, countTerminal }), (tasks) =>
    checked(commands, (sequence) => agreesWithModel(tasks, sequence, { countTerminal }), {
      runs: 50,
      size: 100,
      ...check
    })
  )

export const model = (check: Arbitrary.CheckOptions | undefined): ReadonlyArray<Case> => [
  { name: "any sequence of operations by several owners agrees with the model", run: agrees(check, true) },
  {
    name: "any sequence of operations agrees with the model, if tasks that have ended do not count",
    run: agrees(check, false)
  }
]
