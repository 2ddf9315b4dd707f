/** An HTTP API with entity tags: nobody overwrites what somebody else has written since. Stop it with Ctrl-C. */
import { createServer } from "node:http"
import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
import { Effect, Layer, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { StorageError as E, InMemory, StorageKey, VersionedStore } from "effect-versioned-store"

class NoIfMatch extends Schema.TaggedError<NoIfMatch>()("NoIfMatch", {}, { httpApiStatus: 428 }) {}
const Note = Schema.Struct({ text: Schema.String })
const endpoint = {
  params: { owner: Schema.String, id: Schema.String },
  headers: { "if-match": Schema.optional(Schema.String) },
  success: HttpApiSchema.WithHeaders(Note, { etag: Schema.String }),
  error: [E.RecordNotFound, E.VersionConflict, E.CapacityExceeded, StorageKey.InvalidKey, E.Backend, NoIfMatch]
}
const read = HttpApiEndpoint.get("read", "/:owner/:id", endpoint)
const write = HttpApiEndpoint.put("write", "/:owner/:id", { ...endpoint, payload: Note })
const api = HttpApi.make("api").add(HttpApiGroup.make("notes").add(read, write))

const answer = <F>(note: Effect.Effect<VersionedStore.Record<typeof Note.Type>, F | Schema.SchemaError>) =>
  Effect.map(Effect.catchTag(note, "SchemaError", Effect.die), ({ etag, value }) =>
    HttpApiSchema.withHeaders({ body: value, headers: { etag } })
  )
const handlers = HttpApiBuilder.group(api, "notes", (handlers) =>
  Effect.map(VersionedStore.make({ idPrefix: "note/", schema: Note }), (notes) =>
    handlers
      .handle("read", ({ params }) => answer(notes.get(params)))
      .handle("write", ({ headers: { "if-match": etag }, params, payload }) => {
        if (etag === "*") return answer(notes.update(params, () => payload))
        if (etag !== undefined) return answer(notes.setIfMatch(params, etag, payload))
        return answer(Effect.catchTag(notes.create(params, payload), "AlreadyExists", () => new NoIfMatch()))
      })
  )
)

const routes = HttpApiBuilder.layer(api).pipe(Layer.provide(handlers), Layer.provide(InMemory.layer))
const server = NodeHttpServer.layer(createServer, { port: Number(process.env.PORT ?? 3000) })
NodeRuntime.runMain(Layer.launch(HttpRouter.serve(routes).pipe(Layer.provide(server))))
