/** Prints the bytes of heap that a record of 100 characters takes in a Map, or in memory with one owner or many. */
import { Context, Effect, Layer } from "effect"
import { InMemory, StorageBackend, StorageKey } from "../library.ts"

const [contender = "", text = "100000"] = process.argv.slice(2)
const count = Number(text)

/** A flat string of its own, as one that came from outside. */
const flat = (value: string) => Buffer.from(value).toString("latin1")
const idOf = (i: number) => flat(`record/${String(i).padStart(8, "0")}`)
const dataOf = (i: number) => flat(String(i).padEnd(100, "x"))

const collect = () => {
  for (let i = 0; i < 4; i++) globalThis.gc?.()
  return process.memoryUsage().heapUsed
}

/** The same records in a Map, with the fields that the library stores. */
const fillMap = () => {
  const map = new Map<string, unknown>()
  const writeId = flat("0123456789012345678901")
  for (let i = 0; i < count; i++) {
    map.set(idOf(i), {
      data: dataOf(i),
      version: 1,
      writeId: `${writeId}.${i.toString(36)}`,
      expiresAtSeconds: undefined
    })
  }
  return map
}

const backend = Context.get(Effect.runSync(Effect.scoped(Layer.build(InMemory.layer))), StorageBackend.StorageBackend)

const fill = (ownerOf: (i: number) => string) => {
  for (let i = 0; i < count; i++) {
    Effect.runSync(backend.put(StorageKey.makeUnsafe({ owner: ownerOf(i), id: idOf(i) }), dataOf(i)))
  }
  return backend
}

const fillAs: Record<string, () => unknown> = {
  Map: fillMap,
  "StorageBackend, one owner": () => fill(() => "alice"),
  "StorageBackend, an owner each": () => fill((i) => flat(`owner/${String(i).padStart(8, "0")}`))
}

// The first record makes what every record shares.
Effect.runSync(backend.put(StorageKey.makeUnsafe({ owner: "first", id: "first" }), "first"))
const before = collect()
const kept = fillAs[contender]?.()
const bytesPerRecord = Math.round((collect() - before) / count)
process.stdout.write(JSON.stringify({ bytesPerRecord, kept: kept !== undefined }))
