import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { inject } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "bank-"))
afterAll(() => rmSync(folder, { recursive: true }))

const run = (...args: ReadonlyArray<string>) =>
  spawnSync("node", ["examples/bank.ts", ...args], { cwd: join(import.meta.dirname, "../.."), encoding: "utf8" })

describe("bank", () => {
  const where: Record<string, ReadonlyArray<string | undefined>> = {
    sqlite: ["--file", join(folder, "bank.db")],
    dynamodb: ["--endpoint", inject("dynamoDbEndpoint")],
    redis: ["--url", inject("redisUrl")],
    postgres: ["--url", inject("postgresUrl")]
  }
  for (const [backend, flags] of Object.entries(where)) {
    it.skipIf(flags.includes(undefined))(
      `keeps the sum although commits lose their answers and a process is killed, on ${backend}`,
      () => {
        const { status, stderr, stdout } = run("--backend", backend, "--times", "40", ...flags.map(String))
        assert.strictEqual(status, 0, stderr)
        const shown = Array.from(stdout.matchAll(/^ {2}made.* sum (.*)$/gm), ([, sum]) => sum)
        assert.isAbove(shown.length, 0)
        assert.deepStrictEqual([...new Set(shown)], ["8,000"])
        assert.include(stdout, "A clerk is killed with SIGKILL, and another one takes its place")
        const [, made, refused, unknown, ofThese] =
          /(\d+) transfers were made.*\n.* (\d+) were refused.*\n.* (\d+) ended unknown.* that (\d+) of them were/.exec(
            stdout
          ) ?? []
        assert.strictEqual(Number(made) + Number(refused) + Number(unknown), 160)
        assert.isAtMost(Number(ofThese), Number(unknown))
        assert.match(stdout, /The sum was 8,000 in all \d+ looks while the clerks worked, and is 8,000 now/)
        assert.include(stdout, "Every balance is what its receipts say")
      }
    )
  }

  it("says what it needs, and what is wrong with a flag", () => {
    const { status, stderr } = run("--backend", "memory")
    assert.strictEqual(status, 1)
    assert.include(stderr, "Processes can't share memory")
    assert.include(run("--times", "1").stderr, "between 20 and 100000")
  })
})
