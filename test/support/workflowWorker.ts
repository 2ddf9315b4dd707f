/** A process that runs orders and errands as durable workflows, and notes in a file what they do. */
import { openSync, writeSync } from "node:fs"
import { Effect, Layer, Redacted, Schema } from "effect"
import { Activity, DurableClock, DurableDeferred, Workflow } from "effect/workflow"
import * as DynamoDb from "../../src/engine/DynamoDb.ts"
import * as Postgres from "../../src/engine/Postgres.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import * as StorageWorkflowEngine from "../../src/workflow/StorageWorkflowEngine.ts"

export type Store =
  | { readonly filename: string }
  | { readonly redisUrl: string; readonly keyPrefix: string }
  | { readonly postgresUrl: string; readonly tableName: string }
  | { readonly dynamoDb: object; readonly tableName: string }

export interface Work {
  readonly store: Store
  readonly leaseMillis: number
  readonly pollMillis: number
  /** The file in which all processes note what happens, one line of JSON each. */
  readonly notes: string
  readonly worker: string
}

/** What happened, in the order of the file. Every process appends to it. */
export type Note =
  /** A run of a workflow's body, which begins at its start each time. */
  | { readonly _tag: "Run"; readonly worker: string; readonly execution: string; readonly at: number }
  /** The begin of an activity. No other begin has the same token. */
  | {
      readonly _tag: "Begun"
      readonly worker: string
      readonly execution: string
      readonly activity: string
      readonly token: string
      readonly at: number
    }
  /** A time in which the process stood still, which it notes once it has gone on. */
  | { readonly _tag: "Stood"; readonly worker: string; readonly from: number; readonly at: number }
  /** The end of an execution, as the process saw it that has started it. */
  | { readonly _tag: "Ended"; readonly worker: string; readonly execution: string; readonly at: number }

export const owner = "shop"

export const storageOf = (store: Store) => {
  if ("filename" in store) return Sqlite.layer(store)
  if ("redisUrl" in store) {
    return Redis.layer({ keyPrefix: store.keyPrefix }).pipe(Layer.provide(RedisClient.layer({ url: store.redisUrl })))
  }
  const { tableName } = store
  return "postgresUrl" in store
    ? Postgres.layer({ tableName, hints: true }).pipe(
        Layer.provide(Layer.effectDiscard(Postgres.ensureTable({ tableName }))),
        Layer.provide(Postgres.layerClient({ url: Redacted.make(store.postgresUrl) }))
      )
    : DynamoDb.layer({ tableName }).pipe(
        Layer.provide(Layer.effectDiscard(DynamoDb.ensureTable({ tableName }))),
        Layer.provide(DynamoDb.layerClient(store.dynamoDb))
      )
}

export const engineOf = ({ leaseMillis, pollMillis, store }: Pick<Work, "leaseMillis" | "pollMillis" | "store">) =>
  StorageWorkflowEngine.layer({ owner, leaseTtl: leaseMillis, pollInterval: pollMillis }).pipe(
    Layer.provideMerge(storageOf(store))
  )

/** Appends a note to the file. A line is one write, so the lines of several processes don't mix. */
export const noteTo = (filename: string) => {
  const file = openSync(filename, "a")
  return (note: Note) => {
    writeSync(file, `${JSON.stringify(note)}\n`)
  }
}

export const Approval = DurableDeferred.make("approval", { success: Schema.String })

const times = {
  id: Schema.String,
  /** How long the durable sleep is, and how long each activity takes. */
  sleepMillis: Schema.Int,
  workMillis: Schema.Int
}

/** An order has three activities of its own, a sleep, an approval and a delivery, which is a workflow of its own. */
export const Order = Workflow.make("Order", {
  payload: { ...times, isInStock: Schema.Boolean },
  success: Schema.Struct({
    approvedBy: Schema.String,
    steps: Schema.Struct({
      reserve: Schema.String,
      charge: Schema.String,
      deliver: Schema.String,
      pack: Schema.String
    })
  }),
  /** If the order is not in stock it fails at its end, and what it has reserved is released. */
  error: Schema.Struct({ reserve: Schema.String, charge: Schema.String, deliver: Schema.String }),
  idempotencyKey: ({ id }) => id
})

export const Delivery = Workflow.make("Delivery", {
  payload: times,
  success: Schema.String,
  idempotencyKey: ({ id }) => id
})

/** An errand has two activities with a sleep between them. */
export const Errand = Workflow.make("Errand", {
  payload: times,
  success: Schema.Struct({ go: Schema.String, come: Schema.String }),
  idempotencyKey: ({ id }) => id
})

export type OrderPayload = (typeof Order.payloadSchema)["Type"]
export type ErrandPayload = (typeof Errand.payloadSchema)["Type"]

export const workflowsOf = (worker: string, note: (note: Note) => void) => {
  let begun = 0
  const run = (execution: string) => Effect.sync(() => note({ _tag: "Run", worker, execution, at: Date.now() }))

  const step = (activity: string, execution: string, workMillis: number) =>
    Activity.make({
      name: activity,
      success: Schema.String,
      execute: Effect.suspend(() => {
        const token = `${worker}.${begun++}`
        note({ _tag: "Begun", worker, execution, activity, token, at: Date.now() })
        return Effect.as(Effect.sleep(workMillis), token)
      })
    })

  const sleep = (duration: number) => DurableClock.sleep({ name: "pause", duration, inMemoryThreshold: 0 })

  const orders = Order.toLayer(
    Effect.fnUntraced(function* ({ id, isInStock, sleepMillis, workMillis }, execution) {
      yield* run(execution)
      const reserve = yield* step("reserve", execution, workMillis).pipe(
        Order.withCompensation(() => Effect.asVoid(step("release", execution, workMillis)))
      )
      yield* sleep(sleepMillis)
      const charge = yield* step("charge", execution, workMillis)
      const approvedBy = yield* DurableDeferred.await(Approval)
      const deliver = yield* Delivery.execute({ id, sleepMillis, workMillis })
      if (!isInStock) return yield* Effect.fail({ reserve, charge, deliver })
      const pack = yield* step("pack", execution, workMillis)
      return { approvedBy, steps: { reserve, charge, deliver, pack } }
    })
  )

  const deliveries = Delivery.toLayer(
    Effect.fnUntraced(function* ({ sleepMillis, workMillis }, execution) {
      yield* run(execution)
      yield* sleep(sleepMillis)
      return yield* step("deliver", execution, workMillis)
    })
  )

  const errands = Errand.toLayer(
    Effect.fnUntraced(function* ({ sleepMillis, workMillis }, execution) {
      yield* run(execution)
      const go = yield* step("go", execution, workMillis)
      yield* sleep(sleepMillis)
      return { go, come: yield* step("come", execution, workMillis) }
    })
  )

  return Layer.mergeAll(orders, deliveries, errands)
}

/** Notes when this process has stood still for long, as it does if it is stopped or the machine is very busy. */
const watchStanding = (worker: string, leaseMillis: number, note: (note: Note) => void) => {
  let from = Date.now()
  setInterval(() => {
    const at = Date.now()
    if (at - from > leaseMillis / 3) note({ _tag: "Stood", worker, from, at })
    from = at
  }, 20)
}

if (process.argv[1] === import.meta.filename) {
  const work: Work = JSON.parse(process.argv[2] ?? "")
  const note = noteTo(work.notes)
  watchStanding(work.worker, work.leaseMillis, note)
  // If the process that has started this one is gone, this one ends as well.
  process.stdin.resume().once("end", () => process.exit())
  const ready = Layer.effectDiscard(Effect.sync(() => writeSync(1, "ready\n")))
  Effect.runFork(
    Layer.launch(
      Layer.provideMerge(ready, workflowsOf(work.worker, note)).pipe(Layer.provide(Layer.fresh(engineOf(work))))
    )
  )
}
