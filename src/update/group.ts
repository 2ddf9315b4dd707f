/**
 * Group commit: the members of a lane run one after another on one record, each on the outcome of the one before, and
 * land together in one compare-and-set. Each gets its own result, once the write has landed.
 *
 * Each member's record is a version of its own: n members that write raise the version by n. Otherwise a later
 * compare-and-set on an early member's record would wipe out the members after it. A member that fails or writes
 * nothing is judged only on a record that was seen since it came, or that a write of its group has proved.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import { toDate, toExpirySeconds } from "../internal/time.ts"
import { byteLength } from "../internal/utf8.ts"
import type { VersionedRecord } from "../StorageBackend.ts"
import type { VersionConflict } from "../StorageError.ts"
import { type Decision, IsInTurn, isConflict, read } from "./attempt.ts"
import { cancelUnneeded, close, contextOf, type Lane, type Member, maxGroup } from "./lanes.ts"
import { monotonicMillis } from "./retry.ts"

/** For how many milliseconds the functions of one group may run. Those that are left run in the next group. */
const maxRunMillis = 5

/** After so many conflicts in a row a lane halves its groups: small ones turn round as fast as a lone update. */
const maxWholeRetries = 4

/**
 * Each time after so many conflicts in a row, a lane waits for a random time and reads the record again. The bound of
 * the time doubles from 2 ms up to `longestWaitMillis`. Longer waits, and a wait after each conflict, would let the
 * process that just wrote take nearly everything.
 */
const maxRetriesAtOnce = 8
const longestWaitMillis = 50

/** A histogram of how many updates landed in each group's write. A lone update costs less than its count would. */
export const updatesPerWrite = Metric.histogram("effect_versioned_store.updates_per_write", {
  description: "Updates of one record that waited for each other and landed in one write",
  boundaries: Metric.exponentialBoundaries({ start: 1, factor: 2, count: 9 })
})

/** What a member's function came to. */
interface Outcome {
  readonly member: Member
  readonly exit: Exit.Exit<Decision<unknown>, unknown>
  /** How many members up to this one have written. */
  readonly writes: number
  /** The record after it, if its write was the last one. */
  readonly record: VersionedRecord | undefined
}

/** A group on its way. */
interface Landing {
  readonly lane: Lane
  members: ReadonlyArray<Member>
  /** The record that the group stands on, if `isKnown`. */
  base: VersionedRecord | undefined
  isKnown: boolean
  /** Whether `base` was seen since the last of the members came. */
  isFresh: boolean
}

/** Serves a lane's queue until it is empty. */
export const drain = (lane: Lane): Effect.Effect<void> =>
  Effect.gen(function* () {
    // The leader, whose fiber has started this one, goes on first.
    yield* Effect.yieldNow
    for (let head = lane.queue[0]; head !== undefined; head = lane.queue[0]) {
      if (head._tag === "Member") {
        yield* landGroup(lane)
      } else {
        const { start } = head
        lane.queue.shift()
        lane.base = undefined
        yield* Effect.callback<void>((resume) => start(() => resume(Effect.void)))
      }
    }
  }).pipe(
    Effect.onExit((exit) =>
      Effect.sync(() => {
        close(lane)
        // A defect of this module must not leave callers that wait for ever.
        if (Exit.isSuccess(exit)) return
        for (const member of lane.group) member.settle(exit)
        for (const waiting of lane.queue.splice(0)) waiting.evict()
      })
    )
  )

const landGroup = Effect.fnUntraced(function* (lane: Lane) {
  const landing = begin(lane)
  for (;;) {
    gather(landing)
    const { members } = landing
    if (members.length === 0) return
    const context = contextOf(members)
    if (!landing.isKnown) {
      const found = yield* request(lane, context, read(lane.lanes.backend, lane.key))
      if (Exit.isFailure(found)) return settleAll(members, found)
      landing.base = found.value
      landing.isKnown = landing.isFresh = true
    }
    const outcomes = cut(lane, yield* runAll(landing))
    landing.members = lane.group = members.slice(0, outcomes.length)
    lane.queue.unshift(...members.slice(outcomes.length))
    // Whoever was interrupted meanwhile is left out, so the others run again.
    if (landing.members.some(({ isGone }) => isGone)) continue
    const isOver = outcomes.some(wrote) ? yield* land(landing, outcomes, context) : settleIfFresh(landing, outcomes)
    if (isOver) return
  }
})

const begin = (lane: Lane): Landing => {
  const [head] = lane.queue
  const known = head?._tag === "Member" ? head.change.known : undefined
  const { base } = lane
  lane.base = undefined
  return {
    lane,
    members: [],
    base: base === undefined ? known : base.record,
    isKnown: base !== undefined || known !== undefined,
    isFresh: base?.isOutOfDate === false
  }
}

/** Leaves out those who were interrupted, and takes in those at the head of the queue, up to the lane's room. */
const gather = (landing: Landing): void => {
  const { lane } = landing
  const members = landing.members.filter(isHere)
  const before = members.length
  while (members.length < lane.room && lane.queue[0]?._tag === "Member") {
    const [head] = lane.queue.splice(0, 1) as [Member]
    if (isHere(head)) members.push(head)
  }
  if (before > 0 && members.length > before) landing.isFresh = false
  landing.members = lane.group = members
}

/** Whether a member's caller waits for it. If not, it has ended. */
const isHere = (member: Member): boolean => {
  if (member.isGone) member.settle(Exit.interrupt())
  return !member.isGone
}

/** Sends a group's request. It is interrupted only if the callers of all members are. */
const request = <A, E>(lane: Lane, context: Context.Context<never>, effect: Effect.Effect<A, E>) =>
  Effect.flatMap(Effect.forkChild(Effect.provideContext(effect, context), { startImmediately: true }), (fiber) => {
    lane.request = fiber
    // The request may have run on at once, and the callers with it.
    cancelUnneeded(lane)
    return Effect.map(Fiber.await(fiber), (exit) => {
      lane.request = undefined
      return exit
    })
  })

/**
 * Runs the functions of the members, one after another, until their time is over. All see the same instant. If the base
 * has expired by then, the group stands on no record.
 */
const runAll = Effect.fnUntraced(function* (landing: Landing) {
  const {
    key,
    lanes: { clock }
  } = landing.lane
  const end = monotonicMillis(clock) + maxRunMillis
  const nowSeconds = Math.floor(clock.currentTimeMillisUnsafe() / 1000)
  landing.base = live(landing.base, nowSeconds)
  const outcomes: Array<Outcome> = []
  let writes = 0
  let record = landing.base
  for (const member of landing.members) {
    const decided = decide(member, record)
    const exit = isDecided(decided)
      ? decided
      : yield* Effect.exit(Effect.provideContext(decided, Context.add(member.context, IsInTurn, true)))
    if (Exit.isSuccess(exit) && exit.value._tag === "Write") {
      const { data, expiresAt } = exit.value
      const version = (landing.base?.version ?? 0) + ++writes
      record = { key, data, version, writeId: undefined, expiresAt }
    }
    outcomes.push({ member, exit, writes, record })
    record = live(record, nowSeconds)
    if (monotonicMillis(clock) > end) break
  }
  return outcomes
})

type Decided = Effect.Effect<Decision<unknown>, unknown>

const isDecided = (decided: Decided): decided is Exit.Exit<Decision<unknown>, unknown> => Exit.isExit(decided)

/**
 * Runs a member's function. If it writes, the expiry is as it comes back from the backend. What the function throws is
 * a defect of this member alone, and so is an expiry that is not an instant.
 */
const decide = ({ change }: Member, record: VersionedRecord | undefined): Decided => {
  try {
    return Effect.mapEager(change.decide(record), withStoredExpiry)
  } catch (defect) {
    return Exit.die(defect)
  }
}

const withStoredExpiry = (decision: Decision<unknown>): Decision<unknown> => {
  if (decision._tag !== "Write" || decision.expiresAt === undefined) return decision
  const seconds = toExpirySeconds(decision.expiresAt)
  return { ...decision, expiresAt: seconds === undefined ? undefined : toDate(seconds) }
}

/** Promise 4: a record whose expiry has come is absent. */
const live = (record: VersionedRecord | undefined, nowSeconds: number): VersionedRecord | undefined =>
  record?.expiresAt !== undefined && record.expiresAt.epochMilliseconds / 1000 <= nowSeconds ? undefined : record

const wrote = ({ exit }: Outcome): boolean => Exit.isSuccess(exit) && exit.value._tag === "Write"

/**
 * The backend judges only the data that the group writes in the end. If an earlier member's data is larger, and larger
 * than what the lane has landed, the group ends after that member.
 */
const cut = (lane: Lane, outcomes: Array<Outcome>): Array<Outcome> => {
  let [largest, largestBytes, lastBytes] = [0, 0, 0]
  outcomes.forEach((outcome, index) => {
    if (!wrote(outcome)) return
    lastBytes = bytesAbove(lane.landedBytes, outcome.record?.data ?? "")
    if (lastBytes >= largestBytes) [largest, largestBytes] = [index, lastBytes]
  })
  return largestBytes > lastBytes ? outcomes.slice(0, largest + 1) : outcomes
}

/** The bytes of data, or 0 if there are no more than a limit. A UTF-16 code unit has at most three bytes of UTF-8. */
const bytesAbove = (limit: number, data: string): number => {
  if (data.length * 3 <= limit) return 0
  const bytes = byteLength(data)
  return bytes > limit ? bytes : 0
}

const settleAll = (members: ReadonlyArray<Member>, exit: Exit.Exit<unknown, unknown>): void => {
  for (const member of members) member.settle(exit)
}

/** Settles a group that writes nothing. If its record may be out of date, it runs again on a fresh one. */
const settleIfFresh = (landing: Landing, outcomes: ReadonlyArray<Outcome>): boolean => {
  const { base, isFresh, lane } = landing
  landing.isKnown = isFresh
  if (!isFresh) return false
  lane.base = { record: base, isOutOfDate: true }
  for (const { exit, member, record } of outcomes) member.settle(Exit.map(exit, (decision) => answer(decision, record)))
  return true
}

const answer = (decision: Decision<unknown>, record: VersionedRecord | undefined): unknown => {
  if (decision._tag === "Keep") return decision.answer(record)
  return decision._tag === "Write" && record !== undefined ? decision.answer(record) : undefined
}

/** Writes what the members came to. Returns whether the group has ended. */
const land = Effect.fnUntraced(function* (
  landing: Landing,
  outcomes: ReadonlyArray<Outcome>,
  context: Context.Context<never>
) {
  const { base, lane } = landing
  const last = outcomes.findLast(wrote)
  const increment = last?.writes ?? 1
  const options = { expiresAt: last?.record?.expiresAt, increment }
  const write = lane.lanes.backend.putIfVersion(lane.key, last?.record?.data ?? "", base ?? 0, options)
  const written = yield* request(lane, context, write)
  if (Exit.isSuccess(written)) {
    updatesPerWrite.updateUnsafe(increment, context)
    settleLanded(lane, outcomes, written.value)
    return true
  }
  const error = Option.getOrUndefined(Cause.findErrorOption(written.cause))
  if (error !== undefined && isConflict(error)) {
    yield* afterConflict(landing, error._tag === "VersionConflict" ? error : undefined, context)
  } else if (error?._tag === "CapacityExceeded") {
    afterTooLarge(landing, outcomes, written)
  } else {
    // The outcome is that of each member that wrote. The data is JSON, so it is not invalid.
    const writers = outcomes.filter(wrote).map(({ member }) => member)
    landing.members = landing.members.filter((member) => !writers.includes(member))
    landing.isKnown = false
    settleAll(writers, error?._tag === "InvalidData" ? Exit.die(error) : written)
  }
  return false
})

const settleLanded = (lane: Lane, outcomes: ReadonlyArray<Outcome>, landed: VersionedRecord): void => {
  lane.conflicts = 0
  lane.room = maxGroup
  lane.landedBytes = Math.max(lane.landedBytes, byteLength(landed.data))
  lane.base = { record: landed, isOutOfDate: true }
  const count = outcomes.at(-1)?.writes ?? 0
  const asLanded = (record: VersionedRecord | undefined, writes: number) => {
    if (record === undefined || writes === 0) return record
    return writes === count
      ? landed
      : { ...record, version: landed.version - (count - writes), writeId: landed.writeId }
  }
  for (const { exit, member, record, writes } of outcomes) {
    if (Exit.isFailure(exit)) {
      member.settle(exit)
      continue
    }
    const result = answer(exit.value, asLanded(record, writes))
    if (exit.value._tag === "Write") member.change.onLanded?.(result)
    member.settle(Exit.succeed(result))
  }
}

/** All run again: at once on the record that the conflict carried, or after a wait on one that is read again. */
const afterConflict = Effect.fnUntraced(function* (
  landing: Landing,
  conflict: VersionConflict | undefined,
  context: Context.Context<never>
) {
  const { lane } = landing
  lane.conflicts++
  landing.base = conflict?.current
  landing.isKnown = conflict === undefined || conflict.current !== undefined
  landing.isFresh = true
  if (conflict === undefined) return
  const now = monotonicMillis(lane.lanes.clock)
  const [patient, overdue] = partition(landing.members, ({ deadline }) => deadline > now)
  settleAll(overdue, Exit.fail(conflict))
  landing.members = patient
  if (lane.conflicts >= maxWholeRetries) halve(landing)
  if (lane.conflicts % maxRetriesAtOnce !== 0) return
  const bound = Math.min(2 ** (lane.conflicts / maxRetriesAtOnce), longestWaitMillis)
  yield* request(lane, context, Effect.sleep(Context.get(context, Random.Random).nextDoubleUnsafe() * bound))
  landing.isKnown = false
})

const partition = <A>(all: ReadonlyArray<A>, isFirst: (a: A) => boolean) =>
  [all.filter(isFirst), all.filter((a) => !isFirst(a))] as const

/** Puts the second half of a group back at the head of the queue. */
const halve = (landing: Landing): void => {
  const { lane, members } = landing
  lane.room = Math.max(1, Math.ceil(members.length / 2))
  lane.queue.unshift(...members.slice(lane.room))
  landing.members = members.slice(0, lane.room)
}

/** The backend takes no such record. A member is refused only if it is the only one that wrote, on a fresh record. */
const afterTooLarge = (
  landing: Landing,
  outcomes: ReadonlyArray<Outcome>,
  refusal: Exit.Exit<unknown, unknown>
): void => {
  const [writer, ...others] = outcomes.filter(wrote)
  if (others.length > 0) {
    halve(landing)
  } else if (landing.isFresh) {
    landing.members = landing.members.filter((member) => member !== writer?.member)
    writer?.member.settle(refusal)
  } else {
    landing.isKnown = false
  }
}
