/** Promises 1, 2, 4, 5 and 6 together, and with commits 11, as a model that any operations are compared with. */
import { type Draft, property } from "../internal/drafts.ts"
import { agreesWithModel, commands, commandsWithCommits } from "../internal/model.ts"

export const model: ReadonlyArray<Draft> = [
  property(1, "any sequence of operations agrees with the model", commands, agreesWithModel, { size: 60 })
]

export const modelWithCommits: ReadonlyArray<Draft> = [
  property(
    11,
    "any sequence of commits and other operations agrees with the model",
    commandsWithCommits,
    agreesWithModel,
    { size: 60 }
  )
]
