/**
 * What `TaskStore` promises, as a test suite for a backend: the tasks on every backend here pass it, and so can those
 * on anyone's.
 *
 * `suite` and `suiteWith` need `vitest` and `@effect/vitest`; `TaskCases` has the same cases without them. Time stands
 * still until a case moves it by `TestClock`; sleeps are real.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as TaskContract from "effect-versioned-store/TaskContract"
 *
 * export const run = () => TaskContract.suite("InMemory", InMemory.layer)
 * ```
 */
import * as Layer from "effect/Layer"
import type { StorageBackend } from "../StorageBackend.ts"
import { layerClock } from "./StorageCases.ts"
import { it, runCases, type TestApi } from "./suite.ts"
import { cases, type Options } from "./TaskCases.ts"

export { type Case, cases, type Options } from "./TaskCases.ts"

/**
 * Runs the suite on a backend.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as TaskContract from "effect-versioned-store/TaskContract"
 *
 * export const run = () => TaskContract.suite("InMemory", InMemory.layer, { check: { runs: 1000 } })
 * ```
 *
 * @category suites
 * @since 0.1.0
 */
export const suite = (name: string, layer: Layer.Layer<StorageBackend, unknown>, options?: Options): void =>
  suiteWith(name, layer, it, options)

/**
 * Runs the suite within another one, whose Layers the backend's may need.
 *
 * @example
 * ```ts
 * import { layer } from "@effect/vitest"
 * import { InMemory } from "effect-versioned-store"
 * import * as TaskContract from "effect-versioned-store/TaskContract"
 * import { Layer } from "effect"
 *
 * export const run = () =>
 *   layer(Layer.empty)("my engine", (it) => TaskContract.suiteWith("InMemory", InMemory.layer, it))
 * ```
 *
 * @category suites
 * @since 0.1.0
 */
export const suiteWith = <RIn>(
  name: string,
  layer: Layer.Layer<StorageBackend, unknown, RIn>,
  testApi: TestApi<RIn>,
  options: Options = {}
): void =>
  runCases(`TaskContract (${name})`, Layer.provideMerge(layer, layerClock), testApi, cases(options), options.timeout)
