/** A process that works under a lease, and prints what it does. */
import { writeSync } from "node:fs"
import { Effect, Layer, Redacted, Schema } from "effect"
import * as Postgres from "../../src/engine/Postgres.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as Lease from "../../src/Lease.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Faults from "../../src/testing/Faults.ts"
import * as VersionedStore from "../../src/VersionedStore.ts"

export type Store =
  | { readonly filename: string }
  | { readonly url: string; readonly keyPrefix: string }
  | { readonly url: string; readonly tableName: string }

export interface Work {
  readonly store: Store
  readonly task: keyof typeof tasks
  readonly holder: string
  readonly ttlMillis: number
}

export const leaseKey = { owner: "jobs", id: "report" }
export const counterKey = makeUnsafe({ owner: "jobs", id: "counter" })
export const fibers = 4
export const times = 3

export const layerOf = (store: Store) =>
  "filename" in store
    ? Sqlite.layer(store)
    : "tableName" in store
      ? Postgres.layer({ tableName: store.tableName, hints: true }).pipe(
          Layer.provide(Layer.effectDiscard(Postgres.ensureTable({ tableName: store.tableName }))),
          Layer.provide(Postgres.layerClient({ url: Redacted.make(store.url) }))
        )
      : Redis.layer({ keyPrefix: store.keyPrefix }).pipe(Layer.provide(RedisClient.layer({ url: store.url })))

const print = (line: string) => Effect.sync(() => writeSync(1, `${line}\n`))

/** The record that the lease protects: what was written last, and the token of its writer. */
const makeReports = VersionedStore.make({
  idPrefix: "",
  schema: Schema.Struct({ token: Schema.Int, writer: Schema.String })
})

/** Writes the report, unless a later holder has written it. */
const writeReport = Effect.fnUntraced(function* (writer: string, token: number) {
  const reports = yield* makeReports
  yield* reports.upsertEffect({ owner: "jobs", id: "the report" }, (current) =>
    current._tag === "Some" && current.value.token > token
      ? Effect.fail(`refused, since ${current.value.writer} has written`)
      : Effect.succeed({ token, writer })
  )
})

const tasks = {
  /** Works until its lease is lost, in steps, and then tries to write. */
  hold: ({ holder, ...options }: Options) =>
    Effect.gen(function* () {
      let token = 0
      const work = (lease: Lease.Lease) =>
        Effect.gen(function* () {
          token = lease.token
          yield* writeReport(holder, token)
          yield* print(`held ${token}`)
          yield* Effect.forever(Effect.andThen(print("step"), Effect.sleep("20 millis")))
        })
      const error = yield* Effect.flip(
        Lease.withLease(leaseKey, { holder, ...options })((lease) =>
          Effect.onInterrupt(work(lease), () => print("interrupted"))
        )
      )
      yield* print(`lost ${typeof error === "string" ? error : error.message}`)
      const written = yield* Effect.result(writeReport(holder, token))
      yield* print(`write ${written._tag === "Success" ? "passed" : written.failure}`)
    }),

  /** Counts in four fibers, each three times, by a read and a write that only the lease keeps together. */
  count: (options: Options) =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const increment = Effect.gen(function* () {
        const record = yield* Effect.catchTag(backend.get(counterKey), "RecordNotFound", () => Effect.undefined)
        yield* Effect.yieldNow
        yield* backend.put(counterKey, String(Number(record?.data ?? 0) + 1))
      })
      yield* print("started")
      const one = Effect.repeat(Lease.withLease(leaseKey, options)(increment), { times: times - 1 })
      yield* Effect.forEach(Array.from({ length: fibers }), () => one, { concurrency: "unbounded" })
      yield* print("counted")
    }),

  /** Waits for the lease, and prints each look. */
  wait: (options: Options) =>
    Effect.gen(function* () {
      const faults = Faults.backend(yield* StorageBackend, ({ name }) => ({ before: print(`look by ${name}`) }))
      yield* Effect.provideService(Lease.withLease(leaseKey, options)(Effect.never), StorageBackend, faults.backend)
    })
}

interface Options {
  readonly holder: string
  readonly ttl: number
}

if (process.argv[1] === import.meta.filename) {
  const { holder, store, task, ttlMillis }: Work = JSON.parse(process.argv[2] ?? "")
  const program: Effect.Effect<unknown, unknown, StorageBackend> = tasks[task]({ holder, ttl: ttlMillis })
  await Effect.runPromise(Effect.provide(program, layerOf(store)))
  process.exit(0)
}
