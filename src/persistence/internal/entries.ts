/**
 * Values of one owner under keys of any kind, with times to live exact to the millisecond. Effect's own stores are made
 * of them.
 */
import * as Clock from "effect/Clock"
import * as Digest from "effect/crypto/Digest"
import type * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import type { VersionConflict } from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import * as StoragePrefix from "../../StoragePrefix.ts"
import * as VersionedStore from "../../VersionedStore.ts"

/** How many requests of one operation run at the same time: as many as the AWS SDK has sockets by default. */
export const concurrency = 50

const encoder = new TextEncoder()

/** Whether a key can be an id unchanged. A key that starts like a hash can't. */
export const isPlain = (idPrefix: string, key: string): boolean =>
  key !== "" &&
  !key.startsWith("#") &&
  StorageKey.checkPart("id", `${idPrefix}${key}`, StorageKey.maxIdBytes) === undefined

/**
 * The id of a key that can't be an id itself. The hash is over the key's JSON, since JSON writes different lone
 * surrogates differently, and UTF-8 does not.
 */
export const hash = (key: string): Effect.Effect<string, never, Digest.Digest> =>
  Digest.Digest.use((digest) =>
    Effect.map(digest.digestHex(Digest.sha256, encoder.encode(JSON.stringify(key))), (hex) => `#${hex}`)
  )

/** The length of an id that `hash` makes. */
export const hashLength = "#".length + 2 * Digest.sha256.outputLength

const HashedEntry = Schema.fromJsonString(Schema.Struct({ key: Schema.String }))

interface Options {
  readonly owner: string
  readonly retrySchedule?: Schedule.Schedule<unknown, VersionConflict> | undefined
}

export const makeEntries = Effect.fnUntraced(function* <A>(
  { owner, retrySchedule }: Options,
  idPrefix: string,
  value: Schema.Codec<A, unknown>
) {
  const backend = yield* StorageBackend
  const digest = yield* Effect.context<Digest.Digest>()
  const store = yield* VersionedStore.make({
    idPrefix,
    schema: Schema.Struct({
      value,
      /** Exact to the millisecond. The record's own expiry is rounded up to a second. */
      expiresAt: Schema.optionalKey(Schema.DateTimeUtc),
      /** The key, if the id is a hash of it. */
      key: Schema.optionalKey(Schema.String)
    }),
    retrySchedule
  })

  const locate = Effect.fnUntraced(function* (key: string) {
    return { owner, id: isPlain(idPrefix, key) ? key : yield* Effect.provideContext(hash(key), digest) }
  })

  const keyOf = ({ data, key }: VersionedRecord) => {
    const id = key.id.slice(idPrefix.length)
    return id.startsWith("#")
      ? Effect.map(Schema.decodeEffect(HashedEntry)(data), ({ key }) => key)
      : Effect.succeed(id)
  }

  /** The records as they are stored, so that records that do not decode are counted and cleared too. */
  const records = (keyPrefix = "", limit?: number) =>
    Stream.paginate(undefined as string | undefined, (cursor) =>
      Effect.fromResult(StoragePrefix.make({ owner, idPrefix: `${idPrefix}${keyPrefix}` })).pipe(
        Effect.flatMap((prefix) => backend.listByPrefix(prefix, { cursor, limit })),
        Effect.catchTag("InvalidCursor", Effect.die),
        Effect.map((page) => [page.records, Option.fromUndefinedOr(page.cursor)])
      )
    )
  const all = records()

  /**
   * The records whose keys start with a prefix. If the prefix is plain, they are the ids with that prefix and some of
   * the hashed keys. If the prefix is not plain, for example half a character, they may have any id.
   */
  const startingWith = (prefix: string) => {
    const filtered = (found: typeof all) =>
      Stream.filterEffect(found, (record) => Effect.map(keyOf(record), (key) => key.startsWith(prefix)))
    return isPlain(idPrefix, prefix) ? Stream.concat(records(prefix), filtered(records("#"))) : filtered(all)
  }

  const remove = <E>(found: Stream.Stream<VersionedRecord, E>) =>
    Stream.runDrain(Stream.mapEffect(found, ({ key }) => backend.delete(key), { concurrency, unordered: true }))

  const unexpired = (found: Effect.Success<ReturnType<typeof store.getOption>>, nowMillis: number): A | undefined => {
    if (Option.isNone(found)) return undefined
    const { expiresAt, value } = found.value.value
    return expiresAt !== undefined && expiresAt.epochMilliseconds <= nowMillis ? undefined : value
  }

  return {
    get: Effect.fnUntraced(function* (key: string) {
      const found = yield* store.getOption(yield* locate(key))
      return unexpired(found, yield* Clock.currentTimeMillis)
    }),

    /** The values of entries that do not decode are undefined. */
    getMany: Effect.fnUntraced(function* (keys: ReadonlyArray<string>) {
      const located = yield* Effect.forEach(keys, locate)
      const found = yield* store.getMany(
        owner,
        located.map(({ id }) => id),
        { onInvalid: "skip" }
      )
      const now = yield* Clock.currentTimeMillis
      return found.map((record) => unexpired(record, now))
    }),

    set: Effect.fnUntraced(function* (key: string, value: A, expiresAt?: DateTime.Utc) {
      const located = yield* locate(key)
      const entry = {
        value,
        ...(expiresAt === undefined ? {} : { expiresAt }),
        ...(located.id === key ? {} : { key })
      }
      yield* store.set(located, entry, { expiresAt })
    }),

    modify: Effect.fnUntraced(function* (key: string, f: (value: A) => A) {
      const updated = store.update(yield* locate(key), (entry) => ({ ...entry, value: f(entry.value) }))
      return (yield* Effect.catchTag(updated, "RecordNotFound", () => Effect.undefined))?.value.value
    }),

    remove: (key: string) => Effect.asVoid(Effect.flatMap(locate(key), store.remove)),
    clear: remove(all),
    clearPrefix: (prefix: string) => remove(startingWith(prefix)),
    size: Stream.runCount(all),
    isEmpty: Effect.map(Stream.runHead(records("", 1)), Option.isNone),
    keys: Stream.runCollect(Stream.mapEffect(all, keyOf))
  }
})
