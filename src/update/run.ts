/**
 * How an update of a record lands, however many change the record at once. Updates that decide at once share writes
 * (`group.ts`). The others make one attempt of their own, and after a conflict run alone, each in its turn. An update
 * is retried for 30 seconds from its call, unless its caller gives a schedule.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Schedule from "effect/Schedule"
import { byteLength } from "../internal/utf8.ts"
import type { StorageBackend } from "../StorageBackend.ts"
import type { Backend, CapacityExceeded, VersionConflict } from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"
import { attempt, type Change, IsInTurn, Lost, type Start, startAfter, startOf } from "./attempt.ts"
import { drain } from "./group.ts"
import {
  cancelUnneeded,
  close,
  deadlineFrom,
  dequeue,
  enqueue,
  find,
  type Lane,
  type Lanes,
  lanesOf,
  type Member,
  open,
  type Turn,
  withoutParent
} from "./lanes.ts"
import { bySchedule, monotonicMillis, type Retry, untilDeadline } from "./retry.ts"
import { problemInTransaction } from "./transacting.ts"

/**
 * Whether updates of one record that run at the same time in one process share writes. They do by default: `update`,
 * `updateSome`, `modify`, `modifySome` and `upsert` without a schedule of their own, `StorageKeyValueStore`'s `modify`,
 * and the changes of tasks. The first one writes at once. Those that come meanwhile wait, run one after another on one
 * record, and land in one compare-and-set, up to 256 at a time. Each gets its own result and its own version, and only
 * once the write has landed.
 *
 * The functions of updates that wait run in a fiber that belongs to none of the callers. A function may run several
 * times, so it must be pure. The metric `effect_versioned_store.updates_per_write` is a histogram of how many updates
 * landed in each of that fiber's writes. It does not count the writes of updates that did not wait.
 *
 * If group commit is switched off, an update writes on its own, and after a conflict takes turns with the others of its
 * process. An update in `Effect.runSync` does so as well if others run, and takes no turns, since it can't wait.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, VersionedStore } from "effect-versioned-store"
 * import { Effect, Schema } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
 *   const key = { owner: "alice", id: "visits" }
 *   yield* counters.create(key, 1)
 *   const alone = counters.update(key, (n) => n + 1).pipe(Effect.provideService(VersionedStore.GroupCommit, false))
 *   assert.strictEqual((yield* alone).value, 2)
 * })
 * Effect.runSync(program.pipe(Effect.provide(InMemory.layer)))
 * ```
 *
 * @category configuration
 * @since 0.1.0
 */
export const GroupCommit = Context.Reference<boolean>("effect-versioned-store/GroupCommit", {
  defaultValue: () => true
})

export interface Update<A, E, R> extends Change<A, E, R> {
  /** Whether it may share a write with others: it decides at once, and never removes. */
  readonly isShared: boolean
  /** Says whether and after how long another attempt follows a conflict. The first one never waits. */
  readonly retrySchedule?: Schedule.Schedule<unknown, VersionConflict> | undefined
}

type Failure<E> = E | VersionConflict | CapacityExceeded | Backend

type Run = <A, E, R>(update: Update<A, E, R>) => Effect.Effect<A, Failure<E>, R>

/**
 * Changes records of a backend: in two requests, or in one if the record is known, and in a part of one if others
 * change the same record at the same time. If the time or the schedule is spent, it fails with the `VersionConflict`.
 */
export const make = (backend: StorageBackend["Service"]): Run => {
  const lanesBy = lanesOf(backend)

  /** Runs an effect when it is the only one of its key in this process. `hasWaited` says whether others were first. */
  const inTurn = <A, E, R>(
    key: StorageKey,
    deadline: number,
    run: (hasWaited: boolean) => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E, R> =>
    Effect.withFiber((fiber): Effect.Effect<A, E, R> => {
      if (fiber.getRef(IsInTurn)) return run(false)
      const lanes = lanesBy(fiber.getRef(Clock.Clock))
      const alone = (hasWaited: boolean) => Effect.provideService(run(hasWaited), IsInTurn, true)
      const busy = find(lanes, key)
      if (busy !== undefined && isSync(fiber)) return run(false)
      if (busy !== undefined) return waitForTurn(lanes, key, deadline, alone(true), inTurn(key, deadline, run))
      return leading(lanes, key, fiber, () => alone(false), inTurn(key, deadline, run))
    })

  /** Attempts until the update has landed. Between two attempts without a wait, it stays in its turn. */
  const alone = Effect.fnUntraced(function* <A, E, R>(
    update: Update<A, E, R>,
    { deadline, retry }: Patience,
    first: Start | undefined
  ): Effect.fn.Return<A, Failure<E>, R> {
    let start = first
    for (;;) {
      const result = yield* inTurn(update.key, deadline, (hasWaited) =>
        attemptAtOnce(backend, update, retry, hasWaited ? startOf(update) : start)
      )
      if (!(result instanceof Wait)) return result
      yield* Effect.sleep(result.millis)
      start = undefined
    }
  })

  /** Makes one attempt, and after a conflict takes turns. */
  const freeThenAlone = Effect.fnUntraced(function* <A, E, R>(
    update: Update<A, E, R>,
    patience: Patience
  ): Effect.fn.Return<A, Failure<E>, R> {
    const result = yield* attempt(backend, update, startOf(update))
    return result instanceof Lost ? yield* afterLost(update, patience, result) : result
  })

  const afterLost = Effect.fnUntraced(function* <A, E, R>(
    update: Update<A, E, R>,
    patience: Patience,
    lost: Lost
  ): Effect.fn.Return<A, Failure<E>, R> {
    const millis = lost.conflict === undefined ? 0 : yield* patience.retry(lost.conflict)
    if (millis > 0) yield* Effect.sleep(millis)
    return yield* alone(update, patience, millis > 0 ? undefined : startAfter(lost))
  })

  /** Leads a lane with one attempt of its own. After a conflict, it becomes a member like the others. */
  const lead = <A, E, R>(update: Update<A, E, R>, lanes: Lanes, fiber: AnyFiber, calledAt: number) =>
    leading(
      lanes,
      update.key,
      fiber,
      (lane, end) =>
        Effect.flatMap(attempt(backend, update, startOf(update), lane), (result): Effect.Effect<A, Failure<E>, R> => {
          if (!(result instanceof Lost)) return Effect.succeed(result)
          const deadline = deadlineSince(lanes.clock, calledAt)
          if (isUngrouped(fiber)) return Effect.andThen(end(), afterLost(update, patienceUntil(deadline), result))
          if (result.conflict !== undefined && monotonicMillis(lanes.clock) >= deadline)
            return Effect.fail(result.conflict)
          const start = startAfter(result)
          lane.conflicts++
          lane.base = start && { ...start, isOutOfDate: lane.queue.length > 0 }
          return join(update, lanes, fiber, calledAt, deadline, end)
        }),
      enter(update, calledAt)
    )

  /** Waits in a lane's queue until a group has landed with it: at the head if it has led the lane until now. */
  const join = <A, E, R>(
    update: Update<A, E, R>,
    lanes: Lanes,
    fiber: AnyFiber,
    calledAt: number,
    deadline: number,
    endLead?: () => unknown
  ) =>
    Effect.callback<A, Failure<E>, R>((resume) => {
      // The fiber may have been paused on its way here, and the lane may have ended.
      const lane = find(lanes, update.key)
      if (lane === undefined) return resume(enter(update, calledAt))
      let settled = false
      let onSettled = () => {
        settled = true
      }
      const member: Member = {
        _tag: "Member",
        change: update as unknown as Member["change"],
        context: fiber.context,
        deadline,
        isGone: false,
        settle: (exit) => {
          resume(exit as Exit.Exit<A, E>)
          onSettled()
        },
        evict: () => resume(afterWait(update, deadline))
      }
      enqueue(lane, member, endLead === undefined ? "end" : "head")
      endLead?.()
      return Effect.suspend(() => {
        const isSent = abandon(lane, member)
        if (!isSent || update.onLanded === undefined || settled) return Effect.void
        return Effect.callback<void>((resume) => {
          onSettled = () => resume(Effect.void)
        })
      })
    })

  /** Whoever has waited in vain makes one attempt without a turn. */
  const afterWait = <A, E, R>(update: Update<A, E, R>, deadline: number): Effect.Effect<A, Failure<E>, R> =>
    Effect.provideService(freeThenAlone(update, patienceUntil(deadline)), IsInTurn, true)

  /** Leads a lane if there is none, and otherwise waits in it. */
  const enter = <A, E, R>(update: Update<A, E, R>, calledAt: number): Effect.Effect<A, Failure<E>, R> =>
    Effect.withFiber((fiber) => enterFrom(fiber, update, calledAt))

  const enterFrom = <A, E, R>(fiber: AnyFiber, update: Update<A, E, R>, calledAt: number) => {
    const lanes = lanesBy(fiber.getRef(Clock.Clock))
    if (find(lanes, update.key) === undefined) return lead(update, lanes, fiber, calledAt)
    if (isUngrouped(fiber)) return freeThenAlone(update, patienceUntil(deadlineSince(lanes.clock, calledAt)))
    return join(update, lanes, fiber, calledAt, deadlineSince(lanes.clock, calledAt))
  }

  return (update) =>
    Effect.withFiber((fiber) => {
      const problem = problemInTransaction(fiber, backend, update.key)
      if (problem !== undefined) return problem
      const clock = fiber.getRef(Clock.Clock)
      const { isShared, retrySchedule } = update
      if (retrySchedule !== undefined) {
        const patience = { deadline: deadlineFrom(clock), retry: bySchedule(retrySchedule) }
        return isShared ? alone(update, patience, startOf(update)) : freeThenAlone(update, patience)
      }
      if (!isShared) return freeThenAlone(update, patienceUntil(deadlineFrom(clock)))
      return enterFrom(fiber, update, clock.currentTimeMillisUnsafe())
    })
}

/** How long an update waits for a turn, and between attempts. */
interface Patience {
  readonly deadline: number
  readonly retry: Retry
}

const patienceUntil = (deadline: number): Patience => ({ deadline, retry: untilDeadline(deadline) })

/**
 * The deadline of a call. Reading the monotonic time took several percent of a lone update in memory, so each call
 * reads the wall clock, and the monotonic time only if it has to wait.
 */
const deadlineSince = (clock: Clock.Clock, calledAt: number): number =>
  deadlineFrom(clock) - Math.max(0, clock.currentTimeMillisUnsafe() - calledAt)

type AnyFiber = Fiber.Fiber<unknown, unknown>

/** Whether a fiber runs in `Effect.runSync`, and so can't wait. */
const isSync = (fiber: AnyFiber): boolean => fiber.cache.scheduler.executionMode === "sync"

/** Nobody waits for a turn from within a turn. */
const isUngrouped = (fiber: AnyFiber): boolean => fiber.getRef(IsInTurn) || !fiber.getRef(GroupCommit) || isSync(fiber)

/**
 * Opens a lane and runs an effect as its leader, which ends its lead when it exits, if it has not called `end` before.
 *
 * A fiber may be paused between any two of its steps, and interrupted while it is paused. So the lane is opened when
 * the finalizer that ends it is in place. If another fiber has opened the lane by then, `otherwise` runs.
 */
const leading = <A, E, R>(
  lanes: Lanes,
  key: StorageKey,
  fiber: AnyFiber,
  run: (lane: Lane, end: () => Effect.Effect<void>) => Effect.Effect<A, E, R>,
  otherwise: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  let led: Lane | undefined
  const end = () => {
    if (led !== undefined) leave(led, fiber)
    led = undefined
    return Effect.void
  }
  return Effect.onExit(
    Effect.suspend(() => {
      if (find(lanes, key) !== undefined) return otherwise
      led = open(lanes, key)
      return run(led, end)
    }),
    end
  )
}

/** An update that has to wait before its next attempt. */
class Wait {
  readonly millis: number
  constructor(millis: number) {
    this.millis = millis
  }
}

const attemptAtOnce = Effect.fnUntraced(function* <A, E, R>(
  backend: StorageBackend["Service"],
  update: Update<A, E, R>,
  retry: Retry,
  first: Start | undefined
): Effect.fn.Return<A | Wait, Failure<E>, R> {
  let start = first
  for (;;) {
    const result = yield* attempt(backend, update, start)
    if (!(result instanceof Lost)) return result
    const millis = result.conflict === undefined ? 0 : yield* retry(result.conflict)
    if (millis > 0) return new Wait(millis)
    start = startAfter(result)
  }
})

/** Ends the lead of a lane. If others wait, a fiber that belongs to none of them serves them. */
const leave = (lane: Lane, fiber: AnyFiber): void => {
  const { landed } = lane
  if (lane.queue.length === 0) {
    close(lane)
  } else {
    if (landed !== undefined) {
      lane.base = { record: landed, isOutOfDate: true }
      lane.landedBytes = byteLength(landed.data)
    }
    Effect.runForkWith(withoutParent(fiber.context))(drain(lane))
  }
}

/** Runs an effect when its turn comes in a lane, or another one if the lane has ended meanwhile. */
const waitForTurn = <A, E, R>(
  lanes: Lanes,
  key: StorageKey,
  deadline: number,
  effect: Effect.Effect<A, E, R>,
  otherwise: Effect.Effect<A, E, R>
) => {
  let release = () => {}
  let dropTurn = () => {}
  return Effect.onExit(
    Effect.callback<A, E, R>((resume) => {
      const lane = find(lanes, key)
      if (lane === undefined) return resume(otherwise)
      const turn: Turn = {
        _tag: "Turn",
        deadline,
        start: (over) => {
          release = over
          resume(effect)
        },
        evict: () => resume(effect)
      }
      dropTurn = () => dequeue(lane, turn)
      enqueue(lane, turn)
    }),
    () =>
      Effect.sync(() => {
        dropTurn()
        release()
      })
  )
}

/** Leaves a group whose member's caller was interrupted. Returns whether the member's function may have been sent. */
const abandon = (lane: Lane, member: Member): boolean => {
  member.isGone = true
  dequeue(lane, member)
  if (!lane.group.includes(member)) return false
  if (lane.running?.member === member) lane.running.fiber.interruptUnsafe()
  cancelUnneeded(lane)
  return true
}
