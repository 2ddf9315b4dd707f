import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Schedule from "effect/Schedule"
import type { Primitives, StorageBackend } from "../StorageBackend.ts"
import type { Backend } from "../StorageError.ts"

/** What spans and metrics say of an engine, by OpenTelemetry's semantic conventions for databases. */
export interface Telemetry {
  /** `db.system.name`. */
  readonly system: string
  /** `db.collection.name`. */
  readonly collection: string
}

const counter = (name: string, description: string) =>
  Metric.counter(`effect_versioned_store.${name}`, { description, incremental: true })

const requests = counter("requests", "Requests sent to the engine")
const ambiguous = counter("ambiguous", "Attempts of a write that the engine may have applied, without an answer")
const retries = counter("retries", "Attempts made again after a transient failure")
const conflicts = counter("conflicts", "Writes refused because another version was there")

export const make = ({ collection, system }: Telemetry) => {
  const attributes = { "db.system.name": system, "db.collection.name": collection }
  const count = (metric: Metric.Counter<number>) => Metric.update(Metric.withAttributes(metric, attributes), 1)
  const counted = { requests: count(requests), ambiguous: count(ambiguous), retries: count(retries) }
  const conflict = Effect.andThen(count(conflicts), Effect.annotateCurrentSpan("effect_versioned_store.conflict", true))

  const request =
    <Args extends ReadonlyArray<unknown>, A>(primitive: (...args: Args) => Effect.Effect<A, Backend>) =>
    (...args: Args) =>
      Effect.flatMap(counted.requests, () => primitive(...args)).pipe(
        Effect.tapError((error) => (error.outcome === "unknown" ? counted.ambiguous : Effect.void))
      )

  const span = <A, E extends { readonly _tag: string }>(operation: string, effect: Effect.Effect<A, E>) =>
    effect.pipe(
      Effect.tapError((error) => (error._tag === "VersionConflict" ? conflict : Effect.void)),
      Effect.withSpan(`${operation} ${collection}`, {
        kind: "client",
        attributes: { ...attributes, "db.operation.name": operation, "effect_versioned_store.conflict": false }
      })
    )

  return {
    primitives: (primitives: Primitives): Primitives => ({
      read: request(primitives.read),
      ...(primitives.readEventually === undefined ? {} : { readEventually: request(primitives.readEventually) }),
      put: request(primitives.put),
      swap: request(primitives.swap),
      remove: request(primitives.remove),
      list: request(primitives.list),
      cleanup: primitives.cleanup
    }),

    schedule: <A, I>(schedule: Schedule.Schedule<A, I>) => Schedule.tap(schedule, () => counted.retries),

    service: (backend: StorageBackend["Service"]): StorageBackend["Service"] => ({
      get: (key) => span("get", backend.get(key)),
      put: (...args) => span("put", backend.put(...args)),
      putIfVersion: (...args) => span("putIfVersion", backend.putIfVersion(...args)),
      delete: (key) => span("delete", backend.delete(key)),
      deleteIfVersion: (...args) => span("deleteIfVersion", backend.deleteIfVersion(...args)),
      listByPrefix: (...args) => span("listByPrefix", backend.listByPrefix(...args)),
      cleanupExpired: span("cleanupExpired", backend.cleanupExpired)
    })
  }
}
