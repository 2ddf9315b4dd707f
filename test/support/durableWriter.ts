/**
 * A process that changes eight records of a file again and again, and prints each change once it is acknowledged, until
 * the process is killed. The data of a record shows whether it is whole.
 */
import { createHash } from "node:crypto"
import { writeSync } from "node:fs"
import { Effect } from "effect"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"

export const ids = ["0", "1", "2", "3", "4", "5", "6", "7"]

/** The data of a count. The lengths differ widely, so that some changes take few pages and some take many. */
const dataOf = (count: number): string => {
  const filler = String(count).repeat((count * 7919) % 20_000)
  return `${count} ${createHash("sha256").update(filler).digest("hex")} ${filler}`
}

/** The count in a record's data. NaN if the data is not whole. */
export const countOf = (data: string): number => {
  const count = Number(data.split(" ", 1)[0])
  return data === dataOf(count) ? count : Number.NaN
}

const change = (backend: StorageBackend["Service"], id: string) =>
  Effect.gen(function* () {
    const key = makeUnsafe({ owner: "alice", id })
    const record = yield* Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined)
    const count = record === undefined ? 1 : countOf(record.data) + 1
    yield* backend.putIfVersion(key, dataOf(count), record ?? 0)
    writeSync(1, `${id} ${count}\n`)
  })

if (process.argv[1] === import.meta.filename) {
  const program = StorageBackend.use((backend) =>
    Effect.forEach(ids, (id) => Effect.forever(change(backend, id)), { concurrency: "unbounded" })
  )
  Effect.runFork(Effect.provide(program, Sqlite.layer({ filename: process.argv[2] ?? "" })))
}
