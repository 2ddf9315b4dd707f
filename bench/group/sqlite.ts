/** Records in an SQLite file, beside the same statements through bare `node:sqlite`. */
import { mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { Context, Effect, Layer } from "effect"
import * as Sqlite from "../../dist/engine/Sqlite.js"
import { StorageBackend, StorageKey } from "../library.ts"
import {
  compare,
  exactly,
  type Figure,
  inEffect,
  inPlace,
  inProgram,
  type Settings,
  type Step,
  spreadOf
} from "../measure.ts"
import { comparePages, idOf, ownersOf } from "./pages.ts"

const group = "sqlite"
const owner = "alice"
const data = "x".repeat(1000)
const count = 1000

/** A folder beside this file, since a folder for temporary files may be in memory. */
export const makeFolder = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(import.meta.dirname, "..", "files-"))),
  (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true }))
)

const keyOf = (i: number) => StorageKey.makeUnsafe({ owner, id: idOf(i % count) })

const makeBackend = Effect.fnUntraced(function* (filename: string, synchronous: "FULL" | "NORMAL") {
  const layer = Layer.fresh(Sqlite.layer({ filename, synchronous }))
  return Context.get(yield* Layer.build(layer), StorageBackend.StorageBackend)
})

/** The statements of a get and a put, on a file of their own. The Layer makes its table. */
const makeBare = Effect.fnUntraced(function* (filename: string, synchronous: "FULL" | "NORMAL") {
  yield* Effect.provide(Effect.void, Sqlite.layer({ filename }))
  const db = yield* Effect.acquireRelease(
    Effect.sync(() => new DatabaseSync(filename)),
    (db) => Effect.sync(() => db.close())
  )
  db.exec(`PRAGMA synchronous = ${synchronous}`)
  const select = db.prepare(
    "SELECT id, version, CAST(data AS BLOB) AS data, write_id, expires_at FROM records " +
      "WHERE owner = :owner AND id = :id"
  )
  const upsert = db.prepare(
    "INSERT INTO records VALUES (:owner, :id, 1, :data, :writeId, :expiresAt) ON CONFLICT DO UPDATE SET " +
      "version = version + 1, data = :data, write_id = :writeId, expires_at = :expiresAt " +
      "WHERE version < 9007199254740991 RETURNING version"
  )
  let writes = 0
  return {
    get: (i: number) => select.get({ owner, id: idOf(i % count) }),
    put: (i: number) =>
      upsert.all({
        owner,
        id: idOf(i % count),
        data,
        writeId: `0123456789abcdefghijkl.${(writes++).toString(36)}`,
        expiresAt: null
      })
  }
})

const makePair = Effect.fnUntraced(function* (synchronous: "FULL" | "NORMAL") {
  const folder = yield* makeFolder
  const bare = yield* makeBare(join(folder, "bare.db"), synchronous)
  const backend = yield* makeBackend(join(folder, "ours.db"), synchronous)
  for (let i = 0; i < count; i++) {
    bare.put(i)
    yield* backend.put(keyOf(i), data)
  }
  return { bare, backend }
})

const compareOneByOne = Effect.fnUntraced(function* (settings: Settings, synchronous: "FULL" | "NORMAL") {
  const { backend, bare } = yield* makePair(synchronous)
  const setting = `synchronous ${synchronous}`
  const reads =
    synchronous === "FULL"
      ? []
      : yield* compare(settings, group, {
          operation: "get",
          setting: "",
          contenders: [inPlace("node:sqlite", bare.get), inEffect("Sqlite", (i) => backend.get(keyOf(i)))]
        })
  const writes = yield* compare(settings, group, {
    operation: "put",
    setting,
    contenders: [inPlace("node:sqlite", bare.put), inEffect("Sqlite", (i) => backend.put(keyOf(i), data))]
  })
  return [...reads, ...writes]
})

/** Writes of 64 fibers to different records, each in a round of at least one write a fiber. */
const compareTogether = Effect.fnUntraced(function* (settings: Settings) {
  const { backend, bare } = yield* makePair("FULL")
  let write = 0
  const together = (times: number) =>
    Effect.forEach(
      Array.from({ length: 64 }),
      () =>
        Effect.gen(function* () {
          for (let i = 0; i < times; i++) yield* backend.put(keyOf(write++), data)
        }),
      { concurrency: "unbounded", discard: true }
    )
  const ours = inProgram("Sqlite", together)
  const times64 = (i: number) => {
    for (let k = 0; k < 64; k++) bare.put(i * 64 + k)
  }
  return yield* compare(settings, group, {
    operation: "put, 64 fibers",
    setting: "synchronous FULL",
    contenders: [inPlace("node:sqlite, one at a time", times64), ours],
    perRun: 64
  })
})

/** The longest time between two turns of the event loop while an effect runs. */
const longestStop = (effect: Effect.Effect<unknown, unknown>) =>
  Effect.suspend(() => {
    let [last, longest, isRunning] = [performance.now(), 0, true]
    const turn = () => {
      const now = performance.now()
      longest = Math.max(longest, now - last)
      last = now
      if (isRunning) setImmediate(turn)
    }
    setImmediate(turn)
    return effect.pipe(
      Effect.andThen(Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))),
      Effect.ensuring(
        Effect.sync(() => {
          isRunning = false
        })
      ),
      Effect.map(() => longest)
    )
  })

/** What holds the loop if nobody writes is the machine's own doing. */
const compareStops = Effect.fnUntraced(function* (settings: Settings) {
  const { backend } = yield* makePair("FULL")
  const millis = settings.quick ? 200 : 1000
  const write = Effect.gen(function* () {
    const end = performance.now() + millis
    for (let i = 0; performance.now() < end; i++) yield* backend.put(keyOf(i), data)
  })
  const writers = Effect.forEach(Array.from({ length: 256 }), () => write, { concurrency: "unbounded", discard: true })
  const contenders = [
    { name: "nobody writes", effect: Effect.sleep(millis), stops: [] as number[] },
    { name: "Sqlite, 256 writers", effect: writers, stops: [] as number[] }
  ]
  for (let round = 0; round < (settings.quick ? 7 : 20); round++) {
    for (const { effect, stops } of contenders) stops.push(yield* longestStop(effect))
  }
  return contenders.flatMap(({ name, stops }) => {
    const figure = { group, operation: "longest stop of the event loop", setting: "", contender: name, unit: "ms" }
    return [
      { ...figure, measure: "in a round", value: spreadOf(stops) },
      { ...figure, measure: "of all rounds", value: exactly(Math.max(...stops)) }
    ] as ReadonlyArray<Figure>
  })
})

/** Loads the records by one transaction for each owner, since only the pages are measured. */
const comparePagesInFile = Effect.fnUntraced(function* (settings: Settings) {
  const filename = join(yield* makeFolder, "pages.db")
  const backend = yield* makeBackend(filename, "NORMAL")
  const owners = ownersOf(100, 100_000)
  const db = new DatabaseSync(filename)
  const insert = db.prepare("INSERT INTO records VALUES (?, ?, 1, ?, 'loaded', NULL)")
  db.exec("BEGIN")
  for (let i = 0; i < owners.counts.many; i++) {
    if (i < owners.counts.few) insert.run(owners.few, idOf(i), data.slice(0, 100))
    insert.run(owners.many, idOf(i), data.slice(0, 100))
  }
  db.exec("COMMIT")
  db.close()
  return yield* comparePages(settings, group, backend, owners)
})

export const stepsOf = (settings: Settings): ReadonlyArray<Step> => [
  { label: "one by one, NORMAL", run: compareOneByOne(settings, "NORMAL") },
  { label: "one by one, FULL", run: compareOneByOne(settings, "FULL") },
  { label: "64 fibers", run: compareTogether(settings) },
  { label: "256 writers", run: compareStops(settings) },
  { label: "pages", run: comparePagesInFile(settings) }
]
