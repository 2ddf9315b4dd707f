/**
 * The contract of `StorageBackend` as a test suite: every backend here passes it, and so can anyone's.
 *
 * `suite` and `suiteWith` need `vitest` and `@effect/vitest`; `StorageCases` has the same cases without them. Each case
 * uses owners of its own, so it may run against an engine that holds other records. Time stands still until a case
 * moves it by `TestClock`. Sleeps are real, so that the retries of a backend go on.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 *
 * export const run = () => StorageContract.suite("InMemory", InMemory.layer)
 * ```
 */
import * as Layer from "effect/Layer"
import type { StorageBackend } from "../StorageBackend.ts"
import { cases, layerClock, type Options } from "./StorageCases.ts"
import { it, runCases, type TestApi } from "./suite.ts"

export { type Case, cases, layerClock, type Options } from "./StorageCases.ts"

/**
 * Runs the contract on a backend, as a suite of vitest.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 *
 * export const run = () => StorageContract.suite("InMemory", InMemory.layer, { check: { runs: 1000 } })
 * ```
 *
 * @category suites
 * @since 0.1.0
 */
export const suite = <R>(
  name: string,
  layer: Layer.Layer<R | StorageBackend, unknown>,
  options?: Options<NoInfer<R>>
): void => suiteWith(name, layer, it, options)

/**
 * Runs the contract within another suite, whose Layers the backend's may need.
 *
 * @example
 * ```ts
 * import { layer } from "@effect/vitest"
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 * import { Layer } from "effect"
 *
 * export const run = () =>
 *   layer(Layer.empty)("my engine", (it) => StorageContract.suiteWith("InMemory", InMemory.layer, it))
 * ```
 *
 * @category suites
 * @since 0.1.0
 */
export const suiteWith = <R, RIn>(
  name: string,
  layer: Layer.Layer<R | StorageBackend, unknown, RIn>,
  testApi: TestApi<RIn>,
  options: Options<NoInfer<R>> = {}
): void =>
  runCases(
    `StorageContract (${name})`,
    Layer.provideMerge(layer, layerClock),
    testApi,
    cases(layer, options),
    options.timeout
  )
