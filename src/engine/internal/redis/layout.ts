/**
 * How records are stored in Redis: a hash for each record, two sorted sets for each owner, and for ten minutes a marker
 * for each commit.
 */
import * as Effect from "effect/Effect"
import type { StoredRecord } from "../../../Engine.ts"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { notApplied } from "../failure.ts"

/**
 * The fields of a hash. `expires_at` is empty if the record never expires, and `write_id` if the record has no write
 * id.
 */
export const fields = ["version", "data", "write_id", "expires_at"] as const

/** An owner as a Redis Cluster hash tag. Braces are escaped, since a hash tag ends at the first closing brace. */
const tagOf = (owner: string): string => owner.replace(/[%{}]/g, encodeURIComponent)

export const keysOf = (keyPrefix: string, owner: string) => {
  const base = `${keyPrefix}:{${tagOf(owner)}}`
  return {
    record: `${base}:record:`,
    /** Also the name of the channel of changes, so that the scripts need no argument for it. */
    index: `${base}:index`,
    expiry: `${base}:expiry`,
    /** The marker of a commit, followed by its token. */
    commit: `${base}:commit:`
  }
}

/** A pattern for the names of all owners' expiry sets. */
export const expiryPattern = (keyPrefix: string): string => `${keyPrefix.replace(/[\\*?[\]^-]/g, "\\$&")}:{*}:expiry`

/** Reads the record in the fields of a hash. Fails with `Corrupt` if they are damaged. */
export const parse = (
  owner: string,
  id: string,
  [version = "", data = "", writeId = "", expiresAt = ""]: ReadonlyArray<string>
): Effect.Effect<StoredRecord, Backend> => {
  const isVersion = /^[1-9]\d*$/.test(version) && Number.isSafeInteger(Number(version))
  const isExpiry = /^(-?\d+)?$/.test(expiresAt)
  if (!isVersion || !isExpiry) {
    const problem = isVersion ? "expires_at is not an epoch second" : "version is not an integer from 1 up"
    const description =
      `The hash of the record ${id} of ${owner} is damaged: its field ${problem}. Repair it in Redis, or delete the ` +
      "record"
    return Effect.fail(makeBackend(notApplied("Corrupt", description)))
  }
  return Effect.succeed({
    data,
    version: Number(version),
    writeId: writeId === "" ? undefined : writeId,
    expiresAtSeconds: expiresAt === "" ? undefined : Number(expiresAt)
  })
}
