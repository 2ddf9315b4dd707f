/** Promise 12: who watches a record sees its last change. */
import type * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import { StorageBackend } from "../../StorageBackend.ts"
import type { StorageKey } from "../../StorageKey.ts"
import type { StoragePrefix } from "../../StoragePrefix.ts"
import * as VersionedStore from "../../VersionedStore.ts"
import * as assert from "../internal/assert.ts"
import { type Draft, example } from "../internal/drafts.ts"
import { inSeconds, keyOf, newOwner, PatienceMillis, prefixOf } from "../internal/support.ts"

type Backend = StorageBackend["Service"]

const storeOn = (backend: Backend) =>
  Effect.provideService(VersionedStore.make({ idPrefix: "n/", schema: Schema.Int }), StorageBackend, backend)

type Store = Effect.Success<ReturnType<typeof storeOn>>

const soon = <A, E, R>(effect: Effect.Effect<A, E, R>, what: string) =>
  Effect.flatMap(PatienceMillis, (duration) =>
    Effect.timeoutOrElse(effect, { duration, orElse: () => Effect.die(new Error(`${what} did not come`)) })
  )

/** With this schedule, only hints make a watch read again. */
const onHintsAlone = { schedule: Schedule.spaced("1 hour") }

/** With this schedule, a watch sees what no hint tells it. */
const often = { schedule: Schedule.spaced("10 millis") }

const collect = Effect.fnUntraced(function* <A, E>(stream: Stream.Stream<A, E>) {
  const queue = yield* Queue.unbounded<A, E | Cause.Done>()
  const fiber = yield* Effect.forkScoped(Stream.runIntoQueue(stream, queue), { startImmediately: true })
  return { next: (what: string) => soon(Queue.take(queue), what), size: Queue.size(queue), fiber }
})

/** The values that a watch emits, -1 for none. */
const valuesOf = (store: Store, key: VersionedStore.Key, options: VersionedStore.WatchOptions) =>
  store.watch(key, options).pipe(Stream.map(Option.match({ onNone: () => -1, onSome: ({ value }) => value })))

/** Expects a hint after each of several changes of a record, or of records with a prefix. */
const hintsFollow = Effect.fnUntraced(function* (
  backend: Backend,
  target: StorageKey | StoragePrefix,
  changes: ReadonlyArray<Effect.Effect<unknown, unknown>>
) {
  const hints = yield* collect(backend.hints(target))
  for (const [index, change] of changes.entries()) {
    yield* change
    yield* hints.next(`the hint of change ${index}`)
  }
})

export const watches: ReadonlyArray<Draft> = [
  example(
    12,
    "a hint follows each write and removal of the same backend",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const read = backend.get(key)
      yield* hintsFollow(backend, key, [
        backend.putIfVersion(key, "1", 0),
        Effect.flatMap(read, (record) => backend.putIfVersion(key, "2", record)),
        Effect.flatMap(read, (record) => backend.deleteIfVersion(key, record)),
        backend.put(key, "3"),
        backend.delete(key)
      ])
    })
  ),

  example(
    12,
    "a hint follows each change of a record whose id starts with a prefix",
    Effect.fnUntraced(function* (backend, owner) {
      const [one, other] = [keyOf(owner, "a/1"), keyOf(owner, "a/2")]
      yield* hintsFollow(backend, prefixOf(owner, "a/"), [
        backend.put(one, "1"),
        backend.put(other, "1"),
        backend.delete(one)
      ])
    })
  ),

  example(
    12,
    "a watch emits what is there, and by hints alone the last of changes that follow each other closely",
    Effect.fnUntraced(function* (backend, owner) {
      const store = yield* storeOn(backend)
      const key = { owner, id: "a" }
      const events = yield* collect(valuesOf(store, key, onHintsAlone))
      assert.strictEqual(yield* events.next("what is there"), -1)
      for (const last of [10, 20, 30]) {
        for (let n = last - 9; n <= last; n++) yield* store.set(key, n)
        let seen: number
        do seen = yield* events.next(`the value ${last}`)
        while (seen !== last)
      }
      yield* store.remove(key)
      assert.strictEqual(yield* events.next("the removal"), -1)
    })
  ),

  example(
    12,
    "a watch reads on its schedule also if no hint comes",
    Effect.fnUntraced(function* (backend, owner) {
      const store = yield* storeOn({ ...backend, hints: () => Stream.never })
      const key = { owner, id: "a" }
      const events = yield* collect(valuesOf(store, key, often))
      assert.strictEqual(yield* events.next("what is there"), -1)
      for (const n of [1, 2]) {
        yield* store.set(key, n)
        assert.strictEqual(yield* events.next(`the value ${n}`), n)
      }
      yield* store.remove(key)
      assert.strictEqual(yield* events.next("the removal"), -1)
    })
  ),

  {
    promise: 12,
    shared: true,
    name: "a watch sees what another client of the engine changes",
    run: ({ twoBuilds }) =>
      Effect.gen(function* () {
        const [first, second] = yield* twoBuilds
        const owner = yield* newOwner
        const key = { owner, id: "a" }
        const [watched, other] = [yield* storeOn(first), yield* storeOn(second)]
        const events = yield* collect(valuesOf(watched, key, often))
        assert.strictEqual(yield* events.next("what is there"), -1)
        for (const n of [1, 2]) {
          yield* other.set(key, n)
          assert.strictEqual(yield* events.next(`the value ${n}`), n)
        }
        yield* other.remove(key)
        assert.strictEqual(yield* events.next("the removal"), -1)
      })
  },

  example(
    12,
    "a watch emits the expiry of a record",
    Effect.fnUntraced(function* (backend, owner) {
      const store = yield* storeOn(backend)
      const key = { owner, id: "a" }
      yield* store.create(key, 1, { expiresAt: yield* inSeconds(20) })
      const events = yield* collect(valuesOf(store, key, often))
      assert.strictEqual(yield* events.next("what is there"), 1)
      yield* TestClock.adjust("21 seconds")
      assert.strictEqual(yield* events.next("the expiry"), -1)
    })
  ),

  example(
    12,
    "a slow watcher gets the newest state, and none of those before it",
    Effect.fnUntraced(function* (backend, owner) {
      const store = yield* storeOn(backend)
      const key = { owner, id: "a" }
      yield* store.create(key, 0)
      const [started, gate] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
      const slow = Stream.tap(valuesOf(store, key, onHintsAlone), (value) =>
        value === 0 ? Effect.andThen(Deferred.succeed(started, undefined), Deferred.await(gate)) : Effect.void
      )
      const events = yield* collect(slow)
      yield* soon(Deferred.await(started), "what is there")
      for (let n = 1; n <= 20; n++) yield* store.set(key, n)
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual(yield* events.next("the value 0"), 0)
      assert.strictEqual(yield* events.next("the newest value"), 20)
    })
  ),

  example(
    12,
    "each of many watchers of a record sees its change, and watchers of other records do not",
    Effect.fnUntraced(function* (backend, owner) {
      const store = yield* storeOn(backend)
      const [key, other] = [
        { owner, id: "a" },
        { owner, id: "b" }
      ]
      const watch = (key: VersionedStore.Key) => collect(valuesOf(store, key, onHintsAlone))
      const watching = yield* Effect.forEach(Array.from({ length: 20 }), () => watch(key))
      const others = [yield* watch(other), yield* watch({ owner: `${owner}x`, id: "a" })]
      for (const { next } of [...watching, ...others]) assert.strictEqual(yield* next("what is there"), -1)
      yield* store.set(key, 1)
      for (const { next } of watching) assert.strictEqual(yield* next("the change"), 1)
      yield* store.set(other, 2)
      for (const { next } of others.slice(0, 1)) assert.strictEqual(yield* next("the change of another record"), 2)
      for (const { size } of [...watching, ...others]) assert.strictEqual(yield* size, 0)
    })
  ),

  example(
    12,
    "a watch that is interrupted ends, and later ones see what changes then",
    Effect.fnUntraced(function* (backend, owner) {
      const store = yield* storeOn(backend)
      const key = { owner, id: "a" }
      for (const n of [1, 2, 3]) {
        const watching = yield* Effect.forEach([1, 2, 3], () => collect(valuesOf(store, key, onHintsAlone)))
        for (const { next } of watching) assert.strictEqual(yield* next("what is there"), n === 1 ? -1 : n - 1)
        yield* store.set(key, n)
        for (const { next } of watching) assert.strictEqual(yield* next("the change"), n)
        for (const { fiber } of watching) yield* soon(Fiber.interrupt(fiber), "the end of a watch")
      }
    })
  )
]

export const watchedCommits: ReadonlyArray<Draft> = [
  example(
    12,
    "a hint follows each commit of the same backend, for each record that it writes or removes",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["a", "b"]
      yield* Effect.forEach(ids, (id) =>
        hintsFollow(backend, keyOf(owner, id), [
          backend.commit(
            owner,
            ids.map((id) => ({ _tag: "Write", id, expected: 0, data: "1" }))
          ),
          backend.commit(
            owner,
            ids.map((id) => ({ _tag: "Remove", id, expected: 1 }))
          )
        ])
      )
    })
  )
]
