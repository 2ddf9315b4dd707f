/**
 * Tells those who watch a record that it may have changed: at once if this backend changed it, and for what other
 * clients do as soon as the engine says so.
 */
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Stream from "effect/Stream"
import type { StorageBackend } from "../../StorageBackend.ts"
import type { StorageKey } from "../../StorageKey.ts"
import type { Engine } from "./model.ts"

export interface Hub {
  readonly hints: StorageBackend["Service"]["hints"]

  /** Tells those who watch a record that it has changed. If nobody watches any record, it costs one comparison. */
  readonly tell: (key: StorageKey) => void

  /**
   * Tells those who watch the records once an operation has ended. The engine may have applied it even if it failed or
   * was interrupted, and a conflict shows that another client has written.
   */
  readonly tellAfter: <A, E>(operation: Effect.Effect<A, E>, keys: ReadonlyArray<StorageKey>) => Effect.Effect<A, E>
}

/** Tells one watcher. */
type Watcher = () => void

/** Who watches records of one owner. */
interface Owner {
  readonly watchers: Map<string, Set<Watcher>>
  /** Runs the engine's own hints. */
  fiber: Fiber.Fiber<void> | undefined
}

export const makeHub = (engineHints: Engine["hints"]): Hub => {
  /** Only owners with a record that is watched. */
  const owners = new Map<string, Owner>()

  const tell = ({ id, owner }: Pick<StorageKey, "owner" | "id">): void => {
    if (owners.size === 0) return
    for (const watcher of owners.get(owner)?.watchers.get(id) ?? []) watcher()
  }

  const tellAll = ({ watchers }: Owner): void => {
    for (const ofRecord of watchers.values()) for (const watcher of ofRecord) watcher()
  }

  const hear = (name: string, owner: Owner) =>
    engineHints === undefined
      ? Effect.undefined
      : Effect.forkDetach(
          Stream.runForEach(engineHints(name), (id) =>
            Effect.sync(() => (id === undefined ? tellAll(owner) : tell({ owner: name, id })))
          ),
          { startImmediately: true }
        )

  const join = ({ id, owner: name }: StorageKey, watcher: Watcher) =>
    Effect.suspend(() => {
      const known = owners.get(name)
      const owner: Owner = known ?? { watchers: new Map(), fiber: undefined }
      owners.set(name, owner)
      const ofRecord = owner.watchers.get(id)
      if (ofRecord === undefined) owner.watchers.set(id, new Set([watcher]))
      else ofRecord.add(watcher)
      if (known !== undefined) return Effect.void
      return Effect.map(hear(name, owner), (fiber) => {
        owner.fiber = fiber
      })
    })

  const leave = ({ id, owner: name }: StorageKey, watcher: Watcher) =>
    Effect.sync(() => {
      const owner = owners.get(name)
      const ofRecord = owner?.watchers.get(id)
      if (owner === undefined || ofRecord === undefined) return
      ofRecord.delete(watcher)
      if (ofRecord.size === 0) owner.watchers.delete(id)
      if (owner.watchers.size > 0) return
      owners.delete(name)
      // Nobody waits for the engine, which may be in the middle of a connection to a server that does not answer.
      owner.fiber?.interruptUnsafe()
    })

  return {
    // A hint that has not been taken yet stands for all that follow.
    hints: (key) =>
      Stream.callback<void>(
        (queue) => {
          const watcher = () => void Queue.offerUnsafe(queue, undefined)
          return Effect.acquireRelease(join(key, watcher), () => leave(key, watcher))
        },
        { bufferSize: 1, strategy: "dropping" }
      ),
    tell,
    tellAfter: (operation, keys) =>
      Effect.onExit(operation, () => {
        for (const key of keys) tell(key)
        return Effect.void
      })
  }
}
