/** How records are stored in a DynamoDB table. The layout is that of the Rust crate pmcp-tasks. */
import type { AttributeValue } from "@aws-sdk/client-dynamodb"
import * as Effect from "effect/Effect"
import type { StoredRecord } from "../../../Engine.ts"
import { checkName, checkString } from "../../../internal/options.ts"
import { maxVersion } from "../../../StorageBackend.ts"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import { notApplied } from "../failure.ts"

/**
 * The names of the table's attributes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Attributes {
  /** The partition key, a string; `PK` by default. */
  readonly partitionKey?: string | undefined
  /** The sort key, a string; `SK` by default. */
  readonly sortKey?: string | undefined
  /** The version, a number; `version` by default. */
  readonly version?: string | undefined
  /** The record's data, a string; `data` by default. */
  readonly data?: string | undefined
  /**
   * The epoch second from which the record is expired, a number; `expires_at` by default. Without the attribute, the
   * record never expires.
   */
  readonly expiresAt?: string | undefined
  /** The write id of the write that made this version, a string; `write_id` by default. */
  readonly writeId?: string | undefined
}

export interface LayoutOptions {
  readonly tableName: string
  readonly attributes?: Attributes | undefined
  readonly ownerPrefix?: string | undefined
  readonly idPrefix?: string | undefined
}

export type Item = Record<string, AttributeValue>

/** A layout in which every name is set. */
export interface Layout {
  readonly tableName: string
  readonly ownerPrefix: string
  readonly idPrefix: string
  /** The attributes' names, by the placeholder of each in an expression. */
  readonly names: Record<"#pk" | "#sk" | "#v" | "#d" | "#e" | "#w", string>
}

/**
 * The layout of some options, with the defaults. The options are checked, since JavaScript may pass values of other
 * types.
 */
export const layoutOf = ({
  attributes = {},
  idPrefix = "TASK#",
  ownerPrefix = "OWNER#",
  tableName
}: LayoutOptions): Layout => {
  const nameOf = (attribute: keyof Attributes, defaultName: string): string => {
    const name = attributes?.[attribute]
    return name === undefined ? defaultName : checkName(`attributes.${attribute}`, name)
  }
  const names = {
    "#pk": nameOf("partitionKey", "PK"),
    "#sk": nameOf("sortKey", "SK"),
    "#v": nameOf("version", "version"),
    "#d": nameOf("data", "data"),
    "#e": nameOf("expiresAt", "expires_at"),
    "#w": nameOf("writeId", "write_id")
  }
  const all = Object.values(names)
  const duplicate = all.find((name, i) => all.indexOf(name) !== i)
  if (duplicate !== undefined) {
    throw new RangeError(`attributes must have different names: "${duplicate}" is the name of two attributes`)
  }
  return {
    tableName: checkName("tableName", tableName),
    ownerPrefix: checkString("ownerPrefix", ownerPrefix),
    idPrefix: checkString("idPrefix", idPrefix),
    names
  }
}

/** The names that some expressions use. DynamoDB refuses a request with a name that no expression uses. */
export const namesIn = ({ names }: Layout, ...expressions: ReadonlyArray<string>): Record<string, string> =>
  Object.fromEntries(Object.entries(names).filter(([placeholder]) => expressions.join(" ").includes(placeholder)))

export const N = (value: number): AttributeValue => ({ N: String(value) })
export const S = (value: string): AttributeValue => ({ S: value })

export const partitionOf = ({ ownerPrefix }: Layout, owner: string): AttributeValue => S(`${ownerPrefix}${owner}`)

export const keyOf = (layout: Layout, { id, owner }: Pick<StorageKey, "id" | "owner">): Item => ({
  [layout.names["#pk"]]: partitionOf(layout, owner),
  [layout.names["#sk"]]: S(`${layout.idPrefix}${id}`)
})

/** The key of an item as one text, to find the item by. */
export const addressOf = ({ names }: Layout, item: Item): string =>
  JSON.stringify([item[names["#pk"]]?.S, item[names["#sk"]]?.S])

export const idOf = ({ idPrefix, names }: Layout, item: Item): string =>
  (item[names["#sk"]]?.S ?? "").slice(idPrefix.length)

/** Reads the record in an item. Fails with `Corrupt` if the item is damaged, or has another form than a record. */
export const parse = ({ names, tableName }: Layout, item: Item): Effect.Effect<StoredRecord, Backend> => {
  const version = Number(item[names["#v"]]?.N)
  const data = item[names["#d"]]?.S
  const writeId = item[names["#w"]]
  const expiresAt = item[names["#e"]]?.N
  const problem = !(Number.isSafeInteger(version) && version > 0)
    ? `no ${names["#v"]} that is a number from 1 to ${maxVersion}`
    : data === undefined
      ? `no ${names["#d"]} that is a string`
      : writeId !== undefined && writeId.S === undefined
        ? `a ${names["#w"]} that is not a string`
        : undefined
  if (data === undefined || problem !== undefined) {
    const address = `${names["#pk"]} ${item[names["#pk"]]?.S}, ${names["#sk"]} ${item[names["#sk"]]?.S}`
    const description = `The item at ${address} in table ${tableName} has ${problem}: repair it, or delete the record`
    return Effect.fail(makeBackend(notApplied("Corrupt", description)))
  }
  return Effect.succeed({
    data,
    version,
    writeId: writeId?.S,
    // If the expiry is not a number, the record never expires, as in DynamoDB's conditions and its Time to Live.
    expiresAtSeconds: expiresAt === undefined ? undefined : Number(expiresAt)
  })
}
