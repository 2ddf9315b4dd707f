/** Records in Redis, beside the same commands and scripts through the bare client. */
import { createHash } from "node:crypto"
import { Context, Effect, Layer } from "effect"
import { createClient } from "redis"
import { fields, keysOf } from "../../dist/engine/internal/redis/layout.js"
import { makeChangeScripts } from "../../dist/engine/internal/redis/scripts.js"
import * as Redis from "../../dist/engine/Redis.js"
import * as RedisClient from "../../dist/redis/RedisClient.js"
import * as RedisServer from "../../examples/RedisServer.ts"
import { StorageBackend, StorageKey } from "../library.ts"
import {
  type Contender,
  compare,
  type Figure,
  inEffect,
  inProgram,
  inPromise,
  type Settings,
  type Step
} from "../measure.ts"
import { comparePages, idOf, ownersOf } from "./pages.ts"

const group = "redis"
const owner = "alice"
const data = "x".repeat(1000)
const count = 1000
const bareName = "node-redis"

type Backend = StorageBackend.StorageBackend["Service"]

/** The library's engine on a server. */
export const makeBackend = Effect.fnUntraced(function* (url: string) {
  const layer = Layer.fresh(Redis.layer()).pipe(Layer.provide(Layer.fresh(RedisClient.layer({ url }))))
  return Context.get(yield* Layer.build(layer), StorageBackend.StorageBackend)
})

/** The commands that the library sends, by the bare client. */
const makeBare = Effect.fnUntraced(function* (url: string) {
  const client = yield* Effect.acquireRelease(
    Effect.promise(() => createClient({ url }).connect()),
    (client) => Effect.sync(() => client.destroy())
  )
  const { expiry, index, record } = keysOf("bare", owner)
  const { lua } = makeChangeScripts("PUBLISH").write
  const sha = createHash("sha1").update(lua).digest("hex")
  yield* Effect.promise(() => client.sendCommand(["SCRIPT", "LOAD", lua]))
  let writes = 0
  const write = (id: string, ...expected: [kind: string, version: string, match: string]) => {
    const now = String(Math.floor(Date.now() / 1000))
    const writeId = `bare.${(writes++).toString(36)}`
    const args = [id, now, ...expected, data, writeId, "", "", "1"]
    const sent = client.sendCommand(["EVALSHA", sha, "3", record + id, index, expiry, ...args])
    return sent.then((reply) => ({ version: String((reply as unknown as ReadonlyArray<string>)[0]), writeId }))
  }
  return {
    get: (i: number) => client.sendCommand(["HMGET", record + idOf(i % count), ...fields]),
    put: (i: number) => write(idOf(i % count), "anything", "0", ""),
    swap: (id: string, { version, writeId }: { version: string; writeId: string }) =>
      write(id, "write", version, writeId)
  }
})

type Bare = Effect.Success<ReturnType<typeof makeBare>>

const keyOf = (i: number) => StorageKey.makeUnsafe({ owner, id: idOf(i % count) })

/** A chain of compare-and-sets of one record, each on what the one before wrote. */
const swaps = (backend: Backend, bare: Bare): readonly [Contender, Contender] => {
  let [theirs, ours]: [{ version: string; writeId: string } | undefined, StorageBackend.VersionedRecord | undefined] = [
    undefined,
    undefined
  ]
  return [
    inPromise(bareName, async () => {
      theirs = theirs === undefined ? await bare.put(0) : await bare.swap(idOf(0), theirs)
    }),
    inProgram(
      "Redis",
      Effect.fnUntraced(function* (times) {
        ours ??= yield* backend.put(keyOf(0), data)
        for (let i = 0; i < times; i++) ours = yield* backend.putIfVersion(keyOf(0), data, ours)
      })
    )
  ]
}

const compareOneByOne = Effect.fnUntraced(function* (settings: Settings, backend: Backend, bare: Bare) {
  const setting = "one at a time"
  return [
    ...(yield* compare(settings, group, {
      operation: "get",
      setting,
      contenders: [inPromise(bareName, bare.get), inEffect("Redis", (i) => backend.get(keyOf(i)))]
    })),
    ...(yield* compare(settings, group, {
      operation: "put",
      setting,
      contenders: [inPromise(bareName, bare.put), inEffect("Redis", (i) => backend.put(keyOf(i), data))]
    })),
    ...(yield* compare(settings, group, {
      operation: "compare-and-set",
      setting,
      contenders: swaps(backend, bare)
    }))
  ]
})

const together = 50

/** Fifty operations at once, again and again. The figures are of one operation. */
const compareTogether = Effect.fnUntraced(function* (settings: Settings, backend: Backend, bare: Bare) {
  const places = Array.from({ length: together }, (_, i) => i)
  const pair = (
    operation: string,
    theirs: (i: number) => Promise<unknown>,
    ours: (i: number) => Effect.Effect<unknown, unknown>
  ) =>
    compare(settings, group, {
      operation,
      setting: "50 at once",
      contenders: [
        inPromise(bareName, (i) => Promise.all(places.map((place) => theirs(i * together + place)))),
        inEffect("Redis", (i) =>
          Effect.forEach(places, (place) => ours(i * together + place), { concurrency: "unbounded", discard: true })
        )
      ],
      perRun: together
    })
  return [
    ...(yield* pair("get", bare.get, (i) => backend.get(keyOf(i)))),
    ...(yield* pair("put", bare.put, (i) => backend.put(keyOf(i), data)))
  ]
})

const comparePagesOnServer = Effect.fnUntraced(function* (settings: Settings, backend: Backend) {
  const owners = ownersOf(100, 100_000)
  const fill = (name: string, count: number) =>
    Effect.forEach(
      Array.from({ length: count }, (_, i) => StorageKey.makeUnsafe({ owner: name, id: idOf(i) })),
      (key) => backend.put(key, data.slice(0, 100)),
      { concurrency: 200, discard: true }
    )
  yield* fill(owners.few, owners.counts.few)
  yield* fill(owners.many, owners.counts.many)
  return yield* comparePages(settings, group, backend, owners)
})

/** A server with the same records by the library and by the bare client. */
const withServer = <E>(run: (backend: Backend, bare: Bare) => Effect.Effect<ReadonlyArray<Figure>, E>) =>
  Effect.gen(function* () {
    const url = yield* RedisServer.start
    const backend = yield* makeBackend(url)
    const bare = yield* makeBare(url)
    for (let i = 0; i < count; i++) {
      yield* backend.put(keyOf(i), data)
      yield* Effect.promise(() => bare.put(i))
    }
    return yield* run(backend, bare)
  })

export const stepsOf = (settings: Settings): ReadonlyArray<Step> =>
  [
    { label: "one at a time", run: withServer((backend, bare) => compareOneByOne(settings, backend, bare)) },
    { label: "50 at once", run: withServer((backend, bare) => compareTogether(settings, backend, bare)) },
    { label: "pages", run: withServer((backend) => comparePagesOnServer(settings, backend)) }
  ].map((step) => ({ ...step, missing: RedisServer.missing }))
