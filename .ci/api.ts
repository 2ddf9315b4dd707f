/**
 * Writes `api.txt`: the public declarations of every entry, without comments, so that a change of the API is seen in
 * review. `npm run api` writes it, and CI fails if it differs.
 */
import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"

const root = join(import.meta.dirname, "..")
const out = mkdtempSync(join(tmpdir(), "api-"))
const options = ["--outDir", out, "--emitDeclarationOnly", "--removeComments", "--declarationMap", "false"]
execFileSync("tsc", ["-p", join(root, "tsconfig.build.json"), ...options, "--sourceMap", "false"], { stdio: "inherit" })

const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  readonly exports: Record<string, string>
}
const declarationsOf = (file: string): string => {
  const text = readFileSync(join(out, file), "utf8")
  // What an entry takes from a file that is not an entry itself is part of the API as well.
  const sources = Array.from(text.matchAll(/^export (?:type )?\{[^}]*\} from "([^"]+)\.ts";$/gm), ([, path = ""]) =>
    join(dirname(file), `${path}.d.ts`)
  )
  const own = text.replace(/^import .*\n/gm, "").trim()
  return [own, ...sources.map((source) => `--- ${source}\n\n${declarationsOf(source)}`)].join("\n\n")
}

const entries = Object.entries(exports).filter(([, file]) => file.endsWith(".js"))
const sections = entries.map(
  ([name, file]) => `=== ${name}\n\n${declarationsOf(file.replace("./dist/", "").replace(/js$/, "d.ts"))}\n`
)
writeFileSync(join(root, "api.txt"), sections.join("\n"))
rmSync(out, { recursive: true })
