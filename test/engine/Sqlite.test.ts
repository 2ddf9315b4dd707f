import { existsSync } from "node:fs"
import { DatabaseSync, StatementSync } from "node:sqlite"
import { assert, describe, it, vi } from "@effect/vitest"
import { Cause, Clock, Config, ConfigProvider, DateTime, Effect, Fiber, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as StoragePrefix from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { lossy, newFiles, on, open, plant, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const key = makeUnsafe({ owner: "alice", id: "a" })
const alices = StoragePrefix.makeUnsafe({ owner: "alice", idPrefix: "" })

describe("Sqlite", () => {
  const shared = newFile()
  StorageContract.suite("Sqlite", Sqlite.layer({ filename: shared }), {
    shared: true,
    plant: plant(shared),
    lossy: lossy(shared)
  })

  it.effect("keeps records, versions and expiry in the file, and closes it with the scope", () =>
    Effect.gen(function* () {
      const filename = newFile()
      const expiresAt = DateTime.add(yield* DateTime.now, { hours: 1 })
      const written = yield* on({ filename })((backend) =>
        Effect.andThen(backend.put(key, "one"), backend.put(key, "two", { expiresAt }))
      )
      assert.isFalse(existsSync(`${filename}-wal`), "the file is still open")
      assert.deepStrictEqual(yield* on({ filename })((backend) => backend.get(key)), written)
      assert.strictEqual(written.version, 2)
      yield* TestClock.adjust("1 hour")
      const gone = yield* Effect.flip(on({ filename })((backend) => backend.get(key)))
      assert.strictEqual(gone._tag, "RecordNotFound")
    })
  )

  it.effect("in memory is fresh for every build of the Layer, and for this process alone", () =>
    Effect.gen(function* () {
      const memory = on({ filename: ":memory:" })
      assert.strictEqual((yield* memory((backend) => backend.put(key, "data"))).version, 1)
      assert.strictEqual((yield* memory((backend) => backend.put(key, "data"))).version, 1)
    })
  )

  it.effect("takes its settings from configuration", () =>
    Effect.gen(function* () {
      const layer = (env: Record<string, string>) =>
        Sqlite.layerConfig({
          filename: Config.NonEmptyString("RECORDS_FILE"),
          maxDataBytes: Config.withDefault(Config.Int("RECORDS_MAX"), undefined)
        }).pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))))
      const filename = newFile()
      const put = StorageBackend.use((backend) => backend.put(key, "data"))
      yield* Effect.provide(put, layer({ RECORDS_FILE: filename }))
      assert.isTrue(existsSync(filename))
      const tooLarge = yield* Effect.flip(Effect.provide(put, layer({ RECORDS_FILE: filename, RECORDS_MAX: "3" })))
      assert.strictEqual(tooLarge._tag, "CapacityExceeded")
      const missing = yield* Effect.flip(Effect.provide(put, layer({})))
      assert.include(missing.message, "RECORDS_FILE")
    })
  )

  it.effect("acknowledges a write once the disk has it, or earlier if the options say so", () =>
    Effect.gen(function* () {
      // What SQLite calls FULL and NORMAL, as the connection has it: the layer's own is the one that opens the file.
      const opened: Array<DatabaseSync> = []
      const exec = DatabaseSync.prototype.exec
      DatabaseSync.prototype.exec = function (sql) {
        opened.push(this)
        return exec.call(this, sql)
      }
      const levelOf = (options: Sqlite.Options) =>
        on(options)(() => Effect.sync(() => opened.at(-1)?.prepare("PRAGMA synchronous").get()?.synchronous))
      yield* Effect.gen(function* () {
        assert.strictEqual(yield* levelOf({ filename: newFile() }), 2)
        assert.strictEqual(yield* levelOf({ filename: newFile(), synchronous: "NORMAL" }), 1)
      }).pipe(
        Effect.ensuring(
          Effect.sync(() => {
            DatabaseSync.prototype.exec = exec
          })
        )
      )
    })
  )

  it.effect("dies if an option is not valid, and names the option", () =>
    Effect.gen(function* () {
      const file = { filename: newFile() }
      for (const [options, message] of [
        [{ filename: undefined }, "filename must be a string: it is undefined"],
        [{ filename: null }, "filename must be a string: it is null"],
        [{ filename: 7 }, "filename must be a string: it is 7"],
        [{ ...file, retrySchedule: "often" }, 'retrySchedule must be a Schedule: it is "often"'],
        [{ ...file, maxDataBytes: Number.NaN }, /^maxDataBytes must be .*: it is NaN$/],
        [{ ...file, maxDataBytes: "5" }, /^maxDataBytes must be .*: it is "5"$/],
        [{ ...file, maxDataBytes: null }, /^maxDataBytes must be .*: it is null$/]
      ] as const) {
        const defect = yield* Effect.flip(Effect.sandbox(open(options as never)))
        const found = Cause.squash(defect)
        assert.instanceOf(found, RangeError)
        assert.match((found as RangeError).message, message instanceof RegExp ? message : new RegExp(`^${message}$`))
      }
    })
  )

  it.effect(
    "ends a page of large records early, and leaves no read behind that would keep the log from being cleared",
    () =>
      Effect.gen(function* () {
        const filename = newFile()
        yield* on({ filename })(
          Effect.fnUntraced(function* (backend) {
            const ids = Array.from({ length: 20 }, (_, i) => String(i).padStart(2, "0"))
            for (const id of ids) yield* backend.put(makeUnsafe({ owner: "alice", id }), "x".repeat(300_000))
            for (const order of ["ascending", "descending"] as const) {
              const found: Array<string> = []
              let cursor: string | undefined
              do {
                const page = yield* backend.listByPrefix(alices, {
                  cursor,
                  order
                })
                assert.isBelow(page.records.length, ids.length)
                found.push(...page.records.map((record) => record.key.id))
                cursor = page.cursor
              } while (cursor !== undefined)
              assert.deepStrictEqual(found, order === "ascending" ? ids : ids.toReversed())
              const cleared = withDatabase(filename, (db) => db.prepare("PRAGMA wal_checkpoint(TRUNCATE)").get())
              assert.strictEqual(cleared?.busy, 0)
            }
          })
        )
      })
  )
})

describe("Sqlite, where many records are read at once,", () => {
  it.effect("runs one statement, which looks each record up by its key", () =>
    Effect.gen(function* () {
      const filename = newFile()
      const prepare = vi.spyOn(DatabaseSync.prototype, "prepare")
      const all = vi.spyOn(StatementSync.prototype, "all")
      yield* on({ filename })(
        Effect.fnUntraced(function* (backend) {
          yield* backend.put(key, "data")
          all.mockClear()
          const found = yield* backend.getMany([makeUnsafe({ owner: "other", id: "a" }), key])
          assert.deepStrictEqual(
            found.map((record) => record?.data),
            [undefined, "data"]
          )
          assert.strictEqual(all.mock.calls.length, 1)
        })
      )
      const sql = prepare.mock.calls.map(([sql]) => sql).filter((sql) => sql.includes("json_each"))
      prepare.mockRestore()
      all.mockRestore()
      assert.strictEqual(sql.length, 1)
      const plan = withDatabase(filename, (db) => db.prepare(`EXPLAIN QUERY PLAN ${sql[0]}`).all("[]"))
      const steps = plan.map(({ detail }) => String(detail)).join("; ")
      assert.match(steps, /^SCAN json_each.*; SEARCH records USING INDEX \S+ \(owner=\? AND id=\?\)/)
    })
  )
})

describe("Sqlite.cleanupExpired", () => {
  it.effect("uses the index, and lets other fibers run in between", () =>
    Effect.gen(function* () {
      const filename = newFile()
      const prepared: Array<string> = []
      const prepare = vi.spyOn(DatabaseSync.prototype, "prepare")
      yield* on({ filename })(
        Effect.fnUntraced(function* (backend) {
          prepared.push(...prepare.mock.calls.map(([sql]) => sql).filter((sql) => /DELETE.*expires_at <= /.test(sql)))
          prepare.mockRestore()
          assert.strictEqual(prepared.length, 1)
          const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 10 })
          for (let i = 0; i < 1000; i++) {
            yield* backend.put(makeUnsafe({ owner: `owner ${i % 7}`, id: String(i) }), "data", { expiresAt })
          }
          yield* backend.put(key, "stays")
          yield* TestClock.adjust("310 seconds")
          let turns = 0
          const other = yield* Effect.forkChild(
            Effect.forever(
              Effect.andThen(
                Effect.sync(() => turns++),
                Effect.yieldNow
              )
            ),
            { startImmediately: true }
          )
          assert.strictEqual(yield* backend.cleanupExpired, 1000)
          assert.isAtLeast(turns, 5)
          yield* Fiber.interrupt(other)
          assert.strictEqual(yield* backend.cleanupExpired, 0)
          assert.strictEqual((yield* backend.get(key)).data, "stays")
        })
      )
      const plan = withDatabase(filename, (db) => db.prepare(`EXPLAIN QUERY PLAN ${prepared.at(-1)}`).all({ now: 0 }))
      const steps = plan.map(({ detail }) => String(detail)).join("; ")
      assert.include(steps, "USING COVERING INDEX records_by_expiry (expires_at<?)")
      assert.notInclude(steps, "SCAN")
    })
  )
})

describe("Sqlite, by clocks that differ", () => {
  it.effect(
    "a cleanup leaves a record alone for 300 seconds after its expiry, for clients whose clocks are behind",
    () =>
      Effect.gen(function* () {
        const filename = newFile()
        const expiresAt = DateTime.add(yield* DateTime.now, { seconds: 10 })
        const behind = yield* Layer.build(Sqlite.layer({ filename }))
        const ahead = yield* Layer.build(Sqlite.layer({ filename }))
        const ofClientBehind = <A, E>(f: (backend: StorageBackend["Service"]) => Effect.Effect<A, E>) =>
          Effect.provide(StorageBackend.use(f), behind)
        const cleanup = Effect.provide(
          StorageBackend.use((backend) => backend.cleanupExpired),
          ahead
        )
        const record = yield* ofClientBehind((backend) => backend.put(key, "data", { expiresAt }))
        /** An Effect of a client whose clock is so many seconds ahead. */
        const aheadBy = (seconds: number) =>
          Effect.gen(function* () {
            const clock = yield* Clock.Clock
            const millis = () => clock.currentTimeMillisUnsafe() + seconds * 1000
            return yield* Effect.provideService(cleanup, Clock.Clock, { ...clock, currentTimeMillisUnsafe: millis })
          })
        assert.strictEqual(yield* aheadBy(200), 0)
        assert.deepStrictEqual(yield* ofClientBehind((backend) => backend.get(key)), record)
        assert.strictEqual(
          (yield* ofClientBehind((backend) => backend.putIfVersion(key, "data", record, { expiresAt }))).version,
          2
        )
        assert.strictEqual(yield* aheadBy(309), 0)
        assert.strictEqual(yield* aheadBy(310), 1)
        assert.strictEqual((yield* Effect.flip(ofClientBehind((backend) => backend.get(key))))._tag, "RecordNotFound")
      }).pipe(Effect.scoped)
  )
})
