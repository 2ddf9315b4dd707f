import { assert, type Vitest } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { newSeed, randomFrom } from "./random.ts"

/**
 * What happens to a request. `pass`: it is answered. `lose`: it is applied, and its answer is lost. `drop`: it is
 * dropped before it arrives. `hang`: it is never answered. `loseAfter`: as `lose`, but the connection ends only after
 * the function.
 */
export type Fate = "pass" | "lose" | "drop" | "hang" | { readonly loseAfter: () => Promise<unknown> }

/** A backend behind a proxy, and the requests that have passed through the proxy. */
export interface Faulty {
  readonly backend: StorageBackend["Service"]
  /** The names of the requests so far, without the requests that opened the connection. */
  readonly requests: () => ReadonlyArray<string>
}

type Through = (
  fateOf: (isWrite: boolean) => Fate,
  options?: { readonly isPatient: boolean }
) => Effect.Effect<Faulty, unknown, Scope.Scope>

export const newKey = () => makeUnsafe({ owner: `owner-${crypto.randomUUID()}`, id: "a" })

/** A fate for the first write. Later writes pass. */
export const first = (fate: Fate) => {
  let decided = false
  return (isWrite: boolean): Fate => {
    if (decided || !isWrite) return "pass"
    decided = true
    return fate
  }
}

export const assertUnknown = (error: unknown) => {
  assert.propertyVal(error, "_tag", "Backend")
  assert.strictEqual((error as Backend).outcome, "unknown")
  assert.isFalse((error as Backend).isRetryable)
}

/** The cases of lost answers that are the same on every engine. The backend in the context is not behind a proxy. */
export const ambiguityCases = (
  it: Vitest.MethodsNonLive<StorageBackend>,
  { through, read, write }: { readonly through: Through; readonly write: string; readonly read: string }
) => {
  for (const lost of [0.1, 0.3]) {
    it.effect(`a lone writer of 1,000 compare-and-sets sees no conflict with ${lost * 100}% of the answers lost`, () =>
      Effect.gen(function* () {
        const random = randomFrom(newSeed(`lone writer, ${lost} lost`))
        const { backend, requests } = yield* through((isWrite) => (isWrite && random() < lost ? "lose" : "pass"))
        const direct = yield* StorageBackend
        const key = newKey()
        let record = yield* direct.put(key, "0")
        for (let i = 1; i <= 1000; i++) record = yield* backend.putIfVersion(key, String(i), record)
        const final = yield* direct.get(key)
        assert.strictEqual(final.data, "1000")
        assert.strictEqual(final.version, 1001)
        const sent = requests().filter((name) => name === write).length
        console.log(`lone writer, ${lost} lost: 1000 written, ${sent} requests, 0 conflicts, version ${final.version}`)
        assert.isAbove(sent, 1000)
      })
    )
  }

  it.effect("8 writers with 10% of the answers lost: acknowledged writes are stored, and no conflict is false", () =>
    Effect.gen(function* () {
      const random = randomFrom(newSeed("8 writers"))
      let lost = 0
      const { backend } = yield* through((isWrite) => {
        if (!isWrite || random() >= 0.1) return "pass"
        lost++
        return "lose"
      })
      const direct = yield* StorageBackend
      const key = newKey()
      yield* direct.put(key, "[]")
      const answered = { acknowledged: new Set<string>(), unknown: new Set<string>(), conflict: new Set<string>() }
      const add = (name: string) =>
        Effect.gen(function* () {
          const record = yield* direct.get(key)
          const applied: Array<string> = JSON.parse(record.data)
          yield* backend.putIfVersion(key, JSON.stringify([...applied, name]), record)
          answered.acknowledged.add(name)
        }).pipe(
          Effect.catchTag("VersionConflict", () => Effect.sync(() => answered.conflict.add(name))),
          Effect.catchTag("Backend", (error) => {
            assertUnknown(error)
            return Effect.sync(() => answered.unknown.add(name))
          })
        )
      yield* Effect.forEach(
        Array.from({ length: 8 }, (_, writer) => writer),
        (writer) => Effect.forEach(Array.from({ length: 60 }), (_, i) => add(`${writer}.${i}`), { discard: true }),
        { concurrency: "unbounded", discard: true }
      )
      const final: Array<string> = JSON.parse((yield* direct.get(key)).data)
      const [acknowledged, unknown] = [answered.acknowledged.size, answered.unknown.size]
      console.log(
        `8 writers: ${lost} answers lost, ${acknowledged} acknowledged, ${answered.conflict.size} conflicts, ` +
          `${unknown} unknown, counter ${final.length}`
      )
      assert.isAbove(lost, 0, "no answer was lost")
      assert.strictEqual(new Set(final).size, final.length, "a write was applied twice")
      assert.isAtLeast(final.length, acknowledged)
      assert.isAtMost(final.length, acknowledged + unknown)
      for (const name of answered.acknowledged) assert.include(final, name)
      for (const name of answered.conflict)
        assert.notInclude(final, name, "a write was applied, and its writer was refused with a conflict")
    })
  )

  it.effect("no write after a lost answer undoes what another client wrote or removed since", () =>
    Effect.gen(function* () {
      const direct = yield* StorageBackend
      type Operation = (backend: Faulty["backend"], key: ReturnType<typeof newKey>) => Effect.Effect<unknown, unknown>
      const operations: Record<string, Operation> = {
        put: (backend, key) => backend.put(key, "ours"),
        create: (backend, key) => backend.putIfVersion(key, "ours", 0),
        byVersion: (backend, key) => backend.putIfVersion(key, "ours", 1),
        delete: (backend, key) => backend.delete(key),
        deleteByVersion: (backend, key) => backend.deleteIfVersion(key, 1)
      }
      for (const [name, operation] of Object.entries(operations)) {
        const overwritten = newKey()
        if (name !== "create") yield* direct.put(overwritten, "before")
        const put = yield* through(first({ loseAfter: () => Effect.runPromise(direct.put(overwritten, "theirs")) }))
        assertUnknown(yield* Effect.flip(operation(put.backend, overwritten)))
        assert.strictEqual((yield* direct.get(overwritten)).data, "theirs", name)

        const removed = newKey()
        if (name !== "create") yield* direct.put(removed, "before")
        const remove = yield* through(first({ loseAfter: () => Effect.runPromise(direct.delete(removed)) }))
        assertUnknown(yield* Effect.flip(operation(remove.backend, removed)))
        assert.strictEqual((yield* Effect.flip(direct.get(removed)))._tag, "RecordNotFound", name)
      }
    })
  )

  it.effect("a put or a create whose answer was lost is found by one read", () =>
    Effect.gen(function* () {
      const direct = yield* StorageBackend
      yield* direct.put(newKey(), "so that the engine is ready for writes")
      for (const expected of [undefined, 0] as const) {
        const key = newKey()
        const { backend, requests } = yield* through(first("lose"))
        const written = yield* expected === undefined
          ? backend.put(key, "ours")
          : backend.putIfVersion(key, "ours", expected)
        assert.deepStrictEqual(yield* direct.get(key), written)
        assert.deepStrictEqual(requests(), [write, read])
      }
    })
  )

  it.effect("if every answer is lost, the outcome is unknown, and a read shows what happened", () =>
    Effect.gen(function* () {
      const direct = yield* StorageBackend
      const key = newKey()
      const record = yield* direct.put(key, "before")
      const lost = yield* through((isWrite) => (isWrite ? "lose" : "pass"), { isPatient: false })
      assertUnknown(yield* Effect.flip(lost.backend.putIfVersion(key, "after", record)))
      assert.strictEqual((yield* lost.backend.get(key)).data, "after")

      const dropped = yield* through((isWrite) => (isWrite ? "drop" : "pass"), { isPatient: false })
      assertUnknown(yield* Effect.flip(dropped.backend.putIfVersion(key, "never", yield* direct.get(key))))
      assert.strictEqual((yield* dropped.backend.get(key)).data, "after")
    })
  )
}
