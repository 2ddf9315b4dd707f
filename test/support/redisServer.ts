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

/** What a Redis answers to a command. */
export const ask = (url: string, ...command: ReadonlyArray<string>) =>
  Effect.promise(async () => {
    const client = createClient({ url, socket: { reconnectStrategy: false } }).on("error", () => {})
    await client.connect()
    const answer = await client.sendCommand([...command])
    client.destroy()
    return String(answer)
  })

/** The URL for another user. */
export const as = (url: string, user: string, password: string) => {
  const other = new URL(url)
  other.username = user
  other.password = password
  return other.href
}
