import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Layer, Schema } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
import * as InMemory from "../src/engine/InMemory.ts"
import * as Lease from "../src/Lease.ts"
import * as StorageBackend from "../src/StorageBackend.ts"
import * as StorageError from "../src/StorageError.ts"
import * as StorageKey from "../src/StorageKey.ts"
import * as TaskError from "../src/task/TaskError.ts"

/** Stands in every record of these tests, and must be in no answer. */
const secret = "hush-4711"

const key = StorageKey.makeUnsafe({ owner: "alice", id: "42" })

const reason = { description: "the disk is gone", isRetryable: false, cause: new Error("no answer") }

const reasons = [
  new StorageError.Throttled(reason),
  new StorageError.Unavailable(reason),
  new StorageError.Timeout(reason),
  new StorageError.Unauthorized(reason),
  new StorageError.Misconfigured(reason),
  new StorageError.Corrupt(reason),
  new StorageError.Unsupported(reason),
  new StorageError.Unknown(reason)
]

const current = { key, data: secret, version: 2, writeId: "w", expiresAt: undefined }

/** An error of each class, and its status. */
const errors: ReadonlyArray<readonly [Error, number]> = [
  [new StorageError.RecordNotFound({ key }), 404],
  [new StorageError.AlreadyExists({ key }), 409],
  [new StorageError.VersionConflict({ key, expected: 1, actual: 2, current }), 412],
  [new StorageError.CapacityExceeded({ key, resource: "RecordBytes", limit: 1, actual: 2 }), 413],
  [new StorageError.InvalidData({ key, description: "has a lone surrogate" }), 400],
  [new StorageError.InvalidCursor(), 400],
  [new StorageError.InvalidCommit({ problem: "TooManySteps", description: "it has 101 steps" }), 400],
  [new StorageKey.InvalidKey({ part: "owner", problem: "Empty" }), 400],
  [new Lease.LeaseTaken({ key, holder: "alpha" }), 409],
  [new Lease.LeaseLost({ key, token: 1, reason: "Taken" }), 503],
  ...reasons.flatMap(
    (reason): ReadonlyArray<readonly [Error, number]> => [
      [reason, 503],
      [new StorageError.Backend({ operation: "put", outcome: "unknown", reason }), 503]
    ]
  ),
  [new TaskError.TaskNotFound({ taskId: "1" }), 404],
  [new TaskError.TaskExpired({ taskId: "1", expiredAt: DateTime.makeUnsafe(0) }), 409],
  [new TaskError.InvalidTransition({ taskId: "1", from: "completed", to: "working" }), 409],
  [new TaskError.TaskNotReady({ taskId: "1", status: "working" }), 409],
  [new TaskError.TooManyTasks({ limit: 1 }), 409],
  [new TaskError.TaskAlreadyExists({ taskId: "1" }), 409],
  [new TaskError.TtlTooLong({ ttl: 2, limit: 1 }), 400],
  [new TaskError.VariablesTooLarge({ taskId: "1", limit: 1, actual: 2 }), 413],
  [new TaskError.InvalidVariables({ taskId: "1", path: ["a"], problem: "TooDeep" }), 400],
  [new TaskError.InvalidPayload({ taskId: "1", part: "result", path: [], problem: "NotJson" }), 400],
  [new TaskError.PayloadTooLarge({ taskId: "1", part: "result", limit: 1, actual: 2 }), 413],
  [new TaskError.InputKeyReused({ taskId: "1", key: "name" }), 409],
  [new TaskError.AnonymousOwner(), 400],
  [new TaskError.ConcurrentModification({ taskId: "1" }), 409]
]

const classOf = (error: Error) => error.constructor as unknown as Schema.Codec<Error, unknown>

const classes = [...new Set(errors.map(([error]) => classOf(error)))]

/** The answer of an endpoint, to which all the errors are known, when it fails with this one. */
const answerWith = Effect.fnUntraced(function* (error: Error) {
  const api = HttpApi.make("api").add(
    HttpApiGroup.make("group").add(HttpApiEndpoint.get("fail", "/", { error: classes }))
  )
  const handlers = HttpApiBuilder.group(api, "group", (handlers) => handlers.handle("fail", () => Effect.fail(error)))
  const { dispose, handler } = HttpRouter.toWebHandler(
    HttpApiBuilder.layer(api).pipe(Layer.provide(handlers), Layer.provide(HttpServer.layerServices)),
    { disableLogger: true }
  )
  return yield* Effect.promise(async () => {
    const response = await handler(new Request("http://localhost/"))
    const text = await response.text()
    await dispose()
    return { status: response.status, text }
  })
})

describe("as an answer of Effect's HttpApi", () => {
  it("every error has a status", () => {
    const exported: Array<unknown> = Object.values({
      ...StorageError,
      ...Lease,
      ...TaskError,
      InvalidKey: StorageKey.InvalidKey
    })
    assert.sameMembers(exported.filter(Schema.isSchema), classes)
  })

  for (const [error, status] of errors) {
    const name = error instanceof StorageError.Backend ? `${error.name} (${error.reason.name})` : error.name
    it.effect(`${name} is ${status}, without record data or a stack, and comes back as the same error`, () =>
      Effect.gen(function* () {
        const answer = yield* answerWith(error)
        assert.strictEqual(answer.status, status)
        assert.notInclude(answer.text, secret)
        assert.notInclude(answer.text, import.meta.filename)
        const decoded = Schema.decodeUnknownSync(Schema.toCodecJson(classOf(error)))(JSON.parse(answer.text))
        assert.strictEqual(decoded.constructor, error.constructor)
        assert.strictEqual(decoded.message, error.message)
      })
    )
  }

  it.effect("a conflict that an engine found is 412, without the record that it carries", () =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend.StorageBackend
      yield* backend.put(key, secret)
      const conflict = yield* Effect.flip(backend.putIfVersion(key, "two", 7))
      assert.ok(conflict._tag === "VersionConflict" && conflict.current?.data === secret)
      const answer = yield* answerWith(conflict)
      assert.strictEqual(answer.status, 412)
      assert.notInclude(answer.text, secret)
    }).pipe(Effect.provide(InMemory.layer))
  )
})
