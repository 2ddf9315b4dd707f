import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Equal, Result, Schema } from "effect"
import * as StorageKey from "../src/StorageKey.ts"
import * as StoragePrefix from "../src/StoragePrefix.ts"

const text = Arbitrary.array(Arbitrary.schema(Schema.Literals(["a", "%", ":", "%3A", "%25", "é", "\u{1f600}"])), {
  minLength: 1,
  maxLength: 6
}).pipe(Arbitrary.map((parts) => parts.join("")))

const problem = (result: Result.Result<unknown, StorageKey.InvalidKey>) =>
  Result.isFailure(result) ? `${result.failure.part} ${result.failure.problem}` : "valid"

describe("StorageKey", () => {
  it("takes owners of 1 to 1,024 and ids of 1 to 512 bytes of UTF-8", () => {
    for (const [owner, id, expected] of [
      ["a".repeat(1024), "a".repeat(512), "valid"],
      ["é".repeat(512), "\u{1f600}".repeat(128), "valid"],
      ["", "a", "owner Empty"],
      ["a", "", "id Empty"],
      ["a".repeat(1025), "a", "owner TooLong"],
      ["a", "a".repeat(513), "id TooLong"],
      [`${"é".repeat(512)}a`, "a", "owner TooLong"],
      ["a", `${"\u{1f600}".repeat(128)}a`, "id TooLong"],
      ["\ud83d", "a", "owner LoneSurrogate"],
      ["a", "\ude00\ud83d", "id LoneSurrogate"],
      ["a\0", "a", "owner NullCharacter"],
      ["a", "\0", "id NullCharacter"]
    ] as const) {
      assert.strictEqual(problem(StorageKey.make({ owner, id })), expected)
    }
  })

  it("says what is wrong in words, without the key itself", () => {
    const result = StorageKey.make({ owner: "secret".repeat(200), id: "a" })
    assert.strictEqual(
      Result.isFailure(result) && result.failure.message,
      "Invalid key: the owner takes 1200 bytes of UTF-8, and at most 1024 are allowed"
    )
  })

  it("refuses what is no string, as a caller without types may give it", () => {
    const parts: { owner: string; id: string } = JSON.parse('{ "owner": "a", "id": 42 }')
    assert.strictEqual(problem(StorageKey.make(parts)), "id NotAString")
    assert.strictEqual(problem(StorageKey.make(JSON.parse('{ "id": "a" }'))), "owner NotAString")
  })

  it("is equal to another key of the same owner and id", () => {
    const key = StorageKey.makeUnsafe({ owner: "a", id: "b" })
    assert.isTrue(Equal.equals(key, StorageKey.makeUnsafe({ owner: "a", id: "b" })))
    assert.isFalse(Equal.equals(key, StorageKey.makeUnsafe({ owner: "b", id: "a" })))
  })

  it("throws the InvalidKey from makeUnsafe", () => {
    assert.throws(() => StorageKey.makeUnsafe({ owner: "", id: "a" }), /the owner is empty/)
  })

  it.prop("comes back from its text form", [text, text], ([owner, id]) => {
    const key = StorageKey.makeUnsafe({ owner, id })
    assert.deepStrictEqual(Result.getOrThrow(StorageKey.fromString(StorageKey.format(key))), key)
  })

  it.prop("has a text form that no other key has", [text, text, text, text], ([owner1, id1, owner2, id2]) => {
    const [one, two] = [
      StorageKey.makeUnsafe({ owner: owner1, id: id1 }),
      StorageKey.makeUnsafe({ owner: owner2, id: id2 })
    ]
    assert.strictEqual(StorageKey.format(one) === StorageKey.format(two), one.owner === two.owner && one.id === two.id)
  })

  it("does not take text that no key formats to", () => {
    for (const [text, expected] of [
      ["", "text NoSeparator"],
      ["alice", "text NoSeparator"],
      [":42", "owner Empty"],
      ["alice:", "id Empty"],
      ["a%2fb:42", "text BadEscape"],
      ["a%3ab:42", "text BadEscape"],
      ["50%:42", "text BadEscape"]
    ] as const) {
      assert.strictEqual(problem(StorageKey.fromString(text)), expected)
    }
  })

  it.effect("has a Schema that checks what it decodes", () =>
    Effect.gen(function* () {
      const key = yield* Schema.decodeUnknownEffect(StorageKey.StorageKey)({ owner: "a", id: "b" })
      assert.isTrue(StorageKey.isStorageKey(key))
      assert.deepStrictEqual(yield* Schema.encodeEffect(StorageKey.StorageKey)(key), { owner: "a", id: "b" })
      const error = yield* Effect.flip(Schema.decodeUnknownEffect(StorageKey.StorageKey)({ owner: "", id: "b" }))
      assert.include(error.message, "the owner is empty")
    })
  )
})

describe("StoragePrefix", () => {
  it("may have an empty id prefix, and no empty owner", () => {
    assert.strictEqual(problem(StoragePrefix.make({ owner: "a", idPrefix: "" })), "valid")
    assert.strictEqual(problem(StoragePrefix.make({ owner: "", idPrefix: "" })), "owner Empty")
    assert.strictEqual(problem(StoragePrefix.make({ owner: "a", idPrefix: "a".repeat(513) })), "idPrefix TooLong")
    assert.strictEqual(problem(StoragePrefix.make({ owner: "a", idPrefix: "\ud800" })), "idPrefix LoneSurrogate")
  })

  it.prop("comes back from its text form", [text, text], ([owner, idPrefix]) => {
    for (const prefix of [
      { owner, idPrefix: "" },
      { owner, idPrefix }
    ].map(StoragePrefix.makeUnsafe)) {
      assert.deepStrictEqual(Result.getOrThrow(StoragePrefix.fromString(StoragePrefix.format(prefix))), prefix)
    }
  })

  it("has a Schema that checks what it decodes", () => {
    const decode = Schema.decodeUnknownSync(StoragePrefix.StoragePrefix)
    assert.isTrue(StoragePrefix.isStoragePrefix(decode({ owner: "a", idPrefix: "" })))
    assert.throws(() => decode({ owner: "a", idPrefix: "\0" }), /null character/)
  })
})

describe("the text and the Schema of a prefix", () => {
  const prefix = StoragePrefix.makeUnsafe({ owner: "50%", idPrefix: "order/" })

  it("prints as its text form, also within a template", () => {
    assert.strictEqual(`${prefix}`, "50%25:order/")
    assert.strictEqual(`${StorageKey.makeUnsafe({ owner: "50%", id: "order/1" })}`, "50%25:order/1")
  })

  it("is encoded as its owner and its id prefix", () => {
    assert.deepStrictEqual(Schema.encodeSync(StoragePrefix.StoragePrefix)(prefix), { owner: "50%", idPrefix: "order/" })
  })

  it("carries its type's id as a value that programs can compare", () => {
    const key = StorageKey.makeUnsafe({ owner: "a", id: "b" })
    assert.strictEqual(key["~effect-versioned-store/StorageKey"], "~effect-versioned-store/StorageKey")
    assert.strictEqual(prefix["~effect-versioned-store/StoragePrefix"], "~effect-versioned-store/StoragePrefix")
  })
})
