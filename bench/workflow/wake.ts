/**
 * How long it takes from `DurableDeferred.succeed` in one process to the end of the workflow that waits for it in
 * another: until that workflow's last activity runs there, and until the first process has its result. Run it by
 * `npx node bench/workflow/wake.ts`.
 */
import { type ChildProcess, fork } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { Effect, Fiber, Layer, Schema } from "effect"
import { Activity, DurableDeferred, Workflow } from "effect/workflow"
import * as DynamoDbLocal from "../../examples/DynamoDbLocal.ts"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as RedisServer from "../../examples/RedisServer.ts"
import { nowMillis } from "../../test/support/watcher.ts"
import { engineOf, type Store } from "../../test/support/workflowWorker.ts"
import { newFolder } from "./engines.ts"

const Go = DurableDeferred.make("go", { success: Schema.Int })

const Waiter = Workflow.make("Waiter", {
  payload: { id: Schema.String },
  success: Schema.Int,
  idempotencyKey: ({ id }) => id
})

const work = (store: Store) => ({ store, leaseMillis: 15_000, pollMillis: 1000 })

/** The process that runs the workflows. It says when one waits, and when one goes on. */
const runWaiters = (store: Store) => {
  const tell = (what: string) => Effect.sync(() => process.send?.({ what, millis: nowMillis() }))
  const waiters = Waiter.toLayer(
    Effect.fnUntraced(function* () {
      yield* Activity.make({ name: "ready", execute: tell("ready") })
      const value = yield* DurableDeferred.await(Go)
      yield* Activity.make({ name: "go on", execute: tell("gone on") })
      return value
    })
  )
  process.once("disconnect", () => process.exit())
  Effect.runFork(Layer.launch(Layer.provide(waiters, engineOf(work(store)))))
}

const percentile = (values: ReadonlyArray<number>, part: number) =>
  values.toSorted((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * part))]?.toFixed(1)

const message = (child: ChildProcess, what: string) =>
  Effect.repeat(
    Effect.promise(async () => {
      const [told] = await once(child, "message")
      return told as { readonly what: string; readonly millis: number }
    }),
    { until: (told) => told.what === what }
  )

const measure = Effect.fnUntraced(function* (name: string, store: Store, times: number) {
  const child = fork(import.meta.filename, [JSON.stringify(store)], { execArgv: [] })
  yield* Effect.addFinalizer(() => Effect.sync(() => child.kill()))
  const [goneOn, told]: [Array<number>, Array<number>] = [[], []]
  yield* Effect.gen(function* () {
    for (let n = 0; n < times + 5; n++) {
      const payload = { id: `${n}` }
      const [, id] = yield* Effect.all([message(child, "ready"), Waiter.execute(payload, { discard: true })], {
        concurrency: "unbounded"
      })
      const result = yield* Effect.forkChild(Waiter.execute(payload), { startImmediately: true })
      // It has written by then that it waits, and this process waits for its end.
      yield* Effect.sleep(300 + Math.random() * 200)
      const token = DurableDeferred.tokenFromExecutionId(Go, { workflow: Waiter, executionId: id })
      const before = nowMillis()
      const [{ millis }] = yield* Effect.all(
        [message(child, "gone on"), DurableDeferred.succeed(Go, { token, value: n })],
        { concurrency: "unbounded" }
      )
      yield* Fiber.join(result)
      // The first ones open connections.
      if (n < 5) continue
      goneOn.push(millis - before)
      told.push(nowMillis() - before)
    }
  }).pipe(Effect.provide(engineOf(work(store))))
  const show = (values: ReadonlyArray<number>) =>
    `median ${percentile(values, 0.5)} ms, p99 ${percentile(values, 0.99)} ms`
  console.log(`${name}: goes on after ${show(goneOn)}; its result is here after ${show(told)}; ${times} times`)
})

const program = Effect.gen(function* () {
  const times = Number(process.env.TIMES ?? 200)
  yield* measure("SQLite", { filename: join(yield* newFolder, "a.db") }, times)
  yield* measure("Redis", { redisUrl: yield* RedisServer.start, keyPrefix: "evs" }, times)
  yield* measure("PostgreSQL", { postgresUrl: yield* PostgresServer.start, tableName: "records" }, times)
  const dynamoDb = {
    endpoint: yield* DynamoDbLocal.start,
    region: "us-east-1",
    credentials: { accessKeyId: "local", secretAccessKey: "local" }
  }
  // Without hints it takes seconds.
  yield* measure("DynamoDB Local", { dynamoDb, tableName: "records" }, Math.ceil(times / 5))
})

if (process.argv[2] === undefined) {
  await Effect.runPromise(Effect.scoped(program))
  process.exit()
}
runWaiters(JSON.parse(process.argv[2]))
