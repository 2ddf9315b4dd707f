/** A backend of your own, here in a `Map`. Each function of the engine is one atomic step. */
import { Effect, Layer } from "effect"
import { Engine, StorageBackend, type StorageKey } from "effect-versioned-store"
import * as StorageCases from "effect-versioned-store/StorageCases"

const layer = Layer.sync(StorageBackend.StorageBackend)(() => {
  const entries = new Map<string, Engine.StoredRecord & { readonly owner: string; readonly id: string }>()
  const find = (key: StorageKey.StorageKey) => entries.get(`${key}`)
  const refuse = (key: StorageKey.StorageKey) => ({ _tag: "Refused", current: find(key) }) as const
  const put = (key: StorageKey.StorageKey, { increment, ...write }: Engine.Write) => {
    const version = (find(key)?.version ?? 0) + increment
    if (version > StorageBackend.maxVersion) return refuse(key)
    entries.set(`${key}`, { ...write, ...key, version })
    return { _tag: "Written", version } as const
  }
  return Engine.make({
    read: (key) => Effect.succeed(find(key)),
    put: (key, write) => Effect.succeed(put(key, write)),
    swap: (key, write, expected, now) =>
      Effect.succeed(Engine.isAsExpected(find(key), expected, now) ? put(key, write) : refuse(key)),
    remove: (key, expected = { _tag: "Version", version: find(key)?.version ?? 0 }, now) =>
      Effect.succeed(
        Engine.isAsExpected(find(key), expected, now) && entries.delete(`${key}`) ? { _tag: "Removed" } : refuse(key)
      ),
    list: ({ idPrefix, owner }, { after, limit, order }, now) => {
      const inOrder = (a: string, b: string) =>
        Buffer.compare(Buffer.from(a), Buffer.from(b)) * (order === "ascending" ? 1 : -1)
      const found = [...entries.values()].filter((entry) => entry.owner === owner && entry.id.startsWith(idPrefix))
      const rest = found.filter(({ id }) => after === undefined || inOrder(id, after) > 0)
      const page = rest.sort((a, b) => inOrder(a.id, b.id)).slice(0, limit)
      const records = page.filter((entry) => !Engine.isExpired(entry, now))
      return Effect.succeed({ records, next: page.length < limit ? undefined : page.at(-1)?.id })
    },
    cleanup: () => Effect.succeed(0) // an engine that keeps expired records removes them here
  })
})

const runs = StorageCases.cases(layer, { commits: false }).flatMap(({ run = [] }) => run)
await Effect.runPromise(Effect.forEach(runs, Effect.scoped).pipe(Effect.provide([layer, StorageCases.layerClock])))
console.log(`the backend passes ${runs.length} cases of the contract`)
