/** Runs `npm run demo:tasks`, and draws its output as a terminal in `docs/demo-tasks.svg`, for the README. */
import { spawnSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { styleText } from "node:util"

const root = join(import.meta.dirname, "..")

// Sizes in pixels. The advance of a character is that of the widest of the fonts, so that no text overlaps.
const [fontSize, advance, lineHeight, padding, titleBar] = [14, 8.43, 20, 20, 38]

const fonts = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

const background = "#0d1117"
const foreground = "#e6edf3"
const dimmed = "#9198a1"

/** The colours by their ANSI codes. All of them are readable on the background. */
const colors = new Map([
  [2, dimmed],
  [31, "#ff7b72"],
  [32, "#7ee787"],
  [33, "#f2cc60"],
  [35, "#d2a8ff"],
  [36, "#79c0ff"]
])

/** A piece of a line that has one style. */
interface Span {
  readonly text: string
  readonly column: number
  readonly color: string
  readonly isBold: boolean
}

const ansiCode = new RegExp(`${String.fromCharCode(27)}\\[(\\d+)m`)

/** Divides a line of a terminal at its ANSI codes. */
const spansOf = (line: string) => {
  const spans: Array<Span> = []
  let [column, color, isBold] = [0, foreground, false]
  // A capturing group keeps the codes, which are then at the odd places.
  for (const [i, text] of line.split(ansiCode).entries()) {
    if (i % 2 === 0) {
      if (text !== "") spans.push({ text, column, color, isBold })
      column += text.length
    } else {
      const code = Number(text)
      if (code === 0 || code === 1 || code === 22) isBold = code === 1
      if (code === 0 || code === 22 || code === 39 || colors.has(code)) color = colors.get(code) ?? foreground
    }
  }
  return spans
}

const escapeXml = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

const draw = (title: string, lines: ReadonlyArray<ReadonlyArray<Span>>) => {
  const columns = Math.max(...lines.flat().map(({ column, text }) => column + text.length))
  const width = Math.ceil(columns * advance) + 2 * padding
  const height = titleBar + lines.length * lineHeight + padding
  const text = lines.flatMap((spans, row) =>
    spans.map(({ color, column, isBold, text }) => {
      const indent = text.length - text.trimStart().length
      const x = (padding + (column + indent) * advance).toFixed(1)
      const y = titleBar + row * lineHeight + fontSize
      const style = `${color === foreground ? "" : ` fill="${color}"`}${isBold ? ' font-weight="bold"' : ""}`
      return text.trim() === "" ? "" : `<text x="${x}" y="${y}"${style}>${escapeXml(text.trim())}</text>\n`
    })
  )
  const button = (color: string, i: number) => `<circle cx="${padding + i * 20}" cy="19" r="6" fill="${color}"/>\n`
  const size = `width="${width}" height="${height}"`
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" ${size} role="img">
<title>${escapeXml(title)}</title>
<rect x="0.5" y="0.5" width="${width - 1}" height="${height - 1}" rx="10" fill="${background}" stroke="#3d444d"/>
${["#ff5f57", "#febc2e", "#28c840"].map(button).join("")}\
<g font-family="${fonts}" font-size="${fontSize}" fill="${foreground}" style="white-space: pre">
<text x="${width / 2}" y="24" fill="${dimmed}" text-anchor="middle">effect-versioned-store</text>
${text.join("")}</g>
</svg>
`
}

const { status, stderr, stdout } = spawnSync("npm", ["run", "--silent", "demo:tasks"], {
  cwd: root,
  encoding: "utf8",
  env: { ...process.env, FORCE_COLOR: "1" }
})
if (status !== 0) throw new Error(stderr)

const lines = [
  styleText("bold", "$ npm run demo:tasks", { validateStream: false }),
  ...stdout.trimEnd().split("\n")
].map(spansOf)
writeFileSync(join(root, "docs/demo-tasks.svg"), draw("The output of npm run demo:tasks in a terminal", lines))
