/** FNV-1a of 64 bits: a fast hash that spreads well, and does not protect against anybody. */
export const fnv1a = (bytes: Uint8Array): bigint => {
  let hash = 0xcbf29ce484222325n
  for (const byte of bytes) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n)
  return hash
}
