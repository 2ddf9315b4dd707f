/**
 * An index of the files of a folder, on which many workers of many runs work at once.
 *
 * Each file is a record. The records are divided into parts, and one more record, the walk, says which parts are taken.
 * A worker takes a part with a lease, reads it page by page, and keeps the cursor in the walk, so that another worker
 * can go on from there. It completes each file by compare-and-set on exactly the record that it read. The lease only
 * divides the work. If two workers work on one file, one of them gets a conflict, and the file is still indexed once.
 */
import { Clock, Data, DateTime, Duration, Effect, Option, Path, Schedule, Schema, Stream } from "effect"
import { StorageBackend, VersionedStore } from "effect-versioned-store"
import { Contents, hash, modifiedOf, read } from "./files.ts"

const leaseDuration = Duration.millis(500)

const pageSize = 20

/** The ids of files are hashes. Their first two digits say in which part a file is. */
const parts = Array.from({ length: 256 }, (_, part) => part.toString(16).padStart(2, "0"))

const FileRecord = Schema.Union([
  Schema.TaggedStruct("Waiting", { path: Schema.String }),
  Schema.TaggedStruct("Done", { path: Schema.String, run: Schema.String, contents: Contents })
])
export type FileRecord = VersionedStore.Record<typeof FileRecord.Type>

/** What a run has indexed. All of its workers change it at the same time. */
const Summary = Schema.Struct({ files: Schema.Int, lines: Schema.Int, bytes: Schema.Int })
export type Summary = typeof Summary.Type

/** A part that a worker has taken, and its next page. When the lease has ended, another worker may take it over. */
const TakenPart = Schema.Struct({
  part: Schema.String,
  cursor: Schema.NullOr(Schema.String),
  worker: Schema.String,
  leaseEnds: Schema.DateTimeUtc
})
type TakenPart = typeof TakenPart.Type

/** How far the workers of all runs have come: how many parts were taken so far, and those on which they work. */
const Walk = Schema.Struct({ next: Schema.Int, taken: Schema.Array(TakenPart), indexed: Schema.Int })
type Walk = typeof Walk.Type

export const summaryOf = (files: ReadonlyArray<Contents>): Summary => ({
  files: files.length,
  lines: files.reduce((sum, { lines }) => sum + lines, 0),
  bytes: files.reduce((sum, { bytes }) => sum + bytes, 0)
})

/** Opens the index of a folder, for one run. */
export const open = Effect.fnUntraced(function* (dir: string) {
  const path = yield* Path.Path
  const counts = {
    planned: 0,
    updates: 0,
    summaryWrites: 0,
    conflicts: 0,
    died: 0,
    overslept: 0,
    refused: 0,
    takeovers: 0
  }
  const backend = counting(yield* StorageBackend.StorageBackend, counts)
  const make = <S extends Schema.Constraint>(idPrefix: string, schema: S) =>
    Effect.provideService(VersionedStore.make({ idPrefix, schema }), StorageBackend.StorageBackend, backend)
  const owner = `index/${hash(dir)}`
  const run = crypto.randomUUID()
  return {
    owner,
    run,
    counts,
    pathOf: ({ value }: FileRecord) => path.join(dir, value.path),
    records: yield* make("file/", FileRecord),
    walks: yield* make("walk/", Walk),
    walk: { owner, id: "parts" },
    summaries: yield* make("summary/", Summary),
    summary: { owner, id: run }
  }
})
export type Index = Effect.Success<ReturnType<typeof open>>

/** Counts the conflicts, also those after which an update is made again by itself, and the writes of the summary. */
const counting = (backend: Backend, counts: { conflicts: number; summaryWrites: number }): Backend => ({
  ...backend,
  putIfVersion: (key, ...args) =>
    backend.putIfVersion(key, ...args).pipe(
      Effect.tap(() => Effect.sync(() => key.id.startsWith("summary/") && counts.summaryWrites++)),
      Effect.tapErrorTag("VersionConflict", () => Effect.sync(() => counts.conflicts++))
    )
})
type Backend = StorageBackend.StorageBackend["Service"]

export const list = ({ owner, records }: Index) => Stream.runCollect(records.stream({ owner }))

export const summary = ({ summaries, summary }: Index) => Effect.map(summaries.get(summary), ({ value }) => value)

/** How many files the workers of all runs have indexed. A worker counts its files page by page. */
export const indexed = ({ walk, walks }: Index) => Effect.map(walks.get(walk), ({ value }) => value.indexed)

// --- the plan -----------------------------------------------------------------

/**
 * Makes a record for each file, and removes the records of other files. Records that an earlier run has completed are
 * kept if the file has not changed. Returns how many records were kept.
 */
export const plan = Effect.fnUntraced(function* (index: Index, files: ReadonlyArray<string>) {
  const { counts, owner, records, summaries, walk, walks } = index
  yield* summaries.create(index.summary, summaryOf([]), { ttl: "1 day" })
  const known = new Map((yield* list(index)).map((record) => [record.value.path, record]))
  const kept = yield* Effect.forEach(
    files,
    Effect.fnUntraced(function* (file) {
      const record = known.get(file)
      known.delete(file)
      counts.planned++
      if (record === undefined) {
        // A path can be too long for an id.
        yield* ignoreOthers(records.create({ owner, id: hash(file) }, { _tag: "Waiting", path: file }))
      } else if (yield* isCurrent(index, record)) {
        return true
      } else if (record.value._tag === "Done") {
        yield* ignoreOthers(records.setIfVersion(record, { _tag: "Waiting", path: file }))
      }
      return false
    }),
    { concurrency: 64 }
  )
  yield* Effect.forEach(known.values(), (record) => ignoreOthers(records.removeIfVersion(record)), {
    concurrency: 64,
    discard: true
  })
  const before = kept.filter((kept) => kept).length
  // A run that works on the index already may have passed the new records, so the walk starts again for both.
  yield* walks.upsert(walk, (walk) => {
    const { indexed, next, taken } = Option.getOrElse(walk, (): Walk => ({ next: 0, taken: [], indexed: 0 }))
    return { next: before === files.length ? next : 0, taken, indexed }
  })
  return before
})

/** Whether a file has not changed since it was indexed. */
const isCurrent = (index: Index, record: FileRecord) => {
  const { value } = record
  return value._tag === "Done"
    ? Effect.map(modifiedOf(index.pathOf(record)), (now) => DateTime.Equivalence(now, value.contents.modified))
    : Effect.succeed(false)
}

/** Ignores that another run, at the same time, was first. */
const ignoreOthers = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.catchIf(
    effect,
    (error) => ["AlreadyExists", "RecordNotFound", "VersionConflict"].includes(error._tag),
    () => Effect.void
  )

// --- the parts ----------------------------------------------------------------

/** Takes a part: one whose lease has ended, or the next. Writes nothing if there is none to take. */
const takePart = Effect.fnUntraced(function* (index: Index, worker: string) {
  const now = yield* DateTime.now
  const lease = { worker, leaseEnds: DateTime.addDuration(now, leaseDuration) }
  return yield* index.walks.modifySome(index.walk, (walk): readonly [Turn, Option.Option<Walk>] => {
    const abandoned = walk.taken.find(({ leaseEnds }) => DateTime.isLessThanOrEqualTo(leaseEnds, now))
    if (abandoned !== undefined) {
      const part = { ...abandoned, ...lease }
      const taken = walk.taken.map((other) => (other === abandoned ? part : other))
      return [{ part, isTakeover: true }, Option.some({ ...walk, taken })]
    }
    const next = parts[walk.next]
    if (next === undefined) return [walk.taken.length === 0 ? "finished" : "wait", Option.none()]
    const part = { part: next, cursor: null, ...lease }
    return [{ part, isTakeover: false }, Option.some({ ...walk, next: walk.next + 1, taken: [...walk.taken, part] })]
  })
})

/** What a worker has to do: to work on a part, to wait until a lease ends, or nothing more. */
type Turn = { readonly part: TakenPart; readonly isTakeover: boolean } | "wait" | "finished"

/**
 * Gives the part of a worker a new lease and a new cursor, or ends the work on it if the cursor is undefined, and adds
 * what the worker has indexed. Returns false if another worker has taken the part over.
 */
const movePart = Effect.fnUntraced(function* (
  index: Index,
  { part, worker }: TakenPart,
  cursor: string | null | undefined,
  indexed: number
) {
  const leaseEnds = DateTime.addDuration(yield* DateTime.now, leaseDuration)
  return yield* index.walks.modify(index.walk, (walk) => {
    const isOwn = (other: TakenPart) => other.part === part && other.worker === worker
    const taken = walk.taken.flatMap((other) => {
      if (!isOwn(other)) return [other]
      return cursor === undefined ? [] : [{ ...other, cursor, leaseEnds }]
    })
    return [walk.taken.some(isOwn), { ...walk, taken, indexed: walk.indexed + indexed }]
  })
})

// --- the workers --------------------------------------------------------------

/** Indexes a file. Returns false if another worker was first. */
const complete = Effect.fnUntraced(function* (index: Index, record: FileRecord) {
  const contents = yield* read(index.pathOf(record))
  const isDone = yield* index.records
    .setIfVersion(record, { _tag: "Done", path: record.value.path, run: index.run, contents })
    .pipe(
      Effect.as(true),
      Effect.catchTag(["RecordNotFound", "VersionConflict"], () => Effect.succeed(false))
    )
  if (!isDone) return false
  index.counts.updates++
  yield* index.summaries.update(index.summary, ({ bytes, files, lines }) => ({
    files: files + 1,
    lines: lines + contents.lines,
    bytes: bytes + contents.bytes
  }))
  index.counts.updates++
  return true
})

/** Sleeps until another worker has indexed a file, or for a minute if no other worker is left. */
const oversleep = ({ records }: Index, { key, version }: FileRecord) =>
  records
    .get(key)
    .pipe(
      Effect.repeat({ schedule: Schedule.spaced("100 millis"), until: (now) => now.version !== version }),
      Effect.timeout("1 minute"),
      Effect.ignore
    )

interface Worker {
  readonly id: string
  /** What happens to it at its third file: it dies, or it sleeps until another worker has indexed that file. */
  readonly failure: "dies" | "oversleeps" | undefined
  files: number
}

/** Of the first sixteen workers four die, and four oversleep. */
const newWorker = ({ run }: Index, number: number): Worker => ({
  id: `${run}/${number}`,
  failure: number < 16 ? (["dies", "oversleeps"] as const)[(number % 4) - 1] : undefined,
  files: 0
})

/** Indexes the files of a part page by page, until another worker has taken the part over. */
const indexPart = Effect.fnUntraced(function* (index: Index, worker: Worker, taken: TakenPart) {
  const { owner, records } = index
  let renewed = yield* Clock.currentTimeMillis
  let cursor: string | null | undefined = taken.cursor
  while (cursor !== undefined) {
    const page: VersionedStore.Page<FileRecord["value"]> = yield* records.list({
      owner,
      idPrefix: taken.part,
      limit: pageSize,
      cursor: cursor ?? undefined
    })
    let indexed = 0
    for (const record of page.records.filter(({ value }) => value._tag === "Waiting")) {
      const isFirst = yield* indexFile(index, worker, record)
      if (isFirst) indexed++
      const now = yield* Clock.currentTimeMillis
      if (!isFirst || now - renewed > Duration.toMillis(leaseDuration) / 2) {
        if (!(yield* movePart(index, taken, cursor, indexed))) return
        indexed = 0
        renewed = now
      }
    }
    if (!(yield* movePart(index, taken, page.cursor, indexed))) return
    cursor = page.cursor
  }
})

class Died extends Data.TaggedError("Died") {}

/** Indexes a file, if nothing happens to the worker. Returns false if another worker was first. */
const indexFile = Effect.fnUntraced(function* (index: Index, worker: Worker, record: FileRecord) {
  const { counts } = index
  const failure = ++worker.files === 3 ? worker.failure : undefined
  if (failure === "dies") {
    counts.died++
    return yield* new Died()
  }
  if (failure === "oversleeps") {
    counts.overslept++
    yield* oversleep(index, record)
  }
  const isFirst = yield* complete(index, record)
  if (!isFirst) counts.refused++
  return isFirst
})

/** Takes parts and indexes their files until all parts are finished. */
export const work = Effect.fnUntraced(
  function* (index: Index, number: number) {
    const worker = newWorker(index, number)
    for (;;) {
      const turn = yield* takePart(index, worker.id)
      if (turn === "finished") return
      if (turn === "wait") {
        yield* Effect.sleep("50 millis")
        continue
      }
      if (turn.isTakeover) index.counts.takeovers++
      yield* indexPart(index, worker, turn.part)
    }
  },
  Effect.catchTag("Died", () => Effect.void)
)
