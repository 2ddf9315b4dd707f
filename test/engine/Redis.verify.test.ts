import { type AddressInfo, createServer, type Socket } from "node:net"
import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Config, ConfigProvider, Effect, Layer, Logger, Schedule } from "effect"
import type * as EffectRedis from "effect/persistence/Redis"
import { inject } from "vitest"
import { freePort } from "../../examples/server.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { redisProxy } from "../support/redisProxy.ts"
import { as, ask, newServer } from "../support/redisServer.ts"

const fromEnv = RedisClient.layerConfig({ url: Config.NonEmptyString("REDIS_URL") })

/** Builds a backend on the server at a URL that the environment gives. */
const build = (
  url: string,
  options: Redis.Options = { verify: true },
  client: Layer.Layer<EffectRedis.Redis, unknown> = fromEnv
) =>
  Redis.layer({ retrySchedule: Schedule.recurs(0), ...options }).pipe(
    Layer.provide(client),
    Layer.provide(Logger.layer([])),
    Layer.build,
    Effect.flatMap((context) => Effect.provide(StorageBackend, context)),
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env: { REDIS_URL: url } })))
  )

const assertFails = Effect.fnUntraced(function* (
  building: ReturnType<typeof build>,
  reason: Backend["reason"]["_tag"],
  ...says: ReadonlyArray<string>
) {
  const error = (yield* Effect.flip(building)) as Backend
  assert.deepStrictEqual([error._tag, error.outcome], ["Backend", "not-applied"], `${error}`)
  assert.strictEqual(error.reason._tag, reason, error.message)
  for (const words of says) assert.include(error.message, words)
  assert.notInclude(error.message, "pass-word")
})

const commands = ["EVALSHA", "EVAL", "HMGET", "HGET", "HSET", "EXISTS", "DEL", "EXPIREAT", "PERSIST", "ZADD", "ZREM"]
  .concat(["SET", "ZRANGE", "ZSCORE", "ZCARD", "TIME", "PING", "SCAN"])
  .map((name) => `+${name.toLowerCase()}`)

/** A user with the rules that are given, by its URL. */
const newUser = Effect.fnUntraced(function* (url: string, ...rules: ReadonlyArray<string>) {
  const name = `user-${crypto.randomUUID()}`
  yield* ask(url, "ACL", "SETUSER", name, "on", ">pass-word", ...rules)
  return as(url, name, "pass-word")
})

/** A server that accepts connections and never answers, and how many connections are open. */
const silent = Effect.acquireRelease(
  Effect.callback<{ readonly url: string; readonly sockets: Set<Socket>; readonly close: () => void }>((resume) => {
    const sockets = new Set<Socket>()
    const server = createServer((socket) => {
      sockets.add(socket)
      socket
        .on("error", () => {})
        .on("close", () => sockets.delete(socket))
        .resume()
    })
    const close = () => {
      server.close()
      for (const socket of sockets) socket.destroy()
    }
    server.listen(0, "127.0.0.1", () =>
      resume(Effect.succeed({ url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`, sockets, close }))
    )
  }),
  ({ close }) => Effect.sync(close)
)

describe.skipIf(!inject("hasRedisServer"))("Redis with verify", () => {
  it.live("builds for a user with the permissions of the operations, and leaves no key", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const user = yield* newUser(url, "~evs:*", ...commands)
      const backend = yield* build(user)
      assert.strictEqual(yield* ask(url, "DBSIZE"), "0")
      assert.strictEqual((yield* backend.put(makeUnsafe({ owner: "alice", id: "a" }), "data")).version, 1)
      const own = makeUnsafe({ owner: "effect-versioned-store", id: "verify" })
      yield* backend.put(own, "data")
      yield* build(url, { verify: true }, NodeRedis.layer({ url }))
      assert.strictEqual((yield* backend.get(own)).data, "data")
    })
  )

  it.live("fails if the user may not run a command of the operations, and says how to grant it", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      for (const missing of commands.filter((command) => !/ping|eval/.test(command))) {
        const user = yield* newUser(url, "~evs:*", ...commands.filter((command) => command !== missing))
        const name = missing.slice(1).toUpperCase()
        const says = `open failed: The Redis user has no permission for ${name} on the keys evs:*. Grant it `
        yield* assertFails(build(user), "Unauthorized", says, `~evs:* ${missing} by ACL SETUSER`, "switch verify off")
        yield* build(user, { verify: false })
      }
      const several = yield* newUser(url, "~evs:*", ...commands.filter((command) => !/hset|del/.test(command)))
      yield* assertFails(build(several), "Unauthorized", "Grant it ~evs:* +hset +del by ACL SETUSER")
    })
  )

  it.live("fails if the user may not run scripts, or not use the keys", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const noScripts = yield* newUser(url, "~evs:*", ...commands.filter((command) => !command.includes("eval")))
      const otherKeys = yield* newUser(url, "~shop:*", ...commands)
      const readOnly = yield* newUser(url, "%R~evs:*", ...commands)
      for (const user of [noScripts, otherKeys, readOnly]) {
        yield* assertFails(build(user), "Unauthorized", "Grant it ~evs:* +evalsha +eval by ACL SETUSER")
      }
      yield* build(otherKeys, { verify: true, keyPrefix: "shop" })
    })
  )

  it.live("fails on a replica, which without verify only a write shows", () =>
    Effect.gen(function* () {
      const primary = yield* newServer()
      const replica = yield* newServer("--replicaof", "127.0.0.1", new URL(primary).port)
      // Until the replica has its first copy, it may say that it is loading.
      const options = { verify: true, retrySchedule: Schedule.spaced("20 millis") }
      yield* assertFails(
        build(replica, options),
        "Misconfigured",
        "open failed: This Redis is a replica and refuses writes"
      )
      yield* build(replica, { verify: false })
    })
  )

  it.live("fails if the server has used up its memory and refuses writes", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      yield* ask(url, "CONFIG", "SET", "maxmemory", "1")
      yield* assertFails(build(url), "Unavailable", "open failed: Redis has used up its maxmemory and refuses writes")
      yield* build(url, { verify: false })
    })
  )

  it.live("fails if a command is renamed", () =>
    Effect.gen(function* () {
      const url = yield* newServer("--rename-command", "HSET", "HSET2")
      yield* assertFails(build(url), "Misconfigured", "open failed: Redis does not know HSET: 6.2 or newer is needed")
    })
  )

  it.live("fails if the password is wrong or missing, and does not repeat it", () =>
    Effect.gen(function* () {
      const url = yield* newServer("--requirepass", "pass-word-of-old")
      yield* assertFails(build(url), "Unauthorized", "connect failed: Redis requires a password")
      yield* assertFails(build(as(url, "", "pass-word")), "Unauthorized", "does not accept the password: check it")
    })
  )

  it.live("fails if nothing or a stranger answers at the port", () =>
    Effect.gen(function* () {
      const nothing = `redis://127.0.0.1:${yield* freePort}`
      yield* assertFails(build(nothing), "Unavailable", "ECONNREFUSED", "Check that Redis runs, and that host and port")
      const port = yield* Effect.acquireRelease(
        Effect.callback<ReturnType<typeof createServer>>((resume) => {
          const server = createServer((socket) => {
            socket.on("error", () => {}).end("HTTP/1.1 400 Bad Request\r\n\r\n")
          })
          server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.sync(() => server.close())
      ).pipe(Effect.map((server) => (server.address() as AddressInfo).port))
      yield* assertFails(build(`redis://127.0.0.1:${port}`), "Unavailable", "Redis can't be reached")
    })
  )
})

describe.skipIf(!inject("hasRedisServer"))("Redis whose server hangs", () => {
  it.live(
    "fails to build once the client's 5 seconds are up, and leaves no connection",
    () =>
      Effect.gen(function* () {
        const { sockets, url } = yield* silent
        const cluster = RedisClient.layerClusterConfig({ rootNodes: Config.succeed([{ url }]) })
        for (const client of [fromEnv, cluster]) {
          yield* assertFails(
            Effect.scoped(build(url, {}, client)),
            "Unavailable",
            "Connection timeout",
            "Check that Redis"
          )
          yield* Effect.eventually(Effect.suspend(() => (sockets.size === 0 ? Effect.void : Effect.fail("open"))))
        }
      }),
    30_000
  )

  it.live("fails after one request if it connects and then gives no answer", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      for (const [hangs, verify] of [
        ["INFO", false],
        ["EVALSHA", true]
      ] as const) {
        const proxy = yield* redisProxy(url, ([name]) => (name === hangs ? "hang" : "pass"))
        const options = { requestTimeout: "200 millis", retrySchedule: Schedule.recurs(5), verify } as const
        const says = "open failed: Redis did not answer within 200ms"
        yield* assertFails(build(proxy.url, options), "Timeout", says)
        assert.strictEqual(proxy.commands.filter(([name]) => name === hangs).length, 1)
      }
    })
  )
})
