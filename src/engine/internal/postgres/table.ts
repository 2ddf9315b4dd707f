/** Creates and checks the table. */
import type { PgClient } from "@effect/sql-pg"
import * as Effect from "effect/Effect"
import { defaultRetrySchedule } from "../../../StorageBackend.ts"
import type { Backend } from "../../../StorageError.ts"
import { failure } from "../attempts.ts"
import { isWorthRepeating, misconfigured } from "../failure.ts"
import {
  commentOf,
  type Layout,
  layoutOf,
  problemOfNames,
  type Row,
  type TableOptions,
  tableKey,
  tableShape,
  tableStatements,
  tableVersion
} from "./layout.ts"
import { makeSend, type RunInTransaction } from "./send.ts"

/** The kind, the columns, the primary key and the comment of a table, or no row if it is not there. */
export const describeTable = `
  SELECT c.relkind::text, (
    SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  ), (
    SELECT string_agg(a.attname, ', ' ORDER BY k.position)
    FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k (attnum, position)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum WHERE i.indrelid = c.oid AND i.indisprimary
  ), obj_description(c.oid, 'pg_class')
  FROM pg_class c WHERE c.oid = to_regclass($1::text)`

/** What is wrong with a table that is there. */
export const problemOfTable = ({ name }: Layout, row: Row): string | undefined => {
  const [kind, columns, key, comment] = row
  if ((kind !== "r" && kind !== "p") || columns !== tableShape || key !== tableKey) {
    const isTable = kind === "r" || kind === "p"
    const found = isTable ? `its columns are ${columns ?? "none"}, and its primary key is ${key ?? "none"}` : "no table"
    return `${name} is another table (${found}; expected ${tableShape}, and ${tableKey}): name another table`
  }
  const [, version] = new RegExp(`^${commentOf(0).replace(/0$/, "")}(\\d+)$`).exec(String(comment)) ?? []
  if (Number(version ?? tableVersion) > tableVersion) {
    return (
      `The table ${name} was made by a newer release (its version is ${version}, and this release knows ` +
      `${tableVersion}): update effect-versioned-store`
    )
  }
}

const create = Effect.fnUntraced(function* (run: RunInTransaction, layout: Layout) {
  if (layout.schema !== undefined) yield* run(`CREATE SCHEMA IF NOT EXISTS ${layout.schema}`, [])
  for (const statement of tableStatements(layout)) yield* run(statement, [])
})

/** Runs in a transaction that is alone among those that make this table. */
const inTurn = Effect.fnUntraced(function* (
  operation: "createTable" | "ensureTable",
  sql: PgClient.PgClient,
  options: TableOptions,
  body: (
    run: RunInTransaction,
    layout: Layout,
    found: Row | undefined
  ) => Effect.Effect<void, Effect.Error<ReturnType<RunInTransaction>> | Backend>
): Effect.fn.Return<void, Backend> {
  const layout = layoutOf(options)
  const problem = problemOfNames(options)
  if (problem !== undefined) return yield* problem
  const send = makeSend(sql, layout, "30 seconds")
  const transaction = send.transaction(
    Effect.fnUntraced(function* (run: RunInTransaction) {
      yield* run("SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))", [
        `effect-versioned-store ${layout.name}`
      ])
      const [found] = yield* run(describeTable, [layout.table])
      yield* body(run, layout, found)
    }),
    () => true
  )
  yield* Effect.retry(transaction, { schedule: defaultRetrySchedule, while: isWorthRepeating }).pipe(
    Effect.mapError((error) => failure(operation, error.outcome, error))
  )
})

export const createTable = (sql: PgClient.PgClient, options: TableOptions): Effect.Effect<void, Backend> =>
  inTurn("createTable", sql, options, (run, layout, found) =>
    found === undefined
      ? create(run, layout)
      : Effect.fail(misconfigured(`There is a table ${layout.name} already: use Postgres.ensureTable`, "createTable"))
  )

export const ensureTable = (sql: PgClient.PgClient, options: TableOptions): Effect.Effect<void, Backend> =>
  inTurn("ensureTable", sql, options, (run, layout, found) => {
    if (found === undefined) return create(run, layout)
    const problem = problemOfTable(layout, found)
    return problem === undefined ? Effect.void : Effect.fail(misconfigured(problem, "ensureTable"))
  })
