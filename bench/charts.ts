/** Draws the charts of a run as SVG, without a browser. */

import { BarChart, LineChart } from "echarts/charts"
import { GridComponent, LegendComponent, TitleComponent } from "echarts/components"
import { init, use } from "echarts/core"
import { SVGRenderer } from "echarts/renderers"
import type { Figure } from "./measure.ts"

use([BarChart, LineChart, GridComponent, LegendComponent, TitleComponent, SVGRenderer])

interface Chart {
  readonly file: string
  readonly title: string
  /** What the values' axis says. */
  readonly axis: string
  readonly type: "bar" | "line"
  readonly isLogarithmic: boolean
  readonly shows: (figure: Figure) => boolean
  readonly category: (figure: Figure) => string
  readonly series: (figure: Figure) => string
  /** From the figure's unit to that of the axis. */
  readonly scale: number
}

const contender = (figure: Figure) => figure.contender
const operation = (figure: Figure) => figure.operation
const setting = (figure: Figure) => figure.setting

const isPage = (figure: Figure) => figure.operation.startsWith("page")

const bars = {
  type: "bar",
  isLogarithmic: true,
  axis: "microseconds",
  category: operation,
  series: contender,
  scale: 1e-3
} as const

const charts: ReadonlyArray<Chart> = [
  {
    ...bars,
    file: "memory",
    title: "In memory, 1,000 records: time of an operation",
    shows: ({ group, measure, setting }) => group === "memory" && measure === "wall" && setting === "1,000 records"
  },
  {
    ...bars,
    file: "memory-sizes",
    title: "In memory: time of a get by the number of records",
    type: "line",
    category: setting,
    shows: ({ group, measure, operation }) => group === "memory" && measure === "wall" && operation === "get"
  },
  {
    ...bars,
    file: "memory-typed",
    title: "In memory, values with a schema: time of an operation",
    isLogarithmic: false,
    category: ({ operation, setting }) => `${operation}, ${setting}`,
    shows: ({ group, measure, operation }) => group === "memory" && measure === "wall" && operation.startsWith("typed")
  },
  {
    ...bars,
    file: "memory-heap",
    title: "In memory: heap of a record of 100 characters",
    axis: "bytes",
    isLogarithmic: false,
    scale: 1,
    category: () => "",
    shows: ({ group, measure }) => group === "memory" && measure === "heap"
  },
  {
    ...bars,
    file: "tasks",
    title: "Tasks in memory: time of an operation",
    category: ({ operation, setting }) => `${operation}, ${setting}`,
    shows: ({ group, measure }) => group === "tasks" && measure === "wall"
  },
  {
    ...bars,
    file: "dynamodb-cpu",
    title: "DynamoDB, answered by a stub: CPU time of an operation",
    isLogarithmic: false,
    shows: ({ group, measure, setting }) => group === "dynamodb" && measure === "cpu" && setting.startsWith("a stub")
  },
  {
    ...bars,
    file: "dynamodb-local",
    title: "DynamoDB Local: time of an operation",
    shows: ({ group, measure, setting }) =>
      group === "dynamodb" && measure === "wall" && setting.startsWith("DynamoDB Local")
  },
  {
    ...bars,
    file: "sqlite",
    title: "SQLite: time of an operation",
    category: ({ operation, setting }) => [operation, setting].filter(Boolean).join(", "),
    shows: (figure) => figure.group === "sqlite" && figure.measure === "wall" && !isPage(figure)
  },
  {
    ...bars,
    file: "redis",
    title: "Redis: CPU time of an operation",
    isLogarithmic: false,
    category: ({ operation, setting }) => `${operation}, ${setting}`,
    shows: (figure) => figure.group === "redis" && figure.measure === "cpu" && !isPage(figure)
  },
  {
    ...bars,
    file: "postgres",
    title: "PostgreSQL: CPU time of an operation",
    isLogarithmic: false,
    category: ({ operation, setting }) => `${operation}, ${setting}`,
    shows: (figure) => figure.group === "postgres" && figure.measure === "cpu" && !isPage(figure)
  },
  {
    ...bars,
    file: "pages",
    title: "Time of a page of 50 records, by how many records the owner has",
    category: ({ group, operation }) => `${group}, ${operation.replace("page of 50, ", "")}`,
    shows: (figure) => isPage(figure) && figure.measure === "wall"
  },
  {
    ...bars,
    file: "contention",
    title: "Fibers that update one record: updates a second",
    type: "line",
    axis: "updates a second",
    scale: 1,
    category: setting,
    shows: ({ group, measure, operation }) =>
      group === "contention" && measure === "updates" && operation === "update of one record"
  },
  {
    ...bars,
    file: "contention-requests",
    title: "Fibers that update one record: requests an update",
    type: "line",
    axis: "requests an update",
    scale: 1,
    category: setting,
    shows: ({ group, measure, operation }) =>
      group === "contention" && measure === "requests an update" && operation === "update of one record"
  },
  {
    ...bars,
    file: "size",
    title: "Size of each entry, without effect and peers",
    axis: "KiB",
    isLogarithmic: false,
    scale: 1,
    category: contender,
    series: ({ measure }) => measure,
    shows: ({ group, operation }) => group === "size" && operation === "bundle"
  },
  {
    ...bars,
    file: "import",
    title: "Time to import each entry, with effect and peers",
    axis: "milliseconds",
    isLogarithmic: false,
    scale: 1,
    category: contender,
    series: () => "import",
    shows: ({ group, operation }) => group === "size" && operation === "import"
  }
]

const distinct = (values: ReadonlyArray<string>) => [...new Set(values)]

const draw = (
  { axis, category, isLogarithmic, scale, series, title, type }: Chart,
  figures: ReadonlyArray<Figure>
): string => {
  const categories = distinct(figures.map(category))
  const names = distinct(figures.map(series))
  const valueAt = (name: string, place: string) => {
    const figure = figures.find((figure) => series(figure) === name && category(figure) === place)
    return figure === undefined ? null : Number((figure.value.median * scale).toPrecision(4))
  }
  const hasManyCategories = categories.length > 6
  const chart = init(null, null, { renderer: "svg", ssr: true, width: 960, height: hasManyCategories ? 560 : 440 })
  chart.setOption({
    animation: false,
    backgroundColor: "#ffffff",
    title: { text: title, left: "center", textStyle: { fontSize: 16 } },
    legend: { top: 32 },
    grid: { left: 60, right: 30, top: 96, bottom: 20, outerBoundsMode: "same", outerBoundsContain: "axisLabel" },
    xAxis: { type: "category", data: categories, axisLabel: { interval: 0, rotate: hasManyCategories ? 40 : 0 } },
    yAxis: { type: isLogarithmic ? "log" : "value", name: axis, nameLocation: "end" },
    series: names.map((name) => ({ type, name, data: categories.map((place) => valueAt(name, place)) }))
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}

/** The charts for which there are figures, by their files' names. */
export const drawAll = (figures: ReadonlyArray<Figure>): Record<string, string> => {
  const drawn = charts.flatMap((chart) => {
    const shown = figures.filter(chart.shows)
    return shown.length === 0 ? [] : [[`${chart.file}.svg`, `${draw(chart, shown)}\n`]]
  })
  return Object.fromEntries(drawn)
}
