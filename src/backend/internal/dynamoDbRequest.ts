import type { ConsumedCapacity } from "@aws-sdk/client-dynamodb"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import { type Backend, backend as backendError } from "../../StorageError.ts"

/** OpenTelemetry's name of the engine. */
export const system = "aws.dynamodb"

const capacityAttribute = "aws.dynamodb.consumed_capacity"

const capacityUnits = Metric.counter("effect_versioned_store.consumed_capacity", {
  description: "Capacity units that DynamoDB has charged for"
})

/** Notes what a request cost, in the metric and in the operation's span, whose attribute OpenTelemetry defines. */
const noteCapacity = (capacity: ConsumedCapacity | undefined) => {
  if (capacity?.CapacityUnits === undefined) return Effect.void
  const attributes = { "db.system.name": system, "db.collection.name": capacity.TableName ?? "" }
  return Effect.andThen(
    Metric.update(Metric.withAttributes(capacityUnits, attributes), capacity.CapacityUnits),
    Effect.flatMap(Effect.option(Effect.currentSpan), (span) => {
      if (Option.isSome(span)) {
        const before = span.value.attributes.get(capacityAttribute)
        span.value.attribute(capacityAttribute, [...(Array.isArray(before) ? before : []), JSON.stringify(capacity)])
      }
      return Effect.void
    })
  )
}

/** A command whose request is sent once, whatever the client's own settings for retries are. */
export const once = <C extends { readonly middlewareStack: { add(middleware: unknown, options: unknown): void } }>(
  command: C
): C => {
  command.middlewareStack.add((next: unknown) => next, {
    step: "finalizeRequest",
    name: "retryMiddleware",
    priority: "high",
    override: true
  })
  return command
}

interface Failure {
  readonly reason: Backend["reason"]["_tag"]
  readonly outcome: Backend["outcome"]
  readonly description: string
}

/** What the AWS SDK and Node.js throw. */
export interface AwsError {
  readonly name: string
  readonly message: string
  readonly code?: string
  readonly syscall?: string
  readonly $metadata?: { readonly httpStatusCode?: number }
}

const notApplied =
  (reason: Failure["reason"], description: (error: AwsError, request: string, table: string) => string) =>
  (error: AwsError, request: string, table: string): Failure => ({
    reason,
    outcome: "not-applied",
    description: description(error, request, table)
  })

const throttled = notApplied(
  "Throttled",
  (_, __, table) =>
    `DynamoDB throttles requests to table ${table}: raise its capacity, or spread the load over more keys`
)
const contended = notApplied(
  "Unavailable",
  (_, __, table) => `A transaction or another region is writing the item in table ${table}`
)
const noTable = notApplied(
  "Misconfigured",
  (_, __, table) =>
    `There is no table ${table}: create it with DynamoDb.ensureTable, or set the right name, region and endpoint`
)
const forbidden = notApplied(
  "Unauthorized",
  (error, request, table) =>
    `The credentials do not permit it: grant dynamodb:${request} on table ${table} (AWS says: ${error.message})`
)
const notAccepted = notApplied(
  "Unauthorized",
  (error) => `AWS does not accept the credentials: check the key, the secret and the region (${error.name})`
)
const expired = notApplied("Unauthorized", (error) => `The AWS credentials have expired: renew them (${error.name})`)
const noCredentials = notApplied(
  "Unauthorized",
  (error) =>
    `No AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role (${error.message})`
)
const clockSkewed = notApplied(
  "Unavailable",
  (error) => `The clock of this machine is off, so that AWS refuses the signature: set it (${error.name})`
)
const otherSchema = notApplied(
  "Misconfigured",
  (error, _, table) =>
    `Table ${table} has another key schema, or other attributes are configured: it needs a partition and a sort key, ` +
    `both strings (AWS says: ${error.message})`
)

const failures: Record<string, ReturnType<typeof notApplied>> = {
  ProvisionedThroughputExceededException: throttled,
  RequestLimitExceeded: throttled,
  ThrottlingException: throttled,
  LimitExceededException: throttled,
  TransactionConflictException: contended,
  TransactionInProgressException: contended,
  ReplicatedWriteConflictException: contended,
  ResourceNotFoundException: noTable,
  AccessDeniedException: forbidden,
  IncompleteSignature: notAccepted,
  IncompleteSignatureException: notAccepted,
  InvalidClientTokenId: notAccepted,
  InvalidSignatureException: notAccepted,
  MissingAuthenticationToken: notAccepted,
  MissingAuthenticationTokenException: notAccepted,
  NotAuthorized: notAccepted,
  OptInRequired: notAccepted,
  SignatureDoesNotMatch: notAccepted,
  UnrecognizedClientException: notAccepted,
  ExpiredToken: expired,
  ExpiredTokenException: expired,
  CredentialsProviderError: noCredentials,
  TokenProviderError: noCredentials,
  RequestExpired: clockSkewed,
  RequestInTheFuture: clockSkewed,
  RequestTimeTooSkewed: clockSkewed
}

/** What went wrong, and whether DynamoDB may have applied the request: it may have, unless it or the way there says no. */
const failureOf = (error: AwsError, request: string, table: string): Failure => {
  const status = error.$metadata?.httpStatusCode
  if (error.name === "InvalidSignatureException" && /expired|not yet current/.test(error.message)) {
    return clockSkewed(error, request, table)
  }
  const known = Object.hasOwn(failures, error.name) ? failures[error.name] : undefined
  if (known !== undefined) return known(error, request, table)
  if (error.name === "ValidationException" && /key/i.test(error.message)) return otherSchema(error, request, table)
  if (error.message === "Region is missing") {
    const description = "No AWS region is set: set AWS_REGION, or the option region"
    return { reason: "Misconfigured", outcome: "not-applied", description }
  }
  if (error.code === "ERR_INVALID_URL") {
    return { reason: "Misconfigured", outcome: "not-applied", description: `The endpoint is no URL: ${error.message}` }
  }
  if (error.syscall === "connect" || error.syscall === "getaddrinfo" || error.code === "ECONNREFUSED") {
    const description = `DynamoDB can't be reached: ${error.message || error.code}`
    return { reason: "Unavailable", outcome: "not-applied", description }
  }
  if (status !== undefined && status >= 400 && status < 500) {
    const description = `DynamoDB refused the request: ${error.name}: ${error.message}`
    return { reason: "Unknown", outcome: "not-applied", description }
  }
  if (status !== undefined || error.code !== undefined) {
    const description = `DynamoDB gave no usable answer: ${error.name}: ${error.message}`
    return { reason: "Unavailable", outcome: "unknown", description }
  }
  return { reason: "Unknown", outcome: "unknown", description: `The request failed: ${error.name}: ${error.message}` }
}

interface SendOptions {
  readonly tableName: string
  readonly requestTimeout?: Duration.Input | undefined
}

/** Sends one request once. It is aborted when it takes too long, and when the fiber is interrupted. */
export const sender = ({ requestTimeout = "5 seconds", tableName }: SendOptions) => {
  const description = `DynamoDB did not answer within ${Duration.format(Duration.fromInputUnsafe(requestTimeout))}`
  const late = (operation: string) =>
    Effect.fail(backendError({ operation, reason: "Timeout", outcome: "unknown", description }))
  return <A extends object, B = never>(
    request: string,
    send: (options: { readonly abortSignal: AbortSignal }) => Promise<A>,
    /** Turns an error that is an answer into it. */
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
          ? Effect.fail(backendError({ ...failureOf(cause, request, tableName), operation: request, cause }))
          : Effect.succeed(answered)
      }),
      Effect.timeoutOrElse({ duration: requestTimeout, orElse: () => late(request) })
    )
}
