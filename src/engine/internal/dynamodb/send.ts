/** Sends requests to DynamoDB, each once. */
import type { ConsumedCapacity } from "@aws-sdk/client-dynamodb"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as Tracer from "effect/Tracer"
import { toMillis } from "../../../internal/time.ts"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import type { Failure } from "../failure.ts"
import { attributesOf } from "../telemetry.ts"
import { startTimer } from "../timer.ts"
import { type AwsError, causeOf, failureOf, foreignAnswer, type HttpResponse, isForeign } from "./failure.ts"

/** OpenTelemetry's name of the engine. */
export const system = "aws.dynamodb"

const capacityAttribute = "aws.dynamodb.consumed_capacity"

/**
 * Makes the function that records the capacity of a request in the metric, and in the attribute of the operation's span
 * that OpenTelemetry defines. DynamoDB says which table it has charged, and each table's metric is made once.
 */
const makeNoteCapacity = () => {
  const metrics = new Map<string, Metric.Counter<number>>()
  const metricOf = (table: string) => {
    const known = metrics.get(table)
    if (known !== undefined) return known
    const metric = Metric.counter("effect_versioned_store.consumed_capacity", {
      description: "Capacity units that DynamoDB has charged for",
      attributes: attributesOf({ system, collection: table })
    })
    metrics.set(table, metric)
    return metric
  }
  return (fiber: Fiber.Fiber<unknown, unknown>, capacity: ConsumedCapacity, units: number) => {
    metricOf(capacity.TableName ?? "").updateUnsafe(units, fiber.context)
    const span = Context.getOrUndefined(fiber.context, Tracer.ParentSpan)
    if (span?._tag !== "Span") return
    const earlier = span.attributes.get(capacityAttribute)
    span.attribute(capacityAttribute, [...(Array.isArray(earlier) ? earlier : []), JSON.stringify(capacity)])
  }
}

interface Stack {
  add(middleware: unknown, options: unknown): void
}

/**
 * A command whose request is sent once, whatever the client's own settings for retries are. It fails if a server other
 * than DynamoDB answers. By default the AWS SDK treats any answer with an empty body as a success.
 */
export const withoutSdkRetries = <C extends { readonly middlewareStack: Stack }>(command: C): C => {
  command.middlewareStack.add((next: unknown) => next, {
    step: "finalizeRequest",
    name: "retryMiddleware",
    priority: "high",
    override: true
  })
  command.middlewareStack.add(
    (next: (args: unknown) => Promise<{ readonly response: HttpResponse }>) => (args: unknown) =>
      next(args).then((result) => {
        if (!isForeign(result.response)) return result
        throw Object.assign(new Error(), { name: foreignAnswer, $response: result.response })
      }),
    { step: "deserialize", name: "foreignAnswerMiddleware", priority: "high" }
  )
  return command
}

/** Requests that change nothing. */
const reads: ReadonlySet<string> = new Set(["GetItem", "BatchGetItem", "Query", "DescribeTable", "DescribeTimeToLive"])

interface SendOptions {
  readonly tableName: string
  readonly requestTimeout?: Duration.Input | undefined
  /** Whether the time-out runs by Effect's Clock, for the rare requests whose cost does not matter. */
  readonly usesClock?: boolean
}

export type Send = ReturnType<typeof makeSend>

/**
 * Makes the function that sends one request once. The request is aborted if it takes too long or the fiber is
 * interrupted.
 *
 * It is on the path of every operation, so it is one callback with one timer. `Effect.timeoutOrElse` would run two
 * fibers for each request.
 */
export const makeSend = ({ requestTimeout = "5 seconds", tableName, usesClock = false }: SendOptions) => {
  const timeoutMillis = toMillis("requestTimeout", requestTimeout)
  const noteCapacity = makeNoteCapacity()
  const fail = (operation: string, { outcome, ...failure }: Failure, cause?: Error) =>
    Effect.fail(makeBackend({ operation, ...failure, outcome: reads.has(operation) ? "not-applied" : outcome, cause }))

  const timedOut = (request: string) =>
    Effect.suspend(() => {
      const description = `DynamoDB did not answer within ${Duration.format(Duration.millis(timeoutMillis))}`
      return fail(request, { reason: "Timeout", outcome: "unknown", description })
    })

  const answered = <A extends object>(
    output: A & { readonly ConsumedCapacity?: ConsumedCapacity | ReadonlyArray<ConsumedCapacity> }
  ) => {
    const consumed = output.ConsumedCapacity
    if (consumed === undefined) return Effect.succeed<A>(output)
    return Effect.withFiber<A>((fiber) => {
      for (const capacity of "length" in consumed ? consumed : [consumed]) {
        if (capacity.CapacityUnits !== undefined) noteCapacity(fiber, capacity, capacity.CapacityUnits)
      }
      return Effect.succeed(output)
    })
  }

  return <A extends object, B = never>(
    request: string,
    send: (options: { readonly abortSignal: AbortSignal }) => Promise<A>,
    /** Returns the answer that an error stands for, for example that a condition did not hold. */
    answer: (error: AwsError) => B | undefined = () => undefined
  ): Effect.Effect<A | B, Backend> => {
    const failed = (thrown: unknown): Effect.Effect<B, Backend> =>
      Effect.suspend(() => {
        const cause = thrown instanceof Error ? thrown : new Error(String(thrown))
        const value = answer(cause)
        return value === undefined
          ? fail(request, failureOf(cause, request, tableName), causeOf(cause))
          : Effect.succeed(value)
      })

    const once = Effect.callback<A | B, Backend>((resume) => {
      const controller = new AbortController()
      const clearTimer = startTimer(usesClock ? Number.POSITIVE_INFINITY : timeoutMillis, () => {
        controller.abort()
        resume(timedOut(request))
      })
      const end = (effect: Effect.Effect<A | B, Backend>) => {
        clearTimer()
        resume(effect)
      }
      // The client throws at once if, for example, the endpoint is not a URL.
      try {
        send({ abortSignal: controller.signal }).then(
          (output) => end(answered(output)),
          (error) => end(failed(error))
        )
      } catch (error) {
        end(failed(error))
      }
      return Effect.sync(() => {
        clearTimer()
        controller.abort()
      })
    })
    return usesClock ? Effect.timeoutOrElse(once, { duration: timeoutMillis, orElse: () => timedOut(request) }) : once
  }
}
