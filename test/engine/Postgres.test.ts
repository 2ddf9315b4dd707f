import { PgClient } from "@effect/sql-pg"
import { assert, describe, layer, it as test } from "@effect/vitest"
import { DateTime, Effect, Layer, Metric, Schema } from "effect"
import { inject } from "vitest"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import { layoutOf } from "../../src/engine/internal/postgres/layout.ts"
import { statementsOf } from "../../src/engine/internal/postgres/statements.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"
import { clientOf, layerOwnTable, layerTable, lossy, newTable, plant, send, url } from "../support/postgres.ts"

const tableName = newTable()

const newKey = (id = "a") => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id })

describe.skipIf(url === undefined)("Postgres", () => {
  StorageContract.suite("Postgres", layerTable({ tableName }), {
    shared: true,
    plant: plant(tableName),
    lossy: lossy(tableName)
  })

  // A client that pipelines, renames columns and prepares nothing, as an application may have set it up.
  const own = newTable()
  const unusual = { multiplex: true, prepare: false, transformResultNames: (name: string) => `${name}_` }
  StorageContract.suite(
    "Postgres, on an unusual client",
    Postgres.layer({ tableName: own }).pipe(
      Layer.provideMerge(layerOwnTable({ tableName: own })),
      Layer.provideMerge(clientOf(url ?? "", unusual))
    ),
    { shared: true, plant: plant(own), lossy: lossy(own) }
  )

  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    it.effect("takes a limit of one record's data", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        yield* backend.put(newKey(), "1234")
        assert.strictEqual((yield* Effect.flip(backend.put(newKey(), "12345")))._tag, "CapacityExceeded")
      }).pipe(Effect.provide(Postgres.layer({ tableName, maxDataBytes: 4 })))
    )

    it.effect("counts requests and conflicts, by its table", () =>
      Effect.gen(function* () {
        const tableName = newTable()
        yield* Postgres.ensureTable({ tableName })
        yield* Effect.gen(function* () {
          const backend = yield* StorageBackend
          const key = newKey()
          const record = yield* backend.put(key, "one")
          yield* Effect.flip(backend.putIfVersion(key, "two", record.version + 1))
          yield* backend.delete(key)
        }).pipe(Effect.provide(Postgres.layer({ tableName })))
        const counters = (yield* Metric.snapshot).flatMap((metric) =>
          metric.attributes?.["db.collection.name"] === tableName && metric.type === "Counter"
            ? [[metric.id, metric.attributes["db.system.name"], metric.state.count]]
            : []
        )
        assert.deepStrictEqual(counters.sort(), [
          ["effect_versioned_store.conflicts", "postgresql", 1],
          ["effect_versioned_store.requests", "postgresql", 3]
        ])
      })
    )

    it.effect("lists large records in pages that end early", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const { owner } = newKey()
        const ids = Array.from({ length: 20 }, (_, i) => String(i).padStart(2, "0"))
        for (const id of ids) yield* backend.put(makeUnsafe({ owner, id }), "x".repeat(300_000))
        for (const order of ["ascending", "descending"] as const) {
          const found: Array<string> = []
          let cursor: string | undefined
          do {
            const page = yield* backend.listByPrefix(makePrefix({ owner, idPrefix: "" }), {
              cursor,
              order,
              limit: 1000
            })
            assert.isBelow(page.records.length, ids.length)
            found.push(...page.records.map(({ key }) => key.id))
            cursor = page.cursor
          } while (cursor !== undefined)
          assert.deepStrictEqual(found, order === "ascending" ? ids : ids.toReversed())
        }
      })
    )

    it.effect("reads no more of the primary key than a page, even if the planner expects few records", () =>
      Effect.gen(function* () {
        const layout = layoutOf({ tableName: newTable() })
        yield* Postgres.ensureTable({ tableName: layout.name })
        yield* send(`ALTER TABLE ${layout.table} SET (autovacuum_enabled = off)`)
        yield* send(
          `INSERT INTO ${layout.table} SELECT 'many', i::text::bytea, 1, repeat('x', 100)::bytea FROM generate_series(1, 100000) i`
        )
        const { list } = statementsOf(layout)
        for (const statement of [list.ascending, list.descending]) {
          // Of a statement that is not prepared, the planner knows the parameters.
          const values = ["many", "", "\uffff"].map((text) => Buffer.from(text))
          const explained = (yield* PgClient.PgClient).unsafe(`EXPLAIN (ANALYZE) ${statement}`, [...values, 101n, 0n])
          const plan = (yield* explained.valuesUnprepared).flat().join("\n")
          assert.match(plan, /Index Scan .*_pkey.* rows=101 loops=1/)
          assert.notInclude(plan, "Sort Key")
        }
      })
    )

    it.effect("keeps a row for each record, with its expiry in epoch seconds", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = makeUnsafe({ owner: newKey().owner, id: "ä" })
        const record = yield* backend.put(key, "dä\0ta", { expiresAt: DateTime.makeUnsafe(4_000_000_000_001) })
        const rows = yield* send(
          `SELECT convert_from(id, 'UTF8'), data, version, write_id, expires_at FROM "${tableName}" WHERE owner = $1`,
          [Buffer.from(key.owner)]
        )
        assert.deepStrictEqual(rows, [["ä", new Uint8Array(Buffer.from("dä\0ta")), 1n, record.writeId, 4_000_000_001n]])
      })
    )

    it.effect("removes what has expired for more than five minutes, in batches, through the index", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const sql = yield* PgClient.PgClient
        const { owner } = newKey()
        const nowSeconds = Math.floor(Date.now() / 1000)
        yield* backend.cleanupExpired
        yield* Effect.forEach(
          Array.from({ length: 350 }, (_, i) => i),
          (i) =>
            plant(tableName)(makeUnsafe({ owner, id: String(i) }), {
              data: "x",
              version: 1,
              writeId: undefined,
              expiresAtSeconds: i < 250 ? nowSeconds - 301 : nowSeconds - 200
            }),
          { concurrency: 8 }
        )
        // A record that another transaction holds is left for the next cleanup.
        yield* sql.withTransaction(
          Effect.gen(function* () {
            yield* send(`SELECT FROM "${tableName}" WHERE owner = $1 AND id = $2 FOR UPDATE`, [
              Buffer.from(owner),
              Buffer.from("0")
            ])
            assert.strictEqual(yield* backend.cleanupExpired, 249)
          })
        )
        assert.strictEqual(yield* backend.cleanupExpired, 1)
        const [row] = yield* send(`SELECT count(*) FROM "${tableName}" WHERE owner = $1`, [Buffer.from(owner)])
        assert.deepStrictEqual(row, [100n])
        const plan = yield* sql.withTransaction(
          Effect.andThen(
            send("SET LOCAL enable_seqscan = off"),
            send(`EXPLAIN SELECT owner FROM "${tableName}" WHERE expires_at <= 1 LIMIT 100`)
          )
        )
        assert.include(plan.flat().join("\n"), `${tableName}_by_expiry`)
      })
    )
  })
})

describe.skipIf(!inject("hasPostgresServer"))("Postgres sends, counted on the server,", () => {
  test.live("one statement for each operation, won or lost, and five for a commit", () =>
    Effect.gen(function* () {
      const cluster = yield* PostgresServer.makeCluster(["shared_preload_libraries=pg_stat_statements", "fsync=off"])
      yield* cluster.run
      const admin = yield* Layer.build(clientOf(cluster.url))
      const ask = (text: string) => Effect.provide(send(text), admin)
      yield* ask("CREATE EXTENSION pg_stat_statements")
      const context = yield* Postgres.layer({ tableName }).pipe(
        Layer.provide(layerOwnTable({ tableName })),
        Layer.provide(clientOf(cluster.url)),
        Layer.build
      )
      const backend = yield* Effect.provide(StorageBackend, context)
      const counts: Record<string, number> = {}
      const count = <A, E>(name: string, operation: Effect.Effect<A, E>) =>
        Effect.gen(function* () {
          yield* ask("SELECT pg_stat_statements_reset()")
          const answer = yield* operation
          const [row] = yield* ask(
            "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'"
          )
          counts[name] = Number(row?.[0])
          return answer
        })
      const key = newKey()
      const created = yield* count("create", backend.putIfVersion(key, "one", 0))
      yield* count("create, lost", Effect.flip(backend.putIfVersion(key, "one", 0)))
      yield* count("get", backend.get(key))
      const put = yield* count("put", backend.put(key, "two"))
      yield* count("putIfVersion", backend.putIfVersion(key, "three", put))
      yield* count("putIfVersion, lost", Effect.flip(backend.putIfVersion(key, "four", created)))
      const others = Array.from({ length: 99 }, (_, i) => makeUnsafe({ owner: key.owner, id: `${i}` }))
      yield* count("getMany", backend.getMany([key, ...others]))
      yield* count("page", backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" })))
      yield* count("deleteIfVersion, lost", Effect.flip(backend.deleteIfVersion(key, created)))
      yield* count("deleteIfVersion", backend.deleteIfVersion(key, 3))
      yield* backend.put(key, "again")
      yield* count("delete", backend.delete(key))
      yield* count("delete of nothing", backend.delete(key))
      yield* count("cleanup of nothing", backend.cleanupExpired)
      for (const [name, statements] of Object.entries(counts)) assert.strictEqual(statements, 1, name)

      const write = (expected: number) => ({ _tag: "Write" as const, id: "a", data: "x", expected })
      const other = { _tag: "Write" as const, id: "b", data: "x", expected: 0 }
      yield* count("commit of creations", backend.commit(key.owner, [write(0), other]))
      yield* count("commit", backend.commit(key.owner, [write(1), { ...other, expected: 1 }]))
      yield* count("commit, lost", Effect.flip(backend.commit(key.owner, [write(1), { ...other, expected: 1 }])))
      const checks = [write(2), { ...other, expected: 2 }].map((step) => ({ ...step, _tag: "Check" as const }))
      yield* count("commit of checks", backend.commit(key.owner, checks))
      const counters = yield* Effect.provide(VersionedStore.make({ idPrefix: "n", schema: Schema.Int }), context)
      yield* counters.create({ owner: key.owner, id: "n" }, 0)
      yield* count(
        "update",
        counters.update({ owner: key.owner, id: "n" }, (n) => n + 1)
      )
      console.log(
        `PostgreSQL, statements an operation: ${Object.entries(counts)
          .map(([name, statements]) => `${name} ${statements}`)
          .join("; ")}`
      )
      assert.deepInclude(counts, {
        "commit of creations": 3,
        commit: 5,
        "commit, lost": 4,
        "commit of checks": 1,
        update: 2
      })
    })
  )
})
