/**
 * The operation `commit`: several steps on records of one owner, all or none (promise 11).
 *
 * A step that writes carries the version that it makes, which follows from what the step expects. So the records that a
 * commit returns are the same whether the answer is that of the first request or of one that was sent again.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import { toExpirySeconds } from "../../internal/time.ts"
import { byteLength } from "../../internal/utf8.ts"
import * as Contract from "../../StorageBackend.ts"
import * as StorageError from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import { type Attempts, failure, isSuccess, type Recovery } from "./attempts.ts"
import type { Hub } from "./hints.ts"
import { type Instant, makeInstant } from "./instant.ts"
import {
  type Commit,
  type CommitFull,
  type CommitRefused,
  type Committed,
  isAsExpectedAt,
  isExpiredAt,
  type LocalEngine,
  type Step,
  type StoredRecord
} from "./model.ts"
import { capacityExceeded, problemOfData, refusal, toExpectation, toRecord } from "./records.ts"

type Service = Contract.StorageBackend["Service"]
type CommitEffect = ReturnType<Service["commit"]>

/** The answer if a read did not find the write id of a commit whose answer was lost. */
interface Unseen {
  readonly _tag: "Unseen"
}

type Answer = Committed | CommitRefused | CommitFull | Unseen

export interface CommitOptions {
  readonly maxDataBytes: number
  readonly nextWriteId: () => string
  /** The operations that a commit of one step is. */
  readonly single: Pick<Service, "putIfVersion" | "deleteIfVersion">
  readonly hub: Hub
}

export const makeCommit = (
  engine: LocalEngine,
  attempts: Attempts,
  { hub, maxDataBytes, nextWriteId, single }: CommitOptions
): Service["commit"] => {
  const alone = makeAlone(engine, attempts, single)
  const land = makeLand(engine, attempts, hub)
  return (owner, steps) =>
    Effect.withFiber((fiber): CommitEffect => {
      const checked = decode(owner, steps, maxDataBytes)
      if (Result.isFailure(checked)) return Effect.fail(checked.failure)
      const decoded = checked.success
      const [step] = steps
      const [key] = decoded.map(({ key }) => key)
      if (step === undefined || key === undefined) return Effect.succeed([])
      const now = makeInstant(fiber)
      return steps.length === 1 ? alone(key, step, now) : land(decoded, { writeId: nextWriteId(), now, fiber }, 0)
    })
}

// -----------------------------------------------------------------------------

/** What DynamoDB may count for a step beside its key and its data. */
const bytesPerStep = 200

const invalid = (problem: StorageError.InvalidCommit["problem"], description: string) =>
  Result.fail(new StorageError.InvalidCommit({ problem, description }))

/** Checks the steps, and decodes what each expects. */
const decode = (
  owner: string,
  steps: ReadonlyArray<Contract.Step>,
  maxDataBytes: number
): Result.Result<
  ReadonlyArray<Step>,
  StorageError.InvalidCommit | StorageError.InvalidData | StorageError.CapacityExceeded
> => {
  const { maxCommitBytes, maxCommitSteps } = Contract
  if (steps.length > maxCommitSteps) {
    return invalid("TooManySteps", `it has ${steps.length} steps, and at most ${maxCommitSteps} are allowed`)
  }
  const decoded: Array<Step> = []
  const indexes = new Map<string, number>()
  let bytes = 0
  for (const [index, step] of steps.entries()) {
    const key = StorageKey.make({ owner, id: step.id })
    if (Result.isFailure(key)) return invalid("InvalidKey", `step ${index}: ${key.failure.message}`)
    const other = indexes.get(step.id)
    if (other !== undefined) {
      return invalid("RepeatedKey", `steps ${other} and ${index} are of the same record, ${key.success}`)
    }
    indexes.set(step.id, index)
    const problem = step._tag === "Write" ? problemOfWrite(key.success, step, maxDataBytes) : undefined
    if (problem !== undefined) return Result.fail(problem)
    bytes +=
      bytesPerStep + byteLength(owner) + byteLength(step.id) + (step._tag === "Write" ? byteLength(step.data) : 0)
    decoded.push(decodeStep(key.success, step))
  }
  return bytes > maxCommitBytes
    ? invalid("TooManyBytes", `its steps take ${bytes} bytes, and at most ${maxCommitBytes} are allowed`)
    : Result.succeed(decoded)
}

const problemOfWrite = (key: StorageKey.StorageKey, { data, expected }: Contract.Write, maxDataBytes: number) => {
  const version = typeof expected === "number" ? expected : expected.version
  return version === Contract.maxVersion ? pastLastVersion(key) : problemOfData(key, data, maxDataBytes)
}

const pastLastVersion = (key: StorageKey.StorageKey) => capacityExceeded(key, { _tag: "Refused", current: undefined })

const decodeStep = (key: StorageKey.StorageKey, step: Contract.Step): Step => {
  const expectation = toExpectation(step.expected)
  switch (step._tag) {
    case "Check":
      return { _tag: "Check", key, expectation }
    case "Remove":
      // No record that is there has version 0, so a removal that expects it is refused with the truth.
      return {
        _tag: "Remove",
        key,
        expectation: expectation._tag === "Absent" ? { _tag: "Version", version: 0 } : expectation
      }
    case "Write": {
      const version = expectation._tag === "Absent" ? 1 : expectation.version + 1
      return {
        _tag: "Write",
        key,
        expectation,
        data: step.data,
        version,
        expiresAtSeconds: toExpirySeconds(step.expiresAt)
      }
    }
  }
}

/** Runs a commit of one step as the single operation that it is. */
const makeAlone =
  (engine: LocalEngine, { read }: Attempts, { deleteIfVersion, putIfVersion }: CommitOptions["single"]) =>
  (key: StorageKey.StorageKey, step: Contract.Step, now: Instant): CommitEffect => {
    const named = <A, E>(effect: Effect.Effect<A, E | StorageError.Backend>) =>
      Effect.mapError(effect, (error) =>
        error instanceof StorageError.Backend ? failure("commit", error.outcome, error) : error
      )
    if (step._tag === "Write") {
      return Effect.map(named(putIfVersion(key, step.data, step.expected, { expiresAt: step.expiresAt })), (record) => [
        record
      ])
    }
    if (step._tag === "Remove") return Effect.as(named(deleteIfVersion(key, step.expected)), [undefined])
    const expectation = toExpectation(step.expected)
    return Effect.flatMap(
      read("commit", engine.read(key), () => engine.read(key)),
      (stored) =>
        isAsExpectedAt(stored, expectation, now)
          ? Effect.succeed([undefined])
          : Effect.fail(refusal(key, stored, expectation, now))
    )
  }

/** For how long a commit is sent again because its engine remembers it. DynamoDB and Redis do so for ten minutes. */
const rememberedNanos = 9n * 60_000_000_000n

/** Says whether an engine that remembers commits still remembers one that is sent now. */
const rememberFrom = (fiber: Fiber.Fiber<unknown, unknown>): (() => boolean) => {
  const clock = fiber.getRef(Clock.Clock)
  const start = clock.monotonicTimeNanosUnsafe()
  return () => clock.monotonicTimeNanosUnsafe() - start < rememberedNanos
}

const neverRemembered = () => false

/** What stays the same if a commit is sent with other expectations. */
interface Call {
  readonly writeId: string
  readonly now: Instant
  readonly fiber: Fiber.Fiber<unknown, unknown>
}

/** How often a commit is sent with other expectations, since records that it creates over have just expired or gone. */
const maxRounds = 3

const makeLand = (
  { commit: send, read: readOne, remembersCommits = false }: LocalEngine,
  { read, write }: Attempts,
  hub: Hub
) => {
  /** Reads a record that the commit writes, and looks for the commit's write id. */
  const lookFor = ({ steps, writeId }: Commit): Recovery<Answer> => {
    const index = steps.findIndex(({ _tag }) => _tag === "Write")
    const key = steps[index]?.key
    if (key === undefined) return undefined
    return {
      _tag: "LookFor",
      read: () =>
        Effect.map(
          read("commit", readOne(key), () => readOne(key)),
          (current): Answer =>
            current?.writeId === writeId
              ? { _tag: "CommitRefused", refusals: [{ index, current }] }
              : { _tag: "Unseen" }
        )
    }
  }

  return function land(steps: ReadonlyArray<Step>, call: Call, round: number): CommitEffect {
    const { fiber, now, writeId } = call
    if (send === undefined) return unsupported
    // A commit with other expectations is another commit, so it has another token.
    const commit: Commit = { steps, writeId, token: round === 0 ? writeId : `${writeId}~${round}` }
    const isRemembered = remembersCommits ? rememberFrom(fiber) : neverRemembered
    const settle = (answer: Answer, ambiguity: StorageError.Backend | undefined): CommitEffect => {
      const resent = ambiguity === undefined && round < maxRounds ? withFoundExpired(commit, answer, now) : undefined
      if (resent === undefined) return settleCommit(commit, now, isRemembered(), answer, ambiguity)
      const tooMany = resent.find((step) => step._tag === "Write" && step.version > Contract.maxVersion)
      return tooMany === undefined ? land(resent, call, round + 1) : Effect.fail(pastLastVersion(tooMany.key))
    }
    const first = send(commit, now)
    const changed = steps.flatMap(({ _tag, key }) => (_tag === "Check" ? [] : key))
    if (isSuccess(first)) {
      if (first.value._tag === "Committed") changed.forEach(hub.tell)
      return settle(first.value, undefined)
    }
    const canSendAgain = steps.some(undoesItself) || isReadOnly(steps)
    const recovery: Recovery<Answer> =
      canSendAgain || remembersCommits
        ? { _tag: "SendAgain", isSafe: () => canSendAgain || isRemembered() }
        : lookFor(commit)
    const landed = write<Answer, ReadonlyArray<Contract.VersionedRecord | undefined>, Effect.Error<CommitEffect>>(
      "commit",
      first,
      () => send(commit, now),
      recovery,
      settle
    )
    return hub.tellAfter(landed, changed)
  }
}

const unsupported = Effect.suspend(() => {
  const description = "This engine has no commits of several records: commit the steps one by one"
  return Effect.fail(
    StorageError.makeBackend({ operation: "commit", reason: "Unsupported", outcome: "not-applied", description })
  )
})

/** Whether a step can't apply twice: it changes or removes a record that it expects by its write id. */
const undoesItself = ({ _tag, expectation }: Step): boolean => _tag !== "Check" && expectation._tag === "Write"

const isReadOnly = (steps: ReadonlyArray<Step>): boolean => steps.every(({ _tag }) => _tag === "Check")

const isGone = (current: StoredRecord | undefined, now: Instant): boolean =>
  current === undefined || isExpiredAt(current, now)

/** Whether a step creates a record where no live one is, and was refused by another expired one than it expected. */
const isCreateOverExpired = (step: Step | undefined, current: StoredRecord | undefined, now: Instant): boolean =>
  step?._tag === "Write" &&
  (step.expectation._tag === "Absent" || step.expectation._tag === "Expired") &&
  isGone(current, now)

/**
 * The steps of a commit that was refused only by records that have expired and are still stored, with those records as
 * what is expected. Their versions then continue (promise 1).
 */
const withFoundExpired = ({ steps }: Commit, answer: Answer, now: Instant): ReadonlyArray<Step> | undefined => {
  if (answer._tag !== "CommitRefused") return undefined
  const { refusals } = answer
  if (!refusals.every(({ current, index }) => isCreateOverExpired(steps[index], current, now))) return undefined
  const found = new Map(refusals.map(({ current, index }) => [index, current]))
  return steps.map((step, index): Step => {
    if (step._tag !== "Write" || !found.has(index)) return step
    const current = found.get(index)
    if (current === undefined) return { ...step, expectation: { _tag: "Absent" }, version: 1 }
    const { version, writeId } = current
    return { ...step, expectation: { _tag: "Expired", version, writeId }, version: version + 1 }
  })
}

const settleCommit = (
  { steps, writeId }: Commit,
  now: Instant,
  isRemembered: boolean,
  answer: Answer,
  ambiguity: StorageError.Backend | undefined
): CommitEffect => {
  const written = () =>
    steps.map((step) => (step._tag === "Write" ? toRecord(step.key, { ...step, writeId }) : undefined))
  if (answer._tag === "Committed") return Effect.succeed(written())
  if (answer._tag === "Full") {
    // A request whose answer was lost may still be on its way, and find room.
    return ambiguity === undefined
      ? Effect.fail(capacityExceeded(keyOfStep(steps, answer.index), answer))
      : unknown(ambiguity)
  }
  if (answer._tag === "Unseen") return unknown(ambiguity)
  const { refusals } = answer
  // Promise 3: a commit is made whole, so if one record carries its write id, the commit succeeded.
  const isOurs = refusals.some(({ current, index }) => steps[index]?._tag === "Write" && current?.writeId === writeId)
  if (isOurs) return Effect.succeed(written())
  if (ambiguity !== undefined && !isDefinite(steps, refusals, isRemembered)) return unknown(ambiguity)
  const first = refusals.find(({ current, index }) => !isCreateOverExpired(steps[index], current, now)) ?? refusals[0]
  return Effect.fail(conflictOf(steps, first, now))
}

const unknown = (ambiguity: StorageError.Backend | undefined) =>
  Effect.suspend(() => Effect.fail(failure("commit", "unknown", ambiguity as StorageError.Backend)))

type Refusal = CommitRefused["refusals"][number]

/**
 * Whether a commit that was refused after an ambiguous attempt was not applied, and never will be.
 *
 * It was not applied if the engine would remember it, or if a record that it would have replaced is still there. It
 * never will be if a refused step expects a write id, since a write id that is gone does not come back.
 */
const isDefinite = (steps: ReadonlyArray<Step>, refusals: ReadonlyArray<Refusal>, isRemembered: boolean): boolean => {
  if (isReadOnly(steps)) return true
  const refused = new Set(refusals.map(({ index }) => index))
  const wasNotApplied = isRemembered || steps.some((step, index) => undoesItself(step) && !refused.has(index))
  return wasNotApplied && refusals.some(({ index }) => steps[index]?.expectation._tag === "Write")
}

const keyOfStep = (steps: ReadonlyArray<Step>, index: number): StorageKey.StorageKey => (steps[index] as Step).key

/** The error of the first step that was refused. */
const conflictOf = (steps: ReadonlyArray<Step>, first: Refusal | undefined, now: Instant) => {
  const { current, index } = first as Refusal
  const { expectation, key } = steps[index] as Step
  if (expectation._tag === "Expired" || (expectation._tag === "Absent" && isGone(current, now))) {
    // Others have created and expired records there again and again.
    return new StorageError.VersionConflict({ key, expected: 0, actual: current?.version ?? 0 })
  }
  return refusal(key, current, expectation, now)
}
