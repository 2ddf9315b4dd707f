/**
 * Measures contenders side by side. A round runs each contender once, in rotating order, for a few milliseconds. So a
 * moment in which the machine is busy with something else meets all of them. A ratio is taken within each round, and
 * the median of the rounds' ratios is reported with its quartiles.
 */
import { Effect, type Scope } from "effect"

/** One figure of the results. */
export interface Figure {
  readonly group: string
  /** What is done, for example `get`. */
  readonly operation: string
  /** The circumstances, for example `1,000 records`. */
  readonly setting: string
  readonly contender: string
  /** What is measured, for example `cpu`. */
  readonly measure: string
  readonly unit: Unit
  readonly value: Spread
  /** How many times the value of the comparison's baseline this is. */
  readonly ratio?: Spread & { readonly over: string }
}

export type Unit = "ns" | "ms" | "bytes" | "KiB" | "/s" | ""

/** The median and the quartiles of what the rounds gave. */
export interface Spread {
  readonly median: number
  readonly lower: number
  readonly upper: number
}

export interface Contender {
  readonly name: string
  /** Does the operation so many times, one after another unless the operation's name says otherwise. */
  readonly run: (times: number) => unknown
}

export interface Comparison {
  readonly operation: string
  readonly setting: string
  /** The first one is the baseline. */
  readonly contenders: readonly [Contender, ...ReadonlyArray<Contender>]
  /** How many operations a contender does where it is asked for one; 1 if it is left out. */
  readonly perRun?: number
  /** How many times longer than usual the contenders run before they are measured. */
  readonly warmUp?: number
}

export interface Settings {
  readonly quick: boolean
}

/** A part of a group. It runs in a process of its own, where no other code has run that could make it slower. */
export interface Step {
  readonly label: string
  readonly run: Effect.Effect<ReadonlyArray<Figure>, unknown, Scope.Scope>
  /** If the step can't run on this machine, the sentence that says why. */
  readonly missing?: () => string | undefined
}

export const spreadOf = (values: ReadonlyArray<number>): Spread => {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (part: number) => {
    const place = part * (sorted.length - 1)
    const [below = 0, above = below] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]]
    return below + (above - below) * (place % 1)
  }
  return { median: at(0.5), lower: at(0.25), upper: at(0.75) }
}

/** A contender whose operation is an Effect, which a generator yields, as applications do. */
export const inEffect = (name: string, operation: (i: number) => Effect.Effect<unknown, unknown>): Contender => {
  let count = 0
  return inProgram(
    name,
    Effect.fnUntraced(function* (times) {
      for (let i = 0; i < times; i++) yield* operation(count++)
    })
  )
}

/** A contender whose operations are done by one Effect. */
export const inProgram = (name: string, program: (times: number) => Effect.Effect<unknown, unknown>): Contender => ({
  name,
  run: (times) => Effect.runPromise(program(times))
})

/** A contender whose operation returns a promise. */
export const inPromise = (name: string, operation: (i: number) => Promise<unknown>): Contender => {
  let count = 0
  return {
    name,
    run: async (times) => {
      for (let i = 0; i < times; i++) await operation(count++)
    }
  }
}

/** What an operation returned last. Without a use of the results, the engine of JavaScript leaves operations out. */
export let latest: unknown

/** A contender whose operation answers at once. */
export const inPlace = (name: string, operation: (i: number) => unknown): Contender => {
  let count = 0
  return {
    name,
    run: (times) => {
      for (let i = 0; i < times; i++) latest = operation(count++)
    }
  }
}

interface Round {
  readonly wall: number
  readonly cpu: number
}

/** The nanoseconds that one operation takes: on the clock, and of all the threads of this process. */
const runRound = async ({ run }: Contender, times: number): Promise<Round> => {
  const cpuBefore = process.cpuUsage()
  const before = process.hrtime.bigint()
  const running = run(times)
  if (running instanceof Promise) await running
  const wall = Number(process.hrtime.bigint() - before)
  const { system, user } = process.cpuUsage(cpuBefore)
  return { wall: wall / times, cpu: ((user + system) * 1000) / times }
}

/**
 * Runs a contender for a while, so that the engine of JavaScript optimizes it. Returns how many operations fill a
 * round, by the fastest of the last attempts, since the machine may have been busy in one of them.
 */
const warmUp = async (contender: Contender, { roundNanos, warmUpNanos }: Rounds): Promise<number> => {
  let [times, spent] = [1, 0]
  const latest: Array<number> = []
  while (spent < warmUpNanos || latest.length < 3) {
    const { wall } = await runRound(contender, times)
    spent += wall * times
    latest.push(wall)
    if (latest.length > 3) latest.shift()
    if (wall * times < roundNanos / 2) times *= 2
  }
  return Math.max(1, Math.round(roundNanos / Math.min(...latest)))
}

interface Rounds {
  readonly rounds: number
  readonly roundNanos: number
  /** How long a contender runs before it is measured. */
  readonly warmUpNanos: number
}

const roundsOf = ({ quick }: Settings): Rounds =>
  quick ? { rounds: 15, roundNanos: 2e6, warmUpNanos: 60e6 } : { rounds: 100, roundNanos: 5e6, warmUpNanos: 500e6 }

/** Measures the contenders' operations, and returns the figures `wall` and `cpu` for each of them. */
export const compare = Effect.fnUntraced(function* (
  settings: Settings,
  group: string,
  { contenders, operation, perRun = 1, setting, warmUp: warmUps = 1 }: Comparison
) {
  const usual = roundsOf(settings)
  const rounds = { ...usual, warmUpNanos: usual.warmUpNanos * warmUps }
  const lanes: Array<{ contender: Contender; times: number; rounds: Array<Round> }> = []
  for (const contender of contenders) {
    lanes.push({ contender, times: yield* Effect.promise(() => warmUp(contender, rounds)), rounds: [] })
  }
  for (let round = 0; round < rounds.rounds; round++) {
    for (let i = 0; i < lanes.length; i++) {
      const lane = lanes[(i + round) % lanes.length]
      if (lane === undefined) continue
      const { cpu, wall } = yield* Effect.promise(() => runRound(lane.contender, lane.times))
      lane.rounds.push({ wall: wall / perRun, cpu: cpu / perRun })
    }
  }
  return lanes.flatMap(({ contender: { name }, rounds }) =>
    (["wall", "cpu"] as const).map(
      (measure): Figure => ({
        group,
        operation,
        setting,
        contender: name,
        measure,
        unit: "ns",
        ...relate(
          rounds.map((round) => round[measure]),
          lanes[0]?.rounds.map((round) => round[measure]) ?? [],
          contenders[0].name
        )
      })
    )
  )
})

/** The spread of the rounds' values, and that of their ratios over the baseline's values in the same rounds. */
export const relate = (
  values: ReadonlyArray<number>,
  baseline: ReadonlyArray<number>,
  over: string
): Pick<Figure, "value" | "ratio"> => ({
  value: spreadOf(values),
  // A round without any CPU time that the system has noticed says nothing.
  ratio: { over, ...spreadOf(values.flatMap((value, i) => (baseline[i] ? [value / baseline[i]] : []))) }
})

/** A value that is not measured in rounds. */
export const exactly = (value: number): Spread => ({ median: value, lower: value, upper: value })
