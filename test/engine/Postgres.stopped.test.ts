import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { assert, describe, layer } from "@effect/vitest"
import { Effect } from "effect"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { layerTable, newTable, url } from "../support/postgres.ts"
import { postgresProxy } from "../support/postgresProxy.ts"

const tableName = newTable()

describe.skipIf(url === undefined)("Postgres, if a process is stopped in the middle of a commit,", () => {
  layer(layerTable({ tableName, requestTimeout: "20 seconds" }), { excludeTestServices: true })((it) => {
    it.effect("undoes the commit, so that others can write its records", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const owner = crypto.randomUUID()
        let isStopped = false
        const proxy = yield* postgresProxy(url ?? "", ({ text }) => {
          // The statement locks the records, and then the process goes on no more.
          if (!isStopped && text.startsWith("INSERT")) isStopped = child.kill("SIGSTOP")
          return "pass"
        })
        const path = join(import.meta.dirname, "../support/committer.ts")
        const child = spawn("node", [path, proxy.url, tableName, owner], { stdio: ["ignore", "pipe", "inherit"] })
        yield* Effect.addFinalizer(() => Effect.sync(() => child.kill("SIGKILL")))
        let output = ""
        child.stdout.on("data", (chunk) => {
          output += chunk
        })
        while (!isStopped) yield* Effect.sleep("5 millis")
        const [key, steps] = [makeUnsafe({ owner, id: "a" }), ["a", "b"] as const]
        yield* backend.commit(
          owner,
          steps.map((id) => ({ _tag: "Write", id, data: "ours", expected: 0 }))
        )
        const closed = once(child, "close")
        child.kill("SIGCONT")
        yield* Effect.promise(() => closed)
        assert.strictEqual(output, "VersionConflict\n")
        assert.strictEqual((yield* backend.get(key)).data, "ours")
      })
    )
  })
})
