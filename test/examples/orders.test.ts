import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { inject } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "orders-"))
afterAll(() => rmSync(folder, { recursive: true }))

const run = (...args: ReadonlyArray<string>) =>
  spawnSync("node", ["examples/orders.ts", ...args], {
    cwd: join(import.meta.dirname, "../.."),
    encoding: "utf8",
    timeout: 120_000
  })

/** What each process said of an order, or of a worker, in its order. */
const linesOf = (output: string, about: string) =>
  output
    .split("\n")
    .filter((line) => line.includes(" s  ") && line.includes(about))
    .map((line) => line.replace(/^ *[\d.]+ s {2}/, "").replace(/ {2,}/, ": "))

describe("orders", () => {
  const where: Record<string, ReadonlyArray<string | undefined>> = {
    sqlite: ["--file", join(folder, "orders.db")],
    dynamodb: ["--endpoint", inject("dynamoDbEndpoint")],
    redis: ["--url", inject("redisUrl")],
    postgres: ["--url", inject("postgresUrl")]
  }
  for (const [backend, flags] of Object.entries(where)) {
    it.skipIf(flags.includes(undefined))(
      `ships an order that is approved, and refunds one that is rejected, after a worker was killed, on ${backend}`,
      () => {
        const { status, stderr, stdout } = run("--backend", backend, ...flags.map(String))
        assert.strictEqual(status, 0, stderr)
        assert.deepStrictEqual(linesOf(stdout, "order 1"), [
          "shop: places order 1: 2 books for ada",
          "worker 1: order 1: reserve 2 books",
          "worker 1: order 1: charge ada 30",
          "worker 2: order 1: charge ada 30",
          "worker 2: order 1: the charge had been done already",
          "manager: approves order 1, and ada has 2 seconds to cancel",
          "worker 2: order 1: ship 2 books to ada",
          "shop: order 1 is on its way: receipt c7115d"
        ])
        assert.deepStrictEqual(linesOf(stdout, "order 2"), [
          "shop: places order 2: 1 yacht for bob",
          "worker 1: order 2: reserve 1 yacht",
          "worker 1: order 2: charge bob 90000",
          "worker 2: order 2: charge bob 90000",
          "worker 2: order 2: the charge had been done already",
          "manager: rejects order 2",
          "worker 2: order 2: refund receipt 467df5",
          "worker 2: order 2: release 1 yacht",
          "shop: order 2 was rejected: too dear"
        ])
        assert.include(stdout, "shop      kills worker 1 with SIGKILL, while it waits for the bank")
        assert.match(stdout, /order 1: reserve, charge \(after 2 requests\), ship\n/)
        assert.match(stdout, /order 2: reserve, charge \(after 2 requests\), refund, release\n/)
        assert.include(stdout, "Each step was done once")
      }
    )
  }

  it("says what it needs, and what is wrong with a flag", () => {
    const { status, stderr } = run("--backend", "memory")
    assert.strictEqual(status, 1)
    assert.include(stderr, "Processes can't share memory")
    assert.include(run("--backend", "sqlite", "--url", "redis://localhost").stderr, "--url can only be used with")
    assert.include(run("--workers", "3").stderr, "Unrecognized flag: --workers")
  })
})
