import { type ChildProcess, spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, rmSync } from "node:fs"
import { connect, createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { inject } from "vitest"
import * as DynamoDbLocal from "../../examples/DynamoDbLocal.ts"
import * as RedisServer from "../../examples/RedisServer.ts"
import { freePort } from "../../examples/server.ts"

const root = join(import.meta.dirname, "../..")
const folder = mkdtempSync(join(tmpdir(), "server-"))
afterAll(() => rmSync(folder, { recursive: true }))

/** Whether something listens on a port. */
const isTaken = (port: number) =>
  Effect.callback<boolean>((resume) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy()
      resume(Effect.succeed(true))
    }).once("error", () => resume(Effect.succeed(false)))
  })

/** Starts an example that starts a server, and returns it with the port of that server once it works on its tasks. */
const startExample = (backend: string) =>
  Effect.callback<{ readonly example: ChildProcess; readonly port: number }>((resume) => {
    const example = spawn("node", ["examples/tasks.ts", "--backend", backend], {
      cwd: root,
      stdio: ["ignore", "pipe", "inherit"]
    })
    let output = ""
    example.stdout.on("data", (text) => {
      output += text
      const port = /Started .* at \w+:\/\/127\.0\.0\.1:(\d+)/.exec(output)?.[1]
      if (output.includes("step 1 of 6")) resume(Effect.succeed({ example, port: Number(port) }))
    })
  })

const engines = {
  redis: inject("hasRedisServer"),
  dynamodb: DynamoDbLocal.missing() === undefined
}

describe("a server that an example starts", () => {
  for (const [backend, canRun] of Object.entries(engines)) {
    for (const signal of ["SIGINT", "SIGTERM", "SIGKILL"] as const) {
      it.live.skipIf(!canRun)(`ends if the example on ${backend} gets ${signal}`, () =>
        Effect.gen(function* () {
          const { example, port } = yield* startExample(backend)
          assert.isTrue(yield* isTaken(port))
          const ended = once(example, "exit")
          example.kill(signal)
          yield* Effect.promise(() => ended)
          yield* Effect.repeat(isTaken(port), { until: (isTaken) => !isTaken })
        })
      )
    }
  }

  it.live.skipIf(!engines.redis)("is not started on a port that is taken", () =>
    Effect.gen(function* () {
      const port = yield* freePort
      const other = createServer().listen(port, "127.0.0.1")
      yield* Effect.promise(() => once(other, "listening"))
      const error = yield* Effect.flip(RedisServer.startIn(folder, port))
      assert.include(error.message, `Redis can't listen on port ${port}, since another program does`)
      other.close()
    })
  )

  it.live.skipIf(!engines.redis)("shows what it printed if it does not start", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(RedisServer.startIn(folder, yield* freePort, "--no-such-setting", "1"))
      assert.include(error.message, "Redis has ended:")
      assert.include(error.message, "no-such-setting")
    })
  )

  it("is named, with what runs as well, if it is not on the PATH", () => {
    for (const [backend, program, address] of [
      ["redis", "redis-server", "--url"],
      ["dynamodb", "java", "--endpoint"]
    ] as const) {
      for (const [example, instead] of [
        ["index-tree", "--backend memory"],
        ["tasks", "--backend sqlite"]
      ]) {
        const { status, stderr } = spawnSync(process.execPath, [`examples/${example}.ts`, "--backend", backend], {
          cwd: root,
          encoding: "utf8",
          env: { PATH: folder }
        })
        assert.strictEqual(status, 1)
        assert.match(stderr, new RegExp(`${program}.* on the PATH: install one, .* with ${address}\n`))
        assert.include(stderr, `This runs as well: ${instead}`)
        assert.notMatch(stderr, /ServerError|WrongFlags/)
      }
    }
  })
})
