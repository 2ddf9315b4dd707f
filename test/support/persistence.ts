import { Effect, Layer } from "effect"
import { make as makeService } from "../../src/Engine.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeBackend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as Faults from "../../src/testing/Faults.ts"
import { makeEngine } from "./memoryEngine.ts"

export const newOwner = () => `owner-${crypto.randomUUID()}`

/** A memory backend whose requests are counted, and yield to other fibers. */
export const counting = () => {
  const faults = Faults.engine(makeEngine().engine, () => ({ before: Effect.yieldNow }))
  const service = makeService(faults.engine)
  return { ...faults, service, storage: Layer.succeed(StorageBackend, service) }
}

/** A backend of which every request fails. */
export const failing = (() => {
  const error = makeBackend({ reason: "Misconfigured", outcome: "not-applied", description: "no table" })
  return Layer.succeed(StorageBackend, makeService(Faults.engine(makeEngine().engine, () => error).engine))
})()

export const stored = (owner: string, id: string) =>
  StorageBackend.use((backend) => backend.get(makeUnsafe({ owner, id }))).pipe(Effect.map(({ data }) => data))

export const storedIds = (owner: string) =>
  StorageBackend.use((backend) => backend.listByPrefix(makePrefix({ owner, idPrefix: "" }))).pipe(
    Effect.map(({ records }) => records.map(({ key }) => key.id))
  )

/** The id that the empty key has. */
export const hashOfEmpty = "#12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126"

/** Keys that an id can be, that one can't, and that could be taken for each other. */
export const keys = [
  ...["", "a", "ab", "a/b", "a:b", "%", "!", "é", "\u{1f600}", "\ufffd", "__proto__", "constructor", " "],
  ...["\0", "a\0", "a\0b", "\ud83d", "\ude00", "\ud83dx", "#", "##", "#a", hashOfEmpty],
  ...["x".repeat(508), "x".repeat(509), "x".repeat(512), "x".repeat(513), "é".repeat(300), "x".repeat(10_000)]
]
