import * as Arbitrary from "effect/Arbitrary"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import { type Order, type Page, StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import * as StorageKey from "../../StorageKey.ts"
import * as StoragePrefix from "../../StoragePrefix.ts"
import * as assert from "./assert.ts"

export const newOwner = Effect.sync(() => `owner-${crypto.randomUUID()}`)

export const keyOf = (owner: string, id: string) => StorageKey.makeUnsafe({ owner, id })

export const prefixOf = (owner: string, idPrefix = "") => StoragePrefix.makeUnsafe({ owner, idPrefix })

export const inSeconds = (seconds: number) => Effect.map(DateTime.now, DateTime.add({ seconds }))

/** Moves time on to the next whole second, so that what a case adds to it is exact. */
export const toWholeSecond = Effect.flatMap(Clock.currentTimeMillis, (now) => TestClock.adjust(1000 - (now % 1000)))

const encoder = new TextEncoder()

export const compareUtf8 = (a: string, b: string): number => {
  const [x, y] = [encoder.encode(a), encoder.encode(b)]
  for (let i = 0; i < x.length && i < y.length; i++) {
    const difference = (x[i] ?? 0) - (y[i] ?? 0)
    if (difference !== 0) return difference
  }
  return x.length - y.length
}

export const inOrder = (ids: Iterable<string>, order: Order): Array<string> => {
  const sorted = Array.from(ids).sort(compareUtf8)
  return order === "ascending" ? sorted : sorted.reverse()
}

/** A record as plain data, so that a failed comparison reads well. */
export const view = ({ data, expiresAt, key, version, writeId }: VersionedRecord) => ({
  owner: key.owner,
  id: key.id,
  data,
  version,
  writeId,
  expiresAt: expiresAt?.epochMilliseconds
})

export const assertSame = (actual: VersionedRecord, expected: VersionedRecord) =>
  assert.deepStrictEqual(view(actual), view(expected))

/** Asserts that an Effect fails with an error of the tag, and returns the error. */
export const failsWith = <A, E extends { readonly _tag: string }, R, T extends E["_tag"]>(
  effect: Effect.Effect<A, E, R>,
  tag: T
): Effect.Effect<Extract<E, { readonly _tag: T }>, A, R> =>
  Effect.map(Effect.flip(effect), (error) => {
    assert.strictEqual(error._tag, tag)
    return error as Extract<E, { readonly _tag: T }>
  })

export const dies = <A, E, R>(effect: Effect.Effect<A, E, R>, message: RegExp) =>
  Effect.map(Effect.exit(effect), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause), "expected a defect")
    assert.match(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", message)
  })

/** All pages of a listing, one after another, with something done between them. */
export const listPages = Effect.fnUntraced(function* (
  prefix: StoragePrefix.StoragePrefix,
  options: { readonly limit?: number; readonly order?: Order } = {},
  between: Effect.Effect<unknown, unknown, StorageBackend> = Effect.void
) {
  const backend = yield* StorageBackend
  const pages: Array<Page> = []
  let cursor: string | undefined
  do {
    const page = yield* backend.listByPrefix(prefix, { ...options, cursor })
    assert.isAtMost(page.records.length, options.limit ?? 100)
    pages.push(page)
    assert.isBelow(pages.length, 3000, "the pages do not come to an end")
    cursor = page.cursor
    yield* between
  } while (cursor !== undefined)
  return pages
})

export const listAll = (
  prefix: StoragePrefix.StoragePrefix,
  options?: { readonly limit?: number; readonly order?: Order }
) => Effect.map(listPages(prefix, options), (pages) => pages.flatMap((page) => page.records))

export const idsOf = (records: ReadonlyArray<VersionedRecord>) => records.map((record) => record.key.id)

/** Puts many records, some at once. */
export const putAll = (owner: string, ids: Iterable<string>, expiresAt?: DateTime.Utc) =>
  StorageBackend.use((backend) =>
    Effect.forEach(ids, (id) => backend.put(keyOf(owner, id), `data of ${id}`, { expiresAt }), { concurrency: 16 })
  )

/** Adds to a counter, on from what a conflict carries or a read gives, until it is done. Others run in between. */
export const increment = (backend: StorageBackend["Service"], key: StorageKey.StorageKey) => {
  const on = (record: VersionedRecord): Effect.Effect<VersionedRecord, unknown> =>
    Effect.yieldNow.pipe(
      Effect.andThen(backend.putIfVersion(key, String(Number(record.data) + 1), record)),
      Effect.catchTag("VersionConflict", (conflict) =>
        Effect.flatMap(conflict.current === undefined ? backend.get(key) : Effect.succeed(conflict.current), on)
      )
    )
  return Effect.flatMap(backend.get(key), on)
}

/** How many milliseconds a case waits for what must come. If it is missed, it never comes. */
export const PatienceMillis: Context.Reference<number> = Context.Reference(
  "effect-versioned-store/testing/PatienceMillis",
  { defaultValue: () => 10_000 }
)

/** Two clients of the engine, or two stores, by separate builds of the Layer. */
export const twoBuilds = <R, RIn>(layer: Layer.Layer<R | StorageBackend, unknown, RIn>) =>
  Effect.map(
    Effect.all([Layer.build(Layer.fresh(layer)), Layer.build(Layer.fresh(layer))]),
    ([first, second]) => [Context.get(first, StorageBackend), Context.get(second, StorageBackend)] as const
  )

/** Characters whose bytes, code units or use in some engine's syntax could lead one astray. */
const characters = [
  "a",
  "b",
  "B",
  "0",
  "!",
  " ",
  "/",
  ":",
  "#",
  "%",
  "*",
  "?",
  "[",
  "]",
  "{",
  "}",
  "_",
  "\\",
  "'",
  '"',
  "\u0001",
  "\n",
  "\u007f",
  "\u0080",
  "é",
  "e\u0301",
  "€",
  "\ud7ff",
  "\ue000",
  "\ufeff",
  "\uffff",
  "\u{10000}",
  "\u{1f600}",
  "\u{10ffff}"
] as const

export const text = (options: { readonly minLength?: number; readonly maxLength: number }) =>
  Arbitrary.array(Arbitrary.schema(Schema.Literals(characters)), options).pipe(Arbitrary.map((parts) => parts.join("")))

export const trickyIds = [
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  "0",
  "-1",
  ":",
  "a:b",
  "a%3Ab",
  "%",
  "%3A",
  "#",
  "a#b",
  "{}",
  "{a}b",
  "}a{",
  "*",
  "?",
  "[a-z]",
  "_",
  "'; DROP TABLE records; --",
  " ",
  " a",
  "a ",
  "..",
  "../a",
  "a/",
  "a//b",
  "TASK#a",
  "OWNER#a",
  "\u{1f469}\u200d\u{1f467}",
  "é",
  "e\u0301",
  "\ufeffa",
  "a\ufeff"
]

/** Loses the first answer alone. */
export const losesFirstAnswer = () => {
  let isFirst = true
  return () => {
    const isLost = isFirst
    isFirst = false
    return isLost
  }
}
