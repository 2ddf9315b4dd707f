/** The operations of the service that read, and the cleanup. */
import * as Effect from "effect/Effect"
import { maxKeysAtOnce, type StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import * as StorageError from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import { type Attempts, isSuccess } from "./attempts.ts"
import * as Cursor from "./cursor.ts"
import { type Instant, makeInstant } from "./instant.ts"
import { isExpiredAt, type LocalEngine, type StoredRecord } from "./model.ts"
import { makeReadMany } from "./readMany.ts"
import { problemOfPage, toRecord } from "./records.ts"

type Service = StorageBackend["Service"]

/** Promise 6: a page examines a bounded number of stored records. */
const maxRequestsPerPage = 4

// An engine in this process does its work at once, and returns a finished `Exit`. The service then answers at once as
// well: `isSuccess` comes before all closures that only a request across a network needs. In memory, those closures and
// the fiber's steps between them would take longer than the operation.

export const makeReads = (
  engine: LocalEngine,
  attempts: Attempts
): Pick<Service, "get" | "getMany" | "listByPrefix" | "cleanupExpired"> => {
  const { read } = attempts
  const readForGet = engine.readEventually ?? engine.read
  const readMany = makeReadMany(engine, attempts)
  return {
    get: (key) =>
      Effect.withFiber((fiber): ReturnType<Service["get"]> => {
        const first = readForGet(key)
        if (isSuccess(first)) return found(key, first.value, makeInstant(fiber))
        return Effect.flatMap(
          read("get", first, () => readForGet(key)),
          (stored) => found(key, stored, makeInstant(fiber))
        )
      }),

    getMany: (keys) =>
      Effect.withFiber((fiber): ReturnType<Service["getMany"]> => {
        if (keys.length > maxKeysAtOnce) {
          return Effect.die(new RangeError(`At most ${maxKeysAtOnce} records are read at once, not ${keys.length}`))
        }
        if (keys.length === 0) return Effect.succeed([])
        return Effect.map(readMany(keys), (stored) => {
          const now = makeInstant(fiber)
          return stored.map((record, i) =>
            record === undefined || isExpiredAt(record, now)
              ? undefined
              : toRecord(keys[i] as StorageKey.StorageKey, record)
          )
        })
      }),

    listByPrefix: Effect.fnUntraced(function* (prefix, { cursor, limit = 100, order = "ascending" } = {}) {
      const problem = problemOfPage(limit, order)
      if (problem !== undefined) return yield* Effect.die(problem)
      let after = cursor === undefined ? undefined : Cursor.decode(prefix, order, cursor)
      if (cursor !== undefined && after === undefined) return yield* new StorageError.InvalidCursor()
      const now = yield* Effect.withFiber((fiber) => Effect.succeed(makeInstant(fiber)))
      const records: Array<VersionedRecord> = []
      for (let requests = 0; requests < maxRequestsPerPage; requests++) {
        const range = { after, limit: limit - records.length, order }
        const list = () => engine.list(prefix, range, now)
        const chunk = yield* read("listByPrefix", list(), list)
        for (const stored of chunk.records) {
          records.push(toRecord(StorageKey.unchecked(prefix.owner, stored.id), stored))
        }
        after = chunk.next
        if (after === undefined || records.length === limit) break
      }
      return { records, cursor: after === undefined ? undefined : Cursor.encode(prefix, order, after) }
    }),

    cleanupExpired: Effect.withFiber((fiber) => {
      const now = makeInstant(fiber)
      const cleanup = () => engine.cleanup(now)
      return read("cleanupExpired", cleanup(), cleanup)
    })
  }
}

const found = (key: StorageKey.StorageKey, stored: StoredRecord | undefined, now: Instant) =>
  stored === undefined || isExpiredAt(stored, now)
    ? Effect.fail(StorageError.recordNotFound(key))
    : Effect.succeed(toRecord(key, stored))
