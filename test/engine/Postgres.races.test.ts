import { PgClient } from "@effect/sql-pg"
import { assert, describe, layer } from "@effect/vitest"
import { DateTime, Deferred, Effect, Fiber, Layer, Schedule } from "effect"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe, type StorageKey } from "../../src/StorageKey.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { clientOf, layerOwnTable, layerTable, lossy, newTable, plant, send, url } from "../support/postgres.ts"

const tableName = newTable()

const newKey = () => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id: "a" })

const expired = DateTime.makeUnsafe(1_000_000)

/** How many statements on the table wait for a lock. */
const waiting = Effect.map(
  send("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE $1", [`%${tableName}%`]),
  ([row]) => Number(row?.[0])
)

const untilWaiting = (count: number) =>
  Effect.repeat(waiting, { until: (found) => found >= count, schedule: Schedule.spaced("5 millis") })

const here = (key: StorageKey) => [Buffer.from(key.owner), Buffer.from(key.id)]

/**
 * Runs an operation on a record while another client's transaction has changed the record and not committed yet. The
 * operation waits for that, and goes on once it is committed.
 */
const meanwhile = <A, E, R, E2>(
  change: Effect.Effect<unknown, E2, PgClient.PgClient>,
  operation: Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    const sql = yield* PgClient.PgClient
    const [changed, mayCommit] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
    const other = yield* change.pipe(
      Effect.andThen(Deferred.succeed(changed, undefined)),
      Effect.andThen(Deferred.await(mayCommit)),
      sql.withTransaction,
      Effect.forkChild
    )
    yield* Effect.raceFirst(Deferred.await(changed), Fiber.join(other))
    const fiber = yield* Effect.forkChild(operation)
    yield* untilWaiting(1)
    yield* Deferred.succeed(mayCommit, undefined)
    yield* Fiber.join(other)
    return yield* Fiber.await(fiber)
  })

const update = (key: StorageKey, version: number, data: string) =>
  send(
    `UPDATE "${tableName}" SET version = $3, data = $4, write_id = 'theirs', expires_at = NULL WHERE owner = $1 AND id = $2`,
    [...here(key), BigInt(version), Buffer.from(data)]
  )

const remove = (key: StorageKey) => send(`DELETE FROM "${tableName}" WHERE owner = $1 AND id = $2`, here(key))

const insert = (key: StorageKey, version: number) =>
  plant(tableName)(key, { data: "theirs", version, writeId: "theirs", expiresAtSeconds: undefined })

const failureIn = (exit: { readonly _tag: string }) =>
  (exit as unknown as { readonly cause: { readonly reasons: ReadonlyArray<{ readonly error: unknown }> } }).cause
    .reasons[0]?.error as { readonly _tag: string; readonly actual?: number; readonly current?: { data: string } }

const sessions = {
  "READ COMMITTED": {},
  "REPEATABLE READ": { default_transaction_isolation: "repeatable read" },
  SERIALIZABLE: { default_transaction_isolation: "serializable" }
}

for (const [isolation, startupParameters] of Object.entries(sessions)) {
  describe.skipIf(url === undefined)(
    `An operation that waits for another client, in a session of ${isolation},`,
    () => {
      const client = clientOf(url ?? "", { startupParameters })
      const layerSession = Postgres.layer({ tableName }).pipe(
        Layer.provideMerge(layerOwnTable({ tableName })),
        Layer.provideMerge(client)
      )
      layer(layerSession, { excludeTestServices: true })((it) => {
        it.effect("is refused with the record that the other client has left", () =>
          Effect.gen(function* () {
            const backend = yield* StorageBackend
            for (const [name, operation] of Object.entries({
              byWrite: (key: StorageKey) =>
                Effect.flatMap(backend.get(key), (record) => backend.putIfVersion(key, "ours", record)),
              byVersion: (key: StorageKey) => backend.putIfVersion(key, "ours", 1),
              delete: (key: StorageKey) => backend.deleteIfVersion(key, 1),
              commit: (key: StorageKey) =>
                backend.commit(key.owner, [
                  { _tag: "Write", id: "a", data: "ours", expected: 1 },
                  { _tag: "Write", id: "b", data: "ours", expected: 0 }
                ])
            })) {
              const key = newKey()
              yield* backend.put(key, "before")
              const error = failureIn(yield* meanwhile(update(key, 2, "theirs"), operation(key)))
              assert.deepStrictEqual(
                [error._tag, error.actual, error.current?.data],
                ["VersionConflict", 2, "theirs"],
                name
              )
              assert.strictEqual((yield* backend.get(key)).data, "theirs")

              const gone = newKey()
              yield* backend.put(gone, "before")
              assert.strictEqual(
                failureIn(yield* meanwhile(remove(gone), operation(gone)))._tag,
                "RecordNotFound",
                name
              )
            }
          })
        )

        it.effect("creates nothing where another client just has", () =>
          Effect.gen(function* () {
            const backend = yield* StorageBackend
            const create = (key: StorageKey) => backend.putIfVersion(key, "ours", 0)
            const key = newKey()
            const error = failureIn(yield* meanwhile(insert(key, 1), create(key)))
            assert.deepStrictEqual([error._tag, error.actual, error.current?.data], ["VersionConflict", 1, "theirs"])

            const over = newKey()
            yield* backend.put(over, "before", { expiresAt: expired })
            const conflict = failureIn(yield* meanwhile(update(over, 2, "theirs"), create(over)))
            assert.deepStrictEqual(
              [conflict._tag, conflict.actual, conflict.current?.data],
              ["VersionConflict", 2, "theirs"]
            )

            const commit = (key: StorageKey) =>
              backend.commit(key.owner, [
                { _tag: "Write", id: "a", data: "ours", expected: 0 },
                { _tag: "Write", id: "b", data: "ours", expected: 0 }
              ])
            const both = newKey()
            const refused = failureIn(yield* meanwhile(insert(both, 1), commit(both)))
            assert.deepStrictEqual(
              [refused._tag, refused.actual, refused.current?.data],
              ["VersionConflict", 1, "theirs"]
            )
          })
        )

        it.effect("puts and deletes what the other client has left", () =>
          Effect.gen(function* () {
            const backend = yield* StorageBackend
            const [put, fresh, removed] = [newKey(), newKey(), newKey()]
            yield* backend.put(put, "before")
            yield* meanwhile(update(put, 7, "theirs"), backend.put(put, "ours"))
            assert.deepInclude(yield* backend.get(put), { data: "ours", version: 8 })
            yield* meanwhile(insert(fresh, 5), backend.put(fresh, "ours"))
            assert.deepInclude(yield* backend.get(fresh), { data: "ours", version: 6 })
            yield* backend.put(removed, "before")
            yield* meanwhile(update(removed, 2, "theirs"), backend.delete(removed))
            assert.strictEqual((yield* Effect.flip(backend.get(removed)))._tag, "RecordNotFound")
          })
        )

        it.effect("that checks in a commit that nothing is there, waits for a create and keeps one waiting", () =>
          Effect.gen(function* () {
            const backend = yield* StorageBackend
            const commit = (key: StorageKey) =>
              backend.commit(key.owner, [
                { _tag: "Check", id: "a", expected: 0 },
                { _tag: "Write", id: "b", data: "ours", expected: 0 }
              ])
            const key = newKey()
            const error = failureIn(yield* meanwhile(insert(key, 1), commit(key)))
            assert.deepStrictEqual([error._tag, error.actual], ["VersionConflict", 1])

            const free = newKey()
            yield* commit(free)
            assert.strictEqual((yield* backend.putIfVersion(free, "first", 0)).version, 1)
          })
        )
      })
    }
  )
}

describe.skipIf(url === undefined)("Postgres", () => {
  // Every part of a statement then sees one moment, and PostgreSQL reports what it can't serialize.
  const serializable = clientOf(url ?? "", { startupParameters: { default_transaction_isolation: "serializable" } })
  const own = newTable()
  StorageContract.suite(
    "Postgres, in sessions of SERIALIZABLE",
    Postgres.layer({ tableName: own }).pipe(
      Layer.provideMerge(layerOwnTable({ tableName: own })),
      Layer.provideMerge(serializable)
    ),
    { shared: true, plant: plant(own), lossy: lossy(own) }
  )

  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    it.effect("locks the records of commits in one order, so that none waits for another in a circle", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const { owner } = newKey()
        const ids = ["a", "b", "c", "d"]
        for (const id of ids) yield* backend.put(makeUnsafe({ owner, id }), "0")
        const deadlocks = Effect.map(
          send("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"),
          ([row]) => Number(row?.[0])
        )
        const before = yield* deadlocks
        const one = (i: number) =>
          Effect.gen(function* () {
            const order = i % 2 === 0 ? ids : ids.toReversed()
            const records = yield* backend.getMany(order.map((id) => makeUnsafe({ owner, id })))
            yield* Effect.ignore(
              backend.commit(
                owner,
                records.map((record, at) => ({
                  _tag: "Write" as const,
                  id: order[at] ?? "",
                  data: String(i),
                  expected: record ?? 0
                }))
              )
            )
          })
        yield* Effect.forEach(
          Array.from({ length: 200 }, (_, i) => i),
          one,
          { concurrency: 16 }
        )
        assert.strictEqual(yield* deadlocks, before)
        const all = yield* backend.getMany(ids.map((id) => makeUnsafe({ owner, id })))
        assert.strictEqual(new Set(all.map((record) => record?.data)).size, 1)
      })
    )

    it.effect("a statement that takes too long ends on the server as well, and so does a commit", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const backend = yield* StorageBackend
        const key = newKey()
        yield* backend.put(key, "before")
        const impatient = yield* Effect.provide(
          StorageBackend,
          yield* Layer.build(
            Postgres.layer({ tableName, requestTimeout: "200 millis", retrySchedule: Schedule.recurs(0) })
          )
        )
        const commit = impatient.commit(key.owner, [
          { _tag: "Write", id: "a", data: "ours", expected: 1 },
          { _tag: "Write", id: "b", data: "ours", expected: 0 }
        ])
        for (const [operation, outcome] of [
          [impatient.put(key, "ours"), "unknown"],
          [impatient.deleteIfVersion(key, 1), "unknown"],
          [commit, "not-applied"]
        ] as const) {
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* update(key, 1, "locked")
              // Outside of this transaction, as another request would be.
              const error = yield* Effect.flip(Effect.asVoid(operation))
              assert.isTrue(error._tag === "Backend" && error.reason._tag === "Timeout" && error.outcome === outcome)
              yield* Effect.repeat(waiting, { until: (count) => count === 0, schedule: Schedule.spaced("5 millis") })
            })
          )
          assert.deepInclude(yield* backend.get(key), { data: "locked", version: 1 })
        }
      })
    )

    it.effect(
      "a commit that is given up at any moment leaves no transaction open, and is not applied if it says so",
      () =>
        Effect.gen(function* () {
          const direct = yield* StorageBackend
          const applicationName = newTable()
          const client = yield* Layer.build(clientOf(url ?? "", { applicationName }))
          const { owner } = newKey()
          const outcomes = new Map<number, string>()
          const commit = (i: number) =>
            Effect.gen(function* () {
              const requestTimeout = `${1 + (i % 6)} millis` as const
              const options = { tableName, requestTimeout, retrySchedule: Schedule.recurs(0) }
              const backend = yield* Effect.provide(StorageBackend, yield* Layer.build(Postgres.layer(options)))
              const steps = ["a", "b"].map((id) => ({
                _tag: "Write" as const,
                id: `${i}/${id}`,
                data: "x",
                expected: 0
              }))
              const result = yield* Effect.result(backend.commit(owner, steps))
              const failure = result._tag === "Failure" ? result.failure : undefined
              outcomes.set(i, failure === undefined ? "made" : failure._tag === "Backend" ? failure.outcome : "?")
            }).pipe(Effect.provide(client))
          yield* Effect.forEach(
            Array.from({ length: 300 }, (_, i) => i),
            commit,
            { concurrency: 8 }
          )
          const open = Effect.map(
            send("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state <> 'idle'", [
              applicationName
            ]),
            ([row]) => Number(row?.[0])
          )
          yield* Effect.repeat(open, { until: (count) => count === 0, schedule: Schedule.spaced("10 millis") })
          for (const [i, outcome] of outcomes) {
            const found = yield* direct.getMany(["a", "b"].map((id) => makeUnsafe({ owner, id: `${i}/${id}` })))
            const count = found.filter((record) => record !== undefined).length
            assert.include(outcome === "made" ? [2] : outcome === "not-applied" ? [0] : [0, 2], count, outcome)
          }
          const counts = Object.groupBy(outcomes.values(), (outcome) => outcome)
          console.log(
            "commits given up:",
            Object.entries(counts)
              .map(([name, all]) => `${name} ${all?.length}`)
              .join(", ")
          )
          assert.isAbove(counts["not-applied"]?.length ?? 0, 0)
        })
    )

    it.effect("is not part of a caller's transaction, and stays if that is rolled back", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const backend = yield* StorageBackend
        const key = newKey()
        const error = yield* Effect.gen(function* () {
          yield* backend.put(key, "one")
          yield* backend.commit(key.owner, [
            { _tag: "Write", id: "a", data: "two", expected: 1 },
            { _tag: "Write", id: "b", data: "two", expected: 0 }
          ])
          assert.strictEqual((yield* backend.get(key)).data, "two")
          return yield* Effect.fail("rolled back")
        }).pipe(sql.withTransaction, Effect.flip)
        assert.strictEqual(error, "rolled back")
        assert.deepInclude(yield* backend.get(key), { data: "two", version: 2 })
      })
    )
  })
})
