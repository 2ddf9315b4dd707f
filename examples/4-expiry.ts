/** Sessions that expire, and a test of them that waits for no real clock. */
import * as assert from "node:assert"
import { Console, Context, Effect, Layer, Option, Schema } from "effect"
import { TestClock } from "effect/testing"
import { InMemory, VersionedStore } from "effect-versioned-store"

class Sessions extends Context.Service<Sessions>()("Sessions", {
  make: VersionedStore.make({ idPrefix: "session/", schema: Schema.Struct({ user: Schema.String }) })
}) {
  static readonly layer = Layer.effect(this, this.make)
}

const logIn = (owner: string, id: string) =>
  Sessions.use((sessions) => sessions.create({ owner, id }, { user: owner }, { ttl: "30 minutes" }))

/** Who is logged in, if anybody is. Each request makes the session live for another 30 minutes. */
const whoIs = (owner: string, id: string) =>
  Sessions.use((sessions) =>
    sessions.touch({ owner, id }, "30 minutes").pipe(
      Effect.andThen(sessions.getOption({ owner, id })),
      Effect.catchTag("RecordNotFound", () => Effect.succeed(Option.none()))
    )
  )

const test = Effect.gen(function* () {
  yield* logIn("alice", "s1")
  yield* TestClock.adjust("29 minutes")
  assert.ok(Option.isSome(yield* whoIs("alice", "s1")))
  yield* TestClock.adjust("29 minutes")
  assert.ok(Option.isSome(yield* whoIs("alice", "s1")))
  yield* TestClock.adjust("30 minutes")
  assert.ok(Option.isNone(yield* whoIs("alice", "s1")))
  yield* Console.log("a session that is used lives on, and one that is not expires")
})

const TestLayer = Sessions.layer.pipe(Layer.provide(InMemory.layer), Layer.provideMerge(TestClock.layer()))
await Effect.runPromise(test.pipe(Effect.provide(TestLayer)))
