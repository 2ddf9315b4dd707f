/**
 * The queues in which the updates of one process wait for each other. Each record that is being updated has a lane. The
 * first update leads the lane and runs at once, in its own fiber. Those that come meanwhile wait in the lane's queue:
 * as members of a group, which land together in one write, or for a turn, in which one runs alone. Both are served in
 * the order in which they came.
 *
 * Lanes belong to the backend and to one `Clock`. A lane is deleted as soon as its queue is empty.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as References from "effect/References"
import * as Tracer from "effect/Tracer"
import type { StorageBackend } from "../StorageBackend.ts"
import { type StorageKey, unchecked } from "../StorageKey.ts"
import { type Change, IsInTurn, type Led, type Start } from "./attempt.ts"
import { monotonicMillis, patienceMillis } from "./retry.ts"

/** The most updates that share one write. */
export const maxGroup = 256

const noKey = unchecked("", "")

/** An update that shares a write with others. Its result comes by `settle`. */
export interface Member {
  readonly _tag: "Member"
  readonly change: Change<unknown, unknown, never>
  readonly context: Context.Context<never>
  /** When it stops waiting, in monotonic milliseconds. */
  readonly deadline: number
  /** Whether its caller was interrupted. */
  isGone: boolean
  readonly settle: (exit: Exit.Exit<unknown, unknown>) => void
  /** Its caller has waited too long, and goes on without the lane. */
  readonly evict: () => void
}

/** An effect that waits to run alone. */
export interface Turn {
  readonly _tag: "Turn"
  readonly deadline: number
  readonly start: (release: () => void) => void
  readonly evict: () => void
}

export interface Lane extends Led {
  readonly lanes: Lanes
  key: StorageKey
  readonly queue: Array<Member | Turn>
  /** The record as the lane saw it last, which saves the next group's read. */
  base: Start | undefined
  /** How many updates the next write may share. */
  room: number
  /** How many conflicts the lane has had since it landed a write. */
  conflicts: number
  /** The most bytes of data that the lane has landed. The backend takes as many. */
  landedBytes: number
  /** The group that is being landed, and its request. */
  group: ReadonlyArray<Member>
  request: Fiber.Fiber<unknown, unknown> | undefined
  /** The member of the group whose function did not end at once, and the fiber that it runs in. */
  running: { readonly member: Member; readonly fiber: Fiber.Fiber<unknown, unknown> } | undefined
  /** Evicts those that wait too long. */
  watch: Fiber.Fiber<void> | undefined
}

/** The lanes of a backend and one clock. */
export interface Lanes {
  readonly backend: StorageBackend["Service"]
  readonly clock: Clock.Clock
  /** Most updates are the only one that runs, so the first lane is in no map. */
  first: Lane | undefined
  readonly others: Map<string, Lane>
  /** A lane that nobody has waited in, for the next leader. */
  spare: Lane | undefined
}

const all = new WeakMap<StorageBackend["Service"], WeakMap<Clock.Clock, Lanes>>()

/** Finds the lanes of a backend and a clock. It remembers those of the clock that was used last. */
export const lanesOf = (backend: StorageBackend["Service"]): ((clock: Clock.Clock) => Lanes) => {
  const byClock: WeakMap<Clock.Clock, Lanes> = all.get(backend) ?? new WeakMap()
  all.set(backend, byClock)
  let last: Lanes | undefined
  return (clock) => {
    if (last?.clock === clock) return last
    last = byClock.get(clock) ?? { backend, clock, first: undefined, others: new Map(), spare: undefined }
    byClock.set(clock, last)
    return last
  }
}

/** No part of a key has U+0000. */
const nameOf = ({ id, owner }: StorageKey): string => `${owner}\0${id}`

/** The names of the lanes that a backend has now. */
export const laneNames = (backend: StorageBackend["Service"], clock: Clock.Clock): ReadonlyArray<string> => {
  const { first, others } = lanesOf(backend)(clock)
  return [...(first === undefined ? [] : [nameOf(first.key)]), ...others.keys()]
}

/** The lane of a record, if there is one now. */
export const find = ({ first, others }: Lanes, key: StorageKey): Lane | undefined => {
  if (first !== undefined && first.key.id === key.id && first.key.owner === key.owner) return first
  // There may be others without a first one, since that may have ended before them.
  return others.size === 0 ? undefined : others.get(nameOf(key))
}

/** Opens a lane, which the caller leads until it calls `leave`. */
export const open = (lanes: Lanes, key: StorageKey): Lane => {
  const lane = lanes.spare ?? newLane(lanes)
  lanes.spare = undefined
  lane.key = key
  if (lanes.first === undefined) lanes.first = lane
  else lanes.others.set(nameOf(key), lane)
  return lane
}

const newLane = (lanes: Lanes): Lane => ({
  lanes,
  key: noKey,
  queue: [],
  base: undefined,
  landed: undefined,
  room: maxGroup,
  conflicts: 0,
  landedBytes: 0,
  group: [],
  request: undefined,
  running: undefined,
  watch: undefined
})

/** Ends a lane whose queue is empty. */
export const close = (lane: Lane): void => {
  const { lanes, watch } = lane
  if (lanes.first === lane) lanes.first = undefined
  else lanes.others.delete(nameOf(lane.key))
  if (watch === undefined) {
    lane.landed = lane.base = undefined
    lane.conflicts = 0
    lanes.spare = lane
  } else {
    watch.interruptUnsafe()
  }
}

export const deadlineFrom = (clock: Clock.Clock): number => monotonicMillis(clock) + patienceMillis

/** Puts a member or a turn in the queue, at its end or its head. */
export const enqueue = (lane: Lane, waiting: Member | Turn, place: "end" | "head" = "end"): void => {
  if (place === "head") lane.queue.unshift(waiting)
  else {
    lane.queue.push(waiting)
    // Whoever comes now must not be judged on a record from before.
    if (lane.base?.isOutOfDate === false) lane.base = { ...lane.base, isOutOfDate: true }
  }
  lane.watch ??= Effect.runForkWith(Context.make(Clock.Clock, lane.lanes.clock))(evictOverdue(lane))
}

export const dequeue = (lane: Lane, waiting: Member | Turn): void => {
  const index = lane.queue.indexOf(waiting)
  if (index >= 0) lane.queue.splice(index, 1)
}

/** Interrupts the group's request if the callers of all members are interrupted, and none must know of its outcome. */
export const cancelUnneeded = (lane: Lane): void => {
  const isNeeded = lane.group.some(({ change, isGone }) => !isGone || change.onLanded !== undefined)
  if (!isNeeded) lane.request?.interruptUnsafe()
}

/** Every wait is bounded by the caller's own patience: whoever has waited that long goes on without the lane. */
const evictOverdue = (lane: Lane): Effect.Effect<void> =>
  Effect.suspend(() => {
    const now = monotonicMillis(lane.lanes.clock)
    // The head may be a leader that came back. Those behind came later than all that are overdue.
    while (lane.queue[0] !== undefined && lane.queue[0].deadline <= now) lane.queue.shift()?.evict()
    const next = lane.queue[0]?.deadline ?? now + patienceMillis
    return Effect.flatMap(Effect.sleep(next - now), () => evictOverdue(lane))
  })

/** A lane's fiber belongs to no caller, so its spans have no parent. */
export const withoutParent = (context: Context.Context<never>): Context.Context<never> =>
  Context.omit(Tracer.ParentSpan)(context) as Context.Context<never>

/**
 * The context of a group's requests: that of its first member. The spans of the requests have no parent, and are linked
 * to the spans of all members.
 */
export const contextOf = (group: ReadonlyArray<Member>): Context.Context<never> => {
  const first = group[0]?.context ?? Context.empty()
  const links = group.flatMap(({ context }) => {
    const span = Context.getOrUndefined(context, Tracer.ParentSpan)
    return span === undefined ? [] : [{ span, attributes: {} }]
  })
  const context = Context.add(withoutParent(first), IsInTurn, true)
  return links.length === 0 ? context : Context.add(context, References.TracerSpanLinks, links)
}
