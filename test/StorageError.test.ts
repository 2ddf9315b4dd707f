import { inspect, types } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Equal, Hash, Schema } from "effect"
import { withoutStack } from "../src/internal/withoutStack.ts"
import * as StorageError from "../src/StorageError.ts"
import { makeUnsafe } from "../src/StorageKey.ts"

const key = makeUnsafe({ owner: "alice", id: "42" })

describe("the message of", () => {
  it("an error of a key names the key", () => {
    for (const error of [
      new StorageError.RecordNotFound({ key }),
      new StorageError.AlreadyExists({ key }),
      new StorageError.InvalidData({ key, description: "has a lone surrogate" })
    ]) {
      assert.include(error.message, "alice:42")
    }
  })

  it("a conflict names what was expected and what was found", () => {
    const messageOf = (expected: number, actual: number) =>
      new StorageError.VersionConflict({ key, expected, actual, current: undefined }).message
    assert.strictEqual(messageOf(7, 1), "Expected version 7 at alice:42, found version 1")
    assert.strictEqual(messageOf(0, 1), "Expected no record at alice:42, found version 1")
    assert.strictEqual(messageOf(7, 7), "Expected version 7 at alice:42, found another record of version 7")
  })

  it("an exceeded capacity names the limit and, if it is known, what it would have come to", () => {
    const resources = ["RecordBytes", "ItemBytes", "StoreRecords", "StoreBytes"] as const
    const messages = resources.map(
      (resource) => new StorageError.CapacityExceeded({ key, resource, limit: 1024, actual: 2048 }).message
    )
    for (const message of messages) for (const part of ["alice:42", "1024", "2048"]) assert.include(message, part)
    assert.strictEqual(new Set(messages).size, resources.length)
    const limit = Number.MAX_SAFE_INTEGER
    const versions = new StorageError.CapacityExceeded({ key, resource: "Versions", limit, actual: limit + 1 })
    assert.include(versions.message, String(limit))
  })

  it("an invalid cursor says what to do", () => {
    assert.include(new StorageError.InvalidCursor().message, "list again from the start")
  })
})

describe("StorageError.backend", () => {
  const reasons = [
    "Throttled",
    "Unavailable",
    "Timeout",
    "Unauthorized",
    "Misconfigured",
    "Corrupt",
    "Unknown"
  ] as const
  const transient = ["Throttled", "Unavailable", "Timeout"]

  it("may be called again only if the fault passes and nothing was applied", () => {
    for (const reason of reasons) {
      for (const outcome of ["not-applied", "unknown"] as const) {
        const error = StorageError.makeBackend({ reason, outcome, description: "the disk is gone" })
        assert.strictEqual(error.reason._tag, reason)
        assert.strictEqual(error.reason.message, "the disk is gone")
        assert.strictEqual(error.isRetryable, transient.includes(reason) && outcome === "not-applied")
        assert.strictEqual(error.reason.isRetryable, error.isRetryable)
      }
    }
  })

  it("says to read the record only if the outcome is unknown", () => {
    const messageOf = (outcome: StorageError.Backend["outcome"], operation?: string) =>
      StorageError.makeBackend({ reason: "Timeout", outcome, operation, description: "no answer" }).message
    assert.strictEqual(messageOf("not-applied", "put"), "put failed: no answer")
    assert.strictEqual(messageOf("not-applied"), "storage failed: no answer")
    assert.match(messageOf("unknown", "put"), /^put failed: no answer\. .*read the record/)
  })
})

describe("an ordinary outcome, made without Schema's constructor", () => {
  const current = { key, data: "hush-4711", version: 2, writeId: "w", expiresAt: undefined }
  const conflict = { key, expected: 1, actual: 2, current }
  type Outcome = StorageError.RecordNotFound | StorageError.AlreadyExists | StorageError.VersionConflict
  const outcomes: ReadonlyArray<readonly [Outcome, Outcome]> = [
    [StorageError.recordNotFound(key), withoutStack(() => new StorageError.RecordNotFound({ key }))],
    [StorageError.alreadyExists(key), withoutStack(() => new StorageError.AlreadyExists({ key }))],
    [StorageError.versionConflict(key, 1, 2, current), withoutStack(() => new StorageError.VersionConflict(conflict))]
  ]

  it("is the same error to every reader", () => {
    for (const [made, constructed] of outcomes) {
      const views: ReadonlyArray<(error: Error) => unknown> = [
        Object.getPrototypeOf,
        Object.getOwnPropertyNames,
        Object.entries,
        (error) => [error.name, error.message, error.stack, error.cause, String(error)],
        (error) => JSON.stringify(error),
        (error) => inspect(error),
        (error) => Cause.pretty(Cause.fail(error)),
        (error) => types.isNativeError(error)
      ]
      for (const view of views) assert.deepStrictEqual(view(made), view(constructed))
      assert.isTrue(types.isNativeError(made))
      assert.isUndefined(made.stack)
    }
  })

  it("equals the constructed error, and has its hash", () => {
    for (const [made, constructed] of outcomes) {
      assert.isTrue(Equal.equals(made, constructed) && Equal.equals(constructed, made))
      assert.strictEqual(Hash.hash(made), Hash.hash(constructed))
    }
    assert.isFalse(Equal.equals(outcomes[0]?.[0], StorageError.recordNotFound(makeUnsafe({ owner: "bob", id: "42" }))))
  })

  it("has the encoding of the class, and is decoded from it", () => {
    for (const [made, constructed] of outcomes) {
      const codec = Schema.toCodecJson(made.constructor as unknown as Schema.Codec<Error>)
      const encoded = Schema.encodeSync(codec)(made)
      assert.deepStrictEqual(encoded, Schema.encodeSync(codec)(constructed))
      const decoded = Schema.decodeUnknownSync(codec)(encoded)
      assert.strictEqual(decoded.constructor, made.constructor)
      assert.strictEqual(decoded.message, made.message)
    }
  })

  it.effect("fails when it is yielded", () =>
    Effect.gen(function* () {
      for (const [made] of outcomes) assert.strictEqual(yield* Effect.flip<never, Outcome, never>(made), made)
    })
  )

  it("carries the current record where no reader but the program finds it", () => {
    const made = StorageError.versionConflict(key, 1, 2, current)
    assert.strictEqual(made.current, current)
    assert.strictEqual(new StorageError.VersionConflict(conflict).current, current)
    assert.isUndefined(new StorageError.VersionConflict({ key, expected: 1, actual: 2 }).current)
    for (const text of [inspect(made, { showHidden: true, depth: null }), JSON.stringify(made), String(made.stack)]) {
      assert.notInclude(text, current.data)
    }
  })
})
