/**
 * Deliveries of messages: who waits for one, the fiber that looks for messages while someone waits, and what becomes of
 * a message when its handler ends.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Latch from "effect/Latch"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import type { Backend, CapacityExceeded } from "../../StorageError.ts"
import { batchOf, type Content, type Message, type Messages, type Names, namesOf } from "./queueMessages.ts"

/** How many messages are read at once. Those that nobody waits for yet are kept for the next deliveries. */
const pageSize = 16
const maxPageSize = 100

/** How many requests of one kind run at the same time. */
const concurrency = 16

/** A message that is delivered and not settled. */
export interface Delivery {
  readonly content: Content
  /** The message where this process has moved it to. */
  message: Message
  /** The id that a renewal writes, if it is not known whether it has landed. */
  renewal: string | undefined
  /** A renewal and the settlement do not run at the same time. */
  readonly lock: Semaphore.Semaphore
}

/** A caller of `take` that waits. */
interface Waiter {
  readonly received: Deferred.Deferred<Delivery>
  delivery: Delivery | undefined
}

/** What this process knows of a queue. */
interface Line {
  readonly names: Names
  readonly waiters: Set<Waiter>
  /** Opens if there may be a message for the fiber that serves the queue. */
  readonly nudge: Latch.Latch
  maxAttempts: number
  isServed: boolean
  /** Whether hints at what other processes offer open the nudge. They do from the first time that someone waits. */
  isListening: boolean
  /** Messages that were due when they were read, and that nobody has waited for yet. */
  ahead: ReadonlyArray<Message>
  /** Another process was first with a message. So the next page is taken from somewhere else than its start. */
  isContended: boolean
}

export interface Options {
  readonly pollMillis: number
  readonly leaseMillis: number
}

export interface TakeOptions {
  readonly maxAttempts: number
  readonly retryDelay: (attempts: number) => Effect.Effect<Duration.Duration>
}

type CommitError = CapacityExceeded | Backend

export const make = Effect.fnUntraced(function* (messages: Messages, { leaseMillis, pollMillis }: Options) {
  const clock = yield* Clock.Clock
  const now = () => clock.currentTimeMillisUnsafe()
  const lines = new Map<string, Line>()
  const lineOf = Effect.fnUntraced(function* (queue: string) {
    const names = lines.get(queue)?.names ?? (yield* namesOf(queue))
    const line = lines.get(queue) ?? makeLine(names)
    lines.set(queue, line)
    return line
  })
  const nudge = (queue: string) =>
    Effect.sync(() => {
      lines.get(queue)?.nudge.openUnsafe()
    })
  const settlements = yield* makeSettlements(messages, now, leaseMillis)
  const serve = yield* makeServe(messages, settlements, now, { leaseMillis, pollMillis })

  /** What becomes of a message when the scope of its delivery closes, as in Effect's stores. */
  const settleBy = (
    delivery: Delivery,
    { maxAttempts, retryDelay }: TakeOptions,
    exit: Exit.Exit<unknown, unknown>
  ) => {
    const { attempts } = delivery.message
    if (Exit.isSuccess(exit)) return settlements.complete(delivery)
    const deadLetter = deadLetterOf(exit.cause)
    if (deadLetter !== undefined) return settlements.fail(delivery, deadLetter.cause)
    if (Cause.hasInterruptsOnly(exit.cause)) return settlements.release(delivery)
    if (attempts >= maxAttempts) return settlements.fail(delivery, exit.cause)
    return Effect.flatMap(retryDelay(attempts), (delay) => settlements.retry(delivery, Duration.toMillis(delay)))
  }

  return {
    lineOf,
    nudge,

    /** Waits for a message. When the scope closes, its exit says what becomes of the message. */
    take: (queue: string, options: TakeOptions) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function* () {
          const line = yield* lineOf(queue)
          line.maxAttempts = options.maxAttempts
          const waiter: Waiter = { received: Deferred.makeUnsafe(), delivery: undefined }
          const giveBack = (delivery: Delivery) => Effect.andThen(settlements.release(delivery), nudge(queue))
          line.waiters.add(waiter)
          serve(line, giveBack)
          const delivery = yield* Effect.onExit(restore(Deferred.await(waiter.received)), (exit) => {
            line.waiters.delete(waiter)
            // A fiber may be paused, and interrupted, after it got a message and before it runs on.
            return Exit.isFailure(exit) && waiter.delivery !== undefined ? giveBack(waiter.delivery) : Effect.void
          })
          yield* Effect.addFinalizer((exit) => Effect.andThen(settleBy(delivery, options, exit), nudge(queue)))
          return delivery
        })
      )
  }
})

const makeLine = (names: Names): Line => ({
  names,
  waiters: new Set(),
  nudge: Latch.makeUnsafe(false),
  maxAttempts: Number.POSITIVE_INFINITY,
  isServed: false,
  isListening: false,
  ahead: [],
  isContended: false
})

/** What Effect's factory fails with if an element does not decode. Such a message never succeeds. */
const deadLetterOf = (cause: Cause.Cause<unknown>) =>
  cause.reasons
    .filter(Cause.isFailReason)
    .map(({ error }) => error)
    .find((error): error is { readonly _tag: string; readonly cause: Cause.Cause<unknown> } =>
      Predicate.isTagged(error, "~effect/persistence/PersistedQueue/DeadLetter")
    )

// -----------------------------------------------------------------------------

type Settlements = Effect.Success<ReturnType<typeof makeSettlements>>

/** The leases of the messages that are delivered, and how deliveries end. */
const makeSettlements = Effect.fnUntraced(function* (messages: Messages, now: () => number, leaseMillis: number) {
  const deliveries = new Set<Delivery>()

  /** The message where it stands now, or undefined if it is no longer this process's. */
  const whereIs = Effect.fnUntraced(function* (delivery: Delivery) {
    const { message, renewal } = delivery
    if (renewal === undefined) return message
    const [old, renewed] = yield* messages.find([message.record.key.id, renewal])
    delivery.renewal = undefined
    if (renewed !== undefined) delivery.message = { ...message, record: renewed }
    return renewed !== undefined || old?.writeId === message.record.writeId ? delivery.message : undefined
  })

  /** Moves a message to the end of its next lease. If that is refused, the message is no longer this process's. */
  const renew = Effect.fnUntraced(function* (delivery: Delivery) {
    const message = deliveries.has(delivery) ? yield* whereIs(delivery) : undefined
    if (message === undefined) return deliveries.delete(delivery)
    const move = messages.moved(message, now() + leaseMillis, message.attempts)
    delivery.renewal = move.id
    const written = yield* messages.commit([messages.removed(message), move])
    delivery.renewal = undefined
    const record = Option.getOrUndefined(written)?.[1]
    if (record === undefined) return deliveries.delete(delivery)
    delivery.message = { ...message, record }
  })

  const renewAll = Effect.suspend(() =>
    Effect.forEach(
      Array.from(deliveries),
      (delivery) =>
        Semaphore.withPermit(delivery.lock, renew(delivery)).pipe(
          Effect.catch((error) => Effect.logWarning("The lease of a message was not renewed", error))
        ),
      { concurrency, discard: true }
    )
  )
  yield* renewAll.pipe(Effect.delay(leaseMillis / 3), Effect.forever, Effect.forkScoped)

  /** As Effect's own stores do it: until the lease would have ended. */
  const schedule = Schedule.min([Schedule.exponential(200, 1.5), Schedule.spaced(5000)]).pipe(
    Schedule.upTo({ duration: leaseMillis })
  )

  /**
   * Ends a delivery by one commit, which removes the message where it stands. So it takes effect once, however often it
   * is sent, and not at all if the message is another process's by now.
   */
  const settle = (
    delivery: Delivery,
    land: (message: Message) => Effect.Effect<unknown, CommitError>
  ): Effect.Effect<void> =>
    Effect.flatMap(whereIs(delivery), (message) => (message === undefined ? Effect.void : land(message))).pipe(
      Effect.retry({ schedule, while: ({ _tag }) => _tag === "Backend" }),
      Effect.orDie,
      Effect.ensuring(Effect.sync(() => deliveries.delete(delivery))),
      (settlement) => Semaphore.withPermit(delivery.lock, settlement),
      Effect.asVoid
    )

  return {
    begin: (content: Content, message: Message): Delivery => {
      const delivery = { content, message, renewal: undefined, lock: Semaphore.makeUnsafe(1) }
      deliveries.add(delivery)
      return delivery
    },

    complete: (delivery: Delivery) =>
      settle(delivery, (message) =>
        messages.commit([messages.removed(message), ...messages.done(delivery.content, now())])
      ),

    /** Gives a message back, as if it had not been delivered. */
    release: (delivery: Delivery) =>
      settle(delivery, (message) =>
        messages.commit([messages.removed(message), messages.moved(message, now(), message.attempts - 1)])
      ),

    retry: (delivery: Delivery, delayMillis: number) =>
      settle(delivery, (message) =>
        messages.commit([messages.removed(message), messages.moved(message, now() + delayMillis, message.attempts)])
      ),

    fail: (delivery: Delivery, cause: Cause.Cause<unknown>) =>
      settle(delivery, (message) => messages.bury(message, now(), Cause.pretty(cause)))
  }
})

// -----------------------------------------------------------------------------

/** Starts the fiber that finds messages for those who wait, if it does not run yet. */
const makeServe = Effect.fnUntraced(function* (
  messages: Messages,
  settlements: Settlements,
  now: () => number,
  { leaseMillis, pollMillis }: Options
) {
  const run = yield* FiberSet.makeRuntime()

  /** Moves messages to the end of a lease. Those that another process has moved first are left out. */
  const claim = Effect.fnUntraced(function* (line: Line, batch: ReadonlyArray<Message>) {
    const dueMillis = now() + leaseMillis
    const commit = (some: ReadonlyArray<Message>) =>
      Effect.map(
        messages.commit(
          some.flatMap((message) => [
            messages.removed(message),
            messages.moved(message, dueMillis, message.attempts + 1)
          ])
        ),
        Option.map((written) =>
          some.flatMap((message, i) => {
            const record = written[2 * i + 1]
            return record === undefined ? [] : [{ ...message, record, attempts: message.attempts + 1 }]
          })
        )
      )
    const claimed = yield* commit(batch)
    if (Option.isSome(claimed)) return claimed.value
    line.ahead = []
    line.isContended = true
    if (batch.length === 1) return []
    const oneByOne = yield* Effect.forEach(
      batch,
      (message) =>
        Effect.catch(commit([message]), (error) =>
          Effect.as(Effect.logWarning("A message was not delivered", error), Option.none())
        ),
      { concurrency }
    )
    return oneByOne.flatMap(Option.getOrElse(() => []))
  })

  /** Delivers the messages that are ahead to those who wait. */
  const deliver = Effect.fnUntraced(function* (line: Line, giveBack: (delivery: Delivery) => Effect.Effect<void>) {
    const batch = batchOf(line.ahead, line.waiters.size)
    line.ahead = line.ahead.slice(batch.length)
    const isSpent = ({ attempts }: Message) => attempts >= line.maxAttempts
    const isWhole = ({ content }: Message) => Option.isSome(content)
    yield* Effect.forEach(
      batch.filter((message) => isSpent(message) || !isWhole(message)),
      (message) =>
        messages.bury(message, now(), isWhole(message) ? "Lock expired after final attempt" : "It is not a message")
    )
    const claimed = yield* claim(
      line,
      batch.filter((message) => !isSpent(message) && isWhole(message))
    )
    for (const message of claimed) {
      const delivery = settlements.begin(Option.getOrThrow(message.content), message)
      const [waiter] = line.waiters
      if (waiter === undefined) {
        yield* giveBack(delivery)
      } else {
        line.waiters.delete(waiter)
        waiter.delivery = delivery
        Deferred.doneUnsafe(waiter.received, Effect.succeed(delivery))
      }
    }
  })

  /** Delivers messages, or says for how long there is nothing to deliver. */
  const look = Effect.fnUntraced(function* (line: Line, giveBack: (delivery: Delivery) => Effect.Effect<void>) {
    if (line.ahead.length === 0) {
      const found = yield* messages.next(line.names, Math.min(Math.max(pageSize, line.waiters.size), maxPageSize))
      const at = now()
      const due = found.filter(({ dueMillis }) => dueMillis <= at)
      if (due.length === 0) return Math.min(pollMillis, (found[0]?.dueMillis ?? Number.POSITIVE_INFINITY) - at)
      const start = line.isContended ? yield* Random.nextIntBetween(0, due.length) : 0
      line.ahead = [...due.slice(start), ...due.slice(0, start)]
      line.isContended = false
    }
    yield* Effect.uninterruptible(deliver(line, giveBack))
    return 0
  })

  /** Processes that wait for the same queue do not look all at the same time. */
  const listen = (line: Line) =>
    Stream.runForEach(messages.hints(line.names), () =>
      Effect.flatMap(Random.next, (part) => Effect.sleep(part * maxHintDelayMillis)).pipe(
        Effect.andThen(line.nudge.open),
        Effect.andThen(Effect.sleep(hintPauseMillis))
      )
    )

  /** Waits for an offer of this process, a hint or the next look. */
  const awaitChange = (line: Line, millis: number) =>
    Effect.suspend(() => {
      if (line.isListening) return Effect.race(Effect.sleep(millis), line.nudge.await)
      line.isListening = true
      run(listen(line))
      // A message may have come before, so the queue is looked at once more.
      return Effect.void
    })

  const loop = Effect.fnUntraced(function* (line: Line, giveBack: (delivery: Delivery) => Effect.Effect<void>) {
    while (line.waiters.size > 0) {
      // Takes that come at the same time are served together.
      yield* Effect.yieldNow
      line.nudge.closeUnsafe()
      const millis = yield* look(line, giveBack).pipe(
        Effect.catchCause((cause) => {
          line.ahead = []
          return Effect.as(Effect.logWarning("Messages could not be taken", cause), retryMillis)
        })
      )
      if (millis > 0) yield* awaitChange(line, millis)
    }
    line.isServed = false
  })

  return (line: Line, giveBack: (delivery: Delivery) => Effect.Effect<void>) => {
    if (line.isServed) return
    line.isServed = true
    run(loop(line, giveBack))
  }
})

/** After a failure, messages are looked for again after so long, as in Effect's own stores. */
const retryMillis = 500

/** A hint is followed by a look after a random time of up to so long, and then by none for a pause. */
const maxHintDelayMillis = 20
const hintPauseMillis = 100
