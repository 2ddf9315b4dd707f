import { createServer } from "node:net"
import { Effect } from "effect"
import { createClient } from "redis"
import * as RedisServer from "../../examples/RedisServer.ts"
import { freePort } from "../../examples/server.ts"
import { newFolder } from "./redisCluster.ts"

/** A free port that the system gives to no outgoing connection, so that a server can listen on it again later. */
export const steadyPort: Effect.Effect<number> = Effect.callback((resume) => {
  const port = 20_000 + Math.floor(Math.random() * 10_000)
  const server = createServer()
    .once("error", () => resume(Effect.suspend(() => steadyPort)))
    .listen(port, "127.0.0.1", () => server.close(() => resume(Effect.succeed(port))))
})

/** Starts a Redis for a test, with some settings, and returns its URL. */
export const newServer = Effect.fnUntraced(function* (...settings: ReadonlyArray<string>) {
  return yield* RedisServer.startIn(yield* newFolder, yield* freePort, "--save", "", ...settings)
})

/** What a Redis answers to a command, on a connection of its own. */
export const ask = (url: string, ...command: ReadonlyArray<string>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => createClient({ url, socket: { reconnectStrategy: false } }).on("error", () => {})),
    (client) =>
      Effect.promise(async () => {
        await client.connect()
        return String(await client.sendCommand([...command]))
      }),
    (client) => Effect.sync(() => client.isOpen && client.destroy())
  )

/** The URL for another user. */
export const as = (url: string, user: string, password: string) => {
  const other = new URL(url)
  other.username = user
  other.password = password
  return other.href
}
