/** How an execution gets to know that something has happened: in this process at once, and elsewhere by the agenda. */
import * as Effect from "effect/Effect"
import { fnv1a } from "../../internal/fnv1a.ts"
import type { VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import { monotonicMillis } from "../../update/retry.ts"
import type { Sighting } from "./agenda.ts"
import { addStep, type Execution, isRunning, type WakeMode, wakeAgain } from "./execution.ts"
import { ids } from "./names.ts"
import type { Runs } from "./runs.ts"
import type { Shared } from "./shared.ts"
import * as Stored from "./stored.ts"

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

/** How soon an entry is looked at again if what it points to is not there yet: then it doubles. */
const firstLookAgainMillis = 50

/** How long a worker leaves an entry to the worker that it falls to, so that not all take it at once. */
const leaveMillis = 200

const encoder = new TextEncoder()

export type Wakes = ReturnType<typeof makeWakes>

export const makeWakes = (shared: Shared, runs: Runs, pollMillis: number) => {
  const { agenda, clock, executions, lock, names, records, registered, worker } = shared

  /** Interrupts a run that waits for a deferred, so that it begins anew and finds it. */
  const preempt = (executionId: string, deferred: string) =>
    shared.fork(shared.deferredState.deferredDone(executionId, deferred))

  const clockPrefix = "DurableClock/"

  /** Tells a run of this process about a step that has landed. */
  const deliver = (execution: Execution, step: VersionedRecord): void => {
    const { id } = step.key
    addStep(execution, step)
    wakeAgain(execution, id === ids.interrupt ? "explicit" : "automatic")
    if (id === ids.interrupt && execution.interruptedUnsafe) execution.fiber?.interruptUnsafe()
    const deferred = /^step\/deferred\/(.*)$/s.exec(id)?.[1]
    if (deferred !== undefined) preempt(execution.id, deferred)
  }

  /** Sends something to an execution that does not run here, and is not to be taken. */
  const send = Effect.fnUntraced(function* ({ executionId, mode, store, what, workflow }: Message) {
    const entry = { executionId, workflow, what }
    const since = monotonicMillis(clock)
    yield* agenda.put(entry)
    yield* store
    if (mode === "explicit") {
      yield* shared.backend
        .put(names.keyOf(executionId, ids.resumes), "")
        .pipe(Effect.catchTags({ InvalidData: Effect.die, CapacityExceeded: Effect.die }))
    }
    yield* runs.putInbox(executionId)
    // A worker may have removed the entry, since it pointed to nothing for so long.
    if (monotonicMillis(clock) - since > shared.leaseMillis / 2) yield* agenda.put(entry)
    if (!registered.has(workflow)) return
    yield* lock(executionId, runs.take(executionId, "news"))
  })

  // --- the agenda ---

  /** The record that an entry says has been written. */
  const factOf = (what: string): string | undefined =>
    what.startsWith("deferred/") ? `step/${what}` : what === "interrupt" ? ids.interrupt : undefined

  /** Tells a run of this process what an entry says. Returns whether it is there. */
  const absorb = Effect.fnUntraced(function* (execution: Execution, { what }: Stored.Entry) {
    const fact = factOf(what)
    if (fact !== undefined) {
      const step = execution.steps.get(fact) ?? (yield* records.get(execution.id, fact))
      if (step === undefined) return false
      if (!execution.steps.has(fact)) deliver(execution, step)
      return true
    }
    if (what.startsWith("clock/")) {
      wakeAgain(execution, "automatic")
      preempt(execution.id, `${clockPrefix}${what.slice("clock/".length)}`)
    }
    if (what === "resume") wakeAgain(execution, "explicit")
    if (what === "child") wakeAgain(execution, "automatic")
    return true
  })

  const lookAgain = ({ count }: Sighting): number =>
    Math.min(pollMillis, firstLookAgainMillis * 2 ** Math.min(count - 1, 20))

  /** Handles an entry that is due. Returns after how long it is looked at again if it stays. */
  const handleWake = (sighting: Sighting): Effect.Effect<number | undefined, Backend | CapacityExceeded> =>
    Effect.gen(function* () {
      const { entry, record, sinceMillis } = sighting
      const { executionId, what } = entry
      const running = executions.get(executionId)
      if (running !== undefined && isRunning(running)) {
        return (yield* absorb(running, entry)) ? yield* agenda.remove(record) : lookAgain(sighting)
      }
      const isStale = monotonicMillis(clock) - sinceMillis >= shared.leaseMillis
      const fact = factOf(what)
      // What was stored without news of it may not have been seen by any run.
      const wish =
        what.startsWith("clock/") || (isStale && fact !== undefined && (yield* records.get(executionId, fact)))
          ? "automatic"
          : "news"
      const taking = yield* runs.take(executionId, wish)
      if (taking === "Elsewhere" || taking === "Unregistered") return undefined
      if (taking === "Taken") {
        const isThere = fact === undefined || executions.get(executionId)?.steps.has(fact)
        return isThere ? yield* agenda.remove(record) : lookAgain(sighting)
      }
      if (taking === "Complete") return yield* agenda.remove(record)
      if (!isStale) return lookAgain(sighting)
      if (taking === "Absent") yield* removeLater(entry)
      yield* agenda.remove(record)
    })

  /** What was sent to an execution that nobody has started is kept as long as a finished one. */
  const removeLater = ({ executionId, workflow }: Stored.Entry) =>
    agenda.put({
      executionId,
      workflow,
      what: "remove",
      atMillis: clock.currentTimeMillisUnsafe() + shared.retentionMillis
    })

  const handleRemoval = Effect.fnUntraced(function* ({ entry, record }: Sighting) {
    const run = yield* records.get(entry.executionId, ids.run)
    if (run === undefined || Stored.run.decode(run).state === "complete") yield* records.removeAll(entry.executionId)
    return yield* agenda.remove(record)
  })

  /** The worker that an execution falls to: the workers that are alive share them out alike. */
  const fallsTo = (executionId: string): number | undefined => {
    let best: { readonly slot: number; readonly weight: bigint } | undefined
    for (const slot of worker.alive()) {
      const weight = fnv1a(encoder.encode(`${slot}/${executionId}`))
      if (best === undefined || weight > best.weight) best = { slot, weight }
    }
    return best?.slot
  }

  return {
    deliver,
    preempt,
    send,
    clockPrefix,

    /** When an entry with a time is due for this worker: others wait while the worker lives that keeps the time. */
    dueAtMillis: (own: () => Stored.Worker | undefined) => (entry: Stored.Entry, atMillis: number) => {
      const held = own()
      const isOwn = held?.slot === entry.worker?.slot && held?.token === entry.worker?.token
      const isOthers = entry.worker !== undefined && !isOwn && worker.isAlive(entry.worker)
      return isOthers ? atMillis + shared.leaseMillis / 2 : atMillis
    },

    handle: (own: () => Stored.Worker | undefined) => (sighting: Sighting) =>
      Effect.suspend((): Effect.Effect<number | undefined, Backend | CapacityExceeded> => {
        const { entry, sinceMillis } = sighting
        if (entry.what === "remove") return handleRemoval(sighting)
        if (!registered.has(entry.workflow)) return Effect.succeed(undefined)
        const wait = leaveMillis - (monotonicMillis(clock) - sinceMillis)
        const isOwn = executions.has(entry.executionId) || fallsTo(entry.executionId) === own()?.slot
        if (!isOwn && wait > 0 && entry.atMillis === undefined) return Effect.succeed(wait)
        return lock(entry.executionId, handleWake(sighting))
      })
  }
}
