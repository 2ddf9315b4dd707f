/**
 * Records in a table of PostgreSQL, 13 or newer, for applications that have one already.
 *
 * It is built on Effect's own client, `PgClient` of `@effect/sql-pg`, so an application shares its pool. Each operation
 * is one statement and one round trip, whether a write is made or refused. A commit of several records is one
 * transaction, and `cleanupExpired` takes a statement for each hundred records.
 *
 * All owners share one table, with `owner` and `id` as its primary key. They are `bytea`, like the data, so they keep
 * every character, and ids are ordered by their bytes. Nothing removes expired records unless `cleanupExpired` runs.
 *
 * Records are not part of a surrounding `sql.withTransaction`: an operation in it takes another connection of the pool,
 * is made at once, and stays if that transaction is rolled back.
 */
import { PgClient } from "@effect/sql-pg"
import type * as Config from "effect/Config"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import type * as Schedule from "effect/Schedule"
import type { SqlClient } from "effect/sql/SqlClient"
import * as Engine from "../Engine.ts"
import { readOptions } from "../internal/config.ts"
import { checkBoolean, checkLimit, checkSchedule } from "../internal/options.ts"
import { defaultMaxDataBytes, defaultRetrySchedule, StorageBackend } from "../StorageBackend.ts"
import type { Backend } from "../StorageError.ts"
import { isWorthRepeating } from "./internal/failure.ts"
import { failureOf } from "./internal/postgres/failure.ts"
import { channelOf, makeHints } from "./internal/postgres/hints.ts"
import { layoutOf, problemOfNames, type TableOptions } from "./internal/postgres/layout.ts"
import { makeEngine } from "./internal/postgres/requests.ts"
import { asRead, makeSend } from "./internal/postgres/send.ts"
import * as Table from "./internal/postgres/table.ts"
import { verify as verifyTable } from "./internal/postgres/verify.ts"

export type { TableOptions } from "./internal/postgres/layout.ts"

/**
 * The table of the records, and how statements are sent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends TableOptions {
  /**
   * How long a statement, or the transaction of a commit, may take, with the wait for a connection of the pool; 5
   * seconds by default. After that the client asks PostgreSQL to end it. It is measured by the time of the machine and
   * not by Effect's `Clock`, so a `TestClock` does not make a statement time out.
   */
  readonly requestTimeout?: Duration.Input | undefined
  /** The most bytes of UTF-8 that one record's data may take; 384 KiB by default. */
  readonly maxDataBytes?: number | undefined
  /** How a transient failure is retried; `StorageBackend.defaultRetrySchedule` by default. */
  readonly retrySchedule?: Schedule.Schedule<unknown, Backend> | undefined
  /**
   * Whether building the Layer also fails if the table is missing or another one, if the user may not read and write
   * it, or if PostgreSQL is read-only; false by default. It takes one statement, which changes nothing.
   */
  readonly verify?: boolean | undefined
  /**
   * Whether each write notifies the watches of other processes (PostgreSQL's `NOTIFY`), and whether watches here listen
   * to that, on one connection of the pool; false by default. PostgreSQL commits transactions that notify one after
   * another, so writes cost more, also if nobody watches. Without it, watches see what other processes change when they
   * next read.
   */
  readonly hints?: boolean | undefined
}

/** OpenTelemetry's name of the engine. */
const system = "postgresql"

const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<StorageBackend["Service"], Backend, PgClient.PgClient> {
  const {
    hints = false,
    maxDataBytes = defaultMaxDataBytes,
    requestTimeout = "5 seconds",
    retrySchedule = defaultRetrySchedule,
    verify = false
  } = options
  checkSchedule("retrySchedule", retrySchedule)
  checkBoolean("verify", verify)
  checkBoolean("hints", hints)
  checkLimit("maxDataBytes", maxDataBytes)
  const layout = layoutOf(options)
  const problem = problemOfNames(options)
  if (problem !== undefined) return yield* problem
  const sql = yield* PgClient.PgClient
  const send = makeSend(sql, layout, requestTimeout)
  if (verify) {
    yield* verifyTable(send, layout).pipe(
      Effect.mapError((error) => asRead(error, "open")),
      Effect.retry({ schedule: retrySchedule, while: isWorthRepeating })
    )
  }
  const engine = makeEngine(send, layout, hints ? channelOf(layout) : undefined)
  return Engine.make(hints ? { ...engine, hints: makeHints(sql, layout) } : engine, {
    maxDataBytes,
    retrySchedule,
    // Statements run apart from their caller, and so without its span.
    telemetry: { system, collection: layout.name, isParent: false }
  })
})

/**
 * Records in a table, through the `PgClient` that is provided. The table must exist: see {@link ensureTable}.
 *
 * Building the Layer sends nothing, unless the option `verify` is on. Without it, the first operation shows what is
 * wrong.
 *
 * @example
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import * as Postgres from "effect-versioned-store/Postgres"
 * import { Layer, Redacted } from "effect"
 *
 * const Client = PgClient.layer({ url: Redacted.make("postgres://localhost/shop") })
 *
 * export const Storage = Postgres.layer({ schema: "shop", tableName: "records" }).pipe(Layer.provide(Client))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<StorageBackend, Backend, PgClient.PgClient> =>
  Layer.effect(StorageBackend, make(options))

/**
 * A pool of connections: `PgClient.layer` of `@effect/sql-pg`, with this library's errors. It also provides Effect's
 * `SqlClient`. It connects with the first statement.
 *
 * @example
 * ```ts
 * import * as Postgres from "effect-versioned-store/Postgres"
 * import { Redacted } from "effect"
 *
 * export const client = Postgres.layerClient({ url: Redacted.make("postgres://localhost/shop"), maxConnections: 20 })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClient = (config: PgClient.PgPoolConfig): Layer.Layer<PgClient.PgClient | SqlClient, Backend> =>
  PgClient.layerFrom(
    Effect.mapError(PgClient.make({ applicationName: "effect-versioned-store", ...config }), (error) =>
      failureOf(error, "", "open")
    )
  )

/**
 * The connection of {@link layerConfig}.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClientOptions {
  /** For example `postgres://user:password@host:5432/database?sslmode=require`. */
  readonly url: Redacted.Redacted
  /** The most connections of the pool; 10 by default. */
  readonly maxConnections?: number | undefined
}

/**
 * Records in a table, with a pool of connections that the Layer makes. Every setting comes from configuration.
 *
 * @example
 * ```ts
 * import * as Postgres from "effect-versioned-store/Postgres"
 * import { Config } from "effect"
 *
 * export const Storage = Postgres.layerConfig({
 *   url: Config.Redacted("DATABASE_URL"),
 *   verify: Config.succeed(true)
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options & ClientOptions>
): Layer.Layer<StorageBackend, Backend | Config.ConfigError> =>
  Layer.unwrap(
    Effect.map(readOptions(options), ({ maxConnections, url, ...rest }) =>
      Layer.provide(layer(rest), layerClient({ url, ...(maxConnections === undefined ? {} : { maxConnections }) }))
    )
  )

/**
 * Creates the table, and its schema if that is missing. Fails with `Misconfigured` if there is a table of that name.
 *
 * @example
 * ```ts
 * import * as Postgres from "effect-versioned-store/Postgres"
 *
 * export const migration = Postgres.createTable({ schema: "shop", tableName: "records" })
 * ```
 *
 * @category tables
 * @since 0.1.0
 */
export const createTable = (options: TableOptions = {}): Effect.Effect<void, Backend, PgClient.PgClient> =>
  Effect.flatMap(PgClient.PgClient, (sql) => Table.createTable(sql, options))

/**
 * Creates the table if it is missing, and its schema. Fails with `Misconfigured` if there is a table of that name with
 * other columns, or from a newer release. Several processes may run it at once.
 *
 * @example
 * ```ts
 * import { PgClient } from "@effect/sql-pg"
 * import * as Postgres from "effect-versioned-store/Postgres"
 * import { Layer, Redacted } from "effect"
 *
 * const Client = PgClient.layer({ url: Redacted.make("postgres://localhost/shop") })
 *
 * export const Storage = Postgres.layer().pipe(
 *   Layer.provide(Layer.effectDiscard(Postgres.ensureTable())),
 *   Layer.provide(Client)
 * )
 * ```
 *
 * @category tables
 * @since 0.1.0
 */
export const ensureTable = (options: TableOptions = {}): Effect.Effect<void, Backend, PgClient.PgClient> =>
  Effect.flatMap(PgClient.PgClient, (sql) => Table.ensureTable(sql, options))
