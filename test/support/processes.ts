import { execFile, spawn } from "node:child_process"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { promisify } from "node:util"
import { Effect, Queue } from "effect"
import type { Work } from "./incrementer.ts"
import type { Watch } from "./watcher.ts"

const run = promisify(execFile)

/** Runs a number of processes that do the same work at once, and returns the output of each process. */
export const increment = (processes: number, work: Work) =>
  Effect.forEach(
    Array.from({ length: processes }),
    () =>
      Effect.promise(() => run("node", [join(import.meta.dirname, "incrementer.ts"), JSON.stringify(work)])).pipe(
        Effect.map(({ stdout }) => stdout.trim())
      ),
    { concurrency: "unbounded" }
  )

/** Starts a process that watches a record. Gives what it emits: when, and the value or none. */
export const watch = Effect.fnUntraced(function* (watch: Watch) {
  const events = yield* Queue.unbounded<{ readonly millis: number; readonly value: string }>()
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const path = join(import.meta.dirname, "watcher.ts")
      return spawn("node", [path, JSON.stringify(watch)], { stdio: ["pipe", "pipe", "inherit"] })
    }),
    (child) => Effect.sync(() => child.stdin.end())
  )
  createInterface({ input: child.stdout }).on("line", (line) => {
    const [millis, value = ""] = line.split(" ")
    Queue.offerUnsafe(events, { millis: Number(millis), value })
  })
  return { next: Queue.take(events), value: Effect.map(Queue.take(events), ({ value }) => value) }
})
