/**
 * Effect's Redis service from the client `redis` (node-redis), for one server or for a Redis Cluster, with failures to
 * connect as `Backend` errors that say what to do.
 *
 * `NodeRedis.layer` of `@effect/platform-node` does it for one server, too. This one differs where Redis does not answer:
 * without a connection, a command fails at once instead of being kept to be sent later; one that is interrupted or late
 * before it is sent is never sent; a connection on which no answer comes any more is replaced; and the Layer neither
 * opens nor closes by waiting for answers without end.
 *
 * For a cluster, commands are sent to the node that has their key, and follow a slot that moves.
 */
import { createHash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { ConnectionTimeoutError, createClient, createCluster } from "redis"
import { misconfigured } from "../engine/internal/failure.ts"
import { failureOf, hideArguments, isNotSent, messageOf } from "../engine/internal/redis/failure.ts"
import type { Backend } from "../StorageError.ts"

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
export const layer = (options: ClientOptions = {}): Layer.Layer<Redis.Redis, Backend> =>
  Layer.effect(Redis.Redis, makeSingle(options))

/** The options of node-redis's `createClient`. */
export type ClientOptions = NonNullable<Parameters<typeof createClient>[0]>

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

/** How long connecting may take, with all that a client says before it is ready. */
const connectTimeout = "5 seconds"

const attempt = <A>(f: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, Redis.RedisError> =>
  Effect.tryPromise({ try: f, catch: (cause) => new Redis.RedisError({ cause: hideArguments(cause) }) })

const notConnected = (error: Redis.RedisError): Backend => failureOf(error, "connect")

type Client = Pick<ReturnType<typeof createClient>, "isReady" | "isOpen" | "ping" | "destroy" | "connect">

const destroy = (client: Client) =>
  Effect.sync(() => {
    if (client.isOpen) client.destroy()
  })

/** Connects, or gives up: by itself the client waits without end for a server that takes the connection in silence. */
const connect = (client: Client): Effect.Effect<void, Redis.RedisError> =>
  Effect.timeoutOrElse(Effect.asVoid(attempt(() => client.connect())), {
    duration: connectTimeout,
    orElse: () =>
      Effect.andThen(destroy(client), Effect.fail(new Redis.RedisError({ cause: new ConnectionTimeoutError() })))
  })

/**
 * Sends commands. One that is given up is not sent any more, unless it was already. Redis answers in order, so where it
 * does not answer a PING after that either, the connection is replaced: by itself the client would wait until TCP gives
 * up, a quarter of an hour, and every other command with it.
 */
const makeSend = Effect.fnUntraced(function* (
  sendCommand: (command: ReadonlyArray<string>, options: { readonly abortSignal: AbortSignal }) => Promise<unknown>,
  clients: () => ReadonlyArray<Client>
): Effect.fn.Return<Redis.Redis["Service"]["send"], never, Scope.Scope> {
  const scope = yield* Effect.scope
  const watched = new Set<Client>()

  const replace = (client: Client) =>
    Effect.andThen(destroy(client), connect(client)).pipe(
      Effect.retry({ schedule: Schedule.spaced("1 second"), while: () => clients().includes(client) })
    )

  const watch = (client: Client) =>
    attempt(() => client.ping()).pipe(
      Effect.retry(Schedule.spaced("100 millis")),
      Effect.timeoutOrElse({
        duration: client.isReady ? patience : connectTimeout,
        orElse: () => replace(client)
      }),
      Effect.ignore,
      Effect.ensuring(Effect.sync(() => watched.delete(client)))
    )

  const check = Effect.suspend(() => {
    const unwatched = clients().filter((client) => !watched.has(client))
    for (const client of unwatched) watched.add(client)
    return Effect.forEach(unwatched, (client) => Effect.forkIn(watch(client), scope), { discard: true })
  })

  return <A>(...command: ReadonlyArray<string>) =>
    attempt((abortSignal) => sendCommand(command, { abortSignal }) as Promise<A>).pipe(
      Effect.onInterrupt(() => check),
      Effect.tapError(({ cause }) => (isNotSent(cause) ? check : Effect.void))
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
      misconfigured(
        "The URL of Redis is not valid: give one such as redis://localhost:6379, with special characters of the " +
          "password percent-encoded",
        "connect"
      )
  })

/** Logs what befalls a connection by itself. It is no failure of a command, and has no stack that would help. */
const makeWarn = Effect.map(Effect.context<never>(), (context) => {
  const runFork = Effect.runForkWith(context)
  return (cause: unknown) =>
    void runFork(Effect.logWarning(`A connection to Redis was lost: ${messageOf(cause as Error)}`))
})

/** Waits longer and longer between attempts to connect, as the client does by itself, unless it is given up. */
const reconnectStrategy = (isGivenUp: (retries: number, cause: Error) => boolean) => (retries: number, cause: Error) =>
  isGivenUp(retries, cause) ? cause : Math.min(2 ** retries * 50, 2000) + Math.floor(Math.random() * 200)

const makeSingle = Effect.fnUntraced(function* (options: ClientOptions) {
  yield* checkUrl(options.url)
  const warn = yield* makeWarn
  let wasReady = false

  const open = (own?: ClientOptions["socket"]) => {
    const socket = { reconnectStrategy: reconnectStrategy(() => !wasReady), ...options.socket, ...own }
    return Effect.tap(
      Effect.acquireRelease(
        Effect.sync(() =>
          createClient({ disableOfflineQueue: true, ...options, socket } as ClientOptions).on("error", (cause) => {
            if (wasReady) warn(cause)
          })
        ),
        destroy
      ),
      connect
    )
  }

  const client = yield* Effect.mapError(open(), notConnected)
  wasReady = true
  const send = yield* makeSend(
    (command, options) => client.sendCommand(command, options),
    () => [client]
  )
  const redis = yield* Redis.make({
    send,
    connect: Effect.gen(function* () {
      const scope = yield* Scope.make()
      const connection = yield* Scope.provide(open({ reconnectStrategy: false }), scope).pipe(
        Effect.onError(() => Scope.close(scope, Exit.void))
      )
      return {
        send: (...command) => attempt(() => connection.sendCommand(command)),
        close: Scope.close(scope, Exit.void)
      }
    }),
    subscribe: Effect.fnUntraced(function* (channel, onMessage) {
      const subscriber = yield* open()
      yield* attempt(() => subscriber.subscribe(channel, (message) => onMessage({ channel, message })))
      return Effect.never
    })
  })
  return Redis.Redis.of({ ...redis, eval: makeEval(send) })
})

/** The key by which a command finds its node. */
const keyOf = ([name = "", ...args]: ReadonlyArray<string>) => (/^EVAL/i.test(name) ? args[2] : args[0])

const makeCluster = Effect.fnUntraced(function* (options: ClusterOptions) {
  const { defaults, rootNodes } = options
  yield* Effect.forEach([defaults, ...rootNodes], (node) => checkUrl(node?.url))
  // A node that can't be reached in the first place may have been replaced by others, and one that was lost may not.
  const strategy = reconnectStrategy(
    (retries, cause: Error & { readonly syscall?: string }) =>
      retries === 0 && !cause.constructor.name.startsWith("Socket") && !/^(read|write)$/.test(cause.syscall ?? "")
  )
  const cluster = yield* Effect.acquireRelease(
    Effect.sync(() =>
      createCluster({
        minimizeConnections: true,
        ...options,
        defaults: {
          disableOfflineQueue: true,
          ...defaults,
          socket: { reconnectStrategy: strategy, ...defaults?.socket }
        }
      })
    ),
    (cluster) => Effect.sync(() => cluster.destroy())
  )
  const warnOf = yield* makeWarn
  let why: unknown
  const warn = (cause: unknown) => {
    why = cause
    warnOf(cause)
  }
  cluster.on("error", warn).on("node-error", warn)
  yield* Effect.mapError(
    attempt(() => cluster.connect()),
    // By itself it only says that it has found no node.
    ({ cause }) => notConnected(new Redis.RedisError({ cause: why ?? cause }))
  )

  // A node that can't be connected to may be replaced by another, and by itself the client keeps what has failed.
  const rediscover = attempt(() => {
    for (const node of cluster.masters) if (node.client?.isOpen === false) delete node.client
    return cluster._slots.rediscover()
  })
  const scope = yield* Effect.scope
  const sendOnce = yield* makeSend(
    (command, options) => cluster.sendCommand(keyOf(command), false, [...command], options),
    () => cluster.masters.flatMap(({ client }) => client ?? [])
  )
  const send: typeof sendOnce = (...command) =>
    Effect.tapError(sendOnce(...command), ({ cause }) =>
      isNotSent(cause) ? Effect.forkIn(Effect.ignore(rediscover), scope) : Effect.void
    )

  const redis = yield* Redis.make({
    send,
    connect: Effect.map(
      attempt(() => cluster.duplicate().on("error", warn).connect()),
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
