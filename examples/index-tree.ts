/**
 * Many workers index the files of a folder, and coordinate only through the store: see `treeIndex.ts`.
 *
 * All of them change one summary at the same time. Some workers die in the middle of their work, and some sleep until
 * other workers have done it. In the end the index is compared with a plain sequential walk of the same files. If a
 * whole run is stopped, the next run continues from the records in the store.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { SingleBar } from "cli-progress"
import { Clock, Console, Effect, FileSystem, Path, Schedule, Schema } from "effect"
import { CliError, Command, Flag } from "effect/cli"
import { asUserError, backendFlags, isLasting, layerBackend, placeOf } from "./backends.ts"
import { read, walk } from "./files.ts"
import * as TreeIndex from "./treeIndex.ts"

/**
 * Compares the index with a plain sequential walk of the same files, and the summary of this run with its records.
 * Returns the differences, and how many updates are lost.
 */
const check = Effect.fnUntraced(function* (
  dir: string,
  files: ReadonlyArray<string>,
  index: TreeIndex.Index,
  progress: { checked: number }
) {
  const path = yield* Path.Path
  const contents = yield* Effect.forEach(files, (file) =>
    Effect.tap(read(path.join(dir, file)), () => Effect.sync(() => progress.checked++))
  )
  const values = (yield* TreeIndex.list(index)).map(({ value }) => value)
  const indexed = new Map(values.map((value) => [value.path, value]))
  const differing = files.filter((file, i) => {
    const record = indexed.get(file)
    return record?._tag !== "Done" || record.contents.sha256 !== contents[i]?.sha256
  })
  const summary = yield* TreeIndex.summary(index)
  const ofRun = TreeIndex.summaryOf(
    values.flatMap((value) => (value._tag === "Done" && value.run === index.run ? [value.contents] : []))
  )
  const lost = index.counts.updates - ofRun.files - summary.files
  return {
    summary,
    total: TreeIndex.summaryOf(contents),
    lost,
    found: [
      ...(lost === 0 ? [] : [`${lost} updates are lost`]),
      ...differing.map((file) => `${file} is not in the index as it is on disk`),
      ...(values.length === files.length ? [] : [`${values.length} records for ${files.length} files`]),
      ...(JSON.stringify(summary) === JSON.stringify(ofRun)
        ? []
        : [`the summary says ${JSON.stringify(summary)}, and the records ${JSON.stringify(ofRun)}`])
    ]
  }
})

/** Shows a bar while an effect runs, in a terminal. */
const withBar = <A, E, R, E2>(
  { done, label, total }: { readonly label: string; readonly total: number; readonly done: Effect.Effect<number, E2> },
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E | E2, R> =>
  Effect.scoped(
    Effect.gen(function* () {
      const bar = yield* Effect.acquireRelease(
        Effect.sync(() => {
          const bar = new SingleBar({ format: `${label} [{bar}] {value}/{total} files`, hideCursor: true })
          bar.start(total, 0)
          return bar
        }),
        (bar) => Effect.sync(() => bar.stop())
      )
      const show = Effect.map(done, (value) => bar.update(Math.min(value, total)))
      yield* Effect.forkScoped(Effect.repeat(show, Schedule.spaced("200 millis")))
      return yield* Effect.tap(effect, show)
    })
  )

const number = new Intl.NumberFormat("en")

/** What happened, with what matters first. */
const report = (counts: TreeIndex.Index["counts"], lost: number, filesASecond: number) => {
  const { conflicts, died, overslept, refused, summaryWrites, takeovers, updates } = counts
  const rows: ReadonlyArray<readonly [string, number, string]> = [
    ["updates made", updates, "one of each file's record, and one of the summary that all workers change"],
    ["lost", lost, "updates that were made, and that the store does not have"],
    ["conflicts", conflicts, "updates that met a newer record, and were refused or made again on that record"],
    ["writes", summaryWrites, "of the summary: updates that come together share one"],
    ["takeovers", takeovers, `of others' work: ${died} died, and ${overslept} slept until the lease had ended`],
    ["refused", refused, "files that another worker had indexed first, for example while this one slept"],
    ["files a second", filesASecond, ""]
  ]
  return rows
    .map(([name, value, meaning]) => `  ${name.padEnd(16)}${number.format(value).padStart(7)}   ${meaning}`.trimEnd())
    .join("\n")
}

// --- the command --------------------------------------------------------------

/** Indexes a folder, compares the index with the files, and prints what happened. */
const indexTree = Effect.fnUntraced(function* (dir: string, workers: number, place: string) {
  const fs = yield* FileSystem.FileSystem
  if (!(yield* fs.exists(dir))) return yield* new CliError.UserError({ cause: `There is no folder ${dir}` })
  const files = yield* walk(dir)
  if (files.length === 0) return yield* Console.log(`There are no files in ${dir}, so there is nothing to index.`)
  const total = files.length
  yield* Console.log(`${workers} workers index the ${number.format(total)} files in ${dir}. The index is in ${place}.`)

  const index = yield* TreeIndex.open((yield* Path.Path).resolve(dir))
  const planned = Effect.sync(() => index.counts.planned)
  const before = yield* withBar({ label: "planning", total, done: planned }, TreeIndex.plan(index, files))
  if (before > 0) yield* Console.log(`${before} of ${total} files are in the index already.`)

  const start = yield* Clock.currentTimeMillis
  const indexedBefore = yield* TreeIndex.indexed(index)
  const done = Effect.map(TreeIndex.indexed(index), (indexed) => before + indexed - indexedBefore)
  const work = Array.from({ length: workers }, (_, number) => TreeIndex.work(index, number))
  yield* withBar({ label: "indexing", total, done }, Effect.all(work, { concurrency: "unbounded", discard: true }))
  const millis = (yield* Clock.currentTimeMillis) - start

  const progress = { checked: 0 }
  const checked = Effect.sync(() => progress.checked)
  const outcome = yield* withBar({ label: "checking", total, done: checked }, check(dir, files, index, progress))
  const { lost, summary } = outcome
  const speed = Math.round((summary.files * 1000) / millis)
  yield* Console.log(
    `${number.format(summary.files)} files are indexed by this run, in ${(millis / 1000).toFixed(1)} seconds.\n\n` +
      `${report(index.counts, lost, speed)}\n`
  )
  if (outcome.found.length > 0) {
    return yield* new CliError.UserError({ cause: `The index is wrong:\n${outcome.found.join("\n")}` })
  }
  yield* Console.log(
    `A plain sequential walk finds the same ${total} files, each indexed once: ` +
      `${outcome.total.lines} lines, ${outcome.total.bytes} bytes.`
  )
})

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
    indexTree(dir, workers, placeOf(choice)).pipe(
      Effect.provide(layerBackend(choice)),
      Effect.onInterrupt(() =>
        Console.log(
          isLasting(choice)
            ? `\nStopped. What is done is kept in ${placeOf(choice)}. Run the same command again, and it goes on.`
            : `\nStopped. The index was in ${placeOf(choice)}, so it is gone, and a second run starts again.`
        )
      ),
      asUserError("own")
    )
).pipe(
  Command.withDescription("Indexes the files of a folder with many workers that coordinate only through the store")
)

Command.run(command, { version: "0.1.0" }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
