import { assert, describe, it } from "@effect/vitest"
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
