/**
 * The cases of `StorageContract` as plain Effects. They need no vitest, so that another test runner can run them.
 */

import type * as Arbitrary from "effect/Arbitrary"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import type { StoredRecord } from "../Engine.ts"
import type { StorageBackend } from "../StorageBackend.ts"
import type { StorageKey } from "../StorageKey.ts"
import { commits } from "./contract/commits.ts"
import { compareAndSet } from "./contract/compareAndSet.ts"
import { cursors } from "./contract/cursors.ts"
import { data } from "./contract/data.ts"
import { expiry } from "./contract/expiry.ts"
import { expiryDates } from "./contract/expiryDates.ts"
import { interruption } from "./contract/interruption.ts"
import { keys } from "./contract/keys.ts"
import { fencedLeases, leases } from "./contract/leases.ts"
import { lostAnswers } from "./contract/lostAnswers.ts"
import { lostCommits } from "./contract/lostCommits.ts"
import { many } from "./contract/many.ts"
import { model, modelWithCommits } from "./contract/model.ts"
import { order } from "./contract/order.ts"
import { pages } from "./contract/pages.ts"
import { races } from "./contract/races.ts"
import { stores } from "./contract/stores.ts"
import { transactions } from "./contract/transactions.ts"
import { versions } from "./contract/versions.ts"
import { watchedCommits, watches } from "./contract/watches.ts"
import type { Draft, Setting } from "./internal/drafts.ts"
import { twoBuilds } from "./internal/support.ts"

/** The contract's table of contents: the promise, and its cases. */
const contents: ReadonlyArray<ReadonlyArray<Draft>> = [
  versions, // 1
  compareAndSet, // 2
  races, // 2
  lostAnswers, // 3
  expiry, // 4
  expiryDates, // 4
  order, // 5
  pages, // 6
  cursors, // 6
  keys, // 7
  data, // 8 and 9
  many, // 4, 7 and 9
  stores, // 2 and 4
  interruption, // 10
  watches, // 12
  leases, // 2 and 3
  model // 1, 2, 4, 5 and 6 together
]

/** The cases that need commits of several records. */
const contentsWithCommits: ReadonlyArray<ReadonlyArray<Draft>> = [
  commits, // 11, and 1, 4, 8 and 10
  lostCommits, // 3
  transactions, // 11
  watchedCommits, // 12
  fencedLeases, // 2 and 11
  modelWithCommits // 1 to 6, and 11
]

/**
 * What the suite knows about a backend.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<R = never> {
  /** Whether separate builds of the Layer are clients of one engine. If not, each build is a store of its own. */
  readonly shared?: boolean | undefined
  /**
   * Puts a record into the engine as another client would: of any version, and without a write id. Without this option,
   * the cases that need it are skipped.
   */
  readonly plant?:
    | ((key: StorageKey, record: StoredRecord) => Effect.Effect<void, unknown, R | StorageBackend>)
    | undefined
  /**
   * A client of the same engine that loses answers to writes: `isLost` is asked for each write that reaches the engine,
   * and if it is true, the engine applies the write and its answer is lost. The client's retry schedule must allow for
   * several retries. Without this option, the cases that need it are skipped.
   */
  readonly lossy?:
    | ((isLost: () => boolean) => Effect.Effect<StorageBackend["Service"], unknown, R | StorageBackend | Scope.Scope>)
    | undefined
  /**
   * Whether the engine makes commits of several records; true by default. If not, the cases that need them are left
   * out.
   */
  readonly commits?: boolean | undefined
  /** How properties are checked; `replay` takes what a failure printed. */
  readonly check?: Arbitrary.CheckOptions | undefined
  /** How long one case may take, in milliseconds; 60,000 by default. */
  readonly timeout?: number | undefined
}

/**
 * One case of the contract, and the number of the promise that it checks. `run` is undefined if an option that the case
 * needs is missing; `needs` names the option.
 *
 * @category models
 * @since 0.1.0
 */
export interface Case<R> {
  readonly promise: number
  readonly name: string
  readonly needs?: "plant" | "lossy"
  readonly run: Effect.Effect<void, unknown, R | StorageBackend | Scope.Scope> | undefined
}

/**
 * The clock of the suite: a `TestClock` of its own, set to the real time, with real sleeps.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageCases from "effect-versioned-store/StorageCases"
 * import { Layer } from "effect"
 *
 * export const layerTest = Layer.provideMerge(InMemory.layer, StorageCases.layerClock)
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClock: Layer.Layer<never> = Layer.effect(
  Clock.Clock,
  Effect.gen(function* () {
    const testClock = yield* TestClock.make()
    const now = yield* testClock.withLive(Clock.currentTimeMillis)
    yield* testClock.setTime(Math.ceil(now / 1000) * 1000)
    return { ...testClock, sleep: (duration) => testClock.withLive(Effect.sleep(duration)) }
  })
)

/**
 * The cases of the contract. Each needs {@link layerClock} below the backend.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageCases from "effect-versioned-store/StorageCases"
 * import { Effect, Layer } from "effect"
 *
 * const layer = Layer.provideMerge(InMemory.layer, StorageCases.layerClock)
 * for (const { name, promise, run } of StorageCases.cases(InMemory.layer)) {
 *   if (promise !== 2 || run === undefined) continue
 *   await Effect.runPromise(Effect.provide(Effect.scoped(run), layer))
 *   console.log(`passed: ${name}`)
 * }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const cases = <R, RIn>(
  layer: Layer.Layer<R | StorageBackend, unknown, RIn>,
  options: Options<NoInfer<R>> = {}
): ReadonlyArray<Case<R | RIn>> => {
  const { check, commits: hasCommits = true, lossy, plant, shared = false } = options

  const settingIn = (context: Context.Context<R | RIn | StorageBackend>): Setting => ({
    check,
    shared,
    plant: (key, record) => (plant === undefined ? missing : Effect.provide(plant(key, record), context)),
    lossy: (isLost) => (lossy === undefined ? missing : Effect.provide(lossy(isLost), context)),
    twoBuilds: Effect.provide(twoBuilds(layer), context)
  })

  const drafts = [...contents, ...(hasCommits ? contentsWithCommits : [])].flat()
  return drafts.flatMap(({ run, shared: isForShared = shared, ...draft }) => {
    if (isForShared !== shared) return []
    const isSkipped = draft.needs !== undefined && options[draft.needs] === undefined
    return {
      ...draft,
      run: isSkipped
        ? undefined
        : Effect.contextWith((context: Context.Context<R | RIn | StorageBackend>) =>
            Effect.asVoid(run(settingIn(context)))
          )
    }
  })
}

const missing = Effect.die("The suite ran a case that needs an option which is missing")
