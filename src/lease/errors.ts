import * as Schema from "effect/Schema"
import { StorageKey } from "../StorageKey.ts"

/**
 * The lease is held by another, and `tryAcquire` does not wait. `holder` is the name that the other one gave itself.
 * The key is that of the lease's record.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Lease } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   yield* Lease.acquire({ owner: "jobs", id: "report" }, { ttl: "30 seconds", holder: "alpha" })
 *   const other = Lease.tryAcquire({ owner: "jobs", id: "report" }, { ttl: "30 seconds", holder: "beta" })
 *   return yield* Effect.flip(Effect.scoped(other))
 * })
 * const error = await Effect.runPromise(Effect.scoped(program).pipe(Effect.provide(InMemory.layer)))
 * assert.ok(error._tag === "LeaseTaken")
 * assert.strictEqual(error.message, "The lease at jobs:lease/report is held by alpha")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseTaken extends Schema.TaggedError<LeaseTaken>("effect-versioned-store/LeaseTaken")(
  "LeaseTaken",
  { key: StorageKey, holder: Schema.String },
  { httpApiStatus: 409 }
) {
  override get message(): string {
    return `The lease at ${this.key} is held by ${this.holder}`
  }
}

const explanations = {
  Expired: "it was not renewed in time. The engine or this process was too slow, or this process was stopped",
  Taken: "another holder has taken it",
  Deleted: "its record was deleted",
  Released: "it was released, since its scope was closed"
}

/**
 * The lease is held no more, so others may hold it now. `token` is the fencing token that it had. `reason`
 * says why:
 *
 * - `Expired`: it was not renewed in time.
 * - `Taken`: another holder has taken it.
 * - `Deleted`: its record was deleted.
 * - `Released`: its scope was closed, which released it.
 *
 * @example
 * ```ts
 * import * as assert from "node:assert"
 * import { InMemory, Lease, StorageBackend, StorageKey } from "effect-versioned-store"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function* () {
 *   const backend = yield* StorageBackend.StorageBackend
 *   yield* backend.delete(StorageKey.makeUnsafe({ owner: "jobs", id: "lease/report" }))
 *   return yield* Effect.never
 * }).pipe(Lease.withLease({ owner: "jobs", id: "report" }, { ttl: "3 seconds" }), Effect.flip)
 * const error = await Effect.runPromise(program.pipe(Effect.provide(InMemory.layer)))
 * assert.strictEqual(error.message, "The lease at jobs:lease/report was lost: its record was deleted")
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class LeaseLost extends Schema.TaggedError<LeaseLost>("effect-versioned-store/LeaseLost")(
  "LeaseLost",
  { key: StorageKey, token: Schema.Int, reason: Schema.Literals(["Expired", "Taken", "Deleted", "Released"]) },
  { httpApiStatus: 503 }
) {
  override get message(): string {
    return `The lease at ${this.key} was lost: ${explanations[this.reason]}`
  }
}
