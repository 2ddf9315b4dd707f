import { mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { inspect } from "node:util"
import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Cause, DateTime, Effect, Exit, Fiber, Layer, Logger, Metric, Schedule, Scope } from "effect"
import * as EffectRedis from "effect/persistence/Redis"
import { createClient } from "redis"
import { inject } from "vitest"
import * as RedisServer from "../../examples/RedisServer.ts"
import { freePort } from "../../examples/server.ts"
import * as Redis from "../../src/engine/Redis.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"
import type { Backend } from "../../src/StorageError.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { makeUnsafe as makePrefix } from "../../src/StoragePrefix.ts"
import { outerAddress } from "../support/machine.ts"
import { newFolder } from "../support/redisCluster.ts"
import { as, ask, newServer, steadyPort } from "../support/redisServer.ts"
import { assertHides } from "../support/shown.ts"

const key = makeUnsafe({ owner: "alice", id: "a" })
const page = makePrefix({ owner: "alice", idPrefix: "" })

type ClientOptions = Parameters<typeof RedisClient.layer>[0]

/** A backend that tries once, on the client that is asked for. */
const build = (
  url: string,
  options: Redis.Options = {},
  client: (options: ClientOptions) => Layer.Layer<EffectRedis.Redis, unknown> = RedisClient.layer
) =>
  Redis.layer({ retrySchedule: Schedule.recurs(0), ...options }).pipe(
    Layer.provide(client({ url })),
    Layer.provide(Logger.layer([])),
    Layer.build,
    Effect.flatMap((context) => Effect.provide(StorageBackend, context))
  )

/** Checks a failure, which must tell neither data nor a password, and gives its message. */
const assertBackend = (
  error: unknown,
  reason: Backend["reason"]["_tag"],
  outcome: Backend["outcome"],
  message: RegExp | string
) => {
  assert.strictEqual((error as Backend)._tag, "Backend", inspect(error))
  const backend = error as Backend
  assert.deepStrictEqual([backend.reason._tag, backend.outcome], [reason, outcome], backend.message)
  const transient = ["Throttled", "Unavailable", "Timeout"].includes(reason)
  assert.strictEqual(backend.isRetryable, transient && outcome === "not-applied", backend.message)
  if (typeof message === "string") assert.include(backend.message, message)
  else assert.match(backend.message, message)
  assertHides(backend, "hush", "pass-word")
}

/** The warnings that an Effect logs. */
const warnings = <A, E, R>(effect: Effect.Effect<A, E, R>) => {
  const messages: Array<string> = []
  const logger = Logger.make(({ logLevel, message }) => {
    if (logLevel === "Warn") messages.push(String(message))
  })
  return Effect.as(Effect.provide(effect, Logger.layer([logger])), messages)
}

describe.skipIf(!inject("hasRedisServer"))("Redis fails with an error that says what to do,", () => {
  it.live("if no server answers when the Layer is built", () =>
    Effect.gen(function* () {
      const url = `redis://127.0.0.1:${yield* freePort}`
      assertBackend(yield* Effect.flip(build(url)), "Unavailable", "not-applied", /ECONNREFUSED.*host and port/)
      const cluster = RedisClient.layerCluster({ rootNodes: [{ url }] }).pipe(Layer.provide(Logger.layer([])))
      assertBackend(yield* Effect.flip(Layer.build(cluster)), "Unavailable", "not-applied", "Check that Redis runs")
      const local = yield* Effect.flip(build(url.replace("127.0.0.1", "localhost")))
      assertBackend(local, "Unavailable", "not-applied", "host and port")
      const nowhere = yield* Effect.flip(build("redis://redis.invalid:6379"))
      assertBackend(nowhere, "Unavailable", "not-applied", "redis.invalid")
      // The Layer of Effect's own has its own error.
      const plain = yield* Effect.flip(build(url, {}, NodeRedis.layer))
      assert.strictEqual((plain as EffectRedis.RedisError)._tag, "RedisError")
    })
  )

  it.live("if the URL is not valid, and does not repeat it", () =>
    Effect.gen(function* () {
      for (const url of [
        "localhost",
        "http://localhost:6379",
        "redis://:pass-word@localhost:port",
        "redis://localhost/zero",
        "unix:"
      ]) {
        const single = yield* Effect.flip(Layer.build(RedisClient.layer({ url })))
        const cluster = yield* Effect.flip(Layer.build(RedisClient.layerCluster({ rootNodes: [{ url }] })))
        for (const error of [single, cluster]) {
          assertBackend(error, "Misconfigured", "not-applied", "such as redis://localhost:6379")
        }
      }
    })
  )

  it.live("but not for a user who has just the permissions that the docs list", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const docs = readFileSync(join(import.meta.dirname, "../../docs/redis.md"), "utf8")
      const [, listed = ""] = /\*\*Permissions\.\*\* (.*?) on the keys below the prefix/s.exec(docs) ?? []
      const commands = Array.from(listed.matchAll(/`([A-Z]+)`/g), ([, name = ""]) => `+${name.toLowerCase()}`)
      assert.isAbove(commands.length, 10)
      yield* ask(url, "ACL", "SETUSER", "app", "on", ">pass-word", "~shop:*", ...commands)
      const backend = yield* build(as(url, "app", "pass-word"), { keyPrefix: "shop", verify: true })
      const expiresAt = DateTime.add(yield* DateTime.now, { hours: 1 })
      const record = yield* backend.put(key, "hush", { expiresAt })
      assert.isAbove(Number(yield* ask(url, "TTL", "shop:{alice}:record:a")), 3600)
      yield* backend.putIfVersion(key, "hush", record)
      yield* backend.put(makeUnsafe({ owner: "alice", id: "dropped" }), "hush")
      yield* ask(url, "DEL", "shop:{alice}:record:dropped")
      assert.strictEqual((yield* backend.listByPrefix(page)).records.length, 1)
      assert.strictEqual(yield* ask(url, "ZCARD", "shop:{alice}:index"), "1")
      const past = DateTime.makeUnsafe(0)
      yield* backend.put(makeUnsafe({ owner: "alice", id: "past" }), "hush", { expiresAt: past })
      assert.strictEqual(yield* backend.cleanupExpired, 1)
      assert.strictEqual((yield* backend.get(key)).version, 2)
      yield* backend.commit(key.owner, [
        { _tag: "Write", id: key.id, expected: 2, data: "hush", expiresAt },
        { _tag: "Write", id: "b", expected: 0, data: "hush" },
        { _tag: "Check", id: "c", expected: 0 }
      ])
      assert.isTrue(yield* backend.delete(key))
    })
  )

  it.live("if the server goes away, and works again once it is back", () =>
    Effect.gen(function* () {
      const [folder, port, scope] = [yield* newFolder, yield* steadyPort, yield* Scope.make()]
      const url = yield* Scope.provide(RedisServer.startIn(folder, port, "--save", ""), scope)
      const backend = yield* build(url)
      const record = yield* backend.put(key, "hush")
      yield* Scope.close(scope, Exit.void)
      // Until the client has noticed, what is sent may have arrived.
      const noticed = { until: (error: { readonly _tag: string }) => (error as Backend).outcome === "not-applied" }
      const gone = yield* Effect.repeat(Effect.flip(backend.put(key, "hush")), noticed)
      assertBackend(gone, "Unavailable", "not-applied", "can't be reached")
      for (const operation of [
        backend.get(key),
        backend.putIfVersion(key, "hush", record),
        backend.delete(key),
        backend.deleteIfVersion(key, record),
        backend.listByPrefix(page),
        backend.cleanupExpired
      ]) {
        const error = yield* Effect.flip(operation as Effect.Effect<unknown, unknown>)
        assertBackend(error, "Unavailable", "not-applied", "can't be reached")
      }
      yield* RedisServer.startIn(folder, port, "--save", "")
      assert.strictEqual((yield* Effect.eventually(backend.put(key, "hush"))).version, 1)
    })
  )

  it.live("if the password is wrong or missing, and does not repeat it", () =>
    Effect.gen(function* () {
      const url = yield* newServer("--requirepass", "pass-word")
      assertBackend(yield* Effect.flip(build(url)), "Unauthorized", "not-applied", /requires a password/)
      const wrong = as(url, "", "pass-word-not")
      assertBackend(yield* Effect.flip(build(wrong)), "Unauthorized", "not-applied", /does not accept the password/)
      const old = yield* Effect.flip(
        Layer.build(RedisClient.layer({ url: wrong, RESP: 2 })).pipe(Effect.provide(Logger.layer([])))
      )
      assertBackend(old, "Unauthorized", "not-applied", /does not accept the password/)
      const cluster = RedisClient.layerCluster({ rootNodes: [{ url: wrong }] }).pipe(Layer.provide(Logger.layer([])))
      const refused = yield* Effect.flip(Layer.build(cluster))
      assertBackend(refused, "Unauthorized", "not-applied", /does not accept the password/)
      const right = yield* build(as(url, "", "pass-word"))
      assert.strictEqual((yield* right.put(key, "hush")).version, 1)
    })
  )

  it.live("if the user may not run the commands", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const user = (name: string, ...rules: ReadonlyArray<string>) =>
        Effect.as(ask(url, "ACL", "SETUSER", name, "on", ">pass-word", ...rules), as(url, name, "pass-word"))
      const permission = /has no permission for the command: see ACL LIST/

      const reader = yield* build(yield* user("reader", "~*", "+@all", "-@scripting"))
      assertBackend(yield* Effect.flip(reader.put(key, "hush")), "Unauthorized", "not-applied", permission)
      assert.strictEqual((yield* Effect.flip(reader.get(key)))._tag, "RecordNotFound")

      const elsewhere = yield* build(yield* user("elsewhere", "~other*", "+@all"))
      assertBackend(yield* Effect.flip(elsewhere.put(key, "hush")), "Unauthorized", "not-applied", permission)
      assertBackend(yield* Effect.flip(elsewhere.get(key)), "Unauthorized", "not-applied", permission)

      // Within a script.
      const halfway = yield* build(yield* user("halfway", "~*", "+@all", "-hset"))
      assertBackend(yield* Effect.flip(halfway.put(key, "hush")), "Unauthorized", "not-applied", permission)
      assert.strictEqual((yield* Effect.flip(halfway.get(key)))._tag, "RecordNotFound")
      assert.deepStrictEqual((yield* halfway.listByPrefix(page)).records, [])

      const blind = yield* build(yield* user("blind", "~*", "+@all", "-info"))
      assert.strictEqual((yield* blind.put(key, "hush")).version, 1)
    })
  )

  it.live("if a server does not know HELLO or AUTH, and does not repeat the password that was sent with it", () =>
    Effect.gen(function* () {
      const withoutHello = as(yield* newServer("--rename-command", "HELLO", ""), "app", "pass-word")
      const withoutAuth = as(yield* newServer("--rename-command", "AUTH", ""), "app", "pass-word")
      const cluster = RedisClient.layerCluster({ rootNodes: [{ url: withoutHello }] })
      for (const layer of [
        RedisClient.layer({ url: withoutHello }),
        RedisClient.layer({ url: withoutAuth, RESP: 2 }),
        cluster
      ]) {
        const error = yield* Effect.flip(Layer.build(Layer.provide(layer, Logger.layer([]))))
        assertBackend(error, "Misconfigured", "not-applied", /6\.2 or newer is needed.*unknown command '(HELLO|AUTH)'/)
      }
      const logged = yield* warnings(Effect.flip(Effect.scoped(Layer.build(cluster))))
      assert.isAbove(logged.length, 0)
      for (const message of logged) assert.notInclude(message, "pass-word")
    })
  )

  it.live("if Redis does not know a command of the service's user, without its arguments", () =>
    Effect.gen(function* () {
      const redis = yield* Effect.provide(
        EffectRedis.Redis,
        yield* Layer.build(RedisClient.layer({ url: yield* newServer() }))
      )
      const error = yield* Effect.flip(redis.send("SETPASSWORD", "pass-word", "hush"))
      assert.include(inspect(error), "unknown command 'SETPASSWORD'")
      assertHides(error, "pass-word", "hush")
    })
  )

  it.live("whose outcome is not-applied if the operation only reads, and counts no ambiguous attempt", () =>
    Effect.gen(function* () {
      const keyPrefix = crypto.randomUUID()
      const service = EffectRedis.make({
        send: (command) =>
          command === "INFO"
            ? Effect.succeed("" as never)
            : Effect.fail(new EffectRedis.RedisError({ cause: new Error("the connection was lost") })),
        subscribe: () => Effect.never,
        connect: Effect.never
      })
      const backend = yield* build("", { keyPrefix }, () => Layer.effect(EffectRedis.Redis, service))
      const reads: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        backend.get(key),
        backend.listByPrefix(page),
        backend.cleanupExpired
      ]
      for (const read of reads) {
        assertBackend(yield* Effect.flip(read), "Unavailable", "not-applied", "Redis gave no answer")
      }
      const ambiguous = Effect.map(Metric.snapshot, (metrics) =>
        metrics.find(
          ({ attributes, id }) =>
            id === "effect_versioned_store.ambiguous" && attributes?.["db.collection.name"] === keyPrefix
        )
      )
      assert.isUndefined(yield* ambiguous)
      assertBackend(yield* Effect.flip(backend.delete(key)), "Unavailable", "unknown", "Redis gave no answer")
      assert.isDefined(yield* ambiguous)
    })
  )

  it.live("that is a defect and names the option, if an option is not valid", () =>
    Effect.gen(function* () {
      const service = EffectRedis.make({
        send: () => Effect.succeed("" as never),
        subscribe: () => Effect.never,
        connect: Effect.never
      })
      for (const [options, message] of [
        [{ keyPrefix: null }, /^keyPrefix must be a string: it is null$/],
        [{ keyPrefix: 7 }, /^keyPrefix must be a string: it is 7$/],
        [{ requestTimeout: Number.NaN }, /^requestTimeout must be a duration of zero or more.*: it is NaN$/],
        [{ requestTimeout: "soon" }, /^requestTimeout must be a duration of zero or more.*: it is "soon"$/],
        [{ requestTimeout: null }, /^requestTimeout must be a duration of zero or more.*: it is null$/],
        [{ requestTimeout: -1 }, /^requestTimeout must be a duration of zero or more.*: it is -1$/],
        [{ maxDataBytes: Number.NaN }, /^maxDataBytes must be .*: it is NaN$/],
        [{ maxDataBytes: null }, /^maxDataBytes must be .*: it is null$/],
        [{ retrySchedule: "often" }, /^retrySchedule must be a Schedule: it is "often"$/]
      ] as const) {
        const building = build("", options as never, () => Layer.effect(EffectRedis.Redis, service))
        const defect = Cause.squash(yield* Effect.flip(Effect.sandbox(building)))
        assert.instanceOf(defect, RangeError)
        assert.match((defect as Error).message, message)
      }
    })
  )

  it.live("if memory is used up, and records can still be read and removed", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const backend = yield* build(url)
      const record = yield* backend.put(key, "hush")
      yield* ask(url, "CONFIG", "SET", "maxmemory", "1")
      const other = makeUnsafe({ owner: "alice", id: "b" })
      for (const write of [backend.put(other, "hush"), backend.putIfVersion(key, "hush", record)]) {
        assertBackend(yield* Effect.flip(write), "Unavailable", "not-applied", /maxmemory.*raise it, or remove records/)
      }
      assert.deepStrictEqual(yield* backend.get(key), record)
      assert.deepStrictEqual((yield* backend.listByPrefix(page)).records, [record])
      assert.isTrue(yield* backend.delete(key))
      assert.strictEqual(yield* ask(url, "DBSIZE"), "0")
      yield* ask(url, "CONFIG", "SET", "maxmemory", "0")
      assert.strictEqual((yield* backend.put(other, "hush")).version, 1)
    })
  )

  it.live("if the server is a replica, which refuses writes", () =>
    Effect.gen(function* () {
      const primary = yield* newServer("--repl-diskless-sync-delay", "0")
      const replica = yield* newServer("--replicaof", "127.0.0.1", new URL(primary).port)
      const record = yield* (yield* build(primary)).put(key, "hush")
      const backend = yield* build(replica)
      assert.deepStrictEqual(yield* Effect.eventually(backend.get(key)), record)
      for (const write of [
        Effect.flip(backend.put(key, "hush")),
        Effect.flip(backend.putIfVersion(key, "hush", record)),
        Effect.flip(backend.delete(key))
      ]) {
        assertBackend(yield* write, "Misconfigured", "not-applied", "connect to the primary")
      }
    })
  )

  it.live("if there are too few replicas", () =>
    Effect.gen(function* () {
      const backend = yield* build(yield* newServer("--min-replicas-to-write", "1"))
      assertBackend(yield* Effect.flip(backend.put(key, "hush")), "Unavailable", "not-applied", "min-replicas-to-write")
    })
  )

  it.live("if the server can't write to its disk", () =>
    Effect.gen(function* () {
      const folder = yield* newFolder
      const url = yield* RedisServer.startIn(folder, yield* freePort, "--save", "3600 1000000")
      // Or it would not end either.
      yield* Effect.addFinalizer(() => ask(url, "CONFIG", "SET", "save", ""))
      const backend = yield* build(url)
      yield* backend.put(key, "hush")
      mkdirSync(join(folder, "dump.rdb"))
      yield* ask(url, "BGSAVE")
      const failed = (info: string) => info.includes("rdb_last_bgsave_status:err")
      yield* ask(url, "INFO", "persistence").pipe(Effect.repeat({ until: failed }))
      assertBackend(
        yield* Effect.flip(backend.put(key, "hush")),
        "Unavailable",
        "not-applied",
        /write to its disk.*log/
      )
      assert.strictEqual((yield* backend.get(key)).version, 1)
    })
  )

  it.live("if the server is still loading its data", () =>
    Effect.gen(function* () {
      const [folder, port, scope] = [yield* newFolder, yield* steadyPort, yield* Scope.make()]
      const url = yield* Scope.provide(RedisServer.startIn(folder, port, "--save", ""), scope)
      const backend = yield* build(url, {}, (options) =>
        RedisClient.layer({ ...options, socket: { reconnectStrategy: () => 10 } })
      )
      for (let i = 0; i < 200; i++) yield* backend.put(makeUnsafe({ owner: "alice", id: String(i) }), "hush")
      yield* ask(url, "SAVE")
      yield* Scope.close(scope, Exit.void)
      // A tenth of a second for each key, so that it can't have loaded all of them before it is asked.
      const slowly = ["--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024"]
      yield* Effect.forkScoped(RedisServer.startIn(folder, port, "--save", "", ...slowly))
      const error = yield* Effect.flip(backend.put(key, "hush")).pipe(
        Effect.repeat({ until: (error) => error.message.includes("loading") })
      )
      assertBackend(error, "Unavailable", "not-applied", "still loading its data")
      yield* ask(url, "CONFIG", "SET", "key-load-delay", "0")
      assert.strictEqual((yield* Effect.eventually(backend.put(key, "hush"))).version, 1)
    })
  )

  it.live("if another client's script never ends", () =>
    Effect.gen(function* () {
      const url = yield* newServer("--busy-reply-threshold", "50")
      const backend = yield* build(url)
      // While a Redis runs a script it ignores SIGTERM, so that without this a test that fails would never end.
      yield* Effect.addFinalizer(() => Effect.ignoreCause(ask(url, "SCRIPT", "KILL")))
      const script = yield* Effect.forkScoped(ask(url, "EVAL", "while true do end", "0"))
      const ended = Effect.flatMap(Fiber.await(script), (exit) => Effect.die(new Error(`The script ended: ${exit}`)))
      // Until the script runs, Redis takes the write.
      const error = yield* Effect.raceFirst(Effect.eventually(Effect.flip(backend.put(key, "hush"))), ended)
      assertBackend(error, "Unavailable", "not-applied", "busy with another script")
      yield* ask(url, "SCRIPT", "KILL")
      assert.strictEqual((yield* Effect.eventually(backend.put(key, "hush"))).data, "hush")
    })
  )

  it.live("if the server pauses, after the request's time-out", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const backend = yield* build(url, { requestTimeout: "1 second" })
      const record = yield* backend.put(key, "hush")
      yield* ask(url, "CLIENT", "PAUSE", "60000", "WRITE")
      assertBackend(yield* Effect.flip(backend.putIfVersion(key, "hush", record)), "Timeout", "unknown", "within 1s")
      assertBackend(yield* Effect.flip(backend.delete(key)), "Timeout", "unknown", "Whether it took effect is unknown")
      yield* ask(url, "CLIENT", "UNPAUSE")
      assert.isAtLeast((yield* Effect.eventually(backend.put(key, "hush"))).version, 1)
    })
  )

  it.live("if the server has as many clients as it takes", () =>
    Effect.gen(function* () {
      const url = yield* newServer("--maxclients", "1")
      const full = yield* Effect.flip(Effect.andThen(Effect.eventually(build(url)), build(url)))
      assertBackend(full, "Unavailable", "not-applied", "maxclients: raise it")
    })
  )

  it.live("if a command is renamed, or the database does not exist", () =>
    Effect.gen(function* () {
      const renamed = yield* newServer("--rename-command", "EVALSHA", "", "--rename-command", "INFO", "")
      const short = yield* build(renamed, { keyPrefix: "p" })
      const error = yield* Effect.flip(short.put(makeUnsafe({ owner: "o", id: "i" }), "hush"))
      assertBackend(error, "Misconfigured", "not-applied", /6\.2 or newer.*no command renamed.*EVALSHA/)
      const url = `${yield* newServer()}/99`
      assertBackend(yield* Effect.flip(build(url)), "Unknown", "not-applied", "DB index is out of range")
    })
  )

  it.live("if a client for a cluster is given a single server", () =>
    Effect.gen(function* () {
      const rootNodes = [{ url: yield* newServer() }]
      const cluster = RedisClient.layerCluster({ rootNodes }).pipe(Layer.provide(Logger.layer([])))
      assertBackend(yield* Effect.flip(Layer.build(cluster)), "Misconfigured", "not-applied", "use RedisClient.layer")
    })
  )

  const address = outerAddress()
  it.live.skipIf(address === undefined)("if the server is in protected mode", () =>
    Effect.gen(function* () {
      const { port } = new URL(yield* newServer("--bind", "*"))
      const error = yield* Effect.flip(build(`redis://${address}:${port}`))
      assertBackend(error, "Misconfigured", "not-applied", "give it a password")
    })
  )

  // No server of that age is at hand.
  it.live("if the server is too old", () =>
    Effect.gen(function* () {
      const serviceOf = (info: string) =>
        EffectRedis.make({
          send: () => Effect.succeed(info as never),
          subscribe: () => Effect.never,
          connect: Effect.never
        })
      const open = (info: string) =>
        Layer.build(Layer.provide(Redis.layer(), Layer.effect(EffectRedis.Redis, serviceOf(info))))
      for (const version of ["6.0.16", "5.0.7", "2.8.0"]) {
        const error = yield* Effect.flip(open(`# Server\r\nredis_version:${version}\r\n`))
        assertBackend(error, "Misconfigured", "not-applied", /This is Redis .* 6\.2 or newer is needed: update it/)
      }
      for (const version of ["6.2.0", "7.0.15", "10.0.0"]) yield* open(`# Server\r\nredis_version:${version}\r\n`)
    })
  )

  // Nor are servers of these versions: what they say is copied from their sources.
  it.live("if a script fails, as other versions of Redis word it", () =>
    Effect.gen(function* () {
      const old = "ERR Error running script (call to f_0e866f58199563e44dc27a1942247374e9093096): @user_script:24: "
      for (const [message, reason] of [
        [`${old}@user_script: 24: -OOM command not allowed when used memory > 'maxmemory'.`, "Unavailable"],
        [`${old}@user_script: 24: -READONLY You can't write against a read only replica.`, "Misconfigured"],
        [`${old}@user_script: 24: The user executing the script can't run this command or subcommand`, "Unauthorized"],
        [
          "ERR ACL failure in script: User bob has no permissions to run the 'hset' command script: 0e, on @user_script:24.",
          "Unauthorized"
        ]
      ] as const) {
        const service = EffectRedis.make({
          send: (command) =>
            command === "EVALSHA"
              ? Effect.fail(new EffectRedis.RedisError({ cause: new Error(message) }))
              : Effect.succeed("" as never),
          subscribe: () => Effect.never,
          connect: Effect.never
        })
        const backend = yield* build("", {}, () => Layer.effect(EffectRedis.Redis, service))
        assertBackend(yield* Effect.flip(backend.put(key, "hush")), reason, "not-applied", "Redis says: ERR ")
      }
    })
  )

  it.live("or logs a warning once, if the server may evict records", () =>
    Effect.gen(function* () {
      const opened = (url: string) =>
        warnings(
          Effect.gen(function* () {
            const backend = yield* Layer.build(Layer.provide(Redis.layer(), RedisClient.layer({ url }))).pipe(
              Effect.flatMap((context) => Effect.provide(StorageBackend, context))
            )
            yield* backend.put(key, "hush")
            yield* backend.get(key)
          })
        )
      for (const policy of ["allkeys-lru", "volatile-ttl"]) {
        const messages = yield* opened(yield* newServer("--maxmemory-policy", policy))
        assert.strictEqual(messages.length, 1)
        assert.include(messages[0], `may drop records: its maxmemory-policy is ${policy}, and should be noeviction`)
      }
      assert.deepStrictEqual(yield* opened(yield* newServer("--maxmemory-policy", "noeviction")), [])
    })
  )
})

describe.skipIf(!inject("hasRedisServer"))("Redis", () => {
  it.live("goes on if the script cache is flushed in the middle", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      for (const client of [RedisClient.layer, NodeRedis.layer]) {
        const keyPrefix = crypto.randomUUID()
        const backend = yield* build(url, { keyPrefix, retrySchedule: Schedule.recurs(5) }, client)
        let record = yield* backend.put(key, "hush")
        for (let i = 0; i < 10; i++) {
          yield* ask(url, "SCRIPT", "FLUSH")
          record = yield* backend.putIfVersion(key, "hush", record)
          assert.strictEqual((yield* backend.listByPrefix(page)).records.length, 1)
        }
        const flushing = Effect.repeat(ask(url, "SCRIPT", "FLUSH"), { times: 30 })
        const writing = Effect.repeat(
          Effect.gen(function* () {
            record = yield* backend.putIfVersion(key, "hush", record)
          }),
          { times: 200 }
        )
        yield* Effect.all([flushing, writing], { concurrency: 2 })
        assert.isAtLeast(record.version, 212)
      }
    })
  )

  it.live("closes its connection when its scope closes", () =>
    Effect.gen(function* () {
      const url = yield* newServer()
      const watcher = yield* Effect.promise(() => createClient({ url }).connect())
      const clients = Effect.promise(
        async () => String(await watcher.sendCommand(["CLIENT", "LIST"])).match(/id=/g)?.length
      )
      yield* Effect.scoped(
        Effect.gen(function* () {
          const backend = yield* build(url)
          yield* backend.put(key, "hush")
          assert.strictEqual(yield* clients, 2)
        })
      )
      yield* Effect.repeat(clients, { until: (count) => count === 1 })
      watcher.destroy()
    })
  )
})
