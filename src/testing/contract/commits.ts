/** Promise 11, and what the other promises say of commits. */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import {
  defaultMaxDataBytes,
  maxVersion,
  type Step,
  StorageBackend,
  type VersionedRecord
} from "../../StorageBackend.ts"
import type { StorageKey } from "../../StorageKey.ts"
import { anomalyOfCommits } from "../History.ts"
import * as assert from "../internal/assert.ts"
import { commitHistoryOf, commitPrograms } from "../internal/commitHistoryOf.ts"
import { type Draft, example, planted, property } from "../internal/drafts.ts"
import { assertSame, dies, failsWith, idsOf, inSeconds, keyOf, listAll, prefixOf, putAll } from "../internal/support.ts"

const check = (id: string, expected: Step["expected"]) => ({ _tag: "Check", id, expected }) as const
const write = (id: string, expected: Step["expected"], data = `new ${id}`) =>
  ({ _tag: "Write", id, expected, data }) as const
const remove = (id: string, expected: Step["expected"]) => ({ _tag: "Remove", id, expected }) as const

/**
 * The version that all the records have. An interrupted commit may still be on its way, and what is read at once is no
 * snapshot. So records of different versions are read again. Half a commit would stay.
 */
const versionOfAll = Effect.fnUntraced(function* (keys: ReadonlyArray<StorageKey>) {
  const backend = yield* StorageBackend
  for (let reads = 0; ; reads++) {
    const versions = new Set((yield* backend.getMany(keys)).map((record) => record?.version ?? 0))
    if (versions.size === 1) return Math.max(...versions)
    assert.isBelow(reads, 20, "half a commit was made")
    yield* Effect.sleep("5 millis")
  }
})

const putTwo = (backend: StorageBackend["Service"], owner: string) =>
  Effect.all({
    a: backend.put(keyOf(owner, "a"), "data of a"),
    b: backend.put(keyOf(owner, "b"), "data of b")
  })

/** The data of the owner's records, by id. */
const dataOf = (owner: string) =>
  Effect.map(listAll(prefixOf(owner)), (records) => Object.fromEntries(records.map(({ data, key }) => [key.id, data])))

export const commits: ReadonlyArray<Draft> = [
  example(
    11,
    "a commit makes all of its steps, and returns the records that it wrote",
    Effect.fnUntraced(function* (backend, owner) {
      const { a, b } = yield* putTwo(backend, owner)
      const c = yield* backend.put(keyOf(owner, "c"), "data of c")
      const expiresAt = yield* inSeconds(60)
      const [checked, changed, removed, created, byVersion] = yield* backend.commit(owner, [
        check("a", a),
        { ...write("b", b), expiresAt },
        remove("c", c),
        write("d", 0),
        check("e", 0)
      ])
      assert.deepStrictEqual([checked, removed, byVersion], [undefined, undefined, undefined])
      assert.deepStrictEqual([changed?.version, created?.version], [2, 1])
      assert.strictEqual(changed?.expiresAt?.epochMilliseconds, Math.ceil(expiresAt.epochMilliseconds / 1000) * 1000)
      assertSame(yield* backend.get(keyOf(owner, "b")), changed as VersionedRecord)
      assertSame(yield* backend.get(keyOf(owner, "d")), created as VersionedRecord)
      assert.deepStrictEqual(yield* dataOf(owner), { a: "data of a", b: "new b", d: "new d" })
      const [again] = yield* backend.commit(owner, [write("b", 2, "by version"), check("d", 1), remove("a", 1)])
      assert.strictEqual(again?.version, 3)
      assert.deepStrictEqual(yield* dataOf(owner), { b: "by version", d: "new d" })
      assert.isUndefined((yield* backend.get(keyOf(owner, "b"))).expiresAt)
    })
  ),

  example(
    11,
    "a commit changes nothing if one step is refused, and names the first one with the true record",
    Effect.fnUntraced(function* (backend, owner) {
      const { a, b } = yield* putTwo(backend, owner)
      const newest = yield* backend.put(keyOf(owner, "b"), "newest")
      const before = yield* dataOf(owner)
      const refused: ReadonlyArray<readonly [Step, actual: number | undefined]> = [
        [check("b", b), 2],
        [check("b", 1), 2],
        [check("b", 0), 2],
        [check("none", 1), undefined],
        [write("b", b), 2],
        [write("b", 3), 2],
        [write("b", 0), 2],
        [write("none", 1), undefined],
        [remove("b", b), 2],
        [remove("b", 1), 2],
        [remove("b", 0), 2],
        [remove("none", 0), undefined],
        [remove("none", 1), undefined]
      ]
      for (const [step, actual] of refused) {
        const commit = backend.commit(owner, [write("a", a), write("c", 0), step, check("d", 7)])
        if (actual === undefined) {
          assert.strictEqual((yield* failsWith(commit, "RecordNotFound")).key.id, "none")
        } else {
          const conflict = yield* failsWith(commit, "VersionConflict")
          const expected = typeof step.expected === "number" ? step.expected : step.expected.version
          assert.deepStrictEqual([conflict.key.id, conflict.expected, conflict.actual], ["b", expected, actual])
          if (conflict.current !== undefined) assertSame(conflict.current, newest)
        }
        assert.deepStrictEqual(yield* dataOf(owner), before)
      }
    })
  ),

  example(
    11,
    "a commit of one step is that step",
    Effect.fnUntraced(function* (backend, owner) {
      const [created] = yield* backend.commit(owner, [write("a", 0)])
      assertSame(yield* backend.get(keyOf(owner, "a")), created as VersionedRecord)
      assert.deepStrictEqual(yield* backend.commit(owner, [check("a", created as VersionedRecord)]), [undefined])
      for (const step of [check("a", 2), write("a", 0), write("a", 2), remove("a", 0), remove("a", 2)]) {
        assert.strictEqual((yield* failsWith(backend.commit(owner, [step]), "VersionConflict")).actual, 1)
      }
      for (const step of [check("b", 1), write("b", 1), remove("b", 1), remove("b", 0)]) {
        yield* failsWith(backend.commit(owner, [step]), "RecordNotFound")
      }
      assert.deepStrictEqual(yield* backend.commit(owner, [remove("a", 1)]), [undefined])
      assert.deepStrictEqual(yield* backend.commit(owner, [check("a", 0)]), [undefined])
      assert.deepStrictEqual(yield* backend.commit(owner, []), [])
    })
  ),

  example(
    11,
    "a commit of checks alone succeeds only if all of them hold",
    Effect.fnUntraced(function* (backend, owner) {
      const { a, b } = yield* putTwo(backend, owner)
      const checks = [check("a", a), check("b", b.version), check("c", 0)]
      assert.deepStrictEqual(yield* backend.commit(owner, checks), [undefined, undefined, undefined])
      const newest = yield* backend.put(keyOf(owner, "b"), "newest")
      assert.strictEqual((yield* failsWith(backend.commit(owner, checks), "VersionConflict")).actual, newest.version)
      yield* failsWith(backend.commit(owner, [check("a", a), check("d", 1)]), "RecordNotFound")
    })
  ),

  example(
    11,
    "of commits and single writes that change the same records exactly one wins",
    Effect.fnUntraced(function* (backend, owner) {
      for (let round = 0; round < 5; round++) {
        const { a, b } = yield* putTwo(backend, owner)
        const writers = Array.from({ length: 12 }, (_, i) => {
          const data = `writer ${i}`
          if (i % 3 === 2) return Effect.asVoid(backend.putIfVersion(keyOf(owner, "a"), data, a))
          const other = i % 3 === 0 ? check("b", b) : write("b", b, data)
          return Effect.asVoid(backend.commit(owner, [other, write("a", a, data)]))
        })
        const results = yield* Effect.forEach(
          writers,
          (writer) => Effect.result(Effect.andThen(Effect.yieldNow, writer)),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(results.filter(({ _tag }) => _tag === "Success").length, 1)
        for (const result of results) {
          if (result._tag === "Failure") assert.strictEqual(result.failure._tag, "VersionConflict")
        }
      }
    })
  ),

  example(
    11,
    "of two commits that each check what the other changes only one is made",
    Effect.fnUntraced(function* (backend, owner) {
      for (let round = 0; round < 5; round++) {
        const { a, b } = yield* putTwo(backend, owner)
        const skewed = [
          [check("a", a), write("b", b)],
          [write("a", a), check("b", b)]
        ]
        const results = yield* Effect.forEach(skewed, (steps) => Effect.result(backend.commit(owner, steps)), {
          concurrency: "unbounded"
        })
        assert.deepStrictEqual(results.map(({ _tag }) => _tag).toSorted(), ["Failure", "Success"])
      }
    })
  ),

  property(
    11,
    "any history of commits and single operations is strictly serializable",
    commitPrograms,
    Effect.fnUntraced(function* (programs, owner, { shared, twoBuilds }) {
      const clients = shared ? yield* twoBuilds : ([yield* StorageBackend] as const)
      assert.isUndefined(anomalyOfCommits(yield* commitHistoryOf(owner, clients, programs)))
    }),
    { runs: 40 }
  ),

  example(
    11,
    "a commit has up to a hundred steps, of other records each, and at most 4,000,000 bytes",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = Array.from({ length: 101 }, (_, i) => `${i}`)
      const steps = ids.map((id) => write(id, 0))
      const invalid = (steps: ReadonlyArray<Step>, of = owner) => failsWith(backend.commit(of, steps), "InvalidCommit")
      assert.strictEqual((yield* invalid(steps)).problem, "TooManySteps")
      assert.strictEqual((yield* invalid([...steps.slice(0, 3), check("1", 0)])).problem, "RepeatedKey")
      assert.strictEqual((yield* invalid([write("", 0)])).problem, "InvalidKey")
      assert.strictEqual((yield* invalid([check("a", 0), check("\u0000", 0)])).problem, "InvalidKey")
      assert.strictEqual((yield* invalid([check("a", 0)], "")).problem, "InvalidKey")
      const large = ids.slice(0, 11).map((id) => write(id, 0, "a".repeat(defaultMaxDataBytes)))
      assert.strictEqual((yield* invalid(large)).problem, "TooManyBytes")
      yield* dies(backend.commit(owner, [check("a", 0), check("b", -1)]), /expected version/)
      assert.deepStrictEqual(yield* dataOf(owner), {})
      assert.strictEqual((yield* backend.commit(owner, steps.slice(0, 100))).length, 100)
      assert.strictEqual((yield* listAll(prefixOf(owner))).length, 100)
      const half = large.slice(0, 10).map((step) => ({ ...step, expected: 1 }))
      assert.strictEqual((yield* backend.commit(owner, half))[9]?.version, 2)
    })
  ),

  example(
    8,
    "a commit with data that is too large or not well-formed writes nothing",
    Effect.fnUntraced(function* (backend, owner) {
      const tooLarge = backend.commit(owner, [write("a", 0), write("b", 0, "a".repeat(defaultMaxDataBytes + 1))])
      const error = yield* failsWith(tooLarge, "CapacityExceeded")
      assert.deepStrictEqual([error.key.id, error.resource], ["b", "RecordBytes"])
      yield* failsWith(backend.commit(owner, [write("a", 0), write("b", 0, "\ud83d")]), "InvalidData")
      assert.deepStrictEqual(yield* dataOf(owner), {})
    })
  ),

  example(
    4,
    "an expired record is absent for a commit, and a creation over it continues its versions",
    Effect.fnUntraced(function* (backend, owner) {
      const expiresAt = yield* inSeconds(10)
      const expires = yield* backend.put(keyOf(owner, "a"), "one", { expiresAt })
      yield* putAll(owner, ["b"])
      yield* backend.commit(owner, [check("a", expires), check("b", 1)])
      yield* TestClock.adjust("11 seconds")
      for (const step of [check("a", expires), write("a", expires), remove("a", expires)]) {
        yield* failsWith(backend.commit(owner, [check("b", 1), step]), "RecordNotFound")
      }
      yield* backend.commit(owner, [check("a", 0), write("b", 1)])
      const [created] = yield* backend.commit(owner, [write("a", 0, "two"), write("b", 2), write("c", 0)])
      assertSame(yield* backend.get(keyOf(owner, "a")), created as VersionedRecord)
      assert.strictEqual(created?.version, expires.version + 1)
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["a", "b", "c"])
    })
  ),

  planted(
    1,
    "a commit knows records without a write id by their data, and goes past no last version",
    Effect.fnUntraced(function* (backend, owner, plant) {
      const foreign = { writeId: undefined, expiresAtSeconds: undefined }
      yield* plant(keyOf(owner, "a"), { ...foreign, data: "theirs", version: 5 })
      yield* plant(keyOf(owner, "last"), { ...foreign, data: "theirs", version: maxVersion })
      const a = yield* backend.get(keyOf(owner, "a"))
      yield* backend.commit(owner, [check("a", a), check("last", maxVersion)])
      const full = backend.commit(owner, [write("a", a), write("last", maxVersion)])
      assert.strictEqual((yield* failsWith(full, "CapacityExceeded")).resource, "Versions")
      const expiresAtSeconds = Math.floor((yield* Clock.currentTimeMillis) / 1000) - 1
      yield* plant(keyOf(owner, "expired"), { ...foreign, data: "old", version: maxVersion, expiresAtSeconds })
      const overExpired = backend.commit(owner, [write("a", a), write("expired", 0)])
      assert.strictEqual((yield* failsWith(overExpired, "CapacityExceeded")).resource, "Versions")
      assertSame(yield* backend.get(keyOf(owner, "a")), a)
      yield* failsWith(backend.commit(owner, [write("b", 0), write("a", { ...a, data: "other" })]), "VersionConflict")
      const [ours] = yield* backend.commit(owner, [write("a", a), write("b", 0)])
      assert.strictEqual(ours?.version, 6)
      yield* plant(keyOf(owner, "a"), { ...foreign, data: "new a", version: 6 })
      yield* failsWith(backend.commit(owner, [check("b", 1), check("a", ours as VersionedRecord)]), "VersionConflict")
    })
  ),

  example(
    10,
    "an interrupted commit is made whole or not at all",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["a", "b", "c", "d"]
      let expected = 0
      for (let turns = 0; turns < 30; turns++) {
        const steps = ids.map((id) => write(id, expected, `turn ${turns}`))
        const fiber = yield* Effect.forkChild(backend.commit(owner, steps), { startImmediately: true })
        for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        expected = yield* versionOfAll(ids.map((id) => keyOf(owner, id)))
      }
    })
  )
]
