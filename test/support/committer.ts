/** A process that makes one commit of two new records on PostgreSQL, and prints what became of it. */
import { Effect, Layer, Redacted, Schedule } from "effect"
import * as Postgres from "../../src/engine/Postgres.ts"
import { StorageBackend } from "../../src/StorageBackend.ts"

const [url = "", tableName = "", owner = ""] = process.argv.slice(2)

const program = Effect.flatMap(StorageBackend, (backend) =>
  backend.commit(
    owner,
    ["a", "b"].map((id) => ({ _tag: "Write" as const, id, data: "stopped", expected: 0 }))
  )
).pipe(
  Effect.match({
    onSuccess: () => "landed",
    onFailure: (error) => (error._tag === "Backend" ? `${error._tag} ${error.outcome}` : error._tag)
  })
)

const layer = Postgres.layer({ tableName, requestTimeout: "500 millis", retrySchedule: Schedule.recurs(3) }).pipe(
  Layer.provide(Postgres.layerClient({ url: Redacted.make(url) }))
)
console.log(await Effect.runPromise(Effect.provide(program, layer)))
