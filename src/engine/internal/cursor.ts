import * as Base64Url from "effect/encoding/Base64Url"
import * as Result from "effect/Result"
import { fnv1a } from "../../internal/fnv1a.ts"
import type { Order } from "../../StorageBackend.ts"
import { checkPart, maxIdBytes } from "../../StorageKey.ts"
import type { StoragePrefix } from "../../StoragePrefix.ts"

const format = 1
const hashEnd = 9
const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { ignoreBOM: true })

/**
 * The cursor that continues a listing after an id. It is the base64url of a format byte, a hash that binds the cursor
 * to the listing, and the id. The hash finds a damaged cursor, and a cursor of another listing. It does not protect
 * against a forged cursor, which can only move within the caller's own listing.
 */
export const encode = (prefix: StoragePrefix, order: Order, id: string): string => {
  const idBytes = encoder.encode(id)
  const bytes = new Uint8Array(hashEnd + idBytes.length)
  bytes[0] = format
  new DataView(bytes.buffer).setBigUint64(
    1,
    fnv1a(encoder.encode(JSON.stringify([order, prefix.owner, prefix.idPrefix, id])))
  )
  bytes.set(idBytes, hashEnd)
  return Base64Url.encode(bytes)
}

/** The id in a cursor. Undefined if the cursor does not come from this listing. */
export const decode = (prefix: StoragePrefix, order: Order, cursor: string): string | undefined => {
  const bytes = typeof cursor === "string" ? Result.getOrUndefined(Base64Url.decode(cursor)) : undefined
  if (bytes === undefined) return undefined
  const id = decoder.decode(bytes.subarray(hashEnd))
  return id.startsWith(prefix.idPrefix) &&
    checkPart("id", id, maxIdBytes) === undefined &&
    encode(prefix, order, id) === cursor
    ? id
    : undefined
}
