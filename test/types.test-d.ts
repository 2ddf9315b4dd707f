/** The types of the public names. The compiler checks them (`npm run check`), and vitest never runs this file. */
import { describe, expectTypeOf, it } from "@effect/vitest"
import type { Config, Effect, Layer, Option, Schema, Stream } from "effect"
import type * as DynamoDb from "../src/engine/DynamoDb.ts"
import type * as InMemory from "../src/engine/InMemory.ts"
import type * as Redis from "../src/engine/Redis.ts"
import type * as Sqlite from "../src/engine/Sqlite.ts"
import type * as Lease from "../src/Lease.ts"
import type * as RedisClient from "../src/redis/RedisClient.ts"
import type * as StorageBackend from "../src/StorageBackend.ts"
import type {
  AlreadyExists,
  Backend,
  CapacityExceeded,
  InvalidCommit,
  InvalidCursor,
  InvalidData,
  RecordNotFound,
  VersionConflict
} from "../src/StorageError.ts"
import type { InvalidKey } from "../src/StorageKey.ts"
import * as Transaction from "../src/Transaction.ts"
import type * as TaskError from "../src/task/TaskError.ts"
import type * as TaskStore from "../src/task/TaskStore.ts"
import type * as VersionedStore from "../src/VersionedStore.ts"

type ErrorOf<F> = F extends (...args: never) => Effect.Effect<unknown, infer E, unknown> ? E : never
type Service = StorageBackend.StorageBackend["Service"]
type Tasks = TaskStore.TaskStore["Service"]
type Orders = VersionedStore.VersionedStore<{ readonly total: number }, "decoding", "encoding">

describe("error channels", () => {
  it("of StorageBackend hold what each operation can fail with, and no more", () => {
    expectTypeOf<ErrorOf<Service["get"]>>().toEqualTypeOf<RecordNotFound | Backend>()
    expectTypeOf<ErrorOf<Service["getMany"]>>().toEqualTypeOf<Backend>()
    expectTypeOf<ErrorOf<Service["put"]>>().toEqualTypeOf<InvalidData | CapacityExceeded | Backend>()
    expectTypeOf<ErrorOf<Service["putIfVersion"]>>().toEqualTypeOf<
      RecordNotFound | VersionConflict | InvalidData | CapacityExceeded | Backend
    >()
    expectTypeOf<ErrorOf<Service["delete"]>>().toEqualTypeOf<Backend>()
    expectTypeOf<ErrorOf<Service["deleteIfVersion"]>>().toEqualTypeOf<RecordNotFound | VersionConflict | Backend>()
    expectTypeOf<ErrorOf<Service["commit"]>>().toEqualTypeOf<
      RecordNotFound | VersionConflict | InvalidData | CapacityExceeded | InvalidCommit | Backend
    >()
    expectTypeOf<ErrorOf<Service["listByPrefix"]>>().toEqualTypeOf<InvalidCursor | Backend>()
    expectTypeOf<Service["cleanupExpired"]>().toEqualTypeOf<Effect.Effect<number, Backend>>()
  })

  it("of Lease hold what each operation can fail with, and no more", () => {
    expectTypeOf<ErrorOf<typeof Lease.acquire>>().toEqualTypeOf<InvalidKey | CapacityExceeded | Backend>()
    expectTypeOf<ErrorOf<typeof Lease.tryAcquire>>().toEqualTypeOf<
      InvalidKey | CapacityExceeded | Backend | Lease.LeaseTaken
    >()
    const withLease = {} as ReturnType<typeof Lease.withLease>
    const held = () => withLease({} as Effect.Effect<number, "wrong", "service">)
    expectTypeOf(held).returns.toEqualTypeOf<
      Effect.Effect<
        number,
        "wrong" | InvalidKey | CapacityExceeded | Backend | Lease.LeaseLost,
        "service" | StorageBackend.StorageBackend
      >
    >()
    expectTypeOf<Lease.Lease["lost"]>().toEqualTypeOf<Effect.Effect<never, Lease.LeaseLost>>()
    expectTypeOf<Lease.Lease["check"]>().toEqualTypeOf<Effect.Effect<void, Lease.LeaseLost>>()
    expectTypeOf<ErrorOf<Lease.Lease["commit"]>>().toEqualTypeOf<
      Lease.LeaseLost | RecordNotFound | VersionConflict | InvalidData | CapacityExceeded | InvalidCommit | Backend
    >()
  })

  it("of Transaction hold what each operation, and its end, can fail with, and no more", () => {
    type Tx = Transaction.Transaction
    type Read = InvalidKey | Schema.SchemaError | Backend
    expectTypeOf<ErrorOf<Tx["get"]>>().toEqualTypeOf<Read | RecordNotFound>()
    expectTypeOf<ErrorOf<Tx["getOption"]>>().toEqualTypeOf<Read>()
    expectTypeOf<ErrorOf<Tx["set"]>>().toEqualTypeOf<Read>()
    expectTypeOf<ErrorOf<Tx["create"]>>().toEqualTypeOf<Read | AlreadyExists>()
    expectTypeOf<ErrorOf<Tx["update"]>>().toEqualTypeOf<Read | RecordNotFound>()
    expectTypeOf<ErrorOf<Tx["remove"]>>().toEqualTypeOf<InvalidKey | Backend>()
    const run = (f: (tx: Tx) => Effect.Effect<1, "mine", "service">) => Transaction.run("alice", f)
    expectTypeOf<ReturnType<typeof run>>().toEqualTypeOf<
      Effect.Effect<1, "mine" | VersionConflict | CapacityExceeded | InvalidCommit | Backend, "service">
    >()
  })

  it("of VersionedStore hold what each operation can fail with, and no more", () => {
    type Read = InvalidKey | Schema.SchemaError | Backend
    type Write = Read | CapacityExceeded
    expectTypeOf<ErrorOf<Orders["get"]>>().toEqualTypeOf<Read | RecordNotFound>()
    expectTypeOf<ErrorOf<Orders["getOption"]>>().toEqualTypeOf<Read>()
    expectTypeOf<ErrorOf<Orders["getMany"]>>().toEqualTypeOf<Read>()
    expectTypeOf<ErrorOf<Orders["create"]>>().toEqualTypeOf<Write | AlreadyExists>()
    expectTypeOf<ErrorOf<Orders["set"]>>().toEqualTypeOf<Write>()
    expectTypeOf<ErrorOf<Orders["setIfVersion"]>>().toEqualTypeOf<
      Exclude<Write, InvalidKey> | RecordNotFound | VersionConflict
    >()
    expectTypeOf<ErrorOf<Orders["update"]>>().toEqualTypeOf<Write | RecordNotFound | VersionConflict>()
    expectTypeOf<ErrorOf<Orders["modify"]>>().toEqualTypeOf<Write | RecordNotFound | VersionConflict>()
    expectTypeOf<ErrorOf<Orders["updateSome"]>>().toEqualTypeOf<Write | RecordNotFound | VersionConflict>()
    expectTypeOf<ErrorOf<Orders["modifySome"]>>().toEqualTypeOf<Write | RecordNotFound | VersionConflict>()
    expectTypeOf<ErrorOf<Orders["upsert"]>>().toEqualTypeOf<Write | VersionConflict>()
    expectTypeOf<ErrorOf<Orders["setIfMatch"]>>().toEqualTypeOf<Write | RecordNotFound | VersionConflict>()
    expectTypeOf<ErrorOf<Orders["removeIfMatch"]>>().toEqualTypeOf<
      InvalidKey | RecordNotFound | VersionConflict | Backend
    >()
    expectTypeOf<ErrorOf<Orders["touch"]>>().toEqualTypeOf<
      InvalidKey | Backend | CapacityExceeded | RecordNotFound | VersionConflict
    >()
    expectTypeOf<ErrorOf<Orders["removeAll"]>>().toEqualTypeOf<InvalidKey | Backend>()
    expectTypeOf<ErrorOf<Orders["remove"]>>().toEqualTypeOf<InvalidKey | Backend>()
    expectTypeOf<ErrorOf<Orders["removeIfVersion"]>>().toEqualTypeOf<RecordNotFound | VersionConflict | Backend>()
    expectTypeOf<ErrorOf<Orders["list"]>>().toEqualTypeOf<Read | InvalidCursor>()
    expectTypeOf<ReturnType<Orders["stream"]>>().toEqualTypeOf<
      Stream.Stream<VersionedStore.Record<{ readonly total: number }>, Read, "decoding">
    >()
  })

  it("of TaskStore hold what each operation can fail with, and no more", () => {
    type Access = InvalidKey | TaskError.AnonymousOwner | Backend
    type Read = Access | TaskError.TaskNotFound
    type Change = Read | TaskError.TaskExpired | TaskError.ConcurrentModification | CapacityExceeded
    type Transition = Change | TaskError.InvalidTransition
    expectTypeOf<ErrorOf<Tasks["create"]>>().toEqualTypeOf<
      | Access
      | TaskError.TaskAlreadyExists
      | TaskError.TooManyTasks
      | TaskError.TtlTooLong
      | TaskError.InvalidVariables
      | TaskError.VariablesTooLarge
      | TaskError.ConcurrentModification
      | CapacityExceeded
    >()
    expectTypeOf<ErrorOf<Tasks["get"]>>().toEqualTypeOf<Read>()
    type Payload = TaskError.InvalidPayload | TaskError.PayloadTooLarge
    expectTypeOf<ErrorOf<Tasks["updateStatus"]>>().toEqualTypeOf<Transition | TaskError.PayloadTooLarge>()
    expectTypeOf<ErrorOf<Tasks["setStatusMessage"]>>().toEqualTypeOf<Transition | TaskError.PayloadTooLarge>()
    expectTypeOf<ErrorOf<Tasks["cancel"]>>().toEqualTypeOf<Transition | TaskError.PayloadTooLarge>()
    expectTypeOf<ErrorOf<Tasks["fail"]>>().toEqualTypeOf<Transition | Payload>()
    expectTypeOf<ErrorOf<Tasks["setResult"]>>().toEqualTypeOf<Transition | Payload>()
    expectTypeOf<ErrorOf<Tasks["setError"]>>().toEqualTypeOf<Transition | Payload>()
    expectTypeOf<ErrorOf<Tasks["setVariables"]>>().toEqualTypeOf<
      Change | TaskError.VariablesTooLarge | TaskError.InvalidVariables
    >()
    expectTypeOf<ErrorOf<Tasks["getResult"]>>().toEqualTypeOf<Read | TaskError.TaskNotReady>()
    expectTypeOf<ErrorOf<Tasks["completeWithResult"]>>().toEqualTypeOf<Transition | Payload>()
    expectTypeOf<ErrorOf<Tasks["recordInputRequests"]>>().toEqualTypeOf<
      Transition | TaskError.InputKeyReused | Payload
    >()
    expectTypeOf<ErrorOf<Tasks["deliverInputs"]>>().toEqualTypeOf<Transition | Payload>()
    expectTypeOf<ErrorOf<Tasks["list"]>>().toEqualTypeOf<Access | InvalidCursor>()
    expectTypeOf<ErrorOf<Tasks["remove"]>>().toEqualTypeOf<Read | TaskError.ConcurrentModification>()
    expectTypeOf<ErrorOf<Tasks["awaitTerminal"]>>().toEqualTypeOf<
      Read | TaskError.TaskExpired | TaskError.TaskNotReady
    >()
    expectTypeOf<typeof TaskStore.layer>().toEqualTypeOf<
      Layer.Layer<TaskStore.TaskStore, never, StorageBackend.StorageBackend>
    >()
  })

  it("of an Effect given to updateEffect join those of the update, and so do its services", () => {
    const update = (orders: Orders, f: Effect.Effect<{ readonly total: number }, "failure", "service">) =>
      orders.updateEffect({ owner: "alice", id: "42" }, () => f)
    expectTypeOf<ErrorOf<typeof update>>().toEqualTypeOf<VersionedStore.UpdateError | "failure">()
    expectTypeOf<Effect.Services<ReturnType<typeof update>>>().toEqualTypeOf<"decoding" | "encoding" | "service">()
  })
})

describe("services", () => {
  it("are needed for decoding if an operation reads a record, and for encoding if it writes one", () => {
    expectTypeOf<Effect.Services<ReturnType<Orders["get"]>>>().toEqualTypeOf<"decoding">()
    expectTypeOf<Effect.Services<ReturnType<Orders["create"]>>>().toEqualTypeOf<"encoding">()
    expectTypeOf<Effect.Services<ReturnType<Orders["update"]>>>().toEqualTypeOf<"decoding" | "encoding">()
    expectTypeOf<Effect.Services<ReturnType<Orders["remove"]>>>().toEqualTypeOf<never>()
  })

  it("are supplied by a Layer that needs nothing", () => {
    expectTypeOf<typeof InMemory.layer>().toEqualTypeOf<Layer.Layer<StorageBackend.StorageBackend>>()
    expectTypeOf<ReturnType<typeof StorageBackend.layerCleanup>>().toEqualTypeOf<
      Layer.Layer<never, never, StorageBackend.StorageBackend>
    >()
  })

  it("come from Layers that are alike: from options, and from the same options as configuration", () => {
    type Configured<F extends (options: never) => unknown> = (
      options: Config.Wrap<NonNullable<Parameters<F>[0]>>
    ) => unknown
    expectTypeOf<typeof Sqlite.layerConfig>().toExtend<Configured<typeof Sqlite.layer>>()
    expectTypeOf<typeof DynamoDb.layerConfig>().toExtend<Configured<typeof DynamoDb.layer>>()
    expectTypeOf<typeof DynamoDb.layerClientConfig>().toExtend<Configured<typeof DynamoDb.layerClient>>()
    expectTypeOf<typeof Redis.layerConfig>().toExtend<Configured<typeof Redis.layer>>()
    expectTypeOf<typeof RedisClient.layerConfig>().toExtend<Configured<typeof RedisClient.layer>>()
    expectTypeOf<typeof RedisClient.layerClusterConfig>().toExtend<Configured<typeof RedisClient.layerCluster>>()
    expectTypeOf<typeof InMemory.layerConfig>().toExtend<Configured<typeof InMemory.layerWith>>()
    expectTypeOf<typeof TaskStore.layerConfig>().toExtend<Configured<typeof TaskStore.layerWith>>()
    type Engines = typeof Sqlite.layer | typeof DynamoDb.layer | typeof Redis.layer
    expectTypeOf<Layer.Error<ReturnType<Engines>>>().toEqualTypeOf<Backend>()
  })

  it("are typed by the Schema", () => {
    type Made = Effect.Success<ReturnType<typeof VersionedStore.make<Schema.DateTimeUtcFromString>>>
    expectTypeOf<Parameters<Parameters<Made["upsert"]>[1]>[0]>().toEqualTypeOf<
      Option.Option<Schema.DateTimeUtcFromString["Type"]>
    >()
  })
})
