/** The engines that workflows are measured on, with what is sent to each of them counted at its client. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DynamoDBClient } from "@aws-sdk/client-dynamodb"
import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, type Scope } from "effect"
import { createClient } from "redis"
import * as DynamoDbLocal from "../../examples/DynamoDbLocal.ts"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as RedisServer from "../../examples/RedisServer.ts"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import * as InMemory from "../../src/engine/InMemory.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as Faults from "../../src/testing/Faults.ts"

/** What was sent since the counts were last set to zero. */
export interface Sent {
  /** Operations of the backend, by their names. */
  readonly operations: Record<string, number>
  /** Requests of the client: DynamoDB's API calls, Redis's commands, PostgreSQL's statements. */
  readonly requests: number
  /** DynamoDB's consumed capacity units, of reads and of writes. */
  readonly units?: { readonly read: number; readonly write: number }
}

export interface Counter {
  /** Begins to count, if that costs time. */
  readonly start?: Effect.Effect<unknown, never, Scope.Scope>
  readonly reset: Effect.Effect<unknown>
  readonly read: Effect.Effect<Omit<Sent, "operations"> | undefined>
}

export interface Engine {
  readonly name: string
  readonly missing: () => string | undefined
  /** Starts the engine. Gives a backend of which each build is a client of its own, and the count at the client. */
  readonly start: Effect.Effect<
    { readonly layer: Layer.Layer<StorageBackend, unknown>; readonly counter: Counter },
    unknown,
    Scope.Scope
  >
}

const uncounted: Counter = { reset: Effect.void, read: Effect.undefined }
const tableName = "records"

export const newFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "workflows-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

const readCommands = ["GetItemCommand", "BatchGetItemCommand", "QueryCommand", "TransactGetItemsCommand"]

interface Capacity {
  readonly CapacityUnits?: number
}

const startDynamoDb = Effect.gen(function* () {
  const endpoint = yield* DynamoDbLocal.start
  const counts = { requests: 0, read: 0, write: 0 }
  const client = new DynamoDBClient({
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId: "local", secretAccessKey: "local" }
  })
  client.middlewareStack.add(
    (next, { commandName }) =>
      async (args) => {
        counts.requests++
        const answer = await next(args)
        const { ConsumedCapacity = [] } = answer.output as { ConsumedCapacity?: Capacity | ReadonlyArray<Capacity> }
        for (const { CapacityUnits = 0 } of [ConsumedCapacity].flat() as ReadonlyArray<Capacity>) {
          counts[readCommands.includes(String(commandName)) ? "read" : "write"] += CapacityUnits
        }
        return answer
      },
    { step: "deserialize", priority: "high" }
  )
  const layerClient = Layer.effect(
    DynamoDb.Client,
    Effect.acquireRelease(Effect.succeed(client), (client) => Effect.sync(() => client.destroy()))
  )
  yield* Effect.provide(DynamoDb.ensureTable({ tableName }), yield* Layer.build(layerClient))
  const counter: Counter = {
    reset: Effect.sync(() => Object.assign(counts, { requests: 0, read: 0, write: 0 })),
    read: Effect.sync(() => ({ requests: counts.requests, units: { read: counts.read, write: counts.write } }))
  }
  return { layer: DynamoDb.layer({ tableName }).pipe(Layer.provide(layerClient)), counter }
})

const startRedis = Effect.gen(function* () {
  const url = yield* RedisServer.start
  let requests = 0
  const monitor = Effect.acquireRelease(
    Effect.promise(async () => {
      const client = await createClient({ url }).connect()
      // The commands within a script are a part of one request.
      await client.monitor((line) => {
        if (!/^[\d.]+ \[\d+ lua\]/.test(line)) requests++
      })
      return client
    }),
    (client) => Effect.sync(() => client.destroy())
  )
  const counter = {
    start: monitor,
    reset: Effect.sync(() => {
      requests = 0
    }),
    read: Effect.sync(() => ({ requests }))
  }
  return { layer: Redis.layer().pipe(Layer.provide(RedisClient.layer({ url }))), counter }
})

const startPostgres = Effect.gen(function* () {
  const cluster = yield* PostgresServer.makeCluster(["shared_preload_libraries=pg_stat_statements"])
  yield* cluster.run
  const client = Postgres.layerClient({ url: Redacted.make(cluster.url) })
  const admin = yield* Layer.build(client)
  const ask = (text: string) =>
    Effect.orDie(
      Effect.provide(
        Effect.flatMap(PgClient.PgClient, (sql) => sql.unsafe(text).values),
        admin
      )
    )
  yield* ask("CREATE EXTENSION pg_stat_statements")
  yield* Effect.provide(Postgres.ensureTable({ tableName }), admin)
  const counter: Counter = {
    reset: ask("SELECT pg_stat_statements_reset()"),
    read: Effect.map(
      ask("SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"),
      ([row]) => ({ requests: Number(row?.[0]) })
    )
  }
  return { layer: Postgres.layer({ tableName, hints: true }).pipe(Layer.provide(Layer.fresh(client))), counter }
})

export const engines: ReadonlyArray<Engine> = [
  { name: "memory", missing: () => undefined, start: Effect.succeed({ layer: InMemory.layer, counter: uncounted }) },
  {
    name: "SQLite",
    missing: () => undefined,
    start: Effect.map(newFolder, (folder) => ({
      layer: Sqlite.layer({ filename: join(folder, "workflows.db") }),
      counter: uncounted
    }))
  },
  { name: "Redis", missing: RedisServer.missing, start: startRedis },
  { name: "PostgreSQL", missing: PostgresServer.missing, start: startPostgres },
  { name: "DynamoDB Local", missing: DynamoDbLocal.missing, start: startDynamoDb }
]

/** A backend that counts its operations, beside the count at its client. */
export const counted = Effect.fnUntraced(function* (layer: Layer.Layer<StorageBackend, unknown>, counter: Counter) {
  yield* counter.start ?? Effect.void
  const context = yield* Layer.build(Layer.fresh(layer))
  const { backend, requests } = Faults.backend(yield* Effect.provide(StorageBackend, context), () => "pass")
  const reset = Effect.andThen(
    counter.reset,
    Effect.sync(() => requests.splice(0))
  )
  const sent: Effect.Effect<Sent> = Effect.map(counter.read, (counts) => ({
    operations: Object.fromEntries(
      Array.from(
        Map.groupBy(requests, (name) => name),
        ([name, all]) => [name, all.length]
      )
    ),
    requests: requests.length,
    ...counts
  }))
  return { layer: Layer.succeed(StorageBackend, backend), reset, sent }
})
