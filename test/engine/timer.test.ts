import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber, References, Tracer } from "effect"
import { Redis, RedisError } from "effect/persistence/Redis"
import { makeSend } from "../../src/engine/internal/dynamodb/send.ts"
import { makeCommands, makeRun, makeTimeout } from "../../src/engine/internal/redis/send.ts"
import { registerTimed } from "../../src/engine/internal/redis/timed.ts"
import * as Telemetry from "../../src/engine/internal/telemetry.ts"
import { makeBackend } from "../../src/StorageError.ts"

/** How many timers keep the process alive. */
const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length

describe("A request with one timer", () => {
  it.live("to DynamoDB that is never answered times out, and is aborted", () =>
    Effect.gen(function* () {
      const send = makeSend({ tableName: "records", requestTimeout: "1 millis" })
      let signal: AbortSignal | undefined
      const never = send("UpdateItem", ({ abortSignal }) => {
        signal = abortSignal
        return new Promise<object>(() => {})
      })
      const error = yield* Effect.flip(never)
      assert.strictEqual(error.reason._tag, "Timeout")
      assert.strictEqual(error.outcome, "unknown")
      assert.isTrue(signal?.aborted)
    })
  )

  it.live("to DynamoDB leaves no timer once it is answered, refused or interrupted", () =>
    Effect.gen(function* () {
      const send = makeSend({ tableName: "records", requestTimeout: "1 hour" })
      const before = timers()
      yield* send("GetItem", () => Promise.resolve({}))
      yield* Effect.flip(send("GetItem", () => Promise.reject(new Error("refused"))))
      let signal: AbortSignal | undefined
      const fiber = yield* Effect.forkChild(
        send("GetItem", ({ abortSignal }) => {
          signal = abortSignal
          return new Promise<object>(() => {})
        }),
        { startImmediately: true }
      )
      assert.strictEqual(timers(), before + 1)
      yield* Fiber.interrupt(fiber)
      assert.isTrue(signal?.aborted)
      assert.strictEqual(timers(), before)
    })
  )

  it.live("to Redis is interrupted if it is never answered, and leaves no timer once it has ended", () =>
    Effect.gen(function* () {
      const before = timers()
      let interrupted = 0
      const never = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++))
      const error = yield* Effect.flip(makeRun(makeTimeout("1 millis"))(never))
      assert.deepStrictEqual([error.reason._tag, error.outcome, interrupted], ["Timeout", "unknown", 1])
      const run = makeRun(makeTimeout("1 hour"))
      assert.strictEqual(yield* run(Effect.as(Effect.yieldNow, "reply")), "reply")
      const refused = new RedisError({ cause: new Error("OOM no memory") })
      assert.strictEqual((yield* Effect.flip(run(Effect.fail(refused)))).reason._tag, "Unavailable")
      const fiber = yield* Effect.forkChild(run(never), { startImmediately: true })
      const exit = yield* Effect.andThen(Fiber.interrupt(fiber), Fiber.await(fiber))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      assert.deepStrictEqual([interrupted, timers()], [2, before])
    })
  )

  it.live("that may wait for more than 24 days is not timed out at once", () =>
    Effect.gen(function* () {
      const run = makeRun(makeTimeout("30 days"))
      assert.strictEqual(yield* run(Effect.as(Effect.sleep("5 millis"), "reply")), "reply")
    })
  )
})

describe("A command to Redis", () => {
  const serviceOf = (answer: string) => {
    const reply = (() => Effect.succeed(answer)) as () => Effect.Effect<never>
    return Redis.of({ send: reply, eval: () => reply, subscribe: () => Effect.never, reserve: Effect.never })
  }
  const timed = () => ({ send: () => timeOut, eval: () => () => timeOut })
  const timeOut = makeTimeout("1 hour").failure

  it.effect("is given up by the service itself, if the service can do that", () =>
    Effect.gen(function* () {
      const redis = registerTimed(serviceOf("answer"), timed)
      const error = yield* Effect.flip(makeCommands(redis, "1 hour").send("GET", "a"))
      assert.deepStrictEqual([error.reason._tag, error.outcome], ["Timeout", "unknown"])
    })
  )

  it.effect("goes through the send of a service that is a copy with a send of its own", () =>
    Effect.gen(function* () {
      const redis = registerTimed(serviceOf("answer"), timed)
      const copy = Redis.of({ ...redis, send: serviceOf("answer of the copy").send })
      assert.strictEqual(yield* makeCommands(copy, "1 hour").send("GET", "a"), "answer of the copy")
    })
  )
})

describe("The span of an operation", () => {
  it.effect("is the parent of the client's spans, has all attributes, and ends with the exit", () =>
    Effect.gen(function* () {
      const spans: Array<Tracer.NativeSpan> = []
      const tracer = Tracer.make({
        span: (options) => {
          const span = new Tracer.NativeSpan(options)
          spans.push(span)
          return span
        }
      })
      const { operation } = Telemetry.make({ system: "redis", collection: "evs" })
      const error = makeBackend({ operation: "get", reason: "Timeout", outcome: "unknown", description: "late" })
      const client = Effect.withSpan(Effect.fail(error), "client")
      yield* Effect.flip(operation("get", client)).pipe(Effect.withTracer(tracer))
      const [span, child] = spans
      assert.deepStrictEqual(Object.fromEntries(span?.attributes ?? []), {
        "db.system.name": "redis",
        "db.collection.name": "evs",
        "db.operation.name": "get",
        "effect_versioned_store.conflict": false
      })
      assert.deepStrictEqual([span?.name, span?.kind], ["get evs", "client"])
      assert.strictEqual(child?.parent._tag === "Some" ? child.parent.value : undefined, span)
      assert.isTrue(span?.status._tag === "Ended" && Exit.isFailure(span.status.exit))
    })
  )

  it.effect("has the links and the annotations of its surroundings", () =>
    Effect.gen(function* () {
      const linked = yield* Effect.makeSpan("linked")
      const { operation } = Telemetry.make({ system: "redis", collection: "evs" })
      const span = yield* operation("get", Effect.currentSpan).pipe(
        Effect.linkSpans(linked),
        Effect.annotateSpans("shop", "north")
      )
      assert.deepStrictEqual(
        span.links.map(({ span }) => span),
        [linked]
      )
      assert.strictEqual(span.attributes.get("shop"), "north")
    })
  )

  it.effect("captures no stack, and leaves that of its surroundings", () =>
    Effect.gen(function* () {
      const { operation } = Telemetry.make({ system: "redis", collection: "evs" })
      const frame = Effect.service(References.CurrentStackFrame)
      assert.isUndefined(yield* operation("get", frame))
      const inCaller = operation("get", frame).pipe(Effect.withSpan("caller"))
      assert.strictEqual((yield* inCaller)?.name, "caller")
      // A span that captures its stack has a frame of its own.
      assert.strictEqual((yield* frame.pipe(Effect.withSpan("own"), Effect.withSpan("caller")))?.name, "own")
    })
  )
})
