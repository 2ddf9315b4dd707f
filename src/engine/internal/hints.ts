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
import { isStoragePrefix, type StoragePrefix } from "../../StoragePrefix.ts"
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

type Watchers = Map<string, Set<Watcher>>

/** Who watches records of one owner. */
interface Owner {
  /** Those who watch one record, by its id. */
  readonly byId: Watchers
  /** Those who watch all records whose ids start with a prefix. */
  readonly byPrefix: Watchers
  /** Runs the engine's own hints. */
  fiber: Fiber.Fiber<void> | undefined
}

export const makeHub = (engineHints: Engine["hints"]): Hub => {
  /** Only owners with a record that is watched. */
  const owners = new Map<string, Owner>()

  const tell = ({ id, owner }: Pick<StorageKey, "owner" | "id">): void => {
    if (owners.size === 0) return
    const found = owners.get(owner)
    if (found === undefined) return
    for (const watcher of found.byId.get(id) ?? []) watcher()
    for (const [prefix, watchers] of found.byPrefix) {
      if (id.startsWith(prefix)) for (const watcher of watchers) watcher()
    }
  }

  const tellAll = ({ byId, byPrefix }: Owner): void => {
    for (const watchers of [...byId.values(), ...byPrefix.values()]) for (const watcher of watchers) watcher()
  }

  /** Where the watchers of a record, or of a prefix, are kept. */
  const placeOf = ({ byId, byPrefix }: Owner, target: StorageKey | StoragePrefix): readonly [Watchers, string] =>
    isStoragePrefix(target) ? [byPrefix, target.idPrefix] : [byId, target.id]

  const hear = (name: string, owner: Owner) =>
    engineHints === undefined
      ? Effect.undefined
      : Effect.forkDetach(
          Stream.runForEach(engineHints(name), (id) =>
            Effect.sync(() => (id === undefined ? tellAll(owner) : tell({ owner: name, id })))
          ),
          { startImmediately: true }
        )

  const join = (target: StorageKey | StoragePrefix, watcher: Watcher) =>
    Effect.suspend(() => {
      const name = target.owner
      const known = owners.get(name)
      const owner: Owner = known ?? { byId: new Map(), byPrefix: new Map(), fiber: undefined }
      owners.set(name, owner)
      const [place, id] = placeOf(owner, target)
      const watchers = place.get(id)
      if (watchers === undefined) place.set(id, new Set([watcher]))
      else watchers.add(watcher)
      if (known !== undefined) return Effect.void
      return Effect.map(hear(name, owner), (fiber) => {
        owner.fiber = fiber
      })
    })

  const leave = (target: StorageKey | StoragePrefix, watcher: Watcher) =>
    Effect.sync(() => {
      const owner = owners.get(target.owner)
      if (owner === undefined) return
      const [place, id] = placeOf(owner, target)
      const watchers = place.get(id)
      watchers?.delete(watcher)
      if (watchers?.size === 0) place.delete(id)
      if (owner.byId.size > 0 || owner.byPrefix.size > 0) return
      owners.delete(target.owner)
      // Nobody waits for the engine, which may be in the middle of a connection to a server that does not answer.
      owner.fiber?.interruptUnsafe()
    })

  return {
    // A hint that has not been taken yet stands for all that follow.
    hints: (target) =>
      Stream.callback<void>(
        (queue) => {
          const watcher = () => void Queue.offerUnsafe(queue, undefined)
          return Effect.acquireRelease(join(target, watcher), () => leave(target, watcher))
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
