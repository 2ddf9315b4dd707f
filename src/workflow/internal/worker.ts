/**
 * A worker: a process that runs executions. It holds one lease for all of them, a slot with a number, and keeps a mark
 * for each execution that it runs, which is written before the run begins and removed after it ends. If the worker
 * dies, another one takes its slot, finds the marks, and publishes the executions for all workers to take.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Lease from "../../Lease.ts"
import * as LeaseRecord from "../../lease/stored.ts"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import type { InvalidKey } from "../../StorageKey.ts"
import type { Names } from "./names.ts"
import * as Stored from "./stored.ts"

/** How many other workers each one follows: those with the next numbers. */
const followed = 4

/** After how many looks the marks of a slot that nobody holds are looked at, too: a stopped worker may leave one. */
const sweepEvery = 10

const concurrency = 16

/** The slot that this process holds. */
export interface Held extends Stored.Worker {
  readonly lease: Lease.Lease
}

export interface Options {
  readonly leaseMillis: number
  /** Puts right an execution that a dead worker has left. It may be another worker's by now. */
  readonly recover: (executionId: string, dead: Stored.Worker) => Effect.Effect<void, Backend | CapacityExceeded>
  /** Runs while a slot is held. */
  readonly whileHeld: Effect.Effect<void>
  /** Runs if the lease is lost: others may have the executions by now. */
  readonly onLost: Effect.Effect<void>
}

export type Worker = Effect.Success<ReturnType<typeof makeWorker>>

export const makeWorker = Effect.fnUntraced(function* (
  names: Names,
  { leaseMillis, onLost, recover, whileHeld }: Options
) {
  const backend = yield* StorageBackend
  let held = Deferred.makeUnsafe<Held>()
  let own: Held | undefined
  /** The workers that hold their slots, by their numbers, as of the last look. */
  let alive = new Map<number, number>()

  const tryAcquire = (slot: number) =>
    Effect.provideService(
      Lease.tryAcquire({ owner: names.workers, id: String(slot) }, { ttl: leaseMillis }),
      StorageBackend,
      backend
    )

  /** Puts right what those who held a slot before have left. */
  const recoverAll = Effect.fnUntraced(function* (slot: number, token: number) {
    let cursor: string | undefined
    do {
      const page = yield* Effect.catchTag(
        backend.listByPrefix(names.marks(slot), { cursor, limit: 100 }),
        "InvalidCursor",
        Effect.die
      )
      yield* Effect.forEach(page.records, (mark) => recoverOne(mark, { slot, token }), { concurrency, discard: true })
      cursor = page.cursor
    } while (cursor !== undefined)
  })

  const recoverOne = (mark: VersionedRecord, dead: Stored.Worker) =>
    Effect.andThen(
      recover(mark.key.id, dead),
      Effect.catchTags(backend.deleteIfVersion(mark.key, mark), {
        VersionConflict: () => Effect.void,
        RecordNotFound: () => Effect.void
      })
    ).pipe(Effect.catchCause((cause) => Effect.logWarning(`Could not put right the execution ${mark.key.id}`, cause)))

  /** Takes the first slot that is free. */
  const acquire: Effect.Effect<Held, InvalidKey | CapacityExceeded | Backend, Scope.Scope> = Effect.gen(function* () {
    for (let slot = 0; ; slot++) {
      const lease = yield* Effect.catchTag(tryAcquire(slot), "LeaseTaken", () => Effect.undefined)
      if (lease !== undefined) return { slot, token: lease.token, lease }
    }
  })

  const takeOver = (slot: number) =>
    tryAcquire(slot).pipe(
      Effect.flatMap(({ token }) => recoverAll(slot, token)),
      Effect.catchTag("LeaseTaken", () => Effect.void),
      Effect.scoped
    )

  let looks = 0
  const follow = Effect.fnUntraced(function* (own: number) {
    const { records } = yield* Effect.catchTag(
      backend.listByPrefix(names.leases, { limit: 1000 }),
      "InvalidCursor",
      Effect.die
    )
    const slots = yield* Effect.forEach(records, (record) =>
      Effect.map(LeaseRecord.decode(record), ({ holder, token }) => ({
        slot: Number(record.key.id.slice("lease/".length)),
        token,
        isHeld: holder !== null
      }))
    )
    alive = new Map(slots.filter(({ isHeld }) => isHeld).map(({ slot, token }) => [slot, token]))
    const sweeps = looks++ % sweepEvery === sweepEvery - 1
    const others = slots
      .filter(({ isHeld, slot }) => slot !== own && (isHeld || sweeps))
      .map(({ slot }) => slot)
      .sort((a, b) => a - b)
    const next = [...others.filter((slot) => slot > own), ...others.filter((slot) => slot < own)]
    yield* Effect.forEach(sweeps ? next : next.slice(0, followed), takeOver, { concurrency, discard: true })
  })

  const followAll = (own: number) =>
    follow(own).pipe(
      Effect.catchCause((cause) => Effect.logWarning("Other workers could not be followed", cause)),
      Effect.delay(leaseMillis / 4),
      Effect.forever
    )

  const work = Effect.gen(function* () {
    const taken = yield* acquire
    yield* recoverAll(taken.slot, taken.token)
    alive.set(taken.slot, taken.token)
    own = taken
    Deferred.doneUnsafe(held, Effect.succeed(taken))
    yield* Effect.raceFirst(
      Effect.flip(taken.lease.lost),
      Effect.all([followAll(taken.slot), whileHeld], { concurrency: "unbounded", discard: true })
    )
    held = Deferred.makeUnsafe()
    own = undefined
    yield* Effect.logWarning(`The lease of workflow worker ${taken.slot} was lost`)
    yield* onLost
  }).pipe(
    Effect.scoped,
    Effect.catchCause((cause) =>
      Effect.andThen(Effect.logWarning("No workflow runs here for the moment", cause), Effect.sleep(leaseMillis / 4))
    )
  )

  return {
    /** Works until it is interrupted. */
    run: Effect.forever(work),

    /** The slot that this process holds, as soon as it does. */
    held: Effect.suspend(() => Deferred.await(held)),

    /** Whether a worker held its slot when this one looked last. */
    isAlive: ({ slot, token }: Stored.Worker) => alive.get(slot) === token,

    /** Whether the lease is still held, by this process's clocks: they tell before any timer does. */
    isHolding: Effect.suspend(() =>
      own === undefined
        ? Effect.succeed(false)
        : Effect.match(own.lease.check, { onSuccess: () => true, onFailure: () => false })
    ),

    isOwn: ({ slot, token }: Stored.Worker) => own?.slot === slot && own.token === token,
    isOwnSlot: (slot: number | undefined) => own !== undefined && own.slot === slot,

    /** The workers that are alive. */
    alive: () => Array.from(alive.keys()),

    mark: (slot: number, executionId: string, workflow: string) =>
      Effect.suspend(() => backend.put(names.mark(slot, executionId), Stored.mark.encode({ workflow }))).pipe(
        Effect.catchTag("InvalidData", Effect.die)
      ),

    unmark: (slot: number, executionId: string): Effect.Effect<void, Backend> =>
      Effect.asVoid(Effect.suspend(() => backend.delete(names.mark(slot, executionId))))
  }
})
