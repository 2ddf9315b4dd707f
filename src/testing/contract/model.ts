/** Promises 1, 2, 4, 5 and 6 together, as a model that any sequence of operations is compared with. */
import { type Draft, property } from "../internal/drafts.ts"
import { agreesWithModel, commands } from "../internal/model.ts"

export const model: ReadonlyArray<Draft> = [
  property(1, "any sequence of operations agrees with the model", commands, agreesWithModel, { size: 60 })
]
