import * as Arbitrary from "effect/Arbitrary"
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import { type Expected, type Step, StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import * as assert from "./assert.ts"
import { assertSame, failsWith, idsOf, inOrder, keyOf, listAll, prefixOf } from "./support.ts"

const ids = ["a", "a/\u{1f600}", "a/\uffff"] as const

const Target = { owner: Schema.Literals([0, 1]), id: Schema.Literals(ids) }

/** Half seconds until a record expires. */
const TimeToLive = Schema.UndefinedOr(Schema.Literals([0, 1, 2, 5, 20]))

/** What is expected: the record as it is, one that was there before, the version as it is, or one that never was. */
const Expectation = Schema.Literals(["record", "old record", "version", "higher version", "nothing"])

const PutIf = Schema.TaggedStruct("PutIf", { ...Target, timeToLive: TimeToLive, expectation: Expectation })

const Commit = Schema.TaggedStruct("Commit", {
  owner: Target.owner,
  steps: Schema.Array(
    Schema.Struct({
      kind: Schema.Literals(["Check", "Write", "Write", "Remove"]),
      id: Target.id,
      timeToLive: TimeToLive,
      expectation: Expectation
    })
  )
})

const commandSchemas = [
  Schema.TaggedStruct("Get", Target),
  Schema.TaggedStruct("Put", { ...Target, timeToLive: TimeToLive }),
  PutIf,
  PutIf,
  Schema.TaggedStruct("GetMany", { targets: Schema.Array(Schema.Struct(Target)) }),
  Schema.TaggedStruct("Delete", Target),
  Schema.TaggedStruct("DeleteIf", { ...Target, expectation: Expectation }),
  Schema.TaggedStruct("List", {
    owner: Target.owner,
    idPrefix: Schema.Literals(["", "a", "a/", "c"]),
    limit: Schema.Literals([1, 2, 100]),
    order: Schema.Literals(["ascending", "descending"])
  }),
  Schema.TaggedStruct("Advance", { halfSeconds: Schema.Literals([1, 2, 5]) }),
  Schema.TaggedStruct("Cleanup", {})
] as const

const Command = Schema.Union(commandSchemas)

const CommandWithCommits = Schema.Union([Commit, Commit, Commit, ...commandSchemas])

type Command = typeof CommandWithCommits.Type

/** Sequences of operations on a few keys of two owners, time and cleanups included. */
export const commands = Arbitrary.array(Arbitrary.schema(Command), { maxLength: 60 })

/** The same, with commits. */
export const commandsWithCommits = Arbitrary.array(Arbitrary.schema(CommandWithCommits), { maxLength: 60 })

/**
 * Runs a sequence of operations on the backend and on a model of the contract, and asserts that they agree in every
 * answer.
 */
export const agreesWithModel = Effect.fnUntraced(function* (sequence: ReadonlyArray<Command>) {
  const backend = yield* StorageBackend
  const owners = [`owner-${crypto.randomUUID()}`, `owner-${crypto.randomUUID()}`] as const
  const records = new Map<string, VersionedRecord>()
  const history = new Map<string, Array<VersionedRecord>>()
  const writeIds = new Set<string | undefined>()
  let writes = 0

  const name = (command: { readonly owner: 0 | 1; readonly id: string }) => `${command.owner}${command.id}`

  for (const command of sequence) {
    const now = yield* Clock.currentTimeMillis
    const isLive = (record: VersionedRecord | undefined): record is VersionedRecord =>
      record !== undefined &&
      (record.expiresAt === undefined || record.expiresAt.epochMilliseconds > Math.floor(now / 1000) * 1000)
    const liveOf = (command: { readonly owner: 0 | 1; readonly id: string }) => {
      const record = records.get(name(command))
      return isLive(record) ? record : undefined
    }

    const written = (
      command: { readonly owner: 0 | 1; readonly id: string; readonly timeToLive: number | undefined },
      data: string,
      record: VersionedRecord,
      /** The records of one commit share a write id. */
      isFirst = true
    ) => {
      const before = liveOf(command)
      const expiry =
        command.timeToLive === undefined ? undefined : Math.ceil((now + command.timeToLive * 500) / 1000) * 1000
      assert.strictEqual(record.key.owner, owners[command.owner])
      assert.strictEqual(record.key.id, command.id)
      assert.strictEqual(record.data, data)
      assert.strictEqual(record.expiresAt?.epochMilliseconds, expiry)
      assert.isAbove(record.version, before?.version ?? 0)
      assert.isDefined(record.writeId)
      if (isFirst) assert.isFalse(writeIds.has(record.writeId), "a write id was used twice")
      writeIds.add(record.writeId)
      records.set(name(command), record)
      history.set(name(command), [...(history.get(name(command)) ?? []), record])
    }

    const expectedOf = (
      command: { readonly owner: 0 | 1; readonly id: string },
      expectation: typeof Expectation.Type
    ): Expected => {
      const live = liveOf(command)
      switch (expectation) {
        case "record":
          return live ?? history.get(name(command))?.at(-1) ?? 1
        case "old record":
          return history.get(name(command))?.at(-2) ?? 1
        case "version":
          return live?.version ?? 1
        case "higher version":
          return (live?.version ?? 0) + 1
        case "nothing":
          return 0
      }
    }

    const expiresAt = (timeToLive: number | undefined) =>
      timeToLive === undefined ? undefined : DateTime.makeUnsafe(now + timeToLive * 500)

    /** What the contract says of a compare-and-set: undefined where it goes through. */
    const refusal = (live: VersionedRecord | undefined, expected: Expected) => {
      if (expected === 0) return live === undefined ? undefined : "VersionConflict"
      if (live === undefined) return "RecordNotFound"
      const same =
        typeof expected === "number"
          ? live.version === expected
          : live.version === expected.version && live.writeId === expected.writeId
      return same ? undefined : "VersionConflict"
    }

    switch (command._tag) {
      case "Get": {
        const live = liveOf(command)
        const get = backend.get(keyOf(owners[command.owner], command.id))
        if (live === undefined) yield* failsWith(get, "RecordNotFound")
        else assertSame(yield* get, live)
        break
      }
      case "Put": {
        const data = `write ${writes++}`
        const key = keyOf(owners[command.owner], command.id)
        written(command, data, yield* backend.put(key, data, { expiresAt: expiresAt(command.timeToLive) }))
        break
      }
      case "PutIf": {
        const data = `write ${writes++}`
        const live = liveOf(command)
        const expected = expectedOf(command, command.expectation)
        const options = { expiresAt: expiresAt(command.timeToLive) }
        const put = backend.putIfVersion(keyOf(owners[command.owner], command.id), data, expected, options)
        switch (refusal(live, expected)) {
          case undefined:
            written(command, data, yield* put)
            break
          case "RecordNotFound":
            yield* failsWith(put, "RecordNotFound")
            break
          case "VersionConflict": {
            const conflict = yield* failsWith(put, "VersionConflict")
            assert.strictEqual(conflict.expected, typeof expected === "number" ? expected : expected.version)
            assert.strictEqual(conflict.actual, live?.version)
            if (conflict.current !== undefined && live !== undefined) assertSame(conflict.current, live)
          }
        }
        break
      }
      case "GetMany": {
        const found = yield* backend.getMany(command.targets.map((target) => keyOf(owners[target.owner], target.id)))
        const live = command.targets.map(liveOf)
        assert.deepStrictEqual(
          found.map((record) => record?.writeId),
          live.map((record) => record?.writeId)
        )
        break
      }
      case "Commit": {
        const { owner } = command
        const commands = Array.from(new Map(command.steps.map((step) => [step.id, { ...step, owner }])).values())
        const steps = commands.map((step): Step => {
          const { expectation, id, kind: _tag, timeToLive } = step
          const expected = expectedOf(step, expectation)
          if (_tag !== "Write") return { _tag, id, expected }
          return { _tag, id, expected, data: `write ${writes++}`, expiresAt: expiresAt(timeToLive) }
        })
        const refusals = commands.flatMap((step, i) => {
          const { _tag, expected, id } = steps[i] as Step
          const live = liveOf(step)
          const isWrongRemoval = _tag === "Remove" && expected === 0
          const tag = isWrongRemoval ? (live ? "VersionConflict" : "RecordNotFound") : refusal(live, expected)
          return tag === undefined ? [] : [{ id, tag, live } as const]
        })
        const commit = backend.commit(owners[owner], steps)
        const [first] = refusals
        if (first !== undefined) {
          const error = yield* failsWith(commit, first.tag)
          assert.strictEqual(error.key.id, first.id)
          if (error._tag === "VersionConflict") assert.strictEqual(error.actual, first.live?.version)
          break
        }
        let isFirst = true
        for (const [i, record] of (yield* commit).entries()) {
          const [step, made] = [commands[i], steps[i]]
          if (step === undefined || made === undefined) continue
          if (made._tag === "Write" && record !== undefined) {
            written(step, made.data, record, isFirst)
            isFirst = false
          }
          if (made._tag === "Remove") records.delete(name(step))
          assert.strictEqual(record !== undefined, made._tag === "Write")
        }
        break
      }
      case "Delete": {
        const live = liveOf(command)
        assert.strictEqual(yield* backend.delete(keyOf(owners[command.owner], command.id)), live !== undefined)
        if (live !== undefined) records.delete(name(command))
        break
      }
      case "DeleteIf": {
        const live = liveOf(command)
        const expected = expectedOf(command, command.expectation)
        const remove = backend.deleteIfVersion(keyOf(owners[command.owner], command.id), expected)
        if (live === undefined) {
          yield* failsWith(remove, "RecordNotFound")
        } else if (refusal(live, expected) === undefined) {
          yield* remove
          records.delete(name(command))
        } else {
          assert.strictEqual((yield* failsWith(remove, "VersionConflict")).actual, live.version)
        }
        break
      }
      case "List": {
        const listed = yield* listAll(prefixOf(owners[command.owner], command.idPrefix), command)
        const live = ids.flatMap((id) => liveOf({ owner: command.owner, id }) ?? [])
        const matching = live.filter((record) => record.key.id.startsWith(command.idPrefix))
        assert.deepStrictEqual(idsOf(listed), inOrder(idsOf(matching), command.order))
        for (const record of listed) {
          const same = matching.find((other) => other.key.id === record.key.id)
          if (same !== undefined) assertSame(record, same)
        }
        break
      }
      case "Advance":
        yield* TestClock.adjust(command.halfSeconds * 500)
        break
      case "Cleanup":
        yield* backend.cleanupExpired
    }
  }
})
