/**
 * Amazon's DynamoDB Local, in memory, on a free port of this machine, while the scope is open.
 */
import { spawnSync } from "node:child_process"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"
import { Effect } from "effect"
import { freePort, ServerError, startServer } from "./server.ts"

export const name = "DynamoDB Local"

/** If DynamoDB Local can't run on this machine, the sentence that says what to do. Otherwise undefined. */
export const missing = (): string | undefined =>
  spawnSync("java", ["-version"]).status === 0
    ? undefined
    : "DynamoDB Local needs java, 17 or newer, and there is none on the PATH: install one, for example Debian's " +
      "default-jre-headless, or give the endpoint of a running DynamoDB"

/** Starts DynamoDB Local, and returns its endpoint once it answers. */
export const start = Effect.gen(function* () {
  const reason = missing()
  if (reason !== undefined) return yield* new ServerError({ message: reason })
  const port = yield* freePort
  const endpoint = `http://127.0.0.1:${port}`
  const jar = ["-Djava.library.path=./DynamoDBLocal_lib", "-jar", "DynamoDBLocal.jar"]
  yield* startServer({
    name,
    command: ["java", ...jar, "-inMemory", "-sharedDb", "-disableTelemetry", "-port", String(port)],
    port,
    cwd: join(dirname(createRequire(import.meta.url).resolve("amplify-dynamodb-simulator/package.json")), "emulator"),
    answers: Effect.tryPromise(() => fetch(endpoint))
  })
  return endpoint
})
