import { PgClient } from "@effect/sql-pg"
import { Effect, Layer, Redacted, Schedule } from "effect"
import { inject } from "vitest"
import type { StoredRecord } from "../../src/Engine.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { StorageKey } from "../../src/StorageKey.ts"
import { postgresProxy } from "./postgresProxy.ts"

export const url = inject("postgresUrl")

export const newTable = () => `test-${crypto.randomUUID()}`

export const clientOf = (url: string, config?: PgClient.PgPoolConfig) =>
  Postgres.layerClient({ url: Redacted.make(url), ...config })

export const layerClient = clientOf(url ?? "")

/** A backend on a table that is made if it is missing, and its client. */
export const layerTable = (options: Postgres.Options = { tableName: newTable() }) =>
  Postgres.layer(options).pipe(Layer.provideMerge(layerOwnTable(options)), Layer.provideMerge(layerClient))

export const layerOwnTable = (options: Postgres.TableOptions) => Layer.effectDiscard(Postgres.ensureTable(options))

/** Runs a statement as another client would. */
export const send = (text: string, parameters: ReadonlyArray<unknown> = []) =>
  Effect.flatMap(PgClient.PgClient, (sql) => sql.unsafe(text, parameters).values)

/** Stores a record in the table as another client would. */
export const plant = (tableName: string) => (key: StorageKey, record: StoredRecord) =>
  send(
    `INSERT INTO "${tableName}" (owner, id, version, data, write_id, expires_at) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (owner, id) DO UPDATE SET (version, data, write_id, expires_at) = ($3, $4, $5, $6)`,
    [
      Buffer.from(key.owner),
      Buffer.from(key.id),
      BigInt(record.version),
      Buffer.from(record.data),
      record.writeId ?? null,
      record.expiresAtSeconds === undefined ? null : BigInt(record.expiresAtSeconds)
    ]
  )

/** A client of the table that loses the answers to some writes. */
export const lossy = (tableName: string) => (isLost: () => boolean) =>
  Effect.gen(function* () {
    const proxy = yield* postgresProxy(url ?? "", ({ isWrite }) => (isWrite && isLost() ? "lose" : "pass"))
    const retrySchedule = Schedule.upTo(Schedule.spaced("5 millis"), { times: 400 })
    const layer = Postgres.layer({ tableName, retrySchedule }).pipe(Layer.provide(clientOf(proxy.url)))
    return yield* Effect.provide(StorageBackend, yield* Layer.build(layer))
  })
