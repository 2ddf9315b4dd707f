import { spawn } from "node:child_process"
import { join } from "node:path"
import { Effect } from "effect"

/**
 * The lines that a script of this folder has printed by the time that its process is killed, so many milliseconds after
 * its first line. The delay makes the moment of the writing random: nothing waits for it.
 */
export const killedWriter = (script: string, args: ReadonlyArray<string>, afterMillis: number) =>
  Effect.callback<ReadonlyArray<string>>((resume) => {
    const child = spawn("node", [join(import.meta.dirname, script), ...args], { stdio: ["ignore", "pipe", "inherit"] })
    let output = ""
    child.stdout.once("data", () => setTimeout(() => child.kill("SIGKILL"), afterMillis))
    child.stdout.on("data", (chunk) => {
      output += chunk
    })
    child.once("close", (code) =>
      resume(
        code === null
          ? Effect.succeed(output.split("\n").slice(0, -1))
          : Effect.die(new Error(`The writer ended by itself, with ${code}`))
      )
    )
  })
