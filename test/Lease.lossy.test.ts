import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Sqlite from "../src/engine/Sqlite.ts"
import * as Lease from "../src/Lease.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import { failsWith } from "../src/testing/internal/support.ts"
import * as DynamoDbSupport from "./support/dynamoDb.ts"
import * as PostgresSupport from "./support/postgres.ts"
import * as RedisSupport from "./support/redis.ts"
import * as SqliteSupport from "./support/sqlite.ts"

const key = { owner: "jobs", id: "report" }

const newFile = SqliteSupport.newFiles()
const [filename, keyPrefix, tableName] = [newFile(), RedisSupport.newKeyPrefix(), DynamoDbSupport.newTableName()]

const postgresTable = PostgresSupport.newTable()

const engines = {
  SQLite: { isMissing: false, layer: Sqlite.layer({ filename }), lossy: SqliteSupport.lossy(filename) },
  Redis: {
    isMissing: RedisSupport.url === undefined,
    layer: RedisSupport.layerKeys({ keyPrefix }),
    lossy: RedisSupport.lossy(keyPrefix)
  },
  PostgreSQL: {
    isMissing: PostgresSupport.url === undefined,
    layer: PostgresSupport.layerTable({ tableName: postgresTable }),
    lossy: PostgresSupport.lossy(postgresTable)
  },
  DynamoDB: {
    isMissing: DynamoDbSupport.endpoint === undefined,
    layer: DynamoDbSupport.layerTable({ tableName }),
    lossy: DynamoDbSupport.lossy(tableName)
  }
}

for (const [name, { isMissing, layer, lossy }] of Object.entries(engines)) {
  describe.skipIf(isMissing)(`Lease on ${name}, if every second answer to a write is lost`, () => {
    it.live("stays held through its renewals, and is released", () =>
      Effect.gen(function* () {
        let [writes, lost] = [0, 0]
        const isLost = () => writes++ % 2 === 0 && ++lost > 0
        const client = yield* lossy(isLost)
        const other = yield* StorageBackend
        const options = { ttl: "1500 millis" } as const
        yield* Lease.withLease(
          key,
          options
        )((lease) =>
          Effect.gen(function* () {
            while (lost < 5) {
              yield* Effect.sleep("20 millis")
              yield* lease.check
            }
            const attempt = Effect.provideService(Lease.tryAcquire(key, options), StorageBackend, other)
            yield* failsWith(Effect.scoped(attempt), "LeaseTaken")
          })
        ).pipe(Effect.provideService(StorageBackend, client))
        assert.isAtLeast(lost, 5)
        yield* Effect.scoped(Lease.tryAcquire(key, options))
      }).pipe(Effect.scoped, Effect.provide(layer))
    )
  })
}
