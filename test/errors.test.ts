import { inspect } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Layer, Logger, Schedule, Schema } from "effect"
import { KeyValueStore, Persistence } from "effect/persistence"
import * as StorageKeyValueStore from "../src/persistence/StorageKeyValueStore.ts"
import * as StoragePersistence from "../src/persistence/StoragePersistence.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import * as StorageError from "../src/StorageError.ts"
import { InvalidKey, makeUnsafe } from "../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../src/StoragePrefix.ts"
import * as TaskError from "../src/task/TaskError.ts"
import * as TaskStore from "../src/task/TaskStore.ts"
import * as VersionedStore from "../src/VersionedStore.ts"
import { layerPlantable } from "./support/plantable.ts"

/** Stands in every record and in every credential of these tests, and must be in no error. */
const secret = "hush-4711"

const key = makeUnsafe({ owner: "alice", id: "a" })

/** Every way in which an error comes to be read: by a person, in a log, on the wire. */
const shown = Effect.fnUntraced(function* (error: unknown) {
  const logged: Array<string> = []
  const log = Logger.layer(
    [Logger.formatSimple, Logger.formatLogFmt, Logger.formatJson].map((logger) =>
      Logger.map(logger, (line) => logged.push(line))
    )
  )
  yield* Effect.logError("failed", error).pipe(Effect.provide(log))
  yield* Effect.logError("failed", Cause.fail(error)).pipe(Effect.provide(log))
  assert.strictEqual(logged.length, 6)
  const schema = (error as { readonly constructor: unknown }).constructor
  return {
    message: (error as Error).message,
    text: String(error),
    json: JSON.stringify(error),
    fields: JSON.stringify({ ...(error as object) }),
    inspected: inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true }),
    stack: (error as Error).stack ?? "",
    pretty: Cause.pretty(Cause.fail(error)),
    logged: logged.join("\n"),
    encoded: Schema.isSchema(schema)
      ? JSON.stringify(Schema.encodeUnknownSync(Schema.toCodecJson(schema as unknown as Schema.Codec<unknown>))(error))
      : ""
  }
})

const assertSecretFree = Effect.fnUntraced(function* (error: unknown) {
  for (const [way, text] of Object.entries(yield* shown(error))) {
    assert.notInclude(text, secret, `${(error as { readonly _tag?: string })._tag} shows it in its ${way}`)
  }
})

const Account = Schema.Struct({ name: Schema.NonEmptyString, balance: Schema.Int })

/** Errors as the library makes them, on records that hold the secret, by what was done. */
const provoked = Effect.gen(function* () {
  const backend = yield* StorageBackend
  const accounts = yield* VersionedStore.make({
    idPrefix: "",
    schema: Account,
    retrySchedule: Schedule.recurs(0)
  })
  const value = { name: secret, balance: 1 }
  const old = yield* accounts.create(key, value)
  const record = yield* accounts.set(key, value)
  const bad = makeUnsafe({ owner: "alice", id: "bad" })
  const store = yield* KeyValueStore.KeyValueStore
  const persistence = yield* Persistence.BackingPersistence
  const persisted = yield* persistence.make("store")
  const tasks = yield* TaskStore.TaskStore
  const { task } = yield* tasks.create({ ownerId: "alice", requestMethod: "tools/call" })
  const taskKey = { ownerId: "alice", taskId: task.taskId }
  yield* backend.put(bad, JSON.stringify({ name: secret, balance: secret, more: secret }))
  yield* backend.put(makeUnsafe({ owner: "alice", id: "!kv/bad" }), JSON.stringify({ value: { no: secret } }))
  yield* backend.put(makeUnsafe({ owner: "alice", id: "!persistence/store:bad" }), secret)
  yield* backend.put(
    makeUnsafe({ owner: "alice", id: "damaged" }),
    JSON.stringify({ task: { taskId: secret, status: secret } })
  )
  yield* backend.put(makeUnsafe({ owner: "bob", id: "!places" }), JSON.stringify({ places: secret }))
  const raced = accounts.updateEffect(key, (value) => Effect.as(accounts.set(key, value), value))
  const refused = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.flip(effect)
  return {
    "a compare-and-set that loses": yield* refused(backend.putIfVersion(key, secret, old.stored)),
    "a delete that loses": yield* refused(backend.deleteIfVersion(key, old.stored)),
    "a typed write that loses": yield* refused(accounts.setIfVersion(old, value)),
    "a typed removal that loses": yield* refused(accounts.removeIfVersion(old)),
    "an update whose schedule is spent": yield* refused(raced),
    "a create of what is there": yield* refused(accounts.create(key, value)),
    "a record that is not there": yield* refused(accounts.get({ owner: "alice", id: "none" })),
    "a record that does not decode": yield* refused(accounts.get(bad)),
    "a listing with such a record": yield* refused(accounts.list({ owner: "alice" })),
    "a value that does not encode": yield* refused(accounts.set(key, { name: secret, balance: 1.5 })),
    "data with a lone surrogate": yield* refused(backend.put(key, `${secret}\ud800`)),
    "data that is too large": yield* refused(backend.put(key, secret.repeat(100_000))),
    "a cursor of another listing": yield* refused(
      backend.listByPrefix(makePrefix({ owner: "alice", idPrefix: "" }), { cursor: secret })
    ),
    "an invalid key": yield* refused(accounts.get({ owner: "alice", id: `${secret}\0` })),
    "a key-value store on another's record": yield* refused(store.get("bad")),
    "a key-value store's write that is too large": yield* refused(store.set("b", secret.repeat(100_000))),
    "a persistence on another's record": yield* refused(persisted.get("bad")),
    "a damaged task": yield* refused(tasks.get({ ownerId: "alice", taskId: "damaged" })),
    "a damaged ledger": yield* refused(tasks.create({ ownerId: "bob", requestMethod: "tools/call" })),
    "a variable that is too long": yield* refused(tasks.setVariables(taskKey, { a: secret.repeat(100_000) })),
    "variables that are too many": yield* refused(
      tasks.setVariables(taskKey, Object.fromEntries(Array.from({ length: 30 }, (_, i) => [i, secret.repeat(7_000)])))
    ),
    "a task that is not there": yield* refused(tasks.get({ ownerId: "alice", taskId: "none" })),
    "the record as it is": record
  }
})

const layer = Layer.mergeAll(
  StorageKeyValueStore.layer({ owner: "alice" }),
  StoragePersistence.layer({ owner: "alice" }),
  TaskStore.layer
).pipe(Layer.provideMerge(layerPlantable()))

describe("an error", () => {
  it.effect("shows no record data, however it is read", () =>
    Effect.gen(function* () {
      const { "the record as it is": record, ...errors } = yield* provoked
      assert.include(JSON.stringify(record), secret)
      for (const [what, error] of Object.entries(errors)) {
        assert.property(error, "_tag", what)
        yield* assertSecretFree(error)
      }
    }).pipe(Effect.provide(layer))
  )

  it.effect("of a conflict still has the record for the program", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const old = yield* backend.put(key, "one")
      const current = yield* backend.put(key, secret)
      const conflict = yield* Effect.flip(backend.putIfVersion(key, "three", old))
      assert.strictEqual(conflict._tag, "VersionConflict")
      assert.deepStrictEqual((conflict as StorageError.VersionConflict).current, current)
      assert.deepStrictEqual(Object.keys(conflict).includes("current"), false)
    }).pipe(Effect.provide(layerPlantable()))
  )

  it("comes back from its encoding, save for the record that a conflict carried", () => {
    const current = { key, data: secret, version: 2, writeId: "w", expiresAt: undefined }
    const conflict = new StorageError.VersionConflict({ key, expected: 1, actual: 2, current })
    const codec = Schema.toCodecJson(StorageError.VersionConflict)
    const decoded = Schema.decodeUnknownSync(codec)(Schema.encodeUnknownSync(codec)(conflict))
    assert.instanceOf(decoded, StorageError.VersionConflict)
    assert.deepStrictEqual([decoded.key.id, decoded.expected, decoded.actual], ["a", 1, 2])
    assert.strictEqual(decoded.current, undefined)
  })

  it("has only fields that name a record, count, or say what to do", () => {
    const fields = new Set(
      [...Object.values(StorageError), ...Object.values(TaskError), InvalidKey].flatMap((error) =>
        typeof error === "function" && "fields" in error ? Object.keys(error.fields) : []
      )
    )
    // A new field is to be looked at: it must hold neither a record's data nor a credential.
    assert.sameMembers([...fields], allowedFields)
  })
})

const allowedFields = [
  "_tag",
  "key",
  "expected",
  "actual",
  "resource",
  "limit",
  "description",
  "isRetryable",
  "cause",
  "operation",
  "outcome",
  "reason",
  "taskId",
  "expiredAt",
  "from",
  "to",
  "status",
  "ttl",
  "path",
  "problem",
  "part"
]
