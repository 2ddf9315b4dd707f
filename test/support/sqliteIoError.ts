/**
 * A process that writes to a file until the disk fails, and prints the results. Run it with `ulimit -f`, so that the
 * system refuses to write beyond that size. For SQLite, that is an I/O error (SQLITE_IOERR_WRITE).
 */
import { Effect } from "effect"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"

const [filename = ""] = process.argv.slice(2)
const key = makeUnsafe({ owner: "alice", id: "a" })

const program = StorageBackend.use((backend) =>
  Effect.gen(function* () {
    let written = yield* backend.put(key, "")
    const write = Effect.suspend(() =>
      Effect.map(backend.putIfVersion(key, "x".repeat(20_000), written), (record) => {
        written = record
      })
    )
    const failed = yield* Effect.flip(Effect.forever(write))
    if (failed._tag !== "Backend") return yield* Effect.die(failed)
    const { message, operation, outcome, reason } = failed
    const { version } = yield* backend.get(key)
    return { message, operation, outcome, reason: reason._tag, acknowledged: written.version, version }
  })
)
console.log(JSON.stringify(await Effect.runPromise(Effect.provide(program, Sqlite.layer({ filename })))))
