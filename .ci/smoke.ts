/**
 * Runs in each JavaScript runtime, in a project that has installed the package: compare-and-set by 20 fibers on one
 * record, two pages, a task, and a workflow that sleeps, on each engine. Prints one line an engine.
 */
import { DatabaseSync } from "node:sqlite"
import { Console, Effect, Layer, Redacted, Schema } from "effect"
import { Activity, DurableClock, Workflow } from "effect/workflow"
import {
  InMemory,
  StorageBackend,
  StorageKey,
  StorageWorkflowEngine,
  TaskStore,
  VersionedStore
} from "effect-versioned-store"
import * as DynamoDb from "effect-versioned-store/DynamoDb"
import * as Postgres from "effect-versioned-store/Postgres"
import * as Redis from "effect-versioned-store/Redis"
import * as RedisClient from "effect-versioned-store/RedisClient"
import * as Sqlite from "effect-versioned-store/Sqlite"

const [filename = "", url = "", postgresUrl = "", endpoint = ""] = process.argv.slice(2)

const { bun, deno, node }: Partial<Record<string, string>> = process.versions
const runtime = bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node.js ${node}`

const fibers = 20

/** Stops the run if something did not come out as it should. */
const expect = (what: string, actual: unknown, expected: unknown) =>
  actual === expected ? Effect.void : Effect.die(new Error(`${what}: expected ${expected}, but got ${actual}`))

const Sum = Workflow.make("Sum", {
  payload: { id: Schema.String },
  success: Schema.Int,
  idempotencyKey: ({ id }) => id
})

const layerSum = Sum.toLayer(
  Effect.fnUntraced(function* () {
    const one = yield* Activity.make({ name: "one", success: Schema.Int, execute: Effect.succeed(1) })
    yield* DurableClock.sleep({ name: "pause", duration: "20 millis", inMemoryThreshold: 0 })
    return one + (yield* Activity.make({ name: "two", success: Schema.Int, execute: Effect.succeed(2) }))
  })
)

const smoke = Effect.gen(function* () {
  const owner = `smoke-${crypto.randomUUID()}`
  const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
  const key = { owner, id: "00" }
  yield* counters.create(key, 0)
  let conflicts = 0
  const increment = counters.get(key).pipe(
    Effect.tap(Effect.yieldNow), // so that all fibers have read before one writes, in memory too
    Effect.flatMap((read) => counters.setIfVersion(read, read.value + 1)),
    Effect.tapErrorTag("VersionConflict", () => Effect.sync(() => conflicts++)),
    Effect.retry({ while: (error) => error._tag === "VersionConflict" })
  )
  yield* Effect.all(
    Array.from({ length: fibers }, () => increment),
    { concurrency: "unbounded" }
  )
  yield* expect("the counter", (yield* counters.get(key)).value, fibers)
  yield* expect("whether there were conflicts", conflicts > 0, true)

  for (let id = 1; id < 10; id++) yield* counters.create({ owner, id: `0${id}` }, id, { ttl: "1 hour" })
  const first = yield* counters.list({ owner, limit: 7 })
  const second = yield* counters.list({ owner, limit: 7, cursor: first.cursor })
  const ids = [...first.records, ...second.records].map(({ key }) => key.id)
  yield* expect("the pages", ids.join(), Array.from({ length: 10 }, (_, id) => `0${id}`).join())

  const tasks = yield* TaskStore.TaskStore
  const { task } = yield* tasks.create({ ownerId: owner, requestMethod: "tools/call" })
  const taskKey = { ownerId: owner, taskId: task.taskId }
  yield* tasks.completeWithResult(taskKey, { status: "completed", result: "done" })
  yield* expect("the task's result", yield* tasks.getResult(taskKey), "done")

  const sum = Sum.execute({ id: owner }).pipe(
    Effect.provide(Layer.provideMerge(layerSum, StorageWorkflowEngine.layer({ owner })))
  )
  yield* expect("the workflow's result", yield* sum, 3)
  return conflicts
})

/** Opens the file and writes while another connection has it locked, which must be tried again until it is unlocked. */
const waitForLock = Effect.gen(function* () {
  const other = new DatabaseSync(filename)
  other.exec("BEGIN IMMEDIATE")
  yield* Effect.sync(() => other.close()).pipe(Effect.delay("100 millis"), Effect.forkChild)
  const key = StorageKey.makeUnsafe({ owner: "smoke", id: "locked" })
  yield* StorageBackend.StorageBackend.use((backend) => backend.put(key, "data")).pipe(
    Effect.provide(Layer.fresh(Sqlite.layer({ filename })))
  )
  yield* expect("whether the file is still locked", other.isOpen, false)
})

const tableName = "smoke"

const engines = {
  memory: InMemory.layer,
  SQLite: Sqlite.layer({ filename }),
  Redis: Redis.layer().pipe(Layer.provide(RedisClient.layer({ url }))),
  PostgreSQL: Postgres.layer({ tableName }).pipe(
    Layer.provide(Layer.effectDiscard(Postgres.ensureTable({ tableName }))),
    Layer.provide(Postgres.layerClient({ url: Redacted.make(postgresUrl) }))
  ),
  "DynamoDB Local": DynamoDb.layer({ tableName }).pipe(
    Layer.provide(Layer.effectDiscard(DynamoDb.ensureTable({ tableName }))),
    Layer.provide(
      DynamoDb.layerClient({
        endpoint,
        region: "us-east-1",
        credentials: { accessKeyId: "local", secretAccessKey: "local" }
      })
    )
  )
}

const run = Effect.forEach(Object.entries(engines), ([engine, layer]) =>
  smoke.pipe(
    Effect.tap(() => (engine === "SQLite" ? waitForLock : Effect.void)),
    Effect.provide(TaskStore.layer.pipe(Layer.provideMerge(layer))),
    Effect.timeout("1 minute"),
    Effect.tap((conflicts) =>
      Console.log(
        `${runtime}, ${engine}: ${fibers} of ${fibers} updates, ${conflicts} conflicts, pages, a task, a workflow`
      )
    ),
    Effect.mapError((error) => new Error(`${runtime}, ${engine}: ${error.message}`, { cause: error }))
  )
)

await Effect.runPromise(run)
