import { createServer } from "node:net"
import { Effect } from "effect"
import { createClient } from "redis"
import * as RedisServer from "../../examples/RedisServer.ts"
import { freePort } from "../../examples/server.ts"
import { newFolder } from "./redisCluster.ts"

/** A free port that no outgoing connection is given meanwhile, so that a server can come back to it. */
export const steadyPort: Effect.Effect<number> = Effect.callback((resume) => {
  const port = 20_000 + Math.floor(Math.random() * 10_000)
  const server = createServer()
    .once("error", () => resume(Effect.suspend(() => steadyPort)))
    .listen(port, "127.0.0.1", () => server.close(() => resume(Effect.succeed(port))))
})

/** Starts a Redis of the test's own with these settings, and gives its URL. */
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
