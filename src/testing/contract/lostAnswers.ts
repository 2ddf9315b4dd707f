/** Promise 3: no write takes effect twice, and there is no false conflict. */
import * as Effect from "effect/Effect"
import type { StorageBackend } from "../../StorageBackend.ts"
import type { StorageKey } from "../../StorageKey.ts"
import * as Faults from "../Faults.ts"
import { anomaly } from "../History.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example, losing } from "../internal/drafts.ts"
import { historyOf } from "../internal/historyOf.ts"
import { assertSame, failsWith, keyOf, losesFirstAnswer } from "../internal/support.ts"

type Write = (backend: StorageBackend["Service"], key: StorageKey) => Effect.Effect<unknown, { readonly _tag: string }>

export const lostAnswers: ReadonlyArray<Draft> = [
  example(
    3,
    "each write has a write id of its own, which is stored with the record",
    Effect.fnUntraced(function* (backend, owner) {
      const [key, other] = [keyOf(owner, "a"), keyOf(owner, "b")] as const
      const put = yield* backend.put(key, "same")
      assert.strictEqual((yield* backend.get(key)).writeId, put.writeId)
      const swapped = yield* backend.putIfVersion(key, "same", put)
      assert.strictEqual((yield* backend.get(key)).writeId, swapped.writeId)
      const created = yield* backend.putIfVersion(other, "same", 0)
      const ids = [put.writeId, swapped.writeId, created.writeId]
      assert.isFalse(ids.includes(undefined), "a write has no write id")
      assert.strictEqual(new Set(ids).size, 3)
    })
  ),

  losing(
    3,
    "a put, a create and a compare-and-set whose answer is lost succeed, and take effect once",
    Effect.fnUntraced(function* (backend, owner, lossy) {
      yield* backend.put(keyOf(owner, "before"), "so that the engine has all that it needs for a write")
      const losesFirst = yield* lossy(losesFirstAnswer())
      const put = yield* losesFirst.put(keyOf(owner, "put"), "data")
      assertSame(yield* backend.get(put.key), put)
      assert.strictEqual(put.version, 1)

      const created = yield* (yield* lossy(losesFirstAnswer())).putIfVersion(keyOf(owner, "created"), "data", 0)
      assertSame(yield* backend.get(created.key), created)
      assert.strictEqual(created.version, 1)

      for (const expected of [put, put.version] as const) {
        const read = yield* backend.put(put.key, "before")
        const known = typeof expected === "number" ? read.version : read
        const swapped = yield* (yield* lossy(losesFirstAnswer())).putIfVersion(put.key, "after", known)
        assertSame(yield* backend.get(put.key), swapped)
        assert.strictEqual(swapped.version, read.version + 1)
      }
    })
  ),

  losing(
    3,
    "a delete whose answer is lost is of unknown outcome, and its record is gone",
    Effect.fnUntraced(function* (backend, owner, lossy) {
      const key = keyOf(owner, "a")
      yield* backend.put(key, "so that the engine has all that it needs for a delete")
      yield* backend.delete(key)
      const deletes: Record<string, Write> = {
        delete: (losing, key) => losing.delete(key),
        deleteIfVersion: (losing, key) => losing.deleteIfVersion(key, 1)
      }
      for (const [name, remove] of Object.entries(deletes)) {
        yield* backend.putIfVersion(key, "data", 0)
        const error = yield* Effect.flip(remove(yield* lossy(losesFirstAnswer()), key))
        assert.strictEqual(error._tag, "Backend", name)
        assert.strictEqual("outcome" in error && error.outcome, "unknown", name)
        yield* failsWith(backend.get(key), "RecordNotFound")
      }
    })
  ),

  losing(
    3,
    "if answers are lost, the history of a key is linearizable, writes of unknown outcome included",
    Effect.fnUntraced(function* (_, owner, lossy) {
      const fateOf = Faults.chance(1, { lose: 0.4 })
      let lost = 0
      const isLost = () => fateOf() === "lose" && lost++ >= 0
      const clients = [yield* lossy(isLost), yield* lossy(isLost)] as const
      const program = ["putIfVersion", "putIfVersion", "get", "put", "putIfVersion"] as const
      for (let round = 0; round < 10; round++) {
        const history = yield* historyOf(keyOf(owner, `round ${round}`), clients, [program, program, program])
        assert.isUndefined(anomaly(history))
      }
      assert.isAbove(lost, 20)
    })
  )
]
