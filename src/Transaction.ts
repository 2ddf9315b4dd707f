/**
 * Several records of one owner, read and written in one atomic step.
 *
 * A transaction is optimistic. What it reads is remembered, what it writes is kept until its end, and one commit then
 * checks all that was read and writes all that was written. If another writer has changed one of the records meanwhile,
 * the function runs again.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import type { Step, StorageBackend } from "./StorageBackend.ts"
import * as StorageError from "./StorageError.ts"
import type * as StorageKey from "./StorageKey.ts"
import { isConflict } from "./update/attempt.ts"
import { deadlineFrom } from "./update/lanes.ts"
import { bySchedule, type Retry, untilDeadline } from "./update/retry.ts"
import {
  Current,
  innermost,
  isStale,
  makeState,
  type Reads,
  type State,
  seenIn,
  type Written,
  within
} from "./update/transacting.ts"
import {
  type ExpiryOptions,
  insideOf,
  type NewExpiryOptions,
  type ReadError,
  resolveExpiry,
  type VersionedStore,
  withExpiry
} from "./VersionedStore.ts"

/**
 * What the function of a transaction reads and writes by. The stores are all of one backend, and the records all of the
 * transaction's owner; anything else is a defect.
 *
 * A record is read from the backend once, unless several fibers ask for it before the first answer, which then counts
 * for all of them. A read returns what the transaction has written before. A record that is written without having been
 * read is read first, since the commit expects the record that was there.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transaction {
  readonly owner: string

  /** The value of a record. */
  readonly get: <A, RD, RE>(
    store: VersionedStore<A, RD, RE>,
    id: string
  ) => Effect.Effect<A, ReadError | StorageError.RecordNotFound, RD>

  /** The value of a record, or None if there is none. */
  readonly getOption: <A, RD, RE>(
    store: VersionedStore<A, RD, RE>,
    id: string
  ) => Effect.Effect<Option.Option<A>, ReadError, RD>

  /** Writes a record, whatever is there. It takes the expiry away unless it gives one. */
  readonly set: <A, RD, RE>(
    store: VersionedStore<A, RD, RE>,
    id: string,
    value: A,
    options?: ExpiryOptions
  ) => Effect.Effect<void, ReadError, RE>

  /** Writes a record if there is none. */
  readonly create: <A, RD, RE>(
    store: VersionedStore<A, RD, RE>,
    id: string,
    value: A,
    options?: ExpiryOptions
  ) => Effect.Effect<void, ReadError | StorageError.AlreadyExists, RE>

  /** Applies a function to a record's value, and returns the new value. It keeps the expiry unless it gives another. */
  readonly update: <A, RD, RE>(
    store: VersionedStore<A, RD, RE>,
    id: string,
    f: (value: A) => A,
    options?: NewExpiryOptions
  ) => Effect.Effect<A, ReadError | StorageError.RecordNotFound, RD | RE>

  /** Removes a record, whatever it holds. Returns true if there was one. */
  readonly remove: <A, RD, RE>(
    store: VersionedStore<A, RD, RE>,
    id: string
  ) => Effect.Effect<boolean, StorageKey.InvalidKey | StorageError.Backend>
}

/**
 * How a transaction is retried.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /**
   * How a conflict is retried. By default as an update that runs alone: at once, and then after random waits that grow
   * up to 1 s, for 30 seconds in all.
   */
  readonly retrySchedule?: Schedule.Schedule<unknown, StorageError.VersionConflict> | undefined
}

/**
 * What the end of a transaction fails with, beside what its function fails with. `VersionConflict` means that the retry
 * schedule is spent.
 *
 * @category errors
 * @since 0.1.0
 */
export type RunError =
  | StorageError.VersionConflict
  | StorageError.CapacityExceeded
  | StorageError.InvalidCommit
  | StorageError.Backend

/**
 * Runs a function that reads and writes records of one owner, and then commits what it wrote, all or nothing. Returns
 * what the function returned.
 *
 * Transactions are serializable: each of them, and each other operation on the same records, happens as if it were
 * alone. That holds for records that were only read, and for those that were not there.
 *
 * **The function may run several times**, from its start, if other writers change what it read. So it must have no
 * effects outside the transaction that may not happen twice. If the function fails, or writes more than fits, and had
 * read two or more records, these are checked first. If they never stood together, the failure may come from that, so
 * the function runs again.
 *
 * A transaction has at most 100 records and 4,000,000 bytes (`StorageBackend.maxCommitSteps`). It costs one request for
 * each record that it reads, and one for its end: a commit of several steps, or a compare-and-set if it has one record
 * alone. If it has written nothing and has read one record, its end costs nothing. On DynamoDB, the end of a
 * transaction with several records costs twice the write units of its records, also of those that were only read, or
 * twice the read units if it has written nothing.
 *
 * A `run` within a `run` of the same owner joins it. If the inner one fails, what it has written is taken back. If
 * another fiber of the outer one changes what the inner one has seen, the inner function runs again. A `run` of another
 * owner within is a defect, and so is a write by the store itself of a record that the transaction has read or written.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Transaction, VersionedStore } from "effect-versioned-store"
 * import { Effect, Schema } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const accounts = yield* VersionedStore.make({ idPrefix: "account/", schema: Schema.Int })
 *   for (const id of ["a", "b"]) yield* accounts.create({ owner: "alice", id }, 100)
 *
 *   const transfer = (amount: number) =>
 *     Transaction.run("alice", Effect.fnUntraced(function* (tx) {
 *       yield* tx.update(accounts, "a", (balance) => balance - amount)
 *       yield* tx.update(accounts, "b", (balance) => balance + amount)
 *     }))
 *   yield* Effect.all([transfer(10), transfer(20), transfer(30)], { concurrency: "unbounded" })
 *
 *   assert.strictEqual((yield* accounts.get({ owner: "alice", id: "a" })).value, 40)
 *   assert.strictEqual((yield* accounts.get({ owner: "alice", id: "b" })).value, 160)
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const run = <A, E, R>(
  owner: string,
  f: (tx: Transaction) => Effect.Effect<A, E, R>,
  options: Options = {}
): Effect.Effect<A, E | RunError, R> =>
  Effect.withFiber((fiber): Effect.Effect<A, E | RunError, R> => {
    const outer = fiber.getRef(Current)
    if (outer !== undefined && !outer.isOver) return join(outer, owner, f)
    const { retrySchedule } = options
    const retry =
      retrySchedule === undefined ? untilDeadline(deadlineFrom(fiber.getRef(Clock.Clock))) : bySchedule(retrySchedule)
    return retrying(owner, f, retry)
  })

// -----------------------------------------------------------------------------

/**
 * Runs a function within a transaction that runs already. What it writes counts once it has succeeded. If other fibers
 * of the outer transaction have changed meanwhile what it saw, the function runs again.
 */
const join = <A, E, R>(
  outer: State,
  owner: string,
  f: (tx: Transaction) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const { reads } = outer
  if (reads.owner !== owner) {
    return Effect.die(
      new Error(`A transaction on records of ${owner} can't run within one on records of ${reads.owner}`)
    )
  }
  const state = makeState(reads, outer)
  const run = within(
    state,
    Effect.suspend(() => f(makeHandle(state)))
  )
  return Effect.flatMap(Effect.exit(run), (exit) => {
    if (outer.isOver) return dieOver(outer)
    if (isStale(state)) return join(outer, owner, f)
    if (Exit.isSuccess(exit)) for (const [id, written] of state.writes) outer.writes.set(id, written)
    return exit
  })
}

const dieOver = ({ reads: { owner } }: State) => Effect.die(new Error(`The transaction on records of ${owner} is over`))

/** The conflict after which the function runs again. */
class Conflict {
  readonly error: StorageError.VersionConflict
  constructor(error: StorageError.VersionConflict) {
    this.error = error
  }
}

const retrying = Effect.fnUntraced(function* <A, E, R>(
  owner: string,
  f: (tx: Transaction) => Effect.Effect<A, E, R>,
  retry: Retry
): Effect.fn.Return<A, E | RunError, R> {
  for (;;) {
    const result = yield* runOnce(owner, f)
    if (!(result instanceof Conflict)) return yield* result
    const millis = yield* retry(result.error)
    if (millis > 0) yield* Effect.sleep(millis)
  }
})

/** Runs the function and lands what it did. Returns its outcome, which holds only if what it read was checked. */
const runOnce = <A, E, R>(owner: string, f: (tx: Transaction) => Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const reads: Reads = { owner, backend: undefined, records: new Map() }
    const state = makeState(reads)

    type Outcome = Effect.Effect<A, E | RunError>
    const land = (outcome: Outcome): Effect.Effect<Outcome | Conflict, RunError> =>
      Effect.matchEffect(finish(state), {
        onSuccess: () => Effect.succeed(outcome),
        onFailure: (error) => {
          if (isConflict(error)) return Effect.succeed(toConflict(reads, error))
          const isOfWrites = error._tag === "CapacityExceeded" || error._tag === "InvalidCommit"
          return isOfWrites && state.writes.size > 0 ? refute(Effect.fail(error)) : Effect.fail(error)
        }
      })

    /** Lands a failure, which may come from reads that never stood together. One record alone was as it was read. */
    const refute = (failure: Outcome): Effect.Effect<Outcome | Conflict, RunError> => {
      if (reads.records.size < 2) return Effect.succeed(failure)
      state.writes.clear()
      return land(failure)
    }

    return Effect.matchCauseEffect(
      within(
        state,
        Effect.suspend(() => f(makeHandle(state)))
      ),
      {
        onSuccess: (value) => land(Effect.succeed(value)),
        onFailure: (cause) => refute(Effect.failCause(cause))
      }
    )
  })

/** Checks what was read and writes what was written. A record that was read alone needs no check. */
const finish = ({
  reads: { backend, owner, records },
  writes
}: State): Effect.Effect<unknown, RunError | StorageError.RecordNotFound> => {
  const steps = Array.from(records, ([id, read]): Step => {
    const expected = read ?? 0
    const written = writes.get(id)
    if (written !== undefined) return { _tag: "Write", id, expected, data: written.data, expiresAt: written.expiresAt }
    return { _tag: writes.has(id) && read !== undefined ? "Remove" : "Check", id, expected }
  })
  const isNeeded = steps.length > 1 || steps.some(({ _tag }) => _tag !== "Check")
  if (backend === undefined || !isNeeded) return Effect.void
  // The data is JSON, which has no lone surrogates.
  return Effect.catchTag(backend.commit(owner, steps), "InvalidData", Effect.die)
}

/** A record that is gone is a conflict as well, since it was there when it was read. */
const toConflict = (
  { records }: Reads,
  error: StorageError.VersionConflict | StorageError.RecordNotFound
): Conflict => {
  if (error._tag === "VersionConflict") return new Conflict(error)
  const expected = records.get(error.key.id)?.version ?? 0
  return new Conflict(new StorageError.VersionConflict({ key: error.key, expected, actual: 0 }))
}

// -----------------------------------------------------------------------------

/** Reads a record unless the transaction has it, and returns what the transaction sees of it. */
const see = (state: State, backend: StorageBackend["Service"], key: StorageKey.StorageKey) =>
  Effect.suspend((): Effect.Effect<Written, StorageError.Backend> => {
    const { records } = state.reads
    if (records.has(key.id)) return Effect.succeed(seenIn(state, key.id))
    return Effect.map(
      Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined),
      (record) => {
        // Another fiber of the transaction may have read or written the record meanwhile.
        if (!records.has(key.id)) records.set(key.id, record)
        return seenIn(state, key.id)
      }
    )
  })

/** Makes the function that finds the record of an id as the transaction sees it, and what it needs of the store. */
const makeOpen =
  (own: State) =>
  <A, RD, RE>(store: VersionedStore<A, RD, RE>, id: string) =>
    Effect.withFiber((fiber) => {
      const state = innermost(fiber, own)
      if (state.isOver) return dieOver(state)
      const { reads } = state
      const inside = insideOf(store)
      reads.backend ??= inside.backend
      if (reads.backend !== inside.backend) {
        return Effect.die(new Error("A transaction is on one backend, and this store was made with another one"))
      }
      return Effect.flatMap(inside.locate({ owner: reads.owner, id }), (key) =>
        Effect.map(see(state, inside.backend, key), (seen) => ({
          key,
          seen,
          state,
          decode: ({ data }: NonNullable<Written>) => inside.decodeValue({ key, data }),
          /** Writes nothing and returns false if another fiber of the transaction has changed the record meanwhile. */
          write: (value: A, expiresAt: NonNullable<Written>["expiresAt"]) =>
            Effect.flatMap(inside.encode(key, value), (data) => {
              if (state.isOver) return dieOver(state)
              const isUnchanged = seenIn(state, key.id) === seen
              if (isUnchanged) state.writes.set(key.id, { data, expiresAt })
              return Effect.succeed(isUnchanged)
            })
        }))
      )
    })

const makeHandle = (own: State): Transaction => {
  const open = makeOpen(own)

  const getOption: Transaction["getOption"] = Effect.fnUntraced(function* (store, id) {
    const { decode, seen } = yield* open(store, id)
    return seen === undefined ? Option.none() : Option.some(yield* decode(seen))
  })

  return {
    owner: own.reads.owner,
    getOption,

    get: Effect.fnUntraced(function* (store, id) {
      const { decode, key, seen } = yield* open(store, id)
      return seen === undefined ? yield* StorageError.recordNotFound(key) : yield* decode(seen)
    }),

    set: Effect.fnUntraced(function* (store, id, value, options) {
      for (;;) {
        const { write } = yield* open(store, id)
        if (yield* write(value, yield* expiryOf(options, undefined))) return
      }
    }),

    create: Effect.fnUntraced(function* (store, id, value, options) {
      for (;;) {
        const { key, seen, write } = yield* open(store, id)
        if (seen !== undefined) return yield* StorageError.alreadyExists(key)
        if (yield* write(value, yield* expiryOf(options, undefined))) return
      }
    }),

    update: Effect.fnUntraced(function* (store, id, f, options) {
      for (;;) {
        const { decode, key, seen, write } = yield* open(store, id)
        if (seen === undefined) return yield* StorageError.recordNotFound(key)
        const value = f(yield* decode(seen))
        if (yield* write(value, yield* expiryOf(options, seen))) return value
      }
    }),

    remove: Effect.fnUntraced(function* (store, id) {
      const { key, seen, state } = yield* open(store, id)
      if (state.isOver) return yield* dieOver(state)
      state.writes.set(key.id, undefined)
      return seen !== undefined
    })
  }
}

const expiryOf = (options: NewExpiryOptions | undefined, current: Written) =>
  withExpiry(options, Effect.void, (_, expiresAt) => Effect.succeed(resolveExpiry(expiresAt, current)))
