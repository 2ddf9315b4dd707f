/**
 * Amazon's DynamoDB Local, in memory, on a free port of this machine, for as long as the scope is open.
 */
import { spawn, spawnSync } from "node:child_process"
import { createRequire } from "node:module"
import { createServer } from "node:net"
import { dirname, join } from "node:path"
import { Data, Effect, Schedule } from "effect"

export class DynamoDbLocalError extends Data.TaggedError("DynamoDbLocalError")<{ readonly message: string }> {}

/** What to do where DynamoDB Local can't run here; undefined where it can. */
export const missing = (): string | undefined =>
  spawnSync("java", ["-version"]).status === 0
    ? undefined
    : "DynamoDB Local needs java, 17 or newer, and there is none on the PATH: install one, such as Debian's " +
      "default-jre-headless, or name a DynamoDB that runs"

const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

// Java runs below a shell that ends it as soon as this process is gone, however it went.
const script = 'exec 3<&0; java "$@" & child=$!; (cat <&3 >/dev/null; kill $child 2>/dev/null) & wait $child'

/** Starts it, and gives its endpoint once it answers. */
export const start = Effect.gen(function* () {
  const reason = missing()
  if (reason !== undefined) return yield* new DynamoDbLocalError({ message: reason })
  const emulator = join(
    dirname(createRequire(import.meta.url).resolve("amplify-dynamodb-simulator/package.json")),
    "emulator"
  )
  const port = yield* freePort
  const args = ["-jar", "DynamoDBLocal.jar", "-inMemory", "-sharedDb", "-disableTelemetry", "-port", String(port)]
  const output: Array<string> = []
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn("sh", ["-c", script, "sh", "-Djava.library.path=./DynamoDBLocal_lib", ...args], {
        cwd: emulator
      })
      for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => output.push(String(chunk)))
      return child
    }),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.stdin.end()
      })
  )
  const endpoint = `http://127.0.0.1:${port}`
  yield* Effect.tryPromise({
    try: () => fetch(endpoint),
    catch: () =>
      new DynamoDbLocalError({
        message: `DynamoDB Local ${child.exitCode === null ? "does not answer" : "ended"}:\n${output.join("")}`
      })
  }).pipe(
    Effect.retry({
      schedule: Schedule.upTo(Schedule.spaced("100 millis"), { duration: "1 minute" }),
      while: () => child.exitCode === null
    })
  )
  return endpoint
})
