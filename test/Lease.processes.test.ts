import { type ChildProcess, spawn } from "node:child_process"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Queue } from "effect"
import * as Lease from "../src/Lease.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import { counterKey, fibers, layerOf, leaseKey, type Store, times, type Work } from "./support/leaseWorker.ts"
import { newTable, url as postgresUrl } from "./support/postgres.ts"
import { newKeyPrefix, url } from "./support/redis.ts"
import { newFiles } from "./support/sqlite.ts"

/** One line of a worker, and when it came. */
interface Line {
  readonly text: string
  readonly atMillis: number
}

/** Starts a worker, which is killed with the scope, unless it has ended. */
const start = Effect.fnUntraced(function* (work: Work) {
  const lines = yield* Queue.unbounded<Line>()
  const child = yield* Effect.acquireRelease(
    Effect.sync((): ChildProcess => {
      const script = join(import.meta.dirname, "support/leaseWorker.ts")
      const child = spawn("node", [script, JSON.stringify(work)], { stdio: ["ignore", "pipe", "inherit"] })
      let rest = ""
      child.stdout.on("data", (chunk) => {
        const texts = `${rest}${chunk}`.split("\n")
        rest = texts.pop() ?? ""
        for (const text of texts) Queue.offerUnsafe(lines, { text, atMillis: performance.now() })
      })
      return child
    }),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.kill("SIGKILL")
      })
  )
  /** The next line that starts with a text. */
  const until = (text: string): Effect.Effect<Line> =>
    Effect.repeat(Queue.take(lines), { until: (line) => line.text.startsWith(text) })
  return {
    lines,
    until,
    signal: (signal: "SIGSTOP" | "SIGCONT" | "SIGKILL") => Effect.sync(() => child.kill(signal) && performance.now())
  }
})

const tokenOf = ({ text }: Line) => Number(text.split(" ")[1])

const newFile = newFiles()

const stores: ReadonlyArray<{ name: string; isMissing: boolean; newStore: () => Store }> = [
  { name: "SQLite", isMissing: false, newStore: () => ({ filename: newFile() }) },
  { name: "Redis", isMissing: url === undefined, newStore: () => ({ url: url ?? "", keyPrefix: newKeyPrefix() }) },
  {
    name: "PostgreSQL",
    isMissing: postgresUrl === undefined,
    newStore: () => ({ url: postgresUrl ?? "", tableName: newTable() })
  }
]

for (const { isMissing, name, newStore } of stores) {
  describe.skipIf(isMissing)(`Lease, from separate processes on ${name}`, () => {
    it.live("a holder that is stopped beyond its time is interrupted when it goes on, and its write is refused", () =>
      Effect.gen(function* () {
        const store = newStore()
        const ttlMillis = 1000
        const alpha = yield* start({ store, task: "hold", holder: "alpha", ttlMillis })
        const first = tokenOf(yield* alpha.until("held"))
        // Long before its next renewal: if it stopped in the middle of a write, that would lock the file.
        yield* alpha.signal("SIGSTOP")
        const beta = yield* start({ store, task: "hold", holder: "beta", ttlMillis })
        const held = yield* beta.until("held")
        assert.isAbove(tokenOf(held), first)

        // What alpha printed before it was stopped.
        yield* Queue.clear(alpha.lines)
        const continued = yield* alpha.signal("SIGCONT")
        const log: Array<string> = []
        for (;;) {
          const { atMillis, text } = yield* Queue.take(alpha.lines)
          log.push(`${(atMillis - Number(continued)).toFixed(1)} ms: ${text}`)
          if (text.startsWith("write")) break
        }
        console.log(`${name}, alpha after SIGCONT: ${log.join("; ")}`)
        const texts = log.map((line) => line.slice(line.indexOf(": ") + 2))
        assert.deepStrictEqual(
          texts.filter((text) => text !== "step"),
          [
            "interrupted",
            "lost The lease at jobs:lease/report was lost: it was not renewed in time. The engine or this process " +
              "was too slow, or this process was stopped",
            "write refused, since beta has written"
          ]
        )
        assert.isAtMost(texts.filter((text) => text === "step").length, 2)
      }).pipe(Effect.scoped)
    )

    it.live("16 that count under one lease lose no count", () =>
      Effect.gen(function* () {
        const store = newStore()
        const numbers = Array.from({ length: 16 }, (_, n) => n)
        const workers = yield* Effect.forEach(numbers, (n) =>
          start({ store, task: "count", holder: `worker ${n}`, ttlMillis: 5000 })
        )
        yield* Effect.forEach(workers, (worker) => worker.until("counted"), { concurrency: "unbounded" })
        const { data } = yield* Effect.provide(
          StorageBackend.use((backend) => backend.get(counterKey)),
          layerOf(store)
        )
        assert.strictEqual(Number(data), 16 * fibers * times)
      }).pipe(Effect.scoped)
    )

    for (const ttlMillis of [1000, 3000]) {
      it.live(`a holder that is killed is followed within its ${ttlMillis} ms and a second`, () =>
        Effect.gen(function* () {
          const store = newStore()
          const alpha = yield* start({ store, task: "hold", holder: "alpha", ttlMillis })
          const first = tokenOf(yield* alpha.until("held"))
          const waiting = yield* start({ store, task: "wait", holder: "waiter", ttlMillis })
          const look = yield* waiting.until("look")
          assert.isDefined(look)
          const killed = yield* alpha.signal("SIGKILL")
          const taken = yield* waiting.until("look by putIfVersion")
          const millis = taken.atMillis - Number(killed)
          console.log(`${name}: followed ${Math.round(millis)} ms after SIGKILL with a ttl of ${ttlMillis} ms`)
          assert.isAtMost(millis, ttlMillis + 1000)
          assert.isAbove(first, 0)
        }).pipe(Effect.scoped)
      )
    }

    it.live("16 that wait in idleness look 4 times a second each", () =>
      Effect.gen(function* () {
        const store = newStore()
        yield* Effect.provide(
          Effect.gen(function* () {
            yield* Lease.acquire(leaseKey, { ttl: "10 seconds" })
            const numbers = Array.from({ length: 16 }, (_, n) => n)
            const workers = yield* Effect.forEach(numbers, (n) =>
              start({ store, task: "wait", holder: `worker ${n}`, ttlMillis: 10_000 })
            )
            yield* Effect.forEach(workers, (worker) => worker.until("look"), { concurrency: "unbounded" })
            yield* Effect.forEach(workers, (worker) => Queue.clear(worker.lines))
            const from = performance.now()
            // What is measured is a rate, so this waits by the clock.
            yield* Effect.sleep("4 seconds")
            const looks = yield* Effect.forEach(workers, (worker) => Queue.clear(worker.lines))
            const rate = looks.flat().length / ((performance.now() - from) / 1000)
            console.log(`${name}: 16 idle waiting processes look ${rate.toFixed(1)} times a second`)
            assert.isAtLeast(rate, 16)
            assert.isAtMost(rate, 16 * 6)
          }),
          layerOf(store)
        )
      }).pipe(Effect.scoped)
    )
  })
}
