import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Redacted, Schedule } from "effect"
import { inject } from "vitest"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe, type StorageKey } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { clientOf, layerOwnTable, layerTable, newTable, plant, send, url } from "../support/postgres.ts"
import { assertHides } from "../support/shown.ts"

const tableName = newTable()
const once = Schedule.recurs(0)

const newKey = () => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id: "a" })
const where = (key: StorageKey) => [Buffer.from(key.owner), Buffer.from(key.id)]

type Expected = readonly [reason: Backend["reason"]["_tag"], outcome: Backend["outcome"], problem: RegExp]

const assertFailure = (error: { readonly _tag: string }, [reason, outcome, problem]: Expected) => {
  assert.strictEqual(error._tag, "Backend")
  const backend = error as Backend
  assert.deepStrictEqual([backend.reason._tag, backend.outcome], [reason, outcome], backend.message)
  assert.match(backend.message, problem)
  return backend
}

/** A backend on the table, in sessions with some settings. */
const session = (startupParameters: Record<string, string>, client: PgClient.PgPoolConfig = {}) =>
  Effect.gen(function* () {
    const context = yield* Postgres.layer({ tableName, retrySchedule: once }).pipe(
      Layer.provide(clientOf(url ?? "", { startupParameters, ...client })),
      Layer.build
    )
    return yield* Effect.provide(StorageBackend, context)
  })

const commitOf = (backend: StorageBackend["Service"], key: StorageKey) =>
  backend.commit(key.owner, [
    { _tag: "Write", id: key.id, data: "secret", expected: 1 },
    { _tag: "Write", id: "b", data: "secret", expected: 0 }
  ])

describe.skipIf(url === undefined)("Postgres fails", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    it.effect("if another transaction locks the record for too long, and says that nothing was applied", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const direct = yield* StorageBackend
        for (const [settings, expected] of [
          [{ lock_timeout: "50" }, ["Unavailable", "not-applied", /locked by another transaction .*: see pg_locks/]],
          [{ statement_timeout: "50" }, ["Timeout", "not-applied", /PostgreSQL has ended the statement/]]
        ] as const) {
          const key = newKey()
          yield* direct.put(key, "before")
          const backend = yield* session(settings)
          yield* sql.withTransaction(
            Effect.gen(function* () {
              yield* send(`SELECT FROM "${tableName}" WHERE owner = $1 AND id = $2 FOR UPDATE`, where(key))
              for (const operation of [
                backend.put(key, "secret"),
                backend.deleteIfVersion(key, 1),
                commitOf(backend, key)
              ]) {
                const error = assertFailure(yield* Effect.flip(Effect.asVoid(operation)), expected)
                assert.isTrue(error.isRetryable)
                assertHides(error, "secret")
              }
            })
          )
          assert.deepInclude(yield* direct.get(key), { data: "before", version: 1 })
        }
      })
    )

    it.effect("if PostgreSQL is read-only", () =>
      Effect.gen(function* () {
        const backend = yield* session({ default_transaction_read_only: "on" })
        const expected: Expected = ["Misconfigured", "not-applied", /read-only here: connect to the primary/]
        const key = newKey()
        yield* (yield* StorageBackend).put(key, "data")
        assert.strictEqual((yield* backend.get(key)).data, "data")
        assertFailure(yield* Effect.flip(backend.put(key, "x")), expected)
        assertFailure(yield* Effect.flip(commitOf(backend, key)), expected)
        const verified = Layer.build(Postgres.layer({ tableName, verify: true, retrySchedule: once })).pipe(
          Effect.provide(clientOf(url ?? "", { startupParameters: { default_transaction_read_only: "on" } }))
        )
        assertFailure(yield* Effect.flip(verified), expected)
      })
    )

    it.effect("if the connection is ended in the middle, and a write that can't apply twice is sent again", () =>
      Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        const direct = yield* StorageBackend
        const applicationName = newTable()
        const context = yield* Layer.build(
          Postgres.layer({ tableName }).pipe(Layer.provide(clientOf(url ?? "", { applicationName })))
        )
        const backend = yield* Effect.provide(StorageBackend, context)
        const terminate = send(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'",
          [applicationName]
        ).pipe(Effect.repeat({ until: (rows) => rows.length > 0, schedule: Schedule.spaced("5 millis") }))
        const key = newKey()
        const record = yield* direct.put(key, "before")
        for (const [operation, isSafe] of [
          [backend.putIfVersion(key, "after", record), true],
          [backend.put(key, "unknown"), false]
        ] as const) {
          const locked = yield* Deferred.make<void>()
          const terminated = yield* Deferred.make<void>()
          const lock = yield* send(
            `SELECT FROM "${tableName}" WHERE owner = $1 AND id = $2 FOR UPDATE`,
            where(key)
          ).pipe(
            Effect.andThen(Deferred.succeed(locked, undefined)),
            Effect.andThen(Deferred.await(terminated)),
            sql.withTransaction,
            Effect.forkChild
          )
          yield* Deferred.await(locked)
          const fiber = yield* Effect.forkChild(Effect.result(operation))
          yield* terminate
          yield* Deferred.succeed(terminated, undefined)
          yield* Fiber.join(lock)
          const result = yield* Fiber.join(fiber)
          if (isSafe) assert.strictEqual(result._tag === "Success" ? result.success.version : result.failure._tag, 2)
          else {
            const error =
              result._tag === "Failure" ? result.failure : assert.fail("PostgreSQL has ended the connection")
            assertFailure(error, ["Unavailable", "unknown", /PostgreSQL gave no answer: Connection closed/])
          }
        }
        assert.deepInclude(yield* direct.get(key), { data: "after", version: 2 })
      })
    )

    it.effect("without a retry, if a row is damaged, until the row is deleted", () =>
      Effect.gen(function* () {
        const damaged = newTable()
        yield* send(
          `CREATE TABLE "${damaged}" (owner bytea, id bytea, version bigint, data bytea, write_id text, expires_at bigint,
          PRIMARY KEY (owner, id))`
        )
        const backend = yield* Effect.provide(
          StorageBackend,
          yield* Layer.build(Postgres.layer({ tableName: damaged }))
        )
        for (const [values, problem] of [
          ["0, 'x', NULL, NULL", /version is not from 1 up/],
          ["NULL, 'x', NULL, NULL", /version is not from 1 up/],
          ["9007199254740992, 'x', NULL, NULL", /version is not from 1 up/],
          ["1, '\\xff', NULL, NULL", /data is no UTF-8/],
          ["1, NULL, NULL, NULL", /data is no UTF-8/],
          ["1, 'x', NULL, 9007199254740992", /expires_at is too large/]
        ] as const) {
          const key = newKey()
          yield* send(`INSERT INTO "${damaged}" VALUES ($1, $2, ${values})`, where(key))
          for (const operation of [
            Effect.flip(backend.get(key)),
            Effect.flip(backend.getMany([key])),
            Effect.flip(backend.putIfVersion(key, "y", 0)),
            Effect.flip(backend.putIfVersion(key, "y", 7)),
            Effect.flip(backend.deleteIfVersion(key, 7)),
            Effect.flip(commitOf(backend, key)),
            Effect.flip(backend.listByPrefix(makePrefix({ owner: key.owner, idPrefix: "" })))
          ]) {
            const error = assertFailure(yield* operation, ["Corrupt", "not-applied", problem])
            assert.match(
              error.message,
              /The row of the record a of owner-.*Repair it in PostgreSQL, or delete the record/
            )
            assert.isFalse(error.isRetryable)
          }
          assert.isTrue(yield* backend.delete(key))
          assert.strictEqual((yield* backend.put(key, "new")).version, 1)
        }
      })
    )

    it.effect("if the table's own rules are broken by hand", () =>
      Effect.gen(function* () {
        const tight = newTable()
        yield* Postgres.createTable({ tableName: tight })
        yield* send(`ALTER TABLE "${tight}" ADD CHECK (octet_length(data) < 5)`)
        const backend = yield* Effect.provide(StorageBackend, yield* Layer.build(Postgres.layer({ tableName: tight })))
        const error = yield* Effect.flip(backend.put(newKey(), "secret"))
        assertHides(error, "secret")
        assertFailure(error, ["Corrupt", "not-applied", /does not keep the table's own constraints/])

        const watched = newTable()
        yield* Postgres.createTable({ tableName: watched })
        yield* send(`CREATE FUNCTION "${watched}"() RETURNS trigger LANGUAGE plpgsql AS
          $$ BEGIN RAISE EXCEPTION '%', convert_from(NEW.data, 'UTF8'); END $$`)
        yield* send(`CREATE TRIGGER t BEFORE INSERT ON "${watched}" FOR EACH ROW EXECUTE FUNCTION "${watched}"()`)
        const refusing = yield* Effect.provide(
          StorageBackend,
          yield* Layer.build(Postgres.layer({ tableName: watched }))
        )
        const raised = yield* Effect.flip(refusing.put(newKey(), "secret"))
        assertHides(raised, "secret")
        assertFailure(raised, ["Unknown", "not-applied", /PostgreSQL refused the statement .*P0001/])
      })
    )

    it.effect("with versions exact up to the last safe one", () =>
      Effect.gen(function* () {
        const backend = yield* StorageBackend
        const key = newKey()
        const version = Number.MAX_SAFE_INTEGER - 2
        yield* plant(tableName)(key, { data: "data", version, writeId: undefined, expiresAtSeconds: undefined })
        for (const next of [version + 1, version + 2]) {
          assert.strictEqual((yield* backend.putIfVersion(key, "data", yield* backend.get(key))).version, next)
        }
        const error = yield* Effect.flip(backend.put(key, "data"))
        assert.isTrue(error._tag === "CapacityExceeded" && error.resource === "Versions")
      })
    )
  })
})

describe.skipIf(!inject("hasPostgresServer"))("Postgres fails, and says what to do,", () => {
  it.live("if the user, the password, the database or a permission is wrong, or connections run out", () =>
    Effect.gen(function* () {
      const cluster = yield* PostgresServer.makeCluster(["max_connections=6", "fsync=off"])
      writeFileSync(
        join(cluster.folder, "data", "pg_hba.conf"),
        "host all postgres 127.0.0.1/32 trust\nhost all nobody 127.0.0.1/32 reject\nhost all all 127.0.0.1/32 scram-sha-256\n"
      )
      yield* cluster.run
      const admin = clientOf(cluster.url)
      yield* Effect.gen(function* () {
        yield* Postgres.ensureTable({ tableName })
        for (const user of ["reader", "nobody"]) yield* send(`CREATE USER ${user} PASSWORD 'hunter2'`)
        yield* send(`GRANT SELECT ON "${tableName}" TO reader`)
      }).pipe(Effect.provide(admin))

      /** The failure of a write by a user who may only read. */
      const failure = (config: PgClient.PgPoolConfig, options: Postgres.Options = {}) =>
        Effect.gen(function* () {
          const user = { username: "reader", password: Redacted.make("hunter2"), maxConnections: 1 }
          const context = yield* Postgres.layer({ tableName, retrySchedule: once, ...options }).pipe(
            Layer.provide(clientOf(cluster.url, { ...user, ...config })),
            Layer.build
          )
          const backend = yield* Effect.provide(StorageBackend, context)
          return yield* backend.put(newKey(), "secret")
        }).pipe(
          Effect.scoped,
          Effect.flip,
          Effect.tap((error) => Effect.sync(() => assertHides(error, "secret", "hunter")))
        )

      const cases: ReadonlyArray<readonly [PgClient.PgPoolConfig, Postgres.Options, Expected]> = [
        [{ password: Redacted.make("hunter3") }, {}, ["Unauthorized", "not-applied", /does not accept the password/]],
        [{ password: undefined }, {}, ["Unauthorized", "not-applied", /can't agree on a login/]],
        [{ username: "nobody" }, {}, ["Unauthorized", "not-applied", /check its name, and pg_hba\.conf/]],
        [{ database: "missing" }, {}, ["Misconfigured", "not-applied", /no such database/]],
        [{}, {}, ["Unauthorized", "not-applied", /no permission for the table .*: GRANT SELECT, INSERT, UPDATE/]],
        [
          {},
          { verify: true },
          ["Unauthorized", "not-applied", /no permission for INSERT, UPDATE, DELETE on the table .*: GRANT it/]
        ],
        [
          { url: Redacted.make("hunter2") },
          {},
          ["Misconfigured", "not-applied", /Invalid connection URL. A URL is such as postgres:/]
        ],
        [
          { url: Redacted.make("postgres://x:hunter2@host:0/x") },
          {},
          ["Misconfigured", "not-applied", /Invalid port in URL authority. A URL is such as postgres:/]
        ],
        [{ port: 1 }, {}, ["Unavailable", "not-applied", /can't be reached: connect ECONNREFUSED/]],
        [{ host: "missing.invalid" }, {}, ["Unavailable", "not-applied", /can't be reached: getaddrinfo/]]
      ]
      for (const [config, options, expected] of cases) assertFailure(yield* failure(config, options), expected)

      yield* Effect.gen(function* () {
        const sql = yield* PgClient.PgClient
        yield* Effect.forEach([1, 2, 3], () => sql.reserve)
        const full: Expected = [
          "Unavailable",
          "not-applied",
          /PostgreSQL has as many connections as its max_connections/
        ]
        assert.isTrue(assertFailure(yield* failure({}), full).isRetryable)
      }).pipe(Effect.scoped, Effect.provide(clientOf(cluster.url)))
    })
  )

  it.live("if a page of the table is damaged on the disk", () =>
    Effect.gen(function* () {
      const cluster = yield* PostgresServer.makeCluster(["fsync=off"])
      const backendOf = Postgres.layer({ tableName, retrySchedule: once }).pipe(
        Layer.provideMerge(layerOwnTable({ tableName })),
        Layer.provideMerge(clientOf(cluster.url)),
        Layer.build
      )
      const key = newKey()
      const file = yield* Effect.gen(function* () {
        yield* cluster.run
        const context = yield* backendOf
        yield* StorageBackend.use((backend) => backend.put(key, "data")).pipe(Effect.provide(context))
        const [row] = yield* Effect.provide(send(`SELECT pg_relation_filepath('"${tableName}"')`), context)
        return String(row?.[0])
      }).pipe(Effect.scoped)
      writeFileSync(join(cluster.folder, "data", file), Buffer.alloc(8192, 0xab))
      yield* Effect.retry(cluster.run, Schedule.spaced("50 millis"))
      const backend = yield* Effect.provide(StorageBackend, yield* backendOf)
      for (const operation of [Effect.asVoid(backend.get(key)), Effect.asVoid(backend.put(key, "again"))]) {
        const error = yield* Effect.flip<void, { readonly _tag: string }, never>(operation)
        assertFailure(error, [
          "Corrupt",
          "not-applied",
          /finds its data damaged: restore the table .* from a backup .*XX001/
        ])
      }
    })
  )
})
