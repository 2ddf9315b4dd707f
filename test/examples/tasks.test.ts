import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { inject } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "tasks-"))
afterAll(() => rmSync(folder, { recursive: true }))

const run = (...args: ReadonlyArray<string>) =>
  spawnSync("node", ["examples/tasks.ts", ...args], { cwd: join(import.meta.dirname, "../.."), encoding: "utf8" })

describe("tasks", () => {
  const where: Record<string, ReadonlyArray<string | undefined>> = {
    sqlite: ["--file", join(folder, "tasks.db")],
    dynamodb: ["--endpoint", inject("dynamoDbEndpoint")],
    redis: ["--url", inject("redisUrl")]
  }
  for (const [backend, flags] of Object.entries(where)) {
    it.skipIf(flags.includes(undefined))(
      `goes on after a worker was killed, with an answer that came meanwhile, and stops where it is cancelled, on ${backend}`,
      () => {
        const { status, stderr, stdout } = run("--backend", backend, ...flags.map(String))
        assert.strictEqual(status, 0, stderr)
        const saidBy = (who: string) => stdout.split("\n").filter((line) => line.startsWith(who))
        assert.deepStrictEqual(saidBy("worker").slice(0, 8), [
          "worker: step 1 of 6",
          "worker: step 2 of 6",
          "worker: step 3 of 6",
          "worker: asks for a name",
          "worker: step 4 of 6",
          "worker: step 5 of 6",
          "worker: step 6 of 6",
          "worker: the task is completed, so it stops"
        ])
        assert.strictEqual(saidBy("worker").at(-1), "worker: the task is cancelled, so it stops")
        assert.deepStrictEqual(saidBy("client").slice(1), [
          "client: has killed the worker",
          "client: has answered, with no worker there",
          'client: the result is {"content":[{"type":"text","text":"Hello Luca"}]}',
          "client: has cancelled the second task",
          "client: the tasks are cancelled and completed"
        ])
      }
    )
  }

  it("says what it needs", () => {
    const { status, stderr } = run("--backend", "memory")
    assert.strictEqual(status, 1)
    assert.include(stderr, "Processes can't share memory")
  })
})
