/** The statements of the operations with their parameters. Each operation except a cleanup and a commit sends one. */
import * as Effect from "effect/Effect"
import type { Engine, Expectation, Present, Refused, Removed, StoredRecord, Write, Written } from "../../../Engine.ts"
import type { Backend } from "../../../StorageError.ts"
import type { StorageKey } from "../../../StorageKey.ts"
import { cleanupBatch, clockSlackSeconds } from "../limits.ts"
import { makeCommit } from "./commit.ts"
import { bigintOf, bytesOf, type Layout, parse, parseIfAny, textOf } from "./layout.ts"
import { asRead, type Send } from "./send.ts"
import { statementsOf } from "./statements.ts"

const parametersOf = ({ id, owner }: StorageKey) => [bytesOf(owner), bytesOf(id)]

const parametersOfWrite = ({ id, owner }: StorageKey, { data, expiresAtSeconds, increment, writeId }: Write) => [
  bytesOf(owner),
  bytesOf(id),
  bigintOf(increment),
  bytesOf(data),
  writeId,
  bigintOf(expiresAtSeconds)
]

const parametersOfExpected = (expectation: Present, nowSeconds: number) => {
  const live = [bigintOf(nowSeconds), bigintOf(expectation.version)]
  switch (expectation._tag) {
    case "Version":
      return live
    case "Write":
      return [...live, expectation.writeId]
    case "Data":
      return [...live, bytesOf(expectation.data)]
  }
}

/** If a channel is given, each write notifies those who listen on it. */
export const makeEngine = (send: Send, layout: Layout, channel?: string): Engine => {
  const statements = statementsOf(layout, channel)
  const read = (text: string, parameters: ReadonlyArray<unknown>) =>
    Effect.mapError(send.run(text, parameters), (error) => asRead(error))

  /** The answer to a write: one row if it was made, with its version, or the record that refused it, or no row. */
  const write = <A>(
    key: StorageKey,
    text: string,
    parameters: ReadonlyArray<unknown>,
    made: (version: number) => A
  ): Effect.Effect<A | Refused, Backend> =>
    Effect.flatMap(send.run(text, parameters), ([row]): Effect.Effect<A | Refused, Backend> => {
      if (row?.[0] === true) return Effect.succeed(made(Number(row[1])))
      return Effect.map(parseIfAny(key, row?.slice(1)), (current) => ({ _tag: "Refused", current }))
    })

  const written = (version: number): Written => ({ _tag: "Written", version })
  const removed = (): Removed => ({ _tag: "Removed" })

  return {
    read: (key) => Effect.flatMap(read(statements.read, parametersOf(key)), ([row]) => parseIfAny(key, row)),

    readMany: Effect.fnUntraced(function* (keys) {
      const owners = keys.map(({ owner }) => bytesOf(owner))
      const rows = yield* read(statements.readMany, [owners, keys.map(({ id }) => bytesOf(id))])
      const stored: Array<StoredRecord | undefined> = keys.map(() => undefined)
      for (const [position, ...row] of rows) {
        const index = Number(position) - 1
        stored[index] = yield* parse(keys[index] as StorageKey, row)
      }
      return stored
    }),

    put: (key, newWrite) => write(key, statements.put, parametersOfWrite(key, newWrite), written),

    swap: (key, newWrite, expectation: Expectation, nowSeconds) =>
      expectation._tag === "Absent"
        ? write(key, statements.create, [...parametersOfWrite(key, newWrite), bigintOf(nowSeconds)], written)
        : write(
            key,
            statements.update[expectation._tag],
            [...parametersOfWrite(key, newWrite), ...parametersOfExpected(expectation, nowSeconds)],
            written
          ),

    remove: (key, expectation, nowSeconds) =>
      expectation === undefined
        ? write(key, statements.remove.Live, [...parametersOf(key), bigintOf(nowSeconds)], removed)
        : write(
            key,
            statements.remove[expectation._tag],
            [...parametersOf(key), ...parametersOfExpected(expectation, nowSeconds)],
            removed
          ),

    commit: makeCommit(send, statements),

    list: Effect.fnUntraced(function* ({ idPrefix, owner }, { after, limit, order }, nowSeconds) {
      // No id has U+0000, so an id followed by U+0000 is the next possible id. No UTF-8 has the byte 0xff, so 0xff
      // after the prefix is greater than every id with that prefix.
      const end = new Uint8Array([...bytesOf(idPrefix), 0xff])
      const [from, to] =
        order === "ascending"
          ? [bytesOf(after === undefined ? idPrefix : `${after}\0`), end]
          : [bytesOf(idPrefix), after === undefined ? end : bytesOf(after)]
      const range = [bytesOf(owner), from, to, bigintOf(limit + 1), bigintOf(nowSeconds)]
      const rows = yield* read(statements.list[order], range)
      const records: Array<StoredRecord & { readonly id: string }> = []
      const examined = rows.slice(0, limit)
      let last: string | undefined
      for (const [bytes, version, data, writeId, expiresAt, isLive] of examined) {
        last = textOf(bytes)
        if (isLive !== true) continue
        const stored = yield* parse({ owner, id: last }, [version, data, writeId, expiresAt])
        records.push({ id: last, ...stored })
      }
      const hasMore = examined.length < Number(rows[0]?.[6] ?? 0)
      return { records, next: hasMore ? last : undefined }
    }),

    cleanup: Effect.fnUntraced(function* (nowSeconds) {
      for (let removed = 0; ; ) {
        const [row] = yield* send.run(statements.cleanup, [bigintOf(nowSeconds - clockSlackSeconds)])
        const count = Number(row?.[0])
        removed += count
        if (count < cleanupBatch) return removed
      }
    })
  }
}
