import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"

const root = join(import.meta.dirname, "..")

/** The modules outside this package that an entry loads, by the names of their packages. */
const packagesLoadedBy = (entry: string): Array<string> => {
  const program = `
    import { registerHooks } from "node:module"
    const packages = new Set()
    registerHooks({
      load(url, context, next) {
        const [, name] = url.match(/node_modules\\/((?:@[^/]+\\/)?[^/]+)/) ?? []
        if (name !== undefined) packages.add(name)
        if (url.startsWith("node:")) packages.add(url)
        return next(url, context)
      }
    })
    await import("${entry}")
    console.log(JSON.stringify([...packages].sort()))`
  const args = ["--input-type=module", "--eval", program]
  return JSON.parse(execFileSync("node", args, { cwd: root, encoding: "utf8", stdio: "pipe" }))
}

describe("the package", () => {
  it("loads nothing but effect and its ordered map from the root entry", () => {
    assert.deepStrictEqual(packagesLoadedBy("effect-versioned-store"), ["effect"])
  })

  it("keeps its internals closed", () => {
    assert.throws(() => packagesLoadedBy("effect-versioned-store/internal/cursor"), /ERR_PACKAGE_PATH_NOT_EXPORTED/)
  })
})
