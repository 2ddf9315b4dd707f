/** The files of a folder: which there are, and what is in them. */
import { createHash } from "node:crypto"
import { DateTime, Effect, FileSystem, Option, Path, type PlatformError, Schema } from "effect"

export const Contents = Schema.Struct({
  lines: Schema.Int,
  bytes: Schema.Int,
  sha256: Schema.String,
  modified: Schema.DateTimeUtc
})
export type Contents = typeof Contents.Type

/**
 * The regular files in a folder and its subfolders, as paths relative to the folder. Files of SQLite are left out,
 * since the index itself may be one.
 */
export const walk = (
  dir: string,
  subfolder = ""
): Effect.Effect<Array<string>, PlatformError.PlatformError, FileSystem.FileSystem | Path.Path> =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const found = yield* Effect.forEach(yield* fs.readDirectoryEntries(path.join(dir, subfolder)), (entry) => {
      const name = path.join(subfolder, entry.name)
      if (entry.type === "Directory") return walk(dir, name)
      return Effect.succeed(entry.type === "File" && !/\.db(-wal|-shm)?$/.test(name) ? [name] : [])
    })
    return found.flat()
  })

export const modifiedOf = Effect.fnUntraced(function* (file: string) {
  const { mtime } = yield* (yield* FileSystem.FileSystem).stat(file)
  return DateTime.fromDateUnsafe(Option.getOrElse(mtime, () => new Date(0)))
})

const newline = 0x0a

export const read = Effect.fnUntraced(function* (file: string) {
  const fs = yield* FileSystem.FileSystem
  const modified = yield* modifiedOf(file)
  const bytes = yield* fs.readFile(file)
  let lines = 0
  for (let i = bytes.indexOf(newline); i !== -1; i = bytes.indexOf(newline, i + 1)) lines++
  return { lines, bytes: bytes.length, sha256: hash(bytes), modified }
})

export const hash = (content: string | Uint8Array) => createHash("sha256").update(content).digest("hex")
