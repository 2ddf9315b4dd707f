/** Prints the figures as tables, and saves them with the machine and the charts. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Table } from "console-table-printer"
import { Console, Effect } from "effect"
import { drawAll } from "./charts.ts"
import { goalsOf } from "./goals.ts"
import { describeMachine } from "./machine.ts"
import type { Figure, Spread } from "./measure.ts"

/** What a run has found. */
export interface Outcome {
  readonly figures: Array<Figure>
  /** The parts that were left out, and why. */
  readonly skipped: Array<string>
  readonly failed: Array<string>
}

const results = join(import.meta.dirname, "results")

const digits = (value: number) =>
  value !== 0 && Math.abs(value) < 100 ? String(Number(value.toPrecision(3))) : Math.round(value).toLocaleString("en")

/** A value in the unit that people say. */
const show = (value: number, unit: Figure["unit"]): string => {
  if (unit === "ns" && value >= 1e6) return `${digits(value / 1e6)} ms`
  if (unit === "ns" && value >= 1e4) return `${digits(value / 1e3)} us`
  return `${digits(value)}${unit === "" ? "" : ` ${unit}`}`.replace(" /s", "/s")
}

const showRatio = ({ lower, median, upper }: Spread) => `${digits(median)} (${digits(lower)} to ${digits(upper)})`

const titleOf = ({ contender, operation, setting }: Figure) => [operation, setting, contender].join("\n")

/** One line for each contender: its measures, and how many times the baseline's CPU time or value it takes. */
const lines = (figures: ReadonlyArray<Figure>): ReadonlyArray<Record<string, string>> =>
  [...Map.groupBy(figures, titleOf).values()].map((measures) => {
    const [first] = measures
    const ratio = measures.find(({ measure }) => measure !== "wall")?.ratio
    return {
      operation: first?.operation ?? "",
      setting: first?.setting ?? "",
      contender: first?.contender ?? "",
      ...Object.fromEntries(measures.map(({ measure, unit, value }) => [measure, show(value.median, unit)])),
      ...(ratio === undefined ? {} : { "x the first": ratio.over === first?.contender ? "" : showRatio(ratio) })
    }
  })

const render = (title: string, rows: ReadonlyArray<Record<string, string>>): string => {
  const table = new Table({ title, defaultColumnOptions: { alignment: "left" }, shouldDisableColors: true })
  table.addRows([...rows])
  return table.render()
}

export const print = ({ figures }: Outcome) =>
  Effect.gen(function* () {
    for (const [group, ofGroup] of Map.groupBy(figures, ({ group }) => group)) {
      // Operations with the same measures share a table.
      const measuresOf = (figure: Figure) =>
        ofGroup
          .filter((other) => titleOf(other) === titleOf(figure))
          .map(({ measure }) => measure)
          .join()
      for (const sameMeasures of Map.groupBy(ofGroup, measuresOf).values()) {
        yield* Console.log(render(group, lines(sameMeasures)))
      }
    }
    yield* Console.log(
      render(
        "goals",
        goalsOf(figures).map((row) => ({ ...row }))
      )
    )
  })

/** The committed results are those of whole runs. Other runs save theirs in a folder that git ignores. */
export const save = (outcome: Outcome, isWhole: boolean) =>
  Effect.gen(function* () {
    const folder = isWhole ? results : join(results, "partial")
    mkdirSync(folder, { recursive: true })
    const saved = { ...describeMachine(), ...outcome, goals: goalsOf(outcome.figures) }
    writeFileSync(join(folder, "results.json"), `${JSON.stringify(saved, null, 2)}\n`)
    for (const [file, svg] of Object.entries(drawAll(outcome.figures))) writeFileSync(join(folder, file), svg)
    yield* Console.log(`The figures and the charts are in ${folder}`)
  })
