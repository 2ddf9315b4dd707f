/** Servers that an example or a test runs on this machine. */
import { spawn } from "node:child_process"
import { createServer } from "node:net"
import { Data, Effect, Schedule } from "effect"

export class ServerError extends Data.TaggedError("ServerError")<{ readonly message: string }> {}

/** A port on loopback that nothing listens on. */
export const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

// A server runs below a shell that ends it as soon as this process is gone, however it went.
const script = 'exec 3<&0; "$@" & child=$!; (cat <&3 >/dev/null; kill $child 2>/dev/null) & wait $child'

/** Starts a server, returns once it answers, and ends it with the scope. */
export const startServer = Effect.fnUntraced(function* (options: {
  readonly name: string
  readonly command: ReadonlyArray<string>
  readonly cwd: string
  readonly answers: Effect.Effect<unknown, unknown>
}) {
  const output: Array<string> = []
  const child = yield* Effect.acquireRelease(
    Effect.sync(() => {
      const child = spawn("sh", ["-c", script, "sh", ...options.command], { cwd: options.cwd })
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
  yield* options.answers.pipe(
    Effect.retry({
      schedule: Schedule.upTo(Schedule.spaced("50 millis"), { duration: "1 minute" }),
      while: () => child.exitCode === null
    }),
    Effect.mapError(
      () =>
        new ServerError({
          message: `${options.name} ${child.exitCode === null ? "does not answer" : "ended"}:\n${output.join("")}`
        })
    )
  )
})
