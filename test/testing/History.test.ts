import { assert, describe, it } from "@effect/vitest"
import * as History from "../../src/testing/History.ts"

let clock = 0

/** Operations one after another, unless `during` gives the operations that run within another one. */
const lasting = <A extends object>(operation: A, during: () => ReadonlyArray<History.Operation> = () => []) => {
  const start = clock++
  const within = during()
  return [{ ...operation, start, end: clock++ }, ...within] as const
}

const write = (expected: number | undefined, version: number | undefined, data: string) =>
  lasting({ _tag: "Write" as const, expected, version, data })

const read = (version: number, data?: string) => lasting({ _tag: "Read" as const, found: { version, data } })

const nothing = () => lasting({ _tag: "Read" as const, found: undefined })

const conflict = (expected: number, actual: number) => lasting({ _tag: "Conflict" as const, expected, actual })

/** Operations that all run at the same time. */
const atOnce = (...operations: ReadonlyArray<ReadonlyArray<History.Operation>>) => {
  const start = clock++
  const all = operations.flat().map((operation) => ({ ...operation, start }))
  const end = clock++
  return all.map((operation) => ({ ...operation, end }))
}

const histories = (cases: Record<string, () => ReadonlyArray<ReadonlyArray<History.Operation>>>) =>
  Object.entries(cases).map(([name, make]) => [name, () => make().flat()] as const)

describe("History.anomaly finds none in", () => {
  const linearizable = histories({
    "no operations": () => [],
    "reads and writes one after another": () => [nothing(), write(0, 1, "a"), read(1, "a"), write(1, 2, "b"), read(2)],
    "versions that leave some out": () => [write(undefined, 1, "a"), write(1, 7, "b"), conflict(1, 7)],
    "a read of either record while a write runs": () => [
      write(0, 1, "a"),
      atOnce(write(1, 2, "b"), read(1, "a"), read(2, "b"))
    ],
    "one winner of a version and conflicts for the others": () => [
      write(0, 1, "a"),
      atOnce(write(1, 2, "b"), conflict(1, 2), conflict(1, 2))
    ],
    "a write of unknown outcome that never took effect": () => [
      write(0, 1, "a"),
      write(1, undefined, "b"),
      read(1, "a")
    ],
    "a write of unknown outcome that took effect at once": () => [
      write(0, 1, "a"),
      write(1, undefined, "b"),
      read(2, "b"),
      write(2, 3, "c")
    ],
    "a write of unknown outcome that took effect after its caller had gone on": () => [
      write(0, 1, "a"),
      write(undefined, undefined, "b"),
      read(1, "a"),
      write(1, 2, "c"),
      read(3, "b")
    ],
    "two writes of unknown outcome in either order": () => [
      write(undefined, undefined, "a"),
      write(undefined, undefined, "b"),
      read(1, "b"),
      read(2, "a")
    ],
    "a conflict with a write of unknown outcome": () => [write(0, 1, "a"), write(1, undefined, "b"), conflict(1, 2)]
  })
  for (const [name, make] of linearizable) {
    it(name, () => assert.isUndefined(History.anomaly(make())))
  }
})

describe("History.anomaly finds", () => {
  const wrong = histories({
    "a lost update: two writes over one version": () => [
      write(0, 1, "a"),
      atOnce(write(1, 2, "b"), write(1, 3, "c")),
      read(3, "c")
    ],
    "a lost update: a write that was overwritten by what was read before it": () => [
      write(0, 1, "a"),
      write(1, 2, "b"),
      write(1, 3, "c")
    ],
    "a stale read": () => [write(0, 1, "a"), write(1, 2, "b"), read(1, "a")],
    "a read that goes back to a write of unknown outcome that was overwritten": () => [
      write(0, 1, "a"),
      write(1, undefined, "b"),
      read(2, "b"),
      write(2, 3, "c"),
      read(2, "b")
    ],
    "two winners of one version": () => [write(0, 1, "a"), atOnce(write(1, 2, "b"), write(1, 2, "c"))],
    "two creations": () => [atOnce(write(0, 1, "a"), write(0, 1, "b"))],
    "a read before its write": () => [read(1, "a"), write(0, 1, "a")],
    "a read of what nobody wrote": () => [write(0, 1, "a"), read(1, "b")],
    "a read of a version that nobody wrote": () => [write(0, 1, "a"), read(2)],
    "a read of nothing after a write": () => [write(0, 1, "a"), nothing()],
    "a false conflict: nobody wrote in between": () => [write(0, 1, "a"), conflict(1, 2)],
    "a false conflict: the version was the expected one": () => [write(0, 1, "a"), conflict(1, 1)],
    "a false conflict: the write that was refused is there": () => [write(0, 1, "a"), conflict(1, 2), read(2, "b")],
    "a conflict with a version that is yet to come": () => [write(0, 1, "a"), conflict(2, 3), write(1, 3, "b")],
    "a write of unknown outcome that took effect twice": () => [
      write(0, 1, "a"),
      write(undefined, undefined, "b"),
      read(2, "b"),
      write(2, 3, "c"),
      read(4, "b")
    ],
    "a write of unknown outcome that took effect before it began": () => [
      write(0, 1, "a"),
      read(2, "b"),
      write(1, undefined, "b")
    ],
    "a compare-and-set of unknown outcome that went over another version": () => [
      write(0, 1, "a"),
      write(1, 2, "b"),
      write(1, undefined, "c"),
      read(3, "c")
    ],
    "a write that went back in its version": () => [write(0, 3, "a"), write(3, 2, "b")]
  })
  for (const [name, make] of wrong) {
    it(name, () => assert.match(History.anomaly(make()) ?? "", /^no order of the operations explains/))
  }
})

describe("History.anomaly", () => {
  it("looks through a long history of many clients in little time", () => {
    const history: Array<History.Operation> = []
    for (let round = 0; round < 200; round++) {
      const version = round + 1
      history.push(
        ...atOnce(
          write(round, version, `${version}`),
          ...Array.from({ length: 6 }, () => conflict(round, version)),
          ...Array.from({ length: 3 }, () => read(version, `${version}`))
        )
      )
    }
    assert.isUndefined(History.anomaly(history))
    assert.isDefined(History.anomaly([...history, ...read(199, "199")]))
  })
})
