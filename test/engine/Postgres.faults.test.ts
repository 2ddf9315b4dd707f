import { assert, describe, layer } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Schedule, Scope } from "effect"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { ambiguityCases, assertUnknown, type Fate, first, newKey } from "../support/ambiguity.ts"
import { clientOf, layerTable, newTable, url } from "../support/postgres.ts"
import { postgresProxy, type Request } from "../support/postgresProxy.ts"
import { until } from "../support/until.ts"

const tableName = newTable()

const retrying = (times: number) => Schedule.upTo(Schedule.spaced("5 millis"), { times })

/** A backend whose statements go through a proxy, which decides their fate, and that proxy. */
const throughAny = (fateOf: (request: Request) => Fate, options: Postgres.Options = {}, maxConnections = 10) =>
  Effect.gen(function* () {
    const proxy = yield* postgresProxy(url ?? "", fateOf)
    const faulty = Postgres.layer({ tableName, retrySchedule: retrying(2000), ...options }).pipe(
      Layer.provide(clientOf(proxy.url, { maxConnections }))
    )
    const backend = yield* Effect.provide(StorageBackend, yield* Layer.build(faulty))
    return { proxy, backend, requests: () => proxy.requests.map(({ isWrite }) => (isWrite ? "write" : "read")) }
  })

const through = (fateOf: (isWrite: boolean) => Fate, options?: Postgres.Options) =>
  throughAny(({ isWrite }) => fateOf(isWrite), options)

describe.skipIf(url === undefined)("Postgres, if answers are lost,", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    ambiguityCases(it, {
      through: (fateOf, { isPatient } = { isPatient: true }) =>
        through(fateOf, isPatient ? {} : { retrySchedule: retrying(20) }),
      write: "write",
      read: "read"
    })

    it.effect("no statement is sent again by the client, and those of other connections go on", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        let count = 0
        const { backend } = yield* through((isWrite) => (isWrite && ++count === 20 ? "lose" : "pass"))
        const keys = Array.from({ length: 50 }, newKey)
        const records = yield* Effect.forEach(keys, (key) => backend.put(key, "once"), { concurrency: "unbounded" })
        for (const [i, key] of keys.entries()) assert.deepStrictEqual(yield* direct.get(key), records[i])
        assert.isTrue(records.every(({ version }) => version === 1))
        assert.strictEqual(count, 50)
      })
    )

    it.effect("a commit is not applied unless its COMMIT may have arrived", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const retrySchedule = Schedule.recurs(0)
        const steps = (data: string) => ["a", "b"].map((id) => ({ _tag: "Write" as const, id, data, expected: 0 }))
        for (const [text, fate, outcome, found] of [
          ["BEGIN", "lose", "not-applied", 0],
          ["INSERT", "lose", "not-applied", 0],
          ["COMMIT", "drop", "unknown", 0],
          ["COMMIT", "lose", "success", 2]
        ] as const) {
          const { backend } = yield* throughAny((request) => (request.text.startsWith(text) ? fate : "pass"), {
            retrySchedule
          })
          const { owner } = newKey()
          const result = yield* Effect.result(backend.commit(owner, steps("ours")))
          if (outcome === "success") assert.strictEqual(result._tag, "Success")
          else assert.deepInclude(result._tag === "Failure" ? result.failure : {}, { _tag: "Backend", outcome }, text)
          const stored = yield* direct.getMany(["a", "b"].map((id) => makeUnsafe({ owner, id })))
          assert.strictEqual(stored.filter((record) => record !== undefined).length, found)
        }
      })
    )

    it.effect("a request that hangs times out, and later ones take another connection", () =>
      Effect.gen(function* () {
        let hangs = false
        const { backend } = yield* through(() => (hangs ? "hang" : "pass"), {
          requestTimeout: "200 millis",
          retrySchedule: Schedule.recurs(0)
        })
        yield* backend.put(newKey(), "so that there is a connection")
        hangs = true
        const read = yield* Effect.flip(backend.get(newKey()))
        assert.isTrue(read._tag === "Backend" && read.reason._tag === "Timeout" && read.isRetryable)
        const write = yield* Effect.flip(backend.put(newKey(), "data"))
        assertUnknown(write)
        assert.include(write.message, "within 200ms")
        hangs = false
        yield* backend.put(newKey(), "data")
      })
    )

    it.effect("a request that hangs once is sent again if that is safe", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const key = newKey()
        const record = yield* direct.put(key, "before")
        const { backend } = yield* through(first("hang"), { requestTimeout: "500 millis" })
        assert.strictEqual((yield* backend.putIfVersion(key, "after", record)).version, 2)
      })
    )

    it.effect("a write that is interrupted before it is sent is never sent", () =>
      Effect.gen(function* () {
        const { backend, proxy } = yield* through(() => "pass")
        const key = newKey()
        const fiber = yield* Effect.forkChild(backend.put(key, "data"), { startImmediately: true })
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* Effect.flip(backend.get(key)))._tag, "RecordNotFound")
        assert.deepStrictEqual(
          proxy.requests.map(({ isWrite }) => isWrite),
          [false]
        )
      })
    )

    it.effect("a write without a connection is not applied, and the pool connects again", () =>
      Effect.gen(function* () {
        const { backend, proxy } = yield* through(() => "pass", { retrySchedule: Schedule.recurs(3) })
        const key = newKey()
        yield* backend.put(key, "before")
        proxy.close()
        const error = yield* Effect.flip(backend.put(key, "after")).pipe(
          Effect.repeat({ until: (error) => error._tag === "Backend" && error.outcome === "not-applied" })
        )
        assert.isTrue(error._tag === "Backend" && error.reason._tag === "Unavailable" && error.isRetryable)
        assert.include(error.message, "can't be reached")
        yield* Effect.promise(proxy.open)
        assert.strictEqual((yield* backend.get(key)).data, "before")
        assert.strictEqual(proxy.requests.filter(({ isWrite }) => isWrite).length, 1)
      })
    )

    it.effect("a pool that is too small is a time-out that says so", () =>
      Effect.gen(function* () {
        const timing = { requestTimeout: "300 millis", retrySchedule: Schedule.recurs(0) } as const
        let hangs = false
        const { backend, proxy } = yield* throughAny(() => (hangs ? "hang" : "pass"), timing, 1)
        yield* backend.put(newKey(), "data")
        hangs = true
        const slow = yield* Effect.forkChild(Effect.exit(backend.get(newKey())))
        yield* until(() => proxy.requests.length === 2)
        const error = yield* Effect.flip(backend.get(newKey()))
        assert.isTrue(error._tag === "Backend" && error.reason._tag === "Timeout")
        assert.include(error.message, "whether the pool is large enough")
        yield* Fiber.join(slow)
      })
    )

    it.effect("what is asked after the Layer has closed fails and says why", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const { backend } = yield* Scope.provide(
          through(() => "pass"),
          scope
        )
        yield* backend.put(newKey(), "data")
        yield* Scope.close(scope, Exit.void)
        for (const operation of [Effect.asVoid(backend.get(newKey())), Effect.asVoid(backend.put(newKey(), "data"))]) {
          const error = yield* Effect.flip<void, { readonly _tag: string; readonly message: string }, never>(operation)
          assert.isTrue(error._tag === "Backend" && (error as Backend).outcome === "not-applied")
          assert.include(error.message, "The pool was closed with the scope of its PgClient")
        }
      })
    )

    it.effect("the Layer closes even if PostgreSQL does not answer", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        let hangs = false
        const options = { requestTimeout: "200 millis", retrySchedule: Schedule.recurs(0) } as const
        const { backend } = yield* Scope.provide(
          through(() => (hangs ? "hang" : "pass"), options),
          scope
        )
        hangs = true
        assertUnknown(yield* Effect.flip(backend.put(newKey(), "data")))
        yield* Scope.close(scope, Exit.void)
      })
    )
  })
})
