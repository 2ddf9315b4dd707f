import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as InMemory from "../../src/engine/InMemory.ts"
import { idOf, sortKey } from "../../src/engine/internal/inmemory/layout.ts"
import { SortedKeys } from "../../src/engine/internal/inmemory/sortedKeys.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { newSeed, randomFrom } from "../support/random.ts"

const randomsOf = (name: string) => {
  const random = randomFrom(newSeed(name))
  const below = (limit: number) => Math.floor(random() * limit)
  const oneOf = <A>(items: ReadonlyArray<A>): A => items[below(items.length)] as A
  return { random, below, oneOf }
}

describe("sorted keys", () => {
  const ordersOfArrival: Record<string, (keys: Array<number>, random: () => number) => Array<number>> = {
    ascending: (keys) => keys,
    descending: (keys) => keys.toReversed(),
    shuffled: (keys, random) =>
      keys
        .map((key) => [random(), key] as const)
        .sort(([a], [b]) => a - b)
        .map(([, key]) => key)
  }

  for (const [name, arrange] of Object.entries(ordersOfArrival)) {
    it(`are walked in order both ways from any point, after they came ${name} and many of them went`, () => {
      const { below, random } = randomsOf(`sorted keys, ${name}`)
      const all = Array.from({ length: 3000 }, (_, i) => i * 2)
      const keys = new SortedKeys<number>()
      for (const key of arrange(all, random)) keys.add(key)
      let left = all
      for (const share of [1, 0.5, 0.01, 0]) {
        const staying = new Set(left.filter(() => random() < share))
        for (const key of arrange(left, random)) if (!staying.has(key)) keys.remove(key)
        left = left.filter((key) => staying.has(key))
        assert.strictEqual(keys.first, left[0])
        assert.deepStrictEqual(keys.ascending(-1, all.length), left)
        assert.deepStrictEqual(keys.descending(all.length * 2, all.length), left.toReversed())
        for (let i = 0; i < 100; i++) {
          const point = below(6002) - 1
          const count = below(600)
          assert.deepStrictEqual(keys.ascending(point, count), left.filter((key) => key >= point).slice(0, count))
          const lower = left.filter((key) => key < point).toReversed()
          assert.deepStrictEqual(keys.descending(point, count), lower.slice(0, count))
        }
      }
      for (const key of arrange(all, random)) keys.add(key)
      assert.deepStrictEqual(keys.ascending(0, all.length), all)
    })
  }
})

describe("a sort key", () => {
  it("compares as the bytes of UTF-8 do, and gives the id back", () => {
    const { below, oneOf } = randomsOf("sort keys")
    const characters = ["a", "é", "\u07ff", "\ud7ff", "\ue000", "\uffff", "😀", "\u{10000}", "\u{10ffff}"]
    const newId = () => Array.from({ length: 1 + below(3) }, () => oneOf(characters)).join("")
    for (let i = 0; i < 2000; i++) {
      const [a, b] = [newId(), newId()]
      assert.strictEqual(idOf(sortKey(a)), a)
      const byKeys = sortKey(a) < sortKey(b) ? -1 : sortKey(a) > sortKey(b) ? 1 : 0
      assert.strictEqual(byKeys, Buffer.compare(Buffer.from(a), Buffer.from(b)), JSON.stringify([a, b]))
    }
  })
})

describe("a memory store", () => {
  interface Held {
    readonly data: string
    readonly version: number
    readonly expiresAt: number
  }

  it.effect("lists what a model lists, whether an owner has no record, one or many", () =>
    Effect.gen(function* () {
      const { below, oneOf } = randomsOf("memory against a model")
      const backend = yield* StorageBackend
      const owners = Array.from({ length: 40 }, (_, i) => `owner${i}`)
      // The first owners have a choice of few ids, so they often have one record or none.
      const idsOf = (owner: string) =>
        Array.from({ length: 1 + (owners.indexOf(owner) % 20) }, (_, i) => `${oneOf(["a", "😀", "\uffff"])}${i}`)
      const model = new Map(owners.map((owner) => [owner, new Map<string, Held>()]))
      let seconds = 0
      const isLive = (held: Held | undefined): held is Held => held !== undefined && held.expiresAt > seconds

      const write = Effect.fnUntraced(function* (owner: string, id: string) {
        const held = model.get(owner)?.get(id)
        const expiresAt = oneOf([Infinity, Infinity, seconds + 1 + below(5)])
        const options = expiresAt === Infinity ? {} : { expiresAt: DateTime.makeUnsafe(expiresAt * 1000) }
        const data = `data${below(1000)}`
        const written = yield* backend.put(makeUnsafe({ owner, id }), data, options)
        assert.strictEqual(written.version, (held?.version ?? 0) + 1)
        model.get(owner)?.set(id, { data, version: written.version, expiresAt })
      })

      const remove = Effect.fnUntraced(function* (owner: string, id: string) {
        const held = model.get(owner)?.get(id)
        assert.strictEqual(yield* backend.delete(makeUnsafe({ owner, id })), isLive(held))
        if (isLive(held)) model.get(owner)?.delete(id)
      })

      const cleanUp = Effect.gen(function* () {
        let expired = 0
        for (const records of model.values()) {
          for (const [id, held] of records) if (!isLive(held) && records.delete(id)) expired++
        }
        assert.strictEqual(yield* backend.cleanupExpired, expired)
      })

      const compare = Effect.fnUntraced(function* (owner: string) {
        const order = oneOf(["ascending", "descending"] as const)
        const idPrefix = oneOf(["", "a", "a1", "😀", "\uffff"])
        const expected = Array.from(model.get(owner) ?? [])
          .filter(([id, held]) => id.startsWith(idPrefix) && isLive(held))
          .map(([id, { data, version }]) => ({ id, data, version }))
          .sort((a, b) => Buffer.compare(Buffer.from(a.id), Buffer.from(b.id)) * (order === "ascending" ? 1 : -1))
        const listed: typeof expected = []
        let cursor: string | undefined
        do {
          const prefix = makePrefix({ owner, idPrefix })
          const page = yield* backend.listByPrefix(prefix, { order, limit: 1 + below(4), cursor })
          for (const { data, key, version } of page.records) listed.push({ id: key.id, data, version })
          cursor = page.cursor
        } while (cursor !== undefined)
        assert.deepStrictEqual(listed, expected)
      })

      for (let step = 0; step < 6000; step++) {
        const owner = oneOf(owners)
        const id = oneOf(idsOf(owner))
        const kind = below(100)
        if (kind < 50) yield* write(owner, id)
        else if (kind < 75) yield* remove(owner, id)
        else if (kind < 97) yield* compare(owner)
        else if (kind < 98) yield* cleanUp
        else {
          yield* TestClock.adjust("1 second")
          seconds++
        }
      }
    }).pipe(Effect.provide(InMemory.layer))
  )
})

describe("a cleanup in memory", () => {
  const fill = Effect.fnUntraced(function* (records: number) {
    const backend = yield* StorageBackend
    const expiresAt = DateTime.makeUnsafe(1000)
    for (let i = 0; i < records; i++) yield* backend.put(makeUnsafe({ owner: "alice", id: `${i}` }), "", { expiresAt })
    yield* TestClock.adjust("1 second")
    return backend
  })

  it.effect("lets other fibers run again and again, and returns how many it removed in all", () =>
    Effect.gen(function* () {
      const backend = yield* fill(10_000)
      let turns = 0
      const other = Effect.sync(() => turns++).pipe(Effect.andThen(Effect.yieldNow), Effect.forever)
      const fiber = yield* Effect.forkChild(other)
      const removed = yield* backend.cleanupExpired
      assert.strictEqual(removed, 10_000)
      assert.isAtLeast(turns, 50)
      yield* Fiber.interrupt(fiber)
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("sees what is written, removed and cleaned up between its slices", () =>
    Effect.gen(function* () {
      const backend = yield* fill(1000)
      const cleanup = yield* Effect.forkChild(backend.cleanupExpired, { startImmediately: true })
      const kept = yield* backend.put(makeUnsafe({ owner: "alice", id: "999" }), "kept")
      assert.strictEqual(kept.version, 2)
      const late = { expiresAt: DateTime.makeUnsafe(1000) }
      yield* backend.put(makeUnsafe({ owner: "bob", id: "late" }), "late", late)
      const others = yield* backend.cleanupExpired
      const first = yield* Fiber.join(cleanup)
      assert.strictEqual(first + others, 1000)
      assert.isAbove(first, 0)
      assert.isAbove(others, 0)
      const page = yield* backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: "" }))
      assert.deepStrictEqual(page, { records: [kept], cursor: undefined })
    }).pipe(Effect.provide(InMemory.layer))
  )

  it.effect("can be interrupted between its slices, and another one goes on where it ended", () =>
    Effect.gen(function* () {
      const backend = yield* fill(1000)
      const cleanup = yield* Effect.forkChild(backend.cleanupExpired, { startImmediately: true })
      yield* Fiber.interrupt(cleanup)
      const rest = yield* backend.cleanupExpired
      assert.isTrue(rest > 0 && rest < 1000)
      assert.strictEqual(yield* backend.cleanupExpired, 0)
    }).pipe(Effect.provide(InMemory.layer))
  )
})
