/** Reads many records: in one request if the engine can, and those that it left out again. */
import * as Effect from "effect/Effect"
import { type Backend, makeBackend } from "../../StorageError.ts"
import type { StorageKey } from "../../StorageKey.ts"
import type { Attempts } from "./attempts.ts"

/** How many records are read at the same time if the engine reads them one by one. */
const concurrency = 16

/** The functions of an engine that read. */
interface Reads<A> {
  readonly read: (key: StorageKey) => Effect.Effect<A | undefined, Backend>
  readonly readMany?: (
    keys: ReadonlyArray<StorageKey>
  ) => Effect.Effect<ReadonlyArray<A | undefined | "Unread">, Backend>
}

export const makeReadMany = <A extends object>(
  { read: readOne, readMany }: Reads<A>,
  { read }: Attempts
): ((keys: ReadonlyArray<StorageKey>) => Effect.Effect<ReadonlyArray<A | undefined>, Backend>) => {
  if (readMany === undefined) {
    return (keys) => Effect.forEach(keys, (key) => read("getMany", readOne(key), () => readOne(key)), { concurrency })
  }
  return (keys) => {
    const found: Array<A | undefined> = new Array(keys.length).fill(undefined)
    let unread = keys.map((key, position) => ({ key, position }))

    /**
     * Keeps what was read, and asks for the records that were left out. An answer has a largest size, so an answer with
     * some of the records is no failure. If an answer has none of them, the attempt fails.
     */
    const keep = (answer: ReturnType<typeof readMany>): Effect.Effect<typeof found, Backend> =>
      Effect.flatMap(answer, (records) => {
        const asked = unread.length
        unread = unread.filter(({ position }, i) => {
          const record = records[i]
          if (record === "Unread") return true
          found[position] = record
          return false
        })
        if (unread.length === 0) return Effect.succeed(found)
        return unread.length < asked ? readUnread() : leftOut(unread.length, keys.length)
      })

    const readUnread = () => keep(readMany(unread.map(({ key }) => key)))

    return read("getMany", readUnread(), readUnread)
  }
}

const leftOut = (count: number, asked: number) => {
  const description = `The engine has left out ${count} of ${asked} records`
  return Effect.fail(makeBackend({ reason: "Throttled", outcome: "not-applied", description }))
}
