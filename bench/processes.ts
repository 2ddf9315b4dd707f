/** Child processes, which end at the latest when the scope closes. */
import { type ChildProcess, execFile, fork } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { Effect } from "effect"

const pathOf = (file: string) => join(import.meta.dirname, file)

/** Runs a file in a process of its own, and returns the JSON that it prints. */
export const runJson = <A>(file: string, args: ReadonlyArray<string>): Effect.Effect<A, Error> =>
  Effect.callback<A, Error>((resume) => {
    const child = execFile(
      process.execPath,
      ["--expose-gc", "--disable-warning=ExperimentalWarning", pathOf(file), ...args],
      { maxBuffer: 1e8 },
      (error, stdout) => resume(error ? Effect.fail(error) : Effect.sync(() => JSON.parse(stdout) as A))
    )
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** Starts a file in a process of its own, which talks to this one by messages. It may clean up when it is ended. */
export const start = (file: string, args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.sync(() => fork(pathOf(file), args, { execArgv: ["--disable-warning=ExperimentalWarning"] })),
    (child) =>
      Effect.callback<void>((resume) => {
        if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
        child.once("exit", () => resume(Effect.void))
        child.kill("SIGTERM")
      })
  )

/** The next message of a process. Fails if the process ends first. */
export const nextMessage = <A>(child: ChildProcess): Effect.Effect<A, Error> =>
  Effect.tryPromise({
    try: async (signal) => {
      const ended = once(child, "exit", { signal }).then(([code]) => {
        throw new Error(`A process of the bench ended with code ${code}`)
      })
      const [message] = await Promise.race([once(child, "message", { signal }), ended])
      return message as A
    },
    catch: (error) => error as Error
  })
