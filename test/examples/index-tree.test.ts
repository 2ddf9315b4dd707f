import { type ChildProcess, execFile, type SpawnSyncReturns, spawnSync } from "node:child_process"
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { inject } from "vitest"

const root = join(import.meta.dirname, "../..")
const folder = mkdtempSync(join(tmpdir(), "index-tree-"))
afterAll(() => rmSync(folder, { recursive: true }))

const exampleOf = (args: ReadonlyArray<string>) => ["examples/index-tree.ts", ...args]

/** What a run has printed. */
const outputOf = ({ stderr, status, stdout }: Pick<SpawnSyncReturns<string>, "status" | "stderr" | "stdout">) => ({
  status,
  stdout,
  stderr,
  /** The figure of a row. */
  told: (name: string) => toNumber(stdout.match(new RegExp(`^  ${name} +([\\d,]+)`, "m"))),
  /** How many files this run has indexed. */
  indexed: () => toNumber(stdout.match(/^([\d,]+) files are indexed by this run/m))
})

const toNumber = (match: RegExpMatchArray | null) => Number(match?.[1]?.replaceAll(",", ""))

const run = (...args: ReadonlyArray<string>) =>
  outputOf(spawnSync("node", exampleOf(args), { cwd: root, encoding: "utf8", timeout: 120_000 }))

/** Runs the example, and calls a function as soon as it has printed something. */
const start = (args: ReadonlyArray<string>, onOutput: (example: ChildProcess) => void = () => {}) =>
  new Promise<ReturnType<typeof outputOf>>((resolve) => {
    const example = execFile("node", exampleOf(args), { cwd: root }, (_, stdout, stderr) =>
      resolve(outputOf({ status: example.exitCode, stdout, stderr }))
    )
    example.stdout?.once("data", () => onOutput(example))
  })

describe("index-tree", () => {
  it("indexes every file once, with conflicts and takeovers on the way, and finds them again later", () => {
    const file = join(folder, "demo.db")
    const first = run("--file", file)
    assert.strictEqual(first.status, 0, first.stderr)
    const files = first.indexed()
    assert.isAbove(files, 400)
    assert.strictEqual(first.told("updates made"), 2 * files)
    assert.strictEqual(first.told("lost"), 0)
    assert.isAtLeast(first.told("conflicts"), 4)
    assert.isBelow(first.told("writes"), files)
    assert.isAtLeast(first.told("takeovers"), 8)
    assert.isAtLeast(first.told("refused"), 4)
    assert.include(first.stdout, "of others' work: 4 died, and 4 slept until the lease had ended")
    assert.include(first.stdout, `A plain sequential walk finds the same ${files} files, each indexed once`)

    const second = run("--file", file)
    assert.strictEqual(second.status, 0, second.stderr)
    assert.include(second.stdout, `${files} of ${files} files are in the index already.`)
    assert.strictEqual(second.indexed(), 0)
  })

  it("goes on from an index of which files have changed, come and gone since", () => {
    const [dir, file] = [join(folder, "changing"), join(folder, "changing.db")]
    mkdirSync(dir)
    for (const name of ["same", "changed", "gone"]) writeFileSync(join(dir, name), "1")
    assert.strictEqual(run("--dir", dir, "--file", file).indexed(), 3)
    writeFileSync(join(dir, "changed"), "23")
    utimesSync(join(dir, "changed"), 1, 1)
    writeFileSync(join(dir, "new"), "456")
    rmSync(join(dir, "gone"))
    const { indexed, status, stderr, stdout } = run("--dir", dir, "--file", file)
    assert.strictEqual(status, 0, stderr)
    assert.include(stdout, "1 of 3 files are in the index already.")
    assert.strictEqual(indexed(), 2)
    assert.include(stdout, "the same 3 files, each indexed once: 0 lines, 6 bytes")
  })

  it("says after Ctrl-C that a second run goes on, and goes on", async () => {
    const args = ["--file", join(folder, "stopped.db")]
    const first = await start(args, (example) => example.kill("SIGINT"))
    assert.strictEqual(first.status, 130)
    assert.match(
      first.stdout,
      /Stopped. What is done is kept in .*stopped.db. Run the same command again, and it goes on/
    )
    const second = run(...args)
    assert.strictEqual(second.status, 0, second.stderr)
    assert.include(second.stdout, "A plain sequential walk finds the same")

    const inMemory = await start(["--backend", "memory"], (example) => example.kill("SIGINT"))
    assert.strictEqual(inMemory.status, 130)
    assert.include(inMemory.stdout, "The index was in memory, so it is gone")
  })

  it("shares the work with another run at the same time", async () => {
    const args = ["--file", join(folder, "shared.db")]
    const [one, other] = await Promise.all([start(args), start(args)])
    for (const { status, stderr, told } of [one, other]) {
      assert.strictEqual(status, 0, stderr)
      assert.strictEqual(told("lost"), 0)
    }
    assert.include(one.stdout, `finds the same ${one.indexed() + other.indexed()} files, each indexed once`)
  })

  // Root may write everywhere, so it runs this as another user, if that user may run node.
  const user = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}
  it.skipIf(spawnSync(process.execPath, ["--version"], user).status !== 0)(
    "says what to do in a folder that is read-only",
    () => {
      const readOnly = join(folder, "read-only")
      mkdirSync(join(readOnly, ".ci"), { recursive: true })
      copyFileSync(join(root, ".ci/clean.ts"), join(readOnly, ".ci/clean.ts"))
      chmodSync(folder, 0o755)
      chmodSync(readOnly, 0o555)
      const build = spawnSync(process.execPath, [join(readOnly, ".ci/clean.ts")], { ...user, encoding: "utf8" })
      chmodSync(readOnly, 0o755)
      assert.strictEqual(build.status, 1)
      assert.include(build.stderr, `You may not write in ${readOnly}`)
      assert.include(build.stderr, `cp -r ${readOnly} `)
    }
  )

  const where: Record<string, ReadonlyArray<string | undefined>> = {
    memory: [],
    dynamodb: ["--endpoint", inject("dynamoDbEndpoint")],
    redis: ["--url", inject("redisUrl")],
    postgres: ["--url", inject("postgresUrl")]
  }
  for (const [backend, flags] of Object.entries(where)) {
    it.skipIf(flags.includes(undefined))(`does so on ${backend}`, () => {
      const args = ["--backend", backend, ...flags.map(String), "--dir", "src"]
      const { status, stderr, stdout } = run(...args)
      assert.strictEqual(status, 0, stderr)
      assert.match(stdout, /A plain sequential walk finds the same \d+ files/)
    })
  }

  it("takes paths of any length and files of any content", () => {
    const deep = join(folder, "deep", ...Array.from({ length: 12 }, () => "é".repeat(60)))
    mkdirSync(deep, { recursive: true })
    writeFileSync(join(deep, "binary"), Buffer.from([0, 10, 255, 10]))
    writeFileSync(join(folder, "deep", "empty"), "")
    const { status, stderr, stdout } = run("--dir", join(folder, "deep"), "--workers", "2", "--backend", "memory")
    assert.strictEqual(status, 0, stderr)
    assert.include(stdout, "the same 2 files, each indexed once: 2 lines, 4 bytes")
  })

  it("says what it found in a folder that is empty or missing", () => {
    const empty = join(folder, "empty")
    mkdirSync(empty)
    const nothing = run("--dir", empty, "--backend", "memory")
    assert.strictEqual(nothing.status, 0)
    assert.include(nothing.stdout, `There are no files in ${empty}`)
    const missing = run("--dir", join(folder, "missing"), "--backend", "memory")
    assert.strictEqual(missing.status, 1)
    assert.include(missing.stderr, `There is no folder ${join(folder, "missing")}`)
  })

  it("says what is wrong with a flag", () => {
    assert.include(run("--worker", "3").stderr, "--workers")
    assert.include(run("--workers", "0").stderr, "between 1 and 1000")
    assert.include(run("--backend", "paper").stderr, '"memory"')
    assert.strictEqual(run("--backend", "paper").status, 1)
    assert.include(run("--table", "t").stderr, "--table and --endpoint can only be used with --backend dynamodb")
    assert.include(run("--backend", "redis", "--file", "f").stderr, "--file can only be used with --backend sqlite")
    assert.include(
      run("--file", join(folder, "missing", "f")).stderr,
      "in a folder that exists\n\n  This runs as well: --backend memory, or --backend sqlite --file "
    )
    assert.include(run("--backend", "redis", "--url", "redis://127.0.0.1:1").stderr, "Redis can't be reached")
    assert.include(run("--backend", "redis", "--url", "localhost").stderr, "such as redis://localhost:6379")
    assert.include(run("--url", "x").stderr, "--url can only be used with --backend redis or postgres")
    assert.include(
      run("--backend", "postgres", "--url", "postgres://me@127.0.0.1:1").stderr,
      "PostgreSQL can't be reached"
    )
    assert.include(
      run("--backend", "postgres", "--url", "localhost").stderr,
      "such as postgres://user:password@host:5432/database"
    )
    assert.include(run("--help").stdout, "--backend")
  })
})
