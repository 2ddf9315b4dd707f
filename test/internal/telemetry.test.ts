import { assert, describe, it } from "@effect/vitest"
import { Effect, Metric, Schedule, Tracer } from "effect"
import { type Engine, make } from "../../src/Engine.ts"
import * as StorageError from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { makeEngine } from "../support/memoryEngine.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const prefix = makePrefix({ owner: "alice", idPrefix: "" })

const newTelemetry = () => ({ system: "test.memory", collection: `test-${crypto.randomUUID()}` })
type Telemetry = ReturnType<typeof newTelemetry>

const observed = (
  telemetry: Telemetry & { readonly isParent?: boolean },
  change: (engine: Engine) => Partial<Engine> = () => ({})
) => {
  const { engine } = makeEngine()
  return make({ ...engine, ...change(engine) }, { telemetry, retrySchedule: Schedule.recurs(3) })
}

const spansOf = <A, E, R>(effect: Effect.Effect<A, E, R>) => {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  return Effect.as(Effect.provideService(effect, Tracer.Tracer, tracer), spans)
}

/** What the counters of one collection stand at. */
const countersOf = ({ collection, system }: Telemetry) =>
  Effect.map(Metric.snapshot, (metrics) =>
    Object.fromEntries(
      metrics.flatMap(({ attributes, id, state, type }) =>
        type === "Counter" && attributes?.["db.collection.name"] === collection
          ? [[`${attributes["db.system.name"] === system ? "" : "?"}${id}`, state.count]]
          : []
      )
    )
  )

const timesOut = (outcome: StorageError.Backend["outcome"]) =>
  Effect.fail(StorageError.makeBackend({ reason: "Timeout", outcome, description: "told to time out" }))

/** Fails the first request, and then sends each on. */
const failsFirst = <Args extends ReadonlyArray<unknown>, A>(
  outcome: StorageError.Backend["outcome"],
  primitive: (...args: Args) => Effect.Effect<A, StorageError.Backend>
) => {
  let requests = 0
  return (...args: Args) => Effect.suspend(() => (requests++ === 0 ? timesOut(outcome) : primitive(...args)))
}

describe("telemetry", () => {
  it.effect.each([true, false])("makes one span for each operation, a parent of others: %s", (isParent) =>
    Effect.gen(function* () {
      const telemetry = newTelemetry()
      const backend = observed({ ...telemetry, isParent })
      const spans = yield* spansOf(
        Effect.gen(function* () {
          const record = yield* backend.put(key, "one")
          yield* backend.putIfVersion(key, "two", record)
          yield* Effect.flip(backend.putIfVersion(key, "three", record))
          yield* backend.get(key)
          yield* backend.getMany([key])
          yield* backend.listByPrefix(prefix)
          yield* Effect.flip(backend.deleteIfVersion(key, record))
          yield* backend.delete(key)
          yield* Effect.flip(backend.get(key))
          yield* backend.cleanupExpired
        })
      )
      const expected = [
        ["put", false],
        ["putIfVersion", false],
        ["putIfVersion", true],
        ["get", false],
        ["getMany", false],
        ["listByPrefix", false],
        ["deleteIfVersion", true],
        ["delete", false],
        ["get", false],
        ["cleanupExpired", false]
      ] as const
      assert.deepStrictEqual(
        spans.map(
          ({ attributes, kind, name }): Record<string, unknown> => ({ name, kind, ...Object.fromEntries(attributes) })
        ),
        expected.map(([operation, conflict]) => ({
          name: `${operation} ${telemetry.collection}`,
          kind: "client",
          "db.system.name": "test.memory",
          "db.collection.name": telemetry.collection,
          "db.operation.name": operation,
          "effect_versioned_store.conflict": conflict
        }))
      )
    })
  )

  it.effect("counts each request and each conflict, and no other refusal as a conflict", () =>
    Effect.gen(function* () {
      const telemetry = newTelemetry()
      const backend = observed(telemetry)
      const record = yield* backend.put(key, "one")
      yield* backend.putIfVersion(key, "two", record)
      yield* Effect.flip(backend.putIfVersion(key, "three", record))
      yield* backend.listByPrefix(prefix)
      yield* backend.delete(key)
      yield* Effect.flip(backend.putIfVersion(key, "three", record))
      yield* Effect.flip(backend.get(key))
      assert.deepStrictEqual(yield* countersOf(telemetry), {
        "effect_versioned_store.requests": 7,
        "effect_versioned_store.conflicts": 1
      })
    })
  )

  it.effect("counts a retry, and an attempt as ambiguous only if it may have been applied", () =>
    Effect.gen(function* () {
      for (const outcome of ["unknown", "not-applied"] as const) {
        const telemetry = newTelemetry()
        const backend = observed(telemetry, ({ swap }) => ({ swap: failsFirst(outcome, swap) }))
        yield* backend.putIfVersion(key, "two", yield* backend.put(key, "one"))
        assert.deepStrictEqual(yield* countersOf(telemetry), {
          "effect_versioned_store.requests": 3,
          "effect_versioned_store.retries": 1,
          ...(outcome === "unknown" ? { "effect_versioned_store.ambiguous": 1 } : {})
        })
      }
    })
  )

  it.effect("leaves a get to the engine's eventual read, if it has one, and counts that", () =>
    Effect.gen(function* () {
      const telemetry = newTelemetry()
      const eventual: Array<string> = []
      const backend = observed(telemetry, ({ read }) => ({
        readEventually: (key) => {
          eventual.push(key.id)
          return read(key)
        }
      }))
      yield* Effect.flip(backend.get(key))
      assert.deepStrictEqual(eventual, ["a"])
      assert.deepStrictEqual(yield* countersOf(telemetry), { "effect_versioned_store.requests": 1 })
    })
  )
})
