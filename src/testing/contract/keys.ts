/** Promise 7: a key addresses its own record and no other. */
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import { StorageBackend } from "../../StorageBackend.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, property } from "../internal/drafts.ts"
import { idsOf, inOrder, keyOf, listAll, prefixOf, putAll, text, trickyIds } from "../internal/support.ts"

export const keys: ReadonlyArray<Draft> = [
  example(
    7,
    "tricky ids address their own record and no other",
    Effect.fnUntraced(function* (backend, owner) {
      yield* putAll(owner, trickyIds)
      for (const id of trickyIds) {
        assert.strictEqual((yield* backend.get(keyOf(owner, id))).data, `data of ${id}`)
      }
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), inOrder(trickyIds, "ascending"))
      for (const id of trickyIds) {
        const listed = idsOf(yield* listAll(prefixOf(owner, id)))
        assert.deepStrictEqual(
          listed,
          inOrder(
            trickyIds.filter((other) => other.startsWith(id)),
            "ascending"
          )
        )
      }
    })
  ),

  example(
    7,
    "tricky owners are kept apart",
    Effect.fnUntraced(function* (backend, owner) {
      const owners = trickyIds.flatMap((id) => [`${owner}${id}`, `${id}${owner}`])
      yield* Effect.forEach(owners, (owner) => backend.put(keyOf(owner, "a:b"), `of ${owner}`), { concurrency: 16 })
      for (const owner of owners) {
        const listed = yield* listAll(prefixOf(owner))
        assert.deepStrictEqual(
          listed.map((record) => record.data),
          [`of ${owner}`]
        )
      }
      for (const [index, owner] of owners.entries()) {
        if (index % 2 === 0) assert.isTrue(yield* backend.delete(keyOf(owner, "a:b")))
      }
      for (const [index, owner] of owners.entries()) {
        assert.strictEqual((yield* listAll(prefixOf(owner))).length, index % 2)
      }
    })
  ),

  property(
    7,
    "no two owners and ids share a record, and listings stay within their owner",
    Arbitrary.array(Arbitrary.all([text({ maxLength: 3 }), text({ minLength: 1, maxLength: 3 })]), {
      minLength: 1,
      maxLength: 6
    }),
    Effect.fnUntraced(function* (generated, owner) {
      const backend = yield* StorageBackend
      // Beside each pair, two more that are one text if an owner and an id are joined by a separator.
      const pairs = generated.flatMap(([rest, id]) => [
        [rest, id] as const,
        ...[":", "/", "#"].flatMap((separator) => [
          [`${rest}${separator}${id}`, id] as const,
          [rest, `${id}${separator}${id}`] as const
        ])
      ])
      const records = new Map(
        pairs.map(([rest, id]) => [JSON.stringify([rest, id]), keyOf(`${owner}${rest}`, id)] as const)
      )
      for (const [data, key] of records) yield* backend.put(key, data)
      for (const [data, key] of records) assert.strictEqual((yield* backend.get(key)).data, data)
      for (const rest of new Set(pairs.map(([rest]) => rest))) {
        const own = Array.from(records.keys()).filter((data) => JSON.parse(data)[0] === rest)
        const listed = yield* listAll(prefixOf(`${owner}${rest}`))
        assert.sameMembers(
          listed.map((record) => record.data),
          own
        )
      }
    }),
    { runs: 25 }
  ),

  example(
    7,
    "owners and ids may be as long as the limits",
    Effect.fnUntraced(function* (backend, owner) {
      for (const [fill, bytes] of [
        ["a", 1],
        ["%", 1],
        ["é", 2],
        ["\u{1f600}", 4]
      ] as const) {
        const long = `${owner}${fill.repeat((1024 - owner.length) / bytes)}`
        const keys = [keyOf(long, fill.repeat(512 / bytes)), keyOf(long, `${fill.repeat(512 / bytes - 1)}b`)]
        for (const key of keys) yield* backend.put(key, key.id)
        for (const key of keys) assert.strictEqual((yield* backend.get(key)).data, key.id)
        const listed = yield* listAll(prefixOf(long, fill.repeat(512 / bytes - 1)), { limit: 1 })
        assert.sameMembers(
          idsOf(listed),
          keys.map((key) => key.id)
        )
      }
    })
  )
]
