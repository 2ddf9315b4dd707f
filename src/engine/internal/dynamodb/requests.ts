/** The requests of the operations to DynamoDB. Each operation sends one. */
import {
  BatchGetItemCommand,
  DeleteItemCommand,
  type DynamoDBClient,
  GetItemCommand,
  QueryCommand,
  UpdateItemCommand,
  type UpdateItemCommandInput
} from "@aws-sdk/client-dynamodb"
import * as Effect from "effect/Effect"
import type { Engine, Full, Range, Refused, Removed, StoredRecord, Write, Written } from "../../../Engine.ts"
import { byteLength } from "../../../internal/utf8.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import type { Backend } from "../../../StorageError.ts"
import { maxIdBytes, type StorageKey } from "../../../StorageKey.ts"
import { makeCommit } from "./commit.ts"
import { type Condition, isExpected, isLive, maxItemBytes } from "./conditions.ts"
import { type AwsError, isItemTooLarge } from "./failure.ts"
import { addressOf, type Item, idOf, keyOf, type Layout, N, namesIn, parse, partitionOf, S } from "./layout.ts"
import { type Send, withoutSdkRetries } from "./send.ts"

/** The value of the condition that the new version is at most the last one. */
const belowLast = ({ increment }: Write): Item => ({ ":max": N(maxVersion - increment) })

/** Why a write was refused: the condition did not hold for the stored item, or the new item would be too large. */
interface NotWritten {
  readonly item: Item | undefined
  readonly isTooLarge: boolean
}

const toNotWritten = (error: AwsError & { readonly Item?: Item }): NotWritten | undefined => {
  if (error.name === "ConditionalCheckFailedException") return { item: error.Item, isTooLarge: false }
  const isTooLarge = isItemTooLarge(error)
  return isTooLarge ? { item: undefined, isTooLarge } : undefined
}

const refusedBy = (layout: Layout, item: Item | undefined): Effect.Effect<Refused, Backend> =>
  item === undefined
    ? Effect.succeed({ _tag: "Refused", current: undefined })
    : Effect.map(parse(layout, item), (current) => ({ _tag: "Refused", current }))

export const makeEngine = (client: DynamoDBClient, layout: Layout, send: Send, consistentRead: boolean): Engine => {
  const read = makeRead(client, layout, send)
  const update = makeUpdate(client, layout, send)
  return {
    read: read(true),
    ...(consistentRead ? {} : { readEventually: read(false) }),

    readMany: makeReadMany(client, layout, send, consistentRead),

    put: (key, write) =>
      update(key, write, {
        condition: "attribute_not_exists(#v) OR #v <= :max",
        values: belowLast(write),
        returns: "UPDATED_NEW"
      }),

    swap: (key, write, expectation, nowSeconds) => {
      if (expectation._tag === "Absent") {
        return update(key, write, {
          condition: "attribute_not_exists(#pk) OR (#e <= :now AND #v <= :max)",
          values: { ...belowLast(write), ":now": N(nowSeconds) },
          returns: "UPDATED_OLD"
        })
      }
      const { condition, values } = isExpected(expectation, nowSeconds)
      return update(key, write, {
        condition: `${condition} AND #v <= :max`,
        values: { ...values, ...belowLast(write) },
        version: expectation.version + write.increment,
        returns: "NONE"
      })
    },

    remove: makeRemove(client, layout, send),
    list: makeList(client, layout, send, consistentRead),
    commit: makeCommit(client, layout, send),
    remembersCommits: true,
    cleanup: () => Effect.succeed(0)
  }
}

const makeRead = (client: DynamoDBClient, layout: Layout, send: Send) => (consistent: boolean) => (key: StorageKey) =>
  Effect.flatMap(
    send("GetItem", (http) =>
      client.send(
        withoutSdkRetries(
          new GetItemCommand({
            TableName: layout.tableName,
            Key: keyOf(layout, key),
            ConsistentRead: consistent,
            ReturnConsumedCapacity: "TOTAL"
          })
        ),
        http
      )
    ),
    ({ Item }) => (Item === undefined ? Effect.undefined : parse(layout, Item))
  )

/** Reads up to 100 records. Those in `UnprocessedKeys` are left unread. */
const makeReadMany =
  (client: DynamoDBClient, layout: Layout, send: Send, consistentRead: boolean): NonNullable<Engine["readMany"]> =>
  (keys) => {
    const asked = keys.map((key) => keyOf(layout, key))
    // DynamoDB refuses a request that has the same key twice.
    const unique = new Map(asked.map((key) => [addressOf(layout, key), key]))
    const command = new BatchGetItemCommand({
      RequestItems: { [layout.tableName]: { Keys: [...unique.values()], ConsistentRead: consistentRead } },
      ReturnConsumedCapacity: "TOTAL"
    })
    return Effect.flatMap(
      send("BatchGetItem", (http) => client.send(withoutSdkRetries(command), http)),
      Effect.fnUntraced(function* ({ Responses = {}, UnprocessedKeys = {} }) {
        const found = new Map<string, StoredRecord | "Unread">()
        for (const item of Responses[layout.tableName] ?? []) {
          found.set(addressOf(layout, item), yield* parse(layout, item))
        }
        for (const key of UnprocessedKeys[layout.tableName]?.Keys ?? []) found.set(addressOf(layout, key), "Unread")
        return asked.map((key) => found.get(addressOf(layout, key)))
      })
    )
  }

interface Update extends Condition {
  readonly returns: "NONE" | "UPDATED_OLD" | "UPDATED_NEW"
  /** The version that the update writes. If it is left out, DynamoDB adds the increment to the stored one. */
  readonly version?: number
}

const makeUpdate = (client: DynamoDBClient, layout: Layout, send: Send) => {
  const tableName = layout.tableName
  // The texts of a write depend only on its kind, so they are put together once.
  const texts = new Map<string, Pick<UpdateItemCommandInput, "UpdateExpression" | "ExpressionAttributeNames">>()
  const textsOf = (condition: string, hasExpiry: boolean, hasVersion: boolean) => {
    const kind = `${hasExpiry} ${hasVersion} ${condition}`
    const known = texts.get(kind)
    if (known !== undefined) return known
    const expression = [
      "SET #d = :d, #w = :w",
      hasExpiry ? ", #e = :e" : "",
      hasVersion ? ", #v = :next" : " ADD #v :increment",
      hasExpiry ? "" : " REMOVE #e"
    ].join("")
    const made = { UpdateExpression: expression, ExpressionAttributeNames: namesIn(layout, expression, condition) }
    texts.set(kind, made)
    return made
  }

  const commandOf = (key: StorageKey, write: Write, { condition, returns, values, version }: Update) => {
    const { data, expiresAtSeconds, increment, writeId } = write
    values[":d"] = S(data)
    values[":w"] = S(writeId)
    if (version === undefined) values[":increment"] = N(increment)
    else values[":next"] = N(version)
    if (expiresAtSeconds !== undefined) values[":e"] = N(expiresAtSeconds)
    const { ExpressionAttributeNames, UpdateExpression } = textsOf(
      condition,
      expiresAtSeconds !== undefined,
      version !== undefined
    )
    return new UpdateItemCommand({
      TableName: tableName,
      Key: keyOf(layout, key),
      UpdateExpression,
      ConditionExpression: condition,
      ExpressionAttributeNames,
      ExpressionAttributeValues: values,
      ReturnValues: returns,
      ReturnValuesOnConditionCheckFailure: "ALL_OLD",
      ReturnConsumedCapacity: "TOTAL"
    })
  }

  return (key: StorageKey, write: Write, update: Update): Effect.Effect<Written | Refused | Full, Backend> =>
    Effect.flatMap(
      send("UpdateItem", (http) => client.send(withoutSdkRetries(commandOf(key, write, update)), http), toNotWritten),
      (output): Effect.Effect<Written | Refused | Full, Backend> => {
        if ("isTooLarge" in output) {
          if (!output.isTooLarge) return refusedBy(layout, output.item)
          const actual = byteLength(write.data)
          return Effect.succeed({ _tag: "Full", resource: "ItemBytes", limit: maxItemBytes, actual })
        }
        const returned = Number(output.Attributes?.[layout.names["#v"]]?.N ?? 0)
        const version = update.version ?? (update.returns === "UPDATED_NEW" ? returned : returned + write.increment)
        return Effect.succeed({ _tag: "Written", version })
      }
    )
}

const makeRemove =
  (client: DynamoDBClient, layout: Layout, send: Send): Engine["remove"] =>
  (key, expectation, nowSeconds) => {
    const { condition, values }: Condition =
      expectation === undefined
        ? { condition: `attribute_exists(#pk) AND ${isLive}`, values: { ":now": N(nowSeconds) } }
        : isExpected(expectation, nowSeconds)
    return Effect.flatMap(
      send(
        "DeleteItem",
        (http) =>
          client.send(
            withoutSdkRetries(
              new DeleteItemCommand({
                TableName: layout.tableName,
                Key: keyOf(layout, key),
                ConditionExpression: condition,
                ExpressionAttributeNames: namesIn(layout, condition),
                ExpressionAttributeValues: values,
                ReturnValuesOnConditionCheckFailure: expectation === undefined ? "NONE" : "ALL_OLD",
                ReturnConsumedCapacity: "TOTAL"
              })
            ),
            http
          ),
        toNotWritten
      ),
      (output): Effect.Effect<Removed | Refused, Backend> =>
        "isTooLarge" in output ? refusedBy(layout, output.item) : Effect.succeed({ _tag: "Removed" })
    )
  }

/**
 * At or above every sort key that starts with a prefix: an id has at most 512 bytes, and U+10FFFF, of four bytes, is
 * the last character in UTF-8.
 */
const endOf = (startsWith: string, idPrefix: string): string =>
  startsWith + "\u{10FFFF}".repeat(Math.ceil((maxIdBytes - byteLength(idPrefix)) / 4))

/**
 * Whether no id can follow the id in the cursor. DynamoDB Local refuses a request whose start key is also the far end
 * of its range.
 */
const isAtEnd = (idPrefix: string, { after, order }: Pick<Range, "after" | "order">): boolean =>
  after === (order === "ascending" ? endOf(idPrefix, idPrefix) : idPrefix)

/**
 * The sort keys of a page. A page that continues has the cursor's key as a bound of the range, which ExclusiveStartKey
 * then excludes. With `begins_with` alone, DynamoDB Local would read every record before the page.
 */
const keyRangeOf = (layout: Layout, idPrefix: string, { after, order }: Pick<Range, "after" | "order">): Condition => {
  const startsWith = `${layout.idPrefix}${idPrefix}`
  const from = S(`${layout.idPrefix}${after}`)
  if (after === undefined) {
    if (startsWith === "") return { condition: "", values: {} }
    return { condition: " AND begins_with(#sk, :sk)", values: { ":sk": S(startsWith) } }
  }
  if (order === "ascending") {
    return {
      condition: " AND #sk BETWEEN :from AND :to",
      values: { ":from": from, ":to": S(endOf(startsWith, idPrefix)) }
    }
  }
  // A key can't be compared with an empty text.
  if (startsWith === "") return { condition: " AND #sk <= :from", values: { ":from": from } }
  return { condition: " AND #sk BETWEEN :to AND :from", values: { ":from": from, ":to": S(startsWith) } }
}

const makeList =
  (client: DynamoDBClient, layout: Layout, send: Send, consistentRead: boolean): Engine["list"] =>
  ({ idPrefix, owner }, { after, limit, order }, nowSeconds) => {
    if (isAtEnd(idPrefix, { after, order })) return Effect.succeed({ records: [], next: undefined })
    const range = keyRangeOf(layout, idPrefix, { after, order })
    const keys = `#pk = :pk${range.condition}`
    const command = new QueryCommand({
      TableName: layout.tableName,
      KeyConditionExpression: keys,
      FilterExpression: isLive,
      ExpressionAttributeNames: namesIn(layout, keys, isLive),
      ExpressionAttributeValues: { ":pk": partitionOf(layout, owner), ":now": N(nowSeconds), ...range.values },
      ConsistentRead: consistentRead,
      Limit: limit,
      ScanIndexForward: order === "ascending",
      ExclusiveStartKey: after === undefined ? undefined : keyOf(layout, { owner, id: after }),
      ReturnConsumedCapacity: "TOTAL"
    })
    return Effect.flatMap(
      send("Query", (http) => client.send(withoutSdkRetries(command), http)),
      ({ Items = [], LastEvaluatedKey }) =>
        Effect.map(
          Effect.forEach(Items, (item) =>
            Effect.map(parse(layout, item), (stored) => ({ id: idOf(layout, item), ...stored }))
          ),
          (records) => ({ records, next: LastEvaluatedKey === undefined ? undefined : idOf(layout, LastEvaluatedKey) })
        )
    )
  }
