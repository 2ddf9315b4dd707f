/**
 * One attempt at changing a record: it reads the record if need be, decides on it, and writes by compare-and-set. What
 * follows a conflict is for the caller to say: `run.ts` retries alone, and `group.ts` together with others.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { StorageBackend, VersionedRecord, WriteOptions } from "../StorageBackend.ts"
import type { Backend, CapacityExceeded, RecordNotFound, VersionConflict } from "../StorageError.ts"
import type { StorageKey } from "../StorageKey.ts"

/** Whether a fiber runs in a turn or a group. If so, it waits for no turn, since two could wait for each other. */
export const IsInTurn = Context.Reference<boolean>("effect-versioned-store/update/IsInTurn", {
  defaultValue: () => false
})

/** The decision on a record: what is written, and what the caller gets. */
export type Decision<A> =
  | {
      readonly _tag: "Write"
      readonly data: string
      readonly expiresAt: WriteOptions["expiresAt"]
      readonly answer: (written: VersionedRecord) => A
    }
  | { readonly _tag: "Remove"; readonly answer: A }
  /** Nothing is written. The answer is made from the record that was decided on. */
  | { readonly _tag: "Keep"; readonly answer: (current: VersionedRecord | undefined) => A }

export interface Change<A, E, R> {
  readonly key: StorageKey
  /** Gets the record, or undefined if there is none. It runs again after each conflict. */
  readonly decide: (current: VersionedRecord | undefined) => Effect.Effect<Decision<A>, E, R>
  /** The record as this process saw it last, which saves the read. It may be out of date. */
  readonly known?: VersionedRecord | undefined
  /** Runs as soon as a write or removal has landed. If it is given, no request that was sent is interrupted. */
  readonly onLanded?: ((answer: A) => void) | undefined
}

/** The record that an attempt starts from. If that is out of date, only a compare-and-set that lands proves it. */
export interface Start {
  readonly record: VersionedRecord | undefined
  readonly isOutOfDate: boolean
}

export const startOf = ({ known }: Pick<Change<never, never, never>, "known">): Start | undefined =>
  known === undefined ? undefined : { record: known, isOutOfDate: true }

/** Another writer was first. If there is no conflict, the record is gone, so the next write can only be a create. */
export class Lost {
  readonly conflict: VersionConflict | undefined
  constructor(conflict: VersionConflict | undefined) {
    this.conflict = conflict
  }
}

/** Where the next attempt starts: from the record that the conflict carried, if it did. */
export const startAfter = ({ conflict }: Lost): Start | undefined =>
  conflict !== undefined && conflict.current === undefined
    ? undefined
    : { record: conflict?.current, isOutOfDate: false }

/** The lane that an attempt leads. It sees the record that the attempt has written. */
export interface Led {
  landed: VersionedRecord | undefined
}

type Service = StorageBackend["Service"]

export const read = (backend: Service, key: StorageKey): Effect.Effect<VersionedRecord | undefined, Backend> =>
  Effect.catchTag(backend.get(key), "RecordNotFound", () => Effect.undefined)

/**
 * Makes one attempt. One request, and one more for a read if there is no start. A decision on a record that may be out
 * of date counts only if a compare-and-set confirms it. If it writes nothing or fails, the record is read and decided
 * on again.
 */
export const attempt = <A, E, R>(
  backend: Service,
  change: Change<A, E, R>,
  start: Start | undefined,
  led?: Led
): Effect.Effect<A | Lost, E | CapacityExceeded | Backend, R> => {
  if (start === undefined) {
    return Effect.matchEffect(backend.get(change.key), {
      onSuccess: (current) => decideAndApply(backend, change, current, led),
      onFailure: (error) =>
        error._tag === "RecordNotFound" ? decideAndApply(backend, change, undefined, led) : Effect.fail(error)
    })
  }
  if (!start.isOutOfDate) return Effect.suspend(() => decideAndApply(backend, change, start.record, led))
  return Effect.flatMap(Effect.exit(Effect.suspend(() => decide(change, start.record, led))), (decided) =>
    Exit.isFailure(decided) || decided.value._tag === "Keep"
      ? attempt(backend, change, undefined, led)
      : apply(backend, change, start.record, decided.value, led)
  )
}

/** Within a lane, nothing that the decision runs may wait for another turn. */
const decide = <A, E, R>(change: Change<A, E, R>, current: VersionedRecord | undefined, led: Led | undefined) => {
  const decided = change.decide(current)
  return led === undefined || Exit.isExit(decided) ? decided : Effect.provideService(decided, IsInTurn, true)
}

const decideAndApply = <A, E, R>(
  backend: Service,
  change: Change<A, E, R>,
  current: VersionedRecord | undefined,
  led: Led | undefined
) =>
  // A decision that is made at once, as that of a pure function, takes no step of the fiber.
  Effect.flatMapEager(decide(change, current, led), (decision) => apply(backend, change, current, decision, led))

const apply = <A, E, R>(
  backend: Service,
  change: Change<A, E, R>,
  current: VersionedRecord | undefined,
  decision: Decision<A>,
  led: Led | undefined
): Effect.Effect<A | Lost, CapacityExceeded | Backend> => {
  if (decision._tag === "Keep") return Effect.succeed(decision.answer(current))
  if (decision._tag === "Remove" && current === undefined) return Effect.succeed(decision.answer)
  const { key, onLanded } = change
  const sent = send(backend, key, current, decision, led)
  if (onLanded === undefined) return sent
  return Effect.uninterruptible(
    Effect.map(sent, (answer) => {
      if (!(answer instanceof Lost)) onLanded(answer)
      return answer
    })
  )
}

const send = <A>(
  backend: Service,
  key: StorageKey,
  current: VersionedRecord | undefined,
  decision: Exclude<Decision<A>, { readonly _tag: "Keep" }>,
  led: Led | undefined
): Effect.Effect<A | Lost, CapacityExceeded | Backend> => {
  if (decision._tag === "Remove") {
    return Effect.matchEffect(backend.deleteIfVersion(key, current ?? 0), {
      onSuccess: () => Effect.succeed(decision.answer),
      onFailure: lostOr
    })
  }
  return Effect.matchEffect(backend.putIfVersion(key, decision.data, current ?? 0, { expiresAt: decision.expiresAt }), {
    onSuccess: (written) => {
      if (led !== undefined) led.landed = written
      return Effect.succeed(decision.answer(written))
    },
    // The data is JSON, which has no lone surrogates.
    onFailure: (error) => (error._tag === "InvalidData" ? Effect.die(error) : lostOr(error))
  })
}

const lostOr = <E extends CapacityExceeded | Backend>(
  error: E | VersionConflict | RecordNotFound
): Effect.Effect<Lost, E> => {
  if (isConflict(error)) return Effect.succeed(new Lost(error._tag === "VersionConflict" ? error : undefined))
  return Effect.fail(error)
}

/** Whether a write was refused since another writer was first. */
export const isConflict = (error: { readonly _tag: string }): error is VersionConflict | RecordNotFound =>
  error._tag === "VersionConflict" || error._tag === "RecordNotFound"
