import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Schema } from "effect"
import * as Ledger from "../../../src/task/internal/ledger.ts"

const Until = Schema.NullOr(Schema.Literals([1, 2, 3, 4, 5, 60, 3600, 1_700_000_000]))
const Untils = Arbitrary.array(Arbitrary.schema(Until), { maxLength: 30 })

const addAll = (untils: Iterable<number | null>) => {
  let pairs: Ledger.Pairs = []
  for (const until of untils) pairs = Ledger.add(pairs, until)
  return pairs
}

const countsBySecond = (untils: ReadonlyArray<number | null>) => {
  const counts = new Map<number | null, number>()
  for (const until of untils) counts.set(until, (counts.get(until) ?? 0) + 1)
  return Array.from(counts).sort(([a], [b]) => Ledger.orForever(a) - Ledger.orForever(b))
}

/** A life in milliseconds: from 1 to about 27,000 years, long ones as likely as short ones. */
const Life = Arbitrary.map(
  Arbitrary.schema(
    Schema.Struct({
      digits: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 9_999_999 })),
      zeros: Schema.Int.check(Schema.isBetween({ minimum: -6, maximum: 8 }))
    })
  ),
  ({ digits, zeros }) => Math.ceil(digits * 10 ** zeros)
)

const Now = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 2_000_000_000_000 })))

const property = <A>(name: string, arbitrary: Arbitrary.Arbitrary<A>, holds: (value: A) => void) =>
  it.effect(name, () =>
    Effect.map(
      Arbitrary.checkEffect(
        arbitrary,
        (value) =>
          Effect.as(
            Effect.sync(() => holds(value)),
            true
          ),
        { runs: 500 }
      ),
      (result) => assert.isUndefined(Arbitrary.formatCheckFailure(result))
    )
  )

const both = <A, B>(first: Arbitrary.Arbitrary<A>, second: Arbitrary.Arbitrary<B>) =>
  Arbitrary.flatMap(first, (a) => Arbitrary.map(second, (b) => [a, b] as const))

describe("a ledger", () => {
  property("holds each second once, in order, with the number of places that were added", Untils, (untils) => {
    assert.deepStrictEqual(addAll(untils), countsBySecond(untils))
    assert.strictEqual(Ledger.countOf(addAll(untils)), untils.length)
  })

  property(
    "is the same after a place is added and given back, in any order with others",
    both(Untils, both(Arbitrary.schema(Until), Untils)),
    ([before, [until, between]]) => {
      const pairs = addAll(before)
      assert.deepStrictEqual(Ledger.subtract(Ledger.add(pairs, until), until), pairs)
      const added = addAll([...before, until, ...between])
      assert.deepStrictEqual(Ledger.subtract(added, until), addAll([...before, ...between]))
    }
  )

  property("gives back nothing if no place was taken until that second", Untils, (untils) => {
    const pairs = addAll(untils.filter((until) => until !== 4))
    assert.isUndefined(Ledger.subtract(pairs, 4))
  })

  property("holds places until their second comes, and no longer", Untils, (untils) => {
    for (const now of [0, 1, 3, 60, 1_700_000_000]) {
      const expected = countsBySecond(untils.filter((until) => until === null || until > now))
      assert.deepStrictEqual(Ledger.takenAt(addAll(untils), now), expected)
    }
  })

  it("keeps the counts of a second that another client wrote twice", () => {
    const pairs = Ledger.add(
      [
        [5, 1],
        [5, 2]
      ],
      5
    )
    assert.strictEqual(Ledger.countOf(pairs), 4)
    assert.strictEqual(Ledger.countOf(Ledger.subtract(pairs, 5) ?? []), 3)
  })
})

describe("the second until which a place is taken", () => {
  property("is the second of the task's expiry up to a limit of 512", both(Now, Life), ([now, life]) => {
    for (const limit of [0, 1, 100, 512]) {
      assert.strictEqual(Ledger.placeUntil(limit, now + life, life), Math.ceil((now + life) / 1000))
    }
  })

  property(
    "is never before the task's expiry, and at most 2% of its life or the rest of a second after it",
    both(Now, Life),
    ([now, life]) => {
      for (const limit of [513, 1000, Number.POSITIVE_INFINITY]) {
        const heldMillis = Ledger.placeUntil(limit, now + life, life) * 1000 - (now + life)
        assert.isAtLeast(heldMillis, 0)
        assert.isBelow(heldMillis, Math.max(1000, life * 0.02))
      }
    }
  )

  /** How many different seconds the places of all tasks end at, whose lives are below a number of seconds. */
  const mostPairs = (lowestLifeSeconds: number, highestLifeSeconds: number) => {
    const now = 1_700_000_001_234
    const untils = new Set<number>()
    for (let life = lowestLifeSeconds; life <= highestLifeSeconds; life += Math.max(1, Math.floor(life / 400))) {
      // Tasks that were created at any time and are alive now.
      for (let passed = 0; passed < life; passed += Math.max(1, Math.floor(life / 400))) {
        untils.add(Ledger.placeUntil(1000, now + (life - passed) * 1000, life * 1000))
      }
    }
    return untils.size
  }

  it("makes at most 102 pairs if all tasks live equally long, and 600 for lives of up to 24 hours", () => {
    for (const life of [1, 10, 99, 100, 101, 1000, 3600, 86_400, 31_536_000]) {
      assert.isAtMost(mostPairs(life, life), 102)
    }
    const most = mostPairs(1, 86_400)
    assert.isAtMost(most, 600)
    assert.isAtLeast(most, 500, "the lives were not varied enough to come near the bound")
  })
})
