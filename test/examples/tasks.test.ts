import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { inject } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "tasks-"))
afterAll(() => rmSync(folder, { recursive: true }))

const run = (...args: ReadonlyArray<string>) =>
  spawnSync("node", ["examples/tasks.ts", ...args], {
    cwd: join(import.meta.dirname, "../.."),
    encoding: "utf8",
    timeout: 120_000
  })

describe("tasks", () => {
  const where: Record<string, ReadonlyArray<string | undefined>> = {
    sqlite: ["--file", join(folder, "tasks.db")],
    dynamodb: ["--endpoint", inject("dynamoDbEndpoint")],
    redis: ["--url", inject("redisUrl")],
    postgres: ["--url", inject("postgresUrl")]
  }
  for (const [backend, flags] of Object.entries(where)) {
    it.skipIf(flags.includes(undefined))(
      `goes on after a worker was killed, with an answer that came meanwhile, and stops where it is cancelled, on ${backend}`,
      () => {
        const { status, stderr, stdout } = run("--backend", backend, ...flags.map(String))
        assert.strictEqual(status, 0, stderr)
        const said = stdout
          .split("\n")
          .filter((line) => /^ {2}(client|worker)/.test(line))
          .map((line) => line.trim().replace(/ {2,}/, ": "))
        // How far the third worker comes before the client looks depends on the machine.
        const isThirdStep = (line: string) => /^worker 3: step \d+ of 100$/.test(line)
        assert.isAtLeast(said.filter(isThirdStep).length, 2)
        assert.deepStrictEqual(
          said.filter((line) => !isThirdStep(line)),
          [
            "client: creates a task: greet somebody, in six steps",
            "worker 1: step 1 of 6",
            "worker 1: step 2 of 6",
            "worker 1: step 3 of 6",
            'worker 1: asks "Whom shall I greet?", so the task waits for an answer',
            "client: kills worker 1 with SIGKILL",
            'client: answers "Luca" while no worker runs',
            'worker 2: finds the task after step 3, and the answer "Luca"',
            "worker 2: step 4 of 6",
            "worker 2: step 5 of 6",
            "worker 2: step 6 of 6",
            "worker 2: stops, since the task is completed",
            'client: gets the result: {"content":[{"type":"text","text":"Hello Luca"}]}',
            "client: creates another task, in a hundred steps",
            "client: cancels the task while worker 3 works on it",
            "worker 3: stops, since the task is cancelled",
            "client: lists its tasks, newest first: cancelled, completed"
          ]
        )
      }
    )
  }

  it("says what it needs", () => {
    const { status, stderr } = run("--backend", "memory")
    assert.strictEqual(status, 1)
    assert.include(stderr, "Processes can't share memory")
  })
})
