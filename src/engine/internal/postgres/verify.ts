/** Verifies that the table is there, and that the user may do on it what the operations need. */
import * as Effect from "effect/Effect"
import { type Backend, makeBackend } from "../../../StorageError.ts"
import { misconfigured, notApplied } from "../failure.ts"
import { missingTable } from "./failure.ts"
import type { Layout } from "./layout.ts"
import type { Send } from "./send.ts"
import { describeTable, problemOfTable } from "./table.ts"

const privileges = ["SELECT", "INSERT", "UPDATE", "DELETE"] as const

/** A table that is missing has no privileges, and asking for them would be an error. */
const verifyStatement = `
  SELECT current_setting('transaction_read_only')::boolean, t.*, ${privileges
    .map((privilege) => `has_table_privilege(to_regclass($1::text), '${privilege}')`)
    .join(", ")}
  FROM (SELECT) one LEFT JOIN LATERAL (${describeTable}) t ON true`

/** Fails if PostgreSQL would refuse the operations. It sends one statement, which changes nothing. */
export const verify = Effect.fnUntraced(function* (send: Send, layout: Layout): Effect.fn.Return<void, Backend> {
  const { name, table } = layout
  const [row = []] = yield* send.run(verifyStatement, [table])
  const [isReadOnly, ...rest] = row
  const [description, permitted] = [rest.slice(0, 4), rest.slice(4)]
  if (description[0] === null) return yield* misconfigured(missingTable(name))
  const problem = problemOfTable(layout, description)
  if (problem !== undefined) return yield* misconfigured(problem)
  const denied = privileges.filter((_, i) => permitted[i] !== true)
  if (denied.length > 0) {
    const needed =
      `The user has no permission for ${denied.join(", ")} on the table ${name}: GRANT it. If the user is confined to ` +
      "reads, switch verify off"
    return yield* makeBackend({ operation: "open", ...notApplied("Unauthorized", needed) })
  }
  if (isReadOnly === true) {
    return yield* misconfigured(
      "PostgreSQL is read-only here: connect to the primary, and see default_transaction_read_only. If nothing is " +
        "written, switch verify off"
    )
  }
})
