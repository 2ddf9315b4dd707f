/** Records what a few fibers do to the records of one owner by commits, for `History.anomalyOfCommits`. */
import * as Arbitrary from "effect/Arbitrary"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Step, StorageBackend, VersionedRecord } from "../../StorageBackend.ts"
import type { Commit } from "../History.ts"
import { keyOf } from "./support.ts"

type Backend = StorageBackend["Service"]

const Id = Schema.Literals(["a", "b", "c"])

/** A commit reads some records, and then checks, writes or removes each of them. The other operations are on one. */
const Turn = Schema.Union([
  Schema.TaggedStruct("Commit", {
    steps: Schema.Array(Schema.Struct({ id: Id, kind: Schema.Literals(["Check", "Write", "Write", "Remove"]) }))
  }),
  Schema.TaggedStruct("Put", { id: Id }),
  Schema.TaggedStruct("PutIf", { id: Id }),
  Schema.TaggedStruct("Get", { id: Id })
])

type Turn = typeof Turn.Type

/** What each of a few fibers does. */
export const commitPrograms = Arbitrary.array(Arbitrary.array(Arbitrary.schema(Turn), { maxLength: 5 }), {
  minLength: 2,
  maxLength: 4
})

const isUnknown = (error: { readonly _tag: string; readonly outcome?: string }) =>
  error._tag === "Backend" && error.outcome === "unknown"

/** Runs the programs at once on an owner's records, each by the next of the clients. Returns what they did and saw. */
export const commitHistoryOf = Effect.fnUntraced(function* (
  owner: string,
  clients: readonly [Backend, ...ReadonlyArray<Backend>],
  programs: ReadonlyArray<ReadonlyArray<Turn>>
) {
  const history: Array<Commit> = []
  let clock = 0
  let writes = 0

  /** Notes an operation that found and wrote something, by how it ended. */
  const note = Effect.fnUntraced(function* <A, E extends { readonly _tag: string }>(
    operation: Effect.Effect<A, E>,
    found: Commit["found"],
    written: Commit["written"]
  ) {
    const start = clock++
    const result = yield* Effect.result(operation)
    const end = clock++
    if (result._tag === "Failure" && !/VersionConflict|RecordNotFound/.test(result.failure._tag)) {
      if (!isUnknown(result.failure)) return yield* Effect.fail(result.failure)
      history.push({ start, end, outcome: "unknown", found, written })
      return
    }
    history.push({ start, end, outcome: result._tag === "Success" ? "made" : "refused", found, written })
  })

  const read = Effect.fnUntraced(function* (backend: Backend, id: string) {
    const start = clock++
    const record = yield* Effect.catchTag(backend.get(keyOf(owner, id)), "RecordNotFound", () => Effect.undefined)
    history.push({ start, end: clock++, outcome: "made", found: { [id]: record?.data }, written: {} })
    return record
  })

  const commit = Effect.fnUntraced(function* (backend: Backend, turn: Extract<Turn, { readonly _tag: "Commit" }>) {
    const [found, written]: [Record<string, string | undefined>, Record<string, string | undefined>] = [{}, {}]
    const steps: Array<Step> = []
    for (const { id, kind } of new Map(turn.steps.map((step) => [step.id, step])).values()) {
      const record: VersionedRecord | undefined = yield* read(backend, id)
      const expected = record ?? 0
      found[id] = record?.data
      if (kind === "Write") {
        const data = `write ${writes++}`
        written[id] = data
        steps.push({ _tag: "Write", id, expected, data })
      } else if (kind === "Remove" && record !== undefined) {
        written[id] = undefined
        steps.push({ _tag: "Remove", id, expected })
      } else {
        steps.push({ _tag: "Check", id, expected })
      }
      yield* Effect.yieldNow
    }
    yield* note(backend.commit(owner, steps), found, written)
  })

  const run = Effect.fnUntraced(function* (program: ReadonlyArray<Turn>, fiber: number) {
    const backend = clients[fiber % clients.length] ?? clients[0]
    for (const turn of program) {
      yield* Effect.yieldNow
      if (turn._tag === "Commit") {
        yield* commit(backend, turn)
        continue
      }
      const { _tag, id } = turn
      const record = _tag === "Put" ? undefined : yield* read(backend, id)
      if (_tag === "Get") continue
      const data = `write ${writes++}`
      yield* _tag === "Put"
        ? note(backend.put(keyOf(owner, id), data), {}, { [id]: data })
        : note(backend.putIfVersion(keyOf(owner, id), data, record ?? 0), { [id]: record?.data }, { [id]: data })
    }
  })

  yield* Effect.forEach(programs, run, { concurrency: "unbounded", discard: true })
  for (const id of Id.literals) yield* read(clients[0], id)
  return history
})
