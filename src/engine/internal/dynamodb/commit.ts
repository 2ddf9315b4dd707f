/** The request of a commit to DynamoDB: a transaction that writes, or one that reads if all steps are checks. */
import {
  type CancellationReason,
  type DynamoDBClient,
  TransactGetItemsCommand,
  type TransactWriteItem,
  TransactWriteItemsCommand
} from "@aws-sdk/client-dynamodb"
import * as Effect from "effect/Effect"
import {
  type Commit,
  type CommitFull,
  type CommitRefused,
  type Committed,
  type Engine,
  isStepAsExpected,
  type Step
} from "../../../Engine.ts"
import { byteLength } from "../../../internal/utf8.ts"
import type { Backend } from "../../../StorageError.ts"
import { type Condition, isExpected, maxItemBytes } from "./conditions.ts"
import { type AwsError, isItemTooLarge } from "./failure.ts"
import { type Item, keyOf, type Layout, N, namesIn, parse, S } from "./layout.ts"
import { type Send, withoutSdkRetries } from "./send.ts"

export const makeCommit = (client: DynamoDBClient, layout: Layout, send: Send): NonNullable<Engine["commit"]> => {
  const write = makeWrite(client, layout, send)
  const check = makeCheck(client, layout, send)
  return (commit, nowSeconds) =>
    commit.steps.every(({ _tag }) => _tag === "Check") ? check(commit, nowSeconds) : write(commit, nowSeconds)
}

/** Checks alone are read in one transaction, which takes half the units of a transaction that writes, or less. */
const makeCheck =
  (client: DynamoDBClient, layout: Layout, send: Send): NonNullable<Engine["commit"]> =>
  ({ steps }, nowSeconds) => {
    const command = new TransactGetItemsCommand({
      TransactItems: steps.map(({ key }) => ({ Get: { TableName: layout.tableName, Key: keyOf(layout, key) } })),
      ReturnConsumedCapacity: "TOTAL"
    })
    return Effect.flatMap(
      send("TransactGetItems", (http) => client.send(withoutSdkRetries(command), http)),
      Effect.fnUntraced(function* ({ Responses = [] }) {
        const refusals: Array<CommitRefused["refusals"][number]> = []
        for (const [index, step] of steps.entries()) {
          const item = Responses[index]?.Item
          const current = item === undefined ? undefined : yield* parse(layout, item)
          if (!isStepAsExpected(current, step, nowSeconds)) refusals.push({ index, current })
        }
        return answerOf(refusals)
      })
    )
  }

const answerOf = (refusals: CommitRefused["refusals"]): Committed | CommitRefused =>
  refusals.length === 0 ? { _tag: "Committed" } : { _tag: "CommitRefused", refusals }

/**
 * The token makes the request idempotent for ten minutes. DynamoDB refuses the same token with another body, so the
 * instant is the same if the request is sent again.
 */
const makeWrite = (client: DynamoDBClient, layout: Layout, send: Send): NonNullable<Engine["commit"]> => {
  const itemOf = makeItemOf(layout)
  return (commit, nowSeconds) => {
    const command = new TransactWriteItemsCommand({
      TransactItems: commit.steps.map((step) => itemOf(step, commit.writeId, nowSeconds)),
      ClientRequestToken: commit.token,
      ReturnConsumedCapacity: "TOTAL"
    })
    return Effect.flatMap(
      send("TransactWriteItems", (http) => client.send(withoutSdkRetries(command), http), toNotCommitted),
      (output): Effect.Effect<Committed | CommitRefused | CommitFull, Backend> => {
        if ("reasons" in output) return refusedBy(layout, output.reasons)
        return Effect.succeed("tooLarge" in output ? fullOf(commit, output.tooLarge) : { _tag: "Committed" })
      }
    )
  }
}

/** Why nothing was committed: refused steps, or an item that would be too large, with its index if it is known. */
type NotCommitted = { readonly reasons: ReadonlyArray<CancellationReason> } | { readonly tooLarge: number | undefined }

/** A step that was refused decides, also if another step met another transaction. */
const toNotCommitted = (error: AwsError): NotCommitted | undefined => {
  const { CancellationReasons: reasons = [] } = error
  if (reasons.some(({ Code }) => Code === "ConditionalCheckFailed")) return { reasons }
  const index = reasons.findIndex(({ Code = "", Message = "" }) => isItemTooLarge({ name: Code, message: Message }))
  if (index >= 0) return { tooLarge: index }
  return isItemTooLarge(error) ? { tooLarge: undefined } : undefined
}

/** If DynamoDB does not say which item would be too large, the one with the most data is the likeliest. */
const fullOf = ({ steps }: Commit, tooLarge: number | undefined): CommitFull => {
  const sizes = steps.map((step) => (step._tag === "Write" ? byteLength(step.data) : 0))
  const index = tooLarge ?? sizes.indexOf(Math.max(...sizes))
  return { _tag: "Full", index, resource: "ItemBytes", limit: maxItemBytes, actual: sizes[index] ?? 0 }
}

const refusedBy = Effect.fnUntraced(function* (layout: Layout, reasons: ReadonlyArray<CancellationReason>) {
  const refusals: Array<CommitRefused["refusals"][number]> = []
  for (const [index, { Code, Item }] of reasons.entries()) {
    if (Code !== "ConditionalCheckFailed") continue
    refusals.push({ index, current: Item === undefined ? undefined : yield* parse(layout, Item) })
  }
  return { _tag: "CommitRefused" as const, refusals }
})

// -----------------------------------------------------------------------------

const conditionOf = ({ _tag, expectation }: Step, nowSeconds: number): Condition => {
  const now = { ":now": N(nowSeconds) }
  if (expectation._tag === "Absent") {
    return _tag === "Write"
      ? { condition: "attribute_not_exists(#pk)", values: {} }
      : { condition: "attribute_not_exists(#pk) OR #e <= :now", values: now }
  }
  if (expectation._tag !== "Expired") return isExpected(expectation, nowSeconds)
  const { version, writeId } = expectation
  const values = { ...now, ":v": N(version) }
  const expired = "#v = :v AND #e <= :now"
  return writeId === undefined
    ? { condition: `${expired} AND attribute_not_exists(#w)`, values }
    : { condition: `${expired} AND #w = :ow`, values: { ...values, ":ow": S(writeId) } }
}

const makeItemOf = (layout: Layout) => {
  const conditional = (step: Step, { condition, values }: Condition, update = "") => ({
    TableName: layout.tableName,
    Key: keyOf(layout, step.key),
    ConditionExpression: condition,
    ExpressionAttributeNames: namesIn(layout, condition, update),
    // DynamoDB refuses a request with an empty map of values.
    ...(Object.keys(values).length === 0 ? {} : { ExpressionAttributeValues: values }),
    ReturnValuesOnConditionCheckFailure: "ALL_OLD" as const
  })

  return (step: Step, writeId: string, nowSeconds: number): TransactWriteItem => {
    const { condition, values } = conditionOf(step, nowSeconds)
    if (step._tag === "Check") return { ConditionCheck: conditional(step, { condition, values }) }
    if (step._tag === "Remove") return { Delete: conditional(step, { condition, values }) }
    const { data, expiresAtSeconds, version } = step
    const hasExpiry = expiresAtSeconds !== undefined
    const update = `SET #d = :d, #w = :w, #v = :next${hasExpiry ? ", #e = :e" : " REMOVE #e"}`
    const written: Item = { ":d": S(data), ":w": S(writeId), ":next": N(version) }
    if (hasExpiry) written[":e"] = N(expiresAtSeconds)
    return {
      Update: {
        ...conditional(step, { condition, values: { ...values, ...written } }, update),
        UpdateExpression: update
      }
    }
  }
}
