/** What errors of the AWS SDK, of AWS and of the way there come to. */
import { type Failure, notApplied } from "../failure.ts"
import { safeCause, withoutUserInfo } from "../safeCause.ts"

/** What the AWS SDK shows its middleware of an HTTP response. */
export interface HttpResponse {
  readonly statusCode?: number
  readonly headers?: Readonly<Record<string, string>>
}

/** DynamoDB, and what speaks its protocol, marks each answer by its media type, and mostly by the id of the request. */
export const isForeign = ({ headers = {} }: HttpResponse): boolean => {
  const type = headers["content-type"] ?? ""
  return headers["x-amzn-requestid"] === undefined && !/^application\/(x-amz-json-|cbor)/.test(type)
}

/** The name of the error of an answer that is not DynamoDB's, though its status is that of a success. */
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
}

/** Whether it was not DynamoDB that answered. */
const isFromStranger = ({ $response, code }: AwsError): boolean =>
  code?.startsWith("HPE_") === true || ($response !== undefined && isForeign($response))

/** Errors of AWS about a request's signature, whose messages may repeat parts of the credentials. */
const ofSignature =
  /Signature|ClientToken|AuthenticationToken|ExpiredToken|UnrecognizedClient|NotAuthorized|OptInRequired/

/** What AWS says if the body of an answer, which may have record data, is not JSON. */
const ofContents = /^(SyntaxError|TypeError|RangeError)$/

/**
 * What an error says, as far as it may be shown: it may repeat a value of the request, a URL, a part of the answer or of
 * the credentials.
 */
const messageOf = (error: AwsError): string => {
  if (ofSignature.test(error.name) || ofContents.test(error.name) || isFromStranger(error)) return ""
  const [first] = error.errors ?? []
  if (first !== undefined) return messageOf(first)
  // The command that a profile names as `credential_process` may have a secret among its arguments.
  if (/Command failed/.test(error.message)) return "The credential_process failed"
  const message = (error.message || error.code) ?? ""
  // What follows a line break is the AWS SDK's hint for its developers.
  const [line = ""] = message.replace(/\bValue '.*?' at '/gs, "The value at '").split("\n")
  return withoutUserInfo(line.trim().slice(0, 300))
}

const withMessage = (error: AwsError): string => [error.name, messageOf(error)].filter((part) => part !== "").join(": ")

/** What a known error comes to. Nothing was applied after any of them. */
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
const forbidden = explain(
  "Unauthorized",
  (error, request, table) =>
    `The credentials do not permit it: grant dynamodb:${request} on table ${table} (AWS says: ${messageOf(error)})`
)
const notAccepted = explain(
  "Unauthorized",
  (error) => `AWS does not accept the credentials: check the key, the secret and the region (${error.name})`
)
const expired = explain("Unauthorized", (error) => `The AWS credentials have expired: renew them (${error.name})`)
const noCredentials = explain(
  "Unauthorized",
  (error) =>
    "No AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role " +
    `(${withMessage(error)})`
)
const clockSkewed = explain(
  "Unavailable",
  (error) => `The clock of this machine is off, so that AWS refuses the signature: set it (${error.name})`
)
const otherSchema = explain(
  "Misconfigured",
  (error, _, table) =>
    `Table ${table} has another key schema, or other attributes are configured: it needs a partition and a sort key, ` +
    `both strings (AWS says: ${messageOf(error)})`
)

/** What DynamoDB and DynamoDB Local say if the keys of a request are not those of the table's schema. */
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

/** Something answered that is not DynamoDB. Below 500, it has not passed the request on. */
const foreign = ({ $metadata, $response }: AwsError): Failure => {
  const status = $response?.statusCode ?? $metadata?.httpStatusCode
  const answer = status === undefined ? "it does not speak HTTP" : `it answered with HTTP status ${status}`
  const description =
    `What answers at the endpoint is not DynamoDB: ${answer}. Check the endpoint's URL, its port, and any proxy ` +
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

/** What went wrong, and whether DynamoDB may have applied the request: it may have, unless an answer excludes it. */
export const failureOf = (error: AwsError, request: string, table: string): Failure => {
  const status = error.$metadata?.httpStatusCode
  if (error.name === "InvalidSignatureException" && /expired|not yet current/.test(error.message)) {
    return clockSkewed(error, request, table)
  }
  const known = Object.hasOwn(failures, error.name) ? failures[error.name] : undefined
  if (known !== undefined) return known(error, request, table)
  if (error.name === "ValidationException" && keySchemaMessages.some((words) => error.message.includes(words))) {
    return otherSchema(error, request, table)
  }
  if (isFromStranger(error)) return foreign(error)
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

/** The error as it may be shown. */
export const causeOf = (error: AwsError & Error): Error => safeCause(error, messageOf(error))
