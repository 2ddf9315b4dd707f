/**
 * A small state for each key of an owner, which many processes change at once. Changes of one key that run at the same
 * time in one process share writes (group commit), and each key's record is remembered, so that a lone change takes one
 * request.
 */
import * as Cache from "effect/Cache"
import * as Digest from "effect/crypto/Digest"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { lastMillisecond } from "../../internal/time.ts"
import { StorageBackend, type VersionedRecord } from "../../StorageBackend.ts"
import type { Backend, CapacityExceeded, VersionConflict } from "../../StorageError.ts"
import * as StorageKey from "../../StorageKey.ts"
import type { Decision } from "../../update/attempt.ts"
import * as Update from "../../update/run.ts"
import { hash, isPlain } from "./entries.ts"

/** How many keys' records are remembered. */
const remembered = 10_000

/** What a change comes to. Without a next state, nothing is written. */
export interface Change<S, A> {
  readonly answer: A
  readonly next?: { readonly state: S; readonly expiresAtMillis: number } | undefined
}

export type StateError = Schema.SchemaError | VersionConflict | CapacityExceeded | Backend

const toExpiry = (millis: number): DateTime.Utc | undefined =>
  Number.isFinite(millis) ? DateTime.makeUnsafe(Math.min(Math.max(Math.ceil(millis), 0), lastMillisecond)) : undefined

export const makeStates = Effect.fnUntraced(function* <S>(
  owner: string,
  idPrefix: string,
  schema: Schema.Codec<S, unknown>
) {
  const backend = yield* StorageBackend
  const digest = yield* Digest.Digest
  const update = Update.make(backend)
  const json = Schema.fromJsonString(Schema.toCodecJson(schema))
  const [decode, encode] = [Schema.decodeEffect(json), Schema.encodeEffect(json)]
  const seen = yield* Cache.make({
    capacity: remembered,
    lookup: (key: string) =>
      Effect.map(
        isPlain(idPrefix, key) ? Effect.succeed(key) : Effect.provideService(hash(key), Digest.Digest, digest),
        (id) => ({
          key: StorageKey.makeUnsafe({ owner, id: `${idPrefix}${id}` }),
          record: undefined as VersionedRecord | undefined
        })
      )
  })

  return {
    /**
     * Changes a key's state, by a function of the state and the time. It gets undefined if there is none, and may run
     * several times. One request, and one more if the state is not known yet, or another process has changed it.
     */
    modify: <A>(
      key: string,
      f: (state: S | undefined, nowMillis: number) => Change<S, A>
    ): Effect.Effect<A, StateError> =>
      Effect.clockWith((clock) =>
        Effect.flatMap(Cache.get(seen, key), (of) => {
          const decideOn = (state: S | undefined): Effect.Effect<Decision<A>, Schema.SchemaError> => {
            const { answer, next } = f(state, clock.currentTimeMillisUnsafe())
            if (next === undefined) return Effect.succeed({ _tag: "Keep", answer: () => answer })
            return Effect.mapEager(encode(next.state), (data) => ({
              _tag: "Write",
              data,
              expiresAt: toExpiry(next.expiresAtMillis),
              answer: (written) => {
                of.record = written
                return answer
              }
            }))
          }
          return update({
            key: of.key,
            isShared: true,
            known: of.record,
            decide: (current) => {
              // Within a group, a record that has not landed has no write id.
              if (current === undefined || current.writeId !== undefined) of.record = current
              return current === undefined ? decideOn(undefined) : Effect.flatMapEager(decode(current.data), decideOn)
            }
          })
        })
      )
  }
})
