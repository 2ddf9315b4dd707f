import { execFile } from "node:child_process"
import { globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import packageJson from "../package.json" with { type: "json" }

const run = promisify(execFile)
const root = join(import.meta.dirname, "..")

/** The folder is inside the package, so that its name resolves to the built code, as in a project that installs it. */
const folder = join(root, ".docs")

/** The TypeScript blocks of a text, or of its doc comments. */
const blocks = (file: string): Array<string> => {
  const text = readFileSync(join(root, file), "utf8")
  const prose = file.endsWith(".md") ? text : text.replace(/^ *\* ?/gm, "")
  return Array.from(prose.matchAll(/```ts\n(.*?)```/gs), ([, block]) => block ?? "")
}

/** The sources of the package's public modules. */
const sources = Object.values<string>(packageJson.exports).flatMap((entry) =>
  entry.endsWith(".js") ? [entry.replace("./dist/", "src/").replace(/js$/, "ts")] : []
)

/** Numbers need no example, and the reasons of `Backend` share the example of `Backend`. */
const isSelfEvident = (declaration: string) => /= [\d.* ]+$|Number\.MAX_SAFE|reasonFields/m.test(declaration)

/** The exported names of a public module, each with its doc comment and the first lines of its declaration. */
const publicNames = (file: string) => {
  const text = readFileSync(join(root, file), "utf8")
  const exports = text.matchAll(
    /^export (?:declare )?(const|class|interface|type|function) (\w+)(?=(.*(?:\n.*){0,3}))/gm
  )
  return Array.from(exports, ({ 1: kind, 2: name = "", 3: declaration = "", index }) => {
    const comment = text.slice(0, index).match(/\/\*\*(?:(?!\/\*\*).)*\*\/\n$/s)?.[0] ?? ""
    const isType = kind === "interface" || kind === "type" || isSelfEvident(declaration)
    return { name: `${file}: ${name}`, comment, isType, isInternal: comment.includes("@internal") }
  })
}

/** The names that a public module exports from a file that is no public module itself. */
const reexportedNames = (file: string) =>
  Array.from(
    readFileSync(join(root, file), "utf8").matchAll(/^export (?:type )?\{([^}]*)\} from "(.+)"$/gm),
    ([, names = "", path = ""]) => ({ names: names.match(/\w+(?=,|\s*$)/g) ?? [], source: join(dirname(file), path) })
  ).flatMap(({ names, source }) =>
    publicNames(source).filter(({ name }) => names.some((exported) => name.endsWith(`: ${exported}`)))
  )

const allPublicNames = sources
  .flatMap((file) => [...publicNames(file), ...reexportedNames(file)])
  .filter(({ isInternal }) => !isInternal)

describe("documentation", () => {
  it("has a comment for every public name, and an example for every value", () => {
    const withoutComment = allPublicNames.filter(({ comment }) => comment === "")
    const withoutExample = allPublicNames.filter(({ comment, isType }) => !isType && !comment.includes("```ts"))
    assert.deepStrictEqual(
      {
        withoutComment: withoutComment.map(({ name }) => name),
        withoutExample: withoutExample.map(({ name }) => name)
      },
      { withoutComment: [], withoutExample: [] }
    )
  })

  it("says of every public name since which version it exists, and in which category it is", () => {
    const untagged = allPublicNames.filter(
      ({ comment }) => !/^ \* @since \d+\.\d+\.\d+$/m.test(comment) || !/^ \* @category [a-z]+$/m.test(comment)
    )
    assert.deepStrictEqual(
      untagged.map(({ name }) => name),
      []
    )
  })

  it("names only files that exist", () => {
    const documents = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "AGENTS.md"]
    const paths = documents.flatMap((document) =>
      Array.from(
        readFileSync(join(root, document), "utf8").matchAll(/`((?:src|test|examples)\/[^`\s]*)`/g),
        ([, path]) => path ?? ""
      )
    )
    assert.isAbove(paths.length, 15)
    assert.deepStrictEqual(
      paths.filter((path) => globSync(path, { cwd: root }).length === 0),
      []
    )
  })

  it("has examples that compile and hold", async () => {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder)
    const files = ["README.md", ...sources, "src/engine/internal/model.ts"].flatMap((file) =>
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
    // Only vitest can run a contract suite.
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
