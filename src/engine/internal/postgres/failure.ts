/** Turns errors of PostgreSQL, of its client and of the network into failures. */
import type { SqlError } from "effect/sql/SqlError"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import type { Failure } from "../failure.ts"
import { safeCause } from "../safeCause.ts"

type Reason = Backend["reason"]["_tag"]

/** An error that PostgreSQL reports has a severity and a code. One of the network has at most a code of Node.js. */
interface Cause extends Error {
  readonly code?: string
  readonly severityUnlocalized?: string
  readonly severity?: string
  readonly errors?: ReadonlyArray<Cause>
}

export const missingTable = (name: string): string => `There is no table ${name}: create it with Postgres.ensureTable`

/** What to do, for errors by their SQLSTATE (PostgreSQL's "Error Codes"). `table` stands for the table's name. */
const failuresByCode: Record<string, readonly [reason: Reason, description: string]> = {
  "3D000": ["Misconfigured", "There is no such database: create it, or name another one"],
  "3F000": ["Misconfigured", "There is no such schema: create it with Postgres.ensureTable, or name another one"],
  "42P01": ["Misconfigured", missingTable("<table>")],
  "42703": ["Misconfigured", "The table <table> has other columns: name another table, or drop that one"],
  "42804": ["Misconfigured", "The table <table> has columns of other types: name another table, or drop that one"],
  "42883": ["Misconfigured", "The table <table> has columns of other types: name another table, or drop that one"],
  "42846": ["Misconfigured", "The table <table> has columns of other types: name another table, or drop that one"],
  "42809": ["Misconfigured", "<table> is not a table: name another one"],
  "42P10": ["Misconfigured", "The table <table> has no primary key (owner, id): name another table, or add the key"],
  "55000": ["Misconfigured", "<table> is not a table that can be written: name another one"],
  "25006": [
    "Misconfigured",
    "PostgreSQL is read-only here: connect to the primary, and see default_transaction_read_only"
  ],
  "42501": [
    "Unauthorized",
    "The user has no permission for the table <table>: GRANT SELECT, INSERT, UPDATE, DELETE on it, and USAGE on its " +
      "schema"
  ],
  "28P01": ["Unauthorized", "PostgreSQL does not accept the password: check it, and the user name"],
  "28000": ["Unauthorized", "PostgreSQL does not accept the user: check its name, and pg_hba.conf"],
  "53100": ["Unavailable", "The disk of PostgreSQL is full: free room on it"],
  "53200": ["Unavailable", "PostgreSQL does not have enough memory"],
  "53300": ["Unavailable", "PostgreSQL has as many connections as its max_connections: raise it, or use fewer"],
  "53400": ["Unavailable", "A limit of PostgreSQL's configuration is reached"],
  "57P03": ["Unavailable", "PostgreSQL starts or ends, and takes no connections yet"],
  "55P03": ["Unavailable", "The record is locked by another transaction for longer than lock_timeout: see pg_locks"],
  "57014": ["Timeout", "PostgreSQL has ended the statement, after its statement_timeout or by request"],
  "40001": ["Unavailable", "Another transaction has changed what this one has read"],
  "40P01": [
    "Unavailable",
    "Two transactions have waited for each other: see what else locks rows of the table <table>"
  ],
  // The client evicts the statement, and the next attempt prepares it again.
  "26000": [
    "Unavailable",
    "The pooler has lost a prepared statement: set prepare to false, or update PgBouncer to 1.21 or newer"
  ],
  "23514": ["Corrupt", "A row of the table <table> does not keep the table's own constraints: repair or delete it"],
  "22003": ["Corrupt", "A row of the table <table> has a number out of range: repair or delete it"],
  XX001: ["Corrupt", "PostgreSQL finds its data damaged: restore the table <table> from a backup"],
  XX002: ["Corrupt", "PostgreSQL finds an index damaged: REINDEX the table <table>"]
}

const isOfServer = ({ severity, severityUnlocalized }: Cause): boolean =>
  severity !== undefined || severityUnlocalized !== undefined

/** The message of an error. If a host has several addresses, only the errors of those have one. */
const messageOf = (error: Cause): string => {
  // Errors in data, and those that a trigger raises, may repeat the data.
  if (isOfServer(error) && /^(22|P0)/.test(error.code ?? "")) return `an error of the class ${error.code?.slice(0, 2)}`
  const first = error instanceof AggregateError ? (error.errors[0] as Cause | undefined) : undefined
  return first === undefined ? error.message || (error.code ?? error.name) : messageOf(first)
}

/** How the client names a setting that it refuses. It never connects then. */
const wrongSetting = /connection URL|\bURL\b|startup parameter|sslmode|connect_timeout in|No username|keepAlive/i

/**
 * Whether PostgreSQL may have applied the statement. It has not if it could not be sent, or if PostgreSQL answered with
 * an error, which rolls the statement back. If it ends the connection (FATAL), the statement may have been committed.
 */
const outcomeOf = (error: Cause, operation: string | undefined): Failure["outcome"] => {
  if (operation === "connect") return "not-applied"
  if (error.code === "40003" || error.code?.startsWith("08") === true) return "unknown"
  return isOfServer(error) && (error.severityUnlocalized ?? error.severity) === "ERROR" ? "not-applied" : "unknown"
}

const failureOfServer = (error: Cause, table: string): Pick<Failure, "reason" | "description"> => {
  const { code = "" } = error
  const says = `PostgreSQL says: ${messageOf(error)}, ${code}`
  const [reason, description] = failuresByCode[code] ?? []
  if (reason !== undefined && description !== undefined) {
    return { reason, description: `${description.replaceAll("<table>", table)} (${says})` }
  }
  if (/^(08|57P|58|53)/.test(code)) return { reason: "Unavailable", description: `The connection was lost (${says})` }
  if (code.startsWith("28")) return { reason: "Unauthorized", description: `PostgreSQL refuses the user (${says})` }
  if (code.startsWith("XX")) return { reason: "Unknown", description: `PostgreSQL has failed (${says})` }
  return { reason: "Unknown", description: `PostgreSQL refused the statement (${says})` }
}

/** The reason of an error, and whether PostgreSQL may have applied the statement. */
export const failureOf = (error: SqlError, table: string, operation?: string): Backend => {
  const { cause, message, operation: phase } = error.reason
  const source = (cause instanceof Error ? cause : new Error(String(message))) as Cause
  const fail = (reason: Reason, outcome: Failure["outcome"], description: string) =>
    makeBackend({ operation, reason, outcome, description, cause: safeCause(source, messageOf(source)) })
  const outcome = outcomeOf(source, phase)
  if (isOfServer(source)) {
    const { description, reason } = failureOfServer(source, table)
    return fail(reason, outcome, description)
  }
  if (error.reason._tag === "AuthenticationError") {
    return fail("Unauthorized", outcome, `PostgreSQL and the client can't agree on a login: ${messageOf(source)}`)
  }
  if (phase === "connect" && wrongSetting.test(message ?? "")) {
    // The client's words without the value, which may be a part of the URL.
    const problem = (message ?? "").replace(/^PgConnection: /, "").replace(/:? ".*/s, "")
    const example = "postgres://user:password@host:5432/database"
    return fail("Misconfigured", outcome, `The client's settings are wrong: ${problem}. A URL is such as ${example}`)
  }
  if (phase === "connect") {
    const description = `PostgreSQL can't be reached: ${messageOf(source)}. Check that PostgreSQL runs, and that host and port are right`
    return fail("Unavailable", outcome, description)
  }
  if (error.reason._tag === "ConnectionError") {
    return fail("Unavailable", outcome, `PostgreSQL gave no answer: ${messageOf(source)}`)
  }
  // The client can't encode or decode a value. Its message may repeat it.
  return fail("Unknown", outcome, "The client of PostgreSQL failed: see the cause's stack")
}
