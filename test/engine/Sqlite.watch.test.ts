import { DatabaseSync } from "node:sqlite"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Queue, Schedule, Stream } from "effect"
import { TestClock } from "effect/testing"
import { makeHints } from "../../src/engine/internal/sqlite/hints.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { watch } from "../support/processes.ts"
import { newFiles, withDatabase } from "../support/sqlite.ts"
import { numbers } from "../support/watcher.ts"

const newFile = newFiles()
const key = { owner: "alice", id: "a" }
const everyMillis = 3_600_000

describe("a watch of a record in an SQLite file", () => {
  it.live("sees by hints alone what another process writes and removes", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* Effect.gen(function* () {
        const store = yield* numbers
        const watcher = yield* watch({ store: { filename }, key, everyMillis })
        assert.strictEqual(yield* watcher.value, "none")
        for (const n of [1, 2, 3]) {
          yield* store.set(key, n)
          assert.strictEqual(yield* watcher.value, `${n}`)
        }
        yield* store.remove(key)
        assert.strictEqual(yield* watcher.value, "none")
      }).pipe(Effect.provide(Sqlite.layer({ filename })))
    })
  )

  it.live("sees a change that another program makes with bare SQLite", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* Effect.gen(function* () {
        const store = yield* numbers
        yield* store.set(key, 1)
        const versions = yield* Queue.unbounded<number>()
        yield* store.watch(key, { schedule: Schedule.spaced("1 hour") }).pipe(
          Stream.runForEach((record) => Queue.offer(versions, record._tag === "Some" ? record.value.value : -1)),
          Effect.forkScoped
        )
        assert.strictEqual(yield* Queue.take(versions), 1)
        withDatabase(filename, (db) => db.exec("UPDATE records SET version = version + 1, data = '2'"))
        assert.strictEqual(yield* Queue.take(versions), 2)
      }).pipe(Effect.provide(Sqlite.layer({ filename })))
    })
  )
})

/** A database that counts how often its data version is asked for. */
const counting = (filename: string) => {
  const db = new DatabaseSync(filename)
  const counts = { asked: 0 }
  const prepare = (sql: string) => {
    const statement = db.prepare(sql)
    const get = () => {
      counts.asked++
      return statement.get()
    }
    return { get }
  }
  return { db, counts, counting: { prepare } as unknown as DatabaseSync }
}

describe("the hints of SQLite", () => {
  it.effect("ask the file every 15 ms, once for all watchers, and only while there are some", () =>
    Effect.gen(function* () {
      const { counting: counted, counts, db } = counting(newFile())
      yield* Effect.addFinalizer(() => Effect.sync(() => db.close()))
      const hints = yield* makeHints(counted)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(counts.asked, 0)
      const fibers = yield* Effect.forEach(["alice", "bob", "carol"], (owner) =>
        Effect.forkChild(Stream.runDrain(hints(owner)), { startImmediately: true })
      )
      const before = counts.asked
      yield* TestClock.adjust("150 millis")
      assert.strictEqual(counts.asked, before + 10)
      yield* Effect.forEach(fibers, Fiber.interrupt)
      const after = counts.asked
      yield* TestClock.adjust("1 second")
      assert.strictEqual(counts.asked, after)
    })
  )

  it.effect("come once for a commit of another connection, and not for those of their own", () =>
    Effect.gen(function* () {
      const filename = newFile()
      yield* Effect.gen(function* () {
        const backend = yield* StorageBackend
        const [watched, own] = [makeUnsafe({ owner: "alice", id: "a" }), makeUnsafe({ owner: "bob", id: "b" })]
        const hints = yield* Queue.unbounded<void>()
        yield* Effect.forkScoped(
          Stream.runForEach(backend.hints(watched), () => Queue.offer(hints, undefined)),
          { startImmediately: true }
        )
        yield* TestClock.adjust("100 millis")
        yield* Queue.clear(hints)
        yield* backend.put(own, "data")
        yield* TestClock.adjust("100 millis")
        assert.strictEqual(yield* Queue.size(hints), 0)
        withDatabase(filename, (db) => db.exec("UPDATE records SET data = 'other'"))
        yield* TestClock.adjust("100 millis")
        assert.strictEqual(yield* Queue.size(hints), 1)
      }).pipe(Effect.provide(Sqlite.layer({ filename })))
    })
  )

  it.effect("go on after the file could not be asked", () =>
    Effect.gen(function* () {
      let version: number | undefined = 1
      const db = {
        prepare: () => ({
          get: () => {
            if (version === undefined) throw new Error("database is locked")
            return { data_version: version }
          }
        })
      } as unknown as DatabaseSync
      const hints = yield* makeHints(db)
      const told = yield* Queue.unbounded<undefined | string>()
      yield* Effect.forkScoped(
        Stream.runForEach(hints("alice"), (hint) => Queue.offer(told, hint)),
        { startImmediately: true }
      )
      yield* TestClock.adjust("100 millis")
      yield* Queue.clear(told)
      version = undefined
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Queue.size(told), 0)
      version = 2
      yield* TestClock.adjust("15 millis")
      assert.strictEqual(yield* Queue.size(told), 1)
    })
  )
})
