import { createHash } from "node:crypto"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Schedule, Scope } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import { inject } from "vitest"
import * as RedisServer from "../../examples/RedisServer.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend, type VersionedRecord } from "../../src/StorageBackend.ts"
import type * as StorageError from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { newFolder } from "../support/redisCluster.ts"
import { ask, steadyPort } from "../support/redisServer.ts"
import { until } from "../support/until.ts"

const kills = 20
const writers = [0, 1, 2, 3]
const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })
const shared = keyOf("shared")

/** Text with its checksum, by which half of it would show. */
const sealed = (text: string) => `${text}#${createHash("sha1").update(text).digest("hex")}`

const unsealed = (data: string) => {
  const text = data.slice(0, data.lastIndexOf("#"))
  assert.strictEqual(data, sealed(text), "half of a record")
  return text
}

/** What its writer knows of a record: what was acknowledged last, and the data written since of which it was not told. */
interface Known {
  acknowledged: VersionedRecord | undefined
  maybe: ReadonlyArray<string>
}

/** Starts the server and gives its URL, its process and its end. */
const startIn = Effect.fnUntraced(function* (folder: string, port: number) {
  const scope = yield* Scope.make()
  const settings = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
  const url = yield* Scope.provide(RedisServer.startIn(folder, port, ...settings), scope)
  const [, pid] = /process_id:(\d+)/.exec(yield* ask(url, "INFO", "server")) ?? []
  return { url, pid: Number(pid), ended: Scope.close(scope, Exit.void) }
})

const get = (backend: StorageBackend["Service"], id: string) =>
  Effect.catchTag(backend.get(keyOf(id)), "RecordNotFound", () => Effect.undefined)

/** All of the owner's records, page by page. */
const list = Effect.fnUntraced(function* (backend: StorageBackend["Service"]) {
  const records = new Map<string, VersionedRecord>()
  let cursor: string | undefined
  do {
    const page = yield* backend.listByPrefix(
      makePrefix({ owner, idPrefix: "" }),
      cursor === undefined ? {} : { cursor }
    )
    for (const record of page.records) records.set(record.key.id, record)
    cursor = page.cursor
  } while (cursor !== undefined)
  return records
})

describe.skipIf(!inject("hasRedisServer"))("Redis with appendfsync always", () => {
  it.live(`keeps every acknowledged write, and no half of one, even if it is killed ${kills} times`, () =>
    Effect.gen(function* () {
      const random = randomFrom(newSeed("kills"))
      const [folder, port] = [yield* newFolder, yield* steadyPort]
      let server = yield* startIn(folder, port)
      yield* Effect.addFinalizer(() => server.ended)
      const context = yield* Redis.layer({
        retrySchedule: Schedule.upTo(Schedule.spaced("20 millis"), { duration: "20 seconds" })
      }).pipe(
        Layer.provideMerge(RedisClient.layer({ url: server.url, socket: { reconnectStrategy: () => 10 } })),
        Layer.provide(Logger.layer([])),
        Layer.build
      )
      const backend = yield* Effect.provide(StorageBackend, context)
      const redis = yield* Effect.provide(EffectRedis.Redis, context)

      const known = new Map<string, Known>()
      const names = { acknowledged: new Set<string>(), unknown: new Set<string>() }
      const told = { acknowledged: 0, unknown: 0, refused: 0 }
      let stopped = false

      /** The record where a write was acknowledged, and else what its writer was told. */
      const outcomeOf = <E extends { readonly _tag: string }>(write: Effect.Effect<VersionedRecord, E>) =>
        Effect.map(Effect.result(write), (result) => {
          if (result._tag === "Success") {
            told.acknowledged++
            return result.success
          }
          assert.strictEqual(result.failure._tag, "Backend", String(result.failure))
          const { outcome } = result.failure as unknown as StorageError.Backend
          told[outcome === "unknown" ? "unknown" : "refused"]++
          return outcome
        })

      /** Writes a record that nobody else writes. */
      const writeOwn = Effect.fnUntraced(function* (id: string, operation: "put" | "putIfVersion") {
        const { acknowledged, maybe } = known.get(id) ?? { acknowledged: undefined, maybe: [] }
        const current = maybe.length === 0 ? acknowledged : yield* get(backend, id)
        const data = sealed(`${id} ${told.acknowledged} ${"x".repeat(2_000 + Math.floor(random() * 18_000))}`)
        const write =
          operation === "put" ? backend.put(keyOf(id), data) : backend.putIfVersion(keyOf(id), data, current ?? 0)
        const outcome = yield* outcomeOf<{ readonly _tag: string }>(write)
        if (outcome === "not-applied") return
        known.set(
          id,
          outcome === "unknown" ? { acknowledged, maybe: [...maybe, data] } : { acknowledged: outcome, maybe: [] }
        )
      })

      /** Adds a name to the record that all write. */
      const writeShared = Effect.fnUntraced(function* (name: string) {
        let record = yield* backend.get(shared)
        const add = Effect.suspend(() =>
          backend.putIfVersion(shared, sealed(`${unsealed(record.data)},${name}`), record)
        )
        const outcome = yield* outcomeOf<{ readonly _tag: string }>(
          add.pipe(
            Effect.tapError((error) =>
              Effect.sync(() => {
                if (error._tag === "VersionConflict")
                  record = error.current ?? assert.fail("a conflict without a record")
              })
            ),
            Effect.retry({ while: (error) => error._tag === "VersionConflict" })
          )
        )
        if (outcome !== "not-applied") names[outcome === "unknown" ? "unknown" : "acknowledged"].add(name)
      })

      const run = Effect.fnUntraced(function* (writer: number, round: number) {
        for (let i = 0; !stopped; i++) {
          yield* writeOwn(`${writer} by compare-and-set`, "putIfVersion")
          yield* writeOwn(`${writer} by put`, "put")
          yield* writeOwn(`${writer} new ${round}.${i}`, "putIfVersion")
          yield* writeShared(`${writer}.${round}.${i}`)
        }
      })

      /** How many acknowledged writes are not there. */
      const verify = Effect.gen(function* () {
        let lost = 0
        const listed = yield* list(backend)
        for (const { data } of listed.values()) unsealed(data)
        for (const [id, { acknowledged, maybe }] of known) {
          const current = yield* get(backend, id)
          assert.deepStrictEqual(listed.get(id), current, "the index and the hash disagree")
          const later = current !== undefined && maybe.includes(current.data)
          if (later) assert.isAbove(current.version, acknowledged?.version ?? 0)
          else if (acknowledged === undefined) assert.isUndefined(current, "a write that nobody made")
          else if (current?.writeId !== acknowledged.writeId) lost++
          else assert.deepStrictEqual(current, acknowledged)
          known.set(id, { acknowledged: current, maybe: [] })
        }
        const [, ...there] = unsealed((yield* backend.get(shared)).data).split(",")
        assert.strictEqual(new Set(there).size, there.length, "a write was applied twice")
        for (const name of there) assert.isTrue(names.acknowledged.has(name) || names.unknown.has(name), name)
        for (const name of names.acknowledged) if (!there.includes(name)) lost++
        const base = `evs:{${owner}}:`
        const hashes = yield* redis.send<ReadonlyArray<string>>("KEYS", `${base}record:*`)
        const index = yield* redis.send<ReadonlyArray<string>>("ZRANGE", `${base}index`, "0", "-1")
        assert.deepStrictEqual(index.map((id) => `${base}record:${id}`).sort(), [...hashes].sort())
        assert.deepStrictEqual([...index].sort(), [...listed.keys()].sort())
        return lost
      })

      yield* backend.put(shared, sealed("names"))
      let lost = 0
      for (let round = 1; round <= kills; round++) {
        stopped = false
        const running = yield* Effect.forkChild(
          Effect.forEach(writers, (writer) => run(writer, round), { concurrency: "unbounded", discard: true })
        )
        const before = told.acknowledged
        const acknowledged = until(() => told.acknowledged > before)
        yield* Effect.raceFirst(acknowledged, Fiber.join(running))
        // Kills at a random moment of the writing: this waits for nothing.
        yield* Effect.sleep(Math.floor(random() * 200))
        process.kill(server.pid, "SIGKILL")
        stopped = true
        yield* server.ended
        server = yield* startIn(folder, port)
        yield* Fiber.join(running)
        lost += yield* verify
      }
      console.log(
        `${kills} kills: ${told.acknowledged} acknowledged, ${told.unknown} unknown, ${told.refused} not applied, ${lost} lost`
      )
      assert.isAtLeast(told.acknowledged, kills)
      assert.strictEqual(lost, 0)
    })
  )
})
