/** Sends requests to DynamoDB, each once. */
import type { ConsumedCapacity } from "@aws-sdk/client-dynamodb"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import { toMillis } from "../../../internal/time.ts"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import type { Failure } from "../failure.ts"
import { type AwsError, causeOf, failureOf, foreignAnswer, type HttpResponse, isForeign } from "./failure.ts"

/** OpenTelemetry's name of the engine. */
export const system = "aws.dynamodb"

const capacityAttribute = "aws.dynamodb.consumed_capacity"

const capacityUnits = Metric.counter("effect_versioned_store.consumed_capacity", {
  description: "Capacity units that DynamoDB has charged for"
})

/**
 * Records the capacity of a request in the metric, and in the attribute of the operation's span that OpenTelemetry
 * defines.
 */
const noteCapacity = (capacity: ConsumedCapacity | undefined) => {
  if (capacity?.CapacityUnits === undefined) return Effect.void
  const attributes = { "db.system.name": system, "db.collection.name": capacity.TableName ?? "" }
  return Effect.andThen(
    Metric.update(Metric.withAttributes(capacityUnits, attributes), capacity.CapacityUnits),
    Effect.flatMap(Effect.option(Effect.currentSpan), (span) => {
      if (Option.isSome(span)) {
        const earlier = span.value.attributes.get(capacityAttribute)
        span.value.attribute(capacityAttribute, [...(Array.isArray(earlier) ? earlier : []), JSON.stringify(capacity)])
      }
      return Effect.void
    })
  )
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
const reads: ReadonlySet<string> = new Set(["GetItem", "Query", "DescribeTable", "DescribeTimeToLive"])

interface SendOptions {
  readonly tableName: string
  readonly requestTimeout?: Duration.Input | undefined
}

export type Send = ReturnType<typeof makeSend>

/**
 * Makes the function that sends one request once. The request is aborted if it takes too long or the fiber is
 * interrupted.
 */
export const makeSend = ({ requestTimeout = "5 seconds", tableName }: SendOptions) => {
  const timeout = Duration.millis(toMillis("requestTimeout", requestTimeout))
  const description = `DynamoDB did not answer within ${Duration.format(timeout)}`
  const fail = (operation: string, { outcome, ...failure }: Failure, cause?: Error) =>
    Effect.fail(makeBackend({ operation, ...failure, outcome: reads.has(operation) ? "not-applied" : outcome, cause }))
  return <A extends object, B = never>(
    request: string,
    send: (options: { readonly abortSignal: AbortSignal }) => Promise<A>,
    /** Returns the answer that an error stands for, for example that a condition did not hold. */
    answer: (error: AwsError) => B | undefined = () => undefined
  ): Effect.Effect<A | B, Backend> =>
    Effect.tryPromise({
      try: (abortSignal) => send({ abortSignal }),
      catch: (error) => (error instanceof Error ? error : new Error(String(error)))
    }).pipe(
      Effect.tap((output: A & { readonly ConsumedCapacity?: ConsumedCapacity }) =>
        noteCapacity(output.ConsumedCapacity)
      ),
      Effect.catch((cause): Effect.Effect<B, Backend> => {
        const answered = answer(cause)
        return answered === undefined
          ? fail(request, failureOf(cause, request, tableName), causeOf(cause))
          : Effect.succeed(answered)
      }),
      Effect.timeoutOrElse({
        duration: timeout,
        orElse: () => fail(request, { reason: "Timeout", outcome: "unknown", description })
      })
    )
}
