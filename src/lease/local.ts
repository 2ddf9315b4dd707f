/**
 * What one process knows of a lease: who of its own fibers has the turn, who waits, and since when the write that it
 * saw last has stood. It is kept across calls, since a first look alone can't tell that a holder is dead.
 *
 * At most one claim of a process has the turn of a lease: it looks, takes, holds or hands over. The others wait in the
 * order in which they came, and ask the engine nothing.
 */
import type * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { StorageBackend, VersionedRecord } from "../StorageBackend.ts"
import type { StorageKey } from "../StorageKey.ts"
import { monotonicMillis } from "../update/retry.ts"
import type { LeaseLost } from "./errors.ts"
import type { Stored } from "./stored.ts"

/** The most leases that a process remembers beside those that it uses. */
const maxIdle = 10_000

/** How often a process gets a lease again, handed over or taken at once, before others get their chance. */
export const maxHandovers = 16

export interface Local {
  readonly backend: StorageBackend["Service"]
  readonly clock: Clock.Clock
  readonly key: StorageKey
  /** The claim that has the turn. */
  current: Claim | undefined
  readonly queue: Array<Claim>
  /** The write of another holder that was seen last, and the monotonic time after the answer that first showed it. */
  seen: { readonly write: string; readonly holder: string; readonly sinceMillis: number } | undefined
  highestToken: number
  /** How often this process got the lease again in a row, and since when, in monotonic milliseconds. */
  handovers: number
  takenAtMillis: number
  /** The write by which this process released the lease last, and the monotonic time of that. */
  released: { readonly write: string; readonly atMillis: number } | undefined
}

/** A time, by both clocks of this process. */
export interface Instant {
  readonly monotonicMillis: number
  readonly wallMillis: number
}

/** A grant of the lease: its record, and when the write was sent that the lease's time counts from. */
export interface Held {
  readonly record: VersionedRecord
  readonly token: number
  readonly sent: Instant
}

/** What a waiting claim gets when its turn comes. */
export type Turn = "Look" | "LetOthersFirst" | "Granted"

/** One wish to hold the lease, from the call until the release. */
export interface Claim {
  readonly local: Local
  readonly grant: string
  readonly holder: string
  readonly ttlMillis: number
  readonly turn: Deferred.Deferred<Turn>
  /** The number of its last write, and when each write was sent that it does not know the outcome of. */
  sending: number
  readonly sends: Map<number, Instant>
  held: Held | undefined
  /** Whether its caller was interrupted while it waited. */
  isGone: boolean
  readonly lost: Deferred.Deferred<never, LeaseLost>
  /** Why its caller has the lease no more. */
  error: LeaseLost | undefined
  renewal: Fiber.Fiber<void> | undefined
}

const all = new WeakMap<StorageBackend["Service"], WeakMap<Clock.Clock, Map<string, Local>>>()

/** What this process knows of a lease on a backend, by one clock. */
export const localOf = (backend: StorageBackend["Service"], clock: Clock.Clock, key: StorageKey): Local => {
  const byClock: WeakMap<Clock.Clock, Map<string, Local>> = all.get(backend) ?? new WeakMap()
  all.set(backend, byClock)
  const locals: Map<string, Local> = byClock.get(clock) ?? new Map()
  byClock.set(clock, locals)
  const name = String(key)
  const known = locals.get(name)
  // Those that were used last are at the end of the map.
  locals.delete(name)
  const local = known ?? {
    backend,
    clock,
    key,
    current: undefined,
    queue: [],
    seen: undefined,
    highestToken: 0,
    handovers: 0,
    takenAtMillis: 0,
    released: undefined
  }
  if (locals.size >= maxIdle) forgetOldest(locals)
  locals.set(name, local)
  return local
}

const forgetOldest = (locals: Map<string, Local>): void => {
  for (const [name, { current }] of locals) {
    if (current === undefined) return void locals.delete(name)
  }
}

export const newClaim = (local: Local, holder: string, ttlMillis: number): Claim => ({
  local,
  grant: crypto.randomUUID(),
  holder,
  ttlMillis,
  turn: Deferred.makeUnsafe(),
  sending: 0,
  sends: new Map(),
  held: undefined,
  isGone: false,
  lost: Deferred.makeUnsafe(),
  error: undefined,
  renewal: undefined
})

/** Puts a claim in the queue. If nobody has the turn, it is the claim's. */
export const enqueue = (claim: Claim): void => {
  claim.local.queue.push(claim)
  if (claim.local.current === undefined) passTurn(claim.local)
}

/** Gives the turn to the claim that has waited longest. */
export const passTurn = (local: Local): void => {
  const turn = local.handovers < maxHandovers ? "Look" : "LetOthersFirst"
  local.current = local.queue.shift()
  if (local.current !== undefined) Deferred.doneUnsafe(local.current.turn, Effect.succeed(turn))
}

export const instantOf = (clock: Clock.Clock): Instant => ({
  monotonicMillis: monotonicMillis(clock),
  wallMillis: clock.currentTimeMillisUnsafe()
})

/**
 * How much time a claim has left if its lease counts from an instant. The larger of the two times passed counts: the
 * monotonic clock of a suspended host stands still, and its wall clock does not. The lease ends 5% early for its
 * holder, since clocks do not run equally fast.
 */
export const leftSince = ({ local, ttlMillis }: Claim, sent: Instant): number => {
  const now = instantOf(local.clock)
  const passed = Math.max(now.monotonicMillis - sent.monotonicMillis, now.wallMillis - sent.wallMillis)
  return ttlMillis * 0.95 - passed
}

/** How much time a claim's lease has left. Zero or less if it has none, or has lost it. */
export const left = (claim: Claim): number => (claim.held === undefined ? 0 : leftSince(claim, claim.held.sent))

/** Whether a record's lease is that of a claim. */
export const isOf = ({ grant }: Claim, stored: Stored): boolean => stored.grant === grant && stored.holder !== null

/** Names a write of the lease's record. */
export const writeOf = ({ version, writeId }: VersionedRecord): string => `${version}/${writeId}`

/** Remembers a write of the lease that was seen: how long it has stood is counted from the first time. */
export const remember = (local: Local, record: VersionedRecord, stored: Stored): number => {
  local.highestToken = Math.max(local.highestToken, stored.token)
  const write = writeOf(record)
  if (local.seen?.write !== write) {
    local.seen = { write, holder: stored.holder ?? "", sinceMillis: monotonicMillis(local.clock) }
  }
  return local.seen.sinceMillis
}
