/**
 * Mutation testing. Stryker changes the code in small ways, and reports each change that no test notices.
 *
 * `npm run mutate` goes through every group below, and writes a report for each group into `mutate/report/`.
 * `npm run mutate -- --mutate src/StorageKey.ts` changes only one file. `src/StorageKey.ts:10-20` changes only these
 * lines. Other arguments are passed on to Stryker.
 */
import { spawn } from "node:child_process"
import { join, matchesGlob } from "node:path"
import { Effect } from "effect"
import * as DynamoDbLocal from "../examples/DynamoDbLocal.ts"
import * as RedisServer from "../examples/RedisServer.ts"

/**
 * The groups of files to change, each with the tests that should notice a change in them. Some tests are in no group.
 * The tests of the package, the documentation and the examples run the built code, which Stryker does not change. The
 * tests named `processes` and `kills` run the code in other processes, in which no mutant is active.
 */
const groups = [
  {
    name: "core",
    mutate: [
      "src/*.ts",
      "src/internal/*.ts",
      "src/update/*.ts",
      "src/engine/InMemory.ts",
      "src/engine/internal/{attempts,cursor,telemetry}.ts",
      "src/engine/internal/inmemory/*.ts"
    ],
    tests: ["test/*.test.ts", "test/internal/*.test.ts", "test/engine/InMemory*.test.ts", "test/testing/*.test.ts"]
  },
  {
    name: "sqlite",
    mutate: ["src/engine/Sqlite.ts", "src/engine/internal/{failure,safeCause}.ts", "src/engine/internal/sqlite/*.ts"],
    tests: ["test/engine/Sqlite*.test.ts"]
  },
  { name: "task", mutate: ["src/task/**/*.ts"], tests: ["test/task/**/*.test.ts"] },
  { name: "persistence", mutate: ["src/persistence/**/*.ts"], tests: ["test/persistence/**/*.test.ts"] },
  {
    name: "dynamodb",
    mutate: ["src/engine/DynamoDb.ts", "src/engine/internal/dynamodb/*.ts"],
    tests: ["test/engine/DynamoDb*.test.ts"],
    engine: { start: DynamoDbLocal.start, variable: "DYNAMODB_ENDPOINT" }
  },
  {
    name: "redis",
    mutate: ["src/engine/Redis.ts", "src/engine/internal/redis/*.ts", "src/redis/*.ts"],
    tests: ["test/engine/Redis*.test.ts"],
    engine: { start: RedisServer.start, variable: "REDIS_URL" }
  }
]

const stryker = join(import.meta.dirname, "node_modules/@stryker-mutator/core/bin/stryker.js")

const args = process.argv.slice(2)
const flag = args.indexOf("--mutate")
const files = flag === -1 ? undefined : (args[flag + 1]?.split(",") ?? [])
const strykerArgs = flag === -1 ? args : args.toSpliced(flag, 2)

const runGroup = Effect.fnUntraced(function* ({ name, mutate, tests, engine }: (typeof groups)[number]) {
  const chosen = files?.filter((file) => mutate.some((pattern) => matchesGlob(file.replace(/:.*/, ""), pattern)))
  if (chosen?.length === 0) return
  const env: NodeJS.ProcessEnv = { ...process.env, MUTATE_GROUP: name, MUTATE_TESTS: tests.join(",") }
  if (engine !== undefined) env[engine.variable] ??= yield* engine.start
  const command = [stryker, "run", "mutate/stryker.config.js", "--mutate", (chosen ?? mutate).join(","), ...strykerArgs]
  const code = yield* Effect.callback<number | null>((resume) => {
    spawn("node", command, { env, stdio: "inherit" }).once("exit", (code) => resume(Effect.succeed(code)))
  })
  if (code !== 0) process.exitCode = 1
}, Effect.scoped)

const isInAGroup = (file: string) =>
  groups.some(({ mutate }) => mutate.some((pattern) => matchesGlob(file.replace(/:.*/, ""), pattern)))
const strays = files?.filter((file) => !isInAGroup(file)) ?? []
if (strays.length > 0) throw new Error(`No group in mutate/run.ts has ${strays.join(", ")}`)

await Effect.runPromise(Effect.forEach(groups, runGroup, { discard: true }))
