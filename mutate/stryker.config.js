import { fileURLToPath } from "node:url"

const group = process.env.MUTATE_GROUP
const pathTo = (name) => fileURLToPath(new URL(name, import.meta.url))

export default {
  plugins: [fileURLToPath(import.meta.resolve("@stryker-mutator/vitest-runner")), pathTo("./sentences.ts")],
  testRunner: "vitest",
  // Every mutant runs with the tests that reach it, which the first run finds out, and no others.
  coverageAnalysis: "perTest",
  // Processes, as in `npm test`: a test that takes on another user can not do that in a thread.
  vitest: { configFile: "mutate/vitest.config.ts", related: false, pool: "forks" },
  ignorePatterns: ["bench", "dist", "examples/*.db*", "mutate/report"],
  // What runs once, while a module loads (a Schema, a Layer), takes a new process and every test for each mutant.
  ignoreStatic: true,
  ignorers: ["sentences"],
  concurrency: 2,
  // A mutant that hangs costs this much, and one on a busy machine must not be taken for one that hangs.
  timeoutMS: 10_000,
  timeoutFactor: 2,
  dryRunTimeoutMinutes: 15,
  // Stryker rewrites paths in it with an API that TypeScript 7 doesn't have. vitest reads no tsconfig here.
  tsconfigFile: "none",
  disableTypeChecks: false,
  reporters: ["progress", "clear-text", "html", "json"],
  htmlReporter: { fileName: `mutate/report/${group}.html` },
  jsonReporter: { fileName: `mutate/report/${group}.json` },
  // With `--incremental`, what neither the code nor the tests changed since the last such run is not tried again.
  incrementalFile: `mutate/report/${group}-incremental.json`,
  clearTextReporter: { allowColor: false, logTests: false, reportTests: false, skipFull: false },
  tempDirName: ".stryker-tmp",
  warnings: { slow: false }
}
