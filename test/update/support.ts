import { Deferred, Effect, Fiber } from "effect"
import * as InMemory from "../../src/engine/InMemory.ts"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import * as Faults from "../../src/testing/Faults.ts"
import type { Decision } from "../../src/update/attempt.ts"

export const key = makeUnsafe({ owner: "alice", id: "a" })

/** The service in memory, and a client of it whose operations have the fates that a test decides. */
export const faulty = (fateOf?: Parameters<typeof Faults.backend>[1]) =>
  Effect.map(StorageBackend, (other) => ({ other, ...Faults.backend(other, fateOf) }))

export const onMemory = Effect.provide(InMemory.layer)

export const write = (data: string): Decision<VersionedRecord> => ({
  _tag: "Write",
  data,
  expiresAt: undefined,
  answer: (written) => written
})

export const append =
  (text: string) =>
  (current: VersionedRecord | undefined): Effect.Effect<Decision<VersionedRecord>> =>
    Effect.succeed(write(`${current?.data ?? ""}${text}`))

export const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

/** A gate that requests wait at until it is opened. */
export const makeGate = Effect.gen(function* () {
  const [reached, opened] = [yield* Deferred.make<void>(), yield* Deferred.make<void>()]
  return {
    /** Passes the gate when it is open. */
    pass: Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(opened)),
    /** Waits until somebody is at the gate. */
    isReached: Deferred.await(reached),
    open: Deferred.succeed(opened, undefined)
  }
})

export const joinAll = <A, E>(fibers: ReadonlyArray<Fiber.Fiber<A, E>>) =>
  Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
