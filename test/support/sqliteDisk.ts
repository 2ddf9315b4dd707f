/**
 * A process that uses a file on a disk of its own, the folder given, which is full after a while, or then read-only;
 * and says what came of it. To be run where it may mount: `unshare --map-root-user --mount`.
 */
import { execFileSync } from "node:child_process"
import { rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import * as Sqlite from "../../src/backend/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"

const [folder = ""] = process.argv.slice(2)
const mount = (...args: ReadonlyArray<string>) => execFileSync("mount", [...args, folder])
mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")

const filename = join(folder, "records.db")
const filler = join(folder, "filler")
const keyOf = (i: number) => makeUnsafe({ owner: "alice", id: String(i) })

const told = ({ message, outcome, reason }: Backend) => ({ message, outcome, reason: reason._tag })

const program = Effect.gen(function* () {
  const backend = yield* StorageBackend
  writeFileSync(filler, "x".repeat(300_000))
  let acknowledged = 0
  const full = yield* Effect.flip(
    Effect.forever(
      Effect.suspend(() => Effect.map(backend.put(keyOf(acknowledged), "x".repeat(10_000)), () => acknowledged++))
    )
  )
  const there = yield* Effect.forEach(Array.from({ length: acknowledged }), (_, i) => backend.get(keyOf(i)))
  rmSync(filler)
  yield* backend.put(keyOf(acknowledged), "there is room again")
  return { full, acknowledged, there: there.length }
})

const { full, ...rest } = await Effect.runPromise(Effect.provide(program, Sqlite.layer({ filename })))
mount("-o", "remount,ro")
const write = StorageBackend.use((backend) => backend.put(keyOf(0), "data"))
const readOnly = await Effect.runPromise(Effect.flip(Effect.provide(write, Sqlite.layer({ filename }))))
console.log(JSON.stringify({ full: told(full as Backend), ...rest, readOnly: told(readOnly as Backend) }))
