import { spawnSync } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { inject } from "vitest"

const root = join(import.meta.dirname, "../..")
const folder = mkdtempSync(join(tmpdir(), "index-tree-"))
afterAll(() => rmSync(folder, { recursive: true }))

const run = (...args: ReadonlyArray<string>) => {
  const { status, stderr, stdout } = spawnSync("node", ["examples/index-tree.ts", ...args], {
    cwd: root,
    encoding: "utf8"
  })
  const told = (name: string) => Number(stdout.match(new RegExp(`${name} *│ (\\d+)`))?.[1])
  return { status, stdout, stderr, told }
}

describe("index-tree", () => {
  it("indexes every file once, with conflicts and takeovers on the way", () => {
    const { status, stderr, stdout, told } = run()
    assert.strictEqual(status, 0, stderr)
    assert.isAbove(told("files"), 400)
    assert.isAbove(told("conflicts"), 0)
    assert.isAbove(told("takeovers"), 0)
    assert.isAbove(told("late completions refused"), 0)
    assert.match(stdout, /A plain sequential walk finds the same \d+ files/)
  }, 60_000)

  const endpoint = inject("dynamoDbEndpoint")
  it.skipIf(endpoint === undefined)(
    "does so on DynamoDB",
    () => {
      const { status, stderr, stdout } = run("--backend", "dynamodb", "--endpoint", endpoint ?? "", "--dir", "src")
      assert.strictEqual(status, 0, stderr)
      assert.match(stdout, /A plain sequential walk finds the same \d+ files/)
    },
    60_000
  )

  it("takes paths of any length and files of any content", () => {
    const deep = join(folder, "deep", ...Array.from({ length: 12 }, () => "é".repeat(60)))
    mkdirSync(deep, { recursive: true })
    writeFileSync(join(deep, "binary"), Buffer.from([0, 10, 255, 10]))
    writeFileSync(join(folder, "deep", "empty"), "")
    const { status, stderr, stdout } = run("--dir", join(folder, "deep"), "--workers", "2")
    assert.strictEqual(status, 0, stderr)
    assert.include(stdout, "the same 2 files, each indexed once: 2 lines, 4 bytes")
  })

  it("says what it found in a folder that is empty or missing", () => {
    const empty = join(folder, "empty")
    mkdirSync(empty)
    const nothing = run("--dir", empty)
    assert.strictEqual(nothing.status, 0)
    assert.include(nothing.stdout, `There are no files in ${empty}`)
    const missing = run("--dir", join(folder, "missing"))
    assert.strictEqual(missing.status, 1)
    assert.include(missing.stderr, `There is no folder ${join(folder, "missing")}`)
  })

  it("says what is wrong with a flag", () => {
    assert.include(run("--worker", "3").stderr, "--workers")
    assert.include(run("--workers", "0").stderr, "between 1 and 1000")
    assert.include(run("--backend", "paper").stderr, '"memory"')
    assert.strictEqual(run("--backend", "paper").status, 1)
    assert.include(run("--table", "t").stderr, "--table and --endpoint go with --backend dynamodb")
    assert.include(run("--help").stdout, "--backend")
  })
})
