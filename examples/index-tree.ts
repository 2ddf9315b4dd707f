/**
 * Many workers index a directory tree, and coordinate only through the store.
 *
 * Each file is a record. A worker claims a record by compare-and-set, with a lease. It reads the file, and then
 * completes the record by compare-and-set on exactly its own claim. Some workers die while they hold a claim, and some
 * sleep until their lease has ended. Other workers take over those claims. If a worker wakes up after that, it can't
 * complete the record any more. If a whole run is stopped, the next run continues from the records in the store.
 */
import { createHash } from "node:crypto"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { SingleBar } from "cli-progress"
import {
  Clock,
  Console,
  DateTime,
  Duration,
  Effect,
  FileSystem,
  Option,
  Path,
  type PlatformError,
  Random,
  Schedule,
  Schema,
  Stream
} from "effect"
import { CliError, Command, Flag } from "effect/cli"
import { VersionedStore } from "effect-versioned-store"
import { asUserError, backendFlags, layerBackend } from "./backends.ts"

const lease = Duration.millis(500)

/**
 * All workers change the summary at the same time, so its conflicts are retried for a minute, not a number of times.
 */
const summaryRetrySchedule = Schedule.min([Schedule.exponential("10 millis"), Schedule.spaced("1 second")]).pipe(
  Schedule.jittered,
  Schedule.upTo({ duration: "1 minute" })
)

// --- records ------------------------------------------------------------------

const Contents = Schema.Struct({
  lines: Schema.Int,
  bytes: Schema.Int,
  sha256: Schema.String,
  modified: Schema.DateTimeUtc
})
type Contents = typeof Contents.Type

const FileRecord = Schema.Union([
  Schema.TaggedStruct("Waiting", { path: Schema.String }),
  Schema.TaggedStruct("Claimed", { path: Schema.String, worker: Schema.Int, leaseEnds: Schema.DateTimeUtc }),
  Schema.TaggedStruct("Done", { path: Schema.String, run: Schema.String, contents: Contents })
])
type FileRecord = VersionedStore.Record<typeof FileRecord.Type>

const Summary = Schema.Struct({ files: Schema.Int, lines: Schema.Int, bytes: Schema.Int })
type Summary = typeof Summary.Type

const summaryOf = (files: ReadonlyArray<Contents>): Summary => ({
  files: files.length,
  lines: files.reduce((sum, { lines }) => sum + lines, 0),
  bytes: files.reduce((sum, { bytes }) => sum + bytes, 0)
})

// --- files --------------------------------------------------------------------

/**
 * The regular files in a folder and its subfolders, as paths relative to the folder. Files of SQLite are left out,
 * since the index itself may be one.
 */
const walk = (
  dir: string,
  subfolder = ""
): Effect.Effect<Array<string>, PlatformError.PlatformError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const found = yield* Effect.forEach(yield* fs.readDirectoryEntries(path.join(dir, subfolder)), (entry) => {
      const name = path.join(subfolder, entry.name)
      if (entry.type === "Directory") return walk(dir, name)
      return Effect.succeed(entry.type === "File" && !/\.db(-wal|-shm)?$/.test(name) ? [name] : [])
    })
    return found.flat()
  })

const modifiedOf = Effect.fnUntraced(function* (file: string) {
  const { mtime } = yield* (yield* FileSystem.FileSystem).stat(file)
  return DateTime.fromDateUnsafe(Option.getOrElse(mtime, () => new Date(0)))
})

const read = Effect.fnUntraced(function* (file: string) {
  const fs = yield* FileSystem.FileSystem
  const modified = yield* modifiedOf(file)
  const bytes = yield* fs.readFile(file)
  const lines = bytes.reduce((lines, byte) => (byte === 0x0a ? lines + 1 : lines), 0)
  return { lines, bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex"), modified }
})

/** The hash of a path. Paths can be too long for an id. */
const hash = (path: string) => createHash("sha256").update(path).digest("hex")

// --- the index ----------------------------------------------------------------

const makeIndex = Effect.fnUntraced(function* (dir: string) {
  const path = yield* Path.Path
  const owner = `tree/${hash(dir)}`
  const records = yield* VersionedStore.make({ idPrefix: "file/", schema: FileRecord })
  const summaries = yield* VersionedStore.make({ idPrefix: "summary/", schema: Summary })
  const run = crypto.randomUUID()
  const total = { owner, id: run }
  const counts = { conflicts: 0, retries: 0, takeovers: 0, late: 0 }

  const list = Stream.runCollect(records.stream({ owner }))

  /** Whether a file has not changed since it was indexed. */
  const isCurrent = ({ value }: FileRecord) =>
    value._tag === "Done"
      ? Effect.map(modifiedOf(path.join(dir, value.path)), (now) => DateTime.Equivalence(now, value.contents.modified))
      : Effect.succeed(false)

  /**
   * Makes a record for each file, and removes the records of other files. Records that an earlier run has completed are
   * kept if the file has not changed. Returns how many records were kept.
   */
  const plan = Effect.fnUntraced(function* (files: ReadonlyArray<string>) {
    const expiresAt = DateTime.add(yield* DateTime.now, { days: 1 })
    yield* summaries.create(total, summaryOf([]), { expiresAt })
    const known = new Map((yield* list).map((record) => [record.value.path, record]))
    const kept = yield* Effect.forEach(
      files,
      Effect.fnUntraced(function* (file) {
        const record = known.get(file)
        known.delete(file)
        if (record === undefined) {
          yield* ignoreOthers(records.create({ owner, id: hash(file) }, { _tag: "Waiting", path: file }))
        } else if (yield* isCurrent(record)) {
          return true
        } else if (record.value._tag === "Done") {
          yield* ignoreOthers(records.setIfVersion(record, { _tag: "Waiting", path: file }))
        }
        return false
      }),
      { concurrency: 16 }
    )
    yield* Effect.forEach(known.values(), (record) => ignoreOthers(records.removeIfVersion(record)), { discard: true })
    return kept.filter((kept) => kept).length
  })

  /** Counts a conflict, in which another worker was first. */
  const countConflict = () =>
    Effect.sync(() => {
      counts.conflicts++
      return undefined
    })

  const claim = Effect.fnUntraced(function* (worker: number, record: FileRecord) {
    const now = yield* DateTime.now
    const { value } = record
    if (value._tag === "Done" || (value._tag === "Claimed" && DateTime.isGreaterThan(value.leaseEnds, now))) return
    const leaseEnds = DateTime.addDuration(now, lease)
    const claimed = yield* records
      .setIfVersion(record, { _tag: "Claimed", path: value.path, worker, leaseEnds })
      .pipe(Effect.catchTag("VersionConflict", countConflict))
    if (claimed !== undefined && value._tag === "Claimed") counts.takeovers++
    return claimed
  })

  const complete = Effect.fnUntraced(function* (claimed: FileRecord) {
    const contents = yield* read(path.join(dir, claimed.value.path))
    const done = yield* records
      .setIfVersion(claimed, { _tag: "Done", path: claimed.value.path, run, contents })
      .pipe(Effect.catchTag("VersionConflict", countConflict))
    if (done === undefined) {
      counts.late++
      return
    }
    yield* summaries.update(
      total,
      ({ bytes, files, lines }) => ({
        files: files + 1,
        lines: lines + contents.lines,
        bytes: bytes + contents.bytes
      }),
      { retrySchedule: Schedule.tap(summaryRetrySchedule, () => Effect.sync(() => counts.retries++)) }
    )
  })

  /** Sleeps until another worker has changed a record, or for a minute if no other worker is left. */
  const overslept = (claimed: FileRecord) =>
    records
      .get(claimed.key)
      .pipe(
        Effect.repeat({ schedule: Schedule.spaced(lease), until: ({ version }) => version !== claimed.version }),
        Effect.timeout("1 minute"),
        Effect.ignore
      )

  /**
   * Works until every record is done, and starts at a random record. One worker in four dies with its third claim, and
   * one in four sleeps with it until its lease has ended and another worker has taken the record over.
   */
  const work = Effect.fnUntraced(function* (worker: number) {
    const [dies, sleeps] = [worker % 4 === 1, worker % 4 === 2]
    let claims = 0
    for (;;) {
      const open = (yield* list).filter(({ value }) => value._tag !== "Done")
      if (open.length === 0) return
      const start = yield* Random.nextIntBetween(0, open.length - 1)
      for (const record of [...open.slice(start), ...open.slice(0, start)].slice(0, 20)) {
        const claimed = yield* claim(worker, record)
        if (claimed === undefined) continue
        claims++
        if (dies && claims === 3) return
        if (sleeps && claims === 3) yield* overslept(claimed)
        yield* complete(claimed)
      }
      yield* Effect.sleep("20 millis")
    }
  })

  const done = Effect.map(list, (records) => records.filter(({ value }) => value._tag === "Done").length)

  const summary = Effect.map(summaries.get(total), ({ value }) => value)

  return { run, plan, list, work, done, summary, counts }
})

/** Ignores that another run, at the same time, was first. */
const ignoreOthers = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.catchIf(
    effect,
    (error) => ["AlreadyExists", "RecordNotFound", "VersionConflict"].includes(error._tag),
    () => Effect.void
  )

/**
 * The differences between the index and a plain sequential walk of the same files, and between the summary of this run
 * and its records.
 */
const differences = Effect.fnUntraced(function* (
  dir: string,
  files: ReadonlyArray<string>,
  records: ReadonlyArray<FileRecord>,
  run: string,
  summary: Summary
) {
  const path = yield* Path.Path
  const contents = yield* Effect.forEach(files, (file) => read(path.join(dir, file)))
  const indexed = new Map(records.map(({ value }) => [value.path, value]))
  const differing = files.filter((file, i) => {
    const record = indexed.get(file)
    return record?._tag !== "Done" || record.contents.sha256 !== contents[i]?.sha256
  })
  const ofRun = summaryOf(
    records.flatMap(({ value }) => (value._tag === "Done" && value.run === run ? [value.contents] : []))
  )
  return {
    total: summaryOf(contents),
    found: [
      ...differing.map((file) => `${file} is not in the index as it is on disk`),
      ...(records.length === files.length ? [] : [`${records.length} records for ${files.length} files`]),
      ...(JSON.stringify(summary) === JSON.stringify(ofRun)
        ? []
        : [`the summary says ${JSON.stringify(summary)}, and the records ${JSON.stringify(ofRun)}`])
    ]
  }
})

const withProgress = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  total: number,
  done: Effect.Effect<number, E2>
): Effect.Effect<A, E | E2, R> =>
  Effect.scoped(
    Effect.gen(function* () {
      const bar = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const bar = new SingleBar({ format: "indexing [{bar}] {value}/{total} files" })
          bar.start(total, 0)
          return bar
        }),
        (bar) => Effect.sync(() => bar.stop())
      )
      const show = Effect.map(done, (value) => bar.update(value))
      yield* Effect.forkScoped(Effect.repeat(show, Schedule.spaced("200 millis")))
      return yield* Effect.tap(effect, show)
    })
  )

// --- the command --------------------------------------------------------------

const command = Command.make(
  "index-tree",
  {
    dir: Flag.Directory("dir").pipe(
      Flag.withDescription("The folder to index; by default node_modules/effect/src"),
      Flag.withDefault("node_modules/effect/src")
    ),
    workers: Flag.Int("workers").pipe(
      Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1000 }))),
      Flag.withDescription("How many workers share the work, from 1 to 1000; by default 16"),
      Flag.withDefault(16)
    ),
    ...backendFlags
  },
  ({ dir, workers, ...choice }) =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      if (!(yield* fs.exists(dir))) return yield* new CliError.UserError({ cause: `There is no folder ${dir}` })
      const files = yield* walk(dir)
      if (files.length === 0) return yield* Console.log(`There are no files in ${dir}, so there is nothing to index.`)

      const index = yield* makeIndex((yield* Path.Path).resolve(dir))
      const before = yield* index.plan(files)
      if (before > 0) yield* Console.log(`${before} of ${files.length} files are in the index already.`)
      const start = yield* Clock.currentTimeMillis
      yield* withProgress(
        Effect.forEach(Array.from({ length: workers }), (_, worker) => index.work(worker), {
          concurrency: "unbounded",
          discard: true
        }),
        files.length,
        index.done
      )
      const seconds = ((yield* Clock.currentTimeMillis) - start) / 1000

      const summary = yield* index.summary
      const { conflicts, late, retries, takeovers } = index.counts
      yield* Console.table({
        files: files.length,
        "indexed by this run": summary.files,
        workers,
        conflicts,
        retries,
        takeovers,
        "late completions refused": late,
        "records per second": Math.round(summary.files / seconds)
      })

      const { found, total } = yield* differences(dir, files, yield* index.list, index.run, summary)
      if (found.length > 0) {
        return yield* new CliError.UserError({ cause: `The index is wrong:\n${found.join("\n")}` })
      }
      yield* Console.log(
        `A plain sequential walk finds the same ${total.files} files, each indexed once: ` +
          `${total.lines} lines, ${total.bytes} bytes.`
      )
    }).pipe(Effect.provide(layerBackend(choice)), asUserError)
).pipe(
  Command.withDescription("Indexes the files of a folder with many workers that coordinate only through the store")
)

Command.run(command, { version: "0.1.0" }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
