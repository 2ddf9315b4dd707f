import { connect, createServer, type Socket } from "node:net"
import { Effect } from "effect"
import type { Fate } from "./ambiguity.ts"
import { steadyPort } from "./redisServer.ts"

/** Splits a stream into messages. The first of a client has no type byte. */
const messages = (hasStartup: boolean, onMessage: (type: string, message: Buffer) => void) => {
  let rest: Buffer = Buffer.alloc(0)
  let isStartup = hasStartup
  return (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk])
    for (;;) {
      const start = isStartup ? 0 : 1
      if (rest.length < start + 4) return
      const end = start + rest.readInt32BE(start)
      if (rest.length < end) return
      const message = rest.subarray(0, end)
      rest = rest.subarray(end)
      const type = isStartup ? "startup" : String.fromCharCode(message[0] ?? 0)
      isStartup = false
      onMessage(type, message)
    }
  }
}

/** The text at an offset, up to the next zero byte. */
const textAt = (message: Buffer, start: number) => message.toString("utf8", start, message.indexOf(0, start))

export interface Request {
  readonly text: string
  /** The first word, for example SELECT, or the kind of the backend's write. */
  readonly name: string
  /** Whether the statement is one of the backend's writes. For a commit, that is COMMIT alone. */
  readonly isWrite: boolean
}

const requestOf = (text: string): Request => {
  const isWrite = text === "COMMIT" || /^\s*WITH/.test(text)
  const isPart = /WITH updated AS/.test(text)
  const [, word = ""] = /(INSERT|UPDATE|DELETE|SELECT|BEGIN|COMMIT|ROLLBACK|CREATE)\b/.exec(
    isWrite && text !== "COMMIT" ? text.slice(text.indexOf("written AS")) : text
  ) ?? [""]
  return { text, name: word, isWrite: isWrite && !isPart }
}

/**
 * A proxy on loopback between a client and PostgreSQL, which decides the fate of each statement and keeps what passed
 * through it. A lost or dropped statement ends its connection. It takes the statements by the protocol's messages Parse
 * and Bind, which name a prepared statement, up to Sync.
 */
export const postgresProxy = Effect.fnUntraced(function* (target: string, fateOf: (request: Request) => Fate) {
  const port = yield* steadyPort
  return yield* Effect.acquireRelease(
    Effect.callback<{
      readonly url: string
      readonly requests: Array<Request>
      /** How many connections clients have opened. Those that cancel a statement count as well. */
      readonly connections: () => number
      /** Ends all connections, and accepts no new ones until `open` is called. */
      readonly close: () => void
      readonly open: () => Promise<void>
    }>((resume) => {
      const requests: Array<Request> = []
      const sockets = new Set<Socket>()
      let connections = 0

      const serve = (client: Socket) => {
        connections++
        const server = connect(Number(new URL(target).port), new URL(target).hostname)
        for (const socket of [client, server]) {
          sockets.add(socket)
          socket.on("error", () => {}).on("close", () => sockets.delete(socket))
        }
        const prepared = new Map<string, string>()
        let cycle: Array<Buffer> = []
        let text: string | undefined
        let fate: Fate = "pass"
        let [hangs, lost] = [false, false]
        const cut = () => client.destroy()
        client.on("close", () => {
          hangs = true
          server.end()
        })
        server.on("close", () => client.destroy())

        const decide = () => {
          const request = text === undefined ? undefined : requestOf(text)
          text = undefined
          if (request !== undefined) requests.push(request)
          fate = request === undefined ? "pass" : fateOf(request)
          const whole = Buffer.concat(cycle)
          cycle = []
          if (fate === "drop") return cut()
          hangs = fate === "hang"
          if (!hangs) server.write(whole)
        }
        client.on(
          "data",
          messages(true, (type, message) => {
            if (hangs) return
            cycle.push(message)
            if (type === "P") {
              const name = textAt(message, 5)
              prepared.set(name, textAt(message, 5 + Buffer.byteLength(name) + 1))
            }
            if (type === "B") {
              const portal = textAt(message, 5)
              text = prepared.get(textAt(message, 5 + Buffer.byteLength(portal) + 1))
            }
            if (["startup", "p", "S", "X", "Q"].includes(type)) decide()
          })
        )
        let answer: Array<Buffer> = []
        server.on(
          "data",
          messages(false, (type, message) => {
            if (lost) return
            answer.push(message)
            // A login has answers before the first ReadyForQuery, and a notification comes at any time.
            if (type !== "Z" && type !== "R" && type !== "A") return
            const whole = Buffer.concat(answer)
            answer = []
            if (fate === "pass") return void client.write(whole)
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
      const url = new URL(target)
      url.hostname = "127.0.0.1"
      url.port = String(port)
      open().then(() =>
        resume(Effect.succeed({ url: url.href, requests, connections: () => connections, close, open }))
      )
    }),
    ({ close }) => Effect.sync(close)
  )
})
