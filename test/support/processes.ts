import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"
import { Effect } from "effect"
import type { Work } from "./incrementer.ts"

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
