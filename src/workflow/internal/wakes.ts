/** How an execution gets to know that something has happened: at once if it runs here, and by the agenda if not. */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { fnv1a } from "../../internal/fnv1a.ts"
import type { VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import { monotonicMillis } from "../../update/retry.ts"
import type { Sighting } from "./agenda.ts"
import { addStep, type Execution, isRunning, runningIn, type WakeMode, wakeAgain } from "./execution.ts"
import { clockDeferred, ids, removal } from "./names.ts"
import type { Removing } from "./removing.ts"
import type { Shared } from "./shared.ts"
import type * as Stored from "./stored.ts"
import type { Taker } from "./taking.ts"

/** What is sent to an execution from outside. */
export interface Message {
  readonly executionId: string
  readonly workflow: string
  /** Names it in the agenda: `deferred/<name>`, `interrupt` or `resume`. */
  readonly what: string
  readonly mode: WakeMode
  /** Stores what has happened, if there is anything to store. */
  readonly store: Effect.Effect<unknown, Backend | CapacityExceeded>
}

/** How soon an entry is looked at again if what it points to is not there yet. The pause doubles. */
const firstLookAgainMillis = 50

/** For how long a worker leaves an entry to the worker that it falls to, so that not all of them take it at once. */
const leaveMillis = 200

const encoder = new TextEncoder()

export type Wakes = ReturnType<typeof makeWakes>

export const makeWakes = (shared: Shared, taker: Taker, removing: Removing, concurrency: number) => {
  const { agenda, clock, executions, lock, records, registered, worker } = shared
  /** The executions that were found in the agenda, and that may run here. */
  const taken = new Set<string>()
  /** The entries that are being handled. */
  const handling = new Set<string>()
  /** Whether some were left in the agenda, since too many ran. */
  let hasLeft = false

  /** Interrupts a run that waits for a deferred, so that it begins anew and finds it. */
  const preempt = (execution: Execution, deferred: string): void => {
    if (execution.missed.has(deferred)) shared.fork(shared.deferredState.deferredDone(execution.id, deferred))
  }

  /**
   * Ends a run for an unsafe interruption. Its finalizers are for the next run, which no interruption is pending in.
   */
  const cutOff = (execution: Execution): void => {
    if (execution.isEnding) return
    execution.instance.abandoned = true
    execution.fiber?.interruptUnsafe()
  }

  /** Tells a run of this process about a step that has landed. */
  const deliver = (execution: Execution, step: VersionedRecord): void => {
    const { id } = step.key
    addStep(execution, step)
    wakeAgain(execution, id === ids.interrupt ? "explicit" : "automatic")
    if (id === ids.interrupt && execution.interruptedUnsafe) cutOff(execution)
    if (id.startsWith(ids.deferred(""))) preempt(execution, id.slice(ids.deferred("").length))
  }

  /** Sends something to an execution that does not run here and can't be taken. */
  const send = Effect.fnUntraced(function* ({ executionId, mode, store, what, workflow }: Message) {
    const counts = Effect.andThen(
      mode === "explicit" ? records.count(executionId, ids.resumes) : Effect.void,
      records.count(executionId, ids.inbox)
    )
    yield* agenda.announce({ executionId, workflow, what }, Effect.andThen(store, counts))
    // It may have been suspended meanwhile.
    if (registered.has(workflow)) yield* lock(executionId, taker.take(executionId, "news"))
  })

  /** Tells a run of this process what an entry says. Returns whether it is there. */
  const absorb = Effect.fnUntraced(function* (execution: Execution, what: string) {
    const fact = factOf(what)
    if (fact !== undefined && !execution.steps.has(fact)) {
      const step = yield* records.get(execution.id, fact)
      if (step !== undefined) deliver(execution, step)
      return step !== undefined
    }
    const sleep = what.startsWith("clock/") ? clockDeferred(what.slice("clock/".length)) : undefined
    if (sleep !== undefined && execution.missed.has(sleep)) {
      wakeAgain(execution, "automatic")
      preempt(execution, sleep)
    }
    if (what === "resume") wakeAgain(execution, "explicit")
    if (what === "child") wakeAgain(execution, "automatic")
    return true
  })

  const lookAgain = ({ count }: Sighting): number => firstLookAgainMillis * 2 ** Math.min(count - 1, 10)

  /** Handles an entry that is due. Returns after how long it is looked at again, unless that is the usual time. */
  const handleWake = Effect.fnUntraced(function* (
    sighting: Sighting
  ): Effect.fn.Return<number | undefined, Backend | CapacityExceeded> {
    const { executionId, what } = sighting.entry
    const done = agenda.remove(sighting.record)
    const running = executions.get(executionId)
    if (running !== undefined && isRunning(running)) {
      if (running.end !== undefined) return undefined
      return (yield* absorb(running, what)) ? yield* done : lookAgain(sighting)
    }
    const fact = factOf(what)
    const isStale = monotonicMillis(clock) - sighting.sinceMillis >= shared.leaseMillis
    // What was stored, and then not counted since its sender died, has been seen by no run.
    const isUncounted = isStale && fact !== undefined && (yield* records.get(executionId, fact)) !== undefined
    const isClock = what.startsWith("clock/")
    const wish = isUncounted && what === "interrupt" ? "explicit" : isClock || isUncounted ? "automatic" : "news"
    const taking = yield* taker.take(executionId, wish)
    if (taking === "Elsewhere" || taking === "Unregistered") return undefined
    if (taking === "Taken") {
      taken.add(executionId)
      const isThere = fact === undefined || executions.get(executionId)?.steps.has(fact)
      return isThere ? yield* done : lookAgain(sighting)
    }
    // What the entry points to may be written any moment.
    if (taking !== "Complete" && !isClock && !isStale) return lookAgain(sighting)
    if (taking === "Absent" && isUncounted) {
      // Whoever starts the execution looks for it then.
      yield* records.count(executionId, ids.inbox)
      yield* removing.removeLater(sighting.entry)
    }
    return yield* done
  })

  /** The worker that an execution falls to: those that are alive get like shares. */
  const fallsTo = (executionId: string): number | undefined => {
    const weigh = (slot: number) => fnv1a(encoder.encode(`${slot}/${executionId}`))
    return worker
      .alive()
      .reduce<number | undefined>(
        (best, slot) => (best === undefined || weigh(slot) > weigh(best) ? slot : best),
        undefined
      )
  }

  /** An execution whose records can't be reached keeps no other waiting. */
  const limited = <E>(handled: Effect.Effect<number | undefined, E>) =>
    Effect.map(Effect.timeoutOption(handled, shared.leaseMillis), Option.getOrUndefined)

  const countTaken = (): number => {
    for (const id of taken) if (runningIn(executions, id) === undefined) taken.delete(id)
    return taken.size
  }

  /** Whether as many executions run that were found in the agenda as may run at once. */
  const isFull = (executionId: string): boolean => {
    const isNew = runningIn(executions, executionId) === undefined
    hasLeft = hasLeft || (isNew && countTaken() >= concurrency)
    return isNew && taken.size >= concurrency
  }

  return {
    deliver,
    send,

    isOurs: ({ what, workflow }: Stored.Entry): boolean => what === removal || registered.has(workflow),

    isBusy: (): boolean => hasLeft && countTaken() >= concurrency,

    /** Whether it is time to look for executions that were left: there is room for half as many as may run. */
    hasRoomAgain: (): boolean => {
      if (!hasLeft || countTaken() > concurrency / 2) return false
      hasLeft = false
      return true
    },

    /** When an entry with a time is due here: the worker that keeps the time comes first for as long as it lives. */
    dueAtMillis: ({ worker: keeper }: Stored.Entry, atMillis: number): number =>
      keeper !== undefined && worker.isAlive(keeper) && !worker.isOwn(keeper)
        ? atMillis + shared.leaseMillis / 2
        : atMillis,

    handle: (sighting: Sighting): Effect.Effect<number | undefined, Backend | CapacityExceeded> =>
      Effect.suspend(() => {
        const { atMillis, executionId, what } = sighting.entry
        if (what === removal) return limited(removing.handle(sighting))
        const waitMillis = leaveMillis - (monotonicMillis(clock) - sighting.sinceMillis)
        const isOwn = executions.has(executionId) || worker.isOwnSlot(fallsTo(executionId))
        if (atMillis === undefined && !isOwn && waitMillis > 0) return Effect.succeed(waitMillis)
        const { id } = sighting.record.key
        if (isFull(executionId) || handling.has(id)) return Effect.undefined
        handling.add(id)
        const handled = Effect.ensuring(
          lock(executionId, handleWake(sighting)),
          Effect.sync(() => handling.delete(id))
        )
        return limited(shared.apart(handled))
      })
  }
}

/** The step that an entry says has been written. */
const factOf = (what: string): string | undefined =>
  what.startsWith("deferred/") || what === "interrupt" ? `step/${what}` : undefined
