import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { inject } from "vitest"
import { mayMountAsRoot } from "../support/machine.ts"

describe.skipIf(!inject("hasPostgresServer") || !mayMountAsRoot())("Postgres, if the disk is full,", () => {
  it("says so, loses no acknowledged write, and goes on once there is room", () => {
    const folder = mkdtempSync(join(tmpdir(), "postgres-disk-"))
    try {
      const script = join(import.meta.dirname, "../support/postgresDisk.ts")
      const output = execFileSync("unshare", ["--mount", process.execPath, script, folder], { encoding: "utf8" })
      const { fullLog, fullTable } = JSON.parse(output)
      assert.isAbove(fullTable.acknowledged, 50)
      assert.deepInclude(fullTable.failure, { reason: "Unavailable", outcome: "not-applied" })
      assert.include(fullTable.failure.message, "The disk of PostgreSQL is full: free room on it")
      assert.deepInclude(fullTable, {
        there: fullTable.acknowledged,
        refused: "RecordNotFound",
        removed: true,
        isWritten: true
      })
      assert.isAbove(fullLog.acknowledged, 50)
      assert.include(["unknown", "not-applied"], fullLog.failure.outcome)
      assert.strictEqual(fullLog.failure.reason, "Unavailable")
      assert.strictEqual(fullLog.down.reason, "Unavailable")
      assert.strictEqual(fullLog.there, fullLog.acknowledged)
      assert.isAtLeast(fullLog.version, 2)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }, 120_000)
})
