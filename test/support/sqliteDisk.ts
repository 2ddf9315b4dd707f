/**
 * A process that uses files on a disk of its own, which it mounts on the given folder. The disk becomes full, and then
 * read-only. The process prints the results. Run it with permission to mount: `unshare --map-root-user --mount`.
 */
import { execFileSync } from "node:child_process"
import { closeSync, openSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from "node:fs"
import { join } from "node:path"
import { DateTime, Effect, Layer, type Scope } from "effect"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"

const [folder = ""] = process.argv.slice(2)
const mount = (...args: ReadonlyArray<string>) => execFileSync("mount", [...args, folder])
mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")

const filename = join(folder, "records.db")
const filler = join(folder, "filler")
const keyOf = (i: number) => makeUnsafe({ owner: "alice", id: String(i) })

const fieldsOf = ({ message, outcome, reason }: Backend) => ({ message, outcome, reason: reason._tag })

/** Fills the disk to its last block, as another program would. */
const fillDisk = Effect.sync(() => {
  const file = openSync(filler, "a")
  try {
    for (;;) writeSync(file, Buffer.alloc(512))
  } catch {
    closeSync(file)
  }
})

const makeRoom = Effect.sync(() => rmSync(filler))

/** All written pages are still only in the log, so emptying the log needs room in the file. */
const withFullLog = Effect.gen(function* () {
  const backend = yield* StorageBackend
  writeFileSync(filler, "x".repeat(600_000))
  let acknowledged = 0
  const full = yield* Effect.flip(
    Effect.forever(
      Effect.suspend(() => Effect.map(backend.put(keyOf(acknowledged), "x".repeat(10_000)), () => acknowledged++))
    )
  )
  const there = yield* Effect.forEach(Array.from({ length: acknowledged }), (_, i) => backend.get(keyOf(i)))
  let next = 0
  const notRemoved = yield* Effect.flip(Effect.forever(Effect.suspend(() => backend.delete(keyOf(next++)))))
  const notOpened = yield* Effect.flip(Layer.build(Sqlite.layer({ filename: join(folder, "other.db") })))
  // The error asks for as much room as the log takes.
  truncateSync(filler, 600_000 - statSync(`${filename}-wal`).size)
  const removed = yield* backend.delete(keyOf(next - 1))
  yield* makeRoom
  yield* backend.put(keyOf(acknowledged), "there is room again")
  return {
    full: fieldsOf(full as Backend),
    acknowledged,
    there: there.length,
    notRemoved: fieldsOf(notRemoved),
    notOpened: fieldsOf(notOpened),
    removed
  }
})

/** Writes ten records without an expiry, and ten that have expired. */
const putAll = (letter: string) =>
  StorageBackend.use((backend) =>
    Effect.forEach(Array.from({ length: 20 }), (_, i) =>
      backend.put(keyOf(i), letter.repeat(5000), i < 10 ? {} : { expiresAt: DateTime.makeUnsafe(0) })
    )
  )

/** The log has new versions of pages that the file has already, so it can be emptied without more room. */
const withLogOfUpdates = Effect.gen(function* () {
  const backend = yield* StorageBackend
  yield* putAll("y")
  yield* fillDisk
  const removed = yield* backend.delete(keyOf(0))
  const cleaned = yield* backend.cleanupExpired
  const records = yield* backend.listByPrefix(StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "" }))
  yield* makeRoom
  return { removed, cleaned, left: records.records.length }
})

const on = <A, E>(filename: string, effect: Effect.Effect<A, E, StorageBackend | Scope.Scope>) =>
  Effect.runPromise(Effect.scoped(Effect.provide(effect, Sqlite.layer({ filename }))))

const fullLog = await on(filename, withFullLog)
rmSync(filename)

// Every record is written twice, since SQLite stores version 1 in less room than version 2. Versions from 2 on take the
// same room.
await on(filename, Effect.andThen(putAll("w"), putAll("x")))
const logOfUpdates = await on(filename, withLogOfUpdates)

mount("-o", "remount,ro")
const readOnly = await Effect.runPromise(Effect.flip(Effect.tryPromise(() => on(filename, putAll("x")))))
console.log(JSON.stringify({ fullLog, logOfUpdates, readOnly: fieldsOf(readOnly.cause as Backend) }))
