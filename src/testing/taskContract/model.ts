/** A model that any sequence of operations is compared with. */
import type * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import { checked } from "../internal/drafts.ts"
import { type Case, makeTasks } from "../internal/taskDrafts.ts"
import { agreesWithModel, commands, options } from "../internal/taskModel.ts"

export const model = (check: Arbitrary.CheckOptions | undefined): ReadonlyArray<Case> => [
  {
    name: "any sequence of operations by several owners agrees with the model",
    run: Effect.flatMap(makeTasks(options), (tasks) =>
      checked(commands, (sequence) => agreesWithModel(tasks, sequence), { runs: 50, size: 100, ...check })
    )
  }
]
