/** A typed store as a service of the application: made once, when its Layer is built. */
import { Console, Context, Effect, Layer, Schema } from "effect"
import { InMemory, VersionedStore } from "effect-versioned-store"

const Order = Schema.Struct({ items: Schema.Array(Schema.String), status: Schema.Literals(["open", "paid"]) })

class Orders extends Context.Service<Orders>()("Orders", {
  make: VersionedStore.make({ idPrefix: "order/", schema: Order })
}) {
  static readonly layer = Layer.effect(this, this.make)
}

class OrderIsPaid extends Schema.TaggedError<OrderIsPaid>()("OrderIsPaid", { id: Schema.String }) {}

/** Adds an item to an open order. If another process pays the order meanwhile, this fails and changes nothing. */
const addItem = Effect.fnUntraced(function* (owner: string, id: string, item: string) {
  const orders = yield* Orders
  return yield* orders.updateEffect({ owner, id }, (order) =>
    order.status === "paid"
      ? Effect.fail(new OrderIsPaid({ id }))
      : Effect.succeed({ ...order, items: [...order.items, item] })
  )
})

const program = Effect.gen(function* () {
  const orders = yield* Orders
  yield* orders.create({ owner: "alice", id: "42" }, { items: [], status: "open" })
  yield* Effect.all([addItem("alice", "42", "tea"), addItem("alice", "42", "milk")], { concurrency: "unbounded" })
  const paid = yield* orders.update({ owner: "alice", id: "42" }, (order) => ({ ...order, status: "paid" as const }))
  yield* Console.log(`${paid.value.items.toSorted().join(" and ")}, version ${paid.version}`)
  yield* addItem("alice", "42", "sugar")
}).pipe(Effect.catchTag("OrderIsPaid", ({ id }) => Console.log(`order ${id} is paid already`)))

await Effect.runPromise(program.pipe(Effect.provide(Orders.layer.pipe(Layer.provide(InMemory.layer)))))
