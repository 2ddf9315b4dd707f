/** How the cases of the contract are written, before they are given a backend. */
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import type { StoredRecord } from "../../Engine.ts"
import { StorageBackend } from "../../StorageBackend.ts"
import type { StorageKey } from "../../StorageKey.ts"
import { newOwner } from "./support.ts"

type Backend = StorageBackend["Service"]

/** What the cases get from the suite's options. */
export interface Setting {
  readonly check: Arbitrary.CheckOptions | undefined
  readonly shared: boolean
  readonly plant: (key: StorageKey, record: StoredRecord) => Effect.Effect<void, unknown>
  readonly lossy: (isLost: () => boolean) => Effect.Effect<Backend, unknown, Scope.Scope>
  /** Two clients of the engine if builds of the Layer share one, else two stores. */
  readonly twoBuilds: Effect.Effect<readonly [Backend, Backend], unknown, Scope.Scope>
}

export interface Draft {
  readonly promise: number
  readonly name: string
  /** The option without which the case is skipped. */
  readonly needs?: "plant" | "lossy"
  /** Whether the case is for an engine that separate builds of the Layer share. Both kinds have it by default. */
  readonly shared?: boolean
  readonly run: (setting: Setting) => Effect.Effect<unknown, unknown, StorageBackend | Scope.Scope>
}

type Run<Args extends ReadonlyArray<unknown>> = (
  backend: Backend,
  owner: string,
  ...args: Args
) => Effect.Effect<unknown, unknown, StorageBackend | Scope.Scope>

const withOwner = <Args extends ReadonlyArray<unknown>>(run: Run<Args>, ...args: Args) =>
  Effect.flatMap(Effect.all([StorageBackend, newOwner]), ([backend, owner]) => run(backend, owner, ...args))

/** A case for every backend. */
export const example = (promise: number, name: string, run: Run<[]>): Draft => ({
  promise,
  name,
  run: () => withOwner(run)
})

/** A case that puts records into the engine as another client would. */
export const planted = (promise: number, name: string, run: Run<[Setting["plant"]]>): Draft => ({
  promise,
  name,
  needs: "plant",
  run: ({ plant }) => withOwner(run, plant)
})

/** A case in which answers are lost. */
export const losing = (promise: number, name: string, run: Run<[Setting["lossy"]]>): Draft => ({
  promise,
  name,
  needs: "lossy",
  run: ({ lossy }) => withOwner(run, lossy)
})

/** A case that holds for any value. */
export const property = <A>(
  promise: number,
  name: string,
  arbitrary: Arbitrary.Arbitrary<A>,
  holds: (value: A, owner: string, setting: Setting) => Effect.Effect<unknown, unknown, StorageBackend | Scope.Scope>,
  options?: Arbitrary.CheckOptions
): Draft => ({
  promise,
  name,
  run: (setting) =>
    checked(arbitrary, (value) => Effect.flatMap(newOwner, (owner) => holds(value, owner, setting)), {
      ...options,
      ...setting.check
    })
})

/** Checks a property. Dies with what is needed to run a failure again. */
export const checked = <A, R>(
  arbitrary: Arbitrary.Arbitrary<A>,
  holds: (value: A) => Effect.Effect<unknown, unknown, R>,
  options: Arbitrary.CheckOptions
): Effect.Effect<void, unknown, R> =>
  Effect.flatMap(
    Arbitrary.checkEffect(arbitrary, (value) => Effect.as(Effect.catchCause(holds(value), Effect.fail), true), options),
    (result) => {
      const failure = Arbitrary.formatCheckFailure(result)
      return failure === undefined ? Effect.void : Effect.die(new Error(failure))
    }
  )
