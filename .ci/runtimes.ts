/**
 * Installs the packed tarball in an empty project, with each JavaScript runtime of the npm registry in which the
 * library is to run, and runs `smoke.ts` there: `node .ci/runtimes.ts <tarball>`.
 */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { Effect } from "effect"
import { ChildProcess } from "effect/process"
import * as DynamoDbLocal from "../examples/DynamoDbLocal.ts"
import * as PostgresServer from "../examples/PostgresServer.ts"
import * as RedisServer from "../examples/RedisServer.ts"

const root = join(import.meta.dirname, "..")
const packageJson = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
const pinned = (name: string): string => packageJson.devDependencies[name]

/** The runtimes: the package of each in the npm registry, and the command that runs a program in it. */
const runtimes = [
  {
    alias: "oldest",
    package: "node@22.19.0",
    command: "oldest/bin/node",
    args: ["--disable-warning=ExperimentalWarning"]
  },
  { alias: "node", package: `node@${pinned("node")}`, command: "node/bin/node", args: [] },
  { alias: "bun", package: "bun@1.4.5", command: ".bin/bun", args: [] },
  { alias: "deno", package: "deno@2.9.6", command: ".bin/deno", args: ["run", "--allow-all"] }
]

const run = Effect.fnUntraced(function* (cwd: string, command: string, args: ReadonlyArray<string>) {
  const handle = yield* ChildProcess.make(command, args, { cwd, stdout: "inherit", stderr: "inherit" })
  const exitCode = yield* Effect.timeout(handle.exitCode, "2 minutes")
  if (exitCode !== 0) return yield* Effect.die(new Error(`${command} ${args.join(" ")} ended with status ${exitCode}`))
})

const install = (folder: string, tarball: string) => {
  const manifest = {
    private: true,
    type: "module",
    dependencies: {
      "effect-versioned-store": `file:${resolve(tarball)}`,
      ...Object.fromEntries(
        ["effect", "redis", "@effect/sql-pg", "@aws-sdk/client-dynamodb"].map((name) => [name, pinned(name)])
      ),
      ...Object.fromEntries(runtimes.map(({ alias, package: spec }) => [alias, `npm:${spec}`]))
    },
    // Each of these packages has a script that puts the binary of this platform into place.
    allowScripts: Object.fromEntries(runtimes.map(({ package: spec }) => [spec, true]))
  }
  writeFileSync(join(folder, "package.json"), JSON.stringify(manifest))
  copyFileSync(join(root, ".ci/smoke.ts"), join(folder, "smoke.ts"))
  return run(folder, "npm", ["install", "--silent", "--no-audit", "--no-fund"])
}

const program = Effect.gen(function* () {
  const [tarball] = process.argv.slice(2)
  if (tarball === undefined) return yield* Effect.die(new Error("Usage: node .ci/runtimes.ts <packed tarball>"))
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "runtimes-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  )
  yield* install(folder, tarball)
  const url = yield* RedisServer.start
  const postgresUrl = yield* PostgresServer.start
  const endpoint = yield* DynamoDbLocal.start
  for (const { alias, args, command } of runtimes) {
    const file = join(folder, `${alias}.db`)
    yield* run(folder, join(folder, "node_modules", command), [...args, "smoke.ts", file, url, postgresUrl, endpoint])
  }
})

await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(NodeServices.layer)))
