/** Runs cases as a suite of vitest. The only file of the library that knows vitest. */
import { it, type Vitest } from "@effect/vitest"
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"

/** The tests of vitest, or of a suite around this one. */
export type TestApi<R> = Vitest.MethodsNonLive<R>

export { it }

/** What the suite needs to know of a case. A case without `run` is skipped. */
interface Case<R> {
  readonly name: string
  readonly needs?: string
  readonly run: Effect.Effect<void, unknown, R | Scope.Scope> | undefined
}

export const runCases = <R, RIn>(
  name: string,
  layer: Layer.Layer<R, unknown, RIn>,
  testApi: TestApi<RIn>,
  cases: ReadonlyArray<Case<R | RIn>>,
  timeout = 60_000
): void =>
  testApi.layer(layer, { timeout })(name, (it) => {
    for (const { name, needs, run } of cases) {
      if (run === undefined) it.effect.skip(`${name} (skipped: give the option ${needs})`, () => Effect.void)
      else it.effect(name, () => run, { timeout })
    }
  })
