/**
 * The rules of a circuit, as in Effect's stores: when a call is admitted, and what its outcome changes. The probe of a
 * half-open circuit holds a lease, as in Effect's Redis store.
 */
import * as Duration from "effect/Duration"
import type * as CircuitBreaker from "effect/persistence/CircuitBreaker"
import * as Schema from "effect/Schema"
import type { Change } from "./states.ts"

export const Circuit = Schema.Struct({
  state: Schema.Literals(["Closed", "Open", "HalfOpen"]),
  /** Fences permits. It rises with each change of the state and each probe, and starts at the time in microseconds. */
  generation: Schema.Number,
  lastActivity: Schema.Number,
  /** The failures in a row. */
  streak: Schema.Number,
  /** The last outcomes for a policy by rate, the newest one last: 1 is a failure. */
  outcomes: Schema.String,
  openUntil: Schema.Number,
  consecutiveOpenings: Schema.Number,
  lastOpenFor: Schema.Number,
  resetAt: Schema.Number,
  leaseUntil: Schema.Number
})
type Circuit = typeof Circuit.Type

export interface Times {
  readonly leaseMillis: number
  readonly idleMillis: number
}

type Transition = CircuitBreaker.Transition

/** What becomes of a call that asks to be admitted. */
export type Admitted =
  | { readonly _tag: "Admitted"; readonly admission: CircuitBreaker.Admission }
  | { readonly _tag: "Open"; readonly remainingMillis: number }
  | { readonly _tag: "HalfOpen" }

/** If a circuit is in use, its last activity is written again after this part of the idle time. */
const refreshedAfter = 0.1

const nextGeneration = (current: number, now: number): number => Math.max(current + 1, now * 1000)

/** A state is kept for the idle time after its last activity, and not while it is open or its probe holds the lease. */
const expiryOf = ({ lastActivity, leaseUntil, openUntil, state }: Circuit, idleMillis: number): number =>
  idleMillis + Math.max(lastActivity, state === "Open" ? openUntil : 0, state === "HalfOpen" ? leaseUntil : 0)

export const makeRules = ({ idleMillis, leaseMillis }: Times) => {
  const live = (circuit: Circuit | undefined, now: number): Circuit | undefined =>
    circuit !== undefined && expiryOf(circuit, idleMillis) > now ? circuit : undefined

  const written = <A>(answer: A, state: Circuit): Change<Circuit, A> => ({
    answer,
    next: { state, expiresAtMillis: expiryOf(state, idleMillis) }
  })

  /** Nothing has changed but the last activity, which is not written each time. */
  const used = <A>(answer: A, circuit: Circuit, now: number): Change<Circuit, A> =>
    now - circuit.lastActivity < idleMillis * refreshedAfter
      ? { answer }
      : written(answer, { ...circuit, lastActivity: now })

  const probe = (key: string, circuit: Circuit, now: number): Change<Circuit, Admitted> => {
    const { consecutiveOpenings } = circuit
    const transition: Transition | undefined =
      circuit.state === "Open" ? { key, from: "Open", to: "HalfOpen" } : undefined
    const generation = nextGeneration(circuit.generation, now)
    return written(
      { _tag: "Admitted", admission: { generation, probe: true, consecutiveOpenings, transition } },
      { ...circuit, state: "HalfOpen", generation, lastActivity: now, leaseUntil: now + leaseMillis }
    )
  }

  const admit =
    (key: string) =>
    (stored: Circuit | undefined, now: number): Change<Circuit, Admitted> => {
      const circuit = live(stored, now)
      const admitted = ({ consecutiveOpenings, generation }: Circuit): Admitted => ({
        _tag: "Admitted",
        admission: { generation, probe: false, consecutiveOpenings, transition: undefined }
      })
      if (circuit === undefined) {
        const created = newCircuit(nextGeneration(stored?.generation ?? 0, now), now)
        return written(admitted(created), created)
      }
      if (circuit.state === "Open") {
        return now < circuit.openUntil
          ? { answer: { _tag: "Open", remainingMillis: circuit.openUntil - now } }
          : probe(key, circuit, now)
      }
      if (circuit.state === "HalfOpen") {
        return circuit.leaseUntil > now ? { answer: { _tag: "HalfOpen" } } : probe(key, circuit, now)
      }
      if (circuit.consecutiveOpenings > 0 && now >= circuit.resetAt) {
        const reset = { ...circuit, consecutiveOpenings: 0, lastActivity: now }
        return written(admitted(reset), reset)
      }
      return used(admitted(circuit), circuit, now)
    }

  const open = (
    key: string,
    circuit: Circuit,
    from: "Closed" | "HalfOpen",
    openFor: Duration.Duration,
    now: number
  ): Change<Circuit, Transition> => {
    const lastOpenFor = Duration.toMillis(openFor)
    const consecutiveOpenings = circuit.consecutiveOpenings + 1
    return written(
      { key, from, to: "Open", retryAfter: openFor, consecutiveOpenings },
      {
        ...circuit,
        ...noOutcomes,
        state: "Open",
        generation: nextGeneration(circuit.generation, now),
        lastActivity: now,
        openUntil: now + lastOpenFor,
        consecutiveOpenings,
        lastOpenFor,
        leaseUntil: 0
      }
    )
  }

  type Recorded = Parameters<CircuitBreaker.CircuitBreakerStore["Service"]["record"]>[0]

  const recordProbe = (
    { key, openFor, outcome }: Recorded,
    circuit: Circuit,
    now: number
  ): Change<Circuit, Transition | undefined> => {
    if (outcome === "Failure") return open(key, circuit, "HalfOpen", openFor, now)
    // A new generation fences a renewal of the lease that is on its way.
    const ended = { ...circuit, generation: nextGeneration(circuit.generation, now), lastActivity: now, leaseUntil: 0 }
    if (outcome === "Ignored") return written(undefined, ended)
    return written<Transition>(
      { key, from: "HalfOpen", to: "Closed" },
      { ...ended, state: "Closed", resetAt: now + circuit.lastOpenFor }
    )
  }

  const record =
    (recorded: Recorded) =>
    (stored: Circuit | undefined, now: number): Change<Circuit, Transition | undefined> => {
      const { generation, key, openFor, outcome, tripPolicy } = recorded
      const circuit = live(stored, now)
      if (circuit === undefined || circuit.generation !== generation) return { answer: undefined }
      if (circuit.state === "HalfOpen") return recordProbe(recorded, circuit, now)
      if (outcome === "Ignored") return used(undefined, circuit, now)
      const isFailure = outcome === "Failure"
      const streak = isFailure ? circuit.streak + 1 : 0
      const outcomes =
        tripPolicy._tag === "Rate"
          ? `${circuit.outcomes}${isFailure ? 1 : 0}`.slice(-tripPolicy.size)
          : circuit.outcomes
      const counted = { ...circuit, streak, outcomes, lastActivity: now }
      if (trips(counted, tripPolicy)) return open(key, counted, "Closed", openFor, now)
      return streak === circuit.streak && outcomes === circuit.outcomes
        ? used(undefined, circuit, now)
        : written(undefined, counted)
    }

  /** Whether the lease of a probe was renewed. It can't be won back. */
  const renew =
    (generation: number) =>
    (stored: Circuit | undefined, now: number): Change<Circuit, boolean> => {
      const circuit = live(stored, now)
      return circuit?.state === "HalfOpen" && circuit.generation === generation
        ? written(true, { ...circuit, leaseUntil: now + leaseMillis })
        : { answer: false }
    }

  const state =
    (key: string) =>
    (stored: Circuit | undefined, now: number): Change<Circuit, CircuitBreaker.State> => {
      const circuit = live(stored, now)
      if (circuit === undefined || circuit.state === "Closed") return { answer: { _tag: "Closed", key } }
      const { consecutiveOpenings, leaseUntil, openUntil } = circuit
      const retryAfter = Duration.millis(Math.max(0, openUntil - now))
      return {
        answer:
          circuit.state === "Open"
            ? { _tag: "Open", key, retryAfter, consecutiveOpenings }
            : { _tag: "HalfOpen", key, probing: leaseUntil > now, consecutiveOpenings }
      }
    }

  return { admit, record, renew, state }
}

const noOutcomes = { streak: 0, outcomes: "" }

const newCircuit = (generation: number, now: number): Circuit => ({
  ...noOutcomes,
  state: "Closed",
  generation,
  lastActivity: now,
  openUntil: 0,
  consecutiveOpenings: 0,
  lastOpenFor: 0,
  resetAt: 0,
  leaseUntil: 0
})

const trips = ({ outcomes, streak }: Circuit, policy: CircuitBreaker.TripPolicy): boolean => {
  if (policy._tag === "Consecutive") return streak >= policy.failures
  const failures = outcomes.replaceAll("0", "").length
  return outcomes.length >= policy.minimumCalls && failures > 0 && failures / outcomes.length >= policy.threshold
}
