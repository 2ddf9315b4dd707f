import { type ChildProcess, spawn } from "node:child_process"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { PersistedQueue } from "effect/persistence"
import * as StoragePersistedQueue from "../../src/persistence/StoragePersistedQueue.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { newTable, url as postgresUrl } from "../support/postgres.ts"
import { layerOf, makeQueue, storageOf, type Work } from "../support/queueWorker.ts"
import { newKeyPrefix, url } from "../support/redis.ts"
import { newFiles } from "../support/sqlite.ts"
import { until } from "../support/until.ts"

const messages = Array.from({ length: 300 }, (_, n) => n)
const newFile = newFiles()
const stores: Record<string, Work["store"] | undefined> = {
  Sqlite: { filename: newFile() },
  Redis: url === undefined ? undefined : { url, keyPrefix: newKeyPrefix() },
  Postgres: postgresUrl === undefined ? undefined : { postgresUrl, tableName: newTable() }
}

/** How many records of a kind there are, up to a thousand. */
const countOf = (kind: string) =>
  StorageBackend.use((backend) =>
    backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: `!queue/${kind}/` }), { limit: 1000 })
  ).pipe(Effect.map(({ records }) => records.length))

/** Starts a worker. Gives its process and the messages that it has handled. */
const startWorker = (work: Work) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const child: ChildProcess = spawn(
        "node",
        [join(import.meta.dirname, "..", "support", "queueWorker.ts"), JSON.stringify(work)],
        { stdio: ["ignore", "pipe", "inherit"] }
      )
      const handled: Array<number> = []
      let rest = ""
      child.stdout?.on("data", (chunk: Buffer) => {
        const lines = `${rest}${chunk}`.split("\n")
        rest = lines.pop() ?? ""
        handled.push(...lines.map(Number))
      })
      return { child, handled }
    }),
    ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
  )

describe("StoragePersistedQueue, in three processes of which one is stopped and one is killed", () => {
  for (const [name, store] of Object.entries(stores)) {
    it.live.skipIf(store === undefined)(
      `has every message done once, on ${name}`,
      () => {
        const work: Work = { store: store ?? { filename: "" }, owner: "alice", lockExpiration: 1500 }
        return Effect.gen(function* () {
          const queue = yield* makeQueue
          yield* Effect.forEach(messages, (n) => queue.offer(n, { id: `${n}` }), { concurrency: 16 })
          const workers = [yield* startWorker(work), yield* startWorker(work), yield* startWorker(work)] as const
          const [stopped, killed, other] = workers
          yield* until(() => workers.every(({ handled }) => handled.length > 10))
          stopped.child.kill("SIGSTOP")
          killed.child.kill("SIGKILL")
          const all = () => new Set(workers.flatMap(({ handled }) => handled))
          // It is stopped for longer than its lease. If it holds the lock of the file meanwhile, the others wait.
          yield* Effect.sleep(2 * work.lockExpiration)
          stopped.child.kill("SIGCONT")
          yield* until(() => all().size === messages.length)
          yield* Effect.repeat(countOf("due"), { until: (count) => count === 0 })
          assert.deepStrictEqual(
            Array.from(all()).sort((a, b) => a - b),
            messages
          )
          // At most what two workers held was handled twice, and the fence let each be done once.
          const handled = workers.reduce((sum, { handled }) => sum + handled.length, 0)
          assert.isAtMost(handled, messages.length + 8)
          assert.isAbove(other.handled.length, 10)
          const counts = yield* Effect.forEach(["due", "done", "failed", "id"], countOf)
          assert.deepStrictEqual(counts, [0, messages.length, 0, messages.length])
        }).pipe(Effect.scoped, Effect.provide(layerOf(work)))
      },
      60_000
    )
  }
})

describe("StoragePersistedQueue, with two clients of an engine", () => {
  for (const [name, store] of Object.entries(stores)) {
    it.live.skipIf(store === undefined)(`wakes a take by what the other client offers, on ${name}`, () => {
      const owner = "bob"
      const clientOf = Effect.map(
        Layer.build(
          Layer.fresh(
            PersistedQueue.layer.pipe(
              Layer.provide(StoragePersistedQueue.layer({ owner, pollInterval: "1 hour" })),
              Layer.provide(storageOf(store ?? { filename: "" }))
            )
          )
        ),
        (context) => Effect.runSync(Effect.provideContext(makeQueue, context))
      )
      return Effect.gen(function* () {
        const [one, other] = [yield* clientOf, yield* clientOf]
        for (const n of [1, 2, 3]) {
          const fiber = yield* Effect.forkChild(one.take(Effect.succeed))
          // If the offer came before the first look, the test would pass without a hint.
          yield* Effect.sleep(50)
          yield* other.offer(n)
          assert.strictEqual(yield* Fiber.join(fiber), n)
        }
      }).pipe(Effect.scoped)
    })
  }
})
