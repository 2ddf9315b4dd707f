/** Many fibers, and several processes, that update one record at the same time. */
import { join } from "node:path"
import { Effect, type Scope } from "effect"
import * as DynamoDbLocal from "../../examples/DynamoDbLocal.ts"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as RedisServer from "../../examples/RedisServer.ts"
import { contend, type EngineName, type Load, makeBackend, type Outcome } from "../contention/contend.ts"
import { exactly, type Figure, type Settings, type Step } from "../measure.ts"
import { nextMessage, start } from "../processes.ts"
import { makeFolder } from "./sqlite.ts"

const group = "contention"

interface Server {
  readonly engine: EngineName
  readonly name: string
  /** Why the engine can't run on this machine. */
  readonly missing: () => string | undefined
  /** Starts the engine, and returns its address. */
  readonly start: Effect.Effect<string, unknown, Scope.Scope>
}

const servers: ReadonlyArray<Server> = [
  { engine: "InMemory", name: "memory", missing: () => undefined, start: Effect.succeed("") },
  {
    engine: "Sqlite",
    name: "SQLite",
    missing: () => undefined,
    start: Effect.map(makeFolder, (folder) => join(folder, "contended.db"))
  },
  { engine: "Redis", name: "Redis", missing: RedisServer.missing, start: RedisServer.start },
  { engine: "Postgres", name: "PostgreSQL", missing: PostgresServer.missing, start: PostgresServer.start },
  { engine: "DynamoDb", name: "DynamoDB Local", missing: DynamoDbLocal.missing, start: DynamoDbLocal.start }
]

const figure = (
  setting: string,
  contender: string,
  operation: string,
  measure: string,
  unit: Figure["unit"],
  value: number
): Figure => ({ group, operation, setting, contender, measure, unit, value: exactly(value) })

const figuresOf = (operation: string, setting: string, contender: string, outcome: Outcome): Array<Figure> => {
  const { failed, longestWaitMillis, requests, seconds, unfinished, updates } = outcome
  const of = (measure: string, unit: Figure["unit"], value: number) =>
    figure(setting, contender, operation, measure, unit, value)
  return [
    of("updates", "/s", updates / seconds),
    of("failed", "", failed),
    of("unfinished", "", unfinished),
    of("requests an update", "", requests / Math.max(1, updates)),
    of("longest wait", "ms", longestWaitMillis)
  ]
}

let records = 0

const loadOf = ({ quick }: Settings, { engine }: Server, address: string, options: Partial<Load>): Load => ({
  engine,
  address,
  drainMillis: quick ? 1000 : 5000,
  id: `record/${records++}`,
  fibers: 64,
  millis: 1000,
  updatesEach: Number.MAX_SAFE_INTEGER,
  isGrouped: true,
  isEffectful: false,
  ...options
})

/** One process, from one fiber to 256, with group commit and without it. */
const contendByFibers = Effect.fnUntraced(function* (settings: Settings, server: Server, address: string) {
  const { engine, name } = server
  const backend = yield* makeBackend(engine, address)
  yield* contend(backend, loadOf(settings, server, address, { millis: 200 }))
  const figures: Array<Figure> = []
  for (const fibers of [1, 4, 16, 64, 256]) {
    for (const isGrouped of [true, false]) {
      // Without group commit, most of the time would be that of the waits between attempts.
      if (settings.quick && !isGrouped && fibers !== 1 && fibers !== 16) continue
      const millis = settings.quick ? 200 : 2000
      const outcome = yield* contend(backend, loadOf(settings, server, address, { fibers, isGrouped, millis }))
      const contender = isGrouped ? `${name}, grouped` : name
      figures.push(...figuresOf("update of one record", `${fibers} fibers`, contender, outcome))
    }
  }
  return figures
})

/** A fixed number of updates shows how many of them fail. */
const contendByCount = Effect.fnUntraced(function* (settings: Settings, server: Server, address: string) {
  const { engine, name } = server
  const backend = yield* makeBackend(engine, address)
  const updatesEach = settings.quick ? 100 : 1000
  const outcome = yield* contend(
    backend,
    loadOf(settings, server, address, { updatesEach, millis: settings.quick ? 3000 : 120_000 })
  )
  return figuresOf(`64 fibers x ${updatesEach.toLocaleString("en")} updates`, "", name, outcome)
})

/** Runs each load in a process of its own, all at the same time. */
const inProcesses = (loads: ReadonlyArray<Load>) =>
  Effect.scoped(
    Effect.gen(function* () {
      const children = yield* Effect.forEach(loads, (load) => start("worker/contend.ts", [JSON.stringify(load)]))
      const each = { concurrency: "unbounded" } as const
      yield* Effect.forEach(children, (child) => nextMessage(child), each)
      return yield* Effect.forEach(
        children,
        (child) => {
          child.send("go")
          return nextMessage<Outcome>(child)
        },
        each
      )
    })
  )

const sum = (values: ReadonlyArray<number>) => values.reduce((total, value) => total + value, 0)

/** Four processes. The least share is 1 if each process gets a quarter of the updates. */
const contendByProcesses = Effect.fnUntraced(function* (settings: Settings, server: Server, address: string) {
  const millis = settings.quick ? 2000 : 10_000
  const load = loadOf(settings, server, address, { millis })
  const outcomes = yield* inProcesses([load, load, load, load])
  const all: Outcome = {
    updates: sum(outcomes.map(({ updates }) => updates)),
    failed: sum(outcomes.map(({ failed }) => failed)),
    unfinished: sum(outcomes.map(({ unfinished }) => unfinished)),
    requests: sum(outcomes.map(({ requests }) => requests)),
    writes: sum(outcomes.map(({ writes }) => writes)),
    longestWaitMillis: Math.max(...outcomes.map((outcome) => outcome.longestWaitMillis)),
    seconds: Math.max(...outcomes.map(({ seconds }) => seconds))
  }
  const leastShare = Math.min(...outcomes.map(({ updates }) => updates)) / (all.updates / outcomes.length)
  const operation = "4 processes x 64 fibers"
  return [
    ...figuresOf(operation, "", server.name, all),
    figure("", server.name, operation, "least share beside the fair one", "", leastShare)
  ]
})

/** One fiber of a process beside 64 fibers of another. A write of those may carry many updates. */
const contendAlone = Effect.fnUntraced(function* (settings: Settings, server: Server, address: string) {
  const figures: Array<Figure> = []
  for (const isEffectful of [false, true]) {
    const millis = settings.quick ? 1000 : 10_000
    const busy = loadOf(settings, server, address, { millis })
    const outcomes = yield* inProcesses([{ ...busy, fibers: 1, isEffectful }, busy])
    const share = (field: "writes" | "updates" | "requests") =>
      (outcomes[0]?.[field] ?? 0) / Math.max(1, sum(outcomes.map((outcome) => outcome[field])))
    const operation = "one lone fiber beside 64 of another process"
    const setting = isEffectful ? "updateEffect" : "update"
    const of = (measure: string, unit: Figure["unit"], value: number) =>
      figure(setting, server.name, operation, measure, unit, value)
    figures.push(
      of("its share of the writes", "", share("writes")),
      of("its share of the requests", "", share("requests")),
      of("its share of the updates", "", share("updates")),
      of("failed", "", sum(outcomes.map(({ failed }) => failed))),
      of("longest wait", "ms", outcomes[0]?.longestWaitMillis ?? 0)
    )
  }
  return figures
})

export const stepsOf = (settings: Settings): ReadonlyArray<Step> =>
  servers.flatMap((server) => {
    const { engine, missing, name, start } = server
    const step = (
      label: string,
      run: (address: string) => Effect.Effect<ReadonlyArray<Figure>, unknown, Scope.Scope>
    ) => ({
      label: `${name}, ${label}`,
      run: Effect.flatMap(start, run),
      missing
    })
    const ofFibers = step("1 to 256 fibers", (address) =>
      Effect.map(
        Effect.all([contendByFibers(settings, server, address), contendByCount(settings, server, address)]),
        (figures) => figures.flat()
      )
    )
    const ofProcesses = step("several processes", (address) =>
      Effect.map(
        Effect.all([contendByProcesses(settings, server, address), contendAlone(settings, server, address)]),
        (figures) => figures.flat()
      )
    )
    return engine === "InMemory" ? [ofFibers] : [ofFibers, ofProcesses]
  })
