/** The requests of leases. Each ends when its time is over, whatever the engine does. */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import type { VersionedRecord } from "../StorageBackend.ts"
import { type Backend, type CapacityExceeded, makeBackend } from "../StorageError.ts"
import { type Claim, instantOf, isOf, type Local, leftSince, remember } from "./local.ts"
import { decode, encode, type Stored } from "./stored.ts"

/**
 * Runs a request for so many milliseconds at most. Then, or if its caller is interrupted, the request is interrupted as
 * well, and nothing waits for that: a request that hangs may not be interruptible either.
 */
export const within = <A, E>(
  request: Effect.Effect<A, E>,
  millis: number,
  outcome: Backend["outcome"]
): Effect.Effect<A, E | Backend> =>
  Effect.flatMap(Effect.forkDetach(request, { startImmediately: true }), (fiber) =>
    Effect.timeoutOption(Fiber.join(fiber), Math.max(0, millis)).pipe(
      Effect.ensuring(Effect.sync(() => fiber.interruptUnsafe())),
      Effect.flatMap(Option.match({ onSome: Effect.succeed, onNone: () => Effect.fail(outOfTime(outcome)) }))
    )
  )

const outOfTime = (outcome: Backend["outcome"]) =>
  makeBackend({
    operation: "Lease",
    reason: "Timeout",
    outcome,
    description: "the engine did not answer within the time that the lease has left"
  })

/** The record of a lease, and what it says. */
export interface Seen {
  readonly record: VersionedRecord
  readonly stored: Stored
}

const see = (local: Local, record: VersionedRecord | undefined): Effect.Effect<Seen | undefined, Backend> =>
  record === undefined
    ? Effect.undefined
    : Effect.map(decode(record), (stored) => {
        remember(local, record, stored)
        return { record, stored }
      })

/** Reads the record of a lease. */
export const look = (local: Local, millis: number): Effect.Effect<Seen | undefined, Backend> =>
  within(local.backend.get(local.key), millis, "not-applied").pipe(
    Effect.catchTag("RecordNotFound", () => Effect.undefined),
    Effect.flatMap((record) => see(local, record))
  )

/** What became of a write, and the record that is there now. */
export interface Sent {
  readonly isWritten: boolean
  readonly seen: Seen | undefined
  /** The answer was lost: the record that is there may be that of before the write. */
  readonly lost?: Backend
}

/**
 * Writes the record of a lease over exactly what was seen, in the name of a claim, within the time that the claim has
 * left since `since`. If its answer is lost, one look says what is there.
 */
export const send = (
  claim: Claim,
  next: Stored,
  expected: VersionedRecord | undefined,
  since = instantOf(claim.local.clock)
): Effect.Effect<Sent, Backend | CapacityExceeded> => {
  const { local } = claim
  const lookInstead = (lost?: Backend) =>
    Effect.map(
      look(local, leftSince(claim, since)),
      (seen): Sent => ({ isWritten: false, seen, ...(lost && { lost }) })
    )
  const refused = (current: VersionedRecord | undefined) =>
    Effect.map(see(local, current), (seen): Sent => ({ isWritten: false, seen }))
  const request = local.backend.putIfVersion(local.key, encode(next), expected ?? 0)
  return within(request, leftSince(claim, since), "unknown").pipe(
    Effect.map((record): Sent => {
      remember(local, record, next)
      return { isWritten: true, seen: { record, stored: next } }
    }),
    Effect.catchTags({
      VersionConflict: ({ current }) => (current === undefined ? lookInstead() : refused(current)),
      RecordNotFound: () => refused(undefined),
      // JSON has no lone surrogates.
      InvalidData: Effect.die,
      Backend: (error) =>
        error.outcome === "unknown" ? Effect.mapError(lookInstead(error), () => error) : Effect.fail(error)
    })
  )
}

/** The record of a claim's lease, as its next write has it, and when that write is sent. */
export const nextOf = (claim: Claim, token: number): Stored => {
  claim.sends.set(++claim.sending, instantOf(claim.local.clock))
  const { grant, holder, sending, ttlMillis } = claim
  return { holder, grant, token, ttlMillis, sending }
}

/** If a record is that of a claim's own lease, the lease counts from when the write was sent that the record has. */
export const adopt = (claim: Claim, { record, stored }: Seen): boolean => {
  const sent = claim.sends.get(stored.sending) ?? claim.held?.sent
  if (!isOf(claim, stored) || sent === undefined || leftSince(claim, sent) <= 0) return false
  if (record.version !== claim.held?.record.version) claim.sends.clear()
  claim.held = { record, token: stored.token, sent }
  return true
}
