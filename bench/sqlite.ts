/**
 * Durable writes per second in an SQLite file, through the service and by the same statement through bare
 * `node:sqlite`. Both take turns in one run, each with a file of its own. The medians of their rounds are compared.
 */
import { mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { Effect } from "effect"
import * as Sqlite from "../src/engine/Sqlite.ts"
import { StorageBackend, StorageKey } from "../src/index.ts"

const rounds = 40
const writes = 100
const data = "x".repeat(1000)

type Write = (i: number) => Effect.Effect<unknown, unknown>

const service = (backend: StorageBackend.StorageBackend["Service"]): Write => {
  const keyOf = (i: number) => StorageKey.makeUnsafe({ owner: "alice", id: `order/${i % 1000}` })
  return (i) => backend.put(keyOf(i), data)
}

const bare = (filename: string, synchronous: string): Write => {
  const db = new DatabaseSync(filename)
  db.exec(`PRAGMA synchronous = ${synchronous}`)
  const statement = db.prepare(
    "INSERT INTO records VALUES (:owner, :id, 1, :data, :writeId, :expiresAt) ON CONFLICT DO UPDATE SET " +
      "version = version + 1, data = :data, write_id = :writeId, expires_at = :expiresAt " +
      "WHERE version < 9007199254740991 RETURNING version"
  )
  return (i) =>
    Effect.sync(() =>
      statement.all({
        owner: "alice",
        id: `order/${i % 1000}`,
        data,
        writeId: `0123456789abcdefghijkl.${i}`,
        expiresAt: null
      })
    )
}

/** The microseconds that a write takes in one round. */
const measure = Effect.fnUntraced(function* (write: Write, round: number) {
  const start = process.hrtime.bigint()
  for (let i = 0; i < writes; i++) yield* write(round * writes + i)
  return Number(process.hrtime.bigint() - start) / 1000 / writes
})

const median = (values: ReadonlyArray<number>) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0

// The folder is beside this file, since a folder for temporary files may be in memory.
const folder = mkdtempSync(join(import.meta.dirname, "sqlite-"))

const compare = Effect.fnUntraced(function* (synchronous: "FULL" | "NORMAL") {
  const file = (name: string) => join(folder, `${synchronous}-${name}.db`)
  // The Layer makes the tables of the bare file, too.
  yield* Effect.provide(Effect.void, Sqlite.layer({ filename: file("bare") }))
  const times: Record<"bare" | "service", Array<number>> = { bare: [], service: [] }
  yield* StorageBackend.StorageBackend.use(
    Effect.fnUntraced(function* (backend) {
      const candidates = { bare: bare(file("bare"), synchronous), service: service(backend) }
      for (let round = -2; round < rounds; round++) {
        for (const name of round % 2 === 0 ? (["bare", "service"] as const) : (["service", "bare"] as const)) {
          const time = yield* measure(candidates[name], round + 2)
          if (round >= 0) times[name].push(time)
        }
      }
    })
  ).pipe(Effect.provide(Sqlite.layer({ filename: file("service"), synchronous })))
  const [bareTime, serviceTime] = [median(times.bare), median(times.service)]
  return {
    "bare, writes/s": Math.round(1e6 / bareTime),
    "service, writes/s": Math.round(1e6 / serviceTime),
    "service/bare": Number((bareTime / serviceTime).toFixed(2))
  }
})

const program = Effect.gen(function* () {
  console.table({ FULL: yield* compare("FULL"), NORMAL: yield* compare("NORMAL") })
}).pipe(Effect.ensuring(Effect.sync(() => rmSync(folder, { recursive: true }))))

await Effect.runPromise(program)
