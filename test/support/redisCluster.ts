import { execFile } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { Effect, Schedule } from "effect"
import * as RedisServer from "../../examples/RedisServer.ts"
import { freePort } from "../../examples/server.ts"

const run = promisify(execFile)

export const newFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "redis-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

/** Starts a node of a Redis Cluster on loopback, and returns its URL. */
const startNode = Effect.gen(function* () {
  const [folder, port, bus] = [yield* newFolder, yield* freePort, yield* freePort]
  const settings = ["--cluster-enabled", "yes", "--cluster-port", String(bus), "--save", ""]
  return yield* RedisServer.startIn(folder, port, ...settings)
})

/** Starts a replica of a master of a Redis Cluster, and returns its URL once it has the master's data. */
export const addReplica = Effect.fnUntraced(function* (anyNode: string, master: string) {
  const url = yield* startNode
  const cli = (node: string, ...args: ReadonlyArray<string>) =>
    Effect.promise(() => run("redis-cli", ["-u", node, ...args]))
  const id = (yield* cli(master, "CLUSTER", "MYID")).stdout.trim()
  const hosts = [new URL(url).host, new URL(anyNode).host]
  yield* Effect.promise(() =>
    run("redis-cli", ["--cluster", "add-node", ...hosts, "--cluster-slave", "--cluster-master-id", id])
  )
  yield* cli(url, "INFO", "replication").pipe(
    Effect.repeat({
      schedule: Schedule.spaced("50 millis"),
      until: ({ stdout }) => stdout.includes("master_link_status:up")
    })
  )
  return url
})

/** Starts a Redis Cluster of three masters on loopback, and returns their URLs once all slots are served. */
export const startCluster = Effect.gen(function* () {
  const urls = yield* Effect.forEach([1, 2, 3], () => startNode)
  const nodes = urls.map((url) => new URL(url).host)
  yield* Effect.promise(() => run("redis-cli", ["--cluster", "create", ...nodes, "--cluster-yes"]))
  yield* Effect.forEach(urls, (url) =>
    Effect.promise(() => run("redis-cli", ["-u", url, "CLUSTER", "INFO"])).pipe(
      Effect.repeat({
        schedule: Schedule.spaced("50 millis"),
        until: ({ stdout }) => /cluster_state:ok/.test(stdout) && /cluster_slots_ok:16384/.test(stdout)
      })
    )
  )
  return urls
})
