/**
 * What the clients of one key did and saw, and whether that history is linearizable: whether the operations can be put
 * into one order, each at an instant between its start and its end, that explains every answer. Likewise what the
 * clients of several keys did by commits, and whether that history is strictly serializable.
 *
 * A write whose answer was lost may have taken effect at any time after its start, or never.
 */

/**
 * One operation on the key. `start` and `end` are instants of one logical clock, which moves at each start and each
 * end.
 *
 * @category models
 * @since 0.1.0
 */
export type Operation = Read | Write | Conflict

/**
 * A read, and what it found: nothing, or a version and, if it is known, its data.
 *
 * @category models
 * @since 0.1.0
 */
export interface Read {
  readonly _tag: "Read"
  readonly start: number
  readonly end: number
  readonly found: { readonly version: number; readonly data?: string | undefined } | undefined
}

/**
 * A write, and the version it made. An undefined version is an unknown outcome.
 *
 * @category models
 * @since 0.1.0
 */
export interface Write {
  readonly _tag: "Write"
  readonly start: number
  readonly end: number
  readonly data: string
  /** The version that must be there; 0: no record must be there; undefined: any or none. */
  readonly expected: number | undefined
  readonly version: number | undefined
}

/**
 * A compare-and-set that was refused, and the version that it found instead.
 *
 * @category models
 * @since 0.1.0
 */
export interface Conflict {
  readonly _tag: "Conflict"
  readonly start: number
  readonly end: number
  readonly expected: number
  readonly actual: number
}

/**
 * Why a history is not linearizable, or undefined if it is. The key has no record at the start.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import * as History from "effect-versioned-store/History"
 *
 * const write = (start: number, end: number, expected: number, version: number): History.Operation => ({
 *   _tag: "Write", start, end, data: `version ${version}`, expected, version
 * })
 *
 * assert.strictEqual(History.anomaly([write(0, 1, 0, 1), write(2, 3, 1, 2)]), undefined)
 * // Two writes over one version: the first one of them is lost.
 * assert.match(History.anomaly([write(0, 1, 0, 1), write(2, 4, 1, 2), write(3, 5, 1, 3)]) ?? "", /no order/)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const anomaly = (history: ReadonlyArray<Operation>): string | undefined =>
  explain<Operation, State>(history, { version: 0, above: 0, data: undefined }, apply, isUnknown)

/**
 * A commit on several keys, or what a client did to them in another way. `found` is the data that it expected at some
 * keys, and `written` the data that it leaves at some keys; undefined is no record. A read finds, and writes nothing.
 * Every write has data of its own, so that data stands for a version.
 *
 * @category models
 * @since 0.1.0
 */
export interface Commit {
  readonly start: number
  readonly end: number
  readonly outcome: "made" | "refused" | "unknown"
  readonly found: { readonly [key: string]: string | undefined }
  readonly written: { readonly [key: string]: string | undefined }
}

/**
 * Why a history of commits is not strictly serializable, or undefined if it is. No key has a record at the start.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import * as History from "effect-versioned-store/History"
 *
 * const both = { a: "a1", b: "b1" }
 * const created = { start: 0, end: 1, outcome: "made", found: {}, written: both } as const
 * // Each of two commits read both records and changed one of them: write skew.
 * const first = { start: 2, end: 4, outcome: "made", found: both, written: { a: "a2" } } as const
 * const second = { start: 3, end: 5, outcome: "made", found: both, written: { b: "b2" } } as const
 *
 * assert.strictEqual(History.anomalyOfCommits([created, first, { ...second, outcome: "refused" }]), undefined)
 * assert.match(History.anomalyOfCommits([created, first, second]) ?? "", /no order/)
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const anomalyOfCommits = (history: ReadonlyArray<Commit>): string | undefined =>
  explain<Commit, Data>(history, {}, applyCommit, ({ outcome }) => outcome === "unknown")

// -----------------------------------------------------------------------------

interface Timed {
  readonly start: number
  readonly end: number
}

/** Looks for an order of the operations that explains them. */
const explain = <Op extends Timed, S extends object>(
  history: ReadonlyArray<Op>,
  start: S,
  apply: (operation: Op, state: S) => S | undefined,
  isUnknown: (operation: Op) => boolean
): string | undefined => {
  const operations = history.toSorted((a, b) => a.start - b.start)
  const places = new Map(operations.map((operation, place) => [operation, place]))
  const visited = new Set<string>()
  let furthest: ReadonlyArray<Op> = operations

  /** Whether the pending operations can follow on a state: each can be the next that no other one ended before. */
  const canFollow = (pending: ReadonlyArray<Op>, state: S): boolean => {
    if (pending.every(isUnknown)) return true
    if (pending.length < furthest.length) furthest = pending
    const firstEnd = pending.reduce((end, next) => (isUnknown(next) ? end : Math.min(end, next.end)), Infinity)
    const choices = pending.flatMap((operation) => {
      const next = operation.start > firstEnd ? undefined : apply(operation, state)
      return next === undefined ? [] : [{ operation, next }]
    })
    const without = (operation: Op) => pending.filter((other) => other !== operation)
    // An operation that fits and changes nothing can always come next, so no other choice needs to be tried.
    const unchanging = choices.find(({ next }) => next === state)
    if (unchanging !== undefined) return canFollow(without(unchanging.operation), state)
    const name = `${pending.map((operation) => places.get(operation)).join()} ${JSON.stringify(state)}`
    if (visited.has(name)) return false
    visited.add(name)
    return choices.some(({ next, operation }) => canFollow(without(operation), next))
  }

  if (canFollow(operations, start)) return undefined
  return `no order of the operations explains ${JSON.stringify(furthest[0])} and the ${furthest.length - 1} after it`
}

/** What the key holds. The version of a write of unknown outcome is undefined until it is seen: `above` so much. */
interface State {
  readonly version: number | undefined
  readonly above: number
  readonly data: string | undefined
}

const isUnknown = (operation: Operation) => operation._tag === "Write" && operation.version === undefined

/** The state with the version that an operation saw, or undefined if that can't be its version. */
const seen = (state: State, version: number): State | undefined => {
  if (state.version === undefined) return version > state.above ? { ...state, version, above: version } : undefined
  return state.version === version ? state : undefined
}

/** What an operation makes of a state, or undefined if its answer is wrong there. */
const apply = (operation: Operation, state: State): State | undefined => {
  switch (operation._tag) {
    case "Read": {
      const { found } = operation
      const current = seen(state, found?.version ?? 0)
      return found?.data === undefined || found.data === current?.data ? current : undefined
    }
    case "Conflict":
      return operation.expected === operation.actual ? undefined : seen(state, operation.actual)
    case "Write": {
      const { data, expected, version } = operation
      const before = expected === undefined ? state : seen(state, expected)
      if (before === undefined) return undefined
      if (version === undefined) return { version, above: before.above, data }
      return version > before.above ? { version, above: version, data } : undefined
    }
  }
}

/** What the keys hold. A key without a record is left out, and the keys are in order. */
type Data = { readonly [key: string]: string }

const applyCommit = ({ found, outcome, written }: Commit, state: Data): Data | undefined => {
  const isAsFound = Object.entries(found).every(([key, data]) => state[key] === data)
  if (outcome === "refused") return isAsFound ? undefined : state
  if (!isAsFound) return undefined
  const changed = Object.entries({ ...state, ...written }).filter(
    (entry): entry is [string, string] => entry[1] !== undefined
  )
  return Object.keys(written).length === 0
    ? state
    : Object.fromEntries(changed.toSorted(([a], [b]) => (a < b ? -1 : 1)))
}
