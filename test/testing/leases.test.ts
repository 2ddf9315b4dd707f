import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Layer, type Scope } from "effect"
import * as Lease from "../../src/Lease.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import * as StorageKey from "../../src/StorageKey.ts"
import { fencedLeasesOf, type Leases, leasesOf } from "../../src/testing/contract/leases.ts"
import type { Setting } from "../../src/testing/internal/drafts.ts"
import * as StorageContract from "../../src/testing/StorageContract.ts"
import { layerPlantable } from "../support/plantable.ts"

type Backend = StorageBackend["Service"]
type Acquire = typeof Lease.acquire

/** Leases of which the backend below is changed, or what they give. */
const changed = (
  changeBackend: (backend: Backend) => Partial<Backend>,
  changeLease: (
    lease: Lease.Lease,
    key: Lease.Key
  ) => Effect.Effect<Lease.Lease, never, StorageBackend> = Effect.succeed
): Leases => {
  /** Another backend is another process for a lease, so each process keeps its own. */
  const backends = new WeakMap<Backend, Backend>()
  const provided = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.flatMap(StorageBackend, (backend) => {
      const known = backends.get(backend) ?? { ...backend, ...changeBackend(backend) }
      backends.set(backend, known)
      return Effect.provideService(effect, StorageBackend, known)
    })
  const change =
    <E>(acquire: (...args: Parameters<Acquire>) => Effect.Effect<Lease.Lease, E, StorageBackend | Scope.Scope>) =>
    (...args: Parameters<Acquire>) =>
      provided(Effect.flatMap(acquire(...args), (lease) => changeLease(lease, args[0])))
  return {
    acquire: change(Lease.acquire),
    tryAcquire: change(Lease.tryAcquire),
    withLease: (key, options) => (effect) =>
      provided(
        Lease.withLease(
          key,
          options
        )((lease) =>
          Effect.flatMap(changeLease(lease, key), (lease) => (typeof effect === "function" ? effect(lease) : effect))
        )
      )
  }
}

const recordKey = ({ id, owner }: Lease.Key) => StorageKey.makeUnsafe({ owner, id: `lease/${id}` })

/** Takes a lease as soon as its holder's wall clock has passed, by the wall clock of who takes it. */
const byWallClocks: Leases = {
  ...Lease,
  acquire: (key, options) =>
    Effect.tap(Lease.acquire(key, options), () =>
      Effect.flatMap(Effect.all([StorageBackend, Clock.currentTimeMillis]), ([backend, now]) =>
        Effect.orDie(backend.put(StorageKey.makeUnsafe({ ...key, id: `until/${key.id}` }), String(now + 10_000)))
      )
    ),
  tryAcquire: (key, options) =>
    Effect.gen(function* () {
      const backend = yield* StorageBackend
      const until = yield* Effect.orDie(backend.get(StorageKey.makeUnsafe({ ...key, id: `until/${key.id}` })))
      if (Number(until.data) <= (yield* Clock.currentTimeMillis)) yield* backend.delete(recordKey(key))
      return yield* Lease.tryAcquire(key, options)
    })
}

const brokenLeases: Record<string, { readonly leases: Leases; readonly caughtBy: string }> = {
  "a lease that trusts the other's clock": {
    leases: byWallClocks,
    caughtBy:
      "a dead holder is followed once its time has passed for who waits, and not before, whatever the wall clocks say"
  },
  "a lease that is taken at once": {
    leases: {
      ...Lease,
      tryAcquire: (key, options) =>
        StorageBackend.use((backend) => Effect.andThen(backend.delete(recordKey(key)), Lease.tryAcquire(key, options)))
    },
    caughtBy:
      "a dead holder is followed once its time has passed for who waits, and not before, whatever the wall clocks say"
  },
  "a token that stands still": {
    leases: changed(
      () => ({}),
      (lease) => Effect.succeed({ ...lease, token: 1 })
    ),
    caughtBy: "of several processes that take a lease, one holds it at a time, and its token rises with each grant"
  },
  "a token that is the version of the lease's record": {
    leases: changed(
      () => ({}),
      (lease, key) =>
        StorageBackend.use((backend) =>
          Effect.map(Effect.orDie(backend.get(recordKey(key))), ({ version }) => ({ ...lease, token: version }))
        )
    ),
    caughtBy:
      "a lease whose record is deleted is lost, is not made again by its holder, and is granted with a higher token"
  },
  "a lease that is made again by its holder": {
    leases: changed(({ put, putIfVersion }) => ({
      putIfVersion: (key, data, ...rest) =>
        Effect.catchTag(putIfVersion(key, data, ...rest), "RecordNotFound", () => put(key, data))
    })),
    caughtBy:
      "a lease whose record is deleted is lost, is not made again by its holder, and is granted with a higher token"
  },
  "a lease that is not renewed": {
    leases: changed(({ get, putIfVersion }) => ({
      putIfVersion: (key, data, expected, ...rest) =>
        /"sending":(?!1})/.test(data) && !data.includes('"holder":null')
          ? Effect.catchTag(get(key), "RecordNotFound", Effect.die)
          : putIfVersion(key, data, expected, ...rest)
    })),
    caughtBy: "a lease is held as long as it is renewed, and is free for others at once when it is released"
  },
  "a lease that is not released": {
    leases: changed(({ get, putIfVersion }) => ({
      putIfVersion: (key, data, ...rest) =>
        data.includes('"holder":null')
          ? Effect.catchTag(get(key), "RecordNotFound", Effect.die)
          : putIfVersion(key, data, ...rest)
    })),
    caughtBy: "a lease is held as long as it is renewed, and is free for others at once when it is released"
  },
  "a fenced commit that does not check the lease": {
    leases: changed(({ commit }) => ({
      commit: (owner, [_, ...steps]) => Effect.map(commit(owner, steps), (written) => [undefined, ...written])
    })),
    caughtBy: "a commit that is fenced by a lease writes nothing once another holds the lease"
  },
  "a lease that does not know its own renewals again": {
    leases: changed(({ get }) => ({
      get: (key) =>
        Effect.map(get(key), (record) => ({ ...record, data: record.data.replace(/"grant":"/, '"grant":"not ') }))
    })),
    caughtBy: "a lease stays held although every second answer to its writes is lost"
  }
}

const brokenBackends: Record<
  string,
  { readonly change: (backend: Backend) => Partial<Backend>; readonly caughtBy: string }
> = {
  "a compare-and-set that compares nothing": {
    change: ({ put }) => ({ putIfVersion: (key, data, _, options) => put(key, data, options) }),
    caughtBy: "of several processes that take a lease, one holds it at a time, and its token rises with each grant"
  },
  "a commit without its checks": {
    change: ({ commit }) => ({
      commit: (owner, steps) =>
        Effect.map(
          commit(
            owner,
            steps.filter(({ _tag }) => _tag !== "Check")
          ),
          (written) => [undefined, ...written]
        )
    }),
    caughtBy: "a commit that is fenced by a lease writes nothing once another holds the lease"
  },
  "a delete that removes nothing": {
    change: () => ({ delete: () => Effect.succeed(true) }),
    caughtBy:
      "a lease whose record is deleted is lost, is not made again by its holder, and is granted with a higher token"
  }
}

const setting = {} as Setting

const casesOf = (leases: Leases) => [...leasesOf(leases), ...fencedLeasesOf(leases)]

/** The names of the cases that fail. Those that do not end fail as well. */
const failedBy = (leases: Leases, layer: Layer.Layer<StorageBackend>) =>
  Effect.map(
    Effect.forEach(
      casesOf(leases),
      ({ name, run }) =>
        Effect.scoped(run(setting)).pipe(
          Effect.provide(Layer.provideMerge(layer, StorageContract.layerClock)),
          Effect.timeout("5 seconds"),
          Effect.exit,
          Effect.map((exit) => (exit._tag === "Failure" ? [name] : []))
        ),
      { concurrency: "unbounded" }
    ),
    (names) => names.flat()
  )

describe("the contract's cases of leases", () => {
  it.live("pass leases that are not broken", () =>
    Effect.map(failedBy(Lease, layerPlantable()), (failed) => assert.deepStrictEqual(failed, []))
  )

  for (const [name, { caughtBy, leases }] of Object.entries(brokenLeases)) {
    it.live(`catch ${name}`, () =>
      Effect.map(failedBy(leases, layerPlantable()), (failed) => assert.include(failed, caughtBy))
    )
  }

  for (const [name, { caughtBy, change }] of Object.entries(brokenBackends)) {
    it.live(`catch a backend with ${name}`, () =>
      Effect.map(failedBy(Lease, layerPlantable(undefined, change)), (failed) => assert.include(failed, caughtBy))
    )
  }

  it("each catch what is broken", () => {
    const caught = new Set([...Object.values(brokenLeases), ...Object.values(brokenBackends)].map((b) => b.caughtBy))
    assert.deepStrictEqual(
      casesOf(Lease).flatMap(({ name }) => (caught.has(name) ? [] : [name])),
      []
    )
  })
})
