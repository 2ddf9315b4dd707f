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

/** The answer of a Redis to a command. */
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
