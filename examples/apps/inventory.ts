/**
 * The inventory of shops, over HTTP. Staff change an item only as they have seen it (`If-Match`). Customers reserve
 * stock, never more than there is, and a reservation that is not confirmed in time frees its stock.
 */
import { createServer } from "node:http"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Clock, Context, Effect, Layer, Option, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { InMemory, StorageError, StorageKey, VersionedStore } from "effect-versioned-store"

// --- what is stored -----------------------------------------------------------

const Item = Schema.Struct({ name: Schema.NonEmptyString, price: Schema.Int })
type Item = typeof Item.Type

class Items extends Context.Service<Items>()("Items", {
  make: VersionedStore.make({ idPrefix: "item/", schema: Item })
}) {
  static readonly layer = Layer.effect(this, this.make)
}

const Count = Schema.Int.check(Schema.isGreaterThan(0))

/** An item's stock, apart from the item, since customers change it all the time. */
class Stock extends Schema.Class<Stock>("Stock")({
  onHand: Schema.Int,
  reservations: Schema.Record(Schema.String, Schema.Struct({ count: Count, untilMillis: Schema.Int }))
}) {
  static readonly none = new Stock({ onHand: 0, reservations: {} })

  /** The stock without the reservations that have expired. */
  at(nowMillis: number): Stock {
    const live = Object.entries(this.reservations).filter(([, { untilMillis }]) => untilMillis > nowMillis)
    return new Stock({ ...this, reservations: Object.fromEntries(live) })
  }

  get available(): number {
    return this.onHand - Object.values(this.reservations).reduce((sum, { count }) => sum + count, 0)
  }
}

class Stocks extends Context.Service<Stocks>()("Stocks", {
  make: VersionedStore.make({ idPrefix: "stock/", schema: Stock })
}) {
  static readonly layer = Layer.effect(this, this.make)
}

// --- the API ------------------------------------------------------------------

class NoIfMatch extends Schema.TaggedError<NoIfMatch>()("NoIfMatch", {}, { httpApiStatus: 428 }) {}

class OutOfStock extends Schema.TaggedError<OutOfStock>()(
  "OutOfStock",
  { available: Schema.Int },
  { httpApiStatus: 409 }
) {}

class ReservationNotFound extends Schema.TaggedError<ReservationNotFound>()(
  "ReservationNotFound",
  {},
  { httpApiStatus: 404 }
) {}

const { AlreadyExists, Backend, CapacityExceeded, InvalidCursor, RecordNotFound, VersionConflict } = StorageError
const access = [StorageKey.InvalidKey, Backend] as const
const change = [...access, RecordNotFound, VersionConflict, CapacityExceeded] as const

const params = { owner: Schema.String, id: Schema.String }
const headers = { "if-match": Schema.optional(Schema.String) }
const success = HttpApiSchema.WithHeaders(Item, { etag: Schema.String })
const Listed = Schema.Struct({ id: Schema.String, ...Item.fields, available: Schema.Int })
const List = Schema.Struct({ items: Schema.Array(Listed), cursor: Schema.optional(Schema.String) })
const query = { cursor: Schema.optional(Schema.String) }
const Available = Schema.Struct({ available: Schema.Int })
const Reserved = Schema.Struct({ reservation: Schema.String })
const OfReservation = { ...params, reservation: Schema.String }

export class ItemsGroup extends HttpApiGroup.make("items")
  .add(
    HttpApiEndpoint.get("list", "/", {
      params: { owner: Schema.String },
      query,
      success: List,
      error: [...access, InvalidCursor]
    }),
    HttpApiEndpoint.get("read", "/:id", { params, success, error: [...access, RecordNotFound] }),
    HttpApiEndpoint.post("create", "/:id", { params, payload: Item, success, error: [...change, AlreadyExists] }),
    HttpApiEndpoint.put("replace", "/:id", { params, headers, payload: Item, success, error: [...change, NoIfMatch] }),
    HttpApiEndpoint.delete("remove", "/:id", { params, headers, error: [...change, NoIfMatch] })
  )
  .prefix("/:owner/items") {}

export class StockGroup extends HttpApiGroup.make("stock")
  .add(
    HttpApiEndpoint.post("deliver", "/", {
      params,
      payload: Schema.Struct({ count: Count }),
      success: Available,
      error: change
    }),
    HttpApiEndpoint.post("reserve", "/reservations", {
      params,
      payload: Schema.Struct({ count: Count }),
      success: Reserved,
      error: [...change, OutOfStock]
    }),
    HttpApiEndpoint.post("confirm", "/reservations/:reservation", {
      params: OfReservation,
      success: Available,
      error: [...change, ReservationNotFound]
    })
  )
  .prefix("/:owner/stock/:id") {}

export class Api extends HttpApi.make("inventory").add(ItemsGroup, StockGroup) {}

// --- the handlers -------------------------------------------------------------

/** A stored record that does not decode is no fault of the client. */
const orDefect = <A, E, R>(effect: Effect.Effect<A, E | Schema.SchemaError, R>) =>
  Effect.catchTag(effect, "SchemaError", Effect.die)

const withTag = ({ etag, value }: VersionedStore.Record<Item>) =>
  HttpApiSchema.withHeaders({ body: value, headers: { etag } })

const ItemsHandlers = HttpApiBuilder.group(
  Api,
  "items",
  Effect.fnUntraced(function* (handlers) {
    const items = yield* Items
    const stocks = yield* Stocks

    const list = Effect.fnUntraced(function* (owner: string, cursor: string | undefined) {
      const page = yield* items.list({
        owner,
        cursor,
        onInvalid: (stored, error) => Effect.logError(`Left out ${stored.key}: ${error.message}`)
      })
      const found = yield* stocks.getMany(
        owner,
        page.records.map(({ key }) => key.id)
      )
      const nowMillis = yield* Clock.currentTimeMillis
      return {
        items: page.records.map(({ key: { id }, value }, i) => {
          const stock = Option.match(found[i] ?? Option.none(), {
            onNone: () => Stock.none,
            onSome: ({ value }) => value
          })
          return { id, ...value, available: stock.at(nowMillis).available }
        }),
        cursor: page.cursor
      }
    })

    const replace = Effect.fnUntraced(function* (key: VersionedStore.Key, etag: string | undefined, item: Item) {
      if (etag === undefined) return yield* new NoIfMatch()
      return yield* etag === "*" ? items.update(key, () => item) : items.setIfMatch(key, etag, item)
    })

    const remove = Effect.fnUntraced(function* (key: VersionedStore.Key, etag: string | undefined) {
      if (etag === undefined) return yield* new NoIfMatch()
      return yield* etag === "*"
        ? Effect.flatMap(items.get(key), items.removeIfVersion)
        : items.removeIfMatch(key, etag)
    })

    return handlers.handleAll({
      list: ({ params, query }) => orDefect(list(params.owner, query.cursor)),
      read: ({ params }) => orDefect(Effect.map(items.get(params), withTag)),
      create: ({ params, payload }) => orDefect(Effect.map(items.create(params, payload), withTag)),
      replace: ({ headers, params, payload }) =>
        orDefect(Effect.map(replace(params, headers["if-match"], payload), withTag)),
      remove: ({ headers, params }) => orDefect(remove(params, headers["if-match"]))
    })
  })
)

/** How long a customer has time to confirm a reservation. */
const reservationMillis = 15 * 60_000

const StockHandlers = HttpApiBuilder.group(
  Api,
  "stock",
  Effect.fnUntraced(function* (handlers) {
    const stocks = yield* Stocks

    const deliver = (key: VersionedStore.Key, count: number) =>
      stocks.upsert(key, (stock) => {
        const before = Option.getOrElse(stock, () => Stock.none)
        return new Stock({ ...before, onHand: before.onHand + count })
      })

    const reserve = Effect.fnUntraced(function* (key: VersionedStore.Key, count: number) {
      const nowMillis = yield* Clock.currentTimeMillis
      const reservation = crypto.randomUUID()
      const left = yield* stocks.modifySome(key, (before) => {
        const stock = before.at(nowMillis)
        if (stock.available < count) return [Option.some(stock.available), Option.none()]
        const reservations = {
          ...stock.reservations,
          [reservation]: { count, untilMillis: nowMillis + reservationMillis }
        }
        return [Option.none(), Option.some(new Stock({ ...stock, reservations }))]
      })
      return Option.isSome(left) ? yield* new OutOfStock({ available: left.value }) : { reservation }
    })

    /** Takes what was reserved from the stock. */
    const confirm = Effect.fnUntraced(function* (key: VersionedStore.Key, reservation: string) {
      const nowMillis = yield* Clock.currentTimeMillis
      const { value } = yield* stocks.updateEffect(key, (before) => {
        const { [reservation]: reserved, ...reservations } = before.at(nowMillis).reservations
        return reserved === undefined
          ? Effect.fail(new ReservationNotFound())
          : Effect.succeed(new Stock({ onHand: before.onHand - reserved.count, reservations }))
      })
      return { available: value.available }
    })

    return handlers.handleAll({
      deliver: ({ params, payload }) =>
        orDefect(Effect.map(deliver(params, payload.count), ({ value }) => ({ available: value.available }))),
      reserve: ({ params, payload }) => orDefect(reserve(params, payload.count)),
      confirm: ({ params }) => orDefect(confirm(params, params.reservation))
    })
  })
)

/** The routes, on any backend. */
export const layer = HttpApiBuilder.layer(Api).pipe(
  Layer.provide([ItemsHandlers, StockHandlers]),
  Layer.provide([Items.layer, Stocks.layer])
)

if (process.argv[1] === import.meta.filename) {
  HttpRouter.serve(layer).pipe(
    Layer.provide([InMemory.layer, NodeHttpServer.layer(createServer, { port: Number(process.env.PORT ?? 3000) })]),
    Layer.launch,
    NodeRuntime.runMain
  )
}
