/** What a claim does with the lease that it holds: it renews it, guards commits by it, and releases it. */
import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import type { Step } from "../StorageBackend.ts"
import { isConflict } from "../update/attempt.ts"
import { monotonicMillis } from "../update/retry.ts"
import { LeaseLost } from "./errors.ts"
import { type Claim, isOf, left, maxHandovers, passTurn, writeOf } from "./local.ts"
import { adopt, look, nextOf, type Seen, send, within } from "./requests.ts"

/** Tells the claim's caller that it has the lease no more. */
const end = (claim: Claim, reason: LeaseLost["reason"]): LeaseLost => {
  claim.error ??= new LeaseLost({ key: claim.local.key, token: claim.held?.token ?? 0, reason })
  Deferred.doneUnsafe(claim.lost, Effect.fail(claim.error))
  return claim.error
}

/** Says that a claim's lease is lost. The other claims of this process need not wait for the claim's release. */
const lose = (claim: Claim, reason: LeaseLost["reason"]): LeaseLost => {
  if (claim.error !== undefined) return claim.error
  const error = end(claim, reason)
  claim.held = undefined
  if (claim.local.current === claim) passTurn(claim.local)
  return error
}

/** Fails if the lease is lost. It looks at the clocks, so it also stops what runs before any timer could. */
export const check = (claim: Claim): Effect.Effect<void, LeaseLost> =>
  Effect.suspend(() => {
    if (claim.error !== undefined) return Effect.fail(claim.error)
    return left(claim) > 0 ? Effect.void : Effect.fail(lose(claim, "Expired"))
  })

/** Sends, and takes a defect of the backend for a failure: it must not stop the renewals or the queue silently. */
const trySend = (...args: Parameters<typeof send>) =>
  Effect.result(Effect.catchDefect(send(...args), (defect) => Effect.fail(defect)))

/** Begins to renew a lease every third of its time to live, in a fiber that `release` ends. */
export const startRenewal = (claim: Claim, context: Context.Context<never>): void => {
  claim.renewal = Effect.runForkWith(context)(renew(claim))
}

const renew = Effect.fnUntraced(function* (claim: Claim) {
  const { ttlMillis } = claim
  // The lease may have taken long to take.
  let pauseMillis = ttlMillis / 3 - (ttlMillis * 0.95 - left(claim))
  for (;;) {
    yield* Effect.sleep(Math.max(1, Math.min(pauseMillis, left(claim))))
    const { held } = claim
    if (held === undefined || left(claim) <= 0) return void lose(claim, "Expired")
    const next = nextOf(claim, held.token)
    const sent = yield* trySend(claim, next, held.record, held.sent)
    // Without an answer it is sent again soon, as long as there is time.
    pauseMillis = Math.min(ttlMillis / 20, 250)
    if (Result.isFailure(sent)) continue
    const { seen } = sent.success
    if (seen === undefined) return void lose(claim, "Deleted")
    if (!isOf(claim, seen.stored)) return void lose(claim, "Taken")
    if (adopt(claim, seen) && claim.held?.sent !== held.sent) pauseMillis = ttlMillis / 3
  }
})

/** How often a release is sent. */
const maxAttempts = 3

/**
 * Ends a claim: releases its lease if it has it, or hands it over to the next claim of this process, in one write. If
 * the claim does not have the turn, another one of this process ends it.
 */
export const release = Effect.fnUntraced(function* (claim: Claim) {
  const { local } = claim
  end(claim, "Released")
  if (claim.renewal !== undefined) yield* Fiber.interrupt(claim.renewal)
  let [held, attempts] = [claim, 0]
  while (local.current === held) {
    if (left(held) <= 0 || attempts === maxAttempts) return passTurn(local)
    const next = yield* passOn(held)
    if (next === undefined) return
    // The one that got the lease may have been interrupted meanwhile.
    attempts = next === held ? attempts + 1 : 0
    held = next
  }
})

/** Makes one write: it hands the lease over or releases it. Returns the claim that must pass it on further. */
const passOn = Effect.fnUntraced(function* (claim: Claim) {
  const { held, local } = claim
  if (held === undefined) return
  const next = local.handovers < maxHandovers ? local.queue.shift() : undefined
  const stored =
    next === undefined
      ? { ...nextOf(claim, held.token), holder: null }
      : nextOf(next, Math.max(held.token, local.highestToken) + 1)
  const sent = yield* trySend(claim, stored, held.record, held.sent)
  const seen = Result.isSuccess(sent) ? sent.success.seen : undefined
  if (next !== undefined && seen !== undefined && adopt(next, seen)) return give(next)
  if (next !== undefined && !next.isGone) local.queue.unshift(next)
  // The write was not applied, or a renewal was on its way and landed first.
  if (Result.isFailure(sent) || (seen !== undefined && adopt(claim, seen))) return claim
  if (seen !== undefined && seen.stored.holder === null) {
    local.released = { write: writeOf(seen.record), atMillis: monotonicMillis(local.clock) }
  }
  passTurn(local)
})

const give = (next: Claim): Claim | undefined => {
  const { local } = next
  local.handovers++
  local.current = next
  if (next.isGone) return next
  Deferred.doneUnsafe(next.turn, Effect.succeed("Granted"))
}

/** Commits steps with a check that the lease is still the claim's. A renewal meanwhile is no loss. */
export const commit = Effect.fnUntraced(function* (claim: Claim, steps: ReadonlyArray<Step>) {
  const { backend, key } = claim.local
  yield* check(claim)
  let expected = claim.held?.record
  for (;;) {
    const lease: Step = { _tag: "Check", id: key.id, expected: expected ?? 0 }
    const sent = yield* Effect.result(within(backend.commit(key.owner, [lease, ...steps]), left(claim), "unknown"))
    if (Result.isSuccess(sent)) return sent.success.slice(1)
    const error = sent.failure
    if (!isConflict(error) || error.key.id !== key.id) return yield* error
    const seen: Seen | undefined = yield* look(claim.local, left(claim))
    if (seen === undefined) return yield* lose(claim, "Deleted")
    if (!isOf(claim, seen.stored)) return yield* lose(claim, "Taken")
    yield* check(claim)
    expected = seen.record
  }
})
