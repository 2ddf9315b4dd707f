import { NodeHttpServer } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { HttpClient, HttpClientRequest, HttpRouter } from "effect/http"
import { HttpApiClient, OpenApi } from "effect/http-api"
import { TestClock } from "effect/testing"
import { InMemory, StorageBackend, StorageKey } from "effect-versioned-store"
import * as Inventory from "../../../examples/apps/inventory.ts"

const params = { owner: "shop", id: "tea" }
const payload = { name: "Tea", price: 300 }

/** A client of the inventory on a real HTTP server, with the backend below it. */
const layer = HttpRouter.serve(Inventory.layer, { disableLogger: true, disableListenLog: true }).pipe(
  Layer.provideMerge([InMemory.layer, NodeHttpServer.layerTest])
)

const client = HttpApiClient.make(Inventory.Api)

const statusOf = Effect.fnUntraced(function* (
  method: "PUT" | "DELETE",
  headers: Record<string, string>,
  body: object | undefined = payload
) {
  const request = HttpClientRequest.make(method)("/shop/items/tea", { headers }).pipe(
    HttpClientRequest.bodyJsonUnsafe(body)
  )
  const response = yield* HttpClient.execute(request)
  return { status: response.status, etag: response.headers.etag ?? "", text: yield* response.text }
})

const test = (name: string, effect: Effect.Effect<void, unknown, Layer.Success<typeof layer>>) =>
  it.effect(name, () => Effect.provide(effect, layer) as Effect.Effect<void, unknown>)

describe("the inventory", () => {
  it("has the statuses of the library's errors in its OpenAPI document", () => {
    const { put } = OpenApi.fromApi(Inventory.Api).paths["/{owner}/items/{id}"] ?? {}
    assert.deepStrictEqual(Object.keys(put?.responses ?? {}), ["200", "400", "404", "412", "413", "428", "503"])
  })

  test(
    "lets one of many who saw the same item change it",
    Effect.gen(function* () {
      const { items } = yield* client
      const { headers } = yield* items.create({ params, payload })
      const changes = Array.from({ length: 20 }, (_, i) =>
        Effect.exit(
          items.replace({ params, headers: { "if-match": headers.etag }, payload: { name: "Tea", price: i } })
        )
      )
      const exits = yield* Effect.all(changes, { concurrency: "unbounded" })
      assert.strictEqual(exits.filter(({ _tag }) => _tag === "Success").length, 1)
      const error = yield* Effect.flip(items.remove({ params, headers: { "if-match": headers.etag } }))
      assert.strictEqual(error._tag, "VersionConflict")
    })
  )

  test(
    "answers with the statuses of HTTP",
    Effect.gen(function* () {
      const { items } = yield* client
      assert.strictEqual((yield* statusOf("PUT", { "if-match": "*" })).status, 404)
      const { headers } = yield* items.create({ params, payload })
      assert.strictEqual((yield* Effect.flip(items.create({ params, payload })))._tag, "AlreadyExists")
      assert.strictEqual((yield* statusOf("PUT", {})).status, 428)
      const replaced = yield* statusOf("PUT", { "if-match": headers.etag })
      assert.strictEqual(replaced.status, 200)
      assert.notStrictEqual(replaced.etag, headers.etag)
      assert.strictEqual((yield* statusOf("PUT", { "if-match": headers.etag })).status, 412)
      assert.strictEqual((yield* statusOf("PUT", { "if-match": "*" })).status, 200)
      assert.strictEqual((yield* statusOf("PUT", { "if-match": "*" }, { name: "" })).status, 400)
      assert.strictEqual((yield* statusOf("DELETE", {})).status, 428)
      assert.strictEqual((yield* statusOf("DELETE", { "if-match": replaced.etag })).status, 412)
      assert.strictEqual((yield* statusOf("DELETE", { "if-match": "*" })).status, 204)
      assert.strictEqual((yield* statusOf("DELETE", { "if-match": "*" })).status, 404)
    })
  )

  test(
    "refuses the tag of an item that was removed and created again",
    Effect.gen(function* () {
      const { items } = yield* client
      const { headers } = yield* items.create({ params, payload })
      yield* items.remove({ params, headers: { "if-match": headers.etag } })
      yield* items.create({ params, payload })
      assert.strictEqual((yield* statusOf("PUT", { "if-match": headers.etag })).status, 412)
    })
  )

  test(
    "lists its items with what is available, page by page, and leaves out one that does not decode",
    Effect.gen(function* () {
      const { items, stock } = yield* client
      const backend = yield* StorageBackend.StorageBackend
      for (let i = 100; i < 220; i++) yield* items.create({ params: { owner: "shop", id: `${i}` }, payload })
      yield* stock.deliver({ params: { owner: "shop", id: "100" }, payload: { count: 7 } })
      yield* backend.put(StorageKey.makeUnsafe({ owner: "shop", id: "item/150" }), '{"name":"hush-4711"}')
      const first = yield* items.list({ params: { owner: "shop" }, query: {} })
      const second = yield* items.list({ params: { owner: "shop" }, query: { cursor: first.cursor } })
      assert.deepStrictEqual(first.items[0], { id: "100", ...payload, available: 7 })
      const ids = [...first.items, ...second.items].map(({ id }) => Number(id))
      assert.deepStrictEqual(
        ids,
        Array.from({ length: 120 }, (_, i) => i + 100).filter((id) => id !== 150)
      )
      assert.strictEqual(second.cursor, undefined)
      const damaged = yield* Effect.flip(items.list({ params: { owner: "shop" }, query: { cursor: "nonsense" } }))
      assert.strictEqual(damaged._tag, "InvalidCursor")
    })
  )

  test(
    "never reserves more than there is, however many ask at once",
    Effect.gen(function* () {
      const { stock } = yield* client
      yield* stock.deliver({ params, payload: { count: 10 } })
      const reserve = Effect.exit(stock.reserve({ params, payload: { count: 1 } }))
      const exits = yield* Effect.all(
        Array.from({ length: 50 }, () => reserve),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(exits.filter(({ _tag }) => _tag === "Success").length, 10)
      const error = yield* Effect.flip(stock.reserve({ params, payload: { count: 1 } }))
      assert.deepStrictEqual([error._tag, "available" in error && error.available], ["OutOfStock", 0])
    })
  )

  test(
    "takes a confirmed reservation from the stock, and frees one that has expired",
    Effect.gen(function* () {
      const { stock } = yield* client
      yield* stock.deliver({ params, payload: { count: 3 } })
      const confirmed = yield* stock.reserve({ params, payload: { count: 1 } })
      const expired = yield* stock.reserve({ params, payload: { count: 2 } })
      assert.deepStrictEqual(yield* stock.confirm({ params: { ...params, ...confirmed } }), { available: 0 })
      yield* TestClock.adjust("15 minutes")
      for (const reservation of [confirmed, expired]) {
        const error = yield* Effect.flip(stock.confirm({ params: { ...params, ...reservation } }))
        assert.strictEqual(error._tag, "ReservationNotFound")
      }
      yield* stock.reserve({ params, payload: { count: 2 } })
      assert.strictEqual((yield* Effect.flip(stock.reserve({ params, payload: { count: 1 } })))._tag, "OutOfStock")
    })
  )
})
