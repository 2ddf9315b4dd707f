/** The machine and the versions of everything that was measured. */
import { execFileSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import os from "node:os"
import { dirname, join } from "node:path"
import packageJson from "./package.json" with { type: "json" }

const tools = ["console-table-printer", "echarts", "esbuild"]

/** The version in the `package.json` of a package that this folder can import. */
const versionOf = (name: string): string => {
  const { resolve } = createRequire(import.meta.url)
  for (const folder of resolve.paths(name) ?? []) {
    try {
      return JSON.parse(readFileSync(join(folder, name, "package.json"), "utf8")).version
    } catch {
      // The package is in another of the folders.
    }
  }
  return "unknown"
}

/** The first line that a program prints about its version, if the machine has the program. */
const programVersion = (command: string, args: ReadonlyArray<string>, pattern: RegExp): string => {
  try {
    return pattern.exec(execFileSync(command, args, { encoding: "utf8", stdio: "pipe" }))?.[0] ?? "unknown"
  } catch {
    return "missing"
  }
}

/** Debian keeps the server's programs off the PATH. */
const postgresVersion = `PATH="$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)" postgres --version`

export const describeMachine = () => {
  const [cpu] = os.cpus()
  const compared = Object.keys(packageJson.devDependencies).filter((name) => !tools.includes(name))
  return {
    date: new Date().toISOString(),
    cpu: cpu?.model.trim() ?? "unknown",
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    os: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.version,
    commit: programVersion("git", ["-C", dirname(import.meta.dirname), "rev-parse", "--short", "HEAD"], /\S+/),
    versions: {
      ...Object.fromEntries(["effect", "redis", ...compared].map((name) => [name, versionOf(name)])),
      sqlite: process.versions.sqlite ?? "unknown",
      "redis-server": programVersion("redis-server", ["--version"], /v=\S+/).replace("v=", ""),
      postgresql: programVersion("sh", ["-c", postgresVersion], /[\d.]+/),
      java: programVersion("java", ["--version"], /.+/)
    }
  }
}

export type Machine = ReturnType<typeof describeMachine>
