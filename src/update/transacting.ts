/** Which transaction a fiber runs in, so that no other write from within changes a record of the transaction. */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { StorageBackend, VersionedRecord } from "../StorageBackend.ts"
import type { StorageKey } from "../StorageKey.ts"

type Service = StorageBackend["Service"]

/** What a transaction leaves at a key: data and its expiry, or no record. */
export type Written = Pick<VersionedRecord, "data" | "expiresAt"> | undefined

/** What a transaction has read, and what it will write, by the ids of the records. */
export interface State {
  readonly owner: string
  /** The backend of the first store that the transaction has used. */
  backend: Service | undefined
  readonly reads: Map<string, VersionedRecord | undefined>
  writes: Map<string, Written>
  isOver: boolean
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
  if (state === undefined || state.isOver || state.backend !== backend || state.owner !== key.owner) return undefined
  if (!state.reads.has(key.id) && !state.writes.has(key.id)) return undefined
  return Effect.die(new Error(`The record at ${key} is part of this transaction: change it by tx`))
}

/** Runs a write that belongs to no transaction. */
export const outside = <A, E, R>(
  backend: Service,
  key: StorageKey,
  write: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  running === 0 ? write : Effect.withFiber((fiber) => problemInTransaction(fiber, backend, key) ?? write)
