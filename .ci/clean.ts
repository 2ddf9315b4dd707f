/** Makes `dist/` empty before a build. If it can't, it says what to do, since `tsc` would only name each file. */
import { mkdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

const root = join(import.meta.dirname, "..")
const dist = join(root, "dist")
try {
  rmSync(dist, { recursive: true, force: true })
  mkdirSync(dist)
} catch (error) {
  const { code } = error as NodeJS.ErrnoException
  if (code !== "EACCES" && code !== "EPERM" && code !== "EROFS") throw error
  const copy = join(tmpdir(), "effect-versioned-store")
  console.error(
    `You may not write in ${root}, and the library is built there, in dist/. Copy the folder, and run it there:\n\n` +
      `  cp -r ${root} ${copy} && chmod -R u+w ${copy} && cd ${copy}\n`
  )
  process.exit(1)
}
