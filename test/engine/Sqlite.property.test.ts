import { DatabaseSync } from "node:sqlite"
import { setImmediate as nextTurn } from "node:timers/promises"
import { assert, describe, it, vi } from "@effect/vitest"
import { Effect, Fiber } from "effect"
import type { StorageBackend } from "../../src/StorageBackend.ts"
import { makeUnsafe } from "../../src/StorageKey.ts"
import { newSeed, randomFrom } from "../support/random.ts"
import { newFiles, on, withDatabase } from "../support/sqlite.ts"

const newFile = newFiles()
const keyOf = (id: string) => makeUnsafe({ owner: "alice", id })
const turn = Effect.promise(() => nextTurn())

/** This record's version can't be read, so every write of it throws. */
const unreadable = "unreadable"

const plantUnreadable = (filename: string) =>
  withDatabase(filename, (db) => {
    db.exec("PRAGMA ignore_check_constraints = ON")
    db.exec(`INSERT INTO records VALUES ('alice', '${unreadable}', ${2n ** 60n}, 'data', NULL, NULL)`)
  })

interface Command {
  readonly kind: "put" | "swap" | "remove" | "removeVersion"
  readonly id: string
  readonly data: string
  readonly expected: number
  readonly increment: number
}

interface Stored {
  readonly version: number
  readonly data: string
}

/** What a command comes to, in a text that a model can tell as well. */
const run = (backend: StorageBackend["Service"], { data, expected, id, increment, kind }: Command) => {
  const key = keyOf(id)
  const version = (record: { readonly version: number }) => `version ${record.version}`
  const operations = {
    put: () => Effect.map(backend.put(key, data), version),
    swap: () => Effect.map(backend.putIfVersion(key, data, expected, { increment }), version),
    remove: () => Effect.map(backend.delete(key), (removed) => `removed ${removed}`),
    removeVersion: () => Effect.as(backend.deleteIfVersion(key, expected), "removed true")
  }
  return Effect.catch(operations[kind](), (error) =>
    Effect.succeed(error._tag === "VersionConflict" ? `conflict with ${error.actual}` : error._tag)
  )
}

/** What the command comes to if it runs by itself on these records, which it changes. */
const apply = (records: Map<string, Stored>, command: Command): string => {
  const { data, expected, id, increment, kind } = command
  if (id === unreadable) return "Backend"
  if (data.length > maxDataBytes && (kind === "put" || kind === "swap")) return "CapacityExceeded"
  const current = records.get(id)
  const write = (by: number) => {
    const version = (current?.version ?? 0) + by
    records.set(id, { version, data })
    return `version ${version}`
  }
  if (kind === "put") return write(1)
  if (kind === "remove") return `removed ${records.delete(id)}`
  if (kind === "swap" && expected === 0 && current === undefined) return write(increment)
  if (current === undefined) return "RecordNotFound"
  if (current.version !== expected) return `conflict with ${current.version}`
  if (kind === "swap") return write(increment)
  records.delete(id)
  return "removed true"
}

const maxDataBytes = 100

const newCommand = (random: () => number): Command => {
  const pick = <A>(values: ReadonlyArray<A>) => values[Math.floor(random() * values.length)] as A
  if (random() < 0.03) return { kind: "put", id: unreadable, data: "", expected: 0, increment: 1 }
  const kind = pick(["put", "swap", "swap", "swap", "remove", "removeVersion"] as const)
  return {
    kind,
    id: pick(["a", "b", "c"]),
    data: "x".repeat(random() < 0.03 ? maxDataBytes + 1 : Math.floor(random() * 20)),
    expected: Math.floor(random() * 5) + (kind === "removeVersion" ? 1 : 0),
    increment: 1 + Math.floor(random() * 3)
  }
}

/** Lets some transactions fail before their COMMIT, by a lock or a full disk, but never two in a row. */
const failCommits = (random: () => number) => {
  const { exec } = DatabaseSync.prototype
  let hasFailed = false
  return vi.spyOn(DatabaseSync.prototype, "exec").mockImplementation(function (this: DatabaseSync, sql) {
    if (sql === "COMMIT") hasFailed = !hasFailed && random() < 0.3
    if (sql === "COMMIT" && hasFailed) {
      throw Object.assign(new Error("told to fail"), { code: "ERR_SQLITE_ERROR", errcode: random() < 0.5 ? 5 : 13 })
    }
    exec.call(this, sql)
  })
}

/** What a run has met. */
interface Told {
  interrupted: number
  readonly results: Set<string>
}

describe("Sqlite, on writes that arrive together,", () => {
  const seed = newSeed("SQLite, writes that arrive together")

  /** Starts commands, interrupts some that wait, and checks their results and the file by a model of single writes. */
  const check = Effect.fnUntraced(function* (backend: StorageBackend["Service"], random: () => number, told: Told) {
    const started: Array<{ command: Command; fiber: Fiber.Fiber<string> }> = []
    const isLeftOut = new Set<Command>()
    for (let i = Math.floor(random() * 40); i >= 0; i--) {
      const command = newCommand(random)
      const fiber = yield* Effect.forkChild(run(backend, command), { startImmediately: true })
      started.push({ command, fiber })
      if (random() < 0.15) {
        const { command, fiber } = started[Math.floor(random() * started.length)] as (typeof started)[number]
        if (fiber.pollUnsafe() === undefined) isLeftOut.add(command)
        yield* Fiber.interrupt(fiber)
      }
      if (random() < 0.1) yield* turn
    }
    const records = new Map<string, Stored>()
    for (const { command, fiber } of started) {
      const exit = yield* Fiber.await(fiber)
      if (isLeftOut.has(command)) {
        told.interrupted++
        assert.strictEqual(exit._tag, "Failure", "an interrupted write was answered")
        continue
      }
      const expected = apply(records, command)
      told.results.add(expected.split(" ", 1)[0] as string)
      assert.deepStrictEqual([command, yield* exit], [command, expected])
    }
    for (const id of ["a", "b", "c"]) {
      const found = yield* Effect.catchTag(backend.get(keyOf(id)), "RecordNotFound", () => Effect.undefined)
      const { data, version } = found ?? {}
      assert.deepStrictEqual({ data, version }, { data: undefined, version: undefined, ...records.get(id) })
    }
  })

  it.live("gives each the result of single writes in the order of arrival, and leaves out what is interrupted", () =>
    Effect.gen(function* () {
      const random = randomFrom(seed)
      const told: Told = { interrupted: 0, results: new Set() }
      for (let round = 0; round < 60; round++) {
        const filename = newFile()
        yield* on({ filename, maxDataBytes, synchronous: "NORMAL" })(
          Effect.fnUntraced(function* (backend) {
            plantUnreadable(filename)
            const spy = failCommits(random)
            yield* Effect.ensuring(
              check(backend, random, told),
              Effect.sync(() => spy.mockRestore())
            )
          })
        )
      }
      const expected = ["Backend", "CapacityExceeded", "RecordNotFound", "conflict", "removed", "version"]
      assert.deepStrictEqual([...told.results].sort(), expected)
      assert.isAbove(told.interrupted, 10)
    })
  )
})
