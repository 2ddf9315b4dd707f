/** How a claim takes a lease: it waits for its turn, looks, and takes the lease if it is free or its holder is dead. */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import type { Backend, CapacityExceeded } from "../StorageError.ts"
import { monotonicMillis } from "../update/retry.ts"
import { LeaseTaken } from "./errors.ts"
import { release, startRenewal } from "./hold.ts"
import { type Claim, enqueue, isOf, remember, writeOf } from "./local.ts"
import { adopt, look, nextOf, type Seen, type Sent, send } from "./requests.ts"

/** Lets an interruption of the caller through. */
export type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** How long a claim waits at most after a hint. */
const longestWaitAfterHintMillis = 20

/** How long a lease must be free until those who get hints have looked. */
const chanceMillis = longestWaitAfterHintMillis + 5

/** How long a claim waits between two looks, on average. */
const pollMillis = ({ ttlMillis }: Claim): number => Math.min(250, ttlMillis / 10)

/**
 * Leaves the lease to other processes: for as long as this one had it, but not longer than the others take to look
 * once. Those that get hints look within 20 ms.
 */
const letOthersFirst = (claim: Claim): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { clock, released, takenAtMillis } = claim.local
    const now = monotonicMillis(clock)
    const millis = Math.min(pollMillis(claim) * 1.25, Math.max(chanceMillis, now - takenAtMillis))
    claim.local.released = undefined
    return Effect.sleep(Math.max(0, (released?.atMillis ?? now) + millis - now))
  })

/**
 * Takes the lease for a claim, and keeps it alive. If the caller is interrupted meanwhile, no lease is left behind.
 * Only waits can be interrupted: a request that takes the lease is over within the lease's own time.
 */
export const take = (
  claim: Claim,
  restore: Restore,
  isPatient: boolean
): Effect.Effect<void, LeaseTaken | CapacityExceeded | Backend> =>
  Effect.gen(function* () {
    const { current, seen } = claim.local
    if (!isPatient && current !== undefined) {
      return yield* new LeaseTaken({ key: claim.local.key, holder: seen?.holder || current.holder })
    }
    enqueue(claim)
    const turn = yield* restore(Deferred.await(claim.turn))
    if (turn === "LetOthersFirst" && isPatient) yield* restore(letOthersFirst(claim))
    if (turn !== "Granted") yield* takeInTurn(claim, restore, isPatient)
    // An interruption that came while the lease was taken.
    yield* restore(Effect.void)
    startRenewal(claim, yield* Effect.context<never>())
  }).pipe(Effect.onExit((exit) => (Exit.isFailure(exit) ? abandon(claim) : Effect.void)))

const takeInTurn = (claim: Claim, restore: Restore, isPatient: boolean) =>
  Effect.suspend(() => {
    const hints = makeHints(claim)
    return Effect.ensuring(lookAndTake(claim, restore, isPatient, hints.next), hints.end)
  })

const lookAndTake = Effect.fnUntraced(function* (
  claim: Claim,
  restore: Restore,
  isPatient: boolean,
  hint: Effect.Effect<void>
) {
  const { local } = claim
  let seen = yield* restore(look(local, claim.ttlMillis))
  for (;;) {
    if (seen !== undefined && adopt(claim, seen)) return
    let restMillis = seen === undefined ? 0 : untilFree(claim, seen)
    if (restMillis <= 0) {
      const sent: Sent = yield* tryTake(claim, seen)
      seen = sent.seen
      // A refusal shows who was first. If the answer was lost, the record may show that the lease is the claim's.
      if (sent.lost === undefined || (seen !== undefined && isOf(claim, seen.stored))) continue
      if (!isPatient) return yield* sent.lost
      restMillis = claim.ttlMillis
    } else if (!isPatient) {
      return yield* new LeaseTaken({ key: local.key, holder: seen?.stored.holder ?? "" })
    }
    yield* restore(untilNextLook(claim, restMillis, hint))
    seen = yield* restore(look(local, claim.ttlMillis))
  }
})

/**
 * How long the lease of another holder must still stand until it may be taken: for the holder's whole time to live
 * since this process saw it first. What the clock of the holder says does not count. A lease of the claim's own that it
 * can no longer use is free, since nobody uses it.
 */
const untilFree = (claim: Claim, { record, stored }: Seen): number => {
  if (stored.holder === null || isOf(claim, stored)) return 0
  return remember(claim.local, record, stored) + stored.ttlMillis - monotonicMillis(claim.local.clock)
}

/** A process that takes a lease at once after it has released it has left no chance to others. */
const countTaking = (local: Claim["local"], seen: Seen | undefined): void => {
  const { handovers, released } = local
  const now = monotonicMillis(local.clock)
  const isAgain =
    seen !== undefined && writeOf(seen.record) === released?.write && now - released.atMillis < chanceMillis
  local.handovers = isAgain ? handovers + 1 : 0
  if (!isAgain) local.takenAtMillis = now
}

/** Writes the claim's grant over what was seen. */
const tryTake = (claim: Claim, seen: Seen | undefined) =>
  Effect.suspend(() => {
    const { local } = claim
    // After the record was deleted, the time makes the token higher than any before.
    const first = seen === undefined ? Math.floor(local.clock.currentTimeMillisUnsafe() * 1000) : 0
    countTaking(local, seen)
    const next = nextOf(claim, Math.max(first, local.highestToken + 1, (seen?.stored.token ?? 0) + 1))
    return send(claim, next, seen?.record)
  })

/**
 * Waits for the next look: for a time, or for a hint that the lease has changed. The waiters of all processes get that
 * hint, so each then waits a little, at random. Timers have milliseconds, so a shorter wait would turn round and round.
 */
const untilNextLook = (claim: Claim, restMillis: number, hint: Effect.Effect<void>) =>
  Effect.flatMap(Random.next, (part) =>
    Effect.raceFirst(
      Effect.sleep(Math.max(1, Math.min(restMillis, pollMillis(claim) * (0.75 + part / 2)))),
      Effect.andThen(hint, Effect.sleep(part * longestWaitAfterHintMillis))
    )
  )

/** Listens to the lease's hints, from when the first one is waited for. Those that come during a look are one hint. */
const makeHints = ({ local: { backend, key } }: Claim) => {
  let listening: { readonly hints: Queue.Queue<void>; readonly fiber: Fiber.Fiber<void> } | undefined
  const listen = Effect.gen(function* () {
    const hints = yield* Queue.sliding<void>(1)
    const offer = Stream.runForEach(backend.hints(key), () => Queue.offer(hints, undefined))
    listening = { hints, fiber: yield* Effect.forkDetach(offer, { startImmediately: true }) }
    return listening
  }).pipe(Effect.uninterruptible)
  return {
    next: Effect.suspend(() =>
      Effect.flatMap(listening === undefined ? listen : Effect.succeed(listening), ({ hints }) => Queue.take(hints))
    ),
    // The claim may have the lease already, so it waits for nothing that the backend does.
    end: Effect.sync(() => listening?.fiber.interruptUnsafe())
  }
}

/** Leaves the queue, or passes on what the claim has. */
const abandon = (claim: Claim): Effect.Effect<void> =>
  Effect.suspend(() => {
    const { queue } = claim.local
    claim.isGone = true
    if (queue.includes(claim)) queue.splice(queue.indexOf(claim), 1)
    return release(claim)
  })
