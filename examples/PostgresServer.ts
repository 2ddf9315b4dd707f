/**
 * A PostgreSQL server on a port of this machine, while the scope is open.
 */
import { execFile, spawnSync } from "node:child_process"
import { chownSync, existsSync, globSync, mkdtempSync, rmSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { NodeServices } from "@effect/platform-node"
import { Effect } from "effect"
import { boundProcess, freePort, ServerError, startServer } from "./server.ts"

export const name = "PostgreSQL"

/** The folder of the server's programs. Debian keeps it off the PATH. */
const programs = (): string | undefined =>
  [
    spawnSync("pg_config", ["--bindir"], { encoding: "utf8" }).stdout?.trim() ?? "",
    ...globSync("/usr/lib/postgresql/*/bin").sort().reverse(),
    ...(process.env.PATH ?? "").split(":")
  ].find((folder) => folder !== "" && existsSync(join(folder, "initdb")) && existsSync(join(folder, "postgres")))

/** If PostgreSQL can't run on this machine, the sentence that says what to do. Otherwise undefined. */
export const missing = (): string | undefined =>
  programs() === undefined
    ? "There is no PostgreSQL server on this machine: install one, for example Debian's postgresql, or give the URL of " +
      "a running PostgreSQL"
    : undefined

/** PostgreSQL refuses to run as root. So root runs it as a user that has as little as possible. */
const unprivileged = (): { readonly uid: number; readonly gid: number; readonly prefix: ReadonlyArray<string> } => {
  const idOf = (flag: string, user: string) => Number(spawnSync("id", [flag, user], { encoding: "utf8" }).stdout.trim())
  const user = spawnSync("id", ["postgres"]).status === 0 ? "postgres" : "nobody"
  const [uid, gid] = [idOf("-u", user), idOf("-g", user)]
  return { uid, gid, prefix: ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"] }
}

/** A program that removes a folder when it is told to end. Until the server has ended as well, it may write again. */
const removeAtEnd = `
  const { existsSync, rmSync } = require("node:fs")
  const folder = process.argv[1]
  const remove = () => {
    try { rmSync(folder, { recursive: true, force: true }) } catch {}
    setTimeout(() => existsSync(folder) ? remove() : process.exit(), 300)
  }
  process.on("SIGTERM", remove)
  setInterval(() => {}, 1e9)`

/** The program that makes an empty database in a folder, and its arguments. */
export const initdb = (data: string): ReadonlyArray<string> => [
  ...["initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust", "--encoding", "UTF8"],
  ...["--locale", "C", "--no-sync"]
]

/** The program that copies the database of a running server, whose replica the copy is. */
export const replicaOf =
  (url: string) =>
  (data: string): ReadonlyArray<string> => [
    ...["pg_basebackup", "--dbname", url, "--pgdata", data, "--write-recovery-conf", "--wal-method=stream"],
    ...["--checkpoint=fast", "--no-sync"]
  ]

/** Makes a database in a temporary folder, which is removed with the scope. `run` starts its server. */
export const makeCluster = Effect.fnUntraced(function* (
  settings: ReadonlyArray<string> = [],
  anyPort: Effect.Effect<number> = freePort,
  commandOf: (data: string) => ReadonlyArray<string> = initdb
) {
  const bin = programs()
  if (bin === undefined) return yield* new ServerError({ message: missing() ?? "" })
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "postgres-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  )
  // The finalizer does not run if this process is killed, so another process removes the folder then.
  yield* boundProcess([process.execPath, "-e", removeAtEnd, folder]).pipe(
    Effect.provide(NodeServices.layer),
    Effect.mapError(({ message }) => new ServerError({ message }))
  )
  const user = process.getuid?.() === 0 ? unprivileged() : undefined
  if (user !== undefined) chownSync(folder, user.uid, user.gid)
  const prefix = user?.prefix ?? []
  const data = join(folder, "data")
  const [maker = "", ...makerArgs] = commandOf(data)
  const [program = "", ...args] = [...prefix, join(bin, maker), ...makerArgs]
  yield* Effect.tryPromise({
    try: () => promisify(execFile)(program, args, { cwd: folder }),
    catch: (error) => new ServerError({ message: `${name} can't make a database: ${(error as Error).message}` })
  })
  const port = yield* anyPort
  const options = { listen_addresses: "127.0.0.1", port: String(port), unix_socket_directories: "" }
  const server = [
    ...[...prefix, join(bin, "postgres"), "-D", data],
    ...Object.entries(options).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
    ...settings.flatMap((setting) => ["-c", setting])
  ]
  return {
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    folder,
    /** Starts the server, which ends with the scope, and returns once it answers. */
    run: startServer({ name, command: server, port, cwd: folder, answers: answers(port), killSignal: "SIGINT" })
  }
})

/** Starts a server on a free port, in a folder that is removed with the scope. Returns its URL once it answers. */
export const start = Effect.gen(function* () {
  // Nothing that a test or an example writes must survive a power cut. Each build of a Layer has a pool of its own.
  const { run, url } = yield* makeCluster(["fsync=off", "full_page_writes=off", "max_connections=500"])
  yield* run
  return url
})

/** Succeeds if the server accepts connections, which it does not while it starts. */
const answers = (port: number) =>
  Effect.callback<void, Error>((resume) => {
    const parameters = Buffer.from("user\0postgres\0database\0postgres\0\0")
    const startup = Buffer.alloc(8)
    startup.writeInt32BE(8 + parameters.length, 0)
    startup.writeInt32BE(196_608, 4)
    const socket = connect(port, "127.0.0.1", () => socket.write(Buffer.concat([startup, parameters])))
    socket.once("data", (data) => {
      socket.destroy()
      resume(String(data).startsWith("R") ? Effect.void : Effect.fail(new Error(String(data))))
    })
    socket.once("error", (error) => resume(Effect.fail(error)))
    return Effect.sync(() => socket.destroy())
  }).pipe(Effect.timeout("1 second"))
