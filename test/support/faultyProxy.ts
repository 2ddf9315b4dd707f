import { createServer, request, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Effect } from "effect"

/**
 * What becomes of a request: it passes; it is applied and its answer lost, after something else was done; it is dropped
 * before it arrives; it is never answered; or it is answered with an error that the engine itself can't be brought to.
 */
export type Fate =
  | "pass"
  | "lose"
  | "drop"
  | "hang"
  | { readonly loseAfter: () => Promise<unknown> }
  | { readonly status: number; readonly type: string; readonly message: string }

/** A seeded random number generator (mulberry32), so that a run can be repeated. */
export const randomFrom = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296
}

/** The seed of this run: `FAULT_SEED`, or a new one. It is printed, so that the run can be repeated. */
export const newSeed = (name: string): number => {
  const seed = Number(process.env.FAULT_SEED ?? Math.floor(Math.random() * 2 ** 31))
  console.log(`${name}: FAULT_SEED=${seed}`)
  return seed
}

/**
 * A proxy on loopback between a client and DynamoDB, which decides the fate of each request by its name, `UpdateItem`
 * for one.
 */
export const faultyProxy = (target: string, fateOf: (operation: string) => Fate) =>
  Effect.acquireRelease(
    Effect.callback<{
      readonly endpoint: string
      readonly requests: Array<string>
      readonly closed: () => number
      readonly close: () => void
    }>((resume) => {
      const requests: Array<string> = []
      let closed = 0
      const server = createServer((incoming, outgoing) => {
        const operation = String(incoming.headers["x-amz-target"]).split(".")[1] ?? ""
        requests.push(operation)
        const fate = fateOf(operation)
        const chunks: Array<Buffer> = []
        incoming.on("data", (chunk) => chunks.push(chunk))
        incoming.on("end", () => {
          if (fate === "hang") return
          if (fate === "drop") return outgoing.destroy()
          if (typeof fate === "object" && "status" in fate) return answer(outgoing, fate)
          const forwarded = request(
            target,
            { method: "POST", headers: { ...incoming.headers, host: new URL(target).host } },
            (response) => {
              const body: Array<Buffer> = []
              response.on("data", (chunk) => body.push(chunk))
              response.on("end", () => {
                if (fate === "lose") return outgoing.destroy()
                if (typeof fate === "object") return void fate.loseAfter().finally(() => outgoing.destroy())
                outgoing.writeHead(response.statusCode ?? 500, response.headers)
                outgoing.end(Buffer.concat(body))
              })
            }
          )
          forwarded.end(Buffer.concat(chunks))
        })
      })
      server.on("connection", (socket) => socket.on("error", () => {}).on("close", () => closed++))
      server.listen(0, "127.0.0.1", () =>
        resume(
          Effect.succeed({
            endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
            requests,
            closed: () => closed,
            close: () => {
              server.closeAllConnections()
              server.close()
            }
          })
        )
      )
    }),
    ({ close }) => Effect.sync(close)
  )

const answer = (outgoing: ServerResponse, fate: { status: number; type: string; message: string }) => {
  outgoing.writeHead(fate.status, { "content-type": "application/x-amz-json-1.0" })
  outgoing.end(JSON.stringify({ __type: `com.amazonaws.dynamodb.v20120810#${fate.type}`, message: fate.message }))
}
