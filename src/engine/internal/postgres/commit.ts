/** The request of a commit to PostgreSQL: a transaction, or one statement if all steps are checks. */
import * as Effect from "effect/Effect"
import { type Commit, type CommitRefused, type Committed, type Engine, isStepAsExpected } from "../../../Engine.ts"
import type { Backend } from "../../../StorageError.ts"
import { bigintOf, bytesOf, parseIfAny, type Row, textOf } from "./layout.ts"
import { asRead, type RunInTransaction, type Send } from "./send.ts"
import type { Statements } from "./statements.ts"

type Answer = Committed | CommitRefused

const nothing = new Uint8Array()

/** The largest `idle_in_transaction_session_timeout` (PostgreSQL's "Client Connection Defaults"). */
const maxIdleMillis = 2 ** 31 - 1

export const makeCommit =
  (send: Send, { commit: statements }: Statements): NonNullable<Engine["commit"]> =>
  (commit, nowSeconds) => {
    const { steps, writeId } = commit
    const idleLimit = String(Math.min(Math.max(1, Math.ceil(send.requestMillis)), maxIdleMillis))
    const owner = bytesOf(steps[0]?.key.owner ?? "")
    const ids = steps.map(({ key }) => bytesOf(key.id))

    // All checks are of one moment, since they are one statement.
    if (steps.every(({ _tag }) => _tag === "Check")) {
      return Effect.flatMap(
        Effect.mapError(send.run(statements.read, [owner, ids]), (error) => asRead(error)),
        (rows) => answerOf(commit, rows, nowSeconds)
      )
    }

    /** Locks all records, and returns the ids of those that were not there. New records are written at once. */
    const lock = (run: RunInTransaction) => {
      const isNew = (step: Commit["steps"][number]) => step._tag === "Write" && step.expectation._tag === "Absent"
      const data = steps.map((step) => (step._tag === "Write" && isNew(step) ? bytesOf(step.data) : nothing))
      const expiries = steps.map((step) => (step._tag === "Write" ? bigintOf(step.expiresAtSeconds) : null))
      return Effect.map(run(statements.lock, [owner, writeId, ids, data, arrayOf(expiries), idleLimit]), (rows) =>
        rows.map(([id]) => textOf(id))
      )
    }

    const apply = (run: RunInTransaction, inserted: ReadonlySet<string>) => {
      const updates = steps.flatMap((step) => (step._tag === "Write" && !inserted.has(step.key.id) ? [step] : []))
      const removals = steps.flatMap(({ _tag, key }) =>
        _tag === "Remove" || (_tag === "Check" && inserted.has(key.id)) ? [bytesOf(key.id)] : []
      )
      if (updates.length + removals.length === 0) return Effect.void
      const parameters = [
        updates.map(({ key }) => bytesOf(key.id)),
        updates.map(({ version }) => BigInt(version)),
        updates.map(({ data }) => bytesOf(data)),
        arrayOf(updates.map(({ expiresAtSeconds }) => bigintOf(expiresAtSeconds)))
      ]
      return run(statements.apply, [owner, writeId, ...parameters, removals])
    }

    const body = Effect.fnUntraced(function* (run: RunInTransaction) {
      const inserted = new Set(yield* lock(run))
      const there = steps.flatMap(({ key }) => (inserted.has(key.id) ? [] : [bytesOf(key.id)]))
      // A statement of its own, since it must see what others have committed while the first one waited for them.
      const rows = there.length === 0 ? [] : yield* run(statements.read, [owner, there])
      const answer = yield* answerOf(commit, rows, nowSeconds)
      if (answer._tag === "Committed") {
        yield* apply(run, inserted)
        const changed = steps.flatMap(({ _tag, key }) => (_tag === "Check" ? [] : [bytesOf(key.id)]))
        if (statements.notify !== undefined) yield* run(statements.notify, [owner, changed])
      }
      return answer
    })
    return send.transaction(body, ({ _tag }) => _tag === "Committed")
  }

/** The client can't infer the type of an array of nothing but null. PostgreSQL can, from a text. */
const arrayOf = (values: ReadonlyArray<bigint | null>): ReadonlyArray<bigint | null> | string =>
  values.every((value) => value === null) ? `{${values.map(() => "NULL").join(",")}}` : values

const answerOf = Effect.fnUntraced(function* ({ steps }: Commit, rows: ReadonlyArray<Row>, nowSeconds: number) {
  const found = new Map(rows.map(([id, ...row]) => [textOf(id), row]))
  const refusals: Array<CommitRefused["refusals"][number]> = []
  for (const [index, step] of steps.entries()) {
    const current = yield* parseIfAny(step.key, found.get(step.key.id))
    if (!isStepAsExpected(current, step, nowSeconds)) refusals.push({ index, current })
  }
  const answer: Answer = refusals.length === 0 ? { _tag: "Committed" } : { _tag: "CommitRefused", refusals }
  return answer
}) satisfies (commit: Commit, rows: ReadonlyArray<Row>, nowSeconds: number) => Effect.Effect<Answer, Backend>
