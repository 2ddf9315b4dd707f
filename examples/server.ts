/** Servers that an example or a test runs on this machine. */
import { createServer } from "node:net"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { Data, Effect, Fiber, Schedule, Stream } from "effect"
import { ChildProcess } from "effect/process"

export class ServerError extends Data.TaggedError("ServerError")<{ readonly message: string }> {}

/** Listens on a port on loopback for a moment, and returns it. Port 0 stands for any that is free. */
const listen = (port: number) =>
  Effect.callback<number, Error>((resume) => {
    const server = createServer()
      .once("error", (error) => resume(Effect.fail(error)))
      .listen(port, "127.0.0.1", () => {
        const address = server.address()
        server.close(() => resume(Effect.succeed(typeof address === "object" && address !== null ? address.port : 0)))
      })
  })

/** A port on loopback on which nothing listens. */
export const freePort = Effect.orDie(listen(0))

/** A process that ends with the scope. It also ends if this process is killed: see `untilParentEnds.ts`. */
export const boundProcess = (command: ReadonlyArray<string>, options?: ChildProcess.CommandOptions) =>
  ChildProcess.make(process.execPath, [join(import.meta.dirname, "untilParentEnds.ts"), ...command], options)

/** Starts a server, and returns once it answers. When the scope closes, the server is ended. */
export const startServer = Effect.fnUntraced(function* (options: {
  readonly name: string
  readonly command: ReadonlyArray<string>
  readonly port: number
  readonly cwd: string
  readonly answers: Effect.Effect<unknown, unknown>
  /** The signal that ends the server; SIGTERM by default. */
  readonly killSignal?: ChildProcess.Signal
}) {
  const { answers, command, cwd, killSignal, name, port } = options
  // Otherwise the server that has the port would answer in the place of this one.
  yield* Effect.mapError(listen(port), ({ message }) => new ServerError({ message: portMessage(name, port, message) }))
  const output: Array<string> = []
  const error = (what: string) => () => new ServerError({ message: `${name} ${what}:\n${output.join("").trim()}` })
  const server = yield* boundProcess(command, { cwd, killSignal, forceKillAfter: "10 seconds" }).pipe(
    Effect.mapError(error("can't be started"))
  )
  const outputEnds = yield* server.all.pipe(
    Stream.decodeText,
    Stream.runForEach((text) => Effect.sync(() => output.push(text))),
    Effect.forkScoped
  )
  yield* answers.pipe(
    Effect.retry(Schedule.upTo(Schedule.spaced("50 millis"), { duration: "1 minute" })),
    Effect.mapError(error("does not answer")),
    Effect.raceFirst(
      Effect.exit(server.exitCode).pipe(
        Effect.andThen(Fiber.await(outputEnds)),
        Effect.andThen(() => Effect.fail(error("has ended")()))
      )
    )
  )
}, Effect.provide(NodeServices.layer))

const portMessage = (name: string, port: number, detail: string) =>
  detail.includes("EADDRINUSE")
    ? `${name} can't listen on port ${port}, since another program does. End that program, or choose another port`
    : `${name} can't listen on port ${port}: ${detail}`
