import { Effect, Layer } from "effect"
import { type Engine, make as makeService } from "../../src/Engine.ts"
import { makeEngine } from "../../src/engine/internal/inmemory/requests.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeBackend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"

export const newOwner = () => `owner-${crypto.randomUUID()}`

/** A backend in memory that counts its requests. Each request yields to other fibers. */
export const counting = () => {
  const requests: Array<string> = []
  const { engine } = makeEngine()
  let [running, mostRunning] = [0, 0]
  const counted =
    <Args extends ReadonlyArray<unknown>, A, E>(name: string, primitive: (...args: Args) => Effect.Effect<A, E>) =>
    (...args: Args) =>
      Effect.suspend(() => {
        requests.push(name)
        mostRunning = Math.max(mostRunning, ++running)
        return Effect.andThen(
          Effect.yieldNow,
          Effect.suspend(() => primitive(...args))
        ).pipe(Effect.ensuring(Effect.sync(() => running--)))
      })
  const service = makeService({
    ...engine,
    read: counted("read", engine.read),
    put: counted("put", engine.put),
    swap: counted("swap", engine.swap),
    remove: counted("remove", engine.remove),
    list: counted("list", engine.list)
  })
  return {
    storage: Layer.succeed(StorageBackend, service),
    service,
    mostRunning: () => mostRunning,
    /** Returns the requests since the last call. */
    taken: () => requests.splice(0)
  }
}

/** A backend whose requests all fail. */
export const failing = (() => {
  const fail = () =>
    Effect.fail(makeBackend({ reason: "Misconfigured", outcome: "not-applied", description: "no table" }))
  const engine: Engine = { read: fail, put: fail, swap: fail, remove: fail, list: fail, cleanup: fail }
  return Layer.succeed(StorageBackend, makeService(engine))
})()

export const stored = (owner: string, id: string) =>
  StorageBackend.use((backend) => backend.get(makeUnsafe({ owner, id }))).pipe(Effect.map(({ data }) => data))

export const storedIds = (owner: string) =>
  StorageBackend.use((backend) => backend.listByPrefix(makePrefix({ owner, idPrefix: "" }))).pipe(
    Effect.map(({ records }) => records.map(({ key }) => key.id))
  )

/** The id of the empty key. */
export const hashOfEmpty = "#12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126"

/** Keys that can be ids, keys that can't, and keys that could be mistaken for each other. */
export const keys = [
  ...["", "a", "ab", "a/b", "a:b", "%", "!", "é", "\u{1f600}", "\ufffd", "__proto__", "constructor", " "],
  ...["\0", "a\0", "a\0b", "\ud83d", "\ude00", "\ud83dx", "#", "##", "#a", hashOfEmpty],
  ...["x".repeat(508), "x".repeat(509), "x".repeat(512), "x".repeat(513), "é".repeat(300), "x".repeat(10_000)]
]
