/** The goals of the project, and what a run measured of each of them. */
import type { Figure } from "./measure.ts"

interface Part {
  readonly value: number | undefined
  readonly limit: number
  /** Whether the value must be at least the limit; by default at most. */
  readonly isAtLeast?: boolean
}

interface Goal {
  readonly what: string
  readonly parts: ReadonlyArray<Part>
}

export interface Row {
  readonly what: string
  readonly measured: string
  readonly goal: string
  readonly met: "yes" | "no" | "not measured"
}

type Where = Partial<Pick<Figure, "operation" | "setting" | "contender" | "measure">>

/** Finds values in the figures of a group. A text names the start of a field. */
const finder = (figures: ReadonlyArray<Figure>, group: string) => {
  const find = (where: Where) =>
    figures.filter(
      (figure) =>
        figure.group === group &&
        (Object.keys(where) as Array<keyof Where>).every((field) => figure[field].startsWith(where[field] ?? ""))
    )
  const values = (where: Where) => find(where).map(({ value }) => value.median)
  /** How many times the baseline's CPU time. */
  const ratio = (operation: string, contender: string, setting = "") =>
    find({ operation, contender, setting, measure: "cpu" })[0]?.ratio?.median
  const value = (where: Where) => values(where)[0]
  const worst = (where: Where) => (values(where).length === 0 ? undefined : Math.max(...values(where)))
  const least = (where: Where) => (values(where).length === 0 ? undefined : Math.min(...values(where)))
  return { find, ratio, value, worst, least }
}

const atMost = (value: number | undefined, limit: number): Part => ({ value, limit })
const atLeast = (value: number | undefined, limit: number): Part => ({ value, limit, isAtLeast: true })

const contentionGoals = (figures: ReadonlyArray<Figure>): ReadonlyArray<Goal> => {
  const { least, value, worst } = finder(figures, "contention")
  const counted = "64 fibers x"
  const requests = (contender: string) => value({ operation: counted, contender, measure: "requests" })
  const processes = "4 processes"
  const lone = "one lone fiber"
  return [
    {
      what: "64 fibers update one record: failed · requests an update on Redis · DynamoDB · SQLite · PostgreSQL",
      parts: [
        atMost(worst({ operation: counted, measure: "failed" }), 0),
        atMost(requests("Redis"), 0.05),
        atMost(requests("DynamoDB"), 0.05),
        atMost(requests("SQLite"), 0.03),
        atMost(requests("PostgreSQL"), 0.05)
      ]
    },
    {
      what: "4 processes x 64 fibers: failed · longest wait (s) · least share of a process, worst engine",
      parts: [
        atMost(worst({ operation: processes, measure: "failed" }), 0),
        atMost(seconds(worst({ operation: processes, measure: "longest wait" })), 1),
        atLeast(least({ operation: processes, measure: "least share" }), 0.5)
      ]
    },
    {
      what: "lone fiber beside 64 of another process: its share of the writes by update · updateEffect, worst engine",
      parts: ["update", "updateEffect"].map((setting) =>
        atLeast(
          minimum(
            figures.filter(
              (figure) =>
                figure.operation.startsWith(lone) &&
                figure.setting === setting &&
                figure.measure === "its share of the writes"
            )
          ),
          0.1
        )
      )
    }
  ]
}

const seconds = (millis: number | undefined) => (millis === undefined ? undefined : millis / 1000)

const minimum = (figures: ReadonlyArray<Figure>) =>
  figures.length === 0 ? undefined : Math.min(...figures.map(({ value }) => value.median))

const memoryGoals = (figures: ReadonlyArray<Figure>): ReadonlyArray<Goal> => {
  const { find, ratio } = finder(figures, "memory")
  const heap = (contender: string) => find({ operation: "heap", contender })[0]?.ratio?.median
  return [
    ...["1 record", "1,000 records"].map((at) => ({
      what: `memory, ${at}: get · put · compare-and-set won · lost (x KeyValueStore get, set, modify)`,
      parts: [
        atMost(ratio("get", "StorageBackend", at), 1.5),
        atMost(ratio("put", "StorageBackend", at), 2),
        atMost(ratio("compare-and-set", "won", at), 0.85),
        atMost(ratio("compare-and-set", "lost", at), 3)
      ]
    })),
    {
      what: "memory: VersionedStore get · set · update (x SchemaStore get, set, modify)",
      parts: [
        atMost(ratio("typed get", "VersionedStore", "a number"), 0.6),
        atMost(ratio("typed set", "VersionedStore", "a number"), 0.9),
        atMost(ratio("typed update", "VersionedStore", "a number"), 0.75)
      ]
    },
    {
      what: "heap of a record of 100 characters (x a Map of the same records): one owner · an owner each",
      parts: [atMost(heap("StorageBackend, one owner"), 1.3), atMost(heap("StorageBackend, an owner each"), 2)]
    }
  ]
}

/** The operations whose CPU time, on a stub, is below that of every other library except lib-dynamodb. */
const dynamoDbGoals = (figures: ReadonlyArray<Figure>): ReadonlyArray<Goal> => {
  const { find, ratio } = finder(figures, "dynamodb")
  const stub = "a stub"
  const operations = ["get", "put", "compare-and-set"]
  const peers = ["ElectroDB", "DynamoDB-Toolbox", "OneTable"]
  const overPeers = operations.flatMap((operation) =>
    peers.map((peer) => (ratio(operation, "DynamoDb", stub) ?? 0) / (ratio(operation, peer, stub) ?? 1))
  )
  return [
    {
      what: "DynamoDB: CPU over the bare client, get · put · compare-and-set · over the fastest other library",
      parts: [
        ...operations.map((operation) => atMost(ratio(operation, "DynamoDb", stub), 1.15)),
        atMost(find({ setting: stub }).length === 0 ? undefined : Math.max(...overPeers), 1)
      ]
    }
  ]
}

const engineGoals = (figures: ReadonlyArray<Figure>): ReadonlyArray<Goal> => {
  const redis = finder(figures, "redis")
  const sqlite = finder(figures, "sqlite")
  const postgres = finder(figures, "postgres")
  const fibers = sqlite.value({ operation: "put, 64 fibers", contender: "Sqlite", measure: "wall" })
  return [
    {
      what: "SQLite, 256 writers: longest stop of the loop (ms), median of the rounds · worst",
      parts: ["in a round", "of all rounds"].map((measure) =>
        atMost(sqlite.value({ operation: "longest stop", contender: "Sqlite", measure }), 10)
      )
    },
    {
      what: "SQLite FULL, 64 fibers, different records: ms a put",
      parts: [atMost(fibers === undefined ? undefined : fibers / 1e6, 0.05)]
    },
    {
      what: "Redis: CPU of a get over the bare client, one at a time · 50 at once",
      parts: [
        atMost(redis.ratio("get", "Redis", "one at a time"), 1.8),
        atMost(redis.ratio("get", "Redis", "50 at once"), 2.5)
      ]
    },
    {
      what: "Redis: CPU of a put over the bare client, one at a time · 50 at once",
      parts: [
        atMost(redis.ratio("put", "Redis", "one at a time"), 1.8),
        atMost(redis.ratio("put", "Redis", "50 at once"), 2.5)
      ]
    },
    {
      what: "PostgreSQL: CPU over the bare client, one at a time, get · put · compare-and-set · 50 at once, get · put",
      parts: [
        ...["get", "put", "compare-and-set"].map((operation) => postgres.ratio(operation, "Postgres", "one at a time")),
        ...["get", "put"].map((operation) => postgres.ratio(operation, "Postgres", "50 at once"))
      ].map((ratio) => atMost(ratio, 1.15))
    },
    {
      what: "SQLite: get · put NORMAL (x the bare statement)",
      parts: [
        atMost(sqlite.ratio("get", "Sqlite"), 1.15),
        atMost(sqlite.ratio("put", "Sqlite", "synchronous NORMAL"), 1.3)
      ]
    }
  ]
}

const taskGoals = (figures: ReadonlyArray<Figure>): ReadonlyArray<Goal> => {
  const { ratio } = finder(figures, "tasks")
  return [
    {
      what: "TaskStore: create · create with 3,600 expiries · list of 10 at 100,000 (x the SDK's store in memory)",
      parts: [
        atMost(ratio("create", "TaskStore", "one expiry"), 5),
        atMost(ratio("create", "TaskStore", "3,600 expiries"), 6),
        atMost(ratio("list of 10", "TaskStore"), 0.008)
      ]
    }
  ]
}

const pageGoals = (figures: ReadonlyArray<Figure>): ReadonlyArray<Goal> =>
  Object.entries({
    memory: [1.1, 1.2],
    sqlite: [1.1, 1.2],
    redis: [1.1, 1.2],
    postgres: [1.1, 1.2],
    dynamodb: [1.5, 1.5]
  }).map(([group, [first = 0, middle = 0]]) => {
    const ratio = (operation: string) =>
      finder(figures, group)
        .find({ operation, measure: "wall" })
        .find((figure) => figure.contender !== figure.ratio?.over)?.ratio?.median
    return {
      what: `page of 50 of many records over one of 100, ${group}: first · middle`,
      parts: [atMost(ratio("page of 50, first"), first), atMost(ratio("page of 50, in the middle"), middle)]
    }
  })

const sizeGoals = (figures: ReadonlyArray<Figure>): ReadonlyArray<Goal> => {
  const { value } = finder(figures, "size")
  return [
    {
      what: "compressed without effect (KiB): the root entry · InMemory and VersionedStore alone",
      parts: [
        atMost(value({ contender: "the root entry", measure: "compressed" }), 18),
        atMost(value({ contender: "InMemory and VersionedStore", measure: "compressed" }), 9)
      ]
    }
  ]
}

const show = (value: number | undefined) =>
  value === undefined ? "-" : value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)))

const isMet = ({ isAtLeast = false, limit, value = Number.NaN }: Part) => (isAtLeast ? value >= limit : value <= limit)

const rowOf = ({ parts, what }: Goal): Row => ({
  what,
  measured: parts.map(({ value }) => show(value)).join(" · "),
  goal: parts.map(({ isAtLeast, limit }) => `${isAtLeast ? "≥ " : ""}${limit}`).join(" · "),
  met: parts.some(({ value }) => value === undefined) ? "not measured" : parts.every(isMet) ? "yes" : "no"
})

export const goalsOf = (figures: ReadonlyArray<Figure>): ReadonlyArray<Row> =>
  [
    ...contentionGoals(figures),
    ...engineGoals(figures),
    ...memoryGoals(figures),
    ...dynamoDbGoals(figures),
    ...taskGoals(figures),
    ...pageGoals(figures),
    ...sizeGoals(figures)
  ]
    .filter(({ parts }) => parts.some(({ value }) => value !== undefined))
    .map(rowOf)
