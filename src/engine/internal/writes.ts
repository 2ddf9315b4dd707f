/** The operations of the service that write or remove one record. */
import * as Effect from "effect/Effect"
import { toExpirySeconds } from "../../internal/time.ts"
import type { CompareAndSetOptions, StorageBackend, VersionedRecord } from "../../StorageBackend.ts"
import type * as StorageError from "../../StorageError.ts"
import type * as StorageKey from "../../StorageKey.ts"
import { type Attempts, failure, isSuccess, type Recovery } from "./attempts.ts"
import type { Hub } from "./hints.ts"
import { type Instant, makeInstant } from "./instant.ts"
import {
  type Expectation,
  type Full,
  isAsExpectedAt,
  type LocalEngine,
  type Present,
  type Refused,
  type Removed,
  type Write,
  type Written
} from "./model.ts"
import {
  capacityExceeded,
  checkIncrement,
  problemOfData,
  refusal,
  toExpectation,
  toRecord,
  toWrittenRecord
} from "./records.ts"

type Service = StorageBackend["Service"]

/** A write as it was asked for. If nothing is expected, it is a `put`. */
interface Request {
  readonly operation: "put" | "putIfVersion"
  readonly key: StorageKey.StorageKey
  readonly write: Write
  readonly expectation: Expectation | undefined
  readonly now: Instant
}

interface Options {
  readonly maxDataBytes: number
  readonly nextWriteId: () => string
  readonly hub: Hub
}

export const makeWrites = (
  engine: LocalEngine,
  { read, write }: Attempts,
  { hub, maxDataBytes, nextWriteId }: Options
): Pick<Service, "put" | "putIfVersion"> => {
  const makeWrite = (data: string, options: CompareAndSetOptions | undefined): Write => ({
    data,
    writeId: nextWriteId(),
    expiresAtSeconds: toExpirySeconds(options?.expiresAt),
    increment: options?.increment === undefined ? 1 : checkIncrement(options.increment)
  })

  const send = ({ expectation, key, now, write }: Request) =>
    expectation === undefined ? engine.put(key, write, now) : engine.swap(key, write, expectation, now)

  const lookFor = (key: StorageKey.StorageKey): Recovery<Refused> => ({
    _tag: "LookFor",
    read: () =>
      Effect.map(
        read("get", engine.read(key), () => engine.read(key)),
        (current) => ({ _tag: "Refused", current })
      )
  })

  const run = <E>(request: Request, toRefusal: ToRefusal<E>) => {
    const first = send(request)
    if (isSuccess(first)) {
      if (first.value._tag === "Written") hub.tell(request.key)
      return settleWrite(request, toRefusal, first.value, undefined)
    }
    const written = write(
      request.operation,
      first,
      () => send(request),
      request.expectation?._tag === "Write" ? { _tag: "SendAgain" } : lookFor(request.key),
      (answer, ambiguity) => settleWrite(request, toRefusal, answer, ambiguity)
    )
    return hub.tellAfter(written, [request.key])
  }

  return {
    put: (key, data, options) =>
      Effect.withFiber((fiber): ReturnType<Service["put"]> => {
        const invalid = problemOfData(key, data, maxDataBytes)
        if (invalid !== undefined) return Effect.fail(invalid)
        const write = makeWrite(data, options)
        const request: Request = { operation: "put", key, write, expectation: undefined, now: makeInstant(fiber) }
        return run(request, putRefusal)
      }),

    putIfVersion: (key, data, expected, options) =>
      Effect.withFiber((fiber): ReturnType<Service["putIfVersion"]> => {
        const expectation = toExpectation(expected)
        const invalid = problemOfData(key, data, maxDataBytes)
        if (invalid !== undefined) return Effect.fail(invalid)
        const write = makeWrite(data, options)
        const request: Request = { operation: "putIfVersion", key, write, expectation, now: makeInstant(fiber) }
        return run(request, swapRefusal)
      })
  }
}

export const makeRemovals = (
  engine: LocalEngine,
  { write }: Attempts,
  hub: Hub
): Pick<Service, "delete" | "deleteIfVersion"> => ({
  delete: (key) =>
    Effect.withFiber((fiber) => {
      const now = makeInstant(fiber)
      const remove = () => engine.remove(key, undefined, now)
      const first = remove()
      if (isSuccess(first)) {
        if (first.value._tag === "Removed") hub.tell(key)
        return Effect.succeed(first.value._tag === "Removed")
      }
      const removed = write("delete", first, remove, undefined, (answer) => Effect.succeed(answer._tag === "Removed"))
      return hub.tellAfter(removed, [key])
    }),

  deleteIfVersion: (key, expected) =>
    Effect.withFiber((fiber): ReturnType<Service["deleteIfVersion"]> => {
      const decoded = toExpectation(expected)
      // No record that is there has version 0, so a removal that expects it is refused with the truth.
      const expectation: Present = decoded._tag === "Absent" ? { _tag: "Version", version: 0 } : decoded
      const now = makeInstant(fiber)
      const remove = () => engine.remove(key, expectation, now)
      const first = remove()
      if (isSuccess(first)) {
        if (first.value._tag === "Removed") hub.tell(key)
        return settleRemoval(key, expectation, now, first.value, undefined)
      }
      const removed = write(
        "deleteIfVersion",
        first,
        remove,
        expectation._tag === "Write" ? { _tag: "SendAgain" } : undefined,
        (answer, ambiguity) => settleRemoval(key, expectation, now, answer, ambiguity)
      )
      return hub.tellAfter(removed, [key])
    })
})

/** Promise 3: if the record that comes back carries this write's id, the write succeeded, even if it was refused. */
const settleWrite = <E>(
  request: Request,
  toRefusal: ToRefusal<E>,
  answer: Written | Refused | Full,
  ambiguity: StorageError.Backend | undefined
): Effect.Effect<VersionedRecord, E | StorageError.Backend> => {
  const { key, operation, write } = request
  if (answer._tag === "Written") return Effect.succeed(toWrittenRecord(key, write, answer.version))
  if (answer._tag === "Refused" && answer.current?.writeId === write.writeId) {
    return Effect.succeed(toRecord(key, answer.current))
  }
  return Effect.fail(ambiguity === undefined ? toRefusal(request, answer) : failure(operation, "unknown", ambiguity))
}

type ToRefusal<E> = (request: Request, answer: Refused | Full) => E

const putRefusal = ({ key }: Request, answer: Refused | Full) => capacityExceeded(key, answer)

const swapRefusal = ({ expectation, key, now }: Request, answer: Refused | Full) =>
  answer._tag === "Full" || expectation === undefined || isAsExpectedAt(answer.current, expectation, now)
    ? capacityExceeded(key, answer)
    : refusal(key, answer.current, expectation, now)

const settleRemoval = (
  key: StorageKey.StorageKey,
  expectation: Present,
  now: Instant,
  answer: Removed | Refused,
  ambiguity: StorageError.Backend | undefined
): ReturnType<Service["deleteIfVersion"]> => {
  if (answer._tag === "Removed") return Effect.void
  if (ambiguity !== undefined) return Effect.fail(failure("deleteIfVersion", "unknown", ambiguity))
  return Effect.fail(refusal(key, answer.current, expectation, now))
}
