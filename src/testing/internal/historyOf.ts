/** Records what a few fibers do to one key, for `History.anomaly`. */
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { StorageBackend, VersionedRecord } from "../../StorageBackend.ts"
import type { StorageKey } from "../../StorageKey.ts"
import type { Operation } from "../History.ts"

type Backend = StorageBackend["Service"]

const Step = Schema.Literals(["get", "put", "putIfVersion", "putIfVersion", "putIfVersion"])

type Program = ReadonlyArray<typeof Step.Type>

/** What each of a few fibers does to one key. */
export const programs = Arbitrary.array(Arbitrary.array(Arbitrary.schema(Step), { maxLength: 8 }), {
  minLength: 2,
  maxLength: 6
})

/** Runs the programs at once on one key, each by the next of the clients, and returns what they did and saw. */
export const historyOf = Effect.fnUntraced(function* (
  key: StorageKey,
  clients: readonly [Backend, ...ReadonlyArray<Backend>],
  programs: ReadonlyArray<Program>
) {
  const history: Array<Operation> = []
  let clock = 0

  const write = Effect.fnUntraced(function* (
    backend: Backend,
    data: string,
    expected: VersionedRecord | number | undefined
  ) {
    const start = clock++
    const version = typeof expected === "object" ? expected.version : expected
    const sent = expected === undefined ? backend.put(key, data) : backend.putIfVersion(key, data, expected)
    const result = yield* Effect.result(sent)
    const end = clock++
    if (result._tag === "Success") {
      history.push({ _tag: "Write", start, end, data, expected: version, version: result.success.version })
      return result.success
    }
    const error = result.failure
    if (error._tag === "Backend" && error.outcome === "unknown") {
      history.push({ _tag: "Write", start, end, data, expected: version, version: undefined })
      return yield* read(backend)
    }
    if (error._tag !== "VersionConflict") return yield* error
    history.push({ _tag: "Conflict", start, end, expected: error.expected, actual: error.actual })
    if (error.current === undefined) return yield* read(backend)
    history.push({ _tag: "Read", start, end, found: error.current })
    return error.current
  })

  const read = Effect.fnUntraced(function* (backend: Backend) {
    const start = clock++
    const found = yield* backend.get(key)
    history.push({ _tag: "Read", start, end: clock++, found })
    return found
  })

  const run = Effect.fnUntraced(function* (program: Program, fiber: number) {
    const backend = clients[fiber % clients.length] ?? clients[0]
    let seen = first
    for (const [index, step] of program.entries()) {
      yield* Effect.yieldNow
      const data = `fiber ${fiber}, step ${index}`
      if (step === "get") seen = yield* read(backend)
      else seen = yield* write(backend, data, step === "put" ? undefined : seen)
    }
  })

  const first = yield* write(clients[0], "start", undefined)
  yield* Effect.forEach(programs, run, { concurrency: "unbounded", discard: true })
  yield* read(clients[0])
  return history.map((operation) =>
    operation._tag === "Read" && operation.found !== undefined
      ? { ...operation, found: { version: operation.found.version, data: operation.found.data } }
      : operation
  )
})
