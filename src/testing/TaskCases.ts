/**
 * The cases of `TaskContract` as plain Effects. They need no vitest, so that another test runner can run them.
 */
import type * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import type { StorageBackend } from "../StorageBackend.ts"
import type * as TaskStore from "../task/TaskStore.ts"
import { LayerStore } from "./internal/taskDrafts.ts"
import { costs } from "./taskContract/costs.ts"
import { creating } from "./taskContract/creating.ts"
import { expiry } from "./taskContract/expiry.ts"
import { inputs } from "./taskContract/inputs.ts"
import { interruptions } from "./taskContract/interruptions.ts"
import { isolation } from "./taskContract/isolation.ts"
import { lists } from "./taskContract/lists.ts"
import { model } from "./taskContract/model.ts"
import { payloads } from "./taskContract/payloads.ts"
import { quota } from "./taskContract/quota.ts"
import { removals } from "./taskContract/removals.ts"
import { results } from "./taskContract/results.ts"
import { status } from "./taskContract/status.ts"
import { unreadable } from "./taskContract/unreadable.ts"
import { variables } from "./taskContract/variables.ts"
import { watching } from "./taskContract/watching.ts"

/**
 * How the suite is run.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The store under test; `TaskStore.layerWith` by default. */
  readonly layerWith?: typeof TaskStore.layerWith | undefined
  /** How properties are checked; `replay` takes what a failure printed. */
  readonly check?: Arbitrary.CheckOptions | undefined
  /** How long one case may take, in milliseconds; 60,000 by default. */
  readonly timeout?: number | undefined
}

/**
 * One case of the suite.
 *
 * @category models
 * @since 0.1.0
 */
export interface Case {
  readonly name: string
  readonly run: Effect.Effect<void, unknown, StorageBackend>
}

/**
 * The cases of the suite. Each needs `StorageCases.layerClock` below the backend.
 *
 * @example
 * ```ts
 * import * as TaskCases from "effect-versioned-store/TaskCases"
 *
 * export const names = TaskCases.cases().map((taskCase) => taskCase.name)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const cases = ({ check, layerWith }: Options = {}): ReadonlyArray<Case> => {
  const all = [
    ...creating,
    ...isolation,
    ...unreadable,
    ...status,
    ...variables,
    ...results,
    ...payloads,
    ...inputs,
    ...lists,
    ...removals,
    ...quota,
    ...interruptions,
    ...costs,
    ...expiry,
    ...watching,
    ...model(check)
  ]
  if (layerWith === undefined) return all
  return all.map(({ name, run }) => ({ name, run: Effect.provideService(run, LayerStore, layerWith) }))
}
