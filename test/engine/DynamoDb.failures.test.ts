import { assert, describe, it } from "@effect/vitest"
import {
  type AwsError,
  causeOf,
  failureOf,
  type HttpResponse,
  isForeign
} from "../../src/engine/internal/dynamodb/failure.ts"
import type { Backend } from "../../src/StorageError.ts"

const ours: HttpResponse = { statusCode: 400, headers: { "x-amzn-requestid": "1" } }
const theirs: HttpResponse = { statusCode: 400, headers: { "content-type": "text/html" } }

const failure = (error: Partial<AwsError>) => failureOf({ name: "Error", message: "", ...error }, "PutItem", "records")
const describedBy = (error: Partial<AwsError>) => failure(error).description

type Expected = readonly [reason: Backend["reason"]["_tag"], outcome: Backend["outcome"]]

const assertFailure = (error: Partial<AwsError>, [reason, outcome]: Expected, words: RegExp) => {
  const found = failure(error)
  assert.deepStrictEqual([found.reason, found.outcome], [reason, outcome], JSON.stringify(error))
  assert.match(found.description, words, JSON.stringify(error))
}

describe("an error that DynamoDB or AWS has a name for", () => {
  const byName: ReadonlyArray<readonly [reason: Backend["reason"]["_tag"], words: RegExp, ...names: Array<string>]> = [
    [
      "Throttled",
      /table records: raise its capacity/,
      "ProvisionedThroughputExceededException",
      "RequestLimitExceeded",
      "ThrottlingException",
      "LimitExceededException"
    ],
    [
      "Unavailable",
      /is writing the item in table records/,
      "TransactionConflictException",
      "TransactionInProgressException",
      "ReplicatedWriteConflictException"
    ],
    ["Misconfigured", /no table records: create it/, "ResourceNotFoundException"],
    ["Unauthorized", /grant dynamodb:PutItem on table records/, "AccessDeniedException"],
    [
      "Unauthorized",
      /does not accept the credentials/,
      "IncompleteSignature",
      "IncompleteSignatureException",
      "InvalidClientTokenId",
      "InvalidSignatureException",
      "MissingAuthenticationToken",
      "MissingAuthenticationTokenException",
      "NotAuthorized",
      "OptInRequired",
      "SignatureDoesNotMatch",
      "UnrecognizedClientException"
    ],
    ["Unauthorized", /have expired: renew them/, "ExpiredToken", "ExpiredTokenException"],
    ["Unauthorized", /No AWS credentials were found/, "CredentialsProviderError", "TokenProviderError"],
    ["Unavailable", /clock of this machine/, "RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"]
  ]
  for (const [reason, words, ...names] of byName) {
    for (const name of names) {
      it(`is ${reason}: ${name}`, () => assertFailure({ name, $response: ours }, [reason, "not-applied"], words))
    }
  }

  it("is about the clock if a signature has expired or is not yet current", () => {
    for (const message of ["Signature expired: 1 is earlier than 2", "Signature not yet current: 2 is later than 1"]) {
      const error = { name: "InvalidSignatureException", message }
      assertFailure(error, ["Unavailable", "not-applied"], /clock of this machine/)
      assertFailure({ ...error, name: "Other" }, ["Unknown", "unknown"], /The request failed: Other/)
    }
  })

  it("repeats what the AWS SDK says of credentials that it did not find", () => {
    const error = { name: "CredentialsProviderError", message: "Could not load credentials" }
    assert.isTrue(describedBy(error).endsWith(" (CredentialsProviderError: Could not load credentials)"))
  })

  it("is not found among the names that every object has", () => {
    assertFailure({ name: "constructor", message: "odd" }, ["Unknown", "unknown"], /failed: constructor: odd$/)
  })
})

describe("a validation error", () => {
  const invalid = (message: string) => ({ name: "ValidationException", message, $metadata: { httpStatusCode: 400 } })

  it("is about the key schema if it says so in words of DynamoDB or DynamoDB Local", () => {
    for (const message of [
      "The provided key element does not match the schema",
      "The number of conditions on the keys is invalid",
      "One or more parameter values were invalid: Missing the key SK in the item",
      "One or more parameter values were invalid: Type mismatch for key SK expected: N actual: S",
      "Cannot update attribute data. This attribute is part of the key"
    ]) {
      assertFailure(invalid(message), ["Misconfigured", "not-applied"], /has another key schema.*AWS says: /)
      assert.include(describedBy(invalid(message)), message)
      assertFailure({ ...invalid(message), name: "Other" }, ["Unknown", "not-applied"], /refused the request: Other/)
    }
  })

  it("is a refusal otherwise, even if it mentions a key", () => {
    const message = "Size of hashkey has exceeded the maximum size limit of 2048 bytes"
    assertFailure(invalid(message), ["Unknown", "not-applied"], /refused the request: ValidationException: Size of/)
  })
})

describe("an answer of something that is not DynamoDB", () => {
  it("is known by its headers", () => {
    const from = (headers: Record<string, string>) => isForeign({ headers })
    assert.isTrue(isForeign({}))
    assert.isTrue(from({}))
    assert.isTrue(from({ "content-type": "application/json" }))
    assert.isTrue(from({ "content-type": "text/html; not application/cbor" }))
    assert.isFalse(from({ "content-type": "application/x-amz-json-1.0" }))
    assert.isFalse(from({ "content-type": "application/cbor" }))
    assert.isFalse(from({ "content-type": "text/html", "x-amzn-requestid": "1" }))
  })

  it("was not passed on from status 300 to 499, passes by itself from 500, and is not known otherwise", () => {
    const stranger = (statusCode: number) => ({ $response: { ...theirs, statusCode } })
    for (const [status, ...expected] of [
      [200, "Misconfigured", "unknown"],
      [299, "Misconfigured", "unknown"],
      [300, "Misconfigured", "not-applied"],
      [404, "Misconfigured", "not-applied"],
      [499, "Misconfigured", "not-applied"],
      [500, "Unavailable", "unknown"],
      [503, "Unavailable", "unknown"]
    ] as const) {
      assertFailure(
        stranger(status),
        expected,
        new RegExp(`is not DynamoDB: it answered with HTTP status ${status}\\.`)
      )
    }
    const withMetadata = { $response: { headers: {} }, $metadata: { httpStatusCode: 404 } }
    assertFailure(withMetadata, ["Misconfigured", "not-applied"], /HTTP status 404/)
    assertFailure({ code: "HPE_INVALID_CONSTANT" }, ["Misconfigured", "unknown"], /it does not speak HTTP/)
    assertFailure({ code: "E_HPE_" }, ["Unavailable", "unknown"], /no usable answer/)
  })
})

describe("an error on the way to DynamoDB", () => {
  it("was not applied if no connection was made", () => {
    for (const error of [{ syscall: "connect" }, { syscall: "getaddrinfo" }, { code: "ECONNREFUSED" }]) {
      assertFailure({ ...error, message: "m" }, ["Unavailable", "not-applied"], /^DynamoDB can't be reached: m$/)
    }
    assertFailure({ syscall: "read", code: "ECONNRESET" }, ["Unavailable", "unknown"], /no usable answer/)
  })

  it("is a missing setting if the AWS SDK says so", () => {
    assertFailure({ message: "Region is missing" }, ["Misconfigured", "not-applied"], /set AWS_REGION/)
    assertFailure({ code: "ERR_INVALID_URL" }, ["Misconfigured", "not-applied"], /not a URL/)
  })

  it("may have been applied, unless a status from 400 to 499 excludes it", () => {
    const withStatus = (httpStatusCode: number) => ({ name: "New", message: "m", $metadata: { httpStatusCode } })
    for (const [status, reason, outcome, words] of [
      [200, "Unavailable", "unknown", /no usable answer: New: m$/],
      [399, "Unavailable", "unknown", /no usable answer: New: m$/],
      [400, "Unknown", "not-applied", /refused the request: New: m$/],
      [499, "Unknown", "not-applied", /refused the request: New: m$/],
      [500, "Unavailable", "unknown", /no usable answer: New: m$/]
    ] as const) {
      assertFailure(withStatus(status), [reason, outcome], words)
    }
    assertFailure({ code: "EPIPE" }, ["Unavailable", "unknown"], /no usable answer: Error: EPIPE$/)
    assertFailure({ name: "New", message: "m" }, ["Unknown", "unknown"], /^The request failed: New: m$/)
    assertFailure({ name: "New" }, ["Unknown", "unknown"], /^The request failed: New$/)
  })
})

describe("what an error says", () => {
  const said = (error: Partial<AwsError>) =>
    causeOf(Object.assign(new Error(), { name: "New", message: "", ...error })).message

  it("is its first line, or its code, without surrounding blanks and cut at 300 characters", () => {
    assert.strictEqual(said({ message: "  odd  \n  Deserialization error: to see the raw response, inspect" }), "odd")
    assert.strictEqual(said({ message: "x".repeat(400) }), "x".repeat(300))
    assert.strictEqual(said({ code: "EPIPE" }), "EPIPE")
    assert.strictEqual(said({ code: "EPIPE", message: "odd" }), "odd")
    assert.strictEqual(said({}), "")
  })

  it("is that of the first error, if there are several", () => {
    const errors = [
      { name: "Error", message: "first" },
      { name: "Error", message: "second" }
    ]
    assert.strictEqual(said({ message: "of both", errors }), "first")
    assert.strictEqual(said({ message: "of none", errors: [] }), "of none")
  })

  it("has no user, no password and no value of the request", () => {
    assert.strictEqual(said({ message: "at http://app:pass-word@host/" }), "at http://host/")
    const twice = "Value 'hush' at 'a' failed; Value 'hu\nsh' at 'b' failed"
    assert.strictEqual(said({ message: twice }), "The value at 'a' failed; The value at 'b' failed")
  })

  it("is nothing if it may repeat credentials, data or a stranger's answer", () => {
    for (const name of [
      "InvalidSignatureException",
      "InvalidClientTokenId",
      "MissingAuthenticationToken",
      "ExpiredTokenException",
      "UnrecognizedClientException",
      "NotAuthorized",
      "OptInRequired",
      "SyntaxError",
      "TypeError",
      "RangeError"
    ]) {
      assert.strictEqual(said({ name, message: "hush" }), "", name)
      assert.notInclude(describedBy({ name, message: "hush", $response: ours }), "hush")
    }
    assert.strictEqual(said({ name: "NoSyntaxErrorAtAll", message: "odd" }), "odd")
    assert.strictEqual(said({ message: "hush", $response: theirs }), "")
    assert.strictEqual(said({ message: "hush", code: "HPE_INVALID" }), "")
    assert.strictEqual(said({ message: "odd", $response: ours }), "odd")
    assert.strictEqual(said({ message: "Command failed: get-secret --key hush" }), "The credential_process failed")
  })
})
