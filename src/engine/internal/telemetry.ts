import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Schedule from "effect/Schedule"
import type { Backend } from "../../StorageError.ts"

/** An engine's attributes in spans and metrics, by OpenTelemetry's semantic conventions for databases. */
export interface Telemetry {
  /** `db.system.name`. */
  readonly system: string
  /** `db.collection.name`. */
  readonly collection: string
}

const counter = (name: string, description: string) =>
  Metric.counter(`effect_versioned_store.${name}`, { description, incremental: true })

const requests = counter("requests", "Requests sent to the engine")
const ambiguous = counter("ambiguous", "Attempts of a write without a usable answer, which the engine may have applied")
const retries = counter("retries", "Attempts that were repeated after a transient failure")
const conflicts = counter("conflicts", "Writes that were refused because the record had another version")

/** Decorators for the requests, the retries and the operations of an engine across a network. */
export const make = ({ collection, system }: Telemetry) => {
  const attributes = { "db.system.name": system, "db.collection.name": collection }
  const count = (metric: Metric.Counter<number>) => Metric.update(Metric.withAttributes(metric, attributes), 1)
  const counted = { requests: count(requests), ambiguous: count(ambiguous), retries: count(retries) }
  const conflict = Effect.andThen(count(conflicts), Effect.annotateCurrentSpan("effect_versioned_store.conflict", true))

  return {
    /** Counts each request, and each request whose outcome is unknown. */
    request:
      <Args extends ReadonlyArray<unknown>, A>(send: (...args: Args) => Effect.Effect<A, Backend>) =>
      (...args: Args): Effect.Effect<A, Backend> =>
        Effect.flatMap(counted.requests, () => send(...args)).pipe(
          Effect.tapError((error) => (error.outcome === "unknown" ? counted.ambiguous : Effect.void))
        ),

    /** Counts each retry. */
    retries: <A, I>(schedule: Schedule.Schedule<A, I>): Schedule.Schedule<A, I> =>
      Schedule.tap(schedule, () => counted.retries),

    /** Runs an operation in a span, and counts its conflict. */
    operation: <A, E extends { readonly _tag: string }>(
      name: string,
      effect: Effect.Effect<A, E>
    ): Effect.Effect<A, E> =>
      effect.pipe(
        Effect.tapError((error) => (error._tag === "VersionConflict" ? conflict : Effect.void)),
        Effect.withSpan(`${name} ${collection}`, {
          kind: "client",
          attributes: { ...attributes, "db.operation.name": name, "effect_versioned_store.conflict": false }
        })
      )
  }
}
