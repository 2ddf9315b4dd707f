import * as Schema from "effect/Schema"

/**
 * The places that an owner's tasks take: until which epoch second (null: for ever), and how many. In order, null last.
 */
export const Ledger = Schema.fromJsonString(
  Schema.Struct({ places: Schema.Array(Schema.Tuple([Schema.NullOr(Schema.Int), Schema.Int])) })
)

export type Pairs = (typeof Ledger.Type)["places"]

/** Up to this limit each place comes free in the very second in which its task expires. */
export const maxExactLimit = 512

/** A place is held at most this part of its task's life longer than the task. */
const maxLateness = 0.02

export const orForever = (until: number | null): number => until ?? Number.POSITIVE_INFINITY

/** How many places are taken. */
export const countOf = (pairs: Pairs): number => pairs.reduce((sum, [, count]) => sum + count, 0)

/** The places that have not come free by themselves. */
export const takenAt = (pairs: Pairs, nowSeconds: number): Pairs => {
  const first = pairs[0]
  if (first === undefined || orForever(first[0]) > nowSeconds) return pairs
  return pairs.filter(([until]) => orForever(until) > nowSeconds)
}

/** Takes one more place until a second. */
export const add = (pairs: Pairs, until: number | null): Pairs => {
  const index = pairs.findIndex(([other]) => orForever(other) >= orForever(until))
  const found = pairs[index]
  if (found === undefined) return [...pairs, [until, 1]]
  return found[0] === until ? pairs.with(index, [until, found[1] + 1]) : pairs.toSpliced(index, 0, [until, 1])
}

/** Gives back one place that was taken until a second; undefined if there is none. */
export const subtract = (pairs: Pairs, until: number | null): Pairs | undefined => {
  const index = pairs.findIndex(([other]) => other === until)
  const found = pairs[index]
  if (found === undefined) return undefined
  return found[1] > 1 ? pairs.with(index, [until, found[1] - 1]) : pairs.toSpliced(index, 1)
}

/**
 * The epoch second until which a task's place is taken. It is decided once, when the task is created, and stored in its
 * record, so that a removal gives back exactly this place.
 *
 * Every creation reads and writes the ledger, so it must not grow with the limit. Up to `maxExactLimit` the limit
 * itself bounds the pairs, and a place comes free in the second in which its task expires. Above that, this second is
 * rounded up to a multiple of a step: the largest power of two of seconds within 2% of the task's life, and at least 1.
 * This bounds the pairs whatever the limit:
 *
 * - Lives of less than 100 seconds have a step of 1 second, and their places end at one of the next 100 seconds.
 * - Lives of 50s to 100s seconds have the step s, for s = 2, 4, 8 and so on. Their places end at a multiple of s within
 *   the next 101s seconds. The first half of those are multiples of s/2 that shorter lives were counted with, so each
 *   doubling of the life adds at most 51 pairs.
 *
 * If all tasks live equally long, that makes at most 102 pairs; for lives of up to 24 hours at most 600; for any lives
 * that end at a date at most 2,000.
 */
export const placeUntil = (limit: number, expiresAtMillis: number, lifeMillis: number): number => {
  const step = limit <= maxExactLimit ? 1 : stepSeconds(lifeMillis)
  return Math.ceil(expiresAtMillis / 1000 / step) * step
}

const stepSeconds = (lifeMillis: number): number => {
  let step = 1
  while (step * 2 * 1000 <= lifeMillis * maxLateness) step *= 2
  return step
}
