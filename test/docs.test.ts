import { execFile } from "node:child_process"
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import packageJson from "../package.json" with { type: "json" }

const run = promisify(execFile)
const root = join(import.meta.dirname, "..")

/** Inside the package, so that its name resolves to what was built, as it does for whoever installs it. */
const folder = join(root, ".docs")

/** The TypeScript blocks of a text, or of its doc comments. */
const blocks = (file: string): Array<string> => {
  const text = readFileSync(join(root, file), "utf8")
  const prose = file.endsWith(".md") ? text : text.replace(/^ *\* ?/gm, "")
  return Array.from(prose.matchAll(/```ts\n(.*?)```/gs), ([, block]) => block ?? "")
}

/** The sources of all entries of the package. */
const sources = Object.values<string>(packageJson.exports).flatMap((entry) =>
  entry.endsWith(".js") ? [entry.replace("./dist/", "src/").replace(/js$/, "ts")] : []
)

/** Plain numbers need no example, and the reasons of `Backend` share the one of `Reason`. */
const isSelfEvident = (declaration: string) => /= [\d.* ]+$|Number\.MAX_SAFE|reasonFields/m.test(declaration)

describe("documentation", () => {
  it("has a comment for every public name, and an example for every value", () => {
    const missing: Array<string> = []
    for (const file of sources) {
      const text = readFileSync(join(root, file), "utf8")
      for (const match of text.matchAll(/^export (const|class|interface|type) (\w+)(?=(.*(?:\n.*){0,3}))/gm)) {
        const [, kind, name, declaration = ""] = match
        const comment = text.slice(0, match.index).match(/\/\*\*(?:(?!\/\*\*).)*\*\/\n$/s)?.[0] ?? ""
        const isType = kind === "interface" || kind === "type" || isSelfEvident(declaration)
        if (comment === "") missing.push(`${file}: ${name} has no comment`)
        else if (!isType && !/```ts|@internal/.test(comment)) missing.push(`${file}: ${name} has no example`)
      }
    }
    assert.deepStrictEqual(missing, [])
  })

  it("has examples that compile and hold", async () => {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder)
    const files = ["README.md", ...sources].flatMap((file) =>
      blocks(file).map((block, index) => {
        const name = `${file.replace(/\W/g, "_")}_${index}.ts`
        writeFileSync(join(folder, name), block)
        return { name, runs: !/StorageContract|TaskContract/.test(block) }
      })
    )
    assert.isAbove(files.length, 20)
    writeFileSync(
      join(folder, "tsconfig.json"),
      JSON.stringify({
        extends: "../tsconfig.json",
        compilerOptions: { paths: {}, noUnusedLocals: false, moduleDetection: "force" },
        include: ["*.ts"]
      })
    )
    await run("tsc", ["-p", folder]).catch(({ stdout }) => assert.fail(`An example does not compile:\n${stdout}`))
    // A suite runs under vitest alone.
    const imports = files
      .filter(({ runs }) => runs)
      .map(({ name }) => `console.error("${name}"); await import("./${name}")`)
    writeFileSync(join(folder, "all.ts"), imports.join("\n"))
    await run("node", [join(folder, "all.ts")]).catch(({ stderr }) =>
      assert.fail(`An example does not hold:\n${stderr}`)
    )
    rmSync(folder, { recursive: true })
  })
})
