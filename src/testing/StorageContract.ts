/**
 * The contract of `StorageBackend` as a test suite: every backend here passes it, and so can anyone's.
 *
 * Needs `vitest` and `@effect/vitest`. Each case uses owners of its own, so it may run against an engine that holds
 * other records. Time stands still until a case moves it by `TestClock`; sleeps are real, so that a backend's retries
 * go on.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 *
 * export const run = () => StorageContract.suite("InMemory", InMemory.layer)
 * ```
 */
import { assert, it, type Vitest } from "@effect/vitest"
import * as Arbitrary from "effect/Arbitrary"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import type { StoredRecord } from "../Engine.ts"
import * as Cursor from "../engine/internal/cursor.ts"
import { defaultMaxDataBytes, maxVersion, StorageBackend } from "../StorageBackend.ts"
import type * as StorageKey from "../StorageKey.ts"
import * as History from "./internal/history.ts"
import * as Model from "./internal/model.ts"
import {
  assertSame,
  dies,
  failsWith,
  idsOf,
  increment,
  inOrder,
  inSeconds,
  keyOf,
  listAll,
  listPages,
  newOwner,
  prefixOf,
  putAll,
  text,
  toWholeSecond,
  trickyIds,
  twoBuilds,
  view
} from "./internal/support.ts"

/** What the suite is told of a backend. */
export interface Options<R = never> {
  /** Whether separate builds of the Layer are clients of one engine. Else each is a store of its own. */
  readonly shared?: boolean | undefined
  /**
   * Puts a record into the engine as another client would: of any version, and without a write id. Without it, the
   * cases that need it are skipped.
   */
  readonly plant?:
    | ((key: StorageKey.StorageKey, record: StoredRecord) => Effect.Effect<void, unknown, R | StorageBackend>)
    | undefined
  /** How properties are checked; `replay` takes what a failure printed. */
  readonly check?: Arbitrary.CheckOptions | undefined
  /** How long one case may take, in milliseconds; 60,000 by default. */
  readonly timeout?: number | undefined
}

/**
 * One case of the contract. `run` is undefined where an option that it needs is missing, which `needs` names.
 */
export interface Case<R> {
  readonly name: string
  readonly needs?: keyof Options
  readonly run: Effect.Effect<void, unknown, R | StorageBackend | Scope.Scope> | undefined
}

/**
 * The clock of the suite: `TestClock` set to the real time, with real sleeps.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 * import { Layer } from "effect"
 *
 * export const layerTest = Layer.provideMerge(InMemory.layer, StorageContract.layerClock)
 * ```
 */
export const layerClock: Layer.Layer<never> = Layer.effect(
  Clock.Clock,
  TestClock.testClockWith(
    Effect.fnUntraced(function* (testClock) {
      const now = yield* TestClock.withLive(Clock.currentTimeMillis)
      yield* testClock.setTime(Math.ceil(now / 1000) * 1000)
      return { ...testClock, sleep: (duration) => testClock.withLive(Effect.sleep(duration)) }
    })
  )
)

/**
 * Runs the contract on a backend, as a suite of vitest.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 *
 * export const run = () => StorageContract.suite("InMemory", InMemory.layer, { check: { runs: 1000 } })
 * ```
 */
export const suite = <R>(
  name: string,
  layer: Layer.Layer<R | StorageBackend, unknown>,
  options?: Options<NoInfer<R>>
): void => suiteWith(name, layer, it, options)

/**
 * Runs the contract within another suite, whose Layers the backend's may need.
 *
 * @example
 * ```ts
 * import { layer } from "@effect/vitest"
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 * import { Layer } from "effect"
 *
 * export const run = () =>
 *   layer(Layer.empty)("my engine", (it) => StorageContract.suiteWith("InMemory", InMemory.layer, it))
 * ```
 */
export const suiteWith = <R, RIn>(
  name: string,
  layer: Layer.Layer<R | StorageBackend, unknown, RIn>,
  testApi: Vitest.MethodsNonLive<RIn>,
  options: Options<NoInfer<R>> = {}
): void => {
  const { timeout = 60_000 } = options
  testApi.layer(Layer.provideMerge(layer, layerClock), { timeout })(`StorageContract (${name})`, (it) => {
    for (const { name, needs, run } of cases(layer, options)) {
      if (run === undefined) it.effect.skip(`${name} (skipped: give the option ${needs})`, () => Effect.void)
      else it.effect(name, () => run, { timeout })
    }
  })
}

/**
 * The contract as plain Effects, for another test runner. Each needs {@link layerClock} below the backend.
 *
 * @example
 * ```ts
 * import { InMemory } from "effect-versioned-store"
 * import * as StorageContract from "effect-versioned-store/StorageContract"
 *
 * export const names = StorageContract.cases(InMemory.layer).map((contractCase) => contractCase.name)
 * ```
 */
export const cases = <R, RIn>(
  layer: Layer.Layer<R | StorageBackend, unknown, RIn>,
  { check, plant, shared = false }: Options<NoInfer<R>> = {}
): ReadonlyArray<Case<R | RIn>> => {
  type Run = Effect.Effect<void, unknown, R | RIn | StorageBackend | Scope.Scope>
  const made: Array<Case<R | RIn>> = []

  const example = (
    name: string,
    run: (backend: StorageBackend["Service"], owner: string) => Effect.Effect<unknown, unknown, StorageBackend>
  ) => {
    made.push({
      name,
      run: Effect.asVoid(
        Effect.flatMap(Effect.all([StorageBackend, newOwner]), ([backend, owner]) => run(backend, owner))
      )
    })
  }

  const property = <A>(
    name: string,
    arbitrary: Arbitrary.Arbitrary<A>,
    holds: (value: A, owner: string) => Effect.Effect<unknown, unknown, R | RIn | StorageBackend | Scope.Scope>,
    options?: Arbitrary.CheckOptions
  ) => {
    const run = Arbitrary.checkEffect(
      arbitrary,
      (value) =>
        Effect.as(
          Effect.catchCause(
            Effect.flatMap(newOwner, (owner) => holds(value, owner)),
            Effect.fail
          ),
          true
        ),
      { ...options, ...check }
    )
    made.push({
      name,
      run: Effect.flatMap(run, (result) => {
        const failure = Arbitrary.formatCheckFailure(result)
        return failure === undefined ? Effect.void : Effect.die(new Error(failure))
      })
    })
  }

  const planted = (
    name: string,
    run: (
      backend: StorageBackend["Service"],
      plant: NonNullable<Options<R>["plant"]>,
      owner: string
    ) => Effect.Effect<unknown, unknown, R | StorageBackend>
  ) => {
    const planting = (plant: NonNullable<Options<R>["plant"]>): Run =>
      Effect.asVoid(
        Effect.flatMap(Effect.all([StorageBackend, newOwner]), ([backend, owner]) => run(backend, plant, owner))
      )
    made.push({ name, needs: "plant", run: plant === undefined ? undefined : planting(plant) })
  }

  // --- versions ---------------------------------------------------------------

  example(
    "a put of a new key makes version 1, and each further write a higher one",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const first = yield* backend.put(key, "one")
      assert.strictEqual(first.version, 1)
      const second = yield* backend.put(key, "two")
      assert.isAbove(second.version, first.version)
      const third = yield* backend.putIfVersion(key, "three", second)
      assert.isAbove(third.version, second.version)
    })
  )

  example(
    "a write returns the record as a read then gives it",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const put = yield* backend.put(key, "one", { expiresAt: yield* inSeconds(60) })
      assertSame(yield* backend.get(key), put)
      const swapped = yield* backend.putIfVersion(key, "two", put)
      assertSame(yield* backend.get(key), swapped)
      assert.notStrictEqual(swapped.writeId, put.writeId)
    })
  )

  example(
    "a create makes version 1, and is a conflict where a record is",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const created = yield* backend.putIfVersion(key, "one", 0)
      assert.strictEqual(created.version, 1)
      const conflict = yield* failsWith(backend.putIfVersion(key, "two", 0), "VersionConflict")
      assert.strictEqual(conflict.expected, 0)
      assert.strictEqual(conflict.actual, 1)
      assertSame(yield* backend.get(key), created)
    })
  )

  example(
    "a deleted key may be created again",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      yield* backend.put(key, "one")
      assert.isTrue(yield* backend.delete(key))
      assert.isFalse(yield* backend.delete(key))
      yield* failsWith(backend.get(key), "RecordNotFound")
      assertSame(yield* backend.putIfVersion(key, "two", 0), yield* backend.get(key))
    })
  )

  planted(
    "no write goes past the last safe version",
    Effect.fnUntraced(function* (backend, plant, owner) {
      const key = keyOf(owner, "a")
      yield* plant(key, { data: "old", version: maxVersion - 1, writeId: undefined, expiresAtSeconds: undefined })
      const last = yield* backend.putIfVersion(key, "last", yield* backend.get(key))
      assert.strictEqual(last.version, maxVersion)
      for (const write of [
        backend.put(key, "more"),
        backend.putIfVersion(key, "more", last),
        backend.putIfVersion(key, "more", maxVersion)
      ]) {
        assert.strictEqual((yield* failsWith(write, "CapacityExceeded")).resource, "Versions")
        assertSame(yield* backend.get(key), last)
      }
      yield* failsWith(backend.putIfVersion(key, "more", maxVersion - 1), "VersionConflict")
      yield* failsWith(backend.putIfVersion(keyOf(owner, "b"), "more", maxVersion), "RecordNotFound")
      yield* backend.deleteIfVersion(key, last)
      assert.strictEqual((yield* backend.put(key, "anew")).version, 1)
    })
  )

  planted(
    "no write goes past the last safe version of an expired record that the engine still holds",
    Effect.fnUntraced(function* (backend, plant, owner) {
      const key = keyOf(owner, "a")
      const expiresAtSeconds = Math.floor((yield* Clock.currentTimeMillis) / 1000) - 1
      yield* plant(key, { data: "old", version: maxVersion, writeId: undefined, expiresAtSeconds })
      for (const write of [backend.putIfVersion(key, "more", 0), backend.put(key, "more")]) {
        assert.strictEqual((yield* failsWith(write, "CapacityExceeded")).resource, "Versions")
        yield* failsWith(backend.get(key), "RecordNotFound")
      }
    })
  )

  example(
    "an expected version, a limit or an order that can't be is a defect",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      for (const version of [-1, 1.5, Number.NaN, maxVersion + 1, Infinity]) {
        yield* dies(backend.putIfVersion(key, "data", version), /expected version/)
        yield* dies(backend.deleteIfVersion(key, version), /expected version/)
      }
      for (const limit of [0, -1, 1.5, Number.NaN, 1001, Infinity]) {
        yield* dies(backend.listByPrefix(prefixOf(owner), { limit }), /limit of a page/)
      }
      for (const order of ["ASC", "", null] as ReadonlyArray<unknown> as ReadonlyArray<"ascending">) {
        yield* dies(backend.listByPrefix(prefixOf(owner), { order }), /order of a listing/)
      }
    })
  )

  // --- compare-and-set --------------------------------------------------------

  example(
    "a compare-and-set on an old version is a conflict that tells the true one",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const first = yield* backend.put(key, "one")
      yield* backend.put(key, "two")
      const third = yield* backend.put(key, "three")
      for (const expected of [first, first.version, third.version + 1]) {
        const conflict = yield* failsWith(backend.putIfVersion(key, "four", expected), "VersionConflict")
        assert.strictEqual(conflict.key, key)
        assert.strictEqual(conflict.expected, typeof expected === "number" ? expected : expected.version)
        assert.strictEqual(conflict.actual, third.version)
        if (conflict.current !== undefined) assertSame(conflict.current, third)
        const refused = yield* failsWith(backend.deleteIfVersion(key, expected), "VersionConflict")
        assert.strictEqual(refused.actual, third.version)
      }
      assertSame(yield* backend.get(key), third)
    })
  )

  example(
    "a compare-and-set on a record that is not there is RecordNotFound",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const record = yield* backend.put(key, "one")
      yield* backend.deleteIfVersion(key, record.version)
      for (const expected of [record, record.version]) {
        assert.strictEqual((yield* failsWith(backend.putIfVersion(key, "two", expected), "RecordNotFound")).key, key)
        assert.strictEqual((yield* failsWith(backend.deleteIfVersion(key, expected), "RecordNotFound")).key, key)
      }
      yield* failsWith(backend.get(key), "RecordNotFound")
    })
  )

  example(
    "a record deleted and created again is a conflict for whoever read it before",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const read = yield* backend.put(key, "same")
      yield* backend.delete(key)
      const again = yield* backend.put(key, "same")
      const conflict = yield* failsWith(backend.putIfVersion(key, "lost", read), "VersionConflict")
      assert.strictEqual(conflict.actual, again.version)
      yield* failsWith(backend.deleteIfVersion(key, read), "VersionConflict")
      assertSame(yield* backend.get(key), again)
    })
  )

  planted(
    "a record that another client wrote without a write id is compared by its data",
    Effect.fnUntraced(function* (backend, plant, owner) {
      const key = keyOf(owner, "a")
      const foreign = { data: "theirs", version: 7, writeId: undefined, expiresAtSeconds: undefined }
      yield* plant(key, foreign)
      const read = yield* backend.get(key)
      assert.strictEqual(read.writeId, undefined)
      yield* plant(key, { ...foreign, data: "theirs, again" })
      const conflict = yield* failsWith(backend.putIfVersion(key, "ours", read), "VersionConflict")
      assert.strictEqual(conflict.actual, 7)
      yield* failsWith(backend.deleteIfVersion(key, read), "VersionConflict")
      const newest = yield* backend.get(key)
      assert.strictEqual(newest.data, "theirs, again")
      const ours = yield* backend.putIfVersion(key, "ours", newest)
      assert.isDefined(ours.writeId)
      yield* plant(key, { ...foreign, version: ours.version, data: "ours" })
      yield* failsWith(backend.putIfVersion(key, "lost", ours), "VersionConflict")
    })
  )

  planted(
    "a record that was read without a write id is in conflict with a write of the same version and data that has one",
    Effect.fnUntraced(function* (backend, plant, owner) {
      const key = keyOf(owner, "a")
      const foreign = { data: "same", version: 7, writeId: undefined, expiresAtSeconds: undefined }
      yield* plant(key, foreign)
      const read = yield* backend.get(key)
      assert.strictEqual(read.writeId, undefined)
      yield* plant(key, { ...foreign, version: 6 })
      const ours = yield* backend.putIfVersion(key, "same", 6)
      assert.deepStrictEqual([ours.version, ours.data], [read.version, read.data])
      const conflict = yield* failsWith(backend.putIfVersion(key, "lost", read), "VersionConflict")
      assert.strictEqual(conflict.actual, 7)
      yield* failsWith(backend.deleteIfVersion(key, read), "VersionConflict")
      assertSame(yield* backend.get(key), ours)
    })
  )

  planted(
    "a record that another client wrote with an expiry beyond all dates is there, and can be changed",
    Effect.fnUntraced(function* (backend, plant, owner) {
      const key = keyOf(owner, "a")
      for (const expiresAtSeconds of [8.64e12, 8.64e12 + 1, Number.MAX_SAFE_INTEGER]) {
        yield* plant(key, { data: "theirs", version: 1, writeId: undefined, expiresAtSeconds })
        const read = yield* backend.get(key)
        assert.strictEqual(read.expiresAt?.epochMilliseconds, 8.64e15)
        yield* failsWith(backend.putIfVersion(key, "ours", 0), "VersionConflict")
        assert.strictEqual((yield* backend.putIfVersion(key, "ours", read, read)).version, 2)
        yield* backend.deleteIfVersion(key, 2)
      }
    })
  )

  example(
    "of many writers that expect the same version exactly one wins",
    Effect.fnUntraced(function* (backend, owner) {
      for (const [id, expected] of [
        ["by record", yield* backend.put(keyOf(owner, "by record"), "start")],
        ["by version", (yield* backend.put(keyOf(owner, "by version"), "start")).version],
        ["created", 0]
      ] as const) {
        const key = keyOf(owner, id)
        const results = yield* Effect.forEach(
          Array.from({ length: 32 }, (_, writer) => `writer ${writer}`),
          (data) => Effect.result(Effect.andThen(Effect.yieldNow, backend.putIfVersion(key, data, expected))),
          { concurrency: "unbounded" }
        )
        const won = results.flatMap((result) => (result._tag === "Success" ? [result.success] : []))
        const lost = results.flatMap((result) => (result._tag === "Failure" ? [result.failure] : []))
        assert.strictEqual(won.length, 1)
        for (const error of lost) {
          assert.strictEqual(error._tag, "VersionConflict")
          if (error._tag === "VersionConflict") assert.strictEqual(error.actual, won[0]?.version)
        }
        assert.strictEqual((yield* backend.get(key)).data, won[0]?.data)
      }
    })
  )

  example(
    "fibers that retry on the conflict's record lose no increment",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "counter")
      yield* backend.put(key, "0")
      const eachOf = { concurrency: "unbounded", discard: true } as const
      yield* Effect.forEach(
        Array.from({ length: 8 }),
        () => Effect.forEach(Array.from({ length: 25 }), () => increment(backend, key), { discard: true }),
        eachOf
      )
      assert.strictEqual((yield* backend.get(key)).data, "200")
    })
  )

  property(
    "any history of one key is linearizable",
    History.programs,
    Effect.fnUntraced(function* (programs, owner) {
      const clients = shared ? yield* twoBuilds(layer) : [yield* StorageBackend]
      History.assertLinearizable(yield* History.record(keyOf(owner, "a"), clients, programs))
    }),
    { runs: 50 }
  )

  made.push({
    name: shared
      ? "separate builds of the Layer race on one record and lose no increment"
      : "separate builds of the Layer are separate stores",
    run: Effect.gen(function* () {
      const [first, second] = yield* twoBuilds(layer)
      const key = keyOf(yield* newOwner, "counter")
      yield* first.put(key, "0")
      if (!shared) {
        yield* failsWith(second.get(key), "RecordNotFound")
        return
      }
      const times = Array.from({ length: 50 })
      yield* Effect.forEach(
        [first, second, first, second],
        (backend) => Effect.forEach(times, () => increment(backend, key), { discard: true }),
        { concurrency: "unbounded", discard: true }
      )
      assert.strictEqual((yield* first.get(key)).data, "200")
    })
  })

  // --- expiry -----------------------------------------------------------------

  example(
    "a record is there until its expiry, rounded up to a second, and absent from then on",
    Effect.fnUntraced(function* (backend, owner) {
      yield* toWholeSecond
      const key = keyOf(owner, "a")
      const now = yield* Clock.currentTimeMillis
      const record = yield* backend.put(key, "data", { expiresAt: yield* inSeconds(1.001) })
      assert.strictEqual(record.expiresAt?.epochMilliseconds, now + 2000)
      yield* TestClock.adjust(1999)
      assertSame(yield* backend.get(key), record)
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["a"])
      const again = yield* backend.putIfVersion(key, "again", record, { expiresAt: record.expiresAt })
      yield* TestClock.adjust(1)
      yield* failsWith(backend.get(key), "RecordNotFound")
      yield* failsWith(backend.putIfVersion(key, "late", again), "RecordNotFound")
      yield* failsWith(backend.putIfVersion(key, "late", again.version), "RecordNotFound")
      yield* failsWith(backend.deleteIfVersion(key, again), "RecordNotFound")
      assert.isFalse(yield* backend.delete(key))
      assert.deepStrictEqual(yield* listAll(prefixOf(owner)), [])
    })
  )

  example(
    "an expired record may be created again, and put over",
    Effect.fnUntraced(function* (backend, owner) {
      const keys = [keyOf(owner, "created"), keyOf(owner, "put")] as const
      for (const key of keys) yield* backend.put(key, "old", { expiresAt: yield* inSeconds(1) })
      yield* TestClock.adjust("2 seconds")
      const created = yield* backend.putIfVersion(keys[0], "new", 0)
      const put = yield* backend.put(keys[1], "new")
      assertSame(yield* backend.get(keys[0]), created)
      assertSame(yield* backend.get(keys[1]), put)
      assert.strictEqual(created.expiresAt, undefined)
      assert.strictEqual(put.expiresAt, undefined)
    })
  )

  example(
    "a record written with an expiry that has come is absent at once",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      yield* backend.put(key, "here")
      yield* backend.put(key, "gone", { expiresAt: yield* inSeconds(-1) })
      yield* failsWith(backend.get(key), "RecordNotFound")
      assert.deepStrictEqual(yield* listAll(prefixOf(owner)), [])
      yield* backend.putIfVersion(key, "new", 0)
    })
  )

  example(
    "an expiry at the start of 1970, or before it, has come",
    Effect.fnUntraced(function* (backend, owner) {
      for (const seconds of [0, -1, -86_400]) {
        const key = keyOf(owner, String(seconds))
        const put = yield* backend.put(key, "gone", { expiresAt: DateTime.makeUnsafe(seconds * 1000) })
        assert.strictEqual(put.expiresAt?.epochMilliseconds, seconds * 1000)
        yield* failsWith(backend.get(key), "RecordNotFound")
        yield* failsWith(backend.putIfVersion(key, "late", put), "RecordNotFound")
        assert.isFalse(yield* backend.delete(key))
      }
      assert.deepStrictEqual(yield* listAll(prefixOf(owner)), [])
    })
  )

  example(
    "a write without an expiry takes it away, and one with another sets it",
    Effect.fnUntraced(function* (backend, owner) {
      const expiresAt = yield* inSeconds(10)
      const [put, swapped, longer] = [keyOf(owner, "put"), keyOf(owner, "swapped"), keyOf(owner, "longer")] as const
      yield* backend.put(put, "one", { expiresAt })
      const first = yield* backend.put(swapped, "one", { expiresAt })
      const second = yield* backend.put(longer, "one", { expiresAt })
      assert.strictEqual((yield* backend.put(put, "two")).expiresAt, undefined)
      assert.strictEqual((yield* backend.putIfVersion(swapped, "two", first)).expiresAt, undefined)
      yield* backend.putIfVersion(longer, "two", second, { expiresAt: DateTime.add(expiresAt, { seconds: 10 }) })
      yield* TestClock.adjust("12 seconds")
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["longer", "put", "swapped"])
      yield* TestClock.adjust("12 seconds")
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["put", "swapped"])
    })
  )

  example(
    "an expiry that is not an instant is a defect, and nothing is written",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const record = yield* backend.put(key, "one")
      const now = yield* DateTime.now
      const noInstants: ReadonlyArray<unknown> = [
        DateTime.add(now, { days: 1e9 }),
        DateTime.addDuration(now, Duration.negativeInfinity),
        new Date(),
        "2030-01-01T00:00:00Z",
        1_900_000_000,
        null
      ]
      for (const expiresAt of noInstants as ReadonlyArray<DateTime.Utc>) {
        yield* dies(backend.put(key, "two", { expiresAt }), /expiresAt must be a DateTime at an instant/)
        yield* dies(backend.put(keyOf(owner, "b"), "two", { expiresAt }), /expiresAt must be a DateTime at an instant/)
        yield* dies(
          backend.putIfVersion(key, "two", record, { expiresAt }),
          /expiresAt must be a DateTime at an instant/
        )
      }
      assert.deepStrictEqual((yield* listAll(prefixOf(owner))).map(view), [view(record)])
    })
  )

  example(
    "an expiry of positive infinity is never, and one beyond all dates is the last date",
    Effect.fnUntraced(function* (backend, owner) {
      const now = yield* DateTime.now
      const never = DateTime.addDuration(now, Duration.infinity)
      const beyond = DateTime.addDuration(now, Duration.days(1e9))
      for (const [id, expiresAt, expected] of [
        ["never", never, undefined],
        ["beyond", beyond, 8.64e15]
      ] as const) {
        const key = keyOf(owner, id)
        const put = yield* backend.put(key, "one", { expiresAt })
        assert.strictEqual(put.expiresAt?.epochMilliseconds, expected)
        assertSame(yield* backend.get(key), put)
        const swapped = yield* backend.putIfVersion(key, "two", put, { expiresAt })
        assert.strictEqual(swapped.expiresAt?.epochMilliseconds, expected)
        assertSame(yield* backend.get(key), swapped)
      }
      // What other records expire is collected as before.
      yield* backend.put(keyOf(owner, "soon"), "data", { expiresAt: yield* inSeconds(1) })
      yield* TestClock.adjust("2 seconds")
      yield* backend.cleanupExpired
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["beyond", "never"])
    })
  )

  example(
    "a cleanup removes nothing that is live",
    Effect.fnUntraced(function* (backend, owner) {
      yield* putAll(owner, ["expired 1", "expired 2"], yield* inSeconds(1))
      yield* putAll(owner, ["later"], yield* inSeconds(100))
      yield* putAll(owner, ["never"])
      yield* TestClock.adjust("2 seconds")
      const removed = yield* backend.cleanupExpired
      assert.isTrue(Number.isInteger(removed) && removed >= 0)
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), ["later", "never"])
      yield* failsWith(backend.get(keyOf(owner, "expired 1")), "RecordNotFound")
    })
  )

  // --- order and pages --------------------------------------------------------

  example(
    "a listing is in the order of the ids' UTF-8, which is not that of UTF-16",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["a", "\u{1f600}", "\uffff", "\ue000", "\u{10000}", "é", "z", "B", "a\u{1f600}", "a\uffff"]
      yield* putAll(owner, ids)
      const ascending = inOrder(ids, "ascending")
      assert.isBelow(ascending.indexOf("\uffff"), ascending.indexOf("\u{1f600}"))
      assert.deepStrictEqual(idsOf((yield* backend.listByPrefix(prefixOf(owner))).records), ascending)
      const descending = yield* backend.listByPrefix(prefixOf(owner), { order: "descending" })
      assert.deepStrictEqual(idsOf(descending.records), ascending.toReversed())
    })
  )

  property(
    "any ids are listed whole and in order, in pages of any size, by any prefix",
    Arbitrary.all({
      ids: Arbitrary.array(text({ minLength: 1, maxLength: 4 }), { maxLength: 12 }),
      idPrefix: text({ maxLength: 2 }),
      limit: Arbitrary.map(Arbitrary.array(Arbitrary.Constant(1), { maxLength: 6 }), (ones) => ones.length + 1)
    }),
    Effect.fnUntraced(function* ({ idPrefix, ids, limit }, owner) {
      yield* putAll(owner, ids)
      const matching = Array.from(new Set(ids)).filter((id) => id.startsWith(idPrefix))
      for (const order of ["ascending", "descending"] as const) {
        const listed = yield* listAll(prefixOf(owner, idPrefix), { limit, order })
        assert.deepStrictEqual(idsOf(listed), inOrder(matching, order))
        for (const record of listed) assert.strictEqual(record.data, `data of ${record.key.id}`)
      }
    }),
    { runs: 50 }
  )

  example(
    "a page has 100 records unless another limit is given",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = Array.from({ length: 120 }, (_, i) => String(i).padStart(3, "0"))
      yield* putAll(owner, ids)
      const page = yield* backend.listByPrefix(prefixOf(owner))
      assert.deepStrictEqual(idsOf(page.records), ids.slice(0, 100))
      assert.isDefined(page.cursor)
      const rest = yield* backend.listByPrefix(prefixOf(owner), { cursor: page.cursor })
      assert.deepStrictEqual(idsOf(rest.records), ids.slice(100))
      assert.strictEqual((yield* backend.listByPrefix(prefixOf(owner), { limit: 1000 })).records.length, 120)
      assert.deepStrictEqual(yield* backend.listByPrefix(prefixOf(owner, "x")), { records: [], cursor: undefined })
    })
  )

  example(
    "walking pages while others insert and delete neither repeats nor skips a record that stays",
    Effect.fnUntraced(function* (backend, owner) {
      const stay = Array.from({ length: 40 }, (_, i) => `${String(i).padStart(3, "0")}/stays`)
      yield* putAll(owner, stay)
      for (const order of ["ascending", "descending"] as const) {
        let turn = 0
        const churn = Effect.suspend(() => {
          const at = String((turn++ * 7) % 40).padStart(3, "0")
          return Effect.all([
            backend.put(keyOf(owner, `${at}/a comes`), "data"),
            backend.put(keyOf(owner, `${at}/z comes`), "data"),
            backend.delete(keyOf(owner, `${String((turn * 3) % 40).padStart(3, "0")}/a comes`)),
            backend.put(keyOf(owner, `${at}/stays`), "changed")
          ])
        })
        const pages = yield* listPages(prefixOf(owner), { limit: 3, order }, churn)
        const listed = pages.flatMap((page) => idsOf(page.records))
        assert.deepStrictEqual(listed, inOrder(new Set(listed), order))
        assert.deepStrictEqual(
          listed.filter((id) => id.endsWith("/stays")),
          inOrder(stay, order)
        )
      }
    })
  )

  example(
    "a page goes on where the one before ended, though the last record of that was deleted or expired meanwhile",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["a", "b", "c", "d", "e"]
      for (const order of ["ascending", "descending"] as const) {
        for (const gone of ["deleted", "expired"]) {
          yield* putAll(owner, ids)
          const first = yield* backend.listByPrefix(prefixOf(owner), { limit: 2, order })
          const last = keyOf(owner, order === "ascending" ? "b" : "d")
          if (gone === "deleted") yield* backend.delete(last)
          else yield* backend.put(last, "gone", { expiresAt: yield* inSeconds(-1) })
          const rest = yield* backend.listByPrefix(prefixOf(owner), { cursor: first.cursor, order })
          assert.deepStrictEqual(idsOf([...first.records, ...rest.records]), inOrder(ids, order))
        }
      }
    })
  )

  example(
    "a few live records among thousands of expired ones are all found",
    Effect.fnUntraced(function* (_, owner) {
      const ids = Array.from({ length: 2000 }, (_, i) => String(i).padStart(4, "0"))
      const live = ids.filter((_, i) => i % 400 === 399)
      yield* putAll(
        owner,
        ids.filter((id) => !live.includes(id)),
        yield* inSeconds(1)
      )
      yield* putAll(owner, live)
      yield* TestClock.adjust("2 seconds")
      for (const order of ["ascending", "descending"] as const) {
        assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner), { limit: 50, order })), inOrder(live, order))
      }
    })
  )

  example(
    "a page that meets expired records is filled up to its limit and no further",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = Array.from({ length: 9 }, (_, i) => String(i))
      const expired = ["1", "7"]
      const live = ids.filter((id) => !expired.includes(id))
      yield* putAll(owner, expired, yield* inSeconds(1))
      yield* putAll(owner, live)
      yield* TestClock.adjust("2 seconds")
      for (const order of ["ascending", "descending"] as const) {
        const page = yield* backend.listByPrefix(prefixOf(owner), { limit: 4, order })
        assert.isAtMost(page.records.length, 4)
        assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner), { limit: 4, order })), inOrder(live, order))
      }
    })
  )

  example(
    "a cursor that is damaged, cut or of another listing is InvalidCursor",
    Effect.fnUntraced(function* (backend, owner) {
      const ids = ["p/a", "p/b\u{1f600}", "p/c"]
      const other = yield* newOwner
      yield* putAll(owner, ids)
      yield* putAll(other, ids)
      const { cursor = "" } = yield* backend.listByPrefix(prefixOf(owner, "p/"), { limit: 2 })
      const rest = yield* backend.listByPrefix(prefixOf(owner, "p/"), { cursor })
      assert.deepStrictEqual(idsOf(rest.records), ["p/c"])

      const damaged = new Set(["", " ", "nonsense", `${cursor}A`, `${cursor}=`, ` ${cursor}`])
      for (let i = 0; i < cursor.length; i++) {
        damaged.add(cursor.slice(0, i)).add(cursor.slice(i + 1))
        for (const character of "AQgwz09-_ =é") damaged.add(cursor.slice(0, i) + character + cursor.slice(i + 1))
      }
      damaged.delete(cursor)
      for (const cursor of damaged) {
        yield* failsWith(backend.listByPrefix(prefixOf(owner, "p/"), { cursor }), "InvalidCursor")
      }
      for (const cursor of [1, null, {}] as ReadonlyArray<unknown> as ReadonlyArray<string>) {
        yield* failsWith(backend.listByPrefix(prefixOf(owner, "p/"), { cursor }), "InvalidCursor")
      }
      yield* failsWith(backend.listByPrefix(prefixOf(other, "p/"), { cursor }), "InvalidCursor")
      yield* failsWith(backend.listByPrefix(prefixOf(owner, "p"), { cursor }), "InvalidCursor")
      yield* failsWith(backend.listByPrefix(prefixOf(owner), { cursor }), "InvalidCursor")
      yield* failsWith(backend.listByPrefix(prefixOf(owner, "p/"), { cursor, order: "descending" }), "InvalidCursor")
    })
  )

  example(
    "a forged cursor for an id outside the listing, or for what is not an id, is InvalidCursor",
    Effect.fnUntraced(function* (backend, owner) {
      yield* putAll(owner, ["a", "p/a", "p/b", "z"])
      const forged = {
        "": ["", "a\0", "a".repeat(513), "\u{1f600}".repeat(129)],
        "p/": ["", "a", "p", "z", "P/a", "p/\0", `p/${"a".repeat(511)}`]
      }
      for (const [idPrefix, ids] of Object.entries(forged)) {
        const prefix = prefixOf(owner, idPrefix)
        for (const order of ["ascending", "descending"] as const) {
          for (const id of ids) {
            const cursor = Cursor.encode(prefix, order, id)
            yield* failsWith(backend.listByPrefix(prefix, { cursor, order }), "InvalidCursor")
          }
        }
      }
    })
  )

  // --- keys and data ----------------------------------------------------------

  example(
    "tricky ids address their own record and no other",
    Effect.fnUntraced(function* (backend, owner) {
      yield* putAll(owner, trickyIds)
      for (const id of trickyIds) {
        assert.strictEqual((yield* backend.get(keyOf(owner, id))).data, `data of ${id}`)
      }
      assert.deepStrictEqual(idsOf(yield* listAll(prefixOf(owner))), inOrder(trickyIds, "ascending"))
      for (const id of trickyIds) {
        const listed = idsOf(yield* listAll(prefixOf(owner, id)))
        assert.deepStrictEqual(
          listed,
          inOrder(
            trickyIds.filter((other) => other.startsWith(id)),
            "ascending"
          )
        )
      }
    })
  )

  example(
    "tricky owners are kept apart",
    Effect.fnUntraced(function* (backend, owner) {
      const owners = trickyIds.flatMap((id) => [`${owner}${id}`, `${id}${owner}`])
      yield* Effect.forEach(owners, (owner) => backend.put(keyOf(owner, "a:b"), `of ${owner}`), { concurrency: 16 })
      for (const owner of owners) {
        const listed = yield* listAll(prefixOf(owner))
        assert.deepStrictEqual(
          listed.map((record) => record.data),
          [`of ${owner}`]
        )
      }
      for (const [index, owner] of owners.entries()) {
        if (index % 2 === 0) assert.isTrue(yield* backend.delete(keyOf(owner, "a:b")))
      }
      for (const [index, owner] of owners.entries()) {
        assert.strictEqual((yield* listAll(prefixOf(owner))).length, index % 2)
      }
    })
  )

  property(
    "no two owners and ids share a record, and listings stay within their owner",
    Arbitrary.array(Arbitrary.all([text({ maxLength: 3 }), text({ minLength: 1, maxLength: 3 })]), { maxLength: 6 }),
    Effect.fnUntraced(function* (pairs, owner) {
      const backend = yield* StorageBackend
      const records = new Map(
        pairs.map(([rest, id]) => [JSON.stringify([rest, id]), keyOf(`${owner}${rest}`, id)] as const)
      )
      for (const [data, key] of records) yield* backend.put(key, data)
      for (const [data, key] of records) assert.strictEqual((yield* backend.get(key)).data, data)
      for (const rest of new Set(pairs.map(([rest]) => rest))) {
        const own = Array.from(records.keys()).filter((data) => JSON.parse(data)[0] === rest)
        const listed = yield* listAll(prefixOf(`${owner}${rest}`))
        assert.sameMembers(
          listed.map((record) => record.data),
          own
        )
      }
    }),
    { runs: 50 }
  )

  example(
    "owners and ids may be as long as the limits",
    Effect.fnUntraced(function* (backend, owner) {
      for (const [fill, bytes] of [
        ["a", 1],
        ["%", 1],
        ["é", 2],
        ["\u{1f600}", 4]
      ] as const) {
        const long = `${owner}${fill.repeat((1024 - owner.length) / bytes)}`
        const keys = [keyOf(long, fill.repeat(512 / bytes)), keyOf(long, `${fill.repeat(512 / bytes - 1)}b`)]
        for (const key of keys) yield* backend.put(key, key.id)
        for (const key of keys) assert.strictEqual((yield* backend.get(key)).data, key.id)
        const listed = yield* listAll(prefixOf(long, fill.repeat(512 / bytes - 1)), { limit: 1 })
        assert.sameMembers(
          idsOf(listed),
          keys.map((key) => key.id)
        )
      }
    })
  )

  example(
    "data takes up to the limit in bytes of UTF-8, and one more is refused before anything is written",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      for (const full of ["", "a".repeat(defaultMaxDataBytes), "€".repeat(defaultMaxDataBytes / 3)]) {
        const record = yield* backend.put(key, full)
        assert.isTrue((yield* backend.get(key)).data === full, "the data came back changed")
        for (const write of [
          backend.put(key, `${"€".repeat(defaultMaxDataBytes / 3)}a`),
          backend.putIfVersion(key, "a".repeat(defaultMaxDataBytes + 1), record)
        ]) {
          const error = yield* failsWith(write, "CapacityExceeded")
          assert.strictEqual(error.resource, "RecordBytes")
          assert.strictEqual(error.limit, defaultMaxDataBytes)
          assert.strictEqual(error.actual, defaultMaxDataBytes + 1)
        }
        assert.strictEqual((yield* backend.get(key)).version, record.version)
      }
    })
  )

  property(
    "any well-formed data comes back as it was",
    Arbitrary.map(Arbitrary.array(text({ maxLength: 10 }), { maxLength: 10 }), (parts) => parts.join("\0")),
    Effect.fnUntraced(function* (data, owner) {
      const backend = yield* StorageBackend
      const key = keyOf(owner, "a")
      assert.strictEqual((yield* backend.put(key, data)).data, data)
      assert.strictEqual((yield* backend.get(key)).data, data)
      const [listed] = (yield* backend.listByPrefix(prefixOf(owner))).records
      assert.strictEqual(listed?.data, data)
    }),
    { runs: 50 }
  )

  example(
    "data with a lone surrogate is InvalidData, and nothing is written",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      const record = yield* backend.put(key, "whole")
      for (const data of ["\ud83d", "a\ude00b", "\ude00\ud83d"]) {
        yield* failsWith(backend.put(key, data), "InvalidData")
        yield* failsWith(backend.putIfVersion(key, data, record), "InvalidData")
      }
      assertSame(yield* backend.get(key), record)
    })
  )

  example(
    "an interrupted write leaves the record before it or the whole record",
    Effect.fnUntraced(function* (backend, owner) {
      const key = keyOf(owner, "a")
      yield* backend.put(key, "0".repeat(10_000))
      for (let i = 1; i < 40; i++) {
        const before = yield* backend.get(key)
        const fiber = yield* Effect.forkChild(backend.put(key, String(i % 10).repeat(10_000)))
        yield* TestClock.withLive(Effect.sleep(i % 4))
        yield* Fiber.interrupt(fiber)
        const after = yield* backend.get(key)
        if (after.version === before.version) assertSame(after, before)
        assert.isTrue(after.data === after.data.charAt(0).repeat(10_000), "half a record was written")
      }
    })
  )

  property("any sequence of operations agrees with the model", Model.commands, Model.agreesWithModel, { size: 60 })

  return made
}
