/**
 * Effect's Redis service from the client `redis` (node-redis), for one server or for a Redis Cluster, with failures to
 * connect as `Backend` errors that say what to do.
 *
 * For one server it is `NodeRedis.layer` of `@effect/platform-node`, which works as well by itself, and differs where
 * Redis does not answer: without a connection, a command fails at once instead of being kept to be sent later; one that
 * is interrupted or late before it is sent is never sent; a connection on which no answer comes any more is made anew;
 * and the Layer closes without waiting for answers.
 *
 * For a cluster there is no such Layer: commands are sent to the node that has their key, and follow a slot that moves.
 */
import { createHash } from "node:crypto"
import * as NodeRedis from "@effect/platform-node/NodeRedis"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import type * as Scope from "effect/Scope"
import { createClient, createCluster } from "redis"
import { type Backend, backend as backendError } from "../StorageError.ts"
import { failureOf } from "./internal/redisFailure.ts"

/**
 * The service for one server, with the options of node-redis's `createClient`; its `disableOfflineQueue` is true here
 * unless it is given.
 *
 * @example
 * ```ts
 * import * as Redis from "effect-versioned-store/Redis"
 * import * as RedisClient from "effect-versioned-store/RedisClient"
 * import { Layer } from "effect"
 *
 * export const Storage = Redis.layer().pipe(Layer.provide(RedisClient.layer({ url: "redis://localhost:6379" })))
 * ```
 */
export const layer = (options: Parameters<typeof NodeRedis.layer>[0] = {}): Layer.Layer<Redis.Redis, Backend> =>
  Layer.effect(Redis.Redis, makeSingle({ disableOfflineQueue: true, ...options }))

/** The options of node-redis's `createCluster`. */
export type ClusterOptions = Parameters<typeof createCluster>[0]

/**
 * The service for a Redis Cluster, with the options of node-redis's `createCluster`: some of its nodes, from which the
 * others are found.
 *
 * `send` takes the first argument for the key, as in almost all commands; scripts are loaded on the node that needs them.
 *
 * @example
 * ```ts
 * import * as Redis from "effect-versioned-store/Redis"
 * import * as RedisClient from "effect-versioned-store/RedisClient"
 * import { Layer } from "effect"
 *
 * export const Storage = Redis.layer().pipe(
 *   Layer.provide(RedisClient.layerCluster({ rootNodes: [{ url: "redis://10.0.0.1:6379" }, { url: "redis://10.0.0.2:6379" }] }))
 * )
 * ```
 */
export const layerCluster = (options: ClusterOptions): Layer.Layer<Redis.Redis, Backend> =>
  Layer.effect(Redis.Redis, makeCluster(options))

// -----------------------------------------------------------------------------

/** How long a connection may go on without an answer once a command on it was given up. */
const patience = "1 second"

const attempt = <A>(f: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, Redis.RedisError> =>
  Effect.tryPromise({ try: f, catch: (cause) => new Redis.RedisError({ cause }) })

const notConnected = (error: Redis.RedisError): Backend => failureOf(error, "connect")

type Client = NodeRedis.NodeRedis["Service"]["client"]

/**
 * Sends commands. One that is given up is not sent any more, unless it was already. Redis answers in order, so where it
 * does not answer a PING after that either, the connection is made anew: by itself the client would wait until TCP gives
 * up, a quarter of an hour, and every other command with it.
 */
const makeSend = Effect.fnUntraced(function* (
  sendCommand: (command: ReadonlyArray<string>, options: { readonly abortSignal: AbortSignal }) => Promise<unknown>,
  clients: () => ReadonlyArray<Pick<Client, "isReady" | "ping" | "destroy" | "connect">>
): Effect.fn.Return<Redis.Redis["Service"]["send"], never, Scope.Scope> {
  const scope = yield* Effect.scope
  let checking = false

  const check = Effect.suspend(() => {
    if (checking) return Effect.void
    checking = true
    return Effect.forEach(
      clients().filter((client) => client.isReady),
      (client) =>
        attempt(() => client.ping()).pipe(
          Effect.timeoutOrElse({
            duration: patience,
            orElse: () => {
              client.destroy()
              return Effect.forkIn(Effect.ignore(attempt(() => client.connect())), scope)
            }
          }),
          Effect.ignore
        ),
      { concurrency: "unbounded", discard: true }
    ).pipe(Effect.ensuring(Effect.sync(() => (checking = false))))
  })

  return <A>(...command: ReadonlyArray<string>) =>
    Effect.onInterrupt(
      attempt((abortSignal) => sendCommand(command, { abortSignal }) as Promise<A>),
      () => Effect.forkIn(check, scope)
    )
})

/** Runs a script by its hash, or as a whole where the server does not have it, which then keeps it. */
const makeEval =
  (send: Redis.Redis["Service"]["send"]): Redis.Redis["Service"]["eval"] =>
  (script) =>
  (...params) => {
    const args = [script.numberOfKeys(...params), ...script.params(...params)].map(String)
    return Effect.catchIf(
      send("EVALSHA", shaOf(script.lua), ...args),
      ({ cause }) => String(cause).includes("NOSCRIPT"),
      () => send("EVAL", script.lua, ...args)
    )
  }

/** The client throws on a URL that is none, and may repeat it, with its password. */
const checkUrl = (url = "redis://localhost") =>
  Effect.try({
    try: () => void createClient({ url }),
    catch: () =>
      backendError({
        operation: "connect",
        reason: "Misconfigured",
        outcome: "not-applied",
        description: "The URL of Redis is none: give one such as redis://localhost:6379"
      })
  })

const makeSingle = Effect.fnUntraced(function* (options: NonNullable<Parameters<typeof NodeRedis.layer>[0]>) {
  yield* checkUrl(options.url)
  const context = yield* Effect.mapError(Layer.build(NodeRedis.layer(options)), notConnected)
  const { client } = Context.get(context, NodeRedis.NodeRedis)
  yield* Effect.addFinalizer(() => Effect.sync(() => client.destroy()))
  const send = yield* makeSend(
    (command, options) => client.sendCommand(command, options),
    () => [client]
  )
  return Redis.Redis.of({ ...Context.get(context, Redis.Redis), send, eval: makeEval(send) })
})

/** Gives up a node that can't be reached in the first place, which others may have replaced, and not one that was lost. */
const reconnectStrategy = (retries: number, cause: Error & { readonly syscall?: string }) =>
  retries === 0 && !cause.constructor.name.startsWith("Socket") && !/^(read|write)$/.test(cause.syscall ?? "")
    ? cause
    : Math.min(2 ** retries * 50, 2000) + Math.floor(Math.random() * 200)

/** The key by which a command finds its node. */
const keyOf = ([name = "", ...args]: ReadonlyArray<string>) => (/^EVAL/i.test(name) ? args[2] : args[0])

const makeCluster = Effect.fnUntraced(function* (options: ClusterOptions) {
  const { defaults, rootNodes } = options
  yield* Effect.forEach([defaults, ...rootNodes], (node) => checkUrl(node?.url))
  const cluster = yield* Effect.acquireRelease(
    Effect.sync(() =>
      createCluster({
        minimizeConnections: true,
        ...options,
        defaults: { disableOfflineQueue: true, ...defaults, socket: { reconnectStrategy, ...defaults?.socket } }
      })
    ),
    (cluster) => Effect.sync(() => cluster.destroy())
  )
  const runFork = Effect.runForkWith(yield* Effect.context<never>())
  let why: unknown
  const warn = (cause: unknown) => {
    why = cause
    runFork(Effect.logWarning("Redis Cluster client error", cause))
  }
  cluster.on("error", warn).on("node-error", warn)
  yield* Effect.mapError(
    attempt(() => cluster.connect()),
    // By itself it only says that it has found no node.
    ({ cause }) => notConnected(new Redis.RedisError({ cause: why ?? cause }))
  )

  const send = yield* makeSend(
    (command, options) => cluster.sendCommand(keyOf(command), false, [...command], options),
    () => cluster.masters.flatMap(({ client }) => client ?? [])
  )

  const redis = yield* Redis.make({
    send,
    connect: Effect.map(
      attempt(() => cluster.duplicate().connect()),
      (connection) => ({
        send: (...command) => attempt(() => connection.sendCommand(keyOf(command), false, [...command])),
        close: Effect.sync(() => connection.destroy())
      })
    ),
    subscribe: (channel, onMessage) => {
      const listener = (message: string | Buffer) => onMessage({ channel, message: String(message) })
      return Effect.as(
        Effect.acquireRelease(
          attempt(() => cluster.subscribe(channel, listener)),
          () => Effect.ignore(attempt(() => cluster.unsubscribe(channel, listener)))
        ),
        Effect.never
      )
    }
  })

  return Redis.Redis.of({ ...redis, eval: makeEval(send) })
})

const shas = new Map<string, string>()

const shaOf = (lua: string): string => {
  const known = shas.get(lua)
  if (known !== undefined) return known
  const sha = createHash("sha1").update(lua).digest("hex")
  shas.set(lua, sha)
  return sha
}
