import { readFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { assert, describe, it } from "@effect/vitest"

const src = join(import.meta.dirname, "../../src")

/** The names of all that a file imports, and of what that imports in turn. */
const reachable = (file: string, seen = new Set<string>()): Set<string> => {
  const text = readFileSync(file, "utf8").replace(/\/\*\*.*?\*\//gs, "")
  for (const [, name = ""] of text.matchAll(/^(?:import|export) [^"]*?from "([^"]+)"/gm)) {
    const imported = name.startsWith(".") ? join(dirname(file), name) : name
    if (seen.has(imported)) continue
    seen.add(imported)
    if (name.startsWith(".")) reachable(imported, seen)
  }
  return seen
}

const importsOf = (module: string) => Array.from(reachable(join(src, `testing/${module}.ts`)))
const isVitest = (name: string) => /^(@effect\/)?vitest/.test(name)

describe("the core of testing", () => {
  for (const module of ["StorageCases", "TaskCases", "History", "Faults"]) {
    it(`${module} does not reach vitest`, () => assert.deepStrictEqual(importsOf(module).filter(isVitest), []))
  }

  it("is separate from the suites, which do reach vitest", () => {
    assert.deepStrictEqual(importsOf("StorageContract").filter(isVitest), ["@effect/vitest"])
    assert.deepStrictEqual(importsOf("TaskContract").filter(isVitest), ["@effect/vitest"])
    assert.include(importsOf("StorageContract"), join(src, "testing/contract/versions.ts"))
  })
})
