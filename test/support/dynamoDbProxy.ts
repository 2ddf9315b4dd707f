import { createServer, request, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Effect } from "effect"
import type { Fate } from "./ambiguity.ts"

/** An answer that the tests can't make the engine itself give. */
export interface Answer {
  readonly status: number
  readonly type: string
  readonly message: string
}

/**
 * A proxy on loopback between a client and DynamoDB, which decides the fate of each request by its name, for example
 * `UpdateItem`.
 */
export const dynamoDbProxy = (target: string, fateOf: (operation: string) => Fate | Answer) =>
  Effect.acquireRelease(
    Effect.callback<{
      readonly endpoint: string
      readonly requests: Array<string>
      /** The hanging requests that the client has closed the connection of, by name. */
      readonly abandoned: ReadonlyArray<string>
      readonly close: () => void
    }>((resume) => {
      const requests: Array<string> = []
      const abandoned: Array<string> = []
      const server = createServer((incoming, outgoing) => {
        const operation = String(incoming.headers["x-amz-target"]).split(".")[1] ?? ""
        requests.push(operation)
        const fate = fateOf(operation)
        const chunks: Array<Buffer> = []
        incoming.on("data", (chunk) => chunks.push(chunk))
        incoming.on("end", () => {
          if (fate === "hang") return void outgoing.once("close", () => abandoned.push(operation))
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
      server.on("connection", (socket) => socket.on("error", () => {}))
      server.listen(0, "127.0.0.1", () =>
        resume(
          Effect.succeed({
            endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
            requests,
            abandoned,
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

const answer = (outgoing: ServerResponse, fate: Answer) => {
  outgoing.writeHead(fate.status, { "content-type": "application/x-amz-json-1.0" })
  outgoing.end(JSON.stringify({ __type: `com.amazonaws.dynamodb.v20120810#${fate.type}`, message: fate.message }))
}
