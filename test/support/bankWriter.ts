/** A process that makes transfers, and prints the name of each once it is acknowledged, until the process is killed. */
import { writeSync } from "node:fs"
import { Effect, Layer } from "effect"
import * as Redis from "../../src/engine/Redis.ts"
import * as Sqlite from "../../src/engine/Sqlite.ts"
import * as RedisClient from "../../src/redis/RedisClient.ts"
import * as Bank from "./bank.ts"

const [store = "", place = ""] = process.argv.slice(2)

const layer =
  store === "sqlite"
    ? Sqlite.layer({ filename: place })
    : Redis.layer().pipe(Layer.provide(RedisClient.layer({ url: place })))

const program = Effect.gen(function* () {
  const bank = yield* Bank.open
  const work = Effect.suspend(() => {
    const name = crypto.randomUUID()
    return Effect.andThen(
      Bank.transfer(bank, name, Math.random),
      Effect.sync(() => writeSync(1, `${name}\n`))
    )
  })
  yield* Effect.all(
    Array.from({ length: 4 }, () => Effect.forever(work)),
    { concurrency: "unbounded" }
  )
})

Effect.runFork(Effect.provide(program, layer))
