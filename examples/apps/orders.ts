/**
 * Takes orders in an AWS Lambda function. A client that had no answer may send its request again, with the same
 * `Idempotency-Key`: the order is placed once, and each answer is the same.
 */
import { Context, Effect, Equal, Layer, ManagedRuntime, Option, Schema } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import { type StorageBackend, StorageError, StorageKey, VersionedStore } from "effect-versioned-store"

// --- what is stored -----------------------------------------------------------

const Draft = Schema.Struct({ items: Schema.NonEmptyArray(Schema.NonEmptyString) })

const Order = Schema.Struct({ number: Schema.Int, ...Draft.fields })

/** A request that was seen, and the number of its order. */
const Seen = Schema.Struct({ draft: Draft, number: Schema.Int })

class OtherRequest extends Schema.TaggedError<OtherRequest>()("OtherRequest", {}, { httpApiStatus: 422 }) {}

// --- placing an order once ----------------------------------------------------

class Orders extends Context.Service<Orders>()("Orders", {
  make: Effect.gen(function* () {
    const counters = yield* VersionedStore.make({ idPrefix: "counter/", schema: Schema.Int })
    const orders = yield* VersionedStore.make({ idPrefix: "order/", schema: Order })
    const requests = yield* VersionedStore.make({ idPrefix: "request/", schema: Seen })

    const nextNumber = (owner: string) =>
      counters.upsert({ owner, id: "orders" }, (last) => Option.getOrElse(last, () => 0) + 1)

    /**
     * Places the order of a request once, however often and wherever the request is handled, also if a function dies
     * in the middle. If a request is handled twice at once, one of the two numbers may stay unused.
     */
    const place = Effect.fnUntraced(function* (owner: string, requestId: string, draft: typeof Draft.Type) {
      const request = yield* requests.upsertEffect(
        { owner, id: requestId },
        Option.match({
          onNone: () => Effect.map(nextNumber(owner), ({ value: number }) => ({ draft, number })),
          onSome: Effect.succeed
        }),
        { ttl: "1 day" }
      )
      if (!Equal.equals(request.value.draft, draft)) return yield* new OtherRequest()
      const { number } = request.value
      const key = { owner, id: `${number}`.padStart(9, "0") }
      const create = orders.create(key, { number, ...draft })
      return (yield* Effect.catchTag(create, "AlreadyExists", () => orders.get(key))).value
    })

    return { place }
  })
}) {
  static readonly layer = Layer.effect(this, this.make)
}

// --- the API, as a function of AWS Lambda -------------------------------------

const { Backend, CapacityExceeded, RecordNotFound, VersionConflict } = StorageError

const placeEndpoint = HttpApiEndpoint.post("place", "/:owner/orders", {
  params: { owner: Schema.String },
  headers: { "idempotency-key": Schema.NonEmptyString },
  payload: Draft,
  success: Order,
  error: [StorageKey.InvalidKey, RecordNotFound, VersionConflict, CapacityExceeded, Backend, OtherRequest]
})

const Api = HttpApi.make("orders").add(HttpApiGroup.make("orders").add(placeEndpoint))

const handlers = HttpApiBuilder.group(Api, "orders", (handlers) =>
  Effect.map(Orders, (orders) =>
    handlers.handle("place", ({ headers, params, payload }) =>
      Effect.catchTag(orders.place(params.owner, headers["idempotency-key"], payload), "SchemaError", Effect.die)
    )
  )
)

/** The parts of API Gateway's event (payload format 2.0) that are used here. */
export interface Event {
  readonly rawPath: string
  readonly rawQueryString: string
  readonly headers: Readonly<Record<string, string>>
  readonly requestContext: { readonly http: { readonly method: string } }
  readonly body?: string
  readonly isBase64Encoded: boolean
}

const toRequest = ({ body, headers, isBase64Encoded, rawPath, rawQueryString, requestContext }: Event): Request =>
  new Request(`https://lambda${rawPath}?${rawQueryString}`, {
    method: requestContext.http.method,
    headers,
    ...(body === undefined ? {} : { body: isBase64Encoded ? Buffer.from(body, "base64") : body })
  })

/** Makes the function. The storage's Layer is built at once, so that a wrong set-up fails the cold start. */
export const makeHandler = async (storage: Layer.Layer<StorageBackend.StorageBackend, unknown>) => {
  const context = await ManagedRuntime.make(storage).context()
  const { handler } = HttpRouter.toWebHandler(
    HttpApiBuilder.layer(Api).pipe(
      Layer.provide(handlers),
      Layer.provide(Orders.layer),
      Layer.provide([Layer.succeedContext(context), HttpServer.layerServices])
    ),
    { disableLogger: true }
  )
  return async (event: Event) => {
    const response = await handler(toRequest(event))
    return {
      statusCode: response.status,
      headers: Object.fromEntries(response.headers),
      body: await response.text()
    }
  }
}
