import type { PgClient } from "@effect/sql-pg"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Layer } from "effect"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { clientOf, layerClient, newTable, send, url } from "../support/postgres.ts"

const assertMisconfigured = (error: Backend, operation: string, problem: RegExp) => {
  assert.deepStrictEqual(
    [error.reason._tag, error.operation, error.outcome, error.isRetryable],
    ["Misconfigured", operation, "not-applied", false]
  )
  assert.match(error.message, problem)
}

/** Writes and reads a record in a table, with the option `verify`. */
const use = (options: Postgres.Options) =>
  Effect.gen(function* () {
    const backend = yield* StorageBackend
    const key = makeUnsafe({ owner: "alice", id: "a" })
    const record = yield* backend.put(key, "data")
    assert.deepStrictEqual(yield* backend.get(key), record)
    return record.version
  }).pipe(Effect.provide(Postgres.layer({ ...options, verify: true })))

describe.skipIf(url === undefined)("A table of PostgreSQL", () => {
  layer(layerClient, { excludeTestServices: true })((it) => {
    it.effect("is made once, by its name in its schema, whatever characters they have", () =>
      Effect.gen(function* () {
        for (const options of [
          { tableName: newTable() },
          { tableName: newTable(), schema: newTable() },
          { tableName: `Ä" ; 'x' ${crypto.randomUUID()}`, schema: `"s".${crypto.randomUUID()}` }
        ]) {
          yield* Postgres.createTable(options)
          assert.strictEqual(yield* use(options), 1)
          yield* Postgres.ensureTable(options)
          assert.strictEqual(yield* use(options), 2)
          assertMisconfigured(
            yield* Effect.flip(Postgres.createTable(options)),
            "createTable",
            /There is a table .* already: use Postgres\.ensureTable/
          )
        }
      })
    )

    it.effect("is made by one of many that want it at once", () =>
      Effect.gen(function* () {
        const options = { tableName: newTable(), schema: newTable() }
        const ensure = Postgres.ensureTable(options).pipe(Effect.provide(clientOf(url ?? "")))
        yield* Effect.all(
          Array.from({ length: 8 }, () => ensure),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(yield* use(options), 1)
      })
    )

    it.effect("is refused if it is another one, by ensureTable and by verify", () =>
      Effect.gen(function* () {
        for (const [columns, found] of [
          ["(id int PRIMARY KEY, name text)", /its columns are id integer, name text, and its primary key is id/],
          [
            "(owner bytea, id bytea, version bigint, data bytea, write_id text, expires_at bigint)",
            /its primary key is none; expected .*, and owner, id/
          ],
          ["AS SELECT 1", /is another table/]
        ] as const) {
          const tableName = newTable()
          yield* send(`CREATE ${columns.startsWith("AS") ? "VIEW" : "TABLE"} "${tableName}" ${columns}`)
          for (const [error, operation] of [
            [yield* Effect.flip(Postgres.ensureTable({ tableName })), "ensureTable"],
            [(yield* Effect.flip(use({ tableName }))) as Backend, "open"]
          ] as const) {
            assertMisconfigured(error, operation, /is another table .*: name another table/)
            assert.match(error.message, found)
          }
        }
      })
    )

    it.effect("is refused if a newer release made it", () =>
      Effect.gen(function* () {
        const tableName = newTable()
        yield* Postgres.createTable({ tableName })
        yield* send(`COMMENT ON TABLE "${tableName}" IS 'effect-versioned-store, table version 2'`)
        assertMisconfigured(
          yield* Effect.flip(Postgres.ensureTable({ tableName })),
          "ensureTable",
          /made by a newer release \(its version is 2, and this release knows 1\): update effect-versioned-store/
        )
        // Who migrates by hand may leave the comment out.
        yield* send(`COMMENT ON TABLE "${tableName}" IS NULL`)
        yield* Postgres.ensureTable({ tableName })
      })
    )

    it.effect("has a name that PostgreSQL keeps whole", () =>
      Effect.gen(function* () {
        for (const [options, problem] of [
          [{ tableName: "x".repeat(54) }, /The tableName x+ has more than 53 bytes: give a shorter one/],
          [{ schema: "ä".repeat(32) }, /The schema ä+ has more than 63 bytes/],
          [{ tableName: "a\0b" }, /The tableName has U\+0000/]
        ] as const) {
          assertMisconfigured(yield* Effect.flip(Postgres.ensureTable(options)), "open", problem)
          const built: Effect.Effect<unknown, Backend, PgClient.PgClient> = Effect.scoped(
            Layer.build(Postgres.layer(options))
          )
          assertMisconfigured(yield* Effect.flip(built), "open", problem)
        }
        const options = { tableName: newTable().padEnd(53, "x"), schema: newTable().padEnd(63, "y") }
        yield* Postgres.ensureTable(options)
        assert.strictEqual(yield* use(options), 1)
      })
    )

    it.effect("that is missing is named, with what makes it", () =>
      Effect.gen(function* () {
        const missing = /There is no table .*: create it with Postgres\.ensureTable/
        const options = { tableName: newTable() }
        assertMisconfigured((yield* Effect.flip(use(options))) as Backend, "open", missing)
        const error = yield* StorageBackend.use((backend) =>
          Effect.flip(backend.get(makeUnsafe({ owner: "alice", id: "a" })))
        ).pipe(Effect.provide(Postgres.layer(options)))
        assertMisconfigured(error as Backend, "get", missing)
      })
    )
  })
})
