/**
 * Entity tags (RFC 9110, section 8.8.3) that name one write of a record: its version, and its write id or a hash of its
 * data.
 */
import * as Hash from "effect/Hash"

/** Text that stands in an entity tag as it is. Our own write ids are such text. */
const isPlain = /^[\w.-]+$/

const pattern = /^"(\d{1,16})-([^"]+)"$/

/** The tag of a write. Without a write id it has a hash of the data, which tells other data of the same version. */
export const make = (version: number, writeId: string | undefined, data: string): string => {
  if (writeId === undefined) return `"${version}=${Hash.string(data)}"`
  return `"${version}-${isPlain.test(writeId) ? writeId : encodeURIComponent(writeId)}"`
}

/** The version in a text that looks like a tag; otherwise undefined. */
export const versionIn = (etag: string): number | undefined => {
  const [, digits] = /^(?:W\/)?"?([1-9]\d{0,15})[-=]/.exec(etag) ?? []
  return digits !== undefined && Number.isSafeInteger(Number(digits)) ? Number(digits) : undefined
}

/** The version and the write id in a tag that has one; otherwise undefined. */
export const parse = (etag: string): { readonly version: number; readonly writeId: string } | undefined => {
  const [, digits, text] = (typeof etag === "string" ? pattern.exec(etag) : null) ?? []
  const version = Number(digits)
  if (text === undefined || !Number.isSafeInteger(version) || version === 0) return undefined
  try {
    const writeId = decodeURIComponent(text)
    return make(version, writeId, "") === etag ? { version, writeId } : undefined
  } catch {
    return undefined
  }
}
