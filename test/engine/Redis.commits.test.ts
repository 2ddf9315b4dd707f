import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Fiber, Layer, Logger, Schedule, Scope } from "effect"
import { inject } from "vitest"
import * as RedisServer from "../../examples/RedisServer.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { type Step, StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import * as Bank from "../support/bank.ts"
import { killedWriter } from "../support/killedWriter.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { lossy, newKeyPrefix, url } from "../support/redis.ts"
import { newFolder } from "../support/redisCluster.ts"
import { redisProxy } from "../support/redisProxy.ts"
import { as, ask, newServer, steadyPort } from "../support/redisServer.ts"
import { until } from "../support/until.ts"

const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })
const write = (id: string, expected: Step["expected"]) => ({ _tag: "Write", id, expected, data: `new ${id}` }) as const
const check = (id: string, expected: Step["expected"]) => ({ _tag: "Check", id, expected }) as const
const remove = (id: string, expected: Step["expected"]) => ({ _tag: "Remove", id, expected }) as const

/** A backend that tries once. */
const build = (url: string, options: Redis.Options = {}) =>
  Redis.layer({ retrySchedule: Schedule.recurs(0), ...options }).pipe(
    Layer.provide(RedisClient.layer({ url, socket: { reconnectStrategy: () => 10 } })),
    Layer.provide(Logger.layer([])),
    Layer.build,
    Effect.flatMap((context) => Effect.provide(StorageBackend, context))
  )

/** All keys of the server, each with what it holds. */
const dump = Effect.fnUntraced(function* (url: string) {
  const keys = (yield* ask(url, "KEYS", "*")).split(",").toSorted()
  return yield* Effect.forEach(keys, (key) => Effect.map(ask(url, "DUMP", key), (held) => [key, held]))
})

const assertFailure = (error: unknown, reason: Backend["reason"]["_tag"], message: RegExp) => {
  assert.propertyVal(error, "_tag", "Backend", String(error))
  const backend = error as Backend
  assert.deepStrictEqual([backend.operation, backend.reason._tag, backend.outcome], ["commit", reason, "not-applied"])
  assert.match(backend.message, message)
}

describe.skipIf(!inject("hasRedisServer"))("a commit on Redis changes nothing", () => {
  const setUp = Effect.gen(function* () {
    const url = yield* newServer()
    const backend = yield* build(url)
    for (const id of ["a", "b", "c"]) yield* backend.put(keyOf(id), "one")
    return { url, backend }
  })
  const steps = [remove("a", 1), write("b", 1), remove("c", 1), write("d", 0), check("e", 0)]

  it.live("if the user has no permission for one of its commands", () =>
    Effect.gen(function* () {
      const { backend, url } = yield* setUp
      const before = yield* dump(url)
      const commands = ["DEL", "ZADD", "ZREM", "HSET", "PERSIST", "SET", "EXISTS", "ZCARD", "HMGET", "TIME"]
      for (const command of commands) {
        const rules = ["~*", "&*", "+@all", `-${command.toLowerCase()}`]
        yield* ask(url, "ACL", "SETUSER", command, "on", ">pass-word", ...rules)
        const limited = yield* build(as(url, command, "pass-word"))
        const error = yield* Effect.flip(limited.commit(owner, steps))
        assertFailure(error, "Unauthorized", /has no permission for the command: see ACL LIST/)
        assert.deepStrictEqual(yield* dump(url), before, command)
      }
      yield* backend.commit(owner, steps)
    })
  )

  it.live("if the server has renamed one of its commands", () =>
    Effect.gen(function* () {
      const url = yield* newServer("--rename-command", "DEL", "DELETE")
      const backend = yield* build(url)
      for (const id of ["a", "b", "c"]) yield* backend.put(keyOf(id), "one")
      const before = yield* dump(url)
      assert.strictEqual((yield* Effect.flip(backend.commit(owner, steps)))._tag, "Backend")
      assert.deepStrictEqual(yield* dump(url), before)
    })
  )

  it.live("if one of its keys has another type", () =>
    Effect.gen(function* () {
      const { backend, url } = yield* setUp
      for (const [key, command] of [
        ["index", ["SET"]],
        ["expiry", ["SET"]],
        ["record:d", ["LPUSH"]]
      ] as const) {
        const name = `evs:{${owner}}:${key}`
        const kept = `kept:{${owner}}`
        const isThere = (yield* ask(url, "EXISTS", name)) === "1"
        if (isThere) yield* ask(url, "RENAME", name, kept)
        yield* ask(url, ...command, name, "text")
        const before = yield* dump(url)
        const error = yield* Effect.flip(backend.commit(owner, steps))
        assertFailure(error, "Misconfigured", /has another type: choose another keyPrefix, or remove that key/)
        assert.deepStrictEqual(yield* dump(url), before, key)
        yield* isThere ? ask(url, "RENAME", kept, name) : ask(url, "DEL", name)
      }
      yield* backend.commit(owner, steps)
    })
  )

  it.live("if Redis has no memory for what it writes, and may still remove and check records", () =>
    Effect.gen(function* () {
      const { backend, url } = yield* setUp
      const before = yield* dump(url)
      yield* ask(url, "CONFIG", "SET", "maxmemory", "1")
      const error = yield* Effect.flip(backend.commit(owner, steps))
      assertFailure(error, "Unavailable", /used up its maxmemory and refuses writes: raise it, or remove records/)
      assert.deepStrictEqual(yield* dump(url), before)
      yield* backend.commit(owner, [check("a", 1), check("d", 0)])
      yield* backend.commit(owner, [remove("a", 1), remove("b", 1)])
      yield* ask(url, "CONFIG", "SET", "maxmemory", "0")
      yield* backend.commit(owner, [write("a", 0), write("b", 0)])
    })
  )
})

describe.skipIf(url === undefined)("a commit on Redis", () => {
  it.live("is remembered for ten minutes by a key that is no record, unless it only checks", () =>
    Effect.gen(function* () {
      const keyPrefix = newKeyPrefix()
      const backend = yield* build(url ?? "", { keyPrefix })
      yield* backend.commit(owner, [check("a", 0), check("b", 0)])
      assert.strictEqual(yield* ask(url ?? "", "KEYS", `${keyPrefix}:*`), "")
      yield* backend.commit(owner, [write("a", 0), write("b", 0)])
      const marker = yield* ask(url ?? "", "KEYS", `${keyPrefix}:{${owner}}:commit:*`)
      assert.notInclude(marker, ",")
      const seconds = Number(yield* ask(url ?? "", "TTL", marker))
      assert.isAbove(seconds, 500)
      assert.isAtMost(seconds, 600)
      const page = yield* backend.listByPrefix(makePrefix({ owner, idPrefix: "" }))
      assert.deepStrictEqual(
        page.records.map(({ key }) => key.id),
        ["a", "b"]
      )
      assert.strictEqual(yield* backend.cleanupExpired, 0)
      assert.strictEqual(yield* ask(url ?? "", "EXISTS", marker), "1")
    })
  )

  it.live("is one command, whether it is made or refused, and two over an expired record", () =>
    Effect.gen(function* () {
      const proxy = yield* redisProxy(url ?? "", () => "pass")
      const backend = yield* build(proxy.url, { keyPrefix: newKeyPrefix() })
      const countOf = Effect.fnUntraced(function* (steps: ReadonlyArray<Step>) {
        const before = proxy.commands.length
        yield* Effect.result(backend.commit(owner, steps))
        return proxy.commands.length - before
      })
      // So that Redis has the script.
      yield* backend.commit(owner, [write("x", 0), write("y", 0)])
      assert.strictEqual(yield* countOf([write("a", 0), write("b", 0), check("c", 0)]), 1)
      assert.strictEqual(yield* countOf([write("a", 0), remove("b", 1)]), 1)
      assert.strictEqual(yield* countOf([check("a", 1), check("b", 1)]), 1)
      yield* backend.put(keyOf("expired"), "old", { expiresAt: DateTime.makeUnsafe(0) })
      assert.strictEqual(yield* countOf([write("a", 1), write("expired", 0)]), 2)
    })
  )

  for (const lost of [0.1, 0.3]) {
    it.live(`of a transfer is whole with ${lost * 100}% of the answers lost, and none is unknown`, () =>
      Effect.gen(function* () {
        const random = randomFrom(newSeed(`Redis, bank, ${lost} lost`))
        const keyPrefix = newKeyPrefix()
        let lostAnswers = 0
        const backend = yield* lossy(keyPrefix)(() => random() < lost && lostAnswers++ >= 0)
        const bank = yield* Effect.provideService(Bank.open, StorageBackend, backend)
        const direct = yield* Effect.provideService(Bank.open, StorageBackend, yield* build(url ?? "", { keyPrefix }))
        yield* Bank.openAccounts(direct)
        const ends = yield* Bank.transfers(bank, { fibers: 8, times: 20 }, random)
        console.log(`Redis, ${lost} lost: ${lostAnswers} answers lost, ${JSON.stringify(Bank.counts(ends))}`)
        yield* Bank.assertBooks(direct, ends)
        assert.isAbove(lostAnswers, 5)
        assert.strictEqual(ends.unknown.size, 0)
      })
    )
  }
})

const kills = 20

describe.skipIf(!inject("hasRedisServer"))("commits on Redis with appendfsync always", () => {
  const startIn = Effect.fnUntraced(function* (folder: string, port: number) {
    const scope = yield* Scope.make()
    const settings = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    const url = yield* Scope.provide(RedisServer.startIn(folder, port, ...settings), scope)
    const [, pid] = /process_id:(\d+)/.exec(yield* ask(url, "INFO", "server")) ?? []
    return { url, pid: Number(pid), ended: Scope.close(scope, Exit.void) }
  })

  it.live(`are whole, and those that were acknowledged are kept, if the server is killed ${kills} times`, () =>
    Effect.gen(function* () {
      const random = randomFrom(newSeed("Redis, commits, kills"))
      const [folder, port] = [yield* newFolder, yield* steadyPort]
      let server = yield* startIn(folder, port)
      yield* Effect.addFinalizer(() => server.ended)
      const retrySchedule = Schedule.upTo(Schedule.spaced("20 millis"), { duration: "20 seconds" })
      const bank = yield* Effect.provideService(Bank.open, StorageBackend, yield* build(server.url, { retrySchedule }))
      yield* Bank.openAccounts(bank)
      const ends = Bank.newEnds()
      for (let round = 1; round <= kills; round++) {
        let stopped = false
        const before = ends.acknowledged.size
        const running = yield* Effect.forkChild(Bank.transfersUntil(bank, 4, random, () => stopped, ends))
        yield* Effect.raceFirst(
          until(() => ends.acknowledged.size > before),
          Fiber.join(running)
        )
        // Kills at a random moment of the writing: this waits for nothing.
        yield* Effect.sleep(Math.floor(random() * 100))
        process.kill(server.pid, "SIGKILL")
        stopped = true
        yield* server.ended
        server = yield* startIn(folder, port)
        yield* Fiber.join(running)
        yield* Bank.assertBooks(bank, ends)
      }
      console.log(
        `Redis: ${kills} kills of the server, ${JSON.stringify(Bank.counts(ends))}, none lost, none half made`
      )
      assert.isAtLeast(ends.acknowledged.size, kills)
    })
  )

  it.live(`are whole if processes are killed in the middle of them, ${kills} times`, () =>
    Effect.gen(function* () {
      const random = randomFrom(newSeed("Redis, clients, killed"))
      const url = yield* newServer()
      const bank = yield* Effect.provideService(Bank.open, StorageBackend, yield* build(url))
      yield* Bank.openAccounts(bank)
      let acknowledged = 0
      for (let i = 0; i < kills / 2; i++) {
        const told = yield* Effect.all(
          [1, 2].map(() => killedWriter("bankWriter.ts", ["redis", url], random() * 60)),
          { concurrency: "unbounded" }
        )
        const { names, sum, wrong } = yield* Bank.audit(bank)
        assert.deepStrictEqual([sum, wrong], [Bank.totalOpening, []])
        for (const name of told.flat()) assert.isTrue(names.has(name), "an acknowledged transfer is lost")
        acknowledged += told.flat().length
      }
      console.log(`Redis: ${kills} kills of clients, ${acknowledged} acknowledged, none lost, none half made`)
      assert.isAtLeast(acknowledged, kills)
    })
  )
})
