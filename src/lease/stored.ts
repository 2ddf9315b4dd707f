/** A lease as its record holds it. */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Backend, makeBackend } from "../StorageError.ts"
import type { VersionedRecord } from "../VersionedRecord.ts"

const Stored = Schema.Struct({
  /** The name of the holder. Null if the lease was released. */
  holder: Schema.NullOr(Schema.String),
  /** Names one grant of the lease. A renewal keeps it. */
  grant: Schema.String,
  token: Schema.Int,
  ttlMillis: Schema.Finite.check(Schema.isGreaterThan(0)),
  /** Which write of its grant this is. Whoever reads its own number knows when it sent that write. */
  sending: Schema.Int
})

export type Stored = typeof Stored.Type

const decodeJson = Schema.decodeUnknownResult(Schema.fromJsonString(Stored))

export const encode = (stored: Stored): string => JSON.stringify(stored)

/** What a record says of its lease. Another program may have written there what is no lease. */
export const decode = (record: VersionedRecord): Effect.Effect<Stored, Backend> =>
  Result.match(decodeJson(record.data), {
    onSuccess: Effect.succeed,
    onFailure: () =>
      Effect.fail(
        makeBackend({
          operation: "Lease",
          reason: "Corrupt",
          outcome: "not-applied",
          description: `the record at ${record.key} is not a lease. Delete it, or use another id for the lease`
        })
      )
  })
