/**
 * Counts what is asked of an engine or a backend, and makes requests fail on purpose: a test decides the fate of each
 * request, by a script, by chance from a seed, or by any function. Hints pass as they are.
 */
import * as Effect from "effect/Effect"
import type { Engine } from "../Engine.ts"
import type { StorageBackend } from "../StorageBackend.ts"
import { type Backend, makeBackend, type Reason } from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"
import { randomFrom } from "./internal/random.ts"

/**
 * One request. `index` counts the requests from 0 up, and `key` is undefined for listings and clean-ups.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request<Name extends string = string> {
  readonly name: Name
  readonly index: number
  readonly key: StorageKey | undefined
}

/**
 * What becomes of a request:
 *
 * - `pass`: it is applied and answered.
 * - `lose`: it is applied, and its answer is lost.
 * - `drop`: it is not applied, and not answered.
 * - `throttle` and `deny`: it is not applied, and the answer says so. Only the first of these may be tried again.
 * - an error: it is not applied, and fails with this error.
 *
 * @category models
 * @since 0.1.0
 */
export type Outcome = "pass" | "lose" | "drop" | "throttle" | "deny" | Backend

/**
 * The outcome of a request (`pass` by default), with something done before the request is sent, or after it was applied
 * and before it is answered.
 *
 * @category models
 * @since 0.1.0
 */
export interface Steps {
  readonly before?: Effect.Effect<unknown, unknown>
  readonly outcome?: Outcome
  readonly after?: Effect.Effect<unknown, unknown>
}

/**
 * What becomes of a request.
 *
 * @category models
 * @since 0.1.0
 */
export type Fate = Outcome | Steps

/**
 * What is known of the requests.
 *
 * @category models
 * @since 0.1.0
 */
export interface Requests<Name extends string> {
  /** The names of the requests so far. A test may empty it; `index` counts on. */
  readonly requests: Array<Name>
  /** The names of the requests since this was last called. */
  readonly taken: () => ReadonlyArray<Name>
  /** The most requests that ran at the same time. */
  readonly mostRunning: () => number
}

/**
 * An engine whose requests are counted and have the fates that a test decides.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { Engine, StorageKey } from "effect-versioned-store"
 * import * as Faults from "effect-versioned-store/Faults"
 * import { Effect } from "effect"
 *
 * const written = { _tag: "Written", version: 1 } as const
 * const engine: Engine.Engine = {
 *   read: () => Effect.succeed(undefined),
 *   put: () => Effect.succeed(written),
 *   swap: () => Effect.succeed(written),
 *   remove: () => Effect.succeed({ _tag: "Removed" }),
 *   list: () => Effect.succeed({ records: [], next: undefined }),
 *   cleanup: () => Effect.succeed(0)
 * }
 * const faults = Faults.engine(engine, Faults.script(["throttle"]))
 * const key = StorageKey.makeUnsafe({ owner: "alice", id: "a" })
 *
 * // The backend sends a throttled write again.
 * await Effect.runPromise(Engine.make(faults.engine).put(key, "data"))
 * assert.deepStrictEqual(faults.requests, ["put", "put"])
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const engine = (
  engine: Engine,
  fateOf: (request: Request<keyof Engine>) => Fate = () => "pass"
): Requests<keyof Engine> & { readonly engine: Engine } => {
  const { request, ...requests } = watch(fateOf)
  const { commit, hints, readEventually, readMany, remembersCommits } = engine
  return {
    ...requests,
    engine: {
      read: (key) => request("read", key, () => engine.read(key)),
      ...(readEventually && { readEventually: (key) => request("readEventually", key, () => readEventually(key)) }),
      ...(readMany && { readMany: (keys) => request("readMany", keys[0], () => readMany(keys)) }),
      put: (key, ...rest) => request("put", key, () => engine.put(key, ...rest)),
      swap: (key, ...rest) => request("swap", key, () => engine.swap(key, ...rest)),
      remove: (key, ...rest) => request("remove", key, () => engine.remove(key, ...rest)),
      ...(commit && {
        commit: (...args) => request("commit", args[0].steps[0]?.key, () => commit(...args))
      }),
      ...(remembersCommits && { remembersCommits }),
      list: (...args) => request("list", undefined, () => engine.list(...args)),
      cleanup: (nowSeconds) => request("cleanup", undefined, () => engine.cleanup(nowSeconds)),
      ...(hints && { hints })
    }
  }
}

/**
 * A backend whose operations are counted and have the fates that a test decides. The errors reach the caller as they
 * are: the loop over lost answers is below this.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
 * import * as Faults from "effect-versioned-store/Faults"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const losePuts = ({ name }: { readonly name: string }) => (name === "put" ? "lose" : "pass")
 *   const faults = Faults.backend(yield* StorageBackend.StorageBackend, losePuts)
 *   const key = StorageKey.makeUnsafe({ owner: "alice", id: "a" })
 *   const error = yield* Effect.flip(faults.backend.put(key, "data"))
 *   assert.strictEqual(error._tag, "Backend")
 *   assert.strictEqual((yield* faults.backend.get(key)).data, "data")
 *   assert.deepStrictEqual(faults.requests, ["put", "get"])
 * })
 *
 * await Effect.runPromise(Effect.provide(program, InMemory.layer))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const backend = (
  backend: StorageBackend["Service"],
  fateOf: (request: Request<keyof StorageBackend["Service"]>) => Fate = () => "pass"
): Requests<keyof StorageBackend["Service"]> & { readonly backend: StorageBackend["Service"] } => {
  const { request, ...requests } = watch(fateOf)
  return {
    ...requests,
    backend: {
      get: (key) => request("get", key, () => backend.get(key)),
      getMany: (keys) => request("getMany", keys[0], () => backend.getMany(keys)),
      put: (key, ...rest) => request("put", key, () => backend.put(key, ...rest)),
      putIfVersion: (key, ...rest) => request("putIfVersion", key, () => backend.putIfVersion(key, ...rest)),
      delete: (key) => request("delete", key, () => backend.delete(key)),
      deleteIfVersion: (key, expected) => request("deleteIfVersion", key, () => backend.deleteIfVersion(key, expected)),
      commit: (...args) => request("commit", undefined, () => backend.commit(...args)),
      listByPrefix: (...args) => request("listByPrefix", undefined, () => backend.listByPrefix(...args)),
      cleanupExpired: request("cleanupExpired", undefined, () => backend.cleanupExpired),
      hints: backend.hints
    }
  }
}

/**
 * The fates of the first requests, in order. All after them pass.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import * as Faults from "effect-versioned-store/Faults"
 *
 * const fateOf = Faults.script(["drop", "lose"])
 * assert.deepStrictEqual([0, 1, 2].map((index) => fateOf({ index })), ["drop", "lose", "pass"])
 * ```
 *
 * @category fates
 * @since 0.1.0
 */
export const script =
  (fates: ReadonlyArray<Fate>) =>
  ({ index }: { readonly index: number }): Fate =>
    fates[index] ?? "pass"

/**
 * Fates by chance: each outcome with the probability that it is given; all other requests pass. The same seed gives the
 * same fates.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import * as Faults from "effect-versioned-store/Faults"
 *
 * const fateOf = Faults.chance(42, { lose: 0.1, throttle: 0.1 })
 * const fates = Array.from({ length: 1000 }, fateOf)
 * assert.ok(fates.filter((fate) => fate === "lose").length > 50)
 * ```
 *
 * @category fates
 * @since 0.1.0
 */
export const chance = (
  seed: number,
  probabilities: { readonly [Name in Exclude<Outcome, "pass" | Backend>]?: number }
): (() => Fate) => {
  const random = randomFrom(seed)
  return () => {
    let left = random()
    for (const name of ["lose", "drop", "throttle", "deny"] as const) {
      left -= probabilities[name] ?? 0
      if (left < 0) return name
    }
    return "pass"
  }
}

// -----------------------------------------------------------------------------

const watch = <Name extends string>(fateOf: (request: Request<Name>) => Fate) => {
  const requests: Array<Name> = []
  let [index, running, mostRunning] = [0, 0, 0]

  const request = <A, E>(
    name: Name,
    key: StorageKey | undefined,
    send: () => Effect.Effect<A, E | Backend>
  ): Effect.Effect<A, E | Backend> =>
    Effect.suspend(() => {
      requests.push(name)
      const fate = fateOf({ name, key, index: index++ })
      const sent = Effect.suspend(send)
      mostRunning = Math.max(mostRunning, ++running)
      return Effect.ensuring(
        isSteps(fate) ? withSteps(sent, fate) : withOutcome(sent, fate),
        Effect.sync(() => running--)
      )
    })

  return { request, requests, taken: () => requests.splice(0), mostRunning: () => mostRunning }
}

const isSteps = (fate: Fate): fate is Steps => typeof fate === "object" && !("_tag" in fate)

const withSteps = <A, E>(sent: Effect.Effect<A, E | Backend>, { after, before, outcome = "pass" }: Steps) => {
  // What is done after a refused request too, as a fault of the engine would be.
  const followed =
    after === undefined ? sent : Effect.flatMap(Effect.exit(sent), (exit) => Effect.andThen(Effect.orDie(after), exit))
  const decided = withOutcome(followed, outcome)
  return before === undefined ? decided : Effect.andThen(Effect.orDie(before), decided)
}

const withOutcome = <A, E>(sent: Effect.Effect<A, E | Backend>, outcome: Outcome): Effect.Effect<A, E | Backend> => {
  switch (outcome) {
    case "pass":
      return sent
    case "lose":
      return Effect.andThen(sent, fault("Unavailable", "unknown"))
    case "drop":
      return fault("Timeout", "unknown")
    case "throttle":
      return fault("Throttled", "not-applied")
    case "deny":
      return fault("Unauthorized", "not-applied")
    default:
      return Effect.fail(outcome)
  }
}

const fault = (reason: Reason["_tag"], outcome: Backend["outcome"]) =>
  Effect.suspend(() => Effect.fail(makeBackend({ reason, outcome, description: `told to be ${reason}` })))
