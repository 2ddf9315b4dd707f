import { assert, describe, layer } from "@effect/vitest"
import { Effect, Layer, Schedule } from "effect"
import * as DynamoDb from "../../src/backend/DynamoDb.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { clientConfig, endpoint, layerTable, newTableName } from "../support/dynamoDb.ts"
import { type Fate, faultyProxy, newSeed, randomFrom } from "../support/faultyProxy.ts"

const tableName = newTableName()
const writes = ["UpdateItem", "DeleteItem"]

/** A backend whose requests go through a proxy, which decides their fate. */
const through = (fateOf: (operation: string) => Fate, options: Partial<DynamoDb.Options> = {}) =>
  Effect.gen(function* () {
    const proxy = yield* faultyProxy(endpoint ?? "", fateOf)
    const faulty = DynamoDb.layer({ tableName, retrySchedule: Schedule.recurs(20), ...options }).pipe(
      Layer.provide(DynamoDb.layerClient({ ...clientConfig, endpoint: proxy.endpoint }))
    )
    const context = yield* Layer.build(faulty)
    return { proxy, backend: yield* Effect.provide(StorageBackend, context) }
  })

const newKey = () => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id: "a" })

/** A fate for the first write, and none for those after it. */
const first = (fate: Fate) => {
  let decided = false
  return (operation: string): Fate => {
    if (decided || !writes.includes(operation)) return "pass"
    decided = true
    return fate
  }
}

const assertUnknown = (error: { readonly _tag: string }) => {
  assert.strictEqual(error._tag, "Backend")
  assert.strictEqual((error as Backend).outcome, "unknown")
  assert.isFalse((error as Backend).isRetryable)
}

describe.skipIf(endpoint === undefined)("DynamoDb, where answers are lost", () => {
  layer(layerTable({ tableName }), { excludeTestServices: true })((it) => {
    for (const lost of [0.1, 0.3]) {
      it.effect(
        `a lone writer of 1,000 compare-and-sets sees no conflict with ${lost * 100}% lost`,
        () =>
          Effect.gen(function* () {
            const random = randomFrom(newSeed(`lone writer, ${lost} lost`))
            const { backend, proxy } = yield* through((operation) =>
              operation === "UpdateItem" && random() < lost ? "lose" : "pass"
            )
            const key = newKey()
            let record = yield* (yield* StorageBackend).put(key, "0")
            for (let i = 1; i <= 1000; i++) record = yield* backend.putIfVersion(key, String(i), record)
            const final = yield* (yield* StorageBackend).get(key)
            assert.strictEqual(final.data, "1000")
            assert.strictEqual(final.version, 1001)
            const sent = proxy.requests.filter((operation) => operation === "UpdateItem").length
            console.log(
              `lone writer, ${lost} lost: 1000 written, ${sent} requests, 0 conflicts, version ${final.version}`
            )
            assert.isAbove(sent, 1000)
          }),
        120_000
      )
    }

    it.effect(
      "8 writers with 10% lost: what is acknowledged is there, and no conflict is false",
      () =>
        Effect.gen(function* () {
          const random = randomFrom(newSeed("8 writers"))
          const { backend } = yield* through((operation) =>
            operation === "UpdateItem" && random() < 0.1 ? "lose" : "pass"
          )
          const direct = yield* StorageBackend
          const key = newKey()
          yield* direct.put(key, "[]")
          const told = { acknowledged: new Set<string>(), unknown: new Set<string>(), conflict: new Set<string>() }
          const write = (name: string) =>
            Effect.gen(function* () {
              const record = yield* direct.get(key)
              const applied: Array<string> = JSON.parse(record.data)
              yield* backend.putIfVersion(key, JSON.stringify([...applied, name]), record)
              told.acknowledged.add(name)
            }).pipe(
              Effect.catchTag("VersionConflict", () => Effect.sync(() => told.conflict.add(name))),
              Effect.catchTag("Backend", (error) => {
                assertUnknown(error)
                return Effect.sync(() => told.unknown.add(name))
              })
            )
          yield* Effect.forEach(
            Array.from({ length: 8 }, (_, writer) => writer),
            (writer) =>
              Effect.forEach(Array.from({ length: 60 }), (_, i) => write(`${writer}.${i}`), { discard: true }),
            { concurrency: "unbounded", discard: true }
          )
          const final: Array<string> = JSON.parse((yield* direct.get(key)).data)
          const [acknowledged, unknown] = [told.acknowledged.size, told.unknown.size]
          console.log(
            `8 writers: ${acknowledged} acknowledged, ${told.conflict.size} conflicts, ${unknown} unknown, counter ${final.length}`
          )
          assert.strictEqual(new Set(final).size, final.length, "a write was applied twice")
          assert.isAtLeast(final.length, acknowledged)
          assert.isAtMost(final.length, acknowledged + unknown)
          for (const name of told.acknowledged) assert.include(final, name)
          for (const name of told.conflict)
            assert.notInclude(final, name, "a conflict was told of a write that was applied")
        }),
      120_000
    )

    it.effect("no write after a lost answer wipes out what another wrote or removed since", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const operations = {
          put: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) => backend.put(key, "ours"),
          create: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) =>
            backend.putIfVersion(key, "ours", 0),
          byVersion: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) =>
            backend.putIfVersion(key, "ours", 1),
          delete: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) => backend.delete(key),
          deleteByVersion: (backend: StorageBackend["Service"], key: ReturnType<typeof newKey>) =>
            backend.deleteIfVersion(key, 1)
        }
        for (const [name, operation] of Object.entries(operations)) {
          const overwritten = newKey()
          if (name !== "create") yield* direct.put(overwritten, "before")
          const put = { loseAfter: () => Effect.runPromise(direct.put(overwritten, "theirs")) }
          const first1 = yield* through(first(put))
          assertUnknown(yield* Effect.flip(operation(first1.backend, overwritten)))
          assert.strictEqual((yield* direct.get(overwritten)).data, "theirs", name)

          const removed = newKey()
          if (name !== "create") yield* direct.put(removed, "before")
          const remove = { loseAfter: () => Effect.runPromise(direct.delete(removed)) }
          const first2 = yield* through(first(remove))
          assertUnknown(yield* Effect.flip(operation(first2.backend, removed)))
          assert.strictEqual((yield* Effect.flip(direct.get(removed)))._tag, "RecordNotFound", name)
        }
      })
    )

    it.effect("a put or a create whose answer was lost is found by one read", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        for (const expected of [undefined, 0] as const) {
          const key = newKey()
          const { backend, proxy } = yield* through(first("lose"))
          const written = yield* expected === undefined
            ? backend.put(key, "ours")
            : backend.putIfVersion(key, "ours", expected)
          assert.deepStrictEqual(yield* direct.get(key), written)
          const requests = proxy.requests.filter((operation) => operation !== "DescribeTimeToLive")
          assert.deepStrictEqual(requests, ["UpdateItem", "GetItem"])
        }
      })
    )

    it.effect("where every answer is lost the outcome is unknown, and a read tells", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const { backend } = yield* through((operation) => (operation === "UpdateItem" ? "lose" : "pass"), {
          retrySchedule: Schedule.recurs(3)
        })
        const key = newKey()
        const record = yield* direct.put(key, "before")
        assertUnknown(yield* Effect.flip(backend.putIfVersion(key, "after", record)))
        assert.strictEqual((yield* backend.get(key)).data, "after")

        const dropped = yield* through((operation) => (operation === "UpdateItem" ? "drop" : "pass"), {
          retrySchedule: Schedule.recurs(3)
        })
        assertUnknown(yield* Effect.flip(dropped.backend.putIfVersion(key, "never", yield* direct.get(key))))
        assert.strictEqual((yield* dropped.backend.get(key)).data, "after")
      })
    )

    it.effect("a request that hangs ends, and its connection with it", () =>
      Effect.gen(function* () {
        const { backend, proxy } = yield* through(() => "hang", {
          requestTimeout: "200 millis",
          retrySchedule: Schedule.recurs(0)
        })
        const read = yield* Effect.flip(backend.get(newKey()))
        assert.isTrue(read._tag === "Backend" && read.reason._tag === "Timeout" && read.isRetryable)
        const write = yield* Effect.flip(backend.put(newKey(), "data"))
        assertUnknown(write)
        assert.include(write.message, "within 200ms")
        yield* Effect.sleep("100 millis")
        assert.isAtLeast(proxy.closed(), 2)
      })
    )

    it.effect("a request that hangs once is sent again where that is safe", () =>
      Effect.gen(function* () {
        const direct = yield* StorageBackend
        const key = newKey()
        const record = yield* direct.put(key, "before")
        const { backend } = yield* through(first("hang"), { requestTimeout: "200 millis" })
        assert.strictEqual((yield* backend.putIfVersion(key, "after", record)).version, 2)
      })
    )
  })
})
