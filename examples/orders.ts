/**
 * A shop whose orders are workflows. The shop places them, and workers run them. Each is a process of its own, and they
 * share only the storage.
 *
 * An order reserves the goods, charges the customer, and waits for the approval of a human. If it is approved, it
 * sleeps while the customer may still cancel, and is shipped. If it is rejected, what was done is undone. The first
 * worker is killed while it charges, and another worker goes on from there.
 */
import { styleText } from "node:util"
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Context, Effect, Fiber, Layer, Option, Schedule, Schema, Stream } from "effect"
import { CliError, Command, Flag } from "effect/cli"
import { Activity, DurableClock, DurableDeferred, Workflow } from "effect/workflow"
import { StorageWorkflowEngine, VersionedStore } from "effect-versioned-store"
import { asUserError, backendFlags, flagsOf, layerBackend, placeOf, share } from "./backends.ts"
import { boundProcess } from "./server.ts"

// --- an order -----------------------------------------------------------------

class Rejected extends Schema.TaggedError<Rejected>()("Rejected", { reason: Schema.String }) {}

const OrderWorkflow = Workflow.make("Order", {
  payload: { id: Schema.String, customer: Schema.String, goods: Schema.String, price: Schema.Int },
  // However often an order is placed, it is one order.
  idempotencyKey: ({ id }) => id,
  success: Schema.String,
  error: Rejected
})

type Order = typeof OrderWorkflow.payloadSchema.Type

const Approval = DurableDeferred.make("approval", { error: Rejected })

/** A request to the world outside. Once its answer is stored, the request is not made again. */
const request = (name: string, order: string, what: string) =>
  Activity.make({
    name,
    success: Schema.String,
    execute: Effect.gen(function* () {
      const outside = yield* Outside
      // If a worker dies before the answer is stored, the request is made again, with the same key.
      return yield* outside.request(yield* Activity.idempotencyKey(name), { name, order, what })
    })
  })

/** Runs from its start again whenever the order goes on, and gets the stored answers of requests that were made. */
const runOrder = Effect.fnUntraced(function* ({ customer, goods, id, price }: Order) {
  yield* request("reserve", id, goods).pipe(
    OrderWorkflow.withCompensation(() => Effect.asVoid(request("release", id, goods)))
  )
  yield* request("charge", id, `${customer} ${price}`).pipe(
    OrderWorkflow.withCompensation((payment) => Effect.asVoid(request("refund", id, payment)))
  )
  yield* DurableDeferred.await(Approval)
  // By default a sleep of up to a minute is in memory, and starts again if the worker dies.
  yield* DurableClock.sleep({ name: "time to cancel", duration: "2 seconds", inMemoryThreshold: 0 })
  return yield* request("ship", id, `${goods} to ${customer}`)
})

// --- the world outside --------------------------------------------------------

/** What was done for an order, and how often it was asked for. */
const Deed = Schema.Struct({ order: Schema.String, name: Schema.String, requests: Schema.Int })

/** The bank and the warehouse. They know a request by its key, so what is asked for twice is done once. */
class Outside extends Context.Service<Outside>()("Outside", {
  make: Effect.fnUntraced(function* (owner: string) {
    const store = yield* VersionedStore.make({ idPrefix: "deed/", schema: Deed })
    return {
      request: Effect.fnUntraced(function* (
        key: string,
        { name, order, what }: { readonly name: string; readonly order: string; readonly what: string }
      ) {
        yield* Console.log(`${order}: ${name} ${what}`)
        const { value } = yield* store.upsert({ owner, id: key }, (deed) => ({
          name,
          order,
          requests: Option.match(deed, { onNone: () => 1, onSome: ({ requests }) => requests + 1 })
        }))
        if (value.requests > 1) yield* Console.log(`${order}: the ${name} had been done already`)
        // The bank takes a minute for a charge, but not for one that it knows.
        yield* Effect.sleep(name === "charge" && value.requests === 1 ? "1 minute" : "100 millis")
        return `receipt ${key.slice(0, 6)}`
      }, Effect.orDie),

      deeds: Stream.runCollect(Stream.map(store.stream({ owner }), ({ value }) => value))
    }
  })
}) {
  static readonly layer = (owner: string) => Layer.effect(this, this.make(owner))
}

// --- a worker -----------------------------------------------------------------

/** A worker is followed within twice the lease. So short a lease is for the demo. */
const layerEngine = (owner: string) => StorageWorkflowEngine.layer({ owner, leaseTtl: "2 seconds" })

const worker = Command.make(
  "worker",
  { owner: Flag.String("owner").pipe(Flag.withDescription("The owner of the orders")), ...backendFlags },
  ({ owner, ...choice }) =>
    OrderWorkflow.toLayer(runOrder).pipe(
      Layer.provide([layerEngine(owner), Outside.layer(owner)]),
      Layer.provide(layerBackend(choice)),
      Layer.launch,
      asUserError("shared")
    )
).pipe(Command.withDescription("Runs the orders of an owner until it is ended"))

// --- the shop -----------------------------------------------------------------

const orders = [
  { id: "order 1", customer: "ada", goods: "2 books", price: 30 },
  { id: "order 2", customer: "bob", goods: "1 yacht", price: 90_000 }
]

const isApproved = ({ price }: Order) => price < 1000

const colors = { shop: "cyan", manager: "magenta", "worker 1": "yellow", "worker 2": "green" } as const

const startedMillis = performance.now()

const say = (who: keyof typeof colors, what: string) => {
  const seconds = ((performance.now() - startedMillis) / 1000).toFixed(1).padStart(4)
  return Console.log(`  ${seconds} s  ${styleText(["bold", colors[who]], who.padEnd(8))}  ${what}`)
}

/** Starts a worker, and prints its output. */
const startWorker = Effect.fnUntraced(function* (name: "worker 1" | "worker 2", flags: ReadonlyArray<string>) {
  const handle = yield* boundProcess([process.execPath, import.meta.filename, "worker", ...flags], {
    stderr: "inherit"
  })
  const output = yield* handle.stdout.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((line) => say(name, line)),
    Effect.forkScoped
  )
  const failed = Effect.flatMap(
    handle.exitCode,
    (code) => new CliError.UserError({ cause: `The process of ${name} has ended with code ${code}` })
  )
  return {
    kill: Effect.andThen(handle.kill({ killSignal: "SIGKILL" }), Fiber.join(output)),
    /** Waits for something that the worker should do, and no longer than the worker runs. */
    until: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.raceFirst(effect, failed)
  }
})

const often = Schedule.spaced("50 millis")

/** Waits until an order waits for its approval, and decides as the manager. */
const decide = Effect.fnUntraced(function* (order: Order) {
  const executionId = yield* OrderWorkflow.executionId(order)
  yield* Effect.repeat(OrderWorkflow.poll(executionId), {
    schedule: often,
    until: (result) => Option.exists(result, ({ _tag }) => _tag === "Suspended")
  })
  const token = DurableDeferred.tokenFromExecutionId(Approval, { workflow: OrderWorkflow, executionId })
  if (isApproved(order)) {
    yield* say("manager", `approves ${order.id}, and ${order.customer} has 2 seconds to cancel`)
    yield* DurableDeferred.succeed(Approval, { token, value: undefined })
  } else {
    yield* say("manager", `rejects ${order.id}`)
    yield* DurableDeferred.fail(Approval, { token, error: new Rejected({ reason: "too dear" }) })
  }
})

/** Waits for the end of an order. Returns whether it was shipped. */
const awaitEnd = (order: Order) =>
  OrderWorkflow.execute(order).pipe(
    Effect.tap((parcel) => say("shop", `${order.id} is on its way: ${parcel}`)),
    Effect.as(true),
    Effect.catchTag("Rejected", ({ reason }) => Effect.as(say("shop", `${order.id} was rejected: ${reason}`), false))
  )

const shop = Effect.fnUntraced(function* (flags: ReadonlyArray<string>) {
  const outside = yield* Outside
  for (const order of orders) {
    yield* say("shop", `places ${order.id}: ${order.goods} for ${order.customer}`)
    yield* OrderWorkflow.execute(order, { discard: true })
  }
  const first = yield* startWorker("worker 1", flags)
  const areCharged = (deeds: ReadonlyArray<typeof Deed.Type>) =>
    deeds.filter(({ name }) => name === "charge").length === orders.length
  yield* first.until(Effect.repeat(outside.deeds, { schedule: often, until: areCharged }))
  yield* say("shop", styleText("red", "kills worker 1 with SIGKILL, while it waits for the bank"))
  yield* first.kill

  const second = yield* startWorker("worker 2", flags)
  const shipped = yield* second.until(
    Effect.forEach(orders, (order) => Effect.andThen(decide(order), awaitEnd(order)), { concurrency: "unbounded" })
  )
  return yield* report(shipped)
})

/** Prints what was done for each order. Returns what is wrong. */
const report = Effect.fnUntraced(function* (shipped: ReadonlyArray<boolean>) {
  const deeds = yield* (yield* Outside).deeds
  const wrong: Array<string> = []
  yield* Console.log("\n  What the bank and the warehouse have done:")
  for (const [index, order] of orders.entries()) {
    const steps = isApproved(order) ? ["reserve", "charge", "ship"] : ["reserve", "charge", "refund", "release"]
    const own = deeds
      .filter((deed) => deed.order === order.id)
      .sort((a, b) => steps.indexOf(a.name) - steps.indexOf(b.name))
    const done = own.map(({ name }) => name).join(", ")
    const cells = own.map(({ name, requests }) => (requests === 1 ? name : `${name} (after ${requests} requests)`))
    yield* Console.log(`  ${order.id}: ${cells.join(", ")}`)
    if (done !== steps.join(", ")) wrong.push(`for ${order.id} this was done: ${done}`)
    if (shipped[index] !== isApproved(order)) wrong.push(`${order.id} had the wrong end`)
    if (own[0]?.requests !== 1) wrong.push(`${order.id} was reserved again, though this had ended`)
  }
  return wrong
})

// --- the command --------------------------------------------------------------

const command = Command.make("orders", backendFlags, (flags) =>
  Effect.gen(function* () {
    const choice = yield* share(flags)
    const owner = `shop-${crypto.randomUUID()}`
    yield* Console.log(`\nA shop and two workers. Each is a process of its own.\nThey share only ${placeOf(choice)}.\n`)
    const wrong = yield* shop(["--owner", owner, ...flagsOf(choice)]).pipe(
      Effect.provide(Layer.provide(Layer.merge(layerEngine(owner), Outside.layer(owner)), layerBackend(choice)))
    )
    if (wrong.length > 0) return yield* new CliError.UserError({ cause: `It went wrong: ${wrong.join("; ")}` })
    yield* Console.log(
      "\n  Each step was done once. Those that had ended when worker 1 died were not run again. The charges were: they" +
        "\n  were sent with the same key, so the bank knew them.\n"
    )
  }).pipe(
    Effect.scoped,
    Effect.onInterrupt(() => Console.log("\nStopped, and the workers as well.")),
    asUserError("shared")
  )
).pipe(
  Command.withDescription("Runs two orders as workflows, and kills their worker on the way"),
  Command.withSubcommands([worker])
)

Command.run(command, { version: "0.1.0" }).pipe(Effect.provide(NodeServices.layer), NodeRuntime.runMain)
