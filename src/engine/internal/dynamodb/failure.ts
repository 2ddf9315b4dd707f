/** Turns errors of the AWS SDK, of DynamoDB and of the network into failures. */
import type { CancellationReason } from "@aws-sdk/client-dynamodb"
import { type Failure, notApplied } from "../failure.ts"
import { safeCause, withoutUserInfo } from "../safeCause.ts"

/** The part of an HTTP response that the AWS SDK passes to its middleware. */
export interface HttpResponse {
  readonly statusCode?: number
  readonly headers?: Readonly<Record<string, string>>
}

/**
 * Whether an HTTP response is not DynamoDB's. DynamoDB, and every server that speaks its protocol, sends its media type
 * with each answer, and in most cases the id of the request.
 */
export const isForeign = ({ headers = {} }: HttpResponse): boolean => {
  const type = headers["content-type"] ?? ""
  return headers["x-amzn-requestid"] === undefined && !/^application\/(x-amz-json-|cbor)/.test(type)
}

/** The name of the error for an answer that has the status of a success but is not DynamoDB's. */
export const foreignAnswer = "ForeignAnswerError"

/** An error of the AWS SDK or of Node.js. */
export interface AwsError {
  readonly name: string
  readonly message: string
  readonly code?: string
  readonly syscall?: string
  readonly stack?: string
  readonly $metadata?: { readonly httpStatusCode?: number }
  readonly $response?: HttpResponse
  readonly errors?: ReadonlyArray<AwsError>
  /** Why a transaction was cancelled, for each of its items. */
  readonly CancellationReasons?: ReadonlyArray<CancellationReason>
}

/** Whether an error is the answer of a server other than DynamoDB. */
const isForeignError = ({ $response, code }: AwsError): boolean =>
  code?.startsWith("HPE_") === true || ($response !== undefined && isForeign($response))

/** Whether DynamoDB refused a write since its item would be larger than an item may be. */
export const isItemTooLarge = ({ message, name }: Pick<AwsError, "message" | "name">): boolean =>
  name.startsWith("Validation") && /Item size .*exceeded/i.test(message)

/** Errors of AWS about a request's signature, whose messages may repeat parts of the credentials. */
const signatureErrors =
  /Signature|ClientToken|AuthenticationToken|ExpiredToken|UnrecognizedClient|NotAuthorized|OptInRequired/

/** Errors of the AWS SDK if the body of an answer is not JSON. Their messages may repeat record data of that body. */
const parserErrors = /^(SyntaxError|TypeError|RangeError)$/

/**
 * The part of an error's message that may be shown. A message may repeat a value of the request, a URL, a part of the
 * answer or a part of the credentials.
 */
const messageOf = (error: AwsError): string => {
  if (signatureErrors.test(error.name) || parserErrors.test(error.name) || isForeignError(error)) return ""
  const [first] = error.errors ?? []
  if (first !== undefined) return messageOf(first)
  // The command that a profile names as `credential_process` may have a secret among its arguments.
  if (/Command failed/.test(error.message)) return "The credential_process failed"
  const message = (error.message || error.code) ?? ""
  // After a line break, the AWS SDK adds a hint for its own developers.
  const [line = ""] = message.replace(/\bValue '.*?' at '/gs, "The value at '").split("\n")
  return withoutUserInfo(line.trim().slice(0, 300))
}

const withMessage = (error: AwsError): string => [error.name, messageOf(error)].filter((part) => part !== "").join(": ")

/** Makes the failure of a known error. DynamoDB applies nothing if it answers with one of them. */
type Explain = (error: AwsError, request: string, table: string) => Failure

const explain =
  (reason: Failure["reason"], description: (error: AwsError, request: string, table: string) => string): Explain =>
  (error, request, table) =>
    notApplied(reason, description(error, request, table))

const throttled = explain(
  "Throttled",
  (_, __, table) =>
    `DynamoDB throttles requests to table ${table}: raise its capacity, or spread the load over more keys`
)
const contended = explain(
  "Unavailable",
  (_, __, table) => `A transaction or another region is writing the item in table ${table}`
)
const noTable = explain(
  "Misconfigured",
  (_, __, table) =>
    `There is no table ${table}: create it with DynamoDb.ensureTable, or set the right name, region and endpoint`
)
/** The permissions for requests whose names are not those of their permissions. */
const permissions: Record<string, string> = {
  TransactGetItems: "dynamodb:GetItem",
  TransactWriteItems: "dynamodb:UpdateItem, dynamodb:DeleteItem and dynamodb:ConditionCheckItem"
}
const forbidden = explain(
  "Unauthorized",
  (error, request, table) =>
    `The credentials do not permit the request: grant ${permissions[request] ?? `dynamodb:${request}`} on table ` +
    `${table} (AWS says: ${messageOf(error)})`
)
const notAccepted = explain(
  "Unauthorized",
  (error) => `AWS does not accept the credentials: check the key, the secret and the region (${error.name})`
)
const expired = explain("Unauthorized", (error) => `The AWS credentials have expired: renew them (${error.name})`)
const noCredentials = explain(
  "Unauthorized",
  (error) =>
    "No AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role " +
    `(${withMessage(error)})`
)
const clockSkewed = explain(
  "Unavailable",
  (error) => `The clock of this machine is wrong, so AWS refuses the signature: set the clock (${error.name})`
)
const otherSchema = explain(
  "Misconfigured",
  (error, _, table) =>
    `Table ${table} has another key schema, or other attributes are configured: it needs a partition and a sort key, ` +
    `both strings (AWS says: ${messageOf(error)})`
)

/** Messages of DynamoDB and DynamoDB Local if the keys of a request do not fit the table's key schema. */
const keySchemaMessages = [
  "The provided key element does not match the schema",
  "The number of conditions on the keys is invalid",
  "One of the required keys was not given a value",
  "Query condition missed key schema element",
  "Query key condition not supported",
  "Condition parameter type does not match schema type",
  "The provided starting key is invalid",
  "Exclusive Start Key must have same size as table's key schema",
  "Type mismatch for attribute to update",
  "Type mismatch for key",
  "Missing the key ",
  "This attribute is part of the key"
]

/** Messages of DynamoDB and DynamoDB Local if the stored items of a transaction take more than its limit together. */
const transactionSizeMessages = /aggregate size|Payload in response is too large/i

const tooLargeTogether = explain(
  "Unsupported",
  () =>
    "The records of this commit, as they are stored, take more than the 4 MB of a transaction of DynamoDB: commit fewer"
)

/** The failure if another server answered. If its status is below 500, it has not passed the request on to DynamoDB. */
const foreign = ({ $metadata, $response }: AwsError): Failure => {
  const status = $response?.statusCode ?? $metadata?.httpStatusCode
  const answer = status === undefined ? "it does not speak HTTP" : `it answered with HTTP status ${status}`
  const description =
    `The server at the endpoint is not DynamoDB: ${answer}. Check the endpoint's URL, its port, and any proxy ` +
    "before it"
  return {
    reason: status !== undefined && status >= 500 ? "Unavailable" : "Misconfigured",
    outcome: status !== undefined && status >= 300 && status < 500 ? "not-applied" : "unknown",
    description
  }
}

const failures: Record<string, Explain> = {
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

/** The failure of a transaction that was cancelled although no condition was refused. It has changed nothing. */
const cancelled: Explain = (error, request, table) => {
  const reasons = error.CancellationReasons ?? []
  const invalid = reasons.find(({ Code }) => Code === "ValidationError")
  const ofInvalid =
    invalid && failureOfRequest({ name: "ValidationException", message: invalid.Message ?? "" }, request, table)
  if (ofInvalid !== undefined) return ofInvalid
  const codes = new Set(reasons.map(({ Code }) => Code))
  if (codes.has("ThrottlingError") || codes.has("ProvisionedThroughputExceeded"))
    return throttled(error, request, table)
  if (codes.has("TransactionConflict")) return contended(error, request, table)
  const detail = invalid?.Message === undefined ? withMessage(error) : messageOf({ ...error, message: invalid.Message })
  return notApplied("Unknown", `DynamoDB cancelled the transaction: ${detail}`)
}

/** The failure if the request does not fit the table, or its records do not fit one transaction. */
const failureOfRequest = (error: AwsError, request: string, table: string): Failure | undefined => {
  if (!/^(ValidationException|TransactionCanceledException)$/.test(error.name)) return undefined
  if (keySchemaMessages.some((words) => error.message.includes(words))) return otherSchema(error, request, table)
  return transactionSizeMessages.test(error.message) ? tooLargeTogether(error, request, table) : undefined
}

/**
 * The reason of an error, and whether DynamoDB may have applied the request. It may have, unless an answer or a failed
 * connection excludes that.
 */
export const failureOf = (error: AwsError, request: string, table: string): Failure => {
  const status = error.$metadata?.httpStatusCode
  if (error.name === "InvalidSignatureException" && /expired|not yet current/.test(error.message)) {
    return clockSkewed(error, request, table)
  }
  const ofRequest = failureOfRequest(error, request, table)
  if (ofRequest !== undefined) return ofRequest
  if (error.name === "TransactionCanceledException") return cancelled(error, request, table)
  const known = Object.hasOwn(failures, error.name) ? failures[error.name] : undefined
  if (known !== undefined) return known(error, request, table)
  if (isForeignError(error)) return foreign(error)
  if (error.message === "Region is missing") {
    return notApplied("Misconfigured", "No AWS region is set: set AWS_REGION, or the option region")
  }
  if (error.code === "ERR_INVALID_URL") {
    return notApplied("Misconfigured", "The endpoint is not a URL: give one such as http://localhost:8000")
  }
  if (error.syscall === "connect" || error.syscall === "getaddrinfo" || error.code === "ECONNREFUSED") {
    return notApplied("Unavailable", `DynamoDB can't be reached: ${messageOf(error)}`)
  }
  if (status !== undefined && status >= 400 && status < 500) {
    return notApplied("Unknown", `DynamoDB refused the request: ${withMessage(error)}`)
  }
  if (status !== undefined || error.code !== undefined) {
    const description = `DynamoDB gave no usable answer: ${withMessage(error)}`
    return { reason: "Unavailable", outcome: "unknown", description }
  }
  return { reason: "Unknown", outcome: "unknown", description: `The request failed: ${withMessage(error)}` }
}

/** A copy of the error that is safe to show. */
export const causeOf = (error: AwsError & Error): Error => safeCause(error, messageOf(error))
