/**
 * Each scenario is played once for each request of a process, which fails at that request. Whatever fails, the workflow
 * must end with the right result, no activity may begin once its result is stored, and after the retention nothing may
 * be left in the storage.
 *
 * The kinds of faults take turns. With `CRASHES=all`, each kind is played at each request, which takes some minutes.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import { type Mode, modes } from "./crash.ts"
import { type Options, play, type Scenario } from "./play.ts"
import { scenarios } from "./scenarios.ts"

const playsAll = process.env.CRASHES === "all"

/** Each play has a clock of its own. The engine's warnings about the faults are not shown. */
const played = (scenario: Scenario, options: Options) =>
  Effect.provide(play(scenario, options), Layer.merge(TestClock.layer({ warningDelay: "1 hour" }), Logger.layer([])))

const modesAt = (turn: number): ReadonlyArray<Mode> =>
  playsAll ? modes : modes.slice(turn % modes.length, (turn % modes.length) + 1)

const playAll = Effect.fnUntraced(function* (scenario: Scenario, turn: number) {
  const found: Array<string> = []
  for (const victim of ["worker", "client"] as const) {
    const { requests, wrongs } = yield* played(scenario, { victim, isEarly: true })
    found.push(...wrongs.map((wrong) => `without a fault: ${wrong}`))
    for (const [at, request] of requests.entries()) {
      for (const mode of modesAt(at + turn)) {
        const { wrongs } = yield* played(scenario, { victim, isEarly: at % 2 === 0, fault: { mode, at } })
        found.push(...wrongs.map((wrong) => `${victim} ${mode} ${at} (${request}): ${wrong}`))
      }
    }
  }
  return found
})

describe("A workflow survives a fault at each request", () => {
  for (const [turn, scenario] of scenarios.entries()) {
    it.live(scenario.name, () => Effect.map(playAll(scenario, turn), (found) => assert.deepStrictEqual(found, [])))
  }
})
