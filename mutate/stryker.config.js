import { fileURLToPath } from "node:url"

const group = process.env.MUTATE_GROUP
const pathTo = (name) => fileURLToPath(new URL(name, import.meta.url))

export default {
  plugins: [fileURLToPath(import.meta.resolve("@stryker-mutator/vitest-runner")), pathTo("./sentences.ts")],
  testRunner: "vitest",
  // Each mutant runs only with the tests that reach it. The first run finds them out.
  coverageAnalysis: "perTest",
  // Tests run in processes, as in `npm test`, since a test that changes the user can't do that in a thread.
  vitest: { configFile: "mutate/vitest.config.ts", related: false, pool: "forks" },
  ignorePatterns: ["bench", "dist", "examples/*.db*", "mutate/report"],
  // Code that runs once while a module loads (a Schema, a Layer) would need a new process and all tests for each
  // mutant.
  ignoreStatic: true,
  ignorers: ["sentences"],
  concurrency: 2,
  // A mutant that hangs costs this time. It must be long enough for a mutant that is only slow on a busy machine.
  timeoutMS: 10_000,
  timeoutFactor: 2,
  dryRunTimeoutMinutes: 15,
  // Stryker would rewrite paths in a tsconfig with an API that TypeScript 7 does not have. vitest needs no tsconfig
  // here.
  tsconfigFile: "none",
  disableTypeChecks: false,
  reporters: ["progress", "clear-text", "html", "json"],
  htmlReporter: { fileName: `mutate/report/${group}.html` },
  jsonReporter: { fileName: `mutate/report/${group}.json` },
  // With `--incremental`, a mutant is not tried again if its code and its tests have not changed since the last such
  // run.
  incrementalFile: `mutate/report/${group}-incremental.json`,
  clearTextReporter: { allowColor: false, logTests: false, reportTests: false, skipFull: false },
  tempDirName: ".stryker-tmp",
  warnings: { slow: false }
}
