import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { RedisError } from "effect/persistence/Redis"
import { failureOf, hideArguments, isNotSent, messageOf } from "../../src/engine/internal/redis/failure.ts"
import { expiryPattern, keysOf, parse } from "../../src/engine/internal/redis/layout.ts"
import { maxVersion } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"

type Expected = readonly [reason: Backend["reason"]["_tag"], outcome: Backend["outcome"]]

const failure = (cause: unknown, operation?: string) => failureOf(new RedisError({ cause }), operation)

const assertFailure = (cause: unknown, [reason, outcome]: Expected, words: RegExp) => {
  const found = failure(cause)
  assert.deepStrictEqual([found.reason._tag, found.outcome], [reason, outcome], String(cause))
  assert.match(found.reason.description ?? "", words, String(cause))
  return found
}

/** An error whose class has a name, as node-redis makes them. */
const errorOf = (className: string, message = "", fields: object = {}) => {
  const classes = { [className]: class extends Error {} }
  return Object.assign(new (classes[className] ?? Error)(message), fields)
}

describe("a reply that is an error of Redis", () => {
  for (const [message, reason, words] of [
    ["OOM command not allowed when used memory > 'maxmemory'.", "Unavailable", /maxmemory/],
    ["READONLY You can't write against a read only replica.", "Misconfigured", /connect to the primary/],
    ["MISCONF Errors writing to the AOF file", "Unavailable", /can't write to its disk/],
    ["LOADING Redis is loading the dataset in memory", "Unavailable", /still loading/],
    ["BUSY Redis is busy running a script.", "Unavailable", /another script/],
    ["MASTERDOWN Link with MASTER is down", "Unavailable", /lost its primary/],
    ["NOREPLICAS Not enough good replicas to write.", "Unavailable", /min-replicas-to-write/],
    ["CLUSTERDOWN The cluster is down", "Unavailable", /CLUSTER INFO/],
    ["TRYAGAIN Multiple keys request during rehashing of slot", "Unavailable", /moving the slot/],
    ["MOVED 1234 127.0.0.1:6379", "Misconfigured", /RedisClient.layerCluster/],
    ["ASK 1234 127.0.0.1:6379", "Misconfigured", /RedisClient.layerCluster/],
    ["NOSCRIPT No matching script.", "Unavailable", /script cache/],
    ["NOAUTH Authentication required.", "Unauthorized", /requires a password/],
    ["WRONGPASS invalid username-password pair", "Unauthorized", /does not accept the password/],
    ["NOPERM this user has no permissions to run the 'get' command", "Unauthorized", /ACL LIST/],
    ["WRONGTYPE Operation against a key holding the wrong kind of value", "Misconfigured", /another keyPrefix/],
    ["DENIED Redis is running in protected mode", "Misconfigured", /protected mode/],
    ["-OOM command not allowed", "Unavailable", /maxmemory/],
    ["ERR Error running script: @user_script: 1: -READONLY You can't write", "Misconfigured", /connect to the primary/],
    ["ERR The user executing the script can't run this command", "Unauthorized", /ACL LIST/],
    ["ERR ACL failure in script: no permissions", "Unauthorized", /ACL LIST/],
    ["ERR Script attempted to access a non local key in a cluster node", "Unavailable", /moving the slot/],
    ["ERR invalid password", "Unauthorized", /does not accept the password/],
    ["ERR AUTH <password> called without any password configured", "Unauthorized", /does not accept the password/],
    ["ERR This instance has cluster support disabled", "Misconfigured", /use RedisClient.layer$/],
    ["ERR max number of clients reached", "Unavailable", /maxclients/],
    ["ERR DB index is out of range", "Unknown", /^Redis refused the command: ERR DB index is out of range$/]
  ] as const) {
    it(`is ${reason}, and nothing was applied: ${message}`, () => {
      assertFailure(new Error(message), [reason, "not-applied"], words)
    })
  }

  it("is known by a whole code only, at its start or after a blank or a dash", () => {
    assertFailure(new Error("ERR the ROOM is full"), ["Unknown", "not-applied"], /refused the command/)
    assertFailure(new Error("ERR OOMS"), ["Unknown", "not-applied"], /refused the command/)
    assertFailure(new Error("no ERR in front"), ["Unavailable", "unknown"], /gave no answer: no ERR in front$/)
    assertFailure(new Error("and ACL failure"), ["Unavailable", "unknown"], /gave no answer/)
    assertFailure(new Error("a max number of clients"), ["Unavailable", "unknown"], /gave no answer/)
    assertFailure(new Error("an ERR unknown command 'X'"), ["Unavailable", "unknown"], /gave no answer/)
    assertFailure(new Error("the ERR invalid password"), ["Unavailable", "unknown"], /gave no answer/)
  })

  it("is repeated without its script's address and cut at 200 characters", () => {
    const inScript = new Error("OOM command not allowed script: 9aa2, on @user_script:12.")
    assertFailure(inScript, ["Unavailable", "not-applied"], /\(Redis says: OOM command not allowed\)$/)
    const long = assertFailure(new Error(`ERR ${"x".repeat(300)}`), ["Unknown", "not-applied"], /x$/)
    assert.strictEqual(long.reason.description, `Redis refused the command: ERR ${"x".repeat(196)}`)
  })

  it("about an unknown command names it, and leaves its arguments out", () => {
    for (const message of [
      "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'hush' ",
      "ERR unknown command 'HELLO' with args beginning with: 'hush\n hush'",
      "ERR unknown subcommand 'NOW'. Try CLIENT HELP."
    ]) {
      const error = assertFailure(new Error(message), ["Misconfigured", "not-applied"], /Redis 6.2 or newer/)
      assert.match(error.reason.description ?? "", /\(Redis says: ERR unknown (sub)?command '\w+'\.?\)$/)
      assert.notInclude(`${error.message} ${error.reason.cause} ${(error.reason.cause as Error).stack}`, "hush")
    }
  })
})

describe("a failure of the client or of the way to Redis", () => {
  it("was not applied if the client has not sent the command", () => {
    for (const cause of [
      ...[
        "ClientClosedError",
        "ClientOfflineError",
        "ConnectionTimeoutError",
        "RootNodesUnavailableError",
        "ReconnectStrategyError"
      ].map((name) => errorOf(name, "why")),
      errorOf("Error", "why", { syscall: "connect" }),
      errorOf("Error", "why", { syscall: "getaddrinfo" }),
      new AggregateError([errorOf("Error", "why", { syscall: "connect" }), errorOf("ClientClosedError", "why")])
    ]) {
      assert.isTrue(isNotSent(cause))
      assertFailure(cause, ["Unavailable", "not-applied"], /^Redis can't be reached: why\. Check t/)
    }
  })

  it("may have been applied otherwise", () => {
    for (const cause of [
      errorOf("SocketClosedUnexpectedlyError", "why"),
      errorOf("MyClientClosedError", "why"),
      errorOf("ClientClosedErrors", "why"),
      errorOf("Error", "why", { syscall: "read" }),
      new AggregateError([errorOf("Error", "why", { syscall: "read" }), errorOf("ClientClosedError", "why")])
    ]) {
      assert.isFalse(isNotSent(cause))
      assertFailure(cause, ["Unavailable", "unknown"], /^Redis gave no answer: why$/)
    }
    assertFailure(errorOf("TimeoutError", "why"), ["Timeout", "unknown"], /^Redis did not answer in time$/)
    assertFailure("no error at all", ["Unavailable", "unknown"], /gave no answer: no error at all$/)
  })

  it("was not applied if the client was about to connect, and names the operation", () => {
    const error = failure(errorOf("SocketClosedUnexpectedlyError"), "connect")
    assert.deepInclude(error, { operation: "connect", outcome: "not-applied" })
    assert.deepInclude(failure(errorOf("SocketClosedUnexpectedlyError"), "get"), {
      operation: "get",
      outcome: "unknown"
    })
  })
})

describe("what an error of a client says", () => {
  it("is its message, its code or its name, or that of the first error within it", () => {
    assert.strictEqual(messageOf(errorOf("Error", "why", { code: "E_CODE" })), "why")
    assert.strictEqual(messageOf(errorOf("Error", "", { code: "E_CODE" })), "E_CODE")
    assert.strictEqual(messageOf(errorOf("Error", "", { name: "OfName" })), "OfName")
    assert.strictEqual(messageOf(errorOf("Error", "outer", { originalError: new Error("inner") })), "inner")
    assert.strictEqual(messageOf(new AggregateError([new Error("first"), new Error("second")], "all")), "first")
    assert.strictEqual(messageOf(new AggregateError([], "none")), "none")
  })

  it("has no arguments of a command, within it neither, and keeps its class and stack", () => {
    const repeated = "ERR unknown command 'X', with args beginning with: 'hush'\n'hush'"
    const inner = new Error(repeated)
    const socketError = new Error(repeated)
    const error = errorOf("SomeError", repeated, { originalError: inner, socketError })
    const ofClass = error.constructor
    assert.strictEqual(hideArguments(error), error)
    assert.strictEqual(error.constructor, ofClass)
    for (const { message, stack } of [error, inner, socketError]) {
      assert.strictEqual(message, "ERR unknown command 'X'")
      assert.match(stack ?? "", /^Error: ERR unknown command 'X'\n {4}at .*Redis\.failures\.test\.ts/)
      assert.notInclude(stack, "hush")
    }
    const fine = new Error("fine")
    const { stack } = fine
    assert.deepInclude(hideArguments(fine), { message: "fine", stack })
    assert.strictEqual(hideArguments("no error"), "no error")
    assert.isUndefined(hideArguments(undefined))
  })
})

describe("the layout in Redis", () => {
  it("has one hash tag for all keys of an owner, whatever braces and percents are in its name", () => {
    assert.deepStrictEqual(keysOf("app", "alice"), {
      record: "app:{alice}:record:",
      index: "app:{alice}:index",
      expiry: "app:{alice}:expiry",
      commit: "app:{alice}:commit:"
    })
    assert.strictEqual(keysOf("app", "{%}{").index, "app:{%7B%25%7D%7B}:index")
  })

  it("matches a prefix as it is, whatever the pattern language has in it", () => {
    assert.strictEqual(expiryPattern("app"), "app:{*}:expiry")
    assert.strictEqual(expiryPattern("a\\*?[]^-b"), "a\\\\\\*\\?\\[\\]\\^\\-b:{*}:expiry")
  })

  it.effect("reads a hash, and tells one that is damaged by its id, its owner and its field", () =>
    Effect.gen(function* () {
      const read = (...values: ReadonlyArray<string>) => parse("alice", "a", values)
      const whole = yield* read(String(maxVersion), "data", "w", "-5")
      assert.deepStrictEqual(whole, { version: maxVersion, data: "data", writeId: "w", expiresAtSeconds: -5 })
      const bare = { version: 10, data: "", writeId: undefined, expiresAtSeconds: undefined }
      assert.deepStrictEqual(yield* read("10"), bare)
      assert.deepStrictEqual(yield* read("10", "", "", ""), bare)
      assert.strictEqual((yield* read("1", "", "", "42")).expiresAtSeconds, 42)
      for (const version of [undefined, "", "0", "-1", "1.5", "x1", "1x", "1e3", "1 ", "01", String(maxVersion + 1)]) {
        const error = yield* Effect.flip(version === undefined ? read() : read(version, "hush"))
        assert.deepStrictEqual([error.reason._tag, error.outcome], ["Corrupt", "not-applied"])
        assert.include(error.message, "The hash of the record a of alice is damaged: its field version is not")
        assert.notInclude(error.message, "hush")
      }
      for (const expiresAt of ["x", "x1", "1x", "1.5", "-", "--1"]) {
        const error = yield* Effect.flip(read("1", "data", "w", expiresAt))
        assert.include(error.message, "its field expires_at is not an epoch second")
      }
    })
  )
})
