/**
 * How long it takes from a write in this process to the event of a watch in another process, on each engine. The time
 * counts from just before the write is sent. Run it by `npx node bench/watch/latency.ts`.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect, Layer } from "effect"
import * as DynamoDbLocal from "../../examples/DynamoDbLocal.ts"
import * as RedisServer from "../../examples/RedisServer.ts"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import { watch } from "../../test/support/processes.ts"
import { layerOf, nowMillis, numbers, type Watch } from "../../test/support/watcher.ts"

const key = { owner: "alice", id: "a" }

const percentile = (sorted: ReadonlyArray<number>, part: number) =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))]?.toFixed(2)

/** Writes at random times, each once the event of the write before has come. */
const measure = Effect.fnUntraced(function* (
  name: string,
  store: Watch["store"],
  writes: number,
  maxPauseMillis: number
) {
  const numbersStore = yield* Effect.provide(numbers, yield* Layer.build(layerOf(store)))
  const watcher = yield* watch({ store, key, everyMillis: 1000 })
  yield* watcher.next
  const millis: Array<number> = []
  for (let n = 1; n <= writes; n++) {
    yield* Effect.sleep(Math.random() * maxPauseMillis)
    const start = nowMillis()
    yield* numbersStore.set(key, n)
    const event = yield* watcher.next
    if (event.value !== `${n}`) throw new Error(`the event of ${n} is ${event.value}`)
    millis.push(event.millis - start)
  }
  millis.sort((a, b) => a - b)
  console.log(`${name}: median ${percentile(millis, 0.5)} ms, p99 ${percentile(millis, 0.99)} ms, ${writes} writes`)
})

const newFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "watch-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

const program = Effect.gen(function* () {
  yield* measure("SQLite", { filename: join(yield* newFolder, "a.db") }, 1000, 50)
  yield* measure("Redis", { url: yield* RedisServer.start, keyPrefix: "evs" }, 1000, 50)
  const client = {
    endpoint: yield* DynamoDbLocal.start,
    region: "us-east-1",
    credentials: { accessKeyId: "local", secretAccessKey: "local" }
  }
  const store = { tableName: "records", client }
  yield* Effect.provide(DynamoDb.ensureTable(store), DynamoDb.layerClient(client))
  yield* measure("DynamoDB Local, which is read every second", store, 100, 1000)
})

await Effect.runPromise(Effect.scoped(program))
