/**
 * Entity tags (RFC 9110, section 8.8.3) that name one write of a record: its version, and its write id or a hash of its
 * data.
 */

/** Text that stands in an entity tag as it is. Our own write ids are such text. */
const isPlain = /^[\w.-]+$/

const pattern = /^"(\d{1,16})-([^"]+)"$/

/**
 * A hash of 64 bits, which no two texts share by chance: cyrb53 without its cut to 53 bits. Effect's own `Hash` has 32
 * bits and is made for hash tables: "fF" and "AA" have the same one.
 */
const hashOf = (text: string): string => {
  let [high, low] = [0xdeadbeef, 0x41c6ce57]
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    high = Math.imul(high ^ code, 2654435761)
    low = Math.imul(low ^ code, 1597334677)
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909)
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909)
  return `${(high >>> 0).toString(36)}.${(low >>> 0).toString(36)}`
}

/** The tag of a write. Without a write id it has a hash of the data, which tells other data of the same version. */
export const make = (version: number, writeId: string | undefined, data: string): string => {
  if (writeId === undefined) return `"${version}=${hashOf(data)}"`
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
