import { execFile } from "node:child_process"
import { join } from "node:path"
import { promisify } from "node:util"
import { Effect } from "effect"
import type { Work } from "./incrementer.ts"

const run = promisify(execFile)

/** What each of so many processes says that do the same work at once. */
export const increment = (processes: number, work: Work) =>
  Effect.forEach(
    Array.from({ length: processes }),
    () =>
      Effect.promise(() => run("node", [join(import.meta.dirname, "incrementer.ts"), JSON.stringify(work)])).pipe(
        Effect.map(({ stdout }) => stdout.trim())
      ),
    { concurrency: "unbounded" }
  )
