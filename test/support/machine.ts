/** What some tests need of the machine that they run on. */
import { spawnSync } from "node:child_process"
import { networkInterfaces } from "node:os"

/** Whether a process may mount a file system of its own. */
export const mayMount = (): boolean => spawnSync("unshare", ["--map-root-user", "--mount", "true"]).status === 0

/** Whether this process may mount a file system of its own and start processes of other users there. */
export const mayMountAsRoot = (): boolean =>
  process.getuid?.() === 0 && spawnSync("unshare", ["--mount", "true"]).status === 0

/** The IPv4 address of this machine that is not loopback. */
export const outerAddress = (): string | undefined =>
  Object.values(networkInterfaces())
    .flatMap((found) => found ?? [])
    .find(({ family, internal }) => family === "IPv4" && !internal)?.address
