/**
 * A separate process that watches a number, and prints the milliseconds since the epoch and the number for each event.
 * It ends when its standard input does.
 */
import { Effect, Layer, Option, Schedule, Schema, Stream } from "effect"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"

export interface Watch {
  readonly store:
    | { readonly filename: string }
    | { readonly url: string; readonly keyPrefix: string }
    | { readonly tableName: string; readonly client: object }
  readonly key: VersionedStore.Key
  /** How often the record is read without a hint, in milliseconds. */
  readonly everyMillis: number
}

export const numbers = VersionedStore.make({ idPrefix: "", schema: Schema.Finite })

export const layerOf = (store: Watch["store"]) => {
  if ("filename" in store) return Sqlite.layer(store)
  return "url" in store
    ? Redis.layer({ keyPrefix: store.keyPrefix }).pipe(Layer.provide(RedisClient.layer({ url: store.url })))
    : DynamoDb.layer(store).pipe(Layer.provide(DynamoDb.layerClient(store.client)))
}

export const nowMillis = () => performance.timeOrigin + performance.now()

if (process.argv[1] === import.meta.filename) {
  const { everyMillis, key, store }: Watch = JSON.parse(process.argv[2] ?? "")
  process.stdin.resume().once("end", () => process.exit())
  const program = Effect.flatMap(numbers, (numbers) =>
    Stream.runForEach(numbers.watch(key, { schedule: Schedule.spaced(everyMillis) }), (record) =>
      Effect.sync(() => {
        const value = Option.match(record, { onNone: () => "none", onSome: ({ value }) => String(value) })
        process.stdout.write(`${nowMillis()} ${value}\n`)
      })
    )
  )
  Effect.runFork(Effect.provide(program, layerOf(store)))
}
