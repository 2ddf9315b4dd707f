/**
 * Effect's `PersistedQueueStore` on any backend, for a single owner. Queues of `PersistedQueue` run on it unchanged,
 * and are shared with other processes and machines.
 */
import * as Digest from "effect/crypto/Digest"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as PersistedQueue from "effect/persistence/PersistedQueue"
import { toMillis } from "../internal/time.ts"
import type { StorageBackend } from "../StorageBackend.ts"
import type * as StorageKey from "../StorageKey.ts"
import * as StoragePrefix from "../StoragePrefix.ts"
import * as QueueDelivery from "./internal/queueDelivery.ts"
import * as QueueMessages from "./internal/queueMessages.ts"

/**
 * The owner of the queues' records, and the times of a delivery.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  /** The owner of the records. The owner may have tasks and other records as well. */
  readonly owner: string
  /** How often a process looks for a message while someone waits and it hears of none; 1 second by default. */
  readonly pollInterval?: Duration.Input | undefined
  /**
   * How long after its last sign of life a process is taken for dead, and its messages are delivered again; 90 seconds
   * by default. A process gives a sign of life for each message every third of that time.
   */
  readonly lockExpiration?: Duration.Input | undefined
}

const toQueueError = (action: string) =>
  Effect.mapError(
    (cause: Error) =>
      new PersistedQueue.PersistedQueueError({ message: `Failed to ${action}: ${cause.message}`, cause })
  )

/**
 * A `PersistedQueueStore` in an owner's records: those whose ids start with `!queue/`. It does what
 * `PersistedQueue.layerStoreMemory` does, and what it stores survives a restart.
 *
 * **Deliveries.** A message is delivered at least once: if the process dies, or is stopped for longer than
 * `lockExpiration`, its messages are delivered again. A process that wakes up after that changes nothing about them:
 * what its handlers come to is dropped. So each delivery counts once, but a handler may run twice, and must be
 * idempotent. The times at which messages are due are those of the processes' clocks, which should agree to within a
 * fraction of `lockExpiration`.
 *
 * **Order.** Messages come in the order of the times at which they are due. If several processes take them at the same
 * time, or one gives a message back, the order is not kept.
 *
 * **Costs.** An offer takes one request. A take reads up to 16 messages in one request, for this take and the next
 * ones, and moves its message to a lease in one commit, which takes that come at the same time share. Its end takes one
 * request. So a message costs three to four requests, however many wait. On DynamoDB the move is a transaction of two
 * items, and so are an offer with an id of the caller's own and the end of its message.
 *
 * **Waiting.** An offer of the same process wakes a take at once. On SQLite and Redis, an offer of another process does
 * within about 20 milliseconds. While someone waits, each process also looks for a message every `pollInterval`, which
 * is how it finds what another process has offered on DynamoDB.
 *
 * **What stays.** An id of the caller's own keeps a record, so that it is not taken twice, and its message leaves a
 * record when it is done. A message that has failed for good is kept, with its last failure.
 * `PersistedQueue.layerCleanup` removes them after a time. A message without an id of the caller's own leaves nothing
 * once it is done.
 *
 * Operations fail with `PersistedQueueError`, whose `cause` is the error of the storage: `Backend`, or
 * `CapacityExceeded` if an element is too large. A take waits while the storage fails, and logs a warning, as Effect's
 * own stores do. If the owner is invalid, building the Layer fails with `InvalidKey`.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, StoragePersistedQueue } from "effect-versioned-store"
 * import { Effect, Layer, Schema } from "effect"
 * import { PersistedQueue } from "effect/persistence"
 *
 * const program = Effect.gen(function* () {
 *   const mails = yield* PersistedQueue.make({ name: "mails", schema: Schema.Struct({ to: Schema.String }) })
 *   yield* mails.offer({ to: "alice" }, { id: "welcome-alice" })
 *   yield* mails.offer({ to: "alice" }, { id: "welcome-alice" })
 *   yield* mails.offer({ to: "bob" })
 *   const sent = [yield* mails.take(({ to }) => Effect.succeed(to)), yield* mails.take(({ to }) => Effect.succeed(to))]
 *   assert.deepStrictEqual(sent, ["alice", "bob"])
 * })
 *
 * const layer = PersistedQueue.layer.pipe(
 *   Layer.provide(StoragePersistedQueue.layer({ owner: "shop" })),
 *   Layer.provide(InMemory.layer)
 * )
 * await Effect.runPromise(program.pipe(Effect.provide(layer)))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = ({
  lockExpiration = "90 seconds",
  owner,
  pollInterval = "1 second"
}: Options): Layer.Layer<PersistedQueue.PersistedQueueStore, StorageKey.InvalidKey, StorageBackend> =>
  Layer.effect(
    PersistedQueue.PersistedQueueStore,
    Effect.gen(function* () {
      yield* Effect.fromResult(StoragePrefix.make({ owner, idPrefix: QueueMessages.idPrefix }))
      const digest = yield* Digest.Digest
      const messages = yield* QueueMessages.make(owner)
      const { lineOf, nudge, take } = yield* QueueDelivery.make(messages, {
        pollMillis: Math.max(toMillis("pollInterval", pollInterval), 1),
        leaseMillis: Math.max(toMillis("lockExpiration", lockExpiration), 3)
      })

      return PersistedQueue.PersistedQueueStore.of({
        offer: ({ delay, name, ...message }) =>
          lineOf(name).pipe(
            Effect.flatMap(({ names }) =>
              Effect.clockWith((clock) =>
                messages.offer(
                  names,
                  name,
                  message,
                  clock.currentTimeMillisUnsafe() + (delay === undefined ? 0 : Duration.toMillis(delay))
                )
              )
            ),
            toQueueError("offer element to persisted queue"),
            Effect.andThen(nudge(name)),
            Effect.provideService(Digest.Digest, digest)
          ),

        take: ({ name, ...options }) =>
          Effect.map(Effect.provideService(take(name, options), Digest.Digest, digest), ({ content, message }) => ({
            id: content.id,
            attempts: message.attempts,
            element: content.element
          })),

        cleanup: ({ failedTimeToLive, timeToLive }) =>
          Effect.clockWith((clock) => {
            const clean = (kind: "done" | "failed", ttl: Duration.Duration) =>
              messages.clean(kind, clock.currentTimeMillisUnsafe() - Duration.toMillis(ttl))
            return Effect.andThen(
              clean("done", timeToLive),
              failedTimeToLive === undefined ? Effect.void : clean("failed", failedTimeToLive)
            )
          }).pipe(toQueueError("clean up persisted queue"))
      })
    })
  ).pipe(Layer.provide(Digest.layerWebCrypto))
