/**
 * A worker: a process that runs executions. It holds one lease for all of them, a slot with a number, and keeps a mark
 * for each execution that it runs, which is written before the run begins and removed after it ends. If the worker
 * dies, another one takes its slot, finds the marks, and publishes the executions for all workers to take.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as FiberMap from "effect/FiberMap"
import type * as Scope from "effect/Scope"
import * as Lease from "../../Lease.ts"
import * as LeaseRecord from "../../lease/stored.ts"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import type { InvalidKey } from "../../StorageKey.ts"
import { type Names, parseMark } from "./names.ts"
import type * as Stored from "./stored.ts"

/** How many other workers each one follows: those with the next numbers. */
const followed = 4

/** After how many looks the marks of a slot that nobody holds are looked at, too: a stopped worker may leave one. */
const sweepEvery = 10

const concurrency = 16

/** The slot that this process holds. */
export interface Held extends Stored.Worker {
  readonly lease: Lease.Lease
}

/** A slot, whether it is held or has been. */
interface Slot extends Stored.Worker {
  readonly isHeld: boolean
}

export interface Options {
  readonly leaseMillis: number
  /** Puts right an execution that a worker has left which held a slot before its current holder. */
  readonly recover: (executionId: string, current: Stored.Worker) => Effect.Effect<void, Backend | CapacityExceeded>
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
  /** The slots as of the last look, by their numbers. */
  let slots = new Map<number, Slot>()

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

  /** Puts one execution right, and removes its mark. If that takes long, the mark is for the next look. */
  const recoverOne = (mark: VersionedRecord, current: Stored.Worker) => {
    const { executionId, token } = parseMark(mark.key.id)
    if (token >= current.token) return Effect.void
    return Effect.andThen(recover(executionId, current), backend.delete(mark.key)).pipe(
      Effect.timeoutOption(leaseMillis),
      Effect.catchCause((cause) => Effect.logWarning(`Could not put right the execution ${executionId}`, cause))
    )
  }

  /** Takes the first slot that is free. */
  const acquire: Effect.Effect<Held, InvalidKey | CapacityExceeded | Backend, Scope.Scope> = Effect.gen(function* () {
    for (let slot = 0; ; slot++) {
      const lease = yield* Effect.catchTag(tryAcquire(slot), "LeaseTaken", () => Effect.undefined)
      if (lease !== undefined) return { slot, token: lease.token, lease }
    }
  })

  /** Takes the slot of a worker that is dead, and leaves it free. */
  const takeOver = (slot: number) =>
    tryAcquire(slot).pipe(
      Effect.flatMap(({ token }) => recoverAll(slot, token)),
      Effect.catchTag("LeaseTaken", () => Effect.void),
      Effect.scoped
    )

  /** All slots that have ever been held. */
  const look = Effect.gen(function* () {
    const { records } = yield* Effect.catchTag(
      backend.listByPrefix(names.leases, { limit: 1000 }),
      "InvalidCursor",
      Effect.die
    )
    const found = yield* Effect.forEach(records, (record) =>
      Effect.match(LeaseRecord.decode(record), {
        onSuccess: ({ holder, token }) => [
          { slot: Number(record.key.id.slice("lease/".length)), token, isHeld: holder !== null }
        ],
        onFailure: (): ReadonlyArray<Slot> => []
      })
    )
    return found.flat()
  })

  let looks = 0
  const follow = Effect.fnUntraced(function* ({ slot: own, token }: Held, takingOver: FiberMap.FiberMap<number>) {
    slots = new Map((yield* look).map((found) => [found.slot, found]))
    const sweeps = looks++ % sweepEvery === sweepEvery - 1
    const others = Array.from(slots.values())
      .filter(({ isHeld, slot }) => slot !== own && (isHeld || sweeps))
      .map(({ slot }) => slot)
      .sort((a, b) => a - b)
    const next = [...others.filter((slot) => slot > own), ...others.filter((slot) => slot < own)]
    const run = (slot: number, effect: Effect.Effect<void, unknown>) =>
      FiberMap.run(
        takingOver,
        slot,
        Effect.catchCause(effect, (cause) => Effect.logWarning(`Worker ${slot} could not be followed`, cause)),
        { onlyIfMissing: true }
      )
    for (const slot of sweeps ? next : next.slice(0, followed)) yield* run(slot, takeOver(slot))
    if (sweeps) yield* run(own, recoverAll(own, token))
  })

  const followAll = Effect.fnUntraced(function* (held: Held) {
    const takingOver = yield* FiberMap.make<number>()
    yield* FiberMap.run(takingOver, held.slot, recoverAll(held.slot, held.token))
    yield* follow(held, takingOver).pipe(
      Effect.catchCause((cause) => Effect.logWarning("Other workers could not be followed", cause)),
      Effect.delay(leaseMillis / 4),
      Effect.forever
    )
  }, Effect.scoped)

  const work = Effect.gen(function* () {
    const taken = yield* acquire
    slots.set(taken.slot, { slot: taken.slot, token: taken.token, isHeld: true })
    own = taken
    Deferred.doneUnsafe(held, Effect.succeed(taken))
    yield* Effect.raceFirst(
      Effect.flip(taken.lease.lost),
      Effect.all([followAll(taken), whileHeld], { concurrency: "unbounded", discard: true })
    )
    held = Deferred.makeUnsafe()
    own = undefined
    yield* Effect.logWarning(`The lease of workflow worker ${taken.slot} was lost`)
    yield* Effect.timeoutOption(onLost, leaseMillis)
  }).pipe(
    Effect.scoped,
    Effect.catchCause((cause) =>
      Effect.andThen(Effect.logWarning("No workflow runs here for the moment", cause), Effect.sleep(leaseMillis / 4))
    )
  )

  return {
    /** Works until it is interrupted. */
    run: Effect.forever(work),

    current: (): Held | undefined => own,

    /** The slot that this process holds, as soon as it does. Who waits for it must hold no lock. */
    held: Effect.suspend(() => Deferred.await(held)),

    /** Whether a worker held its slot when this one looked last. */
    isAlive: ({ slot, token }: Stored.Worker) => slots.get(slot)?.token === token && slots.get(slot)?.isHeld === true,

    /** Whether a worker can't run anything any more: it has released its slot, or another one has held it since. */
    isDead: ({ slot, token }: Stored.Worker) => {
      const found = slots.get(slot)
      return found !== undefined && (found.token > token || (found.token === token && !found.isHeld))
    },

    /** Whether the lease is still held, by this process's clocks: they tell before any timer does. */
    isHolding: Effect.suspend(() =>
      own === undefined
        ? Effect.succeed(false)
        : Effect.match(own.lease.check, { onSuccess: () => true, onFailure: () => false })
    ),

    isOwn: ({ slot, token }: Stored.Worker) => own?.slot === slot && own.token === token,
    isOwnSlot: (slot: number | undefined) => own !== undefined && own.slot === slot,

    /** The workers that are alive. */
    alive: () => Array.from(slots.values()).flatMap(({ isHeld, slot }) => (isHeld ? [slot] : [])),

    mark: (held: Stored.Worker, executionId: string) =>
      Effect.catchTag(
        Effect.suspend(() => backend.put(names.mark(held, executionId), "")),
        "InvalidData",
        Effect.die
      ),

    unmark: (held: Stored.Worker, executionId: string): Effect.Effect<void, Backend> =>
      Effect.asVoid(Effect.suspend(() => backend.delete(names.mark(held, executionId))))
  }
})
