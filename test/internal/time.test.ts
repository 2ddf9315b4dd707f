import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, DateTime, Duration, Schema } from "effect"
import { checkLimit } from "../../src/internal/options.ts"
import { lastMillisecond, toDate, toExpirySeconds, toMillis } from "../../src/internal/time.ts"

const at = (millis: number) => DateTime.addDuration(DateTime.makeUnsafe(0), Duration.millis(millis))

describe("toExpirySeconds", () => {
  it.prop(
    "rounds any date up to a second, and toDate gives that second back",
    [
      Arbitrary.schema(
        Schema.Int.check(Schema.isBetween({ minimum: -lastMillisecond / 1000, maximum: lastMillisecond / 1000 }))
      )
    ],
    ([seconds]) => {
      assert.strictEqual(toExpirySeconds(at(seconds * 1000)), seconds)
      assert.strictEqual(toExpirySeconds(at(seconds * 1000 - 999)), Math.max(seconds, -lastMillisecond / 1000))
      assert.strictEqual(toDate(seconds).epochMilliseconds, seconds * 1000)
    }
  )

  it("takes infinity and nothing for never, and what lies beyond all dates for the last one and the first one", () => {
    assert.strictEqual(toExpirySeconds(undefined), undefined)
    assert.strictEqual(toExpirySeconds(DateTime.addDuration(DateTime.makeUnsafe(0), Duration.infinity)), undefined)
    assert.strictEqual(toExpirySeconds(at(lastMillisecond * 10)), lastMillisecond / 1000)
    assert.strictEqual(toExpirySeconds(at(-lastMillisecond * 10)), -lastMillisecond / 1000)
  })

  it("throws on what is not an instant, and says what was given", () => {
    const given: ReadonlyArray<readonly [unknown, RegExp]> = [
      [DateTime.add(DateTime.makeUnsafe(0), { days: 1e9 }), /a DateTime of NaN ms/],
      [DateTime.addDuration(DateTime.makeUnsafe(0), Duration.negativeInfinity), /a DateTime of -Infinity ms/],
      [new Date(0), /the Date Thu Jan 01 1970/],
      ["tomorrow", /"tomorrow"/],
      [5, /it is 5/],
      [null, /it is null/]
    ]
    for (const [expiresAt, words] of given) {
      assert.throws(() => toExpirySeconds(expiresAt as DateTime.Utc), words)
      assert.throws(() => toExpirySeconds(expiresAt as DateTime.Utc), /^expiresAt must be a DateTime at an instant/)
    }
  })
})

describe("toMillis", () => {
  it("gives the milliseconds of any duration of zero or more", () => {
    for (const [input, millis] of [
      ["5 seconds", 5000],
      [0, 0],
      [1.5, 1.5],
      [2_000_000n, 2],
      [[1, 500_000_000], 1500],
      [{ minutes: 1, seconds: 1 }, 61_000],
      [Duration.hours(1), 3_600_000],
      ["Infinity", Number.POSITIVE_INFINITY],
      [Duration.infinity, Number.POSITIVE_INFINITY]
    ] as ReadonlyArray<readonly [Duration.Input, number]>) {
      assert.strictEqual(toMillis("ttl", input), millis)
    }
  })

  it("throws on what is not a duration or is below zero, and names the option", () => {
    for (const input of [
      Number.NaN,
      -1,
      "-Infinity",
      Duration.negativeInfinity,
      "soon",
      new Date(),
      null,
      {},
      { seconds: Number.NaN },
      { seconds: "5" },
      [Number.NaN, 0],
      true
    ] as ReadonlyArray<unknown> as ReadonlyArray<Duration.Input>) {
      assert.throws(() => toMillis("ttl", input), /^ttl must be a duration of zero or more/, String(input))
    }
  })
})

describe("checkLimit", () => {
  it("gives a limit back, and throws on what would never hold", () => {
    for (const limit of [0, 1, 1.5, Number.POSITIVE_INFINITY])
      assert.strictEqual(checkLimit("maxRecords", limit), limit)
    for (const limit of [Number.NaN, -1, "5", null, undefined, {}] as ReadonlyArray<unknown> as ReadonlyArray<number>) {
      assert.throws(() => checkLimit("maxRecords", limit), /^maxRecords must be a number of zero or more/)
    }
  })
})
