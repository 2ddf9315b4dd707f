/** Which transaction a fiber runs in, so that no other write from within changes a record of the transaction. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { StorageBackend, VersionedRecord } from "../StorageBackend.ts"
import type { StorageKey } from "../StorageKey.ts"

type Service = StorageBackend["Service"]

/** What a transaction leaves at a key: data and its expiry, or no record. */
export type Written = Pick<VersionedRecord, "data" | "expiresAt"> | undefined

/** What a transaction and those within it have read, by the ids of the records. */
export interface Reads {
  readonly owner: string
  /** The backend of the first store that the transaction has used. */
  backend: Service | undefined
  readonly records: Map<string, VersionedRecord | undefined>
}

/**
 * A transaction, or one within it. Each has its own writes, by the ids of the records. Those of an inner one become
 * those of the outer one when the inner one succeeds. Each record that is written has been read.
 */
export interface State {
  readonly reads: Reads
  readonly outer: State | undefined
  /** What an inner transaction has seen of its outer one. Other fibers of that may change it meanwhile. */
  readonly seen: Map<string, Written>
  readonly writes: Map<string, Written>
  isOver: boolean
}

export const makeState = (reads: Reads, outer?: State): State => ({
  reads,
  outer,
  seen: new Map(),
  writes: new Map(),
  isOver: false
})

/** What a transaction sees of a record that it has read: what was written last, or else what was read. */
export const seenIn = (state: State, id: string): Written => {
  if (state.writes.has(id)) return state.writes.get(id)
  if (state.outer === undefined) return state.reads.records.get(id)
  const seen = seenIn(state.outer, id)
  if (!state.seen.has(id)) state.seen.set(id, seen)
  return seen
}

/** Whether an inner transaction has seen what its outer one no longer holds. */
export const isStale = ({ outer, seen }: State): boolean => {
  if (outer === undefined) return false
  for (const [id, written] of seen) if (seenIn(outer, id) !== written) return true
  return false
}

/**
 * The transaction that a fiber runs in, if it is this one or within this one, and otherwise this one. So what runs
 * within an inner transaction belongs to that, whichever `tx` it uses.
 */
export const innermost = (fiber: Fiber.Fiber<unknown, unknown>, state: State): State => {
  const current = fiber.getRef(Current)
  for (let at = current; at !== undefined && !at.isOver; at = at.outer) if (at === state) return current ?? state
  return state
}

export const Current = Context.Reference<State | undefined>("effect-versioned-store/Transaction", {
  defaultValue: () => undefined
})

/** How many transactions run in this process. If none does, no write looks for its own. */
let running = 0

/** Runs an effect within a transaction. */
export const within = <A, E, R>(state: State, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.sync(() => running++),
    () => Effect.provideService(effect, Current, state),
    () =>
      Effect.sync(() => {
        running--
        state.isOver = true
      })
  )

/**
 * The defect of a write that belongs to no transaction, in a fiber whose transaction has the same record. The write
 * would make each commit of that transaction a conflict.
 */
export const problemInTransaction = (
  fiber: Fiber.Fiber<unknown, unknown>,
  backend: Service,
  key: StorageKey
): Effect.Effect<never> | undefined => {
  if (running === 0) return undefined
  const state = fiber.getRef(Current)
  if (state === undefined || state.isOver) return undefined
  const { reads } = state
  if (reads.backend !== backend || reads.owner !== key.owner || !reads.records.has(key.id)) return undefined
  return Effect.die(new Error(`The record at ${key} is part of this transaction: change it by tx`))
}

/** Runs a write that belongs to no transaction. Which fiber runs it is known only then. */
export const outside = <A, E, R>(
  backend: Service,
  key: StorageKey,
  write: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => Effect.withFiber((fiber) => problemInTransaction(fiber, backend, key) ?? write)
