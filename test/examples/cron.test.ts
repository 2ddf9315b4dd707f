import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Effect, Queue } from "effect"

const root = join(import.meta.dirname, "../..")
const folder = mkdtempSync(join(tmpdir(), "cron-"))
afterAll(() => rmSync(folder, { recursive: true }))

describe("cron", () => {
  it.live("runs on one of three processes, and on another once that is killed", () =>
    Effect.gen(function* () {
      const lines = yield* Queue.unbounded<string>()
      const start = (name: string) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            const args = ["examples/cron.ts", join(folder, "jobs.db"), name]
            const child = spawn("node", args, { cwd: root, stdio: ["ignore", "pipe", "inherit"] })
            child.stdout.on("data", (chunk) => Queue.offerAllUnsafe(lines, String(chunk).trimEnd().split("\n")))
            return { name, child }
          }),
          ({ child }) => Effect.sync(() => child.kill("SIGKILL"))
        )
      const processes = yield* Effect.forEach(["alpha", "beta", "gamma"], start)

      const first = yield* Queue.takeN(lines, 3)
      const holder = first[0]?.split(":")[0]
      assert.deepStrictEqual(first, [`${holder}: run 1`, `${holder}: run 2`, `${holder}: run 3`])
      processes.find(({ name }) => name === holder)?.child.kill("SIGKILL")

      const rest = yield* Queue.takeN(lines, 3)
      const follower = rest.at(-1)?.split(":")[0]
      assert.notStrictEqual(follower, holder)
      // The one that was killed may have begun one run more.
      const numbers = rest.map((line) => Number(line.split("run ")[1]))
      assert.deepStrictEqual(numbers.slice(1), [(numbers[0] ?? 0) + 1, (numbers[0] ?? 0) + 2])
      assert.isAtMost(numbers[0] ?? 0, 5)
    }).pipe(Effect.scoped)
  )
})
