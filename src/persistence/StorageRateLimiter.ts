/**
 * Effect's `RateLimiterStore` on any backend, for a single owner. A `RateLimiter` runs on it unchanged, and its limits
 * hold for all processes and machines together.
 */
import * as Digest from "effect/crypto/Digest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RateLimiter from "effect/persistence/RateLimiter"
import * as Schema from "effect/Schema"
import type { StorageBackend } from "../StorageBackend.ts"
import type * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import * as Adaptive from "./internal/adaptiveLimit.ts"
import { type Change, makeStates, type StateError } from "./internal/states.ts"

/**
 * The owner of the limits' records.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The owner of the records. The owner may have tasks and other records as well. */
  readonly owner: string
}

/** Ids of tasks do not start with `!`, so the owner may have tasks as well. */
const idPrefix = "!limit/"

const FixedWindow = Schema.Struct({ count: Schema.Number, expiresAt: Schema.Number })

/** As in Effect's memory store. What is refused changes nothing. */
const fixedWindow =
  ({ limit, refillRate, tokens }: Parameters<RateLimiter.RateLimiterStore["Service"]["fixedWindow"]>[0]) =>
  (
    stored: typeof FixedWindow.Type | undefined,
    now: number
  ): Change<typeof FixedWindow.Type, readonly [count: number, ttl: number]> => {
    const { count, expiresAt } = stored === undefined || stored.expiresAt <= now ? { count: 0, expiresAt: now } : stored
    if (limit && count + tokens > limit) return { answer: [count + tokens, expiresAt - now] }
    const state = { count: count + tokens, expiresAt: expiresAt + Duration.toMillis(refillRate) * tokens }
    return {
      answer: [state.count, state.expiresAt - now],
      next: { state, expiresAtMillis: state.expiresAt }
    }
  }

const TokenBucket = Schema.Struct({ tokens: Schema.Number, lastRefill: Schema.Number })

/** As in Effect's memory store. The record expires when the bucket is full, since a new bucket is full as well. */
const tokenBucket =
  ({
    allowOverflow,
    limit,
    refillRate,
    tokens
  }: Parameters<RateLimiter.RateLimiterStore["Service"]["tokenBucket"]>[0]) =>
  (
    stored: typeof TokenBucket.Type | undefined,
    now: number
  ): Change<typeof TokenBucket.Type, readonly [remaining: number, elapsedMillis: number]> => {
    const refillMillis = Duration.toMillis(refillRate)
    let { lastRefill, tokens: left } = stored ?? { tokens: limit, lastRefill: now }
    const refilled = Math.floor((now - lastRefill) / refillMillis)
    if (refilled > 0) {
      left = Math.min(limit, left + refilled)
      lastRefill += refilled * refillMillis
    }
    if (left >= limit) lastRefill = now
    const remaining = left - tokens
    const answer = [remaining, Math.max(0, now - lastRefill)] as const
    if (!allowOverflow && remaining < 0) return { answer }
    const state = { tokens: remaining, lastRefill }
    return { answer, next: { state, expiresAtMillis: lastRefill + Math.ceil(limit - remaining) * refillMillis } }
  }

const toRateLimiterError = (command: string) =>
  Effect.mapError(
    (cause: StateError) =>
      new RateLimiter.RateLimiterError({
        reason: new RateLimiter.RateLimitStoreError({
          message: `Failed to execute ${command} rate limiting command: ${cause.message}`,
          cause
        })
      })
  )

/**
 * A `RateLimiterStore` in an owner's records: those whose ids start with `!limit/`. It does what
 * `RateLimiter.layerStoreMemory` does, for all processes together: each consumption is one atomic step. The rest of an
 * id is the algorithm and the key, for example `!limit/window/alice`. A key that can't be part of an id is hashed, as a
 * key of a `StorageKeyValueStore` is.
 *
 * A consumption takes one request, and so does one that is refused. The first one of a key in a process takes two, and
 * so does one after another process's. Consumptions of one key that run at the same time in one process share requests,
 * so a hot key costs less than a request each. A record expires once its window is over or its bucket is full. Some
 * engines remove expired records themselves, and others need `StorageBackend.layerCleanup`. The times are those of the
 * processes' clocks, so a process whose clock is ahead sees a window end early.
 *
 * Operations fail with `RateLimiterError`. If its reason is a `RateLimitStoreError`, the `cause` of that is the error
 * of the storage: `Backend`; `VersionConflict` if others have changed the key for 30 seconds; `SchemaError` if a record
 * does not belong to this store. After a `Backend` error with outcome `unknown`, the tokens may have been taken. If the
 * owner is invalid, building the Layer fails with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StorageRateLimiter } from "effect-versioned-store"
 * import { Effect, Layer } from "effect"
 * import { RateLimiter } from "effect/persistence"
 *
 * const program = Effect.gen(function* () {
 *   const limiter = yield* RateLimiter.RateLimiter
 *   const mail = limiter.consume({ key: "mails to alice", limit: 2, window: "1 hour" })
 *   yield* mail
 *   assert.strictEqual((yield* mail).remaining, 0)
 *   const { reason } = yield* Effect.flip(mail)
 *   assert.strictEqual(reason._tag, "RateLimitExceeded")
 * })
 *
 * const layer = RateLimiter.layer.pipe(
 *   Layer.provide(StorageRateLimiter.layer({ owner: "shop" })),
 *   Layer.provide(InMemory.layer)
 * )
 * Effect.runSync(program.pipe(Effect.provide(layer)))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ({
  owner
}: Options): Layer.Layer<RateLimiter.RateLimiterStore, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    RateLimiter.RateLimiterStore,
    Effect.gen(function* () {
      yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix }))
      const windows = yield* makeStates(owner, `${idPrefix}window/`, FixedWindow)
      const buckets = yield* makeStates(owner, `${idPrefix}bucket/`, TokenBucket)
      const adaptive = yield* makeStates(owner, `${idPrefix}adaptive/`, Adaptive.State)

      return RateLimiter.RateLimiterStore.of({
        fixedWindow: (options) => toRateLimiterError("fixedWindow")(windows.modify(options.key, fixedWindow(options))),
        tokenBucket: (options) => toRateLimiterError("tokenBucket")(buckets.modify(options.key, tokenBucket(options))),
        adaptiveConsume: (options) =>
          toRateLimiterError("adaptiveConsume")(adaptive.modify(options.key, Adaptive.consume(options))),
        adaptiveFeedback: (options) => {
          const { retryAfter } = options
          if (options.status !== 429 || retryAfter === undefined) return Effect.void
          return toRateLimiterError("adaptiveFeedback")(
            adaptive.modify(options.key, Adaptive.feedback({ ...options, retryAfter }))
          )
        }
      })
    })
  ).pipe(Layer.provide(Digest.layerWebCrypto))
