import { spawnSync } from "node:child_process"
import { chmodSync, writeFileSync } from "node:fs"
import { connect } from "node:net"
import { join } from "node:path"
import { Effect } from "effect"
import { freePort, startServer } from "../../examples/server.ts"
import { newFolder } from "./redisCluster.ts"

const program = () =>
  ["pgbouncer", "/usr/sbin/pgbouncer"].find((path) => spawnSync(path, ["--version"]).error === undefined)

/** If PgBouncer can't run on this machine, the sentence that says what to do. Otherwise undefined. */
export const missing = (): string | undefined =>
  program() === undefined ? "There is no PgBouncer on this machine: install Debian's pgbouncer" : undefined

/** PgBouncer refuses to run as root. */
const unprivileged = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]

const accepts = (port: number) =>
  Effect.callback<void, Error>((resume) => {
    const socket = connect(port, "127.0.0.1", () => resume(Effect.void)).on("error", (error) =>
      resume(Effect.fail(error))
    )
    return Effect.sync(() => socket.destroy())
  })

/** Starts a PgBouncer in front of a database, in transaction mode, while the scope is open. Returns its URL. */
export const start = Effect.fnUntraced(function* (database: string) {
  const folder = yield* newFolder
  const port = yield* freePort
  const { hostname, password, port: target = "5432", username } = new URL(database)
  const settings = join(folder, "pgbouncer.ini")
  const user = `user=${username || "postgres"}${password === "" ? "" : ` password=${password}`}`
  writeFileSync(
    settings,
    `[databases]
    * = host=${hostname} port=${target} ${user} pool_size=8
    [pgbouncer]
    listen_addr = 127.0.0.1
    listen_port = ${port}
    unix_socket_dir =
    auth_type = any
    pool_mode = transaction
    max_client_conn = 500
    `
  )
  chmodSync(folder, 0o755)
  yield* startServer({
    name: "PgBouncer",
    command: [...(process.getuid?.() === 0 ? unprivileged : []), program() ?? "", settings],
    port,
    cwd: folder,
    answers: accepts(port)
  })
  const url = new URL(database)
  Object.assign(url, { hostname: "127.0.0.1", port: String(port), password: "" })
  return url.href
})
