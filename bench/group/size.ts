/** What each entry costs an application that imports it: the time of the import, and the bytes of a bundle. */
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { Effect } from "effect"
import { build } from "esbuild"
import packageJson from "../../package.json" with { type: "json" }
import { exactly, type Figure, type Settings, type Step, spreadOf } from "../measure.ts"
import { runJson } from "../processes.ts"

const group = "size"
const root = join(import.meta.dirname, "..", "..")

/** The entries, by the name by which an application imports them. */
const entries = Object.entries(packageJson.exports)
  .filter(([, file]) => file.endsWith(".js"))
  .map(([entry, file]) => ({ name: entry === "." ? "the root entry" : entry.slice(2), file }))

/** `effect` and the optional peers are left out. */
const external = [...Object.keys(packageJson.peerDependencies).flatMap((peer) => [peer, `${peer}/*`]), "node:*"]

const bundledBytes = (contents: string) =>
  Effect.promise(async () => {
    const { outputFiles } = await build({
      stdin: { contents, resolveDir: root },
      bundle: true,
      minify: true,
      write: false,
      format: "esm",
      platform: "neutral",
      mainFields: ["module", "main"],
      external
    })
    const bundle = outputFiles[0]?.contents ?? new Uint8Array()
    return { minified: bundle.length / 1024, compressed: gzipSync(bundle, { level: 9 }).length / 1024 }
  })

const measureSizes = Effect.gen(function* () {
  const programs = [
    ...entries.map(({ file, name }) => ({ name, contents: `export * from "${file}"` })),
    { name: "InMemory and VersionedStore", contents: 'export { InMemory, VersionedStore } from "./dist/index.js"' }
  ]
  const figures: Array<Figure> = []
  for (const { contents, name } of programs) {
    const { compressed, minified } = yield* bundledBytes(contents)
    const figure = {
      group,
      operation: "bundle",
      setting: "without effect and peers",
      contender: name,
      unit: "KiB"
    } as const
    figures.push(
      { ...figure, measure: "minified", value: exactly(minified) },
      { ...figure, measure: "compressed", value: exactly(compressed) }
    )
  }
  return figures
})

/** Each import is timed in a process of its own. The processes take turns. */
const measureImports = Effect.fnUntraced(function* ({ quick }: Settings) {
  const modules = [
    { name: "effect alone", specifier: "effect" },
    ...entries
      // Tests import the others, beside a test runner.
      .filter(({ file }) => !file.includes("/testing/"))
      .map(({ file, name }) => ({ name, specifier: join(root, file) }))
  ]
  const times = modules.map(() => [] as number[])
  for (let round = 0; round < (quick ? 1 : 15); round++) {
    for (const [i, { specifier }] of modules.entries()) {
      const { millis } = yield* runJson<{ millis: number }>("worker/import.ts", [specifier])
      times[i]?.push(millis)
    }
  }
  return modules.map(
    ({ name }, i): Figure => ({
      group,
      operation: "import",
      setting: "with effect and peers",
      contender: name,
      measure: "time",
      unit: "ms",
      value: spreadOf(times[i] ?? [])
    })
  )
})

export const stepsOf = (settings: Settings): ReadonlyArray<Step> => [
  { label: "bundles", run: measureSizes },
  { label: "imports", run: measureImports(settings) }
]
