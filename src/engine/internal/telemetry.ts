import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Schedule from "effect/Schedule"
import * as Tracer from "effect/Tracer"
import type { Backend } from "../../StorageError.ts"

/** An engine's attributes in spans and metrics, by OpenTelemetry's semantic conventions for databases. */
export interface Telemetry {
  /** `db.system.name`. */
  readonly system: string
  /** `db.collection.name`. */
  readonly collection: string
  /** Whether the engine's requests make spans of their own, or read the operation's; true by default. */
  readonly isParent?: boolean
}

export const attributesOf = ({ collection, system }: Telemetry) => ({
  "db.system.name": system,
  "db.collection.name": collection
})

const conflictAttribute = "effect_versioned_store.conflict"

/**
 * Decorators for the requests, the retries and the operations of an engine across a network.
 *
 * They are on the path of every request, so each metric gets its attributes once, and not by `Metric.withAttributes` at
 * each update, and the spans are made by `Effect.useSpan`, since `Effect.withSpan` captures a stack for each one.
 */
export const make = (telemetry: Telemetry) => {
  const { isParent = true } = telemetry
  const attributes = attributesOf(telemetry)
  const counter = (name: string, description: string) =>
    Metric.counter(`effect_versioned_store.${name}`, { description, incremental: true, attributes })
  const requests = counter("requests", "Requests sent to the engine")
  const ambiguous = Metric.update(
    counter("ambiguous", "Attempts of a write without a usable answer, which the engine may have applied"),
    1
  )
  const retries = Metric.update(counter("retries", "Attempts that were repeated after a transient failure"), 1)
  const conflicts = Metric.update(
    counter("conflicts", "Writes that were refused because the record had another version"),
    1
  )
  const countAmbiguous = (error: Backend) => (error.outcome === "unknown" ? ambiguous : Effect.void)

  /** The name and the options of each operation's spans, made once. */
  const spans = new Map<string, readonly [name: string, options: Tracer.SpanOptionsNoTrace]>()
  const spanOf = (operation: string) => {
    const known = spans.get(operation)
    if (known !== undefined) return known
    const options: Tracer.SpanOptionsNoTrace = {
      kind: "client",
      attributes: { ...attributes, "db.operation.name": operation, [conflictAttribute]: false }
    }
    const span = [`${operation} ${telemetry.collection}`, options] as const
    spans.set(operation, span)
    return span
  }

  return {
    /** Counts each request, and each request whose outcome is unknown. */
    request:
      <Args extends ReadonlyArray<unknown>, A>(send: (...args: Args) => Effect.Effect<A, Backend>) =>
      (...args: Args): Effect.Effect<A, Backend> =>
        Effect.withFiber((fiber: Fiber.Fiber<unknown, unknown>) => {
          requests.updateUnsafe(1, fiber.context)
          return Effect.tapError(send(...args), countAmbiguous)
        }),

    /** Counts each retry. */
    retries: <A, I>(schedule: Schedule.Schedule<A, I>): Schedule.Schedule<A, I> =>
      Schedule.tap(schedule, () => retries),

    /** Runs an operation in a span, and counts its conflict. */
    operation: <A, E extends { readonly _tag: string }>(
      name: string,
      effect: Effect.Effect<A, E>
    ): Effect.Effect<A, E> => {
      const counted = (span?: Tracer.Span) =>
        Effect.tapError(effect, (error) => {
          if (error._tag !== "VersionConflict") return Effect.void
          span?.attribute(conflictAttribute, true)
          return conflicts
        })
      const [spanName, options] = spanOf(name)
      if (isParent) {
        return Effect.useSpan(spanName, options, (span) =>
          Effect.provideService(counted(span), Tracer.ParentSpan, span)
        )
      }
      // Nobody sees a span of the default tracer, unless it is the parent of others.
      return Effect.withFiber((fiber) =>
        fiber.getRef(Tracer.Tracer) === Tracer.nativeTracer ? counted() : Effect.useSpan(spanName, options, counted)
      )
    }
  }
}
