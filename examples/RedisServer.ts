/**
 * A Redis server on a port of this machine, while the scope is open.
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { connect } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"
import { freePort, ServerError, startServer } from "./server.ts"

export const name = "Redis"

/** If Redis can't run on this machine, the sentence that says what to do. Otherwise undefined. */
export const missing = (): string | undefined =>
  spawnSync("redis-server", ["--version"]).status === 0
    ? undefined
    : "There is no redis-server on the PATH: install one, for example Debian's redis-server, or give the URL of a " +
      "running Redis"

/** Starts a server on a free port that stores nothing on disk. Returns its URL once it answers. */
export const start = Effect.gen(function* () {
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "redis-"))),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
  )
  return yield* startIn(folder, yield* freePort, "--save", "")
})

/** Starts a server on a port, with its files in a folder, and with some settings. Returns its URL once it answers. */
export const startIn = Effect.fnUntraced(function* (folder: string, port: number, ...settings: ReadonlyArray<string>) {
  const reason = missing()
  if (reason !== undefined) return yield* new ServerError({ message: reason })
  yield* startServer({
    name,
    command: ["redis-server", "--bind", "127.0.0.1", "--port", String(port), ...settings],
    port,
    cwd: folder,
    answers: answers(port)
  })
  return `redis://127.0.0.1:${port}`
})

/** Succeeds if the server answers a PING. The answer may be that a password is required. */
const answers = (port: number) =>
  Effect.callback<void, Error>((resume) => {
    const socket = connect(port, "127.0.0.1", () => socket.write("PING\r\n"))
    socket.once("data", (data) => {
      socket.destroy()
      resume(/^(\+PONG|-NOAUTH)/.test(String(data)) ? Effect.void : Effect.fail(new Error(String(data))))
    })
    socket.once("error", (error) => resume(Effect.fail(error)))
    return Effect.sync(() => socket.destroy())
  }).pipe(Effect.timeout("1 second"))
