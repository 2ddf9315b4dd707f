/**
 * The rules of an adaptive rate limit, as in Effect's memory store: after a response that says when to try again, it
 * waits (cooldown), counts what is accepted then (learning), and keeps to that (learned).
 */
import * as Duration from "effect/Duration"
import type * as RateLimiter from "effect/persistence/RateLimiter"
import * as Schema from "effect/Schema"
import type { Change } from "./states.ts"

export const State = Schema.Struct({
  phase: Schema.Literals(["cooldown", "learning", "learned"]),
  epoch: Schema.Number,
  cooldownUntil: Schema.Number,
  learningStartedAt: Schema.Number,
  observedTokens: Schema.Number,
  learnedLimit: Schema.Number,
  learnedWindowMillis: Schema.Number,
  expiresAt: Schema.Number
})
type State = typeof State.Type

const graceMillis = 60_000
const maxWindowMillis = 60 * 60 * 1000

const clampMillis = (millis: number): number =>
  Number.isNaN(millis) || millis <= 0 ? 1 : Math.min(millis, maxWindowMillis)

/** A state that has expired is none, to the millisecond. */
const live = (state: State | undefined, now: number): State | undefined =>
  state !== undefined && state.expiresAt > now ? state : undefined

const written = <A>(answer: A, state: State): Change<State, A> => ({
  answer,
  next: { state, expiresAtMillis: state.expiresAt }
})

export const consume =
  ({ fallbackWindow, tokens }: RateLimiter.AdaptiveConsumeOptions) =>
  (stored: State | undefined, now: number): Change<State, RateLimiter.AdaptiveConsumeResult> => {
    const state = live(stored, now)
    if (state === undefined) return { answer: { delay: Duration.zero, epoch: 0, phase: "inactive" } }
    const { epoch, phase } = state
    if (phase === "cooldown") {
      if (state.cooldownUntil > now)
        return { answer: { delay: Duration.millis(state.cooldownUntil - now), epoch, phase } }
      return written(
        { delay: Duration.zero, epoch: epoch + 1, phase: "learning" },
        {
          ...state,
          phase: "learning",
          epoch: epoch + 1,
          learningStartedAt: now,
          observedTokens: tokens,
          expiresAt: now + Duration.toMillis(fallbackWindow) + graceMillis
        }
      )
    }
    if (phase === "learning") {
      const observedTokens = state.observedTokens + tokens
      return written({ delay: Duration.zero, epoch, phase }, { ...state, observedTokens })
    }
    const { learnedLimit, learnedWindowMillis } = state
    const refillMillis = learnedWindowMillis / learnedLimit
    const isNewWindow = state.cooldownUntil <= now
    const observedTokens = (isNewWindow ? 0 : state.observedTokens) + tokens
    const cooldownUntil = (isNewWindow ? now : state.cooldownUntil) + refillMillis * tokens
    const elapsed = observedTokens * refillMillis - (cooldownUntil - now)
    const windowNumber = Math.floor((observedTokens - 1) / learnedLimit)
    const remaining = windowNumber * learnedWindowMillis - elapsed
    return written(
      { delay: remaining <= 0 ? Duration.zero : Duration.millis(remaining), epoch, phase },
      { ...state, observedTokens, cooldownUntil }
    )
  }

const cooldown = (epoch: number, cooldownUntil: number): State => ({
  phase: "cooldown",
  epoch,
  cooldownUntil,
  learningStartedAt: 0,
  observedTokens: 0,
  learnedLimit: 0,
  learnedWindowMillis: 0,
  expiresAt: cooldownUntil + graceMillis
})

export const feedback =
  ({
    epoch,
    retryAfter,
    tokens
  }: Pick<RateLimiter.AdaptiveFeedbackOptions, "epoch" | "tokens"> & { readonly retryAfter: Duration.Duration }) =>
  (stored: State | undefined, now: number): Change<State, void> => {
    const retryAfterMillis = clampMillis(Duration.toMillis(retryAfter))
    const cooldownUntil = now + retryAfterMillis
    const state = live(stored, now)
    if (state === undefined) return epoch === 0 ? written(undefined, cooldown(0, cooldownUntil)) : { answer: undefined }
    if (state.epoch !== epoch) return { answer: undefined }
    if (state.phase === "cooldown") {
      const until = Math.max(state.cooldownUntil, cooldownUntil)
      return written(undefined, { ...state, cooldownUntil: until, expiresAt: until + graceMillis })
    }
    const acceptedTokens = state.observedTokens - tokens
    if (state.phase === "learned" || acceptedTokens <= 0) return written(undefined, cooldown(epoch, cooldownUntil))
    const learnedWindowMillis = clampMillis(now - state.learningStartedAt + retryAfterMillis)
    return written(undefined, {
      phase: "learned",
      epoch: epoch + 1,
      cooldownUntil: state.learningStartedAt + learnedWindowMillis,
      learningStartedAt: state.learningStartedAt,
      observedTokens: acceptedTokens,
      learnedLimit: acceptedTokens,
      learnedWindowMillis,
      expiresAt: now + learnedWindowMillis + graceMillis
    })
  }
