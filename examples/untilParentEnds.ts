/**
 * Runs a command until the process that started this one is gone, for whatever reason. That is when its end of the pipe
 * to the standard input of this process is closed, which even SIGKILL does.
 */
import { spawn } from "node:child_process"

const [command = "", ...args] = process.argv.slice(2)
const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"] })
  .on("error", (error) => {
    console.error(error.message)
    process.exit(1)
  })
  .on("exit", (code) => process.exit(code ?? 1))
process.stdin.on("end", () => child.kill()).resume()

// The command gets these signals as well, and may need some time to end.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal))
