/** The conditions of conditional requests to DynamoDB. */
import type { Present } from "../../../Engine.ts"
import { type Item, N, S } from "./layout.ts"

/**
 * DynamoDB's own limit for an item. It includes the keys, the attributes' names, and the attributes of other programs.
 */
export const maxItemBytes = 400 * 1024

/** The condition that a record is live. A record expires only if its expiry is a number that is not in the future. */
export const isLive = "NOT (#e <= :now)"

/** A condition and the values of its placeholders. */
export interface Condition {
  readonly condition: string
  readonly values: Item
}

/** The condition that a live record is the expected one. */
export const isExpected = (expectation: Present, nowSeconds: number): Condition => {
  const condition = `#v = :v AND ${isLive}`
  const values = { ":v": N(expectation.version), ":now": N(nowSeconds) }
  switch (expectation._tag) {
    case "Version":
      return { condition, values }
    case "Write":
      return { condition: `${condition} AND #w = :ow`, values: { ...values, ":ow": S(expectation.writeId) } }
    case "Data":
      return {
        condition: `${condition} AND attribute_not_exists(#w) AND #d = :od`,
        values: { ...values, ":od": S(expectation.data) }
      }
  }
}
