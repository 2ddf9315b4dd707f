/**
 * How the messages of queues are stored, and the atomic steps in which they move.
 *
 * A message that waits is one record. Its id says when it is due, and how many deliveries have begun:
 * `!queue/due/<queue>:<due>-<sequence>-<move>-<attempts>`. So the first records in the order of ids are the next
 * messages, however many wait. A delivery moves the message to the time at which its lease ends, with one attempt more.
 * If the process dies, the message is due again at that time, and nobody has to look for it. Its data stays the same
 * from the offer to the end, so it always fits.
 *
 * **The fence**: each move removes exactly the write that was read, in the same commit that writes the new record. So a
 * process whose lease has ended, and whose message has moved on, changes nothing any more.
 *
 * The ids that were offered are records of their own, `!queue/id/<queue>:<id>`. What is done leaves a record under
 * `!queue/done/`, and what has failed one under `!queue/failed/`, both in the order of time. So a cleanup reads only
 * what it removes.
 */
import type * as Digest from "effect/crypto/Digest"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { byteLength } from "../../internal/utf8.ts"
import * as StorageBackend from "../../StorageBackend.ts"
import type * as StorageError from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import * as StoragePrefix from "../../StoragePrefix.ts"
import { hash, hashLength, isPlain } from "./entries.ts"

type Step = StorageBackend.Step
type Write = StorageBackend.Write
type VersionedRecord = StorageBackend.VersionedRecord

/** Ids of tasks do not start with `!`, so the owner may have tasks as well. */
export const idPrefix = "!queue/"
const [duePrefix, idsPrefix, donePrefix, failedPrefix] = ["due", "id", "done", "failed"].map(
  (kind) => `${idPrefix}${kind}/`
) as [string, string, string, string]

/** The data of a message. It has no attempts and no times, which are in its record's id. */
const Content = Schema.fromJsonString(
  Schema.Struct({
    queue: Schema.String,
    id: Schema.String,
    element: Schema.optionalKey(Schema.Unknown),
    /** The id of the record that keeps the message from being offered twice. Only a caller's own id has one. */
    offered: Schema.optionalKey(Schema.String)
  })
)
export type Content = typeof Content.Type
const decodeContent = Schema.decodeOption(Content)

/** A message as it stands in storage. */
export interface Message {
  readonly record: VersionedRecord
  readonly dueMillis: number
  /** Orders messages of one process that are due at the same time. */
  readonly sequence: string
  /** How many deliveries have begun. */
  readonly attempts: number
  /** None if another program has written the record. */
  readonly content: Option.Option<Content>
}

/** Where a queue's records are. */
export interface Names {
  readonly due: string
  readonly offered: (id: string) => Effect.Effect<string, never, Digest.Digest>
}

/** The names of a queue's records. A name that does not fit is hashed, as a key of a `StorageKeyValueStore` is. */
export const namesOf = Effect.fnUntraced(function* (queue: string) {
  // The colons of a name are escaped, and one colon is added at the end. So no name starts with another name.
  const name = StorageKey.formatText(queue, "")
  const longest = `${duePrefix}${"#".repeat(Math.max(hashLength, lengthOfTail))}`
  const part = isPlain(longest, name) ? name : `${yield* hash(queue)}:`
  const idsOfQueue = `${idsPrefix}${part}`
  return {
    due: `${duePrefix}${part}`,
    offered: (id) =>
      isPlain(idsOfQueue, id)
        ? Effect.succeed(`${idsOfQueue}${id}`)
        : Effect.map(hash(id), (id) => `${idsOfQueue}${id}`)
  } satisfies Names
})

/** A time in hexadecimal digits that sort like numbers. They hold every safe integer. */
const formatMillis = (millis: number): string =>
  Math.min(Math.max(Math.ceil(millis), 0), Number.MAX_SAFE_INTEGER)
    .toString(16)
    .padStart(14, "0")

const tail = /^([0-9a-f]{14})-([0-9a-f]{8})-[0-9a-f-]{36}-([0-9]+)$/
const lengthOfTail = 14 + 1 + 8 + 1 + 36 + 1 + String(Number.MAX_SAFE_INTEGER).length

/** Each move gives a message an id of its own, so a record with such an id is that move's. */
const formatTail = (dueMillis: number, sequence: string, attempts: number): string =>
  `${formatMillis(dueMillis)}-${sequence}-${crypto.randomUUID()}-${attempts}`

/** How many steps of 100 a batch of moves takes, and about how many of the 4,000,000 bytes. */
export const maxBatch = StorageBackend.maxCommitSteps / 2
const maxBatchBytes = 3_000_000

/** The first messages that can move together in one commit. */
export const batchOf = (messages: ReadonlyArray<Message>, count: number): ReadonlyArray<Message> => {
  let bytes = 0
  const end = messages.findIndex(({ record }, i) => {
    bytes += byteLength(record.data) + 2 * (StorageKey.maxIdBytes + byteLength(record.key.owner) + 200)
    return i > 0 && bytes > maxBatchBytes
  })
  return messages.slice(0, Math.min(count, maxBatch, end < 0 ? messages.length : end))
}

/** A commit that was refused: some message is not where it was read, since another process was first. */
const isRefused = (error: {
  readonly _tag: string
}): error is StorageError.RecordNotFound | StorageError.VersionConflict =>
  error._tag === "RecordNotFound" || error._tag === "VersionConflict"

type CommitError = StorageError.CapacityExceeded | StorageError.Backend

export const make = Effect.fnUntraced(function* (owner: string) {
  const backend = yield* StorageBackend.StorageBackend
  let offers = 0

  const keyOf = (id: string) => StorageKey.makeUnsafe({ owner, id })

  /** Runs steps, and returns what they wrote, or None if they were refused. */
  const commit = (
    steps: ReadonlyArray<Step>
  ): Effect.Effect<Option.Option<ReadonlyArray<VersionedRecord | undefined>>, CommitError> =>
    Effect.matchEffect(backend.commit(owner, steps), {
      onSuccess: (written) => Effect.succeedSome(written),
      onFailure: (error) => {
        if (isRefused(error)) return Effect.succeedNone
        // The data is JSON, and a batch is within the limits of a commit.
        return error._tag === "InvalidCommit" || error._tag === "InvalidData" ? Effect.die(error) : Effect.fail(error)
      }
    })

  const removed = ({ record }: Pick<Message, "record">): Step => ({
    _tag: "Remove",
    id: record.key.id,
    expected: record
  })
  const create = (id: string, data: string): Write => ({ _tag: "Write", id, expected: 0, data })

  /** Where a message goes if it is due at another time. */
  const moved = ({ record, sequence }: Message, dueMillis: number, attempts: number): Write => {
    const end = record.key.id.lastIndexOf(":") + 1
    return create(`${record.key.id.slice(0, end)}${formatTail(dueMillis, sequence, attempts)}`, record.data)
  }

  const toMessage = (record: VersionedRecord): Message | undefined => {
    const [, due, sequence = "", attempts] = tail.exec(record.key.id.slice(record.key.id.lastIndexOf(":") + 1)) ?? []
    if (due === undefined) return undefined
    const content = decodeContent(record.data)
    return { record, dueMillis: Number.parseInt(due, 16), sequence, attempts: Number(attempts), content }
  }

  return {
    removed,
    moved,
    commit,

    /** The record that a commit's write of this id has made, if it has landed. */
    find: (ids: ReadonlyArray<string>) => backend.getMany(ids.map(keyOf)),

    /** What leaves a record of the time behind, until a cleanup. */
    done: (content: Content, nowMillis: number): ReadonlyArray<Step> =>
      content.offered === undefined
        ? []
        : [create(`${donePrefix}${formatTail(nowMillis, "", 0)}`, JSON.stringify({ offered: content.offered }))],

    /** Keeps a message that has failed for good, with the last failure if there is room for it. */
    bury: (message: Message, nowMillis: number, lastFailure: string) => {
      const { attempts, record } = message
      const keep = (data: string) =>
        commit([removed(message), create(`${failedPrefix}${formatTail(nowMillis, "", attempts)}`, data)])
      return Effect.catchTag(keep(withFailure(record.data, lastFailure)), "CapacityExceeded", () => keep(record.data))
    },

    /** Stores a message. One request. If the caller's own id was offered before, it does nothing. */
    offer: Effect.fnUntraced(function* (
      names: Names,
      queue: string,
      message: { readonly id: string; readonly element: unknown; readonly isCustomId: boolean },
      dueMillis: number
    ) {
      const sequence = (offers++ >>> 0).toString(16).padStart(8, "0")
      const id = `${names.due}${formatTail(dueMillis, sequence, 0)}`
      const offered = message.isCustomId ? yield* names.offered(message.id) : undefined
      const data = JSON.stringify({
        queue,
        id: message.id,
        element: message.element,
        ...(offered === undefined ? {} : { offered })
      })
      yield* commit([...(offered === undefined ? [] : [create(offered, "{}")]), create(id, data)])
    }),

    /** Signals that a message of a queue may have come, or gone. */
    hints: (names: Names) => backend.hints(StoragePrefix.makeUnsafe({ owner, idPrefix: names.due })),

    /** The next messages of a queue, in the order of the times at which they are due. One request. */
    next: (names: Names, limit: number) =>
      backend.listByPrefix(StoragePrefix.makeUnsafe({ owner, idPrefix: names.due }), { limit }).pipe(
        Effect.catchTag("InvalidCursor", Effect.die),
        Effect.map(({ records }) => records.flatMap((record) => toMessage(record) ?? []))
      ),

    /**
     * Removes what was done, or has failed, up to a time. With it goes the record that keeps an id from being offered
     * again. One request for each 50, and one for each page.
     */
    clean: Effect.fnUntraced(function* (kind: "done" | "failed", cutoffMillis: number) {
      const prefix = kind === "done" ? donePrefix : failedPrefix
      const end = `${prefix}${formatMillis(Math.floor(cutoffMillis))}.`
      const stepsOf = (record: VersionedRecord): ReadonlyArray<Step> => {
        const offered = Option.getOrUndefined(decodeOffered(record.data))?.offered
        return [
          removed({ record }),
          ...(offered === undefined ? [] : [{ _tag: "Remove", id: offered, expected: 1 } as const])
        ]
      }
      if (cutoffMillis < 0) return
      for (;;) {
        const page = yield* Effect.catchTag(
          backend.listByPrefix(StoragePrefix.makeUnsafe({ owner, idPrefix: prefix }), { limit: maxBatch }),
          "InvalidCursor",
          Effect.die
        )
        const old = page.records.filter(({ key }) => key.id < end)
        if (old.length === 0) return
        if (Option.isSome(yield* commit(old.flatMap(stepsOf)))) continue
        // Another cleanup was first with some of them, or another program has removed an id.
        yield* Effect.forEach(
          old,
          Effect.fnUntraced(function* (record) {
            if (Option.isNone(yield* commit(stepsOf(record)))) yield* commit([removed({ record })])
          })
        )
      }
    })
  }
})

export type Messages = Effect.Success<ReturnType<typeof make>>

const decodeOffered = Schema.decodeOption(
  Schema.fromJsonString(Schema.Struct({ offered: Schema.optionalKey(Schema.String) }))
)

/** A failure's text is cut, so that it takes little room beside the message. */
const maxFailureLength = 8192

/** The data of a message that has failed, with its last failure. Data of another program stays as it is. */
const withFailure = (data: string, lastFailure: string): string =>
  data.startsWith("{") && data.endsWith("}")
    ? `${data.slice(0, -1)},"lastFailure":${JSON.stringify(lastFailure.slice(0, maxFailureLength))}}`
    : data
