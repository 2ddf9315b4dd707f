import type { PgClient } from "@effect/sql-pg"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, Layer, Queue, Schedule, Stream } from "effect"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { clientOf, layerOwnTable, lossy, newTable, plant, send, url } from "../support/postgres.ts"
import { postgresProxy } from "../support/postgresProxy.ts"

const tableName = newTable()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

/** A backend of another process, which has a client of its own. */
const other = (address = url ?? "", config?: PgClient.PgPoolConfig) =>
  Effect.gen(function* () {
    const context = yield* Postgres.layer({ tableName, hints: true }).pipe(
      Layer.provideMerge(clientOf(address, config)),
      Layer.build
    )
    return { backend: yield* Effect.provide(StorageBackend, context), context }
  })

/** Takes hints of a record. The first one says that the channel is heard. */
const watching = Effect.fnUntraced(function* (backend: StorageBackend["Service"], key = newKey()) {
  const hints = yield* Queue.unbounded<void>()
  const fiber = yield* Effect.forkScoped(Stream.runForEach(backend.hints(key), () => Queue.offer(hints, undefined)))
  yield* Queue.take(hints)
  return { next: Queue.take(hints), pending: Queue.size(hints), fiber }
})

const listening = (applicationName: string) =>
  Effect.map(
    send("SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%'", [applicationName]),
    (rows) => rows.map(([pid]) => Number(pid))
  )

describe.skipIf(url === undefined)("Postgres with hints", () => {
  const layerHints = Postgres.layer({ tableName, hints: true }).pipe(
    Layer.provideMerge(layerOwnTable({ tableName })),
    Layer.provideMerge(clientOf(url ?? ""))
  )
  StorageContract.suite("Postgres, with hints", layerHints, {
    shared: true,
    plant: plant(tableName),
    lossy: lossy(tableName)
  })

  layer(layerHints, { excludeTestServices: true })((it) => {
    it.effect("tells of each write, removal and commit of another process, and of no refusal", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = newKey("ä/1")
        const [mine, neighbour] = [yield* watching(backend, key), yield* watching(backend, { ...newKey(), id: key.id })]
        const { backend: theirs } = yield* other()
        for (const operation of [
          theirs.put(key, "1"),
          theirs.putIfVersion(key, "2", 1),
          theirs.deleteIfVersion(key, 2),
          theirs.putIfVersion(key, "1", 0),
          theirs.delete(key),
          theirs.commit(key.owner, [
            { _tag: "Write", id: key.id, data: "1", expected: 0 },
            { _tag: "Write", id: "b", data: "1", expected: 0 }
          ]),
          theirs.commit(key.owner, [
            { _tag: "Remove", id: key.id, expected: 1 },
            { _tag: "Write", id: "b", data: "2", expected: 1 }
          ])
        ]) {
          yield* operation
          yield* mine.next
        }
        yield* Effect.flip(theirs.putIfVersion(key, "x", 7))
        yield* Effect.flip(theirs.deleteIfVersion(key, 7))
        yield* Effect.flip(
          theirs.commit(key.owner, [
            { _tag: "Write", id: key.id, data: "x", expected: 7 },
            { _tag: "Write", id: "b", data: "x", expected: 2 }
          ])
        )
        // A hint of these would come before that of the next write.
        yield* theirs.put(key, "last")
        yield* mine.next
        assert.strictEqual(yield* mine.pending, 0)
        assert.strictEqual(yield* neighbour.pending, 0)
      })
    )

    it.effect("listens on one connection for all owners, and on none if nobody watches", () =>
      Effect.gen(function* () {
        const applicationName = newTable()
        const { backend } = yield* other(url ?? "", { applicationName, maxConnections: 2 })
        const keys = Array.from({ length: 10 }, () => newKey())
        const watches = yield* Effect.forEach(keys, (key) => watching(backend, key))
        assert.strictEqual((yield* listening(applicationName)).length, 1)
        for (const key of keys) yield* backend.put(key, "1")
        yield* Effect.forEach(watches, ({ next }) => next)
        yield* Effect.forEach(watches, ({ fiber }) => Fiber.interrupt(fiber))
        yield* listening(applicationName).pipe(
          Effect.repeat({ until: ({ length }) => length === 0, schedule: Schedule.spaced("5 millis") })
        )
        yield* backend.put(newKey(), "1")
      })
    )

    it.effect("listens again if the connection is lost, and then hints at every record", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const proxy = yield* postgresProxy(url ?? "", () => "pass")
        const { backend } = yield* other(proxy.url)
        const key = newKey()
        const { next } = yield* watching(backend, key)
        proxy.close()
        yield* direct.put(key, "written in the gap")
        yield* Effect.promise(proxy.open)
        yield* next
        yield* direct.put(key, "written after it")
        yield* next
      })
    )
  })
})
