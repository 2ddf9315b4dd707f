const encoder = new TextEncoder()

/** The length of a well-formed string in bytes of UTF-8. */
export const byteLength = (text: string): number => encoder.encode(text).length

/**
 * Whether a string takes more than `limit` bytes of UTF-8. A UTF-16 code unit takes at most three bytes, so most
 * strings need no count.
 */
export const isLongerThan = (text: string, limit: number): boolean =>
  text.length * 3 > limit && (text.length > limit || byteLength(text) > limit)
