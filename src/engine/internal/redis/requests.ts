/** The commands and scripts of the operations to Redis. Each operation except a cleanup sends one. */
import * as Effect from "effect/Effect"
import {
  type CommitRefused,
  type Engine,
  type Expectation,
  isExpired,
  type Refused,
  type Removed,
  type Step,
  type StoredRecord,
  type Write,
  type Written
} from "../../../Engine.ts"
import type { Backend } from "../../../StorageError.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import { cleanupBatch, clockSlackSeconds } from "../limits.ts"
import { isSlotMoving } from "./failure.ts"
import { expiryPattern, fields, keysOf, parse } from "./layout.ts"
import {
  cleanupScript,
  forgetScript,
  listScript,
  makeChangeScripts,
  type Publish,
  readManyScript,
  type Script
} from "./scripts.ts"
import { asRead, type Commands } from "./send.ts"

/** An expectation as arguments of a script: its kind, the version, and the write id or the data that must match. */
type ExpectationArgs = readonly [kind: string, version: number, match: string]

const argsOf = (expectation: Expectation): ExpectationArgs => {
  switch (expectation._tag) {
    case "Absent":
      return ["nothing", 0, ""]
    case "Version":
      return ["version", expectation.version, ""]
    case "Write":
      return ["write", expectation.version, expectation.writeId]
    case "Data":
      return ["data", expectation.version, expectation.data]
  }
}

type Address = Pick<StorageKey, "id" | "owner">

export const makeEngine = (commands: Commands, keyPrefix: string, publish: Publish): Engine => {
  const scripts = makeChangeScripts(publish)
  const asReads = <A>(command: Effect.Effect<A, Backend>) => Effect.mapError(command, (error) => asRead(error))

  const evalRecord = <Reply>(
    recordScript: Script<Reply>,
    { id, owner }: Address,
    args: ReadonlyArray<string | number>
  ) => {
    const { expiry, index, record } = keysOf(keyPrefix, owner)
    return commands.run(recordScript, [record + id, index, expiry], [id, ...args])
  }

  const write = (
    key: StorageKey,
    { data, expiresAtSeconds, increment, writeId }: Write,
    expectation: ExpectationArgs,
    nowSeconds: number
  ): Effect.Effect<Written | Refused, Backend> => {
    const expiry =
      expiresAtSeconds === undefined
        ? ["", ""]
        : [expiresAtSeconds, Math.max(1, expiresAtSeconds - nowSeconds + clockSlackSeconds)]
    return Effect.flatMap(
      evalRecord(scripts.write, key, [nowSeconds, ...expectation, data, writeId, ...expiry, increment]),
      (reply): Effect.Effect<Written | Refused, Backend> =>
        reply.length === 1 ? Effect.succeed({ _tag: "Written", version: Number(reply[0]) }) : refusedBy(key, reply)
    )
  }

  const read = ({ id, owner }: Address) =>
    Effect.flatMap(
      asReads(commands.send<ReadonlyArray<string | null>>("HMGET", keysOf(keyPrefix, owner).record + id, ...fields)),
      (values) => parseIfAny(owner, id, values)
    )

  /**
   * Reads the record of an id that a listing found, if the record is live. The listing may have had no fields for the
   * id.
   */
  const readListed = Effect.fnUntraced(function* (key: Address, values: ReadonlyArray<string>, nowSeconds: number) {
    if (values.some((value) => value !== "")) return yield* parse(key.owner, key.id, values)
    const stored = yield* read(key)
    if (stored === undefined) yield* Effect.ignore(evalRecord(forgetScript, key, []))
    return stored === undefined || isExpired(stored, nowSeconds) ? undefined : stored
  })

  /** Reads the records of one owner, which are in one slot, by one script. */
  const readOwned = ([owner, asked]: OwnedKeys): Effect.Effect<ReadonlyArray<Positioned>, Backend> => {
    const { record } = keysOf(keyPrefix, owner)
    const names = asked.map(({ id }) => record + id)
    return asReads(commands.run(readManyScript, names, [])).pipe(
      Effect.flatMap((hashes) =>
        Effect.forEach(asked, ({ id, position }, i) =>
          Effect.map(parseIfAny(owner, id, hashes[i] ?? []), (stored) => ({ position, stored }))
        )
      ),
      // While a cluster moves the slot, the keys may be on two nodes, and no script can read them together.
      Effect.catchIf(isSlotMoving, () =>
        Effect.forEach(
          asked,
          ({ id, position }) => Effect.map(read({ owner, id }), (stored) => ({ position, stored })),
          { concurrency: 16 }
        )
      )
    )
  }

  return {
    read,

    readMany: (keys) => Effect.map(Effect.forEach(byOwner(keys), readOwned, { concurrency: "unbounded" }), inOrder),

    put: (key, newWrite, nowSeconds) => write(key, newWrite, ["anything", 0, ""], nowSeconds),

    swap: (key, newWrite, expectation, nowSeconds) => write(key, newWrite, argsOf(expectation), nowSeconds),

    remove: (key, expectation, nowSeconds) => {
      const expected = expectation ? argsOf(expectation) : ["live", 0, ""]
      return Effect.flatMap(
        evalRecord(scripts.remove, key, [nowSeconds, ...expected]),
        (reply): Effect.Effect<Removed | Refused, Backend> =>
          reply.length === 1 ? Effect.succeed({ _tag: "Removed" }) : refusedBy(key, reply)
      )
    },

    commit: makeCommit(commands, keyPrefix, scripts.commit),
    remembersCommits: true,

    list: Effect.fnUntraced(function* ({ idPrefix, owner }, { after = "", limit, order }, nowSeconds) {
      const { expiry, index, record } = keysOf(keyPrefix, owner)
      const args = [record, idPrefix, after, order, limit, nowSeconds]
      const [more, last, ...values] = yield* asReads(commands.run(listScript, [index, expiry], args))
      const records = yield* Effect.forEach(
        Array.from({ length: values.length / 5 }, (_, i) => values.slice(i * 5, i * 5 + 5)),
        ([id = "", ...hash]) =>
          Effect.map(readListed({ owner, id }, hash, nowSeconds), (stored) =>
            stored === undefined ? [] : [{ id, ...stored }]
          ),
        { concurrency: 16 }
      )
      return { records: records.flat(), next: more === "more" ? last : undefined }
    }),

    cleanup: makeCleanup(commands, keyPrefix)
  }
}

/** The keys of one owner, each with its position among all that are asked for. */
type OwnedKeys = readonly [owner: string, asked: ReadonlyArray<{ readonly id: string; readonly position: number }>]

interface Positioned {
  readonly position: number
  readonly stored: StoredRecord | undefined
}

const byOwner = (keys: ReadonlyArray<StorageKey>): Iterable<OwnedKeys> =>
  Map.groupBy(
    keys.map(({ id, owner }, position) => ({ id, owner, position })),
    ({ owner }) => owner
  )

const inOrder = (owned: ReadonlyArray<ReadonlyArray<Positioned>>): ReadonlyArray<StoredRecord | undefined> =>
  owned
    .flat()
    .toSorted((a, b) => a.position - b.position)
    .map(({ stored }) => stored)

/** Reads the record in the fields of a hash, if the hash is there. */
const parseIfAny = (owner: string, id: string, values: ReadonlyArray<string | null>) => {
  if (values.every((value) => value === null)) return Effect.undefined
  return parse(
    owner,
    id,
    values.map((value) => value ?? "")
  )
}

const makeCommit =
  (commands: Commands, keyPrefix: string, commitScript: Script<ReadonlyArray<string>>): NonNullable<Engine["commit"]> =>
  ({ steps, token, writeId }, nowSeconds) => {
    const owner = steps[0]?.key.owner ?? ""
    const { commit, expiry, index, record } = keysOf(keyPrefix, owner)
    const keys = [index, expiry, commit + token, ...steps.map(({ key }) => record + key.id)]
    return Effect.flatMap(
      commands.run(commitScript, keys, [nowSeconds, writeId, ...steps.flatMap(argsOfStep)]),
      Effect.fnUntraced(function* (reply) {
        if (reply.length === 1) return { _tag: "Committed" as const }
        const refusals: Array<CommitRefused["refusals"][number]> = []
        for (let at = 0; at < reply.length; at += 6) {
          const [index, stored, ...values] = reply.slice(at, at + 6)
          const id = steps[Number(index)]?.key.id ?? ""
          const current = stored === "" ? undefined : yield* parse(owner, id, values)
          refusals.push({ index: Number(index), current })
        }
        return { _tag: "CommitRefused" as const, refusals }
      })
    )
  }

const argsOfStep = (step: Step): ReadonlyArray<string | number> => {
  const written = step._tag === "Write" ? [String(step.version), step.data, step.expiresAtSeconds ?? ""] : ["", "", ""]
  const { expectation } = step
  const expected =
    expectation._tag === "Expired" ? ["expired", expectation.version, expectation.writeId ?? ""] : argsOf(expectation)
  return [step.key.id, step._tag.toLowerCase(), ...expected, ...written]
}

const refusedBy = (key: StorageKey, reply: ReadonlyArray<string>): Effect.Effect<Refused, Backend> =>
  reply.length === 0
    ? Effect.succeed({ _tag: "Refused", current: undefined })
    : Effect.map(parse(key.owner, key.id, reply), (current) => ({ _tag: "Refused", current }))

/** Scans for the owners' expiry sets, and removes the records that are due in each of them, in batches. */
const makeCleanup = (commands: Commands, keyPrefix: string): Engine["cleanup"] =>
  Effect.fnUntraced(function* (nowSeconds) {
    const scan = ["MATCH", expiryPattern(keyPrefix), "COUNT", "1000", "TYPE", "zset"]
    let [cursor, removed] = ["0", 0]
    do {
      const [next, found] = yield* commands.send<[string, ReadonlyArray<string>]>("SCAN", cursor, ...scan)
      for (const expiry of found) {
        const base = expiry.slice(0, -"expiry".length)
        const removeBatch = commands.run(
          cleanupScript,
          [`${base}index`, expiry],
          [`${base}record:`, nowSeconds - clockSlackSeconds]
        )
        for (let due = cleanupBatch; due === cleanupBatch; ) {
          const batch = yield* removeBatch
          due = batch[0]
          removed += batch[1]
        }
      }
      cursor = next
    } while (cursor !== "0")
    return removed
  })
