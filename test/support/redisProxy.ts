import { connect, createServer, type Socket } from "node:net"
import { Effect } from "effect"
import type { Fate } from "./ambiguity.ts"
import { steadyPort } from "./redisServer.ts"

/** The end of the RESP value that starts at an offset. Undefined if the buffer does not have the whole value yet. */
const endOf = (buffer: Buffer, start: number): number | undefined => {
  const line = buffer.indexOf("\r\n", start)
  if (line === -1) return undefined
  const type = String.fromCharCode(buffer[start] ?? 0)
  const count = Number(buffer.toString("latin1", start + 1, line))
  let end: number | undefined = line + 2
  if ("$=!".includes(type) && count >= 0) {
    end += count + 2
    return end <= buffer.length ? end : undefined
  }
  if ("*~>%".includes(type)) {
    for (let left = type === "%" ? count * 2 : count; left > 0 && end !== undefined; left--) end = endOf(buffer, end)
  }
  return end
}

/** Splits a stream into its RESP values. */
const values = (onValue: (value: Buffer) => void) => {
  let rest: Buffer = Buffer.alloc(0)
  return (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk])
    for (let end = endOf(rest, 0); end !== undefined; end = endOf(rest, 0)) {
      const value = rest.subarray(0, end)
      rest = rest.subarray(end)
      onValue(value)
    }
  }
}

/** The name and the arguments of a command, if they have no line breaks. */
const wordsOf = (command: Buffer): ReadonlyArray<string> =>
  command
    .toString()
    .split("\r\n")
    .filter((_, i) => i > 0 && i % 2 === 0)

/** Whether a command is one of the backend's writes, which name three keys. */
export const isWrite = ([name = "", , keys, , , third = ""]: ReadonlyArray<string>) =>
  name.startsWith("EVAL") && (keys === "3" || third.includes(":commit:"))

/**
 * A proxy on loopback between a client and Redis, which decides the fate of each command, for example `["HMGET", ...]`,
 * and keeps what passed through it. It answers each connection in order, as Redis does: a lost or dropped command ends
 * its connection, and after a command that hangs, all later ones on its connection hang.
 */
export const redisProxy = Effect.fnUntraced(function* (
  target: string,
  fateOf: (command: ReadonlyArray<string>) => Fate
) {
  const port = yield* steadyPort
  return yield* Effect.acquireRelease(
    Effect.callback<{
      readonly url: string
      readonly commands: Array<ReadonlyArray<string>>
      /** How many connections clients have opened, and how many of those are closed. */
      readonly connections: () => number
      readonly closed: () => number
      /** How many connections have met silence, for they sent a command that hangs. */
      readonly silent: () => number
      /** Ends all connections, and accepts no new ones until `open` is called. */
      readonly close: () => void
      readonly open: () => Promise<void>
    }>((resume) => {
      const commands: Array<ReadonlyArray<string>> = []
      const sockets = new Set<Socket>()
      let [connections, closed, silent] = [0, 0, 0]

      const serve = (client: Socket) => {
        connections++
        const redis = connect(Number(new URL(target).port), new URL(target).hostname)
        for (const socket of [client, redis]) {
          sockets.add(socket)
          socket.on("error", () => {}).on("close", () => sockets.delete(socket))
        }
        const pending: Array<Fate> = []
        let [hangs, lost] = [false, false]
        const cut = () => client.destroy()
        client.on("close", () => {
          closed++
          hangs = true
          redis.end()
        })
        redis.on("close", () => client.destroy())
        client.on(
          "data",
          values((command) => {
            if (hangs) return
            const words = wordsOf(command)
            commands.push(words)
            const fate = fateOf(words)
            if (fate === "drop") return cut()
            hangs = fate === "hang"
            if (hangs) return void silent++
            pending.push(fate)
            redis.write(command)
          })
        )
        redis.on(
          "data",
          values((answer) => {
            if (lost) return
            const fate = pending.shift()
            if (fate === "pass") return void client.write(answer)
            lost = true
            hangs = true
            if (typeof fate === "object") return void fate.loseAfter().finally(cut)
            cut()
          })
        )
      }

      const server = createServer(serve)
      const open = () => new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve))
      const close = () => {
        server.close()
        for (const socket of sockets) socket.destroy()
      }
      const url = `redis://127.0.0.1:${port}`
      open().then(() =>
        resume(
          Effect.succeed({
            url,
            commands,
            connections: () => connections,
            closed: () => closed,
            silent: () => silent,
            close,
            open
          })
        )
      )
    }),
    ({ close }) => Effect.sync(close)
  )
})
