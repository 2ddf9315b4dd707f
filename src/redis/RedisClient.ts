/**
 * Effect's Redis service, made with the client `redis` (node-redis), for a single server or for a Redis Cluster.
 *
 * `NodeRedis.layer` of `@effect/platform-node` makes the service for a single server, too. The Layers here behave
 * differently if Redis does not answer:
 *
 * - Without a connection, a command fails at once. The client does not keep it to send it later.
 * - If a command is interrupted or times out before it was sent, it is never sent.
 * - If a connection gives no answers any more, it is replaced.
 * - The Layer does not wait without end for an answer, neither when it opens nor when it closes.
 * - If the Layer can't connect, it fails with a `Backend` error that says what to do.
 *
 * In a cluster, each command is sent to the node that has its key, also after the cluster has moved the key's slot.
 */
import { createHash } from "node:crypto"
import type * as Config from "effect/Config"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import * as RcRef from "effect/RcRef"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import { ConnectionTimeoutError, createClient, createCluster } from "redis"
import { misconfigured } from "../engine/internal/failure.ts"
import { failureOf, hideArguments, isNotSent, messageOf } from "../engine/internal/redis/failure.ts"
import { registerListen } from "../engine/internal/redis/listen.ts"
import { registerTimed, type Timed, type Timeout } from "../engine/internal/redis/timed.ts"
import { startTimer } from "../engine/internal/timer.ts"
import { makeFrom } from "../internal/config.ts"
import type { Backend } from "../StorageError.ts"
import { makeListen, type Subscriber, tellGap } from "./internal/listening.ts"

/**
 * The service for a single server, with the options of node-redis's `createClient`. Here `disableOfflineQueue` is true
 * by default. Building the Layer connects to the server. If it can't connect within 5 seconds, it fails with `Backend`.
 * For the commands of `Redis.layer`, its `requestTimeout` takes the place of the client's default time-out, but not of
 * a `commandOptions.timeout` that is given.
 *
 * @example
 * ```ts
 * import * as Redis from "effect-versioned-store/Redis"
 * import * as RedisClient from "effect-versioned-store/RedisClient"
 * import { Layer } from "effect"
 *
 * export const Storage = Redis.layer().pipe(Layer.provide(RedisClient.layer({ url: "redis://localhost:6379" })))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: ClientOptions = {}): Layer.Layer<Redis.Redis, Backend> =>
  Layer.effect(Redis.Redis, makeSingle(options))

/**
 * The service for a single server, set up from configuration.
 *
 * @example
 * ```ts
 * import * as Redis from "effect-versioned-store/Redis"
 * import * as RedisClient from "effect-versioned-store/RedisClient"
 * import { Config, Layer } from "effect"
 *
 * export const Storage = Redis.layer({ verify: true }).pipe(
 *   Layer.provide(RedisClient.layerConfig({ url: Config.NonEmptyString("REDIS_URL") }))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<ClientOptions>
): Layer.Layer<Redis.Redis, Backend | Config.ConfigError> => Layer.effect(Redis.Redis, makeFrom(options, makeSingle))

/**
 * The options of node-redis's `createClient`.
 *
 * @category models
 * @since 0.1.0
 */
export type ClientOptions = NonNullable<Parameters<typeof createClient>[0]>

/**
 * The options of node-redis's `createCluster`.
 *
 * @category models
 * @since 0.1.0
 */
export type ClusterOptions = Parameters<typeof createCluster>[0]

/**
 * The service for a Redis Cluster, with the options of node-redis's `createCluster`. `rootNodes` names some of the
 * nodes, and the client asks them for the others.
 *
 * `send` treats the first argument as the key, which it is in almost all commands. Scripts are loaded on the node that
 * runs them. If no node can be reached, building the Layer fails with `Backend`, after at most 5 seconds for each of
 * `rootNodes`.
 *
 * @example
 * ```ts
 * import * as Redis from "effect-versioned-store/Redis"
 * import * as RedisClient from "effect-versioned-store/RedisClient"
 * import { Layer } from "effect"
 *
 * export const Storage = Redis.layer().pipe(
 *   Layer.provide(
 *     RedisClient.layerCluster({ rootNodes: [{ url: "redis://10.0.0.1:6379" }, { url: "redis://10.0.0.2:6379" }] })
 *   )
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerCluster = (options: ClusterOptions): Layer.Layer<Redis.Redis, Backend> =>
  Layer.effect(Redis.Redis, makeCluster(options))

/**
 * The service for a Redis Cluster, set up from configuration.
 *
 * @example
 * ```ts
 * import * as Redis from "effect-versioned-store/Redis"
 * import * as RedisClient from "effect-versioned-store/RedisClient"
 * import { Config, Layer } from "effect"
 *
 * const urls = Config.map(Config.NonEmptyString("REDIS_URLS"), (text) => text.split(","))
 *
 * export const Storage = Redis.layer({ verify: true }).pipe(
 *   Layer.provide(
 *     RedisClient.layerClusterConfig({ rootNodes: Config.map(urls, (urls) => urls.map((url) => ({ url }))) })
 *   )
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerClusterConfig = (
  options: Config.Wrap<ClusterOptions>
): Layer.Layer<Redis.Redis, Backend | Config.ConfigError> => Layer.effect(Redis.Redis, makeFrom(options, makeCluster))

// -----------------------------------------------------------------------------

/** How long a connection may stay without an answer after a command on it was given up. */
const silenceLimit = "1 second"

/** How long connecting may take, until the client has sent its first commands and is ready. */
const connectTimeout = Duration.seconds(5)

const attempt = <A>(f: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, Redis.RedisError> =>
  Effect.tryPromise({ try: f, catch: (cause) => new Redis.RedisError({ cause: hideArguments(cause) }) })

const notConnected = (error: Redis.RedisError): Backend => failureOf(error, "connect")

type Client = Pick<ReturnType<typeof createClient>, "isReady" | "isOpen" | "ping" | "destroy" | "connect">

const destroy = (client: Client) =>
  Effect.sync(() => {
    if (client.isOpen) client.destroy()
  })

/**
 * Connects, with a time-out. Without it, the client would wait without end for a server that accepts and never answers.
 */
const connect = (client: Client): Effect.Effect<void, Redis.RedisError> =>
  Effect.timeoutOrElse(Effect.asVoid(attempt(() => client.connect())), {
    duration: connectTimeout,
    orElse: () =>
      Effect.andThen(destroy(client), Effect.fail(new Redis.RedisError({ cause: new ConnectionTimeoutError() })))
  })

/** How a command is sent by node-redis: `timeout` is its own time-out until the command is written, 0 for none. */
interface SendOptions {
  readonly abortSignal: AbortSignal
  readonly timeout?: number
}

type Failure = Redis.RedisError | Backend

/** Sends a command, up to a time-out if there is one. */
type Send = <A>(command: ReadonlyArray<string>, timeout: Timeout | undefined) => Effect.Effect<A, Failure>

const withoutTimer = () => {}

/**
 * Makes the function that sends commands. If a command is given up before it was sent, it is not sent any more. If it
 * was sent, a PING follows it, since Redis answers in order. If Redis does not answer the PING either, the connection
 * is replaced. Otherwise the client, and every other command, would wait until TCP gives up after about 15 minutes.
 *
 * It is on the path of every operation of the engine, so a command is one callback.
 */
const makeSend = Effect.fnUntraced(function* (
  sendCommand: (command: ReadonlyArray<string>, options: SendOptions) => Promise<unknown>,
  clients: () => ReadonlyArray<Client>,
  hasTimeout: boolean
): Effect.fn.Return<Send, never, Scope.Scope> {
  const watchAll = yield* makeWatchAll(clients)

  const failed = (thrown: unknown) =>
    Effect.suspend(() => {
      const cause = hideArguments(thrown)
      const failure = Effect.fail(new Redis.RedisError({ cause }))
      return isNotSent(cause) ? Effect.andThen(watchAll, failure) : failure
    })

  return <A>(command: ReadonlyArray<string>, timeout: Timeout | undefined) =>
    Effect.callback<A, Failure>((resume) => {
      const controller = new AbortController()
      const abortSignal = controller.signal
      // The client's default time-out, 5 seconds until the command is written, makes a second signal and a timer for
      // each command, and takes at least a quarter of its CPU.
      const options = timeout === undefined || hasTimeout ? { abortSignal } : { abortSignal, timeout: 0 }
      const giveUp = () => {
        controller.abort()
        return watchAll
      }
      const clearTimer =
        timeout === undefined
          ? withoutTimer
          : startTimer(timeout.millis, () => resume(Effect.andThen(giveUp(), timeout.failure)))
      const end = (effect: Effect.Effect<A, Failure>) => {
        clearTimer()
        resume(effect)
      }
      // The client may throw at once, for example if a cluster has no node for the key.
      try {
        sendCommand(command, options).then(
          (reply) => end(Effect.succeed(reply as A)),
          (error) => end(failed(error))
        )
      } catch (error) {
        end(failed(error))
      }
      return Effect.suspend(() => {
        clearTimer()
        return giveUp()
      })
    })
})

/** Makes the Effect that sends a PING on each connection, and replaces a connection on which no answer comes. */
const makeWatchAll = Effect.fnUntraced(function* (
  clients: () => ReadonlyArray<Client>
): Effect.fn.Return<Effect.Effect<void>, never, Scope.Scope> {
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
        duration: client.isReady ? silenceLimit : connectTimeout,
        orElse: () => replace(client)
      }),
      Effect.ignore,
      Effect.ensuring(Effect.sync(() => watched.delete(client)))
    )

  return Effect.suspend(() => {
    const unwatched = clients().filter((client) => !watched.has(client))
    for (const client of unwatched) watched.add(client)
    return Effect.forEach(unwatched, (client) => Effect.forkIn(watch(client), scope), { discard: true })
  })
})

/**
 * Runs a script by its hash. If the server does not know the script yet, the whole script is sent, and the server keeps
 * it.
 */
const makeEval =
  (send: Timed["send"]): Timed["eval"] =>
  (script) =>
  (...params) => {
    const args = [String(script.numberOfKeys(...params))]
    for (const param of script.params(...params)) args.push(String(param))
    return Effect.catchIf(
      send("EVALSHA", shaOf(script.lua), ...args),
      (error) => error._tag === "RedisError" && String(error.cause).includes("NOSCRIPT"),
      () => send("EVAL", script.lua, ...args)
    )
  }

/** `send` and `eval` with a time-out for each command. */
const makeTimed =
  (sendCommand: Send) =>
  (timeout: Timeout): Timed => {
    const send: Timed["send"] = (...command) => sendCommand(command, timeout)
    return { send, eval: makeEval(send) }
  }

/** `send` and `eval` of the service. Without a time-out, a command fails with nothing but `RedisError`. */
const makeUntimed = (sendCommand: Send) => {
  const send: Timed["send"] = (...command) => sendCommand(command, undefined)
  return { send, eval: makeEval(send) } as Pick<Redis.Redis["Service"], "send" | "eval">
}

/**
 * Checks a URL. If it is invalid, the client's own error may show the URL with its password, so that error is dropped.
 */
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

/**
 * Logs that a connection was lost outside of any command. The message is enough, since the stack shows only the client.
 */
const makeWarn = Effect.map(Effect.context<never>(), (context) => {
  const runFork = Effect.runForkWith(context)
  return (cause: unknown) =>
    void runFork(Effect.logWarning(`A connection to Redis was lost: ${messageOf(cause as Error)}`))
})

/** Waits longer after each attempt to connect, as the client does by default, unless the client is to give up. */
const reconnectStrategy = (isGivenUp: (retries: number, cause: Error) => boolean) => (retries: number, cause: Error) =>
  isGivenUp(retries, cause) ? cause : Math.min(2 ** retries * 50, 2000) + Math.floor(Math.random() * 200)

const makeSingle = Effect.fnUntraced(function* (options: ClientOptions) {
  yield* checkUrl(options.url)
  const warn = yield* makeWarn
  let wasReady = false

  const open = (overrides?: ClientOptions["socket"]) => {
    const socket = { reconnectStrategy: reconnectStrategy(() => !wasReady), ...options.socket, ...overrides }
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
    () => [client],
    options.commandOptions?.timeout !== undefined
  )
  const untimed = makeUntimed(send)
  const redis = yield* Redis.make({
    send: untimed.send,
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
  const listen = makeListen(yield* makeSubscriber(open()), attempt)
  return registerListen(registerTimed(Redis.Redis.of({ ...redis, ...untimed }), makeTimed(send)), listen)
})

/** How often a connection that only hears channels is asked whether it still answers. */
const listeningInterval = "5 seconds"

/**
 * Makes the one connection that hears all channels of a server, open while there are any. After a lost connection, the
 * client subscribes again by itself before it says that it is ready.
 */
const makeSubscriber = Effect.fnUntraced(function* (
  open: Effect.Effect<ReturnType<typeof createClient>, Redis.RedisError, Scope.Scope>
): Effect.fn.Return<Effect.Effect<Subscriber, Redis.RedisError, Scope.Scope>, never, Scope.Scope> {
  const subscriber = yield* RcRef.make({
    acquire: Effect.gen(function* () {
      const client = yield* open
      const listeners: Subscriber["listeners"] = new Set()
      client.on("ready", () => tellGap(listeners))
      const watch = yield* makeWatchAll(() => [client])
      yield* Effect.forkScoped(Effect.forever(Effect.andThen(Effect.sleep(listeningInterval), watch)))
      return { client, listeners }
    })
  })
  return RcRef.get(subscriber)
})

/** The key that decides which node a command is sent to. */
const keyOf = ([name = "", ...args]: ReadonlyArray<string>) => (/^EVAL/i.test(name) ? args[2] : args[0])

/** Makes a connected client of a cluster, and the function that logs the errors of its connections. */
const openCluster = Effect.fnUntraced(function* (options: ClusterOptions) {
  const { defaults, rootNodes } = options
  yield* Effect.forEach([defaults, ...rootNodes], (node) => checkUrl(node?.url))
  // If the first attempt can't reach a node, another node may have replaced it, so the client gives up and asks again
  // for the nodes. If a connection was lost, the node is probably still there, so the client connects again.
  const strategy = reconnectStrategy(
    (retries, cause: Error & { readonly syscall?: string }) =>
      retries === 0 && !cause.constructor.name.startsWith("Socket") && !/^(read|write)$/.test(cause.syscall ?? "")
  )
  // The client does not close a connection on which it still waits for its first answer.
  const { signal } = yield* Effect.acquireRelease(
    Effect.sync(() => new AbortController()),
    (controller) => Effect.sync(() => controller.abort())
  )
  const cluster = yield* Effect.acquireRelease(
    Effect.sync(() =>
      createCluster({
        minimizeConnections: true,
        ...options,
        defaults: {
          disableOfflineQueue: true,
          ...defaults,
          socket: { reconnectStrategy: strategy, signal, ...defaults?.socket } as NonNullable<ClientOptions["socket"]>
        }
      })
    ),
    (cluster) => Effect.sync(() => cluster.destroy())
  )
  const logLostConnection = yield* makeWarn
  let lastCause: unknown
  const warn = (cause: unknown) => {
    lastCause = cause
    logLostConnection(cause)
  }
  cluster.on("error", warn).on("node-error", warn)
  yield* Effect.mapError(
    Effect.timeoutOrElse(Effect.asVoid(attempt(() => cluster.connect())), {
      // The client tries one node after the other.
      duration: Duration.times(connectTimeout, rootNodes.length),
      orElse: () => Effect.fail(new Redis.RedisError({ cause: new ConnectionTimeoutError() }))
    }),
    // The client's own error only says that it has found no node.
    ({ cause }) => notConnected(new Redis.RedisError({ cause: lastCause ?? cause }))
  )
  return { cluster, warn }
})

const makeCluster = Effect.fnUntraced(function* (options: ClusterOptions) {
  const { cluster, warn } = yield* openCluster(options)

  // The client would keep a connection that has failed, although another node may have replaced the node meanwhile.
  const rediscover = attempt(() => {
    for (const node of cluster.masters) if (node.client?.isOpen === false) delete node.client
    return cluster._slots.rediscover()
  })
  const scope = yield* Effect.scope
  const sendToNode = yield* makeSend(
    (command, options) => cluster.sendCommand(keyOf(command), false, [...command], options),
    () => cluster.masters.flatMap(({ client }) => client ?? []),
    options.commandOptions?.timeout !== undefined
  )
  const send: Send = (command, timeout) =>
    Effect.tapError(sendToNode(command, timeout), (error) =>
      error._tag === "RedisError" && isNotSent(error.cause)
        ? Effect.forkIn(Effect.ignore(rediscover), scope)
        : Effect.void
    )

  const untimed = makeUntimed(send)
  const redis = yield* Redis.make({
    send: untimed.send,
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

  const listeners: Subscriber["listeners"] = new Set()
  cluster.on("node-ready", () => tellGap(listeners))
  const listen = makeListen(Effect.succeed({ client: cluster, listeners }), attempt)
  return registerListen(registerTimed(Redis.Redis.of({ ...redis, ...untimed }), makeTimed(send)), listen)
})

const shas = new Map<string, string>()

const shaOf = (lua: string): string => {
  const known = shas.get(lua)
  if (known !== undefined) return known
  const sha = createHash("sha1").update(lua).digest("hex")
  shas.set(lua, sha)
  return sha
}
