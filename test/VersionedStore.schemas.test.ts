/**
 * How records outlive a change of their Schema. One program writes with an old Schema and the next one reads, lists and
 * updates with a new one, then the first one comes back. `docs/schemas.md` has the recipes.
 */
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Option, Schema, SchemaTransformation, Stream } from "effect"
import * as InMemory from "../src/engine/InMemory.ts"
import { StorageBackend } from "../src/StorageBackend.ts"
import { makeUnsafe } from "../src/StorageKey.ts"
import * as VersionedStore from "../src/VersionedStore.ts"

const onMemory = Effect.provide(InMemory.layer)
const alice = { owner: "alice" }
const keyOf = (id: string) => ({ ...alice, id })

/** What the backend holds, as it holds it. */
const storedData = (id: string) =>
  StorageBackend.use((backend) => backend.get(makeUnsafe(keyOf(id)))).pipe(Effect.map(({ data }) => JSON.parse(data)))

/** The values that two ways of listing find. Both ways must agree. */
const valuesOf = Effect.fnUntraced(function* <A>(
  store: VersionedStore.VersionedStore<A>,
  onInvalid?: VersionedStore.ListingOptions["onInvalid"]
) {
  const page = yield* store.list({ ...alice, onInvalid })
  const all = yield* Stream.runCollect(store.stream({ ...alice, onInvalid }))
  assert.deepStrictEqual(
    page.records.map(({ value }) => value),
    all.map(({ value }) => value)
  )
  return page.records.map(({ value }) => value)
})

describe("a new field with a default", () => {
  const Order = Schema.Struct({ total: Schema.Number })
  const OrderWithCurrency = Schema.Struct({
    ...Order.fields,
    currency: Schema.String.pipe(Schema.withDecodingDefaultKey(Effect.succeed("EUR")))
  })
  const makeStores = Effect.all({
    before: VersionedStore.make({ idPrefix: "order/", schema: Order }),
    after: VersionedStore.make({ idPrefix: "order/", schema: OrderWithCurrency })
  })

  it.effect("is the default in records that were written before it, until an update stores it", () =>
    Effect.gen(function* () {
      const { after, before } = yield* makeStores
      const created = yield* before.create(keyOf("1"), { total: 10 }, { ttl: "1 hour" })
      yield* after.create(keyOf("2"), { total: 20, currency: "USD" })

      const read = yield* after.get(keyOf("1"))
      assert.deepStrictEqual(read.value, { total: 10, currency: "EUR" })
      assert.strictEqual(read.etag, created.etag)
      assert.deepStrictEqual(yield* valuesOf(after), [
        { total: 10, currency: "EUR" },
        { total: 20, currency: "USD" }
      ])
      assert.deepStrictEqual(yield* storedData("order/1"), { total: 10 })

      const updated = yield* after.update(keyOf("1"), (order) => ({ ...order, total: 11 }))
      assert.deepStrictEqual(updated.value, { total: 11, currency: "EUR" })
      assert.deepStrictEqual(updated.expiresAt, created.expiresAt)
      assert.deepStrictEqual(yield* storedData("order/1"), { total: 11, currency: "EUR" })
    }).pipe(onMemory)
  )

  it.effect("is ignored by the program that does not know it, and lost if that program updates the record", () =>
    Effect.gen(function* () {
      const { after, before } = yield* makeStores
      yield* after.create(keyOf("1"), { total: 10, currency: "USD" })
      assert.deepStrictEqual((yield* before.get(keyOf("1"))).value, { total: 10 })
      assert.deepStrictEqual(yield* valuesOf(before), [{ total: 10 }])
      yield* before.touch(keyOf("1"), "1 hour")
      assert.deepStrictEqual((yield* after.get(keyOf("1"))).value, { total: 10, currency: "USD" })
      yield* before.update(keyOf("1"), ({ total }) => ({ total: total + 1 }))
      assert.deepStrictEqual((yield* after.get(keyOf("1"))).value, { total: 11, currency: "EUR" })
    }).pipe(onMemory)
  )

  it.effect("may have a default in the type that the program sees", () =>
    Effect.gen(function* () {
      const since = DateTime.makeUnsafe("2026-01-01T00:00:00Z")
      const OrderWithDate = Schema.Struct({
        ...Order.fields,
        placed: Schema.DateTimeUtcFromString.pipe(Schema.withDecodingDefaultTypeKey(Effect.succeed(since)))
      })
      const { before } = yield* makeStores
      const after = yield* VersionedStore.make({ idPrefix: "order/", schema: OrderWithDate })
      yield* before.create(keyOf("1"), { total: 10 })
      assert.deepStrictEqual((yield* after.get(keyOf("1"))).value, { total: 10, placed: since })
      yield* after.update(keyOf("1"), (order) => order)
      assert.deepStrictEqual(yield* storedData("order/1"), { total: 10, placed: "2026-01-01T00:00:00.000Z" })
    }).pipe(onMemory)
  )

  it.effect("is kept by a program whose Schema keeps what it does not know", () =>
    Effect.gen(function* () {
      const Open = Schema.StructWithRest(Order, [Schema.Record(Schema.String, Schema.Json)])
      const open = yield* VersionedStore.make({ idPrefix: "order/", schema: Open })
      const { after } = yield* makeStores
      yield* after.create(keyOf("1"), { total: 10, currency: "USD" })
      yield* open.update(keyOf("1"), (order) => ({ ...order, total: order.total + 1 }))
      assert.deepStrictEqual((yield* after.get(keyOf("1"))).value, { total: 11, currency: "USD" })
    }).pipe(onMemory)
  )
})

describe("a second version of a Schema", () => {
  const PersonV1 = Schema.Struct({ name: Schema.String })
  const Person = Schema.Struct({ version: Schema.Literal(2), first: Schema.String, last: Schema.String })
  const PersonFromV1 = PersonV1.pipe(
    Schema.decodeTo(
      Schema.toType(Person),
      SchemaTransformation.transform({
        decode: ({ name }) => {
          const [first = "", ...rest] = name.split(" ")
          return { version: 2 as const, first, last: rest.join(" ") }
        },
        encode: ({ first, last }) => ({ name: `${first} ${last}` })
      })
    )
  )
  const makeStores = Effect.all({
    v1: VersionedStore.make({ idPrefix: "person/", schema: PersonV1 }),
    readsBothWritesV1: VersionedStore.make({ idPrefix: "person/", schema: Schema.Union([PersonFromV1, Person]) }),
    v2: VersionedStore.make({ idPrefix: "person/", schema: Schema.Union([Person, PersonFromV1]) })
  })
  const ada = { version: 2, first: "Ada", last: "Lovelace" } as const
  const alan = { version: 2, first: "Alan", last: "Turing" } as const

  it.effect("reads and lists records of both versions as the second one, and writes that", () =>
    Effect.gen(function* () {
      const { v1, v2 } = yield* makeStores
      const created = yield* v1.create(keyOf("1"), { name: "Ada Lovelace" }, { ttl: "1 hour" })
      yield* v2.create(keyOf("2"), alan)
      assert.deepStrictEqual((yield* v2.get(keyOf("1"))).value, ada)
      assert.deepStrictEqual(yield* valuesOf(v2), [ada, alan])
      assert.deepStrictEqual(yield* storedData("person/1"), { name: "Ada Lovelace" })

      const updated = yield* v2.update(keyOf("1"), (person) => ({ ...person, last: "King" }))
      assert.deepStrictEqual(updated.expiresAt, created.expiresAt)
      assert.deepStrictEqual(yield* storedData("person/1"), { version: 2, first: "Ada", last: "King" })
    }).pipe(onMemory)
  )

  it.effect("rolls back to a program that reads both versions and writes the first one", () =>
    Effect.gen(function* () {
      const { readsBothWritesV1, v1, v2 } = yield* makeStores
      yield* v2.create(keyOf("1"), ada)
      yield* v1.create(keyOf("2"), { name: "Alan Turing" })
      assert.deepStrictEqual(yield* valuesOf(readsBothWritesV1), [ada, alan])
      yield* readsBothWritesV1.update(keyOf("1"), (person) => ({ ...person, last: "King" }))
      assert.deepStrictEqual(yield* storedData("person/1"), { name: "Ada King" })
      assert.deepStrictEqual(yield* valuesOf(v1), [{ name: "Ada King" }, { name: "Alan Turing" }])
    }).pipe(onMemory)
  )

  it.effect("can't be read by a program that knows only the first one, which can still list and remove", () =>
    Effect.gen(function* () {
      const { v1, v2 } = yield* makeStores
      const created = yield* v2.create(keyOf("1"), ada)
      yield* v1.create(keyOf("2"), { name: "Alan Turing" })
      for (const failing of [
        v1.get(keyOf("1")),
        v1.update(keyOf("1"), (person) => person),
        v1.list(alice),
        v1.getMany("alice", ["1"])
      ]) {
        assert.strictEqual((yield* Effect.flip<unknown, { _tag: string }, never>(failing))._tag, "SchemaError")
      }
      assert.strictEqual((yield* v2.get(keyOf("1"))).etag, created.etag)
      const unread: Array<string> = []
      const note: VersionedStore.ListingOptions["onInvalid"] = ({ key }) => Effect.sync(() => unread.push(key.id))
      assert.deepStrictEqual(yield* valuesOf(v1, note), [{ name: "Alan Turing" }])
      assert.deepStrictEqual(unread, ["person/1", "person/1"])
      assert.deepStrictEqual(yield* valuesOf(v1, "skip"), [{ name: "Alan Turing" }])
      const found = yield* v1.getMany("alice", ["1", "2"], { onInvalid: "skip" })
      assert.deepStrictEqual(found.map(Option.isSome), [false, true])
      yield* v1.touch(keyOf("1"), "1 hour")
      assert.strictEqual(yield* v1.remove(keyOf("1")), true)
    }).pipe(onMemory)
  )

  it.effect("is what all records have after each of them was updated once", () =>
    Effect.gen(function* () {
      const { v1, v2 } = yield* makeStores
      yield* v1.create(keyOf("1"), { name: "Ada Lovelace" }, { ttl: "1 hour" })
      yield* v2.create(keyOf("2"), alan)
      yield* Stream.runForEach(v2.stream(alice), ({ key }) => v2.update(key, (person) => person))
      assert.deepStrictEqual(yield* storedData("person/1"), ada)
      assert.deepStrictEqual(yield* storedData("person/2"), alan)
      assert.isDefined((yield* v2.get(keyOf("1"))).expiresAt)
    }).pipe(onMemory)
  )
})
