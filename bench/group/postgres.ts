/** Records in PostgreSQL, beside the same statements through Effect's own client, `PgClient`. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted } from "effect"
import { layoutOf } from "../../dist/engine/internal/postgres/layout.js"
import { statementsOf } from "../../dist/engine/internal/postgres/statements.js"
import * as Postgres from "../../dist/engine/Postgres.js"
import * as PostgresServer from "../../examples/PostgresServer.ts"
import { StorageBackend, StorageKey } from "../library.ts"
import { type Contender, compare, type Figure, inEffect, inProgram, type Settings, type Step } from "../measure.ts"
import { comparePages, idOf, ownersOf } from "./pages.ts"

const group = "postgres"
const owner = "alice"
const data = "x".repeat(1000)
const count = 1000
const bareName = "PgClient"
const decoder = new TextDecoder()

type Backend = StorageBackend.StorageBackend["Service"]

const clientOf = (url: string) => Layer.fresh(Postgres.layerClient({ url: Redacted.make(url) }))

/** The library's engine on a server, on a table that is made if it is missing. */
export const makeBackend = Effect.fnUntraced(function* (url: string, options: Postgres.Options = {}) {
  const layer = Layer.fresh(Postgres.layer(options)).pipe(
    Layer.provide(Layer.effectDiscard(Postgres.ensureTable(options))),
    Layer.provide(clientOf(url))
  )
  return Context.get(yield* Layer.build(layer), StorageBackend.StorageBackend)
})

/** The statements that the library sends, by the bare client, on a table of their own. */
const makeBare = Effect.fnUntraced(function* (url: string) {
  const tableName = "bare"
  const sql = Context.get(yield* Layer.build(clientOf(url)), PgClient.PgClient)
  yield* Effect.provideService(Postgres.ensureTable({ tableName }), PgClient.PgClient, sql)
  const statements = statementsOf(layoutOf({ tableName }))
  let writes = 0
  const parametersOf = (i: number) => [Buffer.from(owner), Buffer.from(idOf(i % count))]
  const parametersOfWrite = (i: number, writeId: string) => [...parametersOf(i), 1n, Buffer.from(data), writeId, null]
  const nextWriteId = () => `0123456789abcdefghijkl.${(writes++).toString(36)}`
  const swap = Effect.fnUntraced(function* (expected: { readonly version: bigint; readonly writeId: string }) {
    const writeId = nextWriteId()
    const now = BigInt(Math.floor(Date.now() / 1000))
    const parameters = [...parametersOfWrite(0, writeId), now, expected.version, expected.writeId]
    const [row] = yield* sql.unsafe(statements.update.Write, parameters).values
    return { version: row?.[1] as bigint, writeId }
  })
  return {
    get: (i: number) =>
      Effect.map(sql.unsafe(statements.read, parametersOf(i)).values, ([row]) =>
        decoder.decode(row?.[1] as Uint8Array)
      ),
    put: (i: number) => sql.unsafe(statements.put, parametersOfWrite(i, nextWriteId())).values,
    /** A put of the first record, for the first of a chain of compare-and-sets. */
    first: Effect.suspend(() => {
      const writeId = nextWriteId()
      const put = sql.unsafe(statements.put, parametersOfWrite(0, writeId)).values
      return Effect.map(put, ([row]) => ({ version: row?.[1] as bigint, writeId }))
    }),
    swap
  }
})

type Bare = Effect.Success<ReturnType<typeof makeBare>>

const keyOf = (i: number) => StorageKey.makeUnsafe({ owner, id: idOf(i % count) })

/** A chain of compare-and-sets of one record, each on what the one before wrote. */
const swaps = (backend: Backend, bare: Bare): readonly [Contender, Contender] => {
  let theirs: Effect.Success<ReturnType<Bare["swap"]>> | undefined
  let ours: StorageBackend.VersionedRecord | undefined
  return [
    inProgram(
      bareName,
      Effect.fnUntraced(function* (times) {
        theirs ??= yield* bare.first
        for (let i = 0; i < times; i++) theirs = yield* bare.swap(theirs)
      })
    ),
    inProgram(
      "Postgres",
      Effect.fnUntraced(function* (times) {
        ours ??= yield* backend.put(keyOf(0), data)
        for (let i = 0; i < times; i++) ours = yield* backend.putIfVersion(keyOf(0), data, ours)
      })
    )
  ]
}

const compareOneByOne = Effect.fnUntraced(function* (settings: Settings, backend: Backend, bare: Bare) {
  const setting = "one at a time"
  return [
    ...(yield* compare(settings, group, {
      operation: "get",
      setting,
      contenders: [inEffect(bareName, bare.get), inEffect("Postgres", (i) => backend.get(keyOf(i)))]
    })),
    ...(yield* compare(settings, group, {
      operation: "put",
      setting,
      contenders: [inEffect(bareName, bare.put), inEffect("Postgres", (i) => backend.put(keyOf(i), data))]
    })),
    ...(yield* compare(settings, group, {
      operation: "compare-and-set",
      setting,
      contenders: swaps(backend, bare)
    }))
  ]
})

const together = 50

/** Fifty operations at once, again and again. The figures are of one operation. */
const compareTogether = Effect.fnUntraced(function* (settings: Settings, backend: Backend, bare: Bare) {
  const places = Array.from({ length: together }, (_, i) => i)
  const atOnce = (name: string, operation: (i: number) => Effect.Effect<unknown, unknown>) =>
    inEffect(name, (i) =>
      Effect.forEach(places, (place) => operation(i * together + place), { concurrency: "unbounded", discard: true })
    )
  const pair = (
    operation: string,
    theirs: (i: number) => Effect.Effect<unknown, unknown>,
    ours: (i: number) => Effect.Effect<unknown, unknown>
  ) =>
    compare(settings, group, {
      operation,
      setting: "50 at once",
      contenders: [atOnce(bareName, theirs), atOnce("Postgres", ours)],
      perRun: together
    })
  return [
    ...(yield* pair("get", bare.get, (i) => backend.get(keyOf(i)))),
    ...(yield* pair("put", bare.put, (i) => backend.put(keyOf(i), data)))
  ]
})

const comparePagesOnServer = Effect.fnUntraced(function* (settings: Settings, url: string) {
  const backend = yield* makeBackend(url)
  const owners = ownersOf(100, 100_000)
  const sql = Context.get(yield* Layer.build(clientOf(url)), PgClient.PgClient)
  for (const name of [owners.few, owners.many] as const) {
    const last = name === owners.few ? owners.counts.few : owners.counts.many
    yield* sql.unsafe(
      `INSERT INTO versioned_records SELECT $1::bytea, convert_to('record/' || lpad(i::text, 8, '0'), 'UTF8'), 1,
        $2::bytea, 'loaded', NULL FROM generate_series(0, $3::int) i`,
      [Buffer.from(name), Buffer.from(data.slice(0, 100)), last - 1]
    )
  }
  // As autovacuum would some time later.
  yield* sql.unsafe("VACUUM ANALYZE versioned_records")
  return yield* comparePages(settings, group, backend, owners)
})

/** A server with the same records by the library and by the bare client. */
const withServer = <E>(run: (backend: Backend, bare: Bare) => Effect.Effect<ReadonlyArray<Figure>, E>) =>
  Effect.gen(function* () {
    const url = yield* PostgresServer.start
    const backend = yield* makeBackend(url)
    const bare = yield* makeBare(url)
    for (let i = 0; i < count; i++) {
      yield* backend.put(keyOf(i), data)
      yield* bare.put(i)
    }
    return yield* run(backend, bare)
  })

export const stepsOf = (settings: Settings): ReadonlyArray<Step> =>
  [
    { label: "one at a time", run: withServer((backend, bare) => compareOneByOne(settings, backend, bare)) },
    { label: "50 at once", run: withServer((backend, bare) => compareTogether(settings, backend, bare)) },
    { label: "pages", run: Effect.flatMap(PostgresServer.start, (url) => comparePagesOnServer(settings, url)) }
  ].map((step) => ({ ...step, missing: PostgresServer.missing }))
