/**
 * A live view of a record: a page shows the votes of a poll as they are cast, by server-sent events. Start it several
 * times on one file, with different ports: each page shows all votes, whichever server they went to.
 *
 * `npx node examples/live-view.ts [file]`, with the port in `PORT`. Stop it with Ctrl-C.
 */
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Effect, Layer, Option, Schema, Stream } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { VersionedStore } from "effect-versioned-store"
import * as Sqlite from "effect-versioned-store/Sqlite"

const page = `<!doctype html><title>Live</title><h1>Votes: <output>0</output></h1>
<button onclick="fetch('/votes', { method: 'POST' })">Vote</button>
<script>
  new EventSource("/votes").onmessage = ({ data }) => { document.querySelector("output").textContent = data }
</script>`

const key = { owner: "everybody", id: "lunch" }

const routes = Layer.unwrap(
  Effect.gen(function* () {
    const votes = yield* VersionedStore.make({ idPrefix: "votes/", schema: Schema.Int })
    const vote = votes.upsert(key, (count) => Option.getOrElse(count, () => 0) + 1)

    // One watch serves all pages of this server. A page that comes later gets the newest count at once.
    const counts = yield* votes
      .watch(key)
      .pipe(
        Stream.map(Option.match({ onNone: () => 0, onSome: ({ value }) => value })),
        Stream.share({ capacity: 1, strategy: "sliding", replay: 1 })
      )
    const events = counts.pipe(
      Stream.map((count) => `data: ${count}\n\n`),
      Stream.encodeText
    )
    return Layer.mergeAll(
      HttpRouter.add("GET", "/", HttpServerResponse.html(page)),
      HttpRouter.add("GET", "/votes", HttpServerResponse.stream(events, { contentType: "text/event-stream" })),
      HttpRouter.add("POST", "/votes", Effect.as(vote, HttpServerResponse.empty()))
    )
  })
).pipe(Layer.provide(Sqlite.layer({ filename: process.argv[2] ?? join(tmpdir(), "live-view.db") })))

const server = NodeHttpServer.layer(createServer, { port: Number(process.env.PORT ?? 3000) })
NodeRuntime.runMain(Layer.launch(HttpRouter.serve(routes).pipe(Layer.provide(server))))
