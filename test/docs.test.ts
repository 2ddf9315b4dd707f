import { execFile } from "node:child_process"
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { promisify } from "node:util"
import { assert, describe, it } from "@effect/vitest"
import packageJson from "../package.json" with { type: "json" }

const run = promisify(execFile)
const root = join(import.meta.dirname, "..")

/** The folder is inside the package, so that its name resolves to the built code, as in a project that installs it. */
const folder = join(root, ".docs")

const textOf = (file: string): string => readFileSync(join(root, file), "utf8")

/** The pages for people. */
const pages = globSync("{,docs/}*.md", { cwd: root }).sort()

/** The TypeScript blocks of a text, or of its doc comments. */
const blocks = (file: string): Array<string> => {
  const text = textOf(file)
  const prose = file.endsWith(".md") ? text : text.replace(/^ *\* ?/gm, "")
  return Array.from(prose.matchAll(/```ts\n(.*?)```/gs), ([, block]) => block ?? "")
}

const withoutCode = (text: string) => text.replace(/^```.*?^```$/gms, "")

/** The anchors that GitHub gives to the headings of a page. */
const anchorsOf = (text: string): Array<string> => {
  const seen = new Map<string, number>()
  return Array.from(withoutCode(text).matchAll(/^#+ (.*)$/gm), ([, heading = ""]) => {
    const anchor = heading
      .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
      .toLowerCase()
      .replace(/[^\p{L}\p{N} _-]/gu, "")
      .replaceAll(" ", "-")
    const count = seen.get(anchor) ?? 0
    seen.set(anchor, count + 1)
    return count === 0 ? anchor : `${anchor}-${count}`
  })
}

/** The targets of a page's links and images within the repository. */
const linksOf = (text: string): Array<string> =>
  Array.from(withoutCode(text).matchAll(/\]\(([^)\s]+)\)/g), ([, link = ""]) => link).filter(
    (link) => !/^[a-z]+:/.test(link)
  )

const isBroken = (page: string, link: string): boolean => {
  const [path = "", anchor] = link.split("#")
  const target = path === "" ? page : join(dirname(page), path)
  return !existsSync(join(root, target)) || (anchor !== undefined && !anchorsOf(textOf(target)).includes(anchor))
}

/** The sources of the package's public modules. */
const sources = Object.values<string>(packageJson.exports).flatMap((entry) =>
  entry.endsWith(".js") ? [entry.replace("./dist/", "src/").replace(/js$/, "ts")] : []
)

/** Numbers need no example, and the reasons of `Backend` share the example of `Backend`. */
const isSelfEvident = (declaration: string) => /= [\d._* ]+$|Number\.MAX_SAFE|reasonFields/m.test(declaration)

/** The exported names of a public module, each with its doc comment and the first lines of its declaration. */
const publicNames = (file: string) => {
  const text = textOf(file)
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
  Array.from(textOf(file).matchAll(/^export (?:type )?\{([^}]*)\} from "(.+)"$/gm), ([, names = "", path = ""]) => ({
    names: names.match(/\w+(?=,|\s*$)/g) ?? [],
    source: join(dirname(file), path)
  })).flatMap(({ names, source }) =>
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
    const paths = pages.flatMap((page) =>
      Array.from(textOf(page).matchAll(/`((?:src|test|examples|docs)\/[^`\s]*)`/g), ([, path = ""]) => path)
    )
    assert.isAbove(paths.length, 15)
    assert.deepStrictEqual(
      paths.filter((path) => globSync(path, { cwd: root }).length === 0),
      []
    )
  })

  it("links only to files and headings that exist", () => {
    assert.deepStrictEqual(anchorsOf("# A `b-c`: d, e!\n```sh\n# f\n```\n## [G](h.md)\n### G\n"), [
      "a-b-c-d-e",
      "g",
      "g-1"
    ])
    const links = pages.flatMap((page) => linksOf(textOf(page)).map((link) => ({ page, link })))
    assert.isAbove(links.length, 60)
    assert.deepStrictEqual(
      links.filter(({ link, page }) => isBroken(page, link)).map(({ link, page }) => `${page}: ${link}`),
      []
    )
  })

  it("has a README that can be read at once, and reaches every page from it", () => {
    assert.isAtMost(textOf("README.md").trimEnd().split("\n").length, 160)
    const reached = new Set(["README.md"])
    for (const page of reached) {
      for (const link of linksOf(textOf(page))) {
        const target = join(dirname(page), link.replace(/#.*/, ""))
        if (pages.includes(target)) reached.add(target)
      }
    }
    assert.deepStrictEqual(
      pages.filter((page) => page !== "AGENTS.md" && !reached.has(page)),
      []
    )
  })

  it("has examples that compile and hold", async () => {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder)
    const files = [...pages, ...globSync("src/**/*.ts", { cwd: root })].flatMap((file) =>
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
