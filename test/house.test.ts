import { globSync, readFileSync } from "node:fs"
import { join, posix } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import packageJson from "../package.json" with { type: "json" }

const root = join(import.meta.dirname, "..")

/** What each file of src imports: files of src by their path, packages by their name. */
type Imports = ReadonlyMap<string, ReadonlyArray<string>>

const importsIn = (file: string, text: string): ReadonlyArray<string> =>
  Array.from(text.matchAll(/^(?:import|export) [^"'`]*?from "([^"]+)"|^import "([^"]+)"|import\("([^"]+)"\)/gm)).map(
    ([, from, bare, dynamic]) => {
      const name = from ?? bare ?? dynamic ?? ""
      return name.startsWith(".") ? posix.join(posix.dirname(file), name) : name
    }
  )

/** Only code counts: an import in an example of a doc comment is an application's. */
const withoutComments = (text: string) => text.replace(/\/\*\*.*?\*\//gs, "")

const house: Imports = new Map(
  globSync("src/**/*.ts", { cwd: root }).map((file) => {
    const path = file.replaceAll("\\", "/")
    return [path, importsIn(path, withoutComments(readFileSync(join(root, path), "utf8")))]
  })
)

const isIn = (folder: string) => (file: string) => file.startsWith(`src/${folder}/`)
const [isEngine, isTask, isPersistence, isTesting] = [
  isIn("engine"),
  isIn("task"),
  isIn("persistence"),
  isIn("testing")
]
const isEntry = (file: string) => file === "src/index.ts"

/** The engine that a file belongs to, if it belongs to one. */
const engineOf = (file: string): string | undefined => {
  const name = /^src\/engine\/(?:internal\/)?(\w+)[/.]/.exec(file)?.[1]?.toLowerCase()
  return name !== undefined && ["inmemory", "sqlite", "dynamodb", "redis", "postgres"].includes(name) ? name : undefined
}

/** The floors of the house, the lowest first. A file imports files of its own floor and of those below. */
const floors: ReadonlyArray<(file: string) => boolean> = [
  isIn("internal"),
  (file) => /^src\/(StorageKey|StoragePrefix|StorageError|VersionedRecord)\.ts$/.test(file),
  (file) => file === "src/StorageBackend.ts",
  (file) =>
    file === "src/Engine.ts" || isEngine(file) || isIn("redis")(file) || isIn("update")(file) || isIn("lease")(file),
  (file) => /^src\/(VersionedStore|Transaction|Lease)\.ts$/.test(file),
  isPersistence,
  (file) => isTask(file) || isIn("workflow")(file),
  isIn("mcp"),
  (file) => isTesting(file) || isEntry(file)
]
const floorOf = (file: string) => floors.findIndex((isOn) => isOn(file))

const peers = Object.keys(packageJson.peerDependencies).filter((name) => name !== "effect")
const isOptional = (name: string) =>
  name === "node:sqlite" || peers.some((peer) => name === peer || name.startsWith(`${peer}/`))
const isVitest = (name: string) => /^(vitest|@effect\/vitest)(\/|$)/.test(name)

const reachable = (imports: Imports, from: string, seen = new Set<string>()): Set<string> => {
  for (const name of imports.get(from) ?? []) {
    if (seen.has(name)) continue
    seen.add(name)
    reachable(imports, name, seen)
  }
  return seen
}

/** Each rule, as whether an import of one file by another breaks it. */
const never: Record<string, (from: string, to: string, imports: Imports) => boolean> = {
  "the contract imports Engine": (from, to) => from === "src/StorageBackend.ts" && to === "src/Engine.ts",
  "anything but engines and testing imports Engine": (from, to) =>
    to === "src/Engine.ts" && !isEngine(from) && !isTesting(from) && !isEntry(from),
  "an engine imports another engine": (from, to) => {
    const [own, other] = [engineOf(from), engineOf(to)]
    return own !== undefined && other !== undefined && own !== other
  },
  "what engines share imports an engine": (from, to) =>
    isEngine(from) && engineOf(from) === undefined && engineOf(to) !== undefined,
  "an engine imports VersionedStore or a task": (from, to) =>
    isEngine(from) && (to === "src/VersionedStore.ts" || isTask(to)),
  "persistence and task know each other": (from, to) =>
    (isPersistence(from) && isTask(to)) || (isTask(from) && isPersistence(to)),
  "anything imports mcp": (from, to) => isIn("mcp")(to) && !isIn("mcp")(from),
  "src outside testing imports testing": (from, to) => isTesting(to) && !isTesting(from),
  "the root entry reaches an optional peer": (from, to, imports) =>
    isOptional(to) && (isEntry(from) || reachable(imports, "src/index.ts").has(from)),
  "vitest outside testing/suite": (from, to) => isVitest(to) && from !== "src/testing/suite.ts",
  "an arrow points up": (from, to) => to.startsWith("src/") && floorOf(to) > floorOf(from),
  "an import goes round in a circle": (from, to, imports) => to.startsWith("src/") && reachable(imports, to).has(from),
  "the barrel of effect is imported": (_, to) => to === "effect"
}

const broken = (imports: Imports): Array<string> =>
  Object.entries(never).flatMap(([rule, isBroken]) =>
    Array.from(imports).flatMap(([from, names]) =>
      names.filter((to) => isBroken(from, to, imports)).map((to) => `${rule}: ${from} imports ${to}`)
    )
  )

/** For each rule, an import that breaks it. */
const violations: Record<keyof typeof never, readonly [from: string, to: string]> = {
  "the contract imports Engine": ["src/StorageBackend.ts", "src/Engine.ts"],
  "anything but engines and testing imports Engine": ["src/VersionedStore.ts", "src/Engine.ts"],
  "an engine imports another engine": ["src/engine/internal/redis/requests.ts", "src/engine/Sqlite.ts"],
  "what engines share imports an engine": ["src/engine/internal/attempts.ts", "src/engine/Sqlite.ts"],
  "an engine imports VersionedStore or a task": ["src/engine/Redis.ts", "src/VersionedStore.ts"],
  "persistence and task know each other": ["src/task/TaskStore.ts", "src/persistence/StoragePersistence.ts"],
  "anything imports mcp": ["src/task/TaskStore.ts", "src/mcp/Mcp.ts"],
  "src outside testing imports testing": ["src/task/TaskStore.ts", "src/testing/StorageContract.ts"],
  "the root entry reaches an optional peer": ["src/VersionedStore.ts", "redis"],
  "vitest outside testing/suite": ["src/testing/StorageContract.ts", "@effect/vitest"],
  "an arrow points up": ["src/StorageError.ts", "src/StorageBackend.ts"],
  "an import goes round in a circle": ["src/StorageKey.ts", "src/StorageError.ts"],
  "the barrel of effect is imported": ["src/VersionedStore.ts", "effect"]
}

describe("the house", () => {
  it("has a floor for every file", () => {
    assert.deepStrictEqual(
      Array.from(house.keys()).filter((file) => floorOf(file) < 0),
      []
    )
    assert.isAbove(house.size, 30)
  })

  it("keeps every rule", () => {
    assert.deepStrictEqual(broken(house), [])
  })

  for (const [rule, [from, to]] of Object.entries(violations)) {
    it(`notices if ${rule}`, () => {
      const wrong = new Map(house).set(from, [...(house.get(from) ?? []), to])
      assert.include(broken(wrong), `${rule}: ${from} imports ${to}`)
    })
  }

  it("reads every form of an import", () => {
    const text =
      'import a from "./a.ts"\nimport {\n  b\n} from "../b.ts"\nexport * as c from "c"\nimport "d"\nawait import("e")\n'
    assert.deepStrictEqual(importsIn("src/x/y.ts", text), ["src/x/a.ts", "src/b.ts", "c", "d", "e"])
  })
})
