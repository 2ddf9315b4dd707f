/** Promise 3, for commits. */
import * as Effect from "effect/Effect"
import type { Step } from "../../StorageBackend.ts"
import * as Faults from "../Faults.ts"
import { anomalyOfCommits } from "../History.ts"
import * as assert from "../internal/assert.ts"
import { commitHistoryOf } from "../internal/commitHistoryOf.ts"
import { type Draft, losing } from "../internal/drafts.ts"
import { assertSame, failsWith, keyOf, losesFirstAnswer } from "../internal/support.ts"

export const lostCommits: ReadonlyArray<Draft> = [
  losing(
    3,
    "a commit that changes a record by its write id succeeds if its answer is lost, and takes effect once",
    Effect.fnUntraced(function* (backend, owner, lossy) {
      // So that the engine has all that it needs for a commit.
      yield* backend.commit(
        owner,
        ["x", "y"].map((id) => ({ _tag: "Write", id, expected: 0, data: "before" }))
      )
      const read = yield* backend.put(keyOf(owner, "a"), "one")
      const removed = yield* backend.put(keyOf(owner, "b"), "one")
      const [written, , created] = yield* (yield* lossy(losesFirstAnswer())).commit(owner, [
        { _tag: "Write", id: "a", expected: read, data: "two" },
        { _tag: "Remove", id: "b", expected: removed },
        { _tag: "Write", id: "c", expected: 0, data: "new" }
      ])
      assert.deepStrictEqual([written?.version, created?.version], [2, 1])
      for (const record of [written, created]) {
        if (record !== undefined) assertSame(yield* backend.get(record.key), record)
      }
      yield* failsWith(backend.get(removed.key), "RecordNotFound")
    })
  ),

  losing(
    3,
    "a commit that could apply twice succeeds if its answer is lost, or its outcome is unknown, and takes effect once",
    Effect.fnUntraced(function* (backend, owner, lossy) {
      const removals: ReadonlyArray<Step> = ["a", "b"].map((id) => ({ _tag: "Remove", id, expected: 1 }))
      for (const losesFirst of [undefined, yield* lossy(losesFirstAnswer())]) {
        for (const id of ["a", "b"]) yield* backend.putIfVersion(keyOf(owner, id), "one", 0)
        const result = yield* Effect.result((losesFirst ?? backend).commit(owner, removals))
        const outcome = result._tag === "Failure" && result.failure._tag === "Backend" && result.failure.outcome
        assert.isTrue(result._tag === "Success" || (losesFirst !== undefined && outcome === "unknown"))
        for (const id of ["a", "b"]) yield* failsWith(backend.get(keyOf(owner, id)), "RecordNotFound")
      }
    })
  ),

  losing(
    3,
    "if answers are lost, the history of commits is strictly serializable, those of unknown outcome included",
    Effect.fnUntraced(function* (_, owner, lossy) {
      const fateOf = Faults.chance(1, { lose: 0.4 })
      let lost = 0
      const isLost = () => fateOf() === "lose" && lost++ >= 0
      const clients = [yield* lossy(isLost), yield* lossy(isLost)] as const
      const step = (id: "a" | "b" | "c", kind: "Check" | "Write" | "Remove") => ({ id, kind })
      const programs = [
        [
          { _tag: "Commit", steps: [step("a", "Write"), step("b", "Check")] },
          { _tag: "PutIf", id: "c" }
        ],
        [
          { _tag: "Commit", steps: [step("b", "Write"), step("a", "Check")] },
          { _tag: "Put", id: "a" }
        ],
        [
          { _tag: "Commit", steps: [step("c", "Remove"), step("a", "Write"), step("b", "Write")] },
          { _tag: "Commit", steps: [step("c", "Write"), step("b", "Remove")] }
        ]
      ] as const
      for (let round = 0; round < 10; round++) {
        assert.isUndefined(anomalyOfCommits(yield* commitHistoryOf(`${owner} ${round}`, clients, programs)))
      }
      assert.isAbove(lost, 10)
    })
  )
]
