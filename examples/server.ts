/** Servers that an example or a test runs on this machine. */
import { spawn } from "node:child_process"
import { createServer } from "node:net"
import { Data, Effect, Schedule } from "effect"

export class ServerError extends Data.TaggedError("ServerError")<{ readonly message: string }> {}

/** A port on loopback on which nothing listens. */
export const freePort = Effect.callback<number>((resume) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
  })
})

// The server is a child of a shell. The shell ends the server as soon as this process is gone, for whatever reason.
const script = 'exec 3<&0; "$@" & child=$!; (cat <&3 >/dev/null; kill $child 2>/dev/null) & wait $child'

/** Starts a server, and returns once it answers. When the scope closes, the server is ended. */
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
