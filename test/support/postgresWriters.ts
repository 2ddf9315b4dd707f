import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type { StorageBackend, VersionedRecord } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { until } from "./until.ts"

const owner = "alice"
const keyOf = (id: string) => makeUnsafe({ owner, id })

/** Text with its checksum, by which half of it would show. */
const sealed = (text: string) => `${text}#${createHash("sha1").update(text).digest("hex")}`

/** The names in the data of a record to which writers add theirs. */
const namesIn = (data: string) => {
  const text = data.slice(0, data.lastIndexOf("#"))
  assert.strictEqual(data, sealed(text), "half of a record")
  return text === "" ? [] : text.split(",")
}

type Outcome = "acknowledged" | "unknown" | "refused"

/** Kills a server at once, as a crash would. Its other processes end by themselves. */
export const killServer = (folder: string) => {
  const [pid] = readFileSync(join(folder, "data", "postmaster.pid"), "utf8").split("\n")
  process.kill(Number(pid), "SIGKILL")
}

/**
 * Four writers, who note what became of each of their writes. They add names to records of their own by put, to a
 * shared record by compare-and-set, and to two records by commit.
 */
export const makeWriters = (backend: StorageBackend["Service"]) => {
  const counts: Record<Outcome, number> = { acknowledged: 0, unknown: 0, refused: 0 }
  /** What became of each name, by the record to which it was added. */
  const told = new Map<string, Map<string, Outcome>>()
  let [stopped, round] = [false, 0]

  const note = <E extends { readonly _tag: string }>(
    ids: ReadonlyArray<string>,
    name: string,
    write: Effect.Effect<unknown, E>
  ) =>
    Effect.map(Effect.result(write), (result) => {
      let outcome: Outcome = "acknowledged"
      if (result._tag === "Failure") {
        const failure = result.failure as { readonly _tag: string; readonly outcome?: string }
        assert.include(["Backend", "VersionConflict"], failure._tag, String(failure))
        outcome = failure.outcome === "unknown" ? "unknown" : "refused"
      }
      counts[outcome]++
      for (const id of ids) told.set(id, (told.get(id) ?? new Map()).set(name, outcome))
    })

  const added = (record: VersionedRecord | undefined, name: string) =>
    sealed([...(record === undefined ? [] : namesIn(record.data)), name].join(","))

  const write = Effect.fnUntraced(function* (writer: number, name: string) {
    const own = `own ${writer}`
    const pair = ["left", "right"]
    const [mine, shared, left, right] = yield* backend.getMany([own, "shared", ...pair].map(keyOf))
    yield* note([own], name, backend.put(keyOf(own), added(mine, name)))
    yield* note(["shared"], name, backend.putIfVersion(keyOf("shared"), added(shared, name), shared ?? 0))
    const steps = [left, right].map((record, i) => ({
      _tag: "Write" as const,
      id: pair[i] ?? "",
      data: added(record, name),
      expected: record ?? 0
    }))
    yield* note(pair, name, backend.commit(owner, steps))
  })

  const runOne = Effect.fnUntraced(function* (writer: number) {
    for (let i = 0; !stopped; i++) yield* write(writer, `${writer}.${round}.${i}`)
  })

  return {
    counts,

    /** Runs the writers until `stop`, and returns once the first write is acknowledged. */
    start: Effect.gen(function* () {
      stopped = false
      round++
      const running = yield* Effect.forkChild(Effect.forEach([0, 1, 2, 3], runOne, { concurrency: 4, discard: true }))
      const before = counts.acknowledged
      yield* Effect.raceFirst(
        until(() => counts.acknowledged > before),
        Fiber.join(running)
      )
      return running
    }),

    /** Each writer ends with the write that it is in. */
    stop: () => {
      stopped = true
    },

    /** How many acknowledged writes are not there. */
    countLost: Effect.gen(function* () {
      let lost = 0
      for (const [id, names] of told) {
        const there = namesIn((yield* backend.get(keyOf(id))).data)
        assert.strictEqual(new Set(there).size, there.length, "a write was applied twice")
        for (const name of there) assert.include(["acknowledged", "unknown"], names.get(name), `${id}: ${name}`)
        // A put of unknown outcome is followed by one that may know nothing of it. All others build on each other.
        for (const [name, outcome] of names) if (outcome === "acknowledged" && !there.includes(name)) lost++
      }
      const [left, right] = yield* backend.getMany(["left", "right"].map(keyOf))
      assert.strictEqual(left?.data, right?.data, "half of a commit")
      return lost
    })
  }
}
